"""What every way to take turns promises, on two small language models."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_cases import VOCABULARY, Case, assert_same, batches, cases, hooks, state, tiny
from torch import Tensor

from paperlab.kit.switching import place
from paperlab.lab.drivers.switch import build, use


def switch(case: Case, call: Any) -> None:
    """A rule looks at what came before, row by row, gives the same for the same, and leaves what it looks at alone."""
    model, before = tiny("Llama"), torch.get_rng_state()
    hooked = hooks(model)
    arm = build(case.functions(), case.params, setting=SimpleNamespace(), seed=3)
    draw = torch.Generator().manual_seed(1)
    small, large = (torch.rand(3, 40, generator=draw) * 8 for _ in range(2))
    chosen = place(small, large, arm.rule)
    assert torch.equal(chosen, place(small, large, arm.rule))
    assert torch.equal(chosen[:, :20], place(small[:, :20], large[:, :20], arm.rule))
    assert torch.equal(chosen[:1], place(small[:1], large[:1], arm.rule))
    seen, who = small.clone(), chosen.clone()
    ahead = torch.rand(3, 41, generator=draw)
    arm.rule(seen, who, ahead.clone)
    assert torch.equal(seen, small)
    assert torch.equal(who, chosen)

    prompts = batches()[0]["input_ids"][:, :6]
    written = call(model, model, prompts, 12, seed=3)
    assert written.ids.shape == (2, 18)
    assert written.large.shape == (2, 12)
    assert torch.equal(written.ids[:, :6], prompts)
    assert ((written.ids >= 0) & (written.ids < VOCABULARY)).all()
    assert torch.equal(written.ids, call(model, model, prompts, 12, seed=3).ids)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(model.state_dict(), state("Llama"))
    assert hooks(model) == hooked


CONTRACTS = {"switch": switch}


def after_high(entropy: Tensor, large: Tensor) -> Tensor:
    return entropy[:, -1] > 3 if large.shape[1] else torch.zeros(len(large), dtype=torch.bool)


PLANTED: dict[str, Callable[..., Any]] = {"switch": after_high}
BROKEN: list[Callable[..., Any]] = [
    lambda large: torch.rand(len(large)) < 0.5,  # by the global state, which is not the seed's
    lambda entropy, large: entropy.sum(1) > entropy.sum() / len(large),  # by the other rows
    lambda ahead: ahead().sum(1) > ahead().sum() / len(ahead()),
    lambda entropy, large: entropy.zero_().sum(1) > 0,
    lambda large: torch.zeros(len(large)),
]


@pytest.mark.parametrize("case", cases("switch", PLANTED), ids=str)
def test_a_rule_keeps_what_its_driver_promises(case: Case) -> None:
    (verb,) = case.verbs
    CONTRACTS[verb](case, use(SimpleNamespace(verbs=case.verbs), case.functions(), case.params))  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_rule_that_breaks_a_promise_is_seen(broken: Callable[..., Any]) -> None:
    with pytest.raises((AssertionError, ValueError)):
        test_a_rule_keeps_what_its_driver_promises(Case("planted", ("switch",), planted={"switch": broken}))
