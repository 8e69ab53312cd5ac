"""`paperlab.compress` from Python: a model by name or in memory."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

from paperlab.assets.models import model_folder
from paperlab.lab.compress.settings import TEXT, Settings, budget_of, share_of, target_of
from paperlab.lab.compress.stages import Outcome, compress
from paperlab.lab.errors import RunError
from paperlab.lab.models import _tokenizer_of


def compress_any(
    model: Any,
    out: str | PathLike[str],
    calibration: str | Sequence[str],
    tokenizer: Any,
    asked: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Outcome:
    """`paperlab.compress`; a model in memory is written beside `out` first. Raises what `compress` does."""
    told = {name: value for name, value in options.items() if name in ("progress", "say")}
    rest = {name: value for name, value in options.items() if name not in told}
    if unknown := rest.keys() - {"metric", "tokens", "exports", "anyway", "keep", "seed"}:
        raise RunError(f"no option {min(unknown)!r}; metric, tokens, exports, anyway, keep, seed, progress, say")
    named = isinstance(calibration, str)
    search = budget_of(asked["search"])
    if search and search.seconds is None:
        raise RunError(f"search={asked['search']!r}: a time such as 2m or 30s; 0 for none")
    settings = Settings(
        target_of(asked["target"]) if asked["target"] else None,
        share_of(asked["within"]) if asked["within"] is not None else None,
        data=str(calibration) if named else TEXT,
        texts=None if named else tuple(calibration),
        recipe=Path(asked["recipe"]) if asked["recipe"] else None,
        recover=budget_of(asked["recover"]),
        search=search.seconds or 0.0,
        **rest,
    )
    place = Path(out).expanduser()
    if isinstance(model, str | PathLike):
        path = Path(model).expanduser()
        return compress(
            path if path.exists() else model_folder(str(model))[0], place, settings, name=str(model), **told
        )
    if not hasattr(model, "save_pretrained"):
        raise RunError(f"a {type(model).__name__} is no transformers model; give one, or a folder or name")
    with ExitStack() as stack:
        place.absolute().parent.mkdir(parents=True, exist_ok=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place.absolute().parent, prefix=".source-")))
        model.save_pretrained(folder)
        (_tokenizer_of(model) if tokenizer is None else tokenizer).save_pretrained(folder)
        return compress(folder, place, settings, name=type(model).__name__, **told)
