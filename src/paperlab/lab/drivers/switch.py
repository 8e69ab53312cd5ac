"""Two language models write one text in turns: a method says before each token which of them writes it.

Equal between arms: both models, the text or the prompts. Neither model is changed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.methods import Method
from paperlab.kit.switching import Ahead, Rule, Written, write
from paperlab.lab.drivers._common import Progress, in_order, silent

SAYS = "lets a small and a large language model write one text in turns"
BUILDS = "Switcher"
STARTS_FROM = ()

VERBS = {
    "switch": {
        "says": "before each token: the entropies, in bits, of the distributions that the tokens so far were predicted "
        "with, (batch, time), which of them the large model predicted, (batch, time), and `ahead`, a call that gives "
        "the small model's entropies of all of them and of the next one, (batch, time + 1) -> (batch,) bool: whether "
        "the large model predicts the next one",
        "supplies": ("entropy", "large", "ahead", "seed"),
        "data": (),
        "returns": ("Tensor",),
        "own_model": True,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
written = {variable}(causal_model, larger_model, prompt_ids, 8)  # 8 new tokens: written.ids, written.large""",
    },
}


@dataclass(frozen=True)
class Switcher:
    """An arm. rule: a `kit.switching.Rule`."""

    rule: Rule


def build(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Any,
    seed: int = 0,
    start: None = None,
    progress: Progress = silent,
) -> Switcher:
    """An arm of a check: the method's rule with its parameters set; values out of range are refused here."""
    rule = _rule(functions, params, seed)
    rule(torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.bool), lambda: torch.zeros(1, 1))
    progress("switch", 1, 1)
    return Switcher(rule)


def _rule(functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any], seed: int) -> Rule:
    decide = in_order(functions["switch"], params, VERBS["switch"])

    def rule(entropy: Tensor, large: Tensor, ahead: Ahead) -> Tensor:
        return decide(entropy, large, ahead, seed)

    return rule


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """write(small, large, ids, length, seed=0, temperature=1.0) -> kit.switching.Written, of two causal language
    models with one vocabulary; temperature 0 is greedy. Random states are left as they were."""

    def on(
        small: nn.Module, large: nn.Module, ids: Tensor, length: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Written:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return write(small, large, ids, length, _rule(functions, params, seed), temperature=temperature)

    return on
