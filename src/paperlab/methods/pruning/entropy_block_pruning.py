"""EntroDrop: drop the attentions, or blocks, behind which the hidden states' entropy grows least.

    score_l = H(x_l + f_l(x_l)) - H(x_l)          the lowest go; the first two blocks and the last stay whole

    knn      H = d log r_k + (d/2) log pi - log Gamma(d/2 + 1) + log n - log k,   r_k: distance to the k-th neighbour,
             its log a mean over the n tokens of a window of width d
    bucket   sum over the d dimensions of the entropy of a histogram between that dimension's least and largest value
    renyi    log mean(K^(a - 1)) / (1 - a),  K = exp(-dist^2 / (2 median dist^2)) of standardised states, a = 4

in nats, a mean over windows. Yang et al., "Entropy-Based Block Pruning for Efficient Large Language Models", arXiv
2504.03794; github.com/SalesforceAIResearch/EntroDrop at 97e5009.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check, Gate
from paperlab.kit.depth import drop, how_many, of_unit, residual_states
from paperlab.kit.walk import Batch, blocks

CARD = Card(
    paper="entropy-block-pruning",
    family="pruning",
    sources=("abstract", "code"),
    configuration="main.py --num_samples 128, evaluate.sh with 8 and 12 of 32 attentions dropped",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    models=("smollm2-135m",),
    equal={"parameters": 0.0},
    trivial=Arm("block-dropping", unit="attention", by="random", sparsity=0.25),
    gap="Theirs: Llama3.1-8B and Mistral-7B, 128 windows of 256 tokens of C4, accuracy on eleven benchmarks. Here: 30 "
    "blocks of 135 million parameters, 16 windows of 128 tokens, perplexity of news text: a pass shows nothing of "
    "accuracy, nor of models that have blocks to spare.",
    checks=(
        Check(
            claim="better-than-cosine",
            says="A quarter of the attentions dropped by entropy gain keep more than by cosine similarity (LLM-Drop).",
            method=Arm("entropy-block-pruning", unit="attention", sparsity=0.25),
            baseline=Arm("block-dropping", unit="attention", by="cosine", sparsity=0.25),
            beside=(Arm("original"),),
        ),
        Check(
            claim="better-than-cosine-at-three-eighths",
            says="With 37.5 % of the attentions dropped, 12 of 32 of Llama3.1-8B, more is kept than by cosine.",
            method=Arm("entropy-block-pruning", unit="attention", sparsity=0.375),
            baseline=Arm("block-dropping", unit="attention", by="cosine", sparsity=0.375),
            trivial=Arm("block-dropping", unit="attention", by="random", sparsity=0.375),
        ),
        Check(
            claim="whole-blocks-better-than-cosine",
            says="Is a tenth of the whole blocks too better chosen by entropy than by cosine (ShortGPT)?",
            method=Arm("entropy-block-pruning", unit="block", sparsity=0.1),
            baseline=Arm("block-dropping", unit="block", by="cosine", sparsity=0.1),
            trivial=Arm("block-dropping", unit="block", by="random", sparsity=0.1),
            role="question",
        ),
        Check(
            claim="better-than-cosine-with-the-same-ends-protected",
            says="Is it the entropy? Cosine similarity that may not drop the first two attentions and the last either.",
            method=Arm("entropy-block-pruning", unit="attention", sparsity=0.25),
            baseline=Arm(
                "block-dropping", unit="attention", by="cosine", sparsity=0.25, protect_first=2, protect_last=1
            ),
            gates=(
                Gate(
                    says="it is no worse than random attentions between the same ends",
                    method=Arm("entropy-block-pruning", unit="attention", sparsity=0.25),
                    baseline=Arm(
                        "block-dropping", unit="attention", by="random", sparsity=0.25, protect_first=2, protect_last=1
                    ),
                    expect="better",
                ),
            ),
            role="question",
        ),
    ),
    departs=(
        "only the abstract and the code were read: the code has the rising stage begin behind the second block, fixed, "
        "and so does this file; by knn, SmolLM2-135m's entropy rises from the first block on",
        "windows have 128 tokens, theirs 256; k = 25 neighbours as in their code, so among half as many tokens",
        "not a matter of that: in one draw six of seven dropped are the same with k = 12 and with windows joined to "
        "256, four with bucket, and each drops attention 24, which turns its input 5 to 20 times as far as most",
        "distances are computed without the matrix-product shortcut, in float32; theirs in float16 states",
        "their code scores attentions whichever is asked for (the block's score is computed and not used)",
        "a dropped attention is removed with its norm; theirs stays in memory",
    ),
)


Unit = Literal["block", "attention", "feed_forward"]


def submodel(
    model: nn.Module,
    calibration: list[Batch],
    *,
    sparsity: float = 0.25,
    unit: Unit = "attention",
    estimator: Literal["knn", "bucket", "renyi"] = "knn",
    neighbours: int = 25,
    buckets: int = 20,
    tokens: int = 2048,
    protect_first: int = 2,
    protect_last: int = 1,
) -> nn.Module:
    """The model without the share `sparsity` (rounded down) of its attentions, feed-forwards or blocks.

    neighbours: k of "knn", below the tokens of a window. buckets: of each dimension's histogram. tokens: of the
    calibration text that are looked at. protect_first, protect_last: blocks at the ends that stay whole.
    """
    total = len(blocks(model)[1])
    protected = {*range(protect_first), *range(total - protect_last, total)} & set(range(total))
    count = how_many(model, sparsity, protected)
    if not count:
        return model
    gains = torch.zeros(total, dtype=torch.float64)
    rows = torch.cat([batch["input_ids"] for batch in calibration])
    windows = rows[: max(1, tokens // rows.shape[1])]
    for states in residual_states(model, [{"input_ids": part} for part in windows.split(4)]):
        for index, row in enumerate(states):
            for before, after in zip(*of_unit(row, unit), strict=True):
                gains[index] += entropy(after, estimator, neighbours=neighbours, buckets=buckets)
                gains[index] -= entropy(before, estimator, neighbours=neighbours, buckets=buckets)
    free = [index for index in range(total) if index not in protected]
    return drop(model, sorted(free, key=lambda index: float(gains[index]))[:count], unit)


def entropy(states: Tensor, estimator: str = "knn", *, neighbours: int = 25, buckets: int = 20) -> float:
    """Estimated entropy in nats of states (n, width), n above `neighbours`. Raises ValueError."""
    states = states.float()
    n, width = states.shape
    if estimator == "bucket":
        low, high = states.amin(0), states.amax(0)
        place = ((states - low) / (high - low).clamp(min=1e-30) * buckets).long().clamp(max=buckets - 1)
        share = torch.zeros(buckets, width).scatter_add_(0, place, torch.ones_like(states)) / n
        return float(-torch.special.xlogy(share, share).sum(dtype=torch.float64))
    if estimator == "renyi":
        states = (states - states.mean(0)) / (states.std(0) + 1e-10)
        distance = _distances(states)
        kernel = (-distance.square() / (2 * distance.median().square())).exp().clamp(min=1e-10)
        return float(kernel.pow(3).mean().clamp(min=1e-10).log() / (1 - 4))
    if estimator != "knn":
        raise ValueError(f"estimator={estimator!r}: knn, bucket or renyi")
    if not 0 < neighbours < n:
        raise ValueError(f"neighbours={neighbours}: from 1 to {n - 1}, one below the tokens of a window")
    radius = _distances(states).kthvalue(neighbours + 1, dim=1).values  # the first is the token itself
    log_ball = width / 2 * math.log(math.pi) - math.lgamma(width / 2 + 1)
    mean = float((radius + 1e-10).log().mean(dtype=torch.float64))
    return width * mean + log_ball + math.log(n) - math.log(neighbours)


def _distances(states: Tensor) -> Tensor:
    return torch.cdist(states, states, compute_mode="donot_use_mm_for_euclid_dist")
