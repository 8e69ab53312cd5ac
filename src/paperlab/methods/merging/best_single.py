"""Best single model: of several runs, the one that is best on validation data; what a sweep usually leaves."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from paperlab.core.card import Card

CARD = Card(family="merging")


def choose(
    models: Sequence[Mapping[str, Tensor]], validate: Callable[[Mapping[str, Tensor]], float] | None
) -> Iterator[tuple[str, Tensor]]:
    """Weights by name of each model -> (name, tensor) of the one for which `validate` is highest; the first of equals.

    Raises ValueError without `validate`.
    """
    if validate is None:
        raise ValueError("the best model is chosen on validation data: pass validate=, a function of a model")
    scores = [validate(model) for model in models]
    yield from models[scores.index(max(scores))].items()
