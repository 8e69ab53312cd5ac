"""Training embeddings on the cached states of a frozen encoder, with a method's loss or classifiers.

Everything else is equal between arms: the states, the path beside the encoder and its first weights
(`paperlab.kit.embedding`), the order of examples, the number of steps, and tuning: each arm tries the setting's
learning rates on the first seed and keeps the one that is best on validation data by the task's own figure, never by
the arm's loss: losses of different arms are different things, and a loss may fall while the embeddings get worse. A
method without a loss is not trained: it is the encoder as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.methods import Method
from paperlab.kit.embedding import Embedder, Labelled, Pairs, Setting, fit
from paperlab.lab.drivers._common import Progress, in_order, silent, takes
from paperlab.lab.drivers._rates import best_rate

SAYS = "trains embeddings on the states of a frozen encoder"
BUILDS = "Embedder"
STARTS_FROM = ()
DRAWS = True  # first weights, order of examples, dropout: from the seed, whatever a method asks for

VERBS = {
    "loss": {
        "says": "what is minimised: embeddings (n, width) of queries and of their documents, row by row, or those of "
        "all layers (layers, n, width) -> a scalar",
        "supplies": ("queries", "documents", "query_layers", "document_layers"),
        "data": (),
        "returns": ("Tensor",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
# In any training loop: pooled embeddings of all layers, (layers, n, width), or of the last one, (n, width).
value = {variable}(queries, documents)""",
    },
    "head": {
        "says": "called once for each layer: what an embedding goes through there, (n, width) -> the same",
        "supplies": ("width",),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
head = {variable}(384)  # one for each layer that an embedding is taken from""",
    },
    "classifiers": {
        "says": "embeddings (n, width) -> logits (n, classes) by number of coordinates that they are made from",
        "supplies": ("width", "classes"),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
classifiers = {variable}(384, 10)  # minimise the sum of their cross-entropies""",
    },
    "project": {
        "says": "made after training from embeddings (n, width) of the training data: (n, width) -> the same",
        "supplies": ("embeddings",),
        "data": (),
        "returns": ("Module",),
        "own_model": False,
        "snippet": """\
import paperlab

{variable} = paperlab.load("{slug}"{arguments})
project = {variable}(embeddings)  # of your own texts; project(embeddings)[:, :32] are the short ones""",
    },
}


class Exits(nn.Module):
    """The path beside the encoder with a head for each layer: (n, layers, width) -> (layers, n, width)."""

    def __init__(self, path: nn.Module, heads: nn.ModuleList) -> None:
        super().__init__()
        self.path, self.heads = path, heads

    def forward(self, states: Tensor) -> Tensor:
        """Embeddings at every exit."""
        return torch.stack([head(z) for head, z in zip(self.heads, self.path(states), strict=True)])


class Whole(nn.Module):
    """What every text classifier without a say of its own has: one linear layer over all coordinates."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, classes)

    def forward(self, embeddings: Tensor) -> dict[int, Tensor]:
        """(n, width) -> {width: logits}."""
        return {self.layer.in_features: self.layer(embeddings)}


def tune(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Setting,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """{"rate": the learning rate that is best on validation data, "validation": the task's figure by rate}.

    Run once per arm, on the first seed; a tie goes to the smaller rate. Raises ValueError for a setting without rates.
    """
    if not _trains(functions, setting):
        return {"rate": 0.0, "validation": {}}

    def figure(rate: float) -> float:
        arm = _train(functions, params, setting, rate, seed)
        with torch.random.fork_rng(devices=[]):
            return setting.validate(arm)

    return best_rate(setting.rates, figure, progress)


def build(
    functions: Mapping[str, Callable[..., Any]],
    params: Mapping[str, Any],
    *,
    setting: Setting,
    seed: int = 0,
    start: None = None,
    progress: Progress = silent,
    tuned: Mapping[str, Any] | None = None,
) -> Embedder:
    """An arm of a check: the path trained at the learning rate that `tune` chose (chosen here, on this seed, where
    none is given). The global random state is left as it was."""
    if tuned is None:
        tuned = tune(functions, params, setting=setting, seed=seed, progress=progress)
    arm = _train(functions, params, setting, tuned["rate"], seed)
    arm.validation = dict(tuned["validation"])
    progress("training", 1, 1)
    return arm


def _train(
    functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any], setting: Setting, rate: float, seed: int
) -> Embedder:
    """The arm, trained and in evaluation mode."""
    verbs = _bound(functions, params)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = setting.network()
        if "head" in verbs:
            heads = [verbs["head"](setting.width) for _ in range(setting.layers)]
            for head in heads:
                takes(head, nn.Module, "head")
            network = Exits(network, nn.ModuleList(heads))
        classifiers = None
        if setting.classes and _trains(functions, setting):
            classifiers = verbs.get("classifiers", Whole)(setting.width, setting.classes)
            takes(classifiers, nn.Module, "classifiers")
        arm = Embedder(network.eval(), None, classifiers, rate)
        if _trains(functions, setting):
            objective = _of_classes(arm) if classifiers is not None else _of_pairs(network, verbs["loss"])
            parts = nn.ModuleList([network] if classifiers is None else [network, classifiers])
            torch.manual_seed(seed)
            arm.trained = fit(
                parts, setting.train, objective, steps=setting.steps, batch=setting.batch, rate=rate, seed=seed
            )
            arm.steps = setting.steps
        if "project" in verbs:
            arm.project = verbs["project"](_embeddings(arm, setting.train))
            takes(arm.project, nn.Module, "project")
            arm.classifiers = None  # they were trained on what is projected no longer
        return arm


def _trains(functions: Mapping[str, Callable[..., Any]], setting: Setting) -> bool:
    """Whether there is something to minimise: a loss, or, of classes, classifiers."""
    return "loss" in functions or (bool(setting.classes) and "classifiers" in functions)


def _of_pairs(network: nn.Module, loss: Callable[..., Tensor]) -> Callable[[Pairs], Tensor]:
    """The loss of a batch of pairs. All verbs get all layers: what a loss does not ask for stays out of its call."""

    def value(batch: Pairs) -> Tensor:
        queries, documents = network(torch.cat([batch.queries, batch.documents])).chunk(2, 1)
        return loss(queries[-1], documents[-1], queries, documents)

    return value


def _of_classes(arm: Embedder) -> Callable[[Labelled], Tensor]:
    """The sum of the classifiers' cross-entropies on a batch of labelled texts."""

    def value(batch: Labelled) -> Tensor:
        logits = arm.classifiers(arm.model(batch.texts)[-1])  # type: ignore[misc]
        return torch.stack([F.cross_entropy(one, batch.labels) for one in logits.values()]).sum()

    return value


@torch.no_grad()
def _embeddings(arm: Embedder, data: Pairs | Labelled) -> Tensor:
    """Of the last layer, of all training texts."""
    states = (data.queries, data.documents) if isinstance(data, Pairs) else (data.texts,)
    return torch.cat([arm.model(part)[-1] for part in states])


def _bound(functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """The method's verbs with their parameters set, to be called with what VERBS supplies, in that order."""
    return {verb: in_order(function, params, VERBS[verb]) for verb, function in functions.items()}


def use(method: Method, functions: Mapping[str, Callable[..., Any]], params: Mapping[str, Any]) -> Callable[..., Any]:
    """The method's first verb with its parameters set; its other verbs are attributes of it.

    A loss takes queries and documents, of all layers or of the last one.
    """
    made = _bound(functions, params)
    if "loss" in made:
        loss = made["loss"]

        def plugged(queries: Tensor, documents: Tensor) -> Tensor:
            """Embeddings (layers, n, width), or (n, width) of the last layer -> a scalar."""
            if queries.shape != documents.shape or queries.dim() not in (2, 3):
                raise ValueError(
                    f"queries {tuple(queries.shape)} and documents {tuple(documents.shape)}: give (layers, n, width) "
                    "or (n, width) of each, a query's own document in its row"
                )
            layers = (queries, documents) if queries.dim() == 3 else (queries[None], documents[None])
            return loss(layers[0][-1], layers[1][-1], *layers)

        made["loss"] = plugged
    first = made[method.verbs[0]]
    for verb, function in made.items():
        if function is not first:
            setattr(first, verb, function)
    return first
