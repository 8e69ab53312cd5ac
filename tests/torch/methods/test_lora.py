"""LoRA: the outputs and gradients of peft with the same thin matrices, where it starts, and what is trained."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from paperlab.kit.walk import block_linears
from paperlab.lab.drivers.finetune import adapt
from paperlab.methods.low_rank.lora import Adapted, adapter


def layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=bias)


def adapted(linear: nn.Linear, **given: Any) -> Adapted:
    made = adapter(linear, **given)
    assert isinstance(made, Adapted)
    return made


def test_by_hand() -> None:
    plain = layer(bias=False)
    made = adapted(plain, rank=1, scale=3.0)
    with torch.no_grad():
        plain.weight.zero_()
        made.a.copy_(torch.tensor([[1.0, 2, 0, 0, 0, 0]]))
        made.b.copy_(torch.tensor([[1.0], [0], [0], [-1]]))
    out = made(torch.tensor([[1.0, 1, 9, 9, 9, 9]]))
    assert out.tolist() == [[9, 0, 0, -9]]  # 3 times (1 * 1 + 1 * 2)


def test_gradients_are_those_of_the_formula_in_double_precision() -> None:
    made = adapted(layer().double(), rank=3, scale=0.5)
    with torch.no_grad():
        made.b.normal_()
    weight, bias = made.linear.weight, made.linear.bias
    x = torch.randn(5, 6, dtype=torch.float64)

    def formula(a: Tensor, b: Tensor) -> Tensor:
        return x @ (weight + 0.5 * b @ a).T + bias

    a, b = (one.detach().clone().requires_grad_(True) for one in (made.a, made.b))
    torch.testing.assert_close(made(x), formula(a, b))
    made(x).square().sum().backward()
    formula(a, b).square().sum().backward()
    torch.testing.assert_close(made.a.grad, a.grad)
    torch.testing.assert_close(made.b.grad, b.grad)
    assert weight.grad is None


@pytest.mark.parametrize(("rank", "scale"), [(2, 2.0), (3, 0.5)])
def test_outputs_and_gradients_are_those_of_peft(rank: int, scale: float) -> None:
    peft = pytest.importorskip("peft", reason="pip install peft to compare with it")
    base = nn.Sequential(layer())
    config = peft.LoraConfig(r=rank, lora_alpha=scale * rank, target_modules=["0"], lora_dropout=0.0)
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    own = adapted(layer(), rank=rank, scale=scale)
    a, b = theirs.base_model.model[0].lora_A["default"].weight, theirs.base_model.model[0].lora_B["default"].weight
    assert not b.any()
    with torch.no_grad():
        b.normal_()
        own.a.copy_(a)
        own.b.copy_(b)
    x = torch.randn(5, 6)
    torch.testing.assert_close(own(x), theirs(x))
    weight = torch.randn(5, 4)
    (own(x) * weight).sum().backward()
    (theirs(x) * weight).sum().backward()
    torch.testing.assert_close(own.a.grad, a.grad)
    torch.testing.assert_close(own.b.grad, b.grad)


def test_it_starts_as_the_model_and_trains_the_thin_matrices_alone(six_blocks: LlamaForCausalLM) -> None:
    ids = torch.randint(3, 40, (2, 7))
    model = adapt(copy.deepcopy(six_blocks), adapter)
    assert torch.equal(model(ids).logits, six_blocks(ids).logits)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"{name}.{part}" for name in block_linears(six_blocks) for part in ("a", "b")}
    model(ids).logits.square().mean().backward()
    assert all(model.get_parameter(name).grad is not None for name in trained)


def test_merged_computes_the_same_and_dropout_only_in_training() -> None:
    made = adapted(layer(), rank=2, dropout=0.5)
    with torch.no_grad():
        made.b.normal_()
    x = torch.randn(5, 6)
    made.eval()
    torch.testing.assert_close(made.merged()(x), made(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(made(x), made(x))
    made.train()
    assert not torch.equal(made(x), made(x))


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rank=0"):
        adapter(layer(), rank=0)
