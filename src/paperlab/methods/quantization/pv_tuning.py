"""PV-Tuning: fine-tune codebooks by gradient, and the codes of only those few groups where a change pays most.

A row of W is scale * codebook[code] in groups of `dim` weights. With g the gradient of the loss by W, each step:

    P    codebook, scale <- Adam on sum of g over the groups that use them                      (Alg. 1, line 3)
    B    a copy of all weights, never rounded <- B - code_rate ||B|| u / ||u||,  u = g / sqrt(v)
    V    in the `code_fraction` of groups where B and W are farthest apart:
         code_i <- argmin_c || codebook[c] * scale - b_i ||^2                                    (section 3.3)

Straight-through tuning is the same with code_fraction = 1. Malinovskii et al., PV-Tuning, arXiv 2405.14852;
github.com/Vahe1994/AQLM at e79a896, whose fine-tuning command has these steps, their order and lengths (LAMB).
"""

import math
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check, Gate
from paperlab.kit.codebook import EPSILON, Codebook, cluster
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.kmeans import assign
from paperlab.kit.objective import kl, predicts_tokens
from paperlab.kit.walk import Batch, block_linears

CARD = Card(
    family="quantization",
    paper="pv-tuning",
    sources=("abstract", "code"),
    configuration="README.md, the command for PV-Tuning with finetune.py",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    equal={"layer_bits": 0.001},
    method=Arm("pv-tuning"),
    beside=(Arm("original"),),
    models=("abstracts-lm",),
    gates=(
        Gate(
            says="tuning leaves it no worse than the clustering that it starts from",
            method=Arm("pv-tuning"),
            baseline=Arm("pv-tuning", steps=0),
            expect="better",
        ),
    ),
    gap="Theirs: Llama 2 7B and larger, a billion tokens in steps of half a million, from AQLM. Here: 6 million "
    "parameters, 40 steps of 512 tokens out of 3,072, from k-means, with the smallest of their schemes (groups of 8 "
    "weights, one 8-bit codebook). So few steps test how fast a rule starts, not where it ends.",
    checks=(
        Check(
            claim="better-than-straight-through",
            says="Straight-through tuning is sub-optimal; changing few codes a step is better (abstract; 1 % at most "
            "in the authors' command).",
            baseline=Arm("pv-tuning", rule="straight-through"),
        ),
        Check(
            claim="better-than-codebooks-only",
            says="Tuning codes and continuous parameters beats tuning continuous parameters alone (abstract).",
            baseline=Arm("pv-tuning", rule="codebooks"),
        ),
    ),
    departs=(
        "embeddings, norms and the output head stay as they are; the authors tune them too",
        "plain k-means per matrix is the start, not AQLM's; one codebook, so the nearest codeword is found exactly",
        "the rate of codebooks and scales is ten times theirs, for some fifty times fewer steps; that of codes is the "
        "best of 0.01 (theirs, at which no code changes here), 0.03 and 0.1 on text held back, for each rule",
    ),
)

CODE_RATES = (0.01, 0.03, 0.1)
BETAS = (0.9, 0.95)  # of codebooks and scales; the buffer has no momentum. As in the authors' command


@dataclass
class State:
    """One layer. buffer: B (out, in). moments: running means of g and g^2, by what g is the gradient of."""

    book: Codebook
    buffer: Tensor
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def step(self, name: str, value: Tensor, gradient: Tensor, count: int, rate: float, momentum: float) -> None:
        """Move `value`, which has this gradient at step `count` (from 1), in place along Adam's direction: about `rate`
        times its own norm far, less in the first steps without momentum, more with it, as Adam's bias correction."""
        if name not in self.moments:
            self.moments[name] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        first, second = self.moments[name]
        first.mul_(momentum).add_(gradient, alpha=1 - momentum)
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        update = first / (second.sqrt() + EPSILON)
        correction = math.sqrt(1 - BETAS[1] ** count) / (1 - momentum**count)
        value -= rate * correction * value.norm() / update.norm().clamp(min=EPSILON) * update


def p_step(state: State, gradient: Tensor, count: int, rate: float) -> None:
    """One step on words and scale; gradient by W (out, in)."""
    for name, own in state.book.gradients(gradient).items():
        state.step(name, getattr(state.book, name), own, count, rate, BETAS[0])


def v_step(book: Codebook, towards: Tensor, *, code_fraction: float) -> int:
    """Nearest codes of `towards` (out, in) in the groups that are farthest from it; returns how many change."""
    count = math.ceil(code_fraction * book.codes.numel())
    if count == 0:
        return 0
    dim = book.words.shape[1]
    chosen = (towards - book.weight()).reshape(-1, dim).square().sum(1).topk(count).indices
    after = assign((towards / book.scale).reshape(-1, dim)[chosen], book.words)
    changed = int((after != book.codes.flatten()[chosen]).sum())
    book.codes.view(-1)[chosen] = after
    return changed


def transform(
    model: nn.Module,
    calibration: list[Batch],
    teacher: nn.Module,
    seed: int,
    *,
    rule: Literal["pv", "straight-through", "codebooks"] = "pv",
    dim: int = 8,
    code_bits: int = 8,
    steps: int = 40,
    rate: float = 3e-3,
    code_rate: float = 0.0,
    code_fraction: float = 0.01,
) -> Compressed:
    """Vector-quantize the linear layers to code_bits / dim bits a weight and tune them against the original's logits.

    rule: what is done with the codes: V steps; nearest codes of the buffer everywhere; or nothing ("codebooks").
    steps: of one calibration batch each, on KL(original || model); 0 stops after clustering.
    rate, code_rate: lengths of a step of codebooks and scales, and of the buffer, relative to the norm of what moves;
    code_rate 0 tries CODE_RATES and keeps the best on the last quarter of the text, which no rule tunes on.
    code_fraction: of the groups, whose codes a V step may change. Raises ValueError for what is out of range.
    """
    if not 1 <= code_bits <= 12 or steps < 0 or not 0 <= code_fraction <= 1:
        raise ValueError("code_bits is between 1 and 12, steps at least 0, code_fraction between 0 and 1")
    fraction = {"pv": code_fraction, "straight-through": 1.0, "codebooks": 0.0}.get(rule)
    if fraction is None:
        raise ValueError(f"rule={rule!r} is pv, straight-through or codebooks")
    layers = block_linears(model)
    if wrong := [name for name, layer in layers.items() if layer.in_features % dim]:
        raise ValueError(f"dim={dim} does not divide the inputs of {wrong[0]}")
    if steps and not (calibration and predicts_tokens(model)):
        raise ValueError("tuning needs calibration text, and a model with logits to compare; steps=0 only clusters")
    model.requires_grad_(False).eval()
    books = {name: cluster(layer.weight.detach(), dim=dim, bits=code_bits, seed=seed) for name, layer in layers.items()}
    keep = max(len(calibration) * 3 // 4, 1)
    tried = (code_rate,) if code_rate or not fraction or not steps or keep == len(calibration) else CODE_RATES
    best, notes = math.inf, dict[str, object]()
    for each in tried:
        states = {name: State(deepcopy(book), book.weight()) for name, book in books.items()}
        losses, changed = _tune(model, teacher, states, calibration[:keep], seed, steps, fraction, rate, each)
        held = sum(_loss(model, teacher, batch).item() for batch in calibration[keep:]) if len(tried) > 1 else 0.0
        if held < best:
            best, notes = held, {"losses": losses, "code_changes": changed, "code_rate": each}
            stored = {name: state.book.packed(code_bits) for name, state in states.items()}
    for name, layer in layers.items():
        layer.weight.requires_grad_(False).copy_(stored[name].dense())
    return Compressed(model, stored, count_weights(teacher), notes=notes)


def _loss(model: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        wanted = teacher(**batch).logits.float()
    return kl(model(**batch).logits.float(), wanted)


def _tune(
    model: nn.Module, teacher: nn.Module, states: dict[str, State], batches: list[Batch], seed: int, steps: int,
    fraction: float, rate: float, code_rate: float,
) -> tuple[list[float], int]:  # fmt: skip
    """Tune the states and the model's weights, in place; returns the loss of each step, and how many codes changed."""
    layers = block_linears(model)
    for name, layer in layers.items():
        layer.weight.data.copy_(states[name].book.weight())
        layer.weight.requires_grad_(True)
    order = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    losses, changed = [], 0
    for step in range(1, steps + 1):
        queue = queue or torch.randperm(len(batches), generator=order).tolist()
        loss = _loss(model, teacher, batches[queue.pop()])
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for name, layer in layers.items():
                gradient, state = layer.weight.grad, states[name]
                assert gradient is not None
                if fraction:
                    state.step("buffer", state.buffer, gradient, step, code_rate, 0.0)
                p_step(state, gradient, step, rate)
                changed += v_step(state.book, state.buffer, code_fraction=fraction)
                layer.weight.copy_(state.book.weight())
                layer.weight.grad = None
    return losses, changed
