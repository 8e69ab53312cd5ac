"""paperlab: Daily Papers you can run.

>>> import paperlab
>>> easyquant = paperlab.load("easyquant", bits=3)      # any method; its parameters as keywords
>>> small = easyquant(model, calibration=texts)         # any transformers model; yours is copied, not changed
>>> paperlab.check("easyquant", model="path/or/id")     # run the paper's claim on it
>>> paperlab.compress("path/or/id", "small", target="4x", within="2%")     # bits for each matrix, searched and measured
>>> paperlab.distill("path/or/id", "pruned", "recovered", budget="30m")    # a student learns from its teacher

`methods()` and `papers()` list what there is. Importing this package imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from paperlab.core.methods import Method
    from paperlab.core.paper import Paper
    from paperlab.core.record import Record
    from paperlab.lab.compress import Outcome
    from paperlab.lab.distil import Distilled

__all__ = ["__version__", "check", "compress", "distill", "load", "methods", "papers"]


def load(name: str, **params: Any) -> Callable[..., Any]:
    """A method ready for your own model: `method(model, calibration=texts) -> compressed model`.

    name: a method's slug. params: its parameters; `help()` of what comes back lists them. Raises UnknownMethod (with
    near names) and ParameterError (with what is allowed) before anything heavy is imported, and MissingExtra, an
    ImportError with the command that helps, where PyTorch and the like are not installed.
    """
    from paperlab.core.install import needs
    from paperlab.core.methods import check_parameters, find_method

    method = find_method(name)
    check_parameters(method, params)
    with needs("lab"):
        from paperlab.lab import use

        return use.load(method.slug, **params)


def check(name: str, **options: Any) -> list[Record]:
    """Run a method's checks, as `paperlab run` does: claim, scale, model, data, params, seeds, resume,
    jobs.

    Returns the records that were kept. Raises UnknownMethod with near names, and MissingExtra as `load` does.
    """
    from paperlab.core.install import needs
    from paperlab.core.methods import find_method

    method = find_method(name)
    with needs("lab"):
        import torch

        from paperlab.lab.run import run_checks

        # Runs seed torch; the caller's own random numbers go on as if there had been none.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            return run_checks(method.slug, **options)


def compress(
    model: Any,
    out: str | PathLike[str],
    *,
    target: str | None = None,
    within: str | float | None = None,
    calibration: str | Sequence[str] = "abstracts",
    recipe: str | PathLike[str] | None = None,
    recover: str = "0",
    search: str = "2m",
    tokenizer: Any = None,
    **options: Any,
) -> Outcome:
    """Compress a language model into the folder `out`, as `paperlab compress` does, and say what came of it.

    model: a folder, a registered name, a hub id, or a transformers model in memory (with its tokenizer, unless that
    lies in the folder the model came from). target: "4x" (against 16 bits a weight), "120MB" or "200tok/s". within:
    how much worse it may be on held-out text, "1%" or 0.01. calibration: a text's name or file, or documents; half of
    it is held out. recipe: a recipe.json to repeat. recover: "30m", "200steps". search: a time for the evolution.
    options: metric, tokens, exports, anyway, keep, seed, and progress(stage, what, done, total), say(line), as
    `paperlab.lab.compress.Settings` has them.

    Returns an Outcome: met, says, folder (None where the limit is not met, unless anyway), figures. Raises ValueError
    for what cannot be done, and MissingExtra as `load` does.
    """
    from paperlab.core.install import needs

    with needs("lab"):
        from paperlab.lab.compress.python import compress_any

        asked = {"target": target, "within": within, "recipe": recipe, "recover": recover, "search": search}
        return compress_any(model, out, calibration, tokenizer, asked, options)


def distill(
    teacher: str | PathLike[str],
    student: str | PathLike[str],
    out: str | PathLike[str],
    *,
    budget: str,
    method: str = "divergence",
    **options: Any,
) -> Distilled:
    """Train a student on a teacher's predictions and write it to the folder `out`, as `paperlab distill` does.

    teacher, student: folders, registered names or hub ids of language models with one tokenizer. budget: "30m",
    "200steps" or "50ktokens". method: a loss of the catalogue. options: params (of the method), data, rates,
    keep_blocks, rows, accumulate, seed, progress(stage, what, done, total), say(line), as `paperlab.lab.distil.distil`
    has them.

    Returns a Distilled: folder, recovered (KL to the teacher before and after), rate, says(). Raises ValueError for
    what cannot be done, and MissingExtra as `load` does.
    """
    from pathlib import Path

    from paperlab.core.install import needs

    with needs("lab"):
        from paperlab.assets.models import model_folder
        from paperlab.lab.compress import budget_of
        from paperlab.lab.distil import distil

        def place(name: str | PathLike[str]) -> Path:
            path = Path(name).expanduser()
            return path if path.exists() else model_folder(str(name))[0]

        spent = budget_of(budget)
        return distil(place(teacher), place(student), Path(out).expanduser(), budget=spent, method=method, **options)


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
        from paperlab.core.install import version

        return version()
    raise AttributeError(f"module 'paperlab' has no attribute {name!r}")
