"""paperlab: Daily Papers you can run.

>>> import paperlab
>>> easyquant = paperlab.load("easyquant", bits=3)      # any method; its parameters as keywords
>>> small = easyquant(model, calibration=texts)         # any transformers model; yours is copied, not changed
>>> paperlab.check("easyquant", model="path/or/id")     # run the paper's claim on it

`methods()` and `papers()` list what there is. Importing this package imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from paperlab.core.methods import Method
    from paperlab.core.paper import Paper
    from paperlab.core.record import Record

__all__ = ["__version__", "check", "load", "methods", "papers"]


def load(name: str, **params: Any) -> Callable[..., Any]:
    """A method ready for your own model: `method(model, calibration=texts) -> compressed model`.

    name: a method's slug. params: its parameters. Raises UnknownMethod (with near names) and ParameterError
    (with what is allowed) before anything heavy is imported.
    """
    from paperlab.core.methods import check_parameters, find_method

    method = find_method(name)
    check_parameters(method, params)
    from paperlab.lab import use

    return use.load(method.slug, **params)


def check(name: str, **options: Any) -> list[Record]:
    """Run a method's checks, as `paperlab run` does: claim, scale, model, data, params, seeds, resume.

    Returns the records that were kept. Raises UnknownMethod with near names.
    """
    from paperlab.core.methods import find_method

    method = find_method(name)
    from paperlab.lab.run import run_checks

    return run_checks(method.slug, **options)


def methods() -> dict[str, Method]:
    """All methods by slug, baselines included, read without importing any of them."""
    from paperlab.core.methods import methods

    return methods()


def papers() -> dict[str, Paper]:
    """The catalogue's papers by slug."""
    from paperlab.core.paper import papers

    return papers()


def __getattr__(name: str) -> Any:
    if name == "__version__":  # read from the package's metadata only when asked for: it costs milliseconds
        from importlib.metadata import version

        return version("paperlab")
    raise AttributeError(f"module 'paperlab' has no attribute {name!r}")
