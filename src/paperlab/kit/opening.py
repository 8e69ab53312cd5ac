"""Weights that are kept in other modules than linear layers, as linear layers for a while.

Two kinds: transposed matrices (GPT-2's Conv1D), and the experts of a mixture in one tensor of each kind (Mixtral).
`opened` turns both into linear layers, which every method knows; `closed` turns them back, so that a checkpoint keeps
its form.
"""

from typing import Any

import torch
from torch import Tensor, nn

EXPERTS = ("gate_up_proj", "down_proj")


class Expert(nn.Module):
    """One of a mixture's gated feed-forward networks; called through `Experts`."""

    def __init__(self, gate_up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = _linear(gate_up), _linear(down)


class Experts(nn.ModuleList):
    """Experts of a mixture as linear layers, in the place of a module that keeps them in one tensor of each kind."""

    def __init__(self, own: Any) -> None:
        super().__init__(Expert(up, down) for up, down in zip(own.gate_up_proj, own.down_proj, strict=True))
        self.closed: list[Any] = [own]  # in a list: no submodule
        for name in EXPERTS:
            setattr(own, name, nn.Parameter(getattr(own, name).detach().new_empty(0), requires_grad=False))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """(tokens, width); index and weight of each token's experts (tokens, k) -> (tokens, width)."""
        out, act = torch.zeros_like(hidden_states), self.closed[0].act_fn
        for number, expert in enumerate(self):
            token, place = torch.where(top_k_index == number)
            if len(token):
                one: Any = expert
                gate, up = one.gate_up_proj(hidden_states[token]).chunk(2, dim=-1)
                made = one.down_proj(act(gate) * up)
                out.index_add_(0, token, (made * top_k_weights[token, place, None]).to(out.dtype))
        return out


def _linear(weight: Tensor) -> nn.Linear:
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    return made


def can_open(module: nn.Module) -> bool:
    """Whether `opened` turns this module into linear layers."""
    return _transposed(module) or _fused_experts(module)


def _transposed(module: Any) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and module.weight.dim() == 2


def _fused_experts(module: Any) -> bool:
    """Experts in two tensors, (experts, 2 x inner, width) and (experts, width, inner), gates above."""
    if {name for name, _ in module.named_parameters(recurse=False)} != set(EXPERTS) or not hasattr(module, "act_fn"):
        return False
    gate = getattr(type(module), "_apply_gate", None)  # a class with its own has another formula
    if gate is None or not gate.__module__.endswith("integrations.moe"):
        return False
    usual = {"has_gate": 1, "has_bias": 0, "is_transposed": 0, "is_concatenated": 1, "has_post_expert_norm": 0}
    up, down = (getattr(module, name) for name in EXPERTS)
    return up.shape[1] == 2 * down.shape[2] and all(getattr(module, name, x) == x for name, x in usual.items())


@torch.no_grad()
def opened(model: nn.Module) -> nn.Module:
    """The model, in place, with transposed matrices and fused experts as linear layers."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if _transposed(module):
                own: Any = module
                module.weight = nn.Parameter(own.weight.T.contiguous(), requires_grad=own.weight.requires_grad)
                own.in_features, own.out_features, own.closed = own.nx, own.nf, type(own)
                module.__class__ = nn.Linear  # hooks and names stay
            elif _fused_experts(module):
                setattr(parent, name, Experts(module))
    return model


@torch.no_grad()
def closed(model: nn.Module) -> nn.Module:
    """The model, in place, as it was before `opened`, with its present weights.

    Experts stay open where a method left something in them that runs with the model, or narrowed some of them.
    """
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.Linear) and "closed" in module.__dict__:
                own: Any = module
                module.weight = nn.Parameter(own.weight.T.contiguous(), requires_grad=own.weight.requires_grad)
                own.nx, own.nf = own.in_features, own.out_features
                module.__class__ = own.__dict__.pop("closed")
            elif isinstance(module, Experts) and _foldable(module):
                back = module.closed[0]
                for part in EXPERTS:
                    weights: list[Any] = [expert.get_submodule(part).weight for expert in module]
                    setattr(back, part, nn.Parameter(torch.stack(weights), requires_grad=weights[0].requires_grad))
                setattr(parent, name, back)
    return model


def _foldable(experts: Experts) -> bool:
    for module in experts.modules():
        if module._forward_hooks or module._forward_pre_hooks or getattr(module, "bias", None) is not None:
            return False
    shapes = {part: {expert.get_parameter(f"{part}.weight").shape for expert in experts} for part in EXPERTS}
    return all(len(found) == 1 for found in shapes.values())
