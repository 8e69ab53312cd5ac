"""Greedy soup: average the weights of those runs of one sweep whose average is better on validation data.

    models in decreasing order of validation accuracy;  soup = {the first}
    for each further model:  into the soup where the average of soup and model is better on validation data
    theta = mean of the soup

Wortsman et al., "Model soups", arXiv 2203.05482 (recipe 1); written from the authors' code (`main.py`, github
mlfoundations/model-soups @ d5398f1). The uniform soup is `uniform-average`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.merging import added

CARD = Card(
    paper="model-soups",
    family="merging",
    sources=("abstract", "code"),
    configuration="main.py --greedy-soup",
    task="merge_text",
    metric="error",
    expect="lower",
    margin=0.02,
    data="sweep",
    equal={"bytes": 0.0, "models": 0.0},
    method=Arm("model-soups"),
    baseline=Arm("best-single"),
    beside=(Arm("uniform-average"),),
    trivial=Arm("task-arithmetic", scale=0.0),
    gap="The paper averages up to 72 runs of CLIP, ALIGN and ViT-G on ImageNet (90.94 % top-1), where errors fall by a "
    "few in a hundred, and 32 runs of BERT and T5 on four GLUE sets. Here five runs of the upper two blocks of a "
    "sentence encoder on 800 sentences, with 150 to validate on: greedy choices are noisier, and the best run is "
    "nearer to the others. Errors are compared, as the paper's gains in accuracy are small.",
    checks=(
        Check(
            claim="better-than-the-best-run",
            says="The greedy soup of a sweep makes fewer errors than its best run, which is chosen on the same "
            "validation texts.",
        ),
        Check(
            claim="better-on-another-domain",
            says="So it does on texts of another domain (the paper: on five shifted sets of images).",
            metric="shifted_error",
        ),
    ),
    departs=(
        "a model is taken where validation accuracy rises, as in the code; the paper's recipe also takes it where it "
        "stays the same",
        "of runs that are equal on validation data the first goes first; the code takes the last one",
        "the untuned start with its fitted head is no candidate; it is one of the authors' 72",
        "runs differ in learning rate, epochs and order; the paper's also in augmentation, smoothing and weight decay",
    ),
)


def choose(
    models: Sequence[Mapping[str, Tensor]], validate: Callable[[Mapping[str, Tensor]], float] | None
) -> Iterator[tuple[str, Tensor]]:
    """Weights by name of each model -> (name, mean over the soup). validate: how good weights are; higher is better.

    Raises ValueError without `validate`.
    """
    if validate is None:
        raise ValueError("a soup is chosen on validation data: pass validate=, a function of a model; without any, "
                         "uniform-average is the soup of all models")  # fmt: skip
    scores = [validate(model) for model in models]
    order = sorted(range(len(models)), key=lambda number: -scores[number])
    soup, best = order[:1], scores[order[0]]
    for number in order[1:]:
        found = validate(dict(mean(models, [*soup, number])))
        if found > best:
            soup, best = [*soup, number], found
    yield from mean(models, soup)


def mean(models: Sequence[Mapping[str, Tensor]], soup: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """(name, mean over those models), float32; in the models' order, so that a soup of all is the uniform one."""
    for name in models[0]:
        chosen = (models[number][name].to(torch.float32, copy=True) for number in sorted(soup))
        yield name, added(chosen, [1.0] * len(soup)).div_(len(soup))
