"""Kronecker factors of the loss's curvature for every linear layer of the blocks (K-FAC, arXiv 1503.05671).

    F ~ G (x) A,     A = E[x x^T] (in, in),     G = E[g g^T] (out, out),     g = d loss / d output at a token

The loss is the mean cross entropy of a window on the text itself (empirical Fisher); E is over tokens and windows.
Activations and gradients are taken as independent, as in github.com/Qualcomm-AI-research/llm-surgeon at 7267344 with
--use_iad. Layers that read the same tensor share A.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.objective import predicts_tokens, text_of
from paperlab.kit.walk import Batch, block_linears, blocks


@dataclass
class Kronecker:
    """inputs: A (in, in). gradients: G (out, out), or None where they were not asked for. Both float32."""

    inputs: Tensor
    gradients: Tensor | None


def kronecker_factors(model: nn.Module, batches: list[Batch], *, gradients: bool = True) -> dict[str, Kronecker]:
    """The factors of each linear layer by its full name. The model must be a causal language model; it is not changed.

    Raises ValueError for a model without logits, and for a layer that no token reaches.
    """
    if not predicts_tokens(model):
        raise ValueError(f"{type(model).__name__} predicts no tokens: give a causal language model")
    layers = block_linears(model)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    twin: dict[str, str] = {}
    met: dict[int, str] = {}
    alive: list[Tensor] = []
    count = sum(text_of(batch).numel() for batch in batches)

    def hook(name: str) -> Any:
        def watch(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            x = args[0].detach()
            first = met.setdefault(args[0].data_ptr(), name)
            alive.append(args[0])  # an address is not reused while its tensor lives
            twin[name] = first
            if first == name:
                x = x.reshape(-1, x.shape[-1]).float()
                inputs[name] = inputs.get(name, 0) + x.T @ x / count
            if gradients:
                out.register_hook(lambda slope: collect(name, slope))

        return watch

    def collect(name: str, slope: Tensor) -> None:
        g = slope.detach().reshape(-1, slope.shape[-1]).float()
        outputs[name] = outputs.get(name, 0) + g.T @ g / count

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if gradients:
            hidden.requires_grad_()  # the weights need no gradient of their own

    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    handles: list[Any] = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    handles.append(blocks(model)[1][0].register_forward_pre_hook(enter, with_kwargs=True))
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        for batch in batches:
            met.clear()
            alive.clear()
            with torch.set_grad_enabled(gradients):
                ids = text_of(batch)
                out = model(**batch, use_cache=False)
                if getattr(out, "logits", None) is None:
                    raise ValueError(f"{type(model).__name__} predicts no tokens: give a causal language model")
                if gradients:
                    nll = F.cross_entropy(out.logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
                    (nll * len(ids)).backward()  # a mean over each window's tokens
    finally:
        for handle in handles:
            handle.remove()
        for parameter, before in wanted.items():
            parameter.requires_grad_(before)
    if missing := [name for name in layers if name not in twin]:
        raise ValueError(f"no calibration token reached {', '.join(missing)}: nothing is known of their curvature")
    return {name: Kronecker(inputs[twin[name]], outputs.get(name)) for name in layers}
