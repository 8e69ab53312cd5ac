"""What every loss, adapter and recipe of fine-tuning promises."""

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract_cases import Case, assert_same, cases, output, state, tiny
from torch import Tensor, nn

from paperlab.kit.walk import block_linears
from paperlab.lab.drivers._common import supplied
from paperlab.lab.drivers.finetune import build, use


class Setting:
    """Two steps on a small model, with itself for a teacher."""

    model = property(lambda self: tiny("Llama"))
    teacher = property(lambda self: copy.deepcopy(tiny("Llama")))  # transformers hooks what gives hidden states
    steps, rates = 2, (1e-3,)

    def batches(self, seed: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            ids = torch.randint(3, 90, (2, 8), generator=generator)
            yield {"input_ids": ids}, ids.roll(-1, 1)

    def validate(self, model: nn.Module) -> float:
        return 0.0


UNMOVED = ("lora(scale=0.0)",)  # the trivial arm of a check: training that changes nothing


def trains(case: Case) -> None:
    """The driver builds it; the start stays as it was; the same seed gives the same bits."""
    built = [build(case.functions(), case.params, setting=Setting(), seed=3) for _ in range(2)]
    assert_same(tiny("Llama").state_dict(), state("Llama"))
    assert_same(built[0].model.state_dict(), built[1].model.state_dict())
    assert built[0].trained > 0
    assert output(built[0].model).isfinite().all()
    assert torch.equal(output(built[0].model), output(tiny("Llama"))) is (str(case) in UNMOVED)


def loss(case: Case, call: Any) -> None:
    draw = torch.Generator().manual_seed(1)
    available: dict[str, Any] = {
        "student": torch.randn(4, 5, generator=draw, requires_grad=True),
        "teacher": torch.randn(4, 5, generator=draw, requires_grad=True),
        "labels": torch.tensor([0, 1, 2, 3]),
        "student_hidden": tuple(torch.randn(2, 2, 6, generator=draw, requires_grad=True) for _ in range(3)),
        "teacher_hidden": tuple(torch.randn(2, 2, 6, generator=draw) for _ in range(3)),
        "mask": torch.ones(2, 2),
        "share": 0.5,
    }
    asked = {name: available[name] for name in supplied(case.functions()["loss"])}
    tensors = [one for value in asked.values() for one in (value if isinstance(value, tuple) else (value,))]
    kept = [one.detach().clone() for one in tensors if isinstance(one, Tensor)]
    value = call(**asked)
    assert value.shape == ()
    assert value.isfinite()
    value.backward()
    gradients = [one.grad for one in tensors if isinstance(one, Tensor) and one.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    assert all(torch.equal(now, then) for now, then in zip(filter(torch.is_tensor, tensors), kept, strict=True))
    trains(case)


def adapter(case: Case, call: Any) -> None:
    torch.manual_seed(3)
    model = tiny("Llama")
    adapted = call(model)
    assert_same(model.state_dict(), state("Llama"))
    assert output(adapted).shape == output(model).shape
    added = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert added
    old = {name.removesuffix(".weight") for name in state("Llama")} - set(block_linears(model))
    assert not any(name.removesuffix(".weight") in old for name in added)  # embeddings and norms are frozen
    trains(case)


def recipe(case: Case, call: Any) -> None:
    trains(case)


CONTRACTS = {"loss": loss, "adapter": adapter, "recipe": recipe}


class Added(nn.Module):
    """A layer and a correction of rank 2 that begins at zero."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(2, linear.in_features) * 0.1)
        self.up = nn.Parameter(torch.zeros(linear.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x @ self.down.T @ self.up.T


def one_step(model: nn.Module, setting: Setting, seed: int) -> nn.Module:
    inputs, labels = next(setting.batches(seed))
    F.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.1 * parameter.grad)
    return model


PLANTED: dict[str, Callable[..., Any]] = {
    "loss": lambda student, teacher: F.mse_loss(student, teacher.detach() + 1),
    "adapter": lambda linear: Added(linear),
    "recipe": one_step,
}
BROKEN: dict[str, Callable[..., Any]] = {
    "loss": lambda student, teacher: (student - teacher).square(),
    "adapter": lambda linear: copy.deepcopy(linear),
    "recipe": lambda model, setting, seed: model,
}


@pytest.mark.parametrize("case", cases("finetune", PLANTED), ids=str)
def test_a_method_keeps_what_its_driver_promises(case: Case) -> None:
    plugged = use(SimpleNamespace(verbs=case.verbs), case.functions(), case.params)  # type: ignore[arg-type]
    for verb in case.verbs:
        CONTRACTS[verb](case, plugged if len(case.verbs) == 1 else plugged[verb])  # type: ignore[index]


@pytest.mark.parametrize("verb", PLANTED)
def test_a_method_that_breaks_a_promise_is_seen(verb: str) -> None:
    with pytest.raises(AssertionError):
        test_a_method_keeps_what_its_driver_promises(Case("planted", (verb,), planted={verb: BROKEN[verb]}))
