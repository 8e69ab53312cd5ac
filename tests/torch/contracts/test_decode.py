"""What every way to generate text promises, on a small language model."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contract_cases import VOCABULARY, Case, assert_same, batches, cases, hooks, state, tiny
from torch import Tensor, nn

from paperlab.lab.drivers.decode import build, use


def continues(case: Case) -> None:
    """The prompt stays, so many tokens of the vocabulary follow, and the seed decides them."""
    prompts = batches()[0]["input_ids"][:, :6]
    decoder = build(case.functions(), case.params, setting=SimpleNamespace(model=tiny("Llama")), seed=3)
    ids = decoder.generate(prompts, 5, 3)
    assert ids.shape == (2, 11)
    assert torch.equal(ids[:, :6], prompts)
    assert ((ids >= 0) & (ids < VOCABULARY)).all()
    assert torch.equal(ids, decoder.generate(prompts, 5, 3))
    assert_same(tiny("Llama").state_dict(), state("Llama"))
    assert not hooks(tiny("Llama"))


def step(case: Case, processor: Any) -> None:
    logits = torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(1))
    ids = batches()[0]["input_ids"][:, :6]
    kept = logits.clone(), ids.clone()
    changed = processor(ids, logits)
    assert changed.shape == logits.shape
    assert not changed.isnan().any()
    assert (changed < torch.inf).all()
    assert changed.isfinite().any(1).all()  # something may be drawn
    assert torch.equal(logits, kept[0])
    assert torch.equal(ids, kept[1])
    continues(case)


def generate(case: Case, call: Any) -> None:
    continues(case)


CONTRACTS = {"step": step, "generate": generate}


def greedy(model: nn.Module, ids: Tensor, length: int) -> Tensor:
    for _ in range(length):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids


PLANTED: dict[str, Callable[..., Any]] = {"step": lambda logits: logits / 0.7, "generate": greedy}
BROKEN: dict[str, Callable[..., Any]] = {
    "step": lambda logits: logits.fill_(-torch.inf),
    "generate": lambda model, ids, length: ids.flip(1).repeat(1, 2)[:, : ids.shape[1] + length],
}


@pytest.mark.parametrize("case", cases("decode", PLANTED), ids=str)
def test_a_method_keeps_what_its_driver_promises(case: Case) -> None:
    (verb,) = case.verbs
    CONTRACTS[verb](case, use(SimpleNamespace(verbs=case.verbs), case.functions(), case.params))  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", PLANTED)
def test_a_method_that_breaks_a_promise_is_seen(verb: str) -> None:
    with pytest.raises(AssertionError):
        test_a_method_keeps_what_its_driver_promises(Case("planted", (verb,), planted={verb: BROKEN[verb]}))
