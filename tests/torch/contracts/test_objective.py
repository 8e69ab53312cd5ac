"""What every objective promises, on each small setting whose network it is made for."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_cases import Case, assert_same, cases, refused
from objective_settings import SETTINGS, names
from torch import Tensor, nn

from paperlab.lab.drivers.objective import build, use


def objective(case: Case, call: Any) -> None:
    """It is made for one of the networks at least; what it refuses it refuses in words."""
    fits = 0
    for make in SETTINGS.values():
        setting = make()
        try:
            call(copy.deepcopy(setting.model), setting)
        except ValueError as error:
            if not refused(error):
                raise
        else:
            keeps(case, call, setting)
            fits += 1
    assert fits, "made for none of the small settings"


def keeps(case: Case, call: Any, setting: Any) -> None:
    given = names(setting)
    start = {name: tensor.clone() for name, tensor in setting.model.state_dict().items()}
    taught = copy.deepcopy(setting.teacher.state_dict()) if setting.teacher else {}
    torch.manual_seed(3)
    module = call(copy.deepcopy(setting.model), setting)
    assert isinstance(module, nn.Module)
    module.train()
    kept = {name: tensor.clone() for name, tensor in given["inputs"].items()}, given["labels"].clone()
    value = module(given["inputs"], given["labels"], given["share"])
    assert value.shape == ()
    assert value.isfinite()
    value.backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert all(torch.equal(given["inputs"][name], tensor) for name, tensor in kept[0].items())
    assert torch.equal(given["labels"], kept[1])
    before = torch.get_rng_state()
    built = [build(case.functions(), case.params, setting=setting, seed=3) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(built[0].model.state_dict(), built[1].model.state_dict())
    assert built[0].trained > 0
    assert not built[0].model.training
    assert_same(setting.model.state_dict(), start)
    if setting.teacher:
        assert_same(setting.teacher.state_dict(), taught)
        assert not setting.teacher.training
    with torch.no_grad():
        left, fresh = (model(**given["inputs"]) for model in (built[0].model, setting.model))
    assert left.shape == fresh.shape
    assert left.isfinite().all()
    assert not torch.equal(left, fresh)


CONTRACTS = {"objective": objective}


class Planted(nn.Module):
    """Small logits of a network and of a second classifier: whatever the labels are."""

    def __init__(self, model: nn.Module, setting: Any) -> None:
        super().__init__()
        self.model, self.second = model, nn.Linear(1, 2)

    def forward(self, inputs: dict[str, Tensor], labels: Tensor, share: float) -> Tensor:
        second = self.second(torch.ones(len(labels), 1))
        return self.model(**inputs).square().mean() + second.square().mean()


class Broken(Planted):
    """One that gives a loss for each example."""

    def forward(self, inputs: dict[str, Tensor], labels: Tensor, share: float) -> Tensor:
        return self.model(**inputs).flatten(1).square().mean(1)


PLANTED: dict[str, Callable[..., Any]] = {"objective": lambda model, setting: Planted(model, setting)}


@pytest.mark.parametrize("case", cases("objective", PLANTED), ids=str)
def test_an_objective_keeps_what_its_driver_promises(case: Case) -> None:
    plugged = use(SimpleNamespace(verbs=case.verbs), case.functions(), case.params)  # type: ignore[arg-type]
    objective(case, plugged)


def test_an_objective_that_breaks_a_promise_is_seen() -> None:
    broken = Case("planted", ("objective",), planted={"objective": lambda model, setting: Broken(model, setting)})
    with pytest.raises(AssertionError):
        test_an_objective_keeps_what_its_driver_promises(broken)
