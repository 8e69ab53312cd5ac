"""D-Pruner: scores against the formula by autograd in double precision, what general text changes, what is stored."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract_cases import VOCABULARY, assert_same, tiny
from torch import Tensor

from paperlab.kit.matrix import Sparse
from paperlab.kit.walk import block_linears
from paperlab.methods.pruning.d_pruner import dual_importance, general_importance, recipe, score


def drawn(seed: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        ids = torch.randint(3, VOCABULARY, (2, 9), generator=draw)
        yield {"input_ids": ids[:, :-1]}, ids[:, 1:]


def setting(**more: Any) -> Any:
    model = tiny("Llama")
    return SimpleNamespace(model=model, steps=4, batches=drawn, **more)


def test_by_hand() -> None:
    weight, gradient, general = torch.tensor([2.0, -1.0]), torch.tensor([10.0, 3.0]), torch.tensor([0.0, 500.0])
    plain = score(weight, gradient, None, lam=0.1, rate=2.0)
    assert plain.tolist() == pytest.approx([20 + 400 / 2000 + 8, abs(-3 + 9 / 2000 - 1)])
    held = score(weight, gradient, general, lam=0.1, rate=2.0)
    g = 3 + 2 * 0.1 * 4 * 500 * 9 / 1000
    assert held.tolist() == pytest.approx([plain[0].item(), abs(-g + g * g / 2000 - 1)])


def test_one_step_is_the_formula_in_double_precision_and_a_clipped_step_of_sgd() -> None:
    model = copy.deepcopy(tiny("Llama")).double()
    before = copy.deepcopy(model)
    inputs, labels = next(drawn(0))
    general = general_importance(model, [inputs])
    found = dual_importance(model, [(inputs, labels)], general, lam=0.1, sgd_rate=0.5, loss_scale=8.0)
    loss = F.cross_entropy(before(**inputs).logits.flatten(0, 1), labels.flatten())
    names, parameters = zip(*before.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    rate = 0.5 * 0.5 / 0.9  # the middle of two steps, past the warm-up
    for name, layer in block_linears(before).items():
        g = 8.0 * gradients[f"{name}.weight"]
        g = g + 0.2 * rate**2 * general[name] * g**2 / 1000
        w = layer.weight.detach()
        torch.testing.assert_close(found[name], (g * w + (g * w) ** 2 / 2000 + w**3).abs())
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    for name, parameter in model.named_parameters():
        expected = before.get_parameter(name) - rate * gradients[name] / max(1.0, norm.item() + 1e-6)
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-9)


def test_general_importance_is_the_error_of_a_removal() -> None:
    model = copy.deepcopy(tiny("Llama")).double()
    inputs, _ = next(drawn(1))
    found = general_importance(model, [inputs])
    assert found.keys() == block_linears(model).keys()
    name, layer = next(iter(block_linears(model).items()))
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda _, args, out: seen.append(args[0].detach().flatten(0, 1)))
    with torch.no_grad():
        model(**inputs)
    x = seen[0]
    hessian = 2 / 2 * x.T @ x  # two sequences
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    expected = (layer.weight.detach() / upper.diagonal()) ** 2
    torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-6)


def test_what_stays_is_as_it_was_and_each_block_of_columns_loses_its_share() -> None:
    given = setting(calibration_from=lambda name: [next(drawn(9))[0]])
    model = copy.deepcopy(given.model)
    made = recipe(model, given, 0, 1e-3, sparsity=0.5, block=16)
    assert_same(given.model.state_dict(), tiny("Llama").state_dict())
    for name, layer in block_linears(given.model).items():
        stored = made.layers[name]
        assert isinstance(stored, Sparse)
        for part in stored.mask.split(16, 1):
            assert part.sum() == part.numel() - part.numel() // 2
        assert torch.equal(made.model.get_submodule(name).weight, layer.weight * stored.mask)
    others = {name for name, _ in model.named_parameters()} - {f"{name}.weight" for name in block_linears(model)}
    assert all(torch.equal(model.get_parameter(name), given.model.get_parameter(name)) for name in others)
    assert made.totals()["density"] == pytest.approx(0.5, abs=0.01)


def test_general_text_decides_where_it_weighs_enough() -> None:
    given = setting(calibration_from=lambda name: [next(drawn(9))[0]])
    masks = [
        recipe(copy.deepcopy(given.model), given, 0, 1e-3, lam=lam).layers["model.layers.0.mlp.up_proj"].mask
        for lam in (0.0, 0.0, 1e12)
    ]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("wrong", [{"block": 0}, {"lam": -1.0}, {"sparsity": 1.0}])
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        recipe(tiny("Llama"), setting(), 0, 1e-3, **wrong)
