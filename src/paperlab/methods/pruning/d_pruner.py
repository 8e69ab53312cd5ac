"""D-Pruner: prune for a domain, by gradients of its loss to which a term of general importance is added.

    G = (W / U_ii)^2                         on general text, U as SparseGPT's; W / U_ii is the error of a removal
    g = dL/dW + 2 lambda lr^2 G (dL/dW)^2    on text of the domain, while the model is tuned on it by clipped SGD
    S = sum over steps of |g W + (g W)^2 / 2000 + W^3|

The model as it was then loses the weights of lowest S, in each matrix and block of columns; nothing is tuned.

Zhang, Liu, Zhao, Cheng, Bao, Zhang, Mitra and Chen, "Pruning as a Domain-specific LLM Extractor", arXiv 2405.06275.
Code read: compressionOrg/D-Pruner@b3d5a7e, a copy of the authors' (general.py, src/lomo.py, save_model_iterative.py).
"""

from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.gptq import factor
from paperlab.kit.masks import keep_highest
from paperlab.kit.matrix import Dense, Matrix, Sparse
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, block_linears, linears, walk

CARD = Card(
    family="pruning",
    paper="d-pruner",
    sources=("abstract", "code"),
    configuration="args_lomo.yaml: SGD at 0.03, norm clipped at 1; lambda 0.1; blocks of 128 columns",
    task="lm_adapt",
    metric="new_perplexity",
    expect="lower",
    margin=0.02,
    method=Arm("d-pruner"),
    equal={"density": 0.005},
    gap="Theirs: Llama-2 7B and 13B, general importance from C4, some 1,000 texts of medicine or law in five epochs, "
    "and tasks of those domains. Here: a model of 6 million weights that knows abstracts, news as the domain, 24 steps "
    "of 8 windows, and perplexity. A domain that the model hardly knows may want other weights than one that it knows.",
    checks=(
        Check(
            claim="better-on-the-domain-than-general-pruning",
            says="At half the weights it is better on the domain than SparseGPT calibrated on general text.",
            baseline=Arm("sparsegpt", sparsity=0.5, calibration="abstracts"),
            trivial=Arm("magnitude", sparsity=0.5),
        ),
        Check(
            claim="general-importance-keeps-more",
            says="Does general importance keep more of what the model knew? With the code's constants its term is some "
            "1e-10 of the gradient here, and the masks are the same.",
            metric="own_perplexity",
            baseline=Arm("d-pruner", lam=0.0),
            role="question",
        ),
        Check(
            claim="better-than-domain-calibration",
            says="Is it better on the domain than SparseGPT calibrated on the domain?",
            baseline=Arm("sparsegpt", sparsity=0.5),
            role="question",
        ),
        Check(
            claim="more-than-magnitude",
            says="Do its scores find better weights than magnitudes do? W^3 stands in the code for the remainder of a "
            "Taylor expansion.",
            baseline=Arm("magnitude", sparsity=0.5),
            role="question",
        ),
        Check(
            claim="better-with-scaled-gradients",
            says="Does it help that gradients enter the scores times 2^16, as in the authors' half precision?",
            method=Arm("d-pruner", loss_scale=65536.0),
            baseline=Arm("d-pruner"),
            role="question",
        ),
    ),
    departs=(
        "that general importance keeps more was a claim before a reader measured that it changes no mask; it became "
        "a question then, after a first record of the other scores",
        "the paper's text was not at hand beyond its abstract; the code was, in a copy",
        "gradients enter the scores as they are. In the authors' run in half precision they enter times a loss scale "
        "that begins at 2^16 and falls when a step overflows; a first run here with 2^16 throughout was far worse than "
        "magnitudes (perplexity 531 against 198), after which it became a question",
        "the second-order and general terms have the code's divisors, 2,000 and 1,000",
        "in their code a step's gradients are freed as they come, and which of them reach the scores depends on the "
        "distributed engine; here all do, at every step",
        "general importance is of the weights as they were; theirs is taken while SparseGPT prunes",
        "the iterative blocking of their README: a threshold for each matrix and 128 columns (344 of theirs where a "
        "matrix leaves the MLP)",
        "whether the general term decided anything in their runs cannot be told from the code: it grows with the "
        "square of rate and gradient, and with half precision's loss scale",
        "half of the weights go, where they take 52 % of each matrix to have half of all",
    ),
)

SECOND, GENERAL = 2000.0, 1000.0  # the code's divisors


def recipe(
    model: nn.Module, setting: Any, seed: int, rate: float, *, sparsity: float = 0.5, lam: float = 0.1,
    general: str = "abstracts", sgd_rate: float = 0.03, loss_scale: float = 1.0, block: int = 128,
) -> Compressed:  # fmt: skip
    """The model without the share `sparsity` of its blocks' weights, those that stay as they were.

    setting: its `batches(seed)` are of the domain; `calibration_from(general)` is general text, where there is none
    the domain's stands in. rate: not used, scores have an `sgd_rate` of their own. lam: of general importance, 0 leaves
    it out. block: columns that share a threshold.
    """
    if block < 1 or lam < 0:
        raise ValueError(f"block={block}, lam={lam}: at least one column, and a weight of 0 or more")
    weights = {name: layer.weight.detach().clone() for name, layer in block_linears(model).items()}
    total = count_weights(model)
    known: dict[str, Tensor] = {}
    if lam:
        given = getattr(setting, "calibration_from", None)
        texts = given(general) if given else [inputs for inputs, _ in islice(setting.batches(seed), 4)]
        known = general_importance(model, texts)
    batches = islice(setting.batches(seed), setting.steps)
    found = dual_importance(model, list(batches), known, lam=lam, sgd_rate=sgd_rate, loss_scale=loss_scale)
    stored: dict[str, Matrix] = {}
    with torch.no_grad():
        for name, layer in block_linears(model).items():
            parts = [
                keep_highest(part.reshape(1, -1), sparsity=sparsity).view_as(part)
                for part in found[name].split(block, 1)
            ]
            mask = torch.cat(parts, 1)
            stored[name] = Sparse(mask, Dense(weights[name]))
            layer.weight.copy_(weights[name] * mask)
    for name, parameter in setting.model.named_parameters():
        if name.removesuffix(".weight") not in weights:
            model.get_parameter(name).data.copy_(parameter.detach())
    return Compressed(model, stored, total)


@torch.no_grad()
def general_importance(model: nn.Module, batches: list[Batch]) -> dict[str, Tensor]:
    """(W / U_ii)^2 of each linear layer of the blocks by name, (out, in) each."""
    found: dict[str, Tensor] = {}
    for name, inside, calls in walk(model, batches):
        layers = linears(inside)
        statistics = gather(inside, layers, calls, {"hessian"})
        for short, layer in layers.items():
            # Theirs is summed over a sequence's tokens and divided by the number of sequences.
            hessian = statistics[short]("hessian").float() * next(iter(batches[0].values())).shape[1]
            hessian.diagonal()[hessian.diagonal() == 0] = 1
            found[f"{name}.{short}"] = (layer.weight / factor(hessian).diagonal()).square()
    return found


def dual_importance(
    model: nn.Module, batches: list[tuple[Batch, Tensor]], general: dict[str, Tensor], *, lam: float, sgd_rate: float,
    loss_scale: float,
) -> dict[str, Tensor]:  # fmt: skip
    """The scores S of each linear layer of the blocks, summed while `model` is tuned in place on (inputs, labels): the
    rate rises over a tenth of the steps and falls to 0, the gradient's norm is clipped at 1."""
    layers = block_linears(model)
    scores = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    warm_up = 0.1
    for step, (inputs, labels) in enumerate(batches, 1):
        share = step / max(2, len(batches))
        rate = sgd_rate * (share / warm_up if share < warm_up else max((share - 1) / (warm_up - 1), 0.0))
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(**inputs).logits.flatten(0, -2), labels.flatten()).backward()
        with torch.no_grad():
            for name, layer in layers.items():
                gradient = layer.weight.grad
                if gradient is not None:  # no layer that no token reached
                    scores[name] += score(layer.weight, gradient * loss_scale, general.get(name), lam=lam, rate=rate)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.sub_(rate * parameter.grad)
    model.zero_grad(set_to_none=True)
    return scores


def score(weight: Tensor, gradient: Tensor, general: Tensor | None, *, lam: float, rate: float) -> Tensor:
    """One step's |g W + (g W)^2 / 2000 + W^3|, (out, in) all."""
    if general is not None:
        gradient = gradient + 2 * lam * rate**2 * general * gradient.square() / GENERAL
    first = gradient * weight
    return (first + first.square() / SECOND + weight**3).abs()
