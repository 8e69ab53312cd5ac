"""Generating text: a method changes the distribution that the next token is drawn from, or generates by itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.core.methods import Method
from paperlab.lab.drivers._common import Progress, silent, supplied, takes

SAYS = "generates text with a language model"
BUILDS = "Decoder"
STARTS_FROM = ("Compressed", "Tuned", "Merged")
DRAWS = True  # tokens are drawn from the seed, whatever a method asks for

VERBS = {
    "step": {
        "says": "the next token's logits (batch, vocabulary) and the tokens so far (batch, time) -> logits to draw "
        "from; -inf for what may not be drawn",
        "supplies": ("logits", "ids"),
        "data": (),
        "returns": ("Tensor",),
        "own_model": True,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})  # a transformers.LogitsProcessor
ids = causal_model.generate(prompt_ids, do_sample=True, top_k=0, max_new_tokens=8, logits_processor=[{variable}])""",
    },
    "generate": {
        "says": "the model, prompts (batch, time) and a number of new tokens -> (batch, time + length) token ids",
        "supplies": ("model", "ids", "length", "seed"),
        "data": (),
        "returns": ("Tensor",),
        "own_model": True,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
ids = {variable}(causal_model, prompt_ids, 8)  # 8 new tokens""",
    },
}


@dataclass
class Decoder:
    """An arm: (prompts (batch, time), number of new tokens, seed) -> (batch, time + length) token ids."""

    generate: Callable[[Tensor, int, int], Tensor]
    model: nn.Module


def build(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Any,
    seed: int = 0,
    start: Any = None,
    progress: Progress = silent,
) -> Decoder:
    """An arm of a check: a way to continue prompts with the setting's `model`, or with what the arm before left."""
    model = start.model if start is not None else setting.model
    ((verb, function),) = functions.items()
    progress(verb, 1, 1)

    def generate(ids: Tensor, length: int, draw: int = seed) -> Tensor:
        return _generate(verb, function, params, model, ids, length, draw)

    return Decoder(generate, model)


def _generate(
    verb: str,
    function: Callable[..., Any],
    params: Mapping[str, Any],
    model: nn.Module,
    ids: Tensor,
    length: int,
    seed: int,
) -> Tensor:
    """Continue `ids` by `length` tokens; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if verb == "generate":
            available = {"model": model, "ids": ids, "length": length, "seed": seed}
            made = function(*(available[name] for name in supplied(function)), **params)
        else:
            made = model.generate(  # type: ignore[operator]
                ids, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=length, min_new_tokens=length,
                logits_processor=[_processor(function, params)], attention_mask=torch.ones_like(ids),
            )  # fmt: skip
    takes(made, Tensor, verb)
    return made


def _processor(function: Callable[..., Any], params: Mapping[str, Any]) -> Any:
    """The step as a transformers.LogitsProcessor."""
    from transformers import LogitsProcessor

    names = supplied(function)
    named = partial(function, **params)

    class Processor(LogitsProcessor):
        """Calls the method's step."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            available = {"logits": scores, "ids": input_ids}
            return named(*(available[name] for name in names))

    return Processor()


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """A transformers.LogitsProcessor for `step`; generate(model, ids, length, seed=0) for `generate`."""
    ((verb, function),) = functions.items()
    if verb == "step":
        return _processor(function, params)

    def generate(model: nn.Module, ids: Tensor, length: int, *, seed: int = 0) -> Tensor:
        return _generate(verb, function, params, model, ids, length, seed)

    return generate
