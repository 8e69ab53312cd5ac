"""DAREx-q: where almost all of what a model learnt is dropped, enlarge the rest by less than DARE does.

    tau' = (1 - m) tau / q,    m ~ Bernoulli(p),    q >= 1 - p         chosen by labels, or by the output alone

With q = 1 - p (DARE) the output keeps its mean, but its variance grows as 1 / (1 - p): a smaller factor is a better
balance. q is searched as in the authors' code: from 1 - p up in steps of 0.05 until four in a row are no better, then
around the best in steps of 0.005. By outputs: q minimises the mean absolute change of the last states on unlabelled
texts, over four draws of m of which the one farthest from their mean is left out.

Deng, Zhao, Vakilian, Chen, Li and Thrampoulidis, "DARE the extreme", arXiv 2410.09344; written from the authors' code
(`find_q_encoder.py`, `utils/deltaprune.py`, github vengdeng/DAREx @ 0873fc2).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from paperlab.core.card import Arm, Card, Check, Gate
from paperlab.kit.merging import added, deltas, weights_of

CARD = Card(
    paper="darex-delta-pruning",
    family="merging",
    sources=("abstract", "code"),
    configuration="find_q_encoder.py --p 0.01 --l_bound 0.01 --step_size 0.05, without and with --outputchange",
    task="merge_text",
    metric="accuracy",
    expect="higher",
    margin=0.02,
    data="movie-reviews",
    equal={"bytes": 0.0, "models": 0.0},
    method=Arm("darex-delta-pruning", sparsity=0.99),
    baseline=Arm("dare-super-mario", sparsity=0.99),
    trivial=Arm("task-arithmetic", scale=0.0),
    gap="The paper prunes what whole BERT, RoBERTa and language models of 0.5 to 13 thousand million weights learnt. "
    "Here the upper two blocks of a sentence encoder of 22 million weights, tuned for 50 steps (250 at full). DARE "
    "itself loses about 1 % at 99 % here, where the paper's models lose much, so that there is little to gain; why is "
    "not tested, nor a factor for each layer, training that keeps changes small (DAREx-L2), LoRA, structured pruning.",
    checks=(
        Check(
            claim="chosen-factor-better",
            says="Where 99 % are dropped, a factor chosen on labelled validation texts is better than DARE's on "
            "sentiment (the paper: by more than 30 % on SST-2).",
            beside=(Arm("task-arithmetic", scale=1.0),),
            gates=(
                Gate(
                    says="with q = 1 - p it is DARE",
                    method=Arm("darex-delta-pruning", sparsity=0.99, q=0.01),
                    baseline=Arm("dare-super-mario", sparsity=0.99),
                    tolerance=0.001,
                ),
            ),
        ),
        Check(
            claim="chosen-factor-better-on-questions",
            says="So it is on another task, questions by what they ask for.",
            data="questions",
        ),
        Check(
            claim="largest-better-when-far",
            says="Where a larger learning rate moved the model far, keeping the largest changes is better than DARE's "
            "random choice.",
            data="movie-reviews-large",
            method=Arm("dare-super-mario", sparsity=0.99, pick="magnitude", rescale=False),
        ),
        Check(
            claim="factor-found-without-labels",
            says="A factor chosen by the change of the output on unlabelled texts is better than DARE's too.",
            method=Arm("darex-delta-pruning", sparsity=0.99, search="outputs"),
        ),
        Check(
            claim="chosen-factor-better-at-999",
            says="Is a chosen factor better where 99.9 % are dropped? Added once a first record had shown that DARE "
            "hardly loses at 99 % here, so that there is little for a factor to gain.",
            method=Arm("darex-delta-pruning", sparsity=0.999),
            baseline=Arm("dare-super-mario", sparsity=0.999),
            role="question",
        ),
    ),
    departs=(
        "one q for the model; the paper also has one for each layer, from weights and inputs",
        "q is searched up to 1, as the README allows; its one example of a global q stops near 0.1",
        "q is chosen on one other mask and judged on one; the authors judge four newly drawn ones",
        "labels to choose q are 150 texts, so the choice is noisy; the authors use a tenth of the training data",
        "keeping the largest is compared with DARE alone, not with a chosen q as well",
        "unlabelled texts are 64 training texts; the authors cut 50 windows of 128 tokens out of them",
        "several models' pruned changes are added up, with one q; the paper prunes one model at a time",
        "keeping the largest is done without enlarging, in each tensor; the paper also has Wanda's criterion",
    ),
)

STEP, FINER, PATIENCE, MOST = 0.05, 0.1, 3, 1.0  # of the search, as in the authors' code
DRAWS = 4
APART = 1000  # between the seeds of the masks that q is searched on and of the mask that is used

Judge = Callable[[Mapping[str, Tensor]], float]


def choose(
    base: Mapping[str, Tensor],
    models: Sequence[Mapping[str, Tensor]],
    seed: int,
    validate: Judge | None,
    distance: Judge | None,
    *,
    sparsity: float = 0.99,
    q: float | None = None,
    search: Literal["labels", "outputs"] = "labels",
    weights: str = "",
) -> Iterator[tuple[str, Tensor]]:
    """Weights by name of the base and of each model -> (name, merged tensor), one tensor at a time where q is given.

    sparsity: p, the share that is dropped, in [0, 1). q: what the rest is divided by, more than 0; none: it is searched
    with `validate` (higher is better; search="labels") or `distance` (lower is better; search="outputs"). weights: one
    for each model as "0.7,0.3"; empty: 1 for each. Raises ValueError for values out of range, and where q is to be
    searched and there is nothing to judge by.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity} is the share that is dropped: give at least 0, less than 1")
    if q is not None and not q > 0:
        raise ValueError(f"q={q} divides what is left: give more than 0, at least 1 - sparsity for the paper's idea")
    judge = validate if search == "labels" else distance
    if q is None and judge is None:
        name = "validate" if search == "labels" else "distance"
        raise ValueError(f"q is searched by {name}, which is not given: pass {name}=, or set q (DARE: 1 - sparsity)")
    shares = weights_of(weights, len(models))
    if q is None:
        assert judge is not None
        draws = range(APART + seed, APART + seed + (1 if search == "labels" else DRAWS))
        kept = [dict(dropped(base, models, sparsity, draw, shares)) for draw in draws]

        def score(value: float) -> float:
            found = [judge({name: base[name] + part / value for name, part in one.items()}) for one in kept]
            if len(found) > 1:
                mean = sum(found) / len(found)
                found.remove(max(found, key=lambda one: abs(one - mean)))
            return sum(found) / len(found) * (1 if search == "labels" else -1)

        q = best(score, 1 - sparsity)
    for name, part in dropped(base, models, sparsity, seed, shares):
        yield name, part.div_(q).add_(base[name])


def dropped(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], sparsity: float, seed: int, shares: list[float]
) -> Iterator[tuple[str, Tensor]]:
    """(name, weighted sum over the models of what is left of their changes), the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    for name in base:
        changes = (
            d.mul_(1 - torch.bernoulli(torch.full_like(d, sparsity), generator=draw))
            for d in deltas(base, models, name)
        )
        yield name, added(changes, shares)


def best(score: Callable[[float], float], least: float) -> float:
    """The q with the highest score: coarse steps from `least` up, then finer ones around the best; see the top."""
    seen: dict[float, float] = {}

    def walk(values: Sequence[float]) -> None:
        top, worse = float("-inf"), 0
        for value in values:
            seen[value] = score(value)
            if seen[value] >= top:
                top, worse = seen[value], 0
            else:
                worse += 1
            if worse > PATIENCE:
                return

    walk([least + step * STEP for step in range(int((MOST - least) / STEP) + 1)])
    centre = max(seen, key=lambda value: seen[value])
    fine = STEP * FINER
    low = max(least + fine, centre - STEP * (1 - FINER))
    walk([low + step * fine for step in range(max(round((centre + STEP - low) / fine), 0))])
    return max(seen, key=lambda value: seen[value])
