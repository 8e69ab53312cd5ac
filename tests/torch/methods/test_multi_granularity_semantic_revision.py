"""Multi-granularity semantic revision: which token is mended, what clipping leaves of the KL, the span term by hand."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract_cases import VOCABULARY, tiny
from torch import Tensor
from transformers import LlamaForCausalLM
from window_settings import Windows

from paperlab.kit.writing import answer, continued
from paperlab.methods.distillation import multi_granularity_semantic_revision as method
from paperlab.methods.distillation.sampled_distillation import recipe


@pytest.fixture
def teacher() -> LlamaForCausalLM:
    made = copy.deepcopy(tiny("Llama"))
    with torch.no_grad():
        made.get_parameter("lm_head.weight").copy_(torch.randn(VOCABULARY, 64, generator=torch.manual_seed(5)))
    return made  # type: ignore[return-value]


def test_kept_tokens_stay_and_the_rest_is_sampled() -> None:
    ids = torch.randint(3, VOCABULARY, (3, 4), generator=torch.manual_seed(0))
    kept = torch.randint(3, VOCABULARY, (3, 6), generator=torch.manual_seed(1))
    upto = torch.tensor([0, 3, 6])
    made = continued(tiny("Llama"), ids, 6, torch.Generator().manual_seed(0), kept=kept, upto=upto)
    assert torch.equal(made[:, :4], ids)
    for row, count in enumerate(upto.tolist()):
        assert torch.equal(made[row, 4 : 4 + count], kept[row, :count])
    assert not torch.equal(made[0, 4:], kept[0])
    one = continued(tiny("Llama"), ids[:1].repeat(4000, 1), 2, torch.Generator().manual_seed(0),
                    kept=kept[:1, :2].repeat(4000, 1), upto=torch.ones(4000, dtype=torch.long))  # fmt: skip
    with torch.no_grad():
        p = tiny("Llama")(input_ids=torch.cat((ids[:1], kept[:1, :1]), 1)).logits[0, -1].softmax(-1)
    assert (torch.bincount(one[:, -1], minlength=VOCABULARY) / 4000 - p).abs().max() < 0.03


def test_the_token_that_is_mended_has_the_greatest_kl_where_the_two_disagree(teacher: LlamaForCausalLM) -> None:
    model = tiny("Llama")
    ids = torch.randint(3, VOCABULARY, (8, 13), generator=torch.manual_seed(0))
    made = method.revised(model, teacher, ids, torch.Generator().manual_seed(0))
    assert torch.equal(made[:, :6], ids[:, :6])
    with torch.no_grad():
        p = F.log_softmax(teacher(input_ids=ids).logits, -1)
        q = F.log_softmax(model(input_ids=ids).logits, -1)
    for row in range(8):
        best, place = -1.0, -1
        for token in range(6, 13):
            before = token - 1
            if p[row, before].argmax() != ids[row, token]:
                value = F.kl_div(q[row, before], p[row, before], log_target=True, reduction="sum").item()
                best, place = max((best, place), (value, token))
        assert torch.equal(made[row, :place], ids[row, :place])
        assert made[row, place] == p[row, place - 1].argmax()


def test_an_answer_that_is_the_teachers_choice_everywhere_stays(teacher: LlamaForCausalLM) -> None:
    ids = torch.randint(3, VOCABULARY, (2, 4), generator=torch.manual_seed(0))
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat((ids, teacher(input_ids=ids).logits[:, -1:].argmax(-1)), dim=1)
    assert answer(ids) == 4
    assert torch.equal(method.revised(tiny("Llama"), teacher, ids, torch.Generator().manual_seed(0)), ids)


def test_clipping_that_keeps_all_is_the_kl_and_never_exceeds_it() -> None:
    torch.manual_seed(0)
    p, q = ((torch.randn(3, 5, 11, dtype=torch.float64) * scale).log_softmax(-1) for scale in (3, 1))
    asked, flat = torch.randint(11, (3, 5)), torch.ones(3, 5, dtype=torch.float64)
    whole = F.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()

    def clipped(lower: float, upper: float, first: Tensor = p, second: Tensor = q) -> Tensor:
        return method.clipped_kl(first, second, method.kept(first, asked, lower * flat, upper * flat))

    torch.testing.assert_close(clipped(0.0, 1.0), whole, rtol=1e-12, atol=0)
    values = [clipped(*bounds).item() for bounds in ((0.0, 1.0), (0.0, 0.9), (0.1, 0.9), (0.3, 0.7), (0.5, 0.5))]
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < values[0]
    # nothing but the token asked for is kept: two classes are left
    two = [torch.stack((one, 1 - one), -1) for one in (x.exp().gather(-1, asked[..., None])[..., 0] for x in (p, q))]
    binary = F.kl_div(two[1].log(), two[0], reduction="none").sum(-1).mean()
    torch.testing.assert_close(clipped(2.0, 3.0), binary)
    torch.testing.assert_close(clipped(0.1, 0.9, p, p), 0 * whole)


def test_what_is_kept_by_hand() -> None:
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()  # quantiles .75, .35, .125, .025
    for lower, upper, asked, expected in ((0.0, 1.0, 0, [1, 1, 1, 1]), (0.05, 1.0, 0, [1, 1, 1, 0]),
                                          (0.2, 0.6, 1, [0, 1, 0, 0]), (0.2, 0.6, 3, [0, 1, 0, 1])):  # fmt: skip
        got = method.kept(p, torch.tensor(asked), torch.tensor(lower).double(), torch.tensor(upper).double())
        assert got.tolist() == pytest.approx(expected)


def test_the_bounds_start_wide_are_ordered_and_learn_at_a_rate_of_their_own(teacher: LlamaForCausalLM) -> None:
    torch.manual_seed(0)
    bounds = method.Bounds()
    p, q = (torch.randn(2, 5, 11) * 3).log_softmax(-1), torch.randn(2, 5, 11).log_softmax(-1)
    lower, upper = bounds(p, q)
    torch.testing.assert_close(lower, torch.full((2, 5), 0.0474), atol=1e-3, rtol=0)
    torch.testing.assert_close(upper, torch.full((2, 5), 0.9976), atol=1e-3, rtol=0)
    with torch.no_grad():
        for parameter in bounds.parameters():
            parameter.add_(torch.randn_like(parameter))
    lower, upper = bounds(p, q)
    assert ((lower > 0) & (lower < upper) & (upper < 1)).all()
    method.clipped_kl(p, q, method.kept(p, torch.zeros(2, 5, dtype=torch.long), lower, upper)).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in bounds.parameters())
    ends: dict[str, dict[str, float]] = {}
    for clip in ("adaptive", "fixed"):
        made: Any = method.recipe(copy.deepcopy(tiny("Llama")), Windows(teacher, steps=6), 0, 1e-3, clip=clip)
        ends[clip] = made.notes
    assert ends["fixed"]["lower"] == pytest.approx(0.0474, abs=1e-3)
    assert abs(ends["adaptive"]["lower"] - 0.0474) > 1e-3
    assert 0 < ends["adaptive"]["kept"] <= 1


def test_span_by_hand() -> None:
    p = torch.tensor([[[0.5, 0.5], [0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [1.0, 1e-30]]], dtype=torch.float64)
    q = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]], dtype=torch.float64)
    # spans of two: the pairs 0-1 and 2-3, of which the products are (.4, .1) and (.04, .54); the student's (.25, .25)
    expected = ((0.15**2 + 0.15**2) + (0.21**2 + 0.29**2)) / 2
    got = method.span_distance(p.log(), q.log(), 2)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
    assert method.span_distance(p.log(), p.log(), 2) == 0


def test_what_is_read_is_counted(teacher: LlamaForCausalLM) -> None:
    """Windows of 9 tokens, 2 at a step: 4 tokens of prompt, 5 of answer. Four steps' answers are written at once."""
    found: dict[bool, dict[str, float]] = {}
    for revise in (False, True):
        made: Any = method.recipe(copy.deepcopy(tiny("Llama")), Windows(teacher, steps=4), 0, 1e-3, revise=revise)
        found[revise] = made.notes
    writing, training = 8 * (4 + 4), 4 * (2 + 2) * 8  # the last token written is read by nobody
    assert found[False]["student_tokens"] == writing + training
    assert found[False]["teacher_tokens"] == 4 * 2 * 8
    assert found[True]["student_tokens"] == 2 * writing + 8 * 8 + training  # written anew, after a look at all of it
    assert found[True]["teacher_tokens"] == 2 * found[False]["teacher_tokens"]


def test_without_all_three_it_is_distillation_on_own_samples(teacher: LlamaForCausalLM) -> None:
    mine = method.recipe(copy.deepcopy(tiny("Llama")), Windows(teacher, steps=5), 0, 1e-3, revise=False, clip="none",
                         span=False).model  # fmt: skip
    plain = recipe(copy.deepcopy(tiny("Llama")), Windows(teacher, steps=5), 0, 1e-3).model
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(mine.get_parameter(name), parameter)
    for part in ({"revise": True}, {"clip": "fixed"}, {"span": True}):
        given: Any = {"revise": False, "clip": "none", "span": False} | part
        other = method.recipe(copy.deepcopy(tiny("Llama")), Windows(teacher, steps=5), 0, 1e-3, **given).model
        assert any(not torch.allclose(other.get_parameter(n), p, atol=1e-5) for n, p in plain.named_parameters()), part
