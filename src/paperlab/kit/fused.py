"""A Llama block's weights as differentiable functions of rotations and channel scales that leave its function as it is.

    h' = h Q                     residual stream; readers W diag(gamma) Q, writers Q^T W
    x  = RMSNorm(h') / s         s after each norm; readers W diag(s)
    v' = (v / s_v) R             values, per head; o_proj undoes both
    u' = (u / s_u) H             up_proj's outputs; down_proj undoes; H a Hadamard matrix, applied when the model runs

Equivalent transformation pairs, to be learned: Hu et al., OstQuant, arXiv 2501.13987; rotations alone: Liu et al.,
SpinQuant, arXiv 2405.16406.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from paperlab.kit.activations import per_token_through
from paperlab.kit.objective import kl_top
from paperlab.kit.orthogonal import KroneckerHadamard, random_rotation
from paperlab.kit.rotate import ends
from paperlab.kit.stiefel import RiemannAdam
from paperlab.kit.walk import Batch, linears


class Pairs:
    """What is chosen for one block: R (value heads, d, d), and the logarithms of the four scales.

    Starts at random rotations and scales of 1. Raises ValueError for a block whose linear layers have biases.
    """

    def __init__(self, block: Any, generator: torch.Generator) -> None:
        if any(layer.bias is not None for layer in linears(block).values()):
            raise ValueError("rotations and scales are fused into blocks without biases; this model's layers have some")
        attention = block.self_attn
        size = attention.head_dim
        width, heads = attention.q_proj.in_features, attention.v_proj.out_features // size
        self.heads = torch.stack([random_rotation(size, generator) for _ in range(heads)])
        self.norm_attn, self.norm_ffn = torch.zeros(width), torch.zeros(width)
        self.value, self.up = torch.zeros(heads * size), torch.zeros(block.mlp.up_proj.out_features)
        self.online = KroneckerHadamard(block.mlp.up_proj.out_features)

    def scales(self) -> list[Tensor]:
        """The four logarithms of scales."""
        return [self.norm_attn, self.norm_ffn, self.value, self.up]

    def norms(self) -> dict[str, Tensor]:
        """The weights of the block's norms, by parameter name."""
        return {
            "input_layernorm.weight": (-self.norm_attn).exp(),
            "post_attention_layernorm.weight": (-self.norm_ffn).exp(),
        }


Fused = dict[str, Callable[[], Tensor]]


def fuse(block: Any, rotation: Tensor, pairs: Pairs) -> Fused:
    """How to compute each of the block's fused weights, differentiably, from the original ones, by layer name.

    rotation: Q (width, width), the residual stream's; the block's own weights and norms are read, not changed.
    """
    attention, mlp = block.self_attn, block.mlp
    first, second = block.input_layernorm.weight.detach(), block.post_attention_layernorm.weight.detach()
    repeat = attention.o_proj.in_features // attention.v_proj.out_features
    count, size = pairs.heads.shape[:2]

    def read(layer: nn.Linear, gamma: Tensor, log_scale: Tensor) -> Tensor:
        return (layer.weight.detach() * gamma) @ rotation * log_scale.exp()

    def value() -> Tensor:
        weight = read(attention.v_proj, first, pairs.norm_attn) / pairs.value.exp()[:, None]
        return (pairs.heads.mT @ weight.view(count, size, -1)).flatten(0, 1)

    def output() -> Tensor:
        heads = pairs.heads.repeat_interleave(repeat, 0)
        scale = pairs.value.exp().view(count, size).repeat_interleave(repeat, 0)
        weight = attention.o_proj.weight.detach().view(-1, count * repeat, size) * scale
        return rotation.mT @ torch.einsum("ohi,hij->ohj", weight, heads).flatten(1)

    return {
        "self_attn.q_proj": lambda: read(attention.q_proj, first, pairs.norm_attn),
        "self_attn.k_proj": lambda: read(attention.k_proj, first, pairs.norm_attn),
        "self_attn.v_proj": value,
        "self_attn.o_proj": output,
        "mlp.gate_proj": lambda: read(mlp.gate_proj, second, pairs.norm_ffn),
        "mlp.up_proj": lambda: read(mlp.up_proj, second, pairs.norm_ffn) / pairs.up.exp()[:, None],
        "mlp.down_proj": lambda: pairs.online(rotation.mT @ mlp.down_proj.weight.detach() * pairs.up.exp()),
    }


def backward(
    model: nn.Module, made: Fused, given: dict[str, Tensor], batch: Batch, loss: Callable[[Tensor], Tensor]
) -> float:
    """The loss of the model's logits with other weights; adds gradients to all that these weights are made of.

    made: weights by full parameter name, as functions; their graphs are built one at a time, after the model's
    own backward pass, so that only one is held. given: further parameters by name, tensors.
    """
    with torch.no_grad():
        leaves = {name: make().requires_grad_() for name, make in made.items()}
    value = loss(functional_call(model, {**leaves, **given}, (), batch).logits.float())
    value.backward()
    for name, make in made.items():
        make().backward(leaves.pop(name).grad)
    return value.item()


def learn(
    model: nn.Module, teacher: nn.Module, rotation: Tensor, pairs: dict[str, Pairs], named: dict[str, Any],
    supply: Iterator[Batch], weight_bits: int, steps: int, top: int, rates: tuple[float, float],
) -> list[float]:  # fmt: skip
    """Learn `rotation` (width, width) and the pairs of each block, by its name in `named`, in place.

    supply: batches, one a step. weight_bits: weights are rounded in the loop below 16. top: tokens in the loss KL-Top.
    rates: peak rates of rotations and of scales, which fall to zero linearly. Returns the loss of each step.
    """
    riemann = [RiemannAdam(matrix.requires_grad_()) for matrix in (rotation, *(pair.heads for pair in pairs.values()))]
    scales = [scale.requires_grad_() for pair in pairs.values() for scale in pair.scales()]
    adam = torch.optim.Adam(scales, lr=rates[1])
    (embedding,), last = ends(model)
    handles = [
        embedding.register_forward_hook(lambda _, __, out: out @ rotation),
        last.register_forward_pre_hook(lambda _, args: (args[0] @ rotation.mT, *args[1:])),
    ]

    def rounded(make: Callable[[], Tensor]) -> Tensor:
        return per_token_through(make(), bits=weight_bits) if weight_bits < 16 else make()

    losses = []
    for step in range(steps):
        batch = next(supply)
        with torch.no_grad():
            wanted = teacher(**batch).logits.float()
        made: Fused = {}
        norms: dict[str, Tensor] = {}
        for stem, block in named.items():
            fused = fuse(block, rotation, pairs[stem])
            made |= {f"{stem}.{name}.weight": partial(rounded, make) for name, make in fused.items()}
            norms |= {f"{stem}.{name}": weight for name, weight in pairs[stem].norms().items()}
        losses.append(backward(model, made, norms, batch, partial(kl_top, teacher=wanted, k=top)))
        share = 1 - step / steps
        adam.param_groups[0]["lr"] = rates[1] * share
        adam.step()
        adam.zero_grad()
        for rider in riemann:
            assert rider.matrix.grad is not None
            rider.step(rider.matrix.grad, rates[0] * share)
            rider.matrix.grad = None
    for handle in handles:
        handle.remove()
    for tensor in (*scales, *(rider.matrix for rider in riemann)):
        tensor.requires_grad_(False)
    return losses
