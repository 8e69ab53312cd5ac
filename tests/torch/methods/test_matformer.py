"""One network at four widths: its gradient is the sum of theirs, and after training each of them is of use."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from objective_settings import nested
from torch import Tensor, nn

from paperlab.core.methods import find_method
from paperlab.kit.nested import Nested
from paperlab.kit.tuning import Tuned
from paperlab.lab.drivers.objective import build
from paperlab.methods.elastic import separate_widths
from paperlab.methods.elastic.matformer import Objective
from paperlab.tasks import lm_nested

TRAINS: dict[str, Any] = {"matformer": Objective, "separate-widths": separate_widths.Objective}
TWO_LAYERS = {name: size[:2] for name, size in lm_nested.SIZES.items()}  # of the network of `nested`


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_gradient_is_the_sum_of_those_of_networks_taken_out() -> None:
    """Each width as a decoder of its own, with plain autograd; shared weights collect from all, units from the wide."""
    setting = nested()
    model: Nested = copy.deepcopy(setting.model).double()
    inputs, labels = next(setting.batches(0))
    loss = Objective(model, setting)(inputs, labels, 0.0)
    loss.backward()
    wanted = {name: torch.zeros_like(p) for name, p in model.decoder.named_parameters()}
    total = 0.0
    for share in (1.0, 0.5, 0.25, 0.125):
        small = model.extract((share,) * len(model.layers))
        alone = F.cross_entropy(small(inputs["ids"]).flatten(0, 1), labels.flatten())
        alone.backward()
        total += alone.item()
        for name, grad in gradients(small).items():
            wanted[name][tuple(slice(0, n) for n in grad.shape)] += grad
    assert loss.item() == pytest.approx(total)
    found = gradients(model.decoder)
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad)


def test_one_width_a_step_is_drawn_evenly() -> None:
    setting = nested()
    module = Objective(setting.model, setting, per_step="one")
    inputs, labels = next(setting.batches(0))
    with torch.no_grad():
        every = [
            F.cross_entropy(setting.model.at(size)(inputs["ids"]).flatten(0, 1), labels.flatten()).item()
            for size in setting.model.sizes
        ]
        torch.manual_seed(0)
        drawn = [module(inputs, labels, 0.0).item() for _ in range(200)]
    counts = [sum(value == pytest.approx(one, abs=1e-6) for value in drawn) for one in every]
    assert sum(counts) == 200
    assert all(25 < count < 75 for count in counts)


def test_trained_for_all_widths_it_is_better_at_the_narrow_one_than_a_network_that_is_cut() -> None:
    setting = nested()
    setting.steps = 60
    tuned = {"rate": 1e-2, "validation": {}}
    arms = {name: build({"objective": Objective}, {"sizes": sizes}, setting=setting, seed=0, tuned=tuned)
            for name, sizes in {"matformer": "1,0.5,0.25,0.125", "whole": "1"}.items()}  # fmt: skip
    bits = {(name, size): lm_nested.bits(arm.model.at(size), setting.test)  # type: ignore[operator]
            for name, arm in arms.items() for size in ((1.0, 1.0), (0.125, 0.125), (0.25, 1.0))}  # fmt: skip
    for size in ((0.125, 0.125), (0.25, 1.0)):  # the second was never trained
        assert bits["matformer", size] < bits["whole", size] - 0.05
    assert bits["matformer", (1.0, 1.0)] < 8


def test_another_network_is_refused_and_checks_hold_steps_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_nested, "SIZES", TWO_LAYERS)
    with pytest.raises(ValueError, match="can be cut"):
        Objective(nn.Linear(2, 2), None)
    setting = nested()
    for check in find_method("matformer").card.checks:
        assert {"steps": 0.0, "tokens": 0.0}.items() <= check.equal.items()
        assert ("passes" in check.equal) == (check.method.params == {"per_step": "one"})
        totals = []
        for arm in (check.method, check.baseline):
            if ":" not in str(arm.params.get("sizes")):  # that of four layers
                made = TRAINS[arm.method](copy.deepcopy(setting.model), setting, **arm.params).result()
                totals.append(lm_nested.totals(Tuned(made, 1e-2, {}, 8, 1), setting))
        assert len({(found["steps"], found["tokens"]) for found in totals}) == 1
        assert "passes" not in check.equal or len({found["passes"] for found in totals}) == 1


def test_agreement_at_no_merit_is_no_claim_s_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """One narrow network as both accepts all, so the claim asks for whole networks of equal quality."""
    monkeypatch.setattr(lm_nested, "SIZES", TWO_LAYERS)
    setting = nested()
    narrow = separate_widths.Objective(setting.model, setting, sizes="0.125").result()
    assert lm_nested.acceptance(narrow, setting.test) == pytest.approx(1)
    (check,) = (check for check in find_method("matformer").card.checks if check.metric == "acceptance")
    assert check.equal["whole"] == 0.01
    assert check.beside[0].params == {"sizes": "0.125"}
