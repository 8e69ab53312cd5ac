"""KV-AdaQuant: round the key/value cache with more bits for keys than for values.

    ||W_K|| > ||W_V|| in most layers, and the error of a product grows with the norm of its factors, so keys deserve
    the larger of two unequal shares: (b_K, b_V) with b_K > b_V is better than the same two swapped (theorems 1 and 2)
    x ~ code * s + m,  s = (max - min) / (2^b - 1),  m = min    over groups of one token's channels in one head

Hariri et al., More for Keys, Less for Values: Adaptive KV Cache Quantization, arXiv 2502.15075 (later: Quantize
What Counts); github.com/mohsenhariri/spectral-kv at e9ed423, kvq at ad3e08a. Text is scored as a decoder with this
cache would: a query meets rounded keys and values of all full blocks of `residual` tokens before its own block.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from paperlab.core.card import Arm, Card, Check, Gate
from paperlab.kit.compressed import UNTOUCHED_BITS, Compressed, count_weights
from paperlab.kit.grid import levels, store

CARD = Card(
    family="quantization",
    paper="kv-adaquant",
    sources=("abstract", "code"),
    configuration="README.md, usage: 32 exact tokens; axis 1 and quanto's ranges as in their evaluation and in kvq",
    task="lm_compress",
    data="@512",
    metric="perplexity",
    expect="lower",
    margin=0.05,
    method=Arm("kv-adaquant", key_bits=4, value_bits=2),
    beside=(Arm("original"),),
    checks=(
        Check(
            claim="keys-deserve-the-bits",
            says="At the same cache size, 4-bit keys with 2-bit values score 75.2 %, 2-bit keys with 4-bit values "
            "54.7 % (first version; its table: 0.75 against 0.55 at 8B, 0.34 against 0.06 at 1B).",
            models=("smollm2-135m", "abstracts-lm"),
            baseline=Arm("kv-adaquant", key_bits=2, value_bits=4),
            equal={"cache_bits": 0.001, "layer_bits": 0.001},
            gates=(
                Gate(
                    says="with 16 bits for both it is the original",
                    method=Arm("kv-adaquant", key_bits=16, value_bits=16),
                    baseline=Arm("original"),
                    tolerance=0.0001,
                ),
            ),
            gap="Theirs: accuracy on reasoning, 0.6B to 70B, long answers generated under the rounded cache; here "
            "windows of 512 tokens. The premise ||W_K|| > ||W_V|| holds in 29 of SmolLM2's 30 layers (spectral norm; "
            "Frobenius 19), in abstracts-lm only in 4 of 6 (2): a fail there would not speak against the theorem.",
        ),
        Check(
            claim="two-bit-values-nearly-free",
            says="4-bit keys with 2-bit values keep up to 98.3 % of the accuracy of 4 bits for both.",
            expect="no worse",
            margin=0.02,
            baseline=Arm("kv-adaquant", key_bits=4, value_bits=4),
            trivial=Arm("kv-adaquant", key_bits=2, value_bits=4),
            gap="Theirs: the best of its accuracy figures. Here: perplexity, a finer scale. Swapped bits must fail.",
        ),
        Check(
            claim="better-than-equal-split",
            says="Are 4-bit keys with 2-bit values better than 3 bits for both?",
            margin=0.02,
            baseline=Arm("kv-adaquant", key_bits=3, value_bits=3),
            equal={"cache_bits": 0.001, "layer_bits": 0.001},
            models=("abstracts-lm",),
            gap="The theorem compares a split with the same split swapped, not with the equal one.",
            role="question",
        ),
        Check(
            claim="keys-deserve-the-bits-per-channel",
            says="Does the order of 4/2 and 2/4 bits stay where keys get a range per channel (KIVI, arXiv 2402.02750)?",
            method=Arm("kv-adaquant", key_bits=4, value_bits=2, key_axis="channel"),
            baseline=Arm("kv-adaquant", key_bits=2, value_bits=4, key_axis="channel"),
            beside=(Arm("kv-adaquant", key_bits=4, value_bits=2), Arm("original")),
            equal={"cache_bits": 0.001, "layer_bits": 0.001},
            models=("abstracts-lm",),
            gap="Ranges over the 32 tokens of a block, not over a token's channels.",
            role="question",
        ),
    ),
    departs=(
        "a query meets the rounded cache in all of the text, in theirs only what is generated does; a block is "
        "rounded once, theirs rounds the whole cache again each time a block is full",
        "ranges are minimum to maximum, as quanto's; the authors' later back end (HQQ) also searches the zero points",
        "the bits are given; the authors' later code also derives them per layer from the norms",
        "the cache is simulated in teacher-forced scoring, ranges in float16; cache_bits leaves out the exact block",
    ),
)

NAME = "paperlab_rounded_cache"


@dataclass
class _Plan:
    key_bits: int
    value_bits: int
    group: int
    residual: int
    key_axis: str


def transform(
    model: Any,
    *,
    key_bits: int = 4,
    value_bits: int = 2,
    group: int = 64,
    residual: int = 32,
    key_axis: Literal["token", "channel"] = "token",
) -> Compressed:
    """A causal language model whose attention reads a rounded cache; the weights stay as they are.

    key_bits, value_bits: 16 leaves that side exact. group: channels that share a range (at most a head's width, and
    a divisor of it). residual: tokens in the exact block. key_axis: "channel" gives each channel of the keys one
    range per block of `residual` tokens instead. Raises ValueError.
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
    group = min(group, width)  # narrow heads have one range
    if width % group:
        raise ValueError(f"group={group} does not divide the heads' {width} channels")
    for module in attentions:
        module.rounded_cache = _Plan(key_bits, value_bits, group, residual, key_axis)
    model.set_attn_implementation(NAME)
    key_group = residual if key_axis == "channel" else group
    cache_bits = (_stored(key_bits, key_group) + _stored(value_bits, group)) / 2
    return Compressed(model, {}, count_weights(model), cache_bits=cache_bits)


def _stored(bits: int, group: int) -> float:
    """Bits per element."""
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
