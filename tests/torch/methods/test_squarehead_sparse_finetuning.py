"""SquareHead: by hand, against the authors' formula in double precision, and its limits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.methods.pruning.squarehead_sparse_finetuning import EPS, loss, squarehead


def sample(seed: int = 0) -> dict[str, object]:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    mask = torch.ones(2, 5)
    mask[1, 3:] = 0
    return {
        "student": normal(10, 7).requires_grad_(),
        "teacher": normal(10, 7),
        "labels": torch.randint(7, (10,), generator=draw),
        "student_hidden": tuple(normal(2, 5, 4).requires_grad_() for _ in range(4)),
        "teacher_hidden": tuple(normal(2, 5, 4) for _ in range(4)),
        "mask": mask,
    }


def test_two_layers_by_hand() -> None:
    teacher = (torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]]))
    student = (torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[0.0, 1.0]]]))
    kept = torch.ones(1, 1, dtype=torch.bool)
    assert squarehead(student, teacher, kept).item() == pytest.approx(1 / (2 + 2**-7) + 0.5 / (1 + 2**-7))
    assert EPS == 2**-7


def test_it_is_the_authors_sum_over_layers_in_double_precision() -> None:
    given = sample()
    value = loss(**given, logit_weight=0.5, temperature=2.0)  # type: ignore[arg-type]
    useful = given["mask"] == 1
    expected = F.cross_entropy(given["student"], given["labels"])  # type: ignore[arg-type]
    for layer in range(1, 4):
        own, other = given["student_hidden"][layer][useful], given["teacher_hidden"][layer][useful]  # type: ignore[index]
        expected = expected + (own - other).pow(2).mean() / (other.pow(2).mean() + EPS)
    p, q = ((given[name] / 2.0).log_softmax(-1) for name in ("teacher", "student"))  # type: ignore[operator]
    expected = expected + 0.5 * 4.0 * (p.exp() * (p - q)).sum() / 10
    torch.testing.assert_close(value, expected)
    states: tuple[Tensor, ...] = given["student_hidden"]  # type: ignore[assignment]
    mine = torch.autograd.grad(value, states[1:], retain_graph=True)
    theirs = torch.autograd.grad(expected, states[1:])
    for one, another in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-12, atol=1e-14)
        assert not one[1, 3:].any()  # padding


def test_without_its_weight_it_is_cross_entropy() -> None:
    given = sample()
    value = loss(**given, feature_weight=0.0)  # type: ignore[arg-type]
    assert torch.equal(value, F.cross_entropy(given["student"], given["labels"]))  # type: ignore[arg-type]


def test_a_student_that_is_its_teacher_has_no_distance_and_scale_does_not_matter() -> None:
    given = sample()
    kept = given["mask"].bool()  # type: ignore[attr-defined]
    teacher: tuple[Tensor, ...] = given["teacher_hidden"]  # type: ignore[assignment]
    student: tuple[Tensor, ...] = given["student_hidden"]  # type: ignore[assignment]
    assert squarehead(teacher, teacher, kept) == 0
    large = [tuple(1e6 * state for state in one) for one in (student, teacher)]
    huge = [tuple(1e9 * state for state in one) for one in (student, teacher)]
    torch.testing.assert_close(squarehead(*large, kept), squarehead(*huge, kept))


def test_another_depth_or_width_is_refused() -> None:
    given = sample()
    shorter = {**given, "student_hidden": given["student_hidden"][:-1]}  # type: ignore[index]
    with pytest.raises(ValueError, match="as many blocks"):
        loss(**shorter)  # type: ignore[arg-type]
