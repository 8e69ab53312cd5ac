"""KV-AdaQuant: round the key/value cache with more bits for keys than for values.

    ||K|| > ||V|| in most layers, and the error of a product grows with the norm of its factors, so at a fixed
    sum of key and value bits the keys deserve the larger part                                 (theorems 1 and 2)
    x ~ code * s + m,  s = (max - min) / (2^b - 1),  m = min    over groups of one token's channels in one head

Hariri et al., More for Keys, Less for Values: Adaptive KV Cache Quantization, arXiv 2502.15075 (later: Quantize
What Counts). Text is scored as a decoder with this cache would: a query meets rounded keys and values of all full
blocks of `residual` tokens before its own, and exact ones of its own block, which is not rounded yet.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.compressed import UNTOUCHED_BITS, Compressed, count_weights
from paperlab.kit.grid import levels, store
from paperlab.kit.objective import sample
from paperlab.kit.walk import Batch

CARD = Card(
    family="quantization",
    paper="kv-adaquant",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.05,
    method=Arm("kv-adaquant", key_bits=4, value_bits=2),
    checks=(
        Check(
            claim="keys-deserve-the-bits",
            says="At the same cache size, 4-bit keys with 2-bit values score 75.2 %, 2-bit keys with 4-bit values "
            "54.7 %.",
            baseline=Arm("kv-adaquant", key_bits=2, value_bits=4),
            beside=(Arm("kv-adaquant", key_bits=3, value_bits=3), Arm("original")),
            equal={"cache_bits": 0.001, "layer_bits": 0.001},
            gap="Paper: accuracy on reasoning tasks, models of 1B to 70B, long answers generated under the "
            "rounded cache. Here: perplexity of 128-token windows on 135M and 6M models; the last up to "
            "32 tokens are exact. A pass would not show how errors build up over a long generation.",
        ),
        Check(
            claim="better-than-equal-split",
            says="More for keys, less for values beats the even split of the same bits.",
            margin=0.0,
            baseline=Arm("kv-adaquant", key_bits=3, value_bits=3),
            beside=(Arm("kv-adaquant", key_bits=4, value_bits=4), Arm("original")),
            equal={"cache_bits": 0.001, "layer_bits": 0.001},
            gap="Paper: theorem and accuracy of models of 1B to 70B. Here: perplexity of short windows, small models.",
        ),
        Check(
            claim="two-bit-values-nearly-free",
            says="4-bit keys with 2-bit values keep up to 98.3 % of the accuracy of 4 bits for both.",
            expect="equal",
            margin=0.02,
            baseline=Arm("kv-adaquant", key_bits=4, value_bits=4),
            beside=(Arm("original"),),
            gap="Paper: the best of its accuracy figures. Here: perplexity within 2 %, which is another, finer scale; "
            "the sizes differ, as in the claim.",
        ),
        Check(
            claim="keys-deserve-the-bits-per-channel",
            says="The ordering of 4/2 over 2/4 bits, where keys get a range per channel, which suits their outliers.",
            method=Arm("kv-adaquant", key_bits=4, value_bits=2, key_axis="channel"),
            baseline=Arm("kv-adaquant", key_bits=2, value_bits=4, key_axis="channel"),
            beside=(Arm("kv-adaquant", key_bits=4, value_bits=2),),
            equal={"cache_bits": 0.001, "layer_bits": 0.001},
            gap="Not the paper's main setting: it asks whether the claim is one about keys or about the ranges that "
            "they were given. Short windows, small models.",
        ),
    ),
    departs=(
        "min-max ranges in groups of 32; the authors use HQQ and Quanto back ends with groups of 64",
        "the bits are given, as in the tables; the authors' later code also derives them per layer from the norms",
        "the cache is simulated in the attention of teacher-forced scoring; no memory is saved",
        "cache_bits counts the rounded part of the cache; the exact block of at most `residual` tokens is the same in "
        "all arms",
    ),
)

NAME = "paperlab_rounded_cache"


@dataclass
class _Plan:
    """How an attention module rounds its cache; norms: filled while measuring, one row per call."""

    key_bits: int
    value_bits: int
    group: int
    residual: int
    key_axis: str
    norms: list[Tensor] | None = None


def transform(
    model: Any,
    calibration: list[Batch],
    *,
    key_bits: int = 4,
    value_bits: int = 2,
    group: int = 32,
    residual: int = 32,
    key_axis: Literal["token", "channel"] = "token",
    tokens: int = 512,
) -> Compressed:
    """A causal language model whose attention reads a rounded cache; the weights stay as they are.

    key_bits, value_bits: 16 leaves that side exact. group: channels that share a range (a divisor of the head's
    width). residual: tokens in the exact block. key_axis: "channel" gives each channel of the keys one range per
    block of `residual` tokens instead. tokens: for the norms in the notes. Raises ValueError.
    """
    for bits in (key_bits, value_bits):
        levels(bits, symmetric=False)
    if key_axis not in ("token", "channel") or residual < 1:
        raise ValueError(f"key_axis={key_axis!r}, residual={residual}: 'token' or 'channel', and at least 1")
    attentions = [module for module in model.modules() if hasattr(module, "k_proj") and hasattr(module, "v_proj")]
    config: Any = getattr(model, "config", None)
    if not attentions or not getattr(config, "is_decoder", True) or not hasattr(model, "set_attn_implementation"):
        raise ValueError(f"{type(model).__name__}: needs a decoder with k_proj and v_proj, such as the Llama layout")
    width: int = attentions[0].head_dim
    if width % group:
        raise ValueError(f"group={group} does not divide the heads' {width} channels")
    for module in attentions:
        module.rounded_cache = _Plan(key_bits, value_bits, group, residual, key_axis)
    model.set_attn_implementation(NAME)
    key_group = residual if key_axis == "channel" else group
    cache_bits = (_stored(key_bits, key_group) + _stored(value_bits, group)) / 2
    notes: dict[str, object] = {"norms": _norms(model, attentions, sample(calibration, tokens))}
    return Compressed(model, {}, count_weights(model), notes=notes, cache_bits=cache_bits)


def _stored(bits: int, group: int) -> float:
    """Bits per element: the code, and a float16 scale and minimum per group."""
    return bits + 32 / group if bits < UNTOUCHED_BITS else float(UNTOUCHED_BITS)


def round_groups(x: Tensor, *, bits: int, group: int) -> Tensor:
    """Round (…, width) to 2^bits levels between minimum and maximum of each `group` of the last axis."""
    if bits >= UNTOUCHED_BITS:
        return x
    parts = x.float().unflatten(-1, (-1, group))
    bottom = parts.amin(-1, keepdim=True).to(torch.float16).float()
    scale = store((parts.amax(-1, keepdim=True) - bottom) / (2**bits - 1)).float()
    codes = ((parts - bottom) / scale).round().clamp(0, 2**bits - 1)
    return (codes * scale + bottom).flatten(-2).to(x.dtype)


def _rounded(key: Tensor, value: Tensor, plan: _Plan) -> tuple[Tensor, Tensor]:
    """The cache's view of keys and values (b, heads, t, width); what is not in a full block stays exact."""
    full = key.shape[2] // plan.residual * plan.residual
    values = torch.cat(
        [round_groups(value[:, :, :full], bits=plan.value_bits, group=plan.group), value[:, :, full:]], 2
    )
    head = key[:, :, :full]
    if plan.key_axis == "channel":
        head = round_groups(head.transpose(2, 3), bits=plan.key_bits, group=plan.residual).transpose(2, 3)
    else:
        head = round_groups(head, bits=plan.key_bits, group=plan.group)
    return torch.cat([head, key[:, :, full:]], 2), values


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, Tensor]:
    """transformers' attention interface: query (b, heads, q, d), key and value (b, kv heads, t, d), mask added."""
    plan: _Plan = module.rounded_cache  # type: ignore[assignment]
    if plan.norms is not None:
        plan.norms.append(torch.stack([_sizes(key), _sizes(value)]))
    rounded = _rounded(key, value, plan)
    repeat = query.shape[1] // key.shape[1]
    key, value, old_key, old_value = (x.repeat_interleave(repeat, dim=1) for x in (key, value, *rounded))
    columns = torch.arange(key.shape[2], device=key.device)
    rows = columns[-query.shape[2] :]  # with a cache, the queries are the last positions
    old = (columns // plan.residual)[None, :] < (rows // plan.residual)[:, None]
    scores = torch.where(old, query @ old_key.transpose(2, 3), query @ key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    wide = torch.promote_types(scores.dtype, torch.float32)
    weights = nn.functional.dropout(scores.softmax(-1, dtype=wide).to(query.dtype), dropout, module.training)
    out = (weights * old) @ old_value + (weights * ~old) @ value
    return out.transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)


def _sizes(x: Tensor) -> Tensor:
    """(2,): Frobenius and spectral norm of each head's (t, d) matrix, mean over heads and sequences."""
    matrices = x.float()
    return torch.stack([torch.linalg.matrix_norm(matrices).mean(), torch.linalg.matrix_norm(matrices, 2).mean()])


@torch.no_grad()
def _norms(model: nn.Module, attentions: list[nn.Module], batches: list[Batch]) -> dict[str, list[float]]:
    """Norms by layer: of cached keys and values under the original's activations, and of the weights behind them."""
    plans: list[_Plan] = [module.rounded_cache for module in attentions]  # type: ignore[misc]
    bits = [(plan.key_bits, plan.value_bits) for plan in plans]
    for plan in plans:
        plan.norms, plan.key_bits, plan.value_bits = [], UNTOUCHED_BITS, UNTOUCHED_BITS
    try:
        for batch in batches:
            model(**batch, use_cache=False)
        means = torch.stack([torch.stack(plan.norms or []).mean(0) for plan in plans])  # (layers, key or value, norm)
    finally:
        for plan, (key_bits, value_bits) in zip(plans, bits, strict=True):
            plan.norms, plan.key_bits, plan.value_bits = None, key_bits, value_bits
    found = {
        f"{side} {norm}": means[:, i, j].tolist()
        for i, side in enumerate(("key", "value"))
        for j, norm in enumerate(("frobenius", "spectral"))
    }
    for side in ("key", "value"):
        weights = [getattr(module, f"{side[0]}_proj").weight.float() for module in attentions]
        found[f"{side} weight frobenius"] = [float(torch.linalg.matrix_norm(w)) for w in weights]
        found[f"{side} weight spectral"] = [float(torch.linalg.matrix_norm(w, 2)) for w in weights]
    return found
