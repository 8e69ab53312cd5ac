"""CPTQuant: give sensitive layers more bits, sensitivity measured by correlation, by pruning or by a Taylor estimate.

    correlation (CMPQ)   1 - mean canonical correlation of a layer's input and output representations
    pruning     (PMPQ)   L(layer pruned) - L
    taylor      (TDMPQ)  sum |dL/dx * x| over the inputs x of the layer's matrices: the first-order change of the
                         loss when every entry of x moves by the same share of itself, at worst signs

Nanda et al., CPTQuant - A Novel Mixed Precision Post-Training Quantization Techniques for Large Language Models, arXiv
2412.03599, of which the abstract was read; no code is public. A layer is a transformer block; its matrices are rounded
to nearest at the block's width.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.allocation import allocate, parse_choices, round_layers, units, weights_in
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.objective import embeddings, frozen, loss, mean_loss, predicts_tokens, sample, targets
from paperlab.kit.walk import Batch, block_linears, walk

CARD = Card(
    family="quantization",
    paper="cptquant",
    sources=("abstract",),
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    equal={"layer_bits": 0.02},
    method=Arm("cptquant", rule="taylor"),
    beside=(Arm("round-to-nearest", bits=4, group=32), Arm("original")),
    models=("abstracts-lm", "minilm-l6"),
    checks=(
        Check(
            claim="first-and-last-layers-most-sensitive",
            says="The first and the last 30 % of the layers are more sensitive than those between. So at one size, a "
            "mix with its low widths in the middle loses less than one with them at the ends.",
            also={"encoder_compress": "embedding_error"},
            method=Arm("depth-allocation", favour="ends"),
            baseline=Arm("depth-allocation", favour="middle"),
            gap="Paper: BERT and OPT-125M to 2.7B, by measures that the abstract does not define. Here: the damage "
            "itself on 6 blocks, two of them at 2 bits, one at 8, the rest at 4. A pass shows that the place matters, "
            "not that a rule of the paper finds it.",
        ),
        Check(
            claim="first-and-last-layers-most-sensitive-of-thirty",
            says="The same on a deeper model, at 4 and 8 bits: 2 bits in a third of its blocks would destroy it.",
            method=Arm("depth-allocation", favour="ends", choices="4,8", mean_bits=6.0),
            baseline=Arm("depth-allocation", favour="middle", choices="4,8", mean_bits=6.0),
            models=("smollm2-135m",),
            gap="As above. These weights were rounded once to 4 bits with a float minimum; with an integer zero point, "
            "as here, 4 bits are not free on them.",
        ),
        Check(
            claim="taylor-better-than-pruning-for-text",
            says="On language modelling the Taylor rule is said to compress 30 % more: does it predict better at one "
            "size than the pruning rule, which does best on classification?",
            baseline=Arm("cptquant", rule="pruning"),
            beside=(Arm("cptquant", rule="correlation"), Arm("depth-allocation"), Arm("original")),
            models=("abstracts-lm",),
            gap="Our question: the abstract does not say than what, and how a sensitivity becomes a width is ours. "
            "Paper: compression at equal accuracy, on OPT models. Here: perplexity at one size, a quarter of 16 bits.",
            role="question",
        ),
        Check(
            claim="taylor-better-than-random",
            says="Does the Taylor rule put the bits where they are needed: better than the same mix in random order?",
            also={"encoder_compress": "embedding_error"},
            baseline=Arm("random-allocation"),
            beside=(Arm("depth-allocation"), Arm("round-to-nearest", bits=4, group=32), Arm("original")),
            gap="Our question. Each seed draws another order, and the text on which the rule measures.",
            role="question",
        ),
    ),
    departs=(
        "only the abstract was read: the map from sensitivity to bits is ours, a ranking cut under a budget",
        "correlation: 1 - mean canonical correlation of a block's input and output, each reduced to its leading "
        "principal components, since canonical correlations of 576 channels on few tokens are all near 1",
        "pruning: one sparsity, smallest weights of each matrix, loss on calibration tokens (an encoder's loss is the "
        "distance of its embeddings to the original's)",
        "taylor: the inputs of each matrix, signs at their worst, summed over a block; for an encoder, which has no "
        "labels here, L is a random projection of the sentence embeddings",
        "embeddings, norms and heads stay in 16 bit",
    ),
)


def transform(
    model: nn.Module,
    calibration: list[Batch],
    seed: int,
    *,
    rule: Literal["correlation", "pruning", "taylor"] = "taylor",
    mean_bits: float = 4.0,
    choices: str = "2,4,8",
    group: int | None = 32,
    tokens: int = 256,
    sparsity: float = 0.5,
    components: int = 64,
) -> Compressed:
    """One width per block from `choices`, at most `mean_bits` code bits per weight; then round to nearest.

    tokens: how many calibration tokens a measurement sees (the correlations, one pass only, see eight times as
    many). sparsity: share of weights pruned by the pruning rule. components: principal components in the
    correlation rule. Raises ValueError.
    """
    if rule == "taylor":
        scores = _taylor(model, sample(calibration, tokens), seed)
    elif rule == "pruning":
        scores = _pruning(model, sample(calibration, tokens), sparsity)
    elif rule == "correlation":
        scores = _correlation(model, sample(calibration, 8 * tokens), components)
    else:
        raise ValueError(f"rule={rule!r}: 'correlation', 'pruning' or 'taylor'")
    pieces = units(model, "block")
    named = dict(zip(pieces, scores, strict=True))
    bits = allocate(named, weights_in(model, pieces), choices=parse_choices(choices), mean_bits=mean_bits)
    total = count_weights(model)
    layers = round_layers(model, {name: bits[piece] for piece in pieces for name in pieces[piece]}, group=group)
    return Compressed(model, layers, total, notes={"bits": bits, "sensitivity": named})


def _taylor(model: nn.Module, batches: list[Batch], seed: int) -> list[float]:
    """sum |dL/dx * x| over the inputs of a block's linear layers, mean over batches.

    Each layer's input is perturbed for that layer alone: the residual stream and its siblings keep theirs.
    """
    layers = block_linears(model)
    generator = torch.Generator().manual_seed(seed)
    scores = dict.fromkeys(layers, 0.0)
    for batch in batches:
        inputs: dict[str, Tensor] = {}
        handles = [layer.register_forward_pre_hook(_remember(inputs, name)) for name, layer in layers.items()]
        try:
            with frozen(model), torch.enable_grad():  # only the inputs' gradients are wanted, which halves the work
                if predicts_tokens(model):
                    value = loss(model, batch, None)
                else:
                    out = embeddings(model, batch)
                    value = (out * torch.randn(out.shape, generator=generator)).sum() / len(out)
        finally:
            for handle in handles:
                handle.remove()
        for name, slope in zip(inputs, torch.autograd.grad(value, list(inputs.values())), strict=True):
            scores[name] += (slope * inputs[name].detach()).abs().sum(dtype=torch.float64).item() / len(batches)
    return [sum(scores[name] for name in names) for names in units(model, "block").values()]


def _remember(inputs: dict[str, Tensor], name: str) -> Callable[..., Any]:
    """A pre-hook that gives the layer its own copy of its input, whose gradient can be asked for."""

    def hook(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0]
        inputs[name] = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        return (inputs[name],)

    return hook


@torch.no_grad()
def _pruning(model: nn.Module, batches: list[Batch], sparsity: float) -> list[float]:
    """Rise of the loss when one block alone loses its smallest weights."""
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity={sparsity}: between 0 and 1")
    wanted = targets(model, batches)
    before = mean_loss(model, batches, wanted)
    layers = block_linears(model)
    scores = []
    for names in units(model, "block").values():
        kept = {name: layers[name].weight.clone() for name in names}
        for name, weight in kept.items():
            cut = weight.abs().flatten().kthvalue(max(1, round(sparsity * weight.numel()))).values
            layers[name].weight.mul_(weight.abs() > cut)
        scores.append(mean_loss(model, batches, wanted) - before)
        for name, weight in kept.items():
            layers[name].weight.copy_(weight)
    return scores


@torch.no_grad()
def _correlation(model: nn.Module, batches: list[Batch], components: int) -> list[float]:
    """1 - mean canonical correlation of what goes into a block and what comes out."""
    masks = [batch.get("attention_mask", torch.ones(batch["input_ids"].shape)).bool() for batch in batches]
    scores = []
    for _, block, calls in walk(model, batches):
        sides = [call.hidden for call in calls], [call.through(block) for call in calls]
        a, b = (_principal(torch.cat([x[m] for x, m in zip(s, masks, strict=True)]), components) for s in sides)
        scores.append(1 - float(torch.linalg.svdvals(a.T @ b).mean()))
    return scores


def _principal(x: Tensor, components: int) -> Tensor:
    """Whitened scores of the leading principal components: (n, d) -> orthonormal (n, k), k <= components."""
    x = (x - x.mean(0)).double()
    values, vectors = torch.linalg.eigh(x.T @ x)  # ascending
    kept = (values > 1e-9 * values[-1]).nonzero().flatten()[-components:]
    return x @ vectors[:, kept] / values[kept].sqrt()
