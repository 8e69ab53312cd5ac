"""PV-Tuning: fine-tune codebooks by gradient, and the codes of only those few groups where a change pays most.

A row of W is scale * codebook[code] in groups of `dim` weights. With g the gradient of the loss by W:

    P step    codebook, scale <- Adam on sum of g over the groups that use them                 (Alg. 1, line 3)
    V step    S = the `code_fraction` of groups with the longest update u = g / sqrt(v)          (section 3.3)
              code_i <- argmin_c || codebook[c] * scale - (w_i - eta u_i) ||^2     for i in S    (eq. 8-9, Alg. 2-3)
              eta: the step on S is `code_rate` times ||W||; changes beyond `trust` * ||W|| are taken back

A small gradient step on all weights changes no code, since the nearest codeword stays the same; a step of the same
length on few groups does. Straight-through tuning instead moves a hidden copy of all weights and takes the nearest
codes of that; both can be joined. Source: Malinovskii et al., "PV-Tuning: Beyond Straight-Through Estimation for
Extreme LLM Compression", arXiv 2405.14852; relative step lengths (LAMB) and the trust ratio as in the authors'
repository.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.codebook import EPSILON, Codebook, cluster
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.kmeans import assign
from paperlab.kit.objective import kl, predicts_tokens
from paperlab.kit.walk import Batch, block_linears

CARD = Card(
    family="quantization",
    paper="pv-tuning",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    equal={"layer_bits": 0.001},
    method=Arm("pv-tuning"),
    checks=(
        Check(
            claim="better-than-straight-through",
            says="Straight-through tuning of the codes is sub-optimal; restricting code updates to a small subspace is "
            "better (abstract, section 4.2)",
            baseline=Arm("pv-tuning", rule="straight-through", code_rate=0.01),
            beside=(
                Arm("pv-tuning", rule="pv+straight-through", code_rate=0.01, code_fraction=0.05, trust=0.1),
                Arm("round-to-nearest", bits=2, group=64),
                Arm("original"),
            ),
            models=("abstracts-lm",),
            gap="The paper tunes Llama 2 7B and larger on about a billion tokens, in groups of 8 or 16 weights with "
            "one 16-bit or two 8-bit codebooks; here a 6M-parameter model, 60 steps of 512 tokens, groups of four "
            "weights, one 8-bit codebook a matrix. So few steps test how fast the rules start, not where they end. "
            "Each rule's step lengths were chosen alike, from a few, on a story model of 260,000 parameters.",
        ),
        Check(
            claim="better-than-codebooks-only",
            says="Tuning codes beside continuous parameters beats tuning continuous parameters alone (section 4.2)",
            baseline=Arm("pv-tuning", rule="codebooks"),
            beside=(Arm("pv-tuning", steps=0),),
            models=("abstracts-lm",),
            gap="As above: in 60 steps at most a small share of the codes can have changed, so the codes' part of the "
            "gain is smaller here than after the paper's thousands of steps.",
        ),
        Check(
            claim="tuning-beats-clustering",
            says="Tuned vector quantization at 2 bits beats the same representation as it comes from clustering "
            "(section 4.2)",
            margin=0.05,
            method=Arm("pv-tuning", steps=6, dim=2, code_bits=4),
            baseline=Arm("pv-tuning", steps=0, dim=2, code_bits=4),
            beside=(Arm("round-to-nearest", bits=2, group=64),),
            gap="Six steps of 512 tokens and codewords of two weights, which is what minutes on a CPU allow on the "
            "135M model; the paper starts from AQLM at about 2 bits. SmolLM2's weights at hand were rounded to 4 bits "
            "once.",
        ),
    ),
    departs=(
        "embeddings, norms and the output head stay as they are; the paper tunes them too",
        "plain k-means per matrix is the start, not AQLM's residual clustering with beam search; one codebook, so the "
        "nearest codeword is found exactly",
        "the P step is one Adam step, not a minimisation to the end (as in the authors' code)",
        "V steps follow Adam with momentum, for a batch is 512 tokens here; the authors' command has none, at a million"
        " tokens a step",
        "the step of the V step is normed over the chosen subspace, so that code_rate does not depend on its size",
    ),
)

BETAS = (0.9, 0.95)  # as in the authors' command for continuous parameters


@dataclass
class State:
    """What tuning keeps for one layer. moments: running means of g and g^2, by what g is the gradient of."""

    book: Codebook
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    hidden: Tensor | None = None  # straight-through: the copy of the weights that gradients move

    def direction(self, name: str, gradient: Tensor, step: int, momentum: float) -> Tensor:
        """Adam's direction for the tensor `name`, which has this gradient at this step (from 1)."""
        if name not in self.moments:
            self.moments[name] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        first, second = self.moments[name]
        first.mul_(momentum).add_(gradient, alpha=1 - momentum)
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        return first / (1 - momentum**step) / ((second / (1 - BETAS[1] ** step)).sqrt() + EPSILON)


def p_step(state: State, gradient: Tensor, step: int, rate: float) -> None:
    """One Adam step on words and scale, `rate` times the tensor's own norm long (LAMB); gradient by W (out, in)."""
    for name, own in state.book.gradients(gradient).items():
        _move(getattr(state.book, name), state.direction(name, own, step, BETAS[0]), rate)


def _move(value: Tensor, update: Tensor, rate: float) -> None:
    """In place, along -update, `rate` times the tensor's own norm far."""
    value -= rate * value.norm() / update.norm().clamp(min=EPSILON) * update


def v_step(book: Codebook, move: Tensor, *, length: float | None, code_fraction: float, trust: float) -> int:
    """Change codes towards W + move (out, in) in the groups that would move farthest; returns how many changed.

    length: the move on the chosen groups is stretched to so many times ||W||; None takes it as it is.
    """
    groups = move.reshape(-1, book.words.shape[1])
    count = math.ceil(code_fraction * len(groups))
    if count == 0:
        return 0
    far, chosen = groups.square().sum(1).topk(count)
    norm = book.weight().norm()
    eta = length * norm / far.sum().sqrt().clamp(min=EPSILON) if length is not None else 1.0
    row_scale = book.scale.expand(-1, book.codes.shape[1]).reshape(-1, 1)[chosen]
    before = book.codes.flatten()[chosen]
    after = assign(book.words[before] + eta * groups[chosen] / row_scale, book.words)
    moved = ((book.words[after] - book.words[before]) * row_scale).square().sum(1)
    within = moved.cumsum(0) <= (trust * norm) ** 2  # farthest first
    within[(moved > 0).nonzero()[:1]] = True  # one change is always allowed
    after = torch.where(within, after, before)
    book.codes.view(-1)[chosen] = after
    return int((after != before).sum())


def c_step(
    state: State, gradient: Tensor, step: int, *, rule: str, code_rate: float, code_fraction: float, trust: float
) -> int:
    """What the rule (see `transform`) does with the codes, given the gradient by W (out, in); how many changed."""
    book, limits = state.book, {"code_fraction": code_fraction, "trust": trust}
    if rule == "codebooks":
        return 0
    if rule == "pv":
        return v_step(book, -state.direction("weight", gradient, step, BETAS[0]), length=code_rate, **limits)
    if state.hidden is None:
        state.hidden = book.weight()
    _move(state.hidden, state.direction("weight", gradient, step, 0.0), code_rate)  # it collects steps itself
    if rule == "pv+straight-through":
        return v_step(book, state.hidden - book.weight(), length=None, **limits)
    before, book.codes = book.codes, book.nearest(state.hidden)
    return int((book.codes != before).sum())


def transform(
    model: nn.Module,
    calibration: list[Batch],
    teacher: nn.Module,
    seed: int,
    *,
    rule: Literal["pv", "pv+straight-through", "straight-through", "codebooks"] = "pv",
    dim: int = 4,
    code_bits: int = 8,
    steps: int = 60,
    rate: float = 3e-3,
    code_rate: float = 0.03,
    code_fraction: float = 0.01,
    trust: float = 0.03,
) -> Compressed:
    """Vector-quantize the linear layers to code_bits / dim bits a weight and tune them against the original's logits.

    rule: what is done with the codes: V steps; V steps towards a hidden copy of the weights, which collects small
    steps; the hidden copy's nearest codes everywhere; or nothing ("codebooks").
    steps: of one calibration batch each, on KL(original || model); 0 stops after clustering.
    rate, code_rate: lengths of a step relative to the norm of what it moves.
    code_fraction, trust: limits of a V step. Raises ValueError for values out of range or a dim that does not fit.
    """
    if not 1 <= code_bits <= 12 or steps < 0 or not 0 <= code_fraction <= 1:
        raise ValueError("code_bits is between 1 and 12, steps at least 0, code_fraction between 0 and 1")
    layers = block_linears(model)
    for name, layer in layers.items():
        if layer.in_features % dim:
            raise ValueError(f"dim={dim} does not divide the {layer.in_features} inputs of {name}")
    if steps and not calibration:
        raise ValueError("tuning needs calibration text; steps=0 only clusters")
    if steps and not predicts_tokens(model):
        raise ValueError(f"tuning compares logits, and {type(model).__name__} has none; steps=0 only clusters")
    model.requires_grad_(False).eval()
    states = {}
    for name, layer in layers.items():
        states[name] = State(cluster(layer.weight.detach(), dim=dim, bits=code_bits, seed=seed))
        layer.weight.data.copy_(states[name].book.weight())
        layer.weight.requires_grad_(True)
    order = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    losses, changed = [], 0
    for step in range(1, steps + 1):
        queue = queue or torch.randperm(len(calibration), generator=order).tolist()
        batch = calibration[queue.pop()]
        with torch.no_grad():
            wanted = teacher(**batch).logits.float()
        loss = kl(model(**batch).logits.float(), wanted)
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for name, layer in layers.items():
                gradient = layer.weight.grad
                assert gradient is not None
                p_step(states[name], gradient, step, rate)
                changed += c_step(
                    states[name], gradient, step,
                    rule=rule, code_rate=code_rate, code_fraction=code_fraction, trust=trust,
                )  # fmt: skip
                layer.weight.copy_(states[name].book.weight())
                layer.weight.grad = None
    model.requires_grad_(False)
    stored = {name: state.book.packed(code_bits) for name, state in states.items()}
    for name, layer in layers.items():
        layer.weight.copy_(stored[name].dense())
    notes: dict[str, object] = {"losses": losses, "code_changes": changed}
    return Compressed(model, stored, count_weights(teacher), notes=notes)
