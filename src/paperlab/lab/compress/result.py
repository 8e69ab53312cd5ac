"""What a choice of levels comes to: packed, measured on the engine beside the original, exported."""

import copy
import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

import paperlab
from paperlab.core.figures import Value
from paperlab.engine import Codes, EngineError, export, load
from paperlab.engine import pack as pack_model
from paperlab.engine.language import LanguageModel
from paperlab.engine.measure import Measured, compare
from paperlab.kit.depth import without_blocks
from paperlab.kit.walk import blocks
from paperlab.lab.compress.levels import DROPPED, MEASURED, SAYS
from paperlab.lab.compress.work import need_memory
from paperlab.lab.ship import tensors_of

if TYPE_CHECKING:
    from paperlab.lab.compress.search import Costs

SAMPLES, PROMPT, ANSWER = 3, 12, 40  # texts that are shown side by side: how many, words given, tokens generated
SPEED_TOKENS = 256  # of text on which uniform models are timed, where a speed is the target


def pack(
    model: nn.Module,
    source: Path,
    out: Path,
    codes: Mapping[str, Codes],
    changed: Mapping[str, Tensor],
    dropped: Collection[int] = (),
) -> None:
    """Write a packed model. changed: other parameters than the codes' that take the place of the model's, by name.
    dropped: the numbers of blocks that it has no more; the others move up."""
    if dropped:
        stem, stack = blocks(model)
        kept = [index for index in range(len(stack)) if index not in dropped]
        places = {f"{stem}.{old}.": f"{stem}.{new}." for new, old in enumerate(kept)}
        lost = tuple(f"{stem}.{index}." for index in dropped)

        def moved(name: str) -> str:
            start = next((start for start in places if name.startswith(start)), "")
            return places.get(start, "") + name.removeprefix(start)

        shared = {id(one): one for one in (*model.parameters(), *model.buffers())}
        model = without_blocks(copy.deepcopy(model, shared), dropped)
        codes = {moved(name): one for name, one in codes.items()}
        changed = {moved(name): one for name, one in changed.items() if not name.startswith(lost)}
    tensors = tensors_of(model, source)
    if changed:
        arrays = dict(tensors.arrays) | {name: tensor.float().contiguous().numpy() for name, tensor in changed.items()}
        tensors = type(tensors)(tensors.config, arrays, source)
    pack_model(tensors, out, [], codes)


@dataclass(frozen=True)
class Figures:
    """The result beside its source, on held-out text. perplexity: relative change; flips, kl: as `engine.measure` has
    them. speed: generated tokens per second. models: all that was measured, the source first, then the result."""

    bytes: int
    speed: float
    perplexity: Value
    flips: Value
    kl: Value
    models: tuple[Measured, ...]
    tokens: int
    items: int

    def state(self) -> dict[str, Any]:
        """For a JSON file."""
        return {"models": [asdict(one) for one in self.models], "tokens": self.tokens, "items": self.items}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Figures":
        """From `state`."""
        models = []
        for one in state["models"]:
            values: dict[str, Any] = {
                name: Value(**value) if isinstance(value, dict) else value for name, value in one.items()
            }
            models.append(Measured(**values))
        return cls.from_models(models, state["tokens"], state["items"])

    @classmethod
    def from_models(cls, models: Sequence[Measured], tokens: int, items: int) -> "Figures":
        """From the source, the result and others."""
        mine = models[1]
        return cls(mine.bytes, mine.generating, mine.change, mine.flips, mine.kl, tuple(models), tokens, items)


def measure(
    source: Path,
    made: Path,
    uniform: Mapping[str, Path],
    texts: Sequence[str],
    tokens: int,
    name: str,
    progress: Callable[[int, int], None],
    say: Callable[[str], None],
) -> Figures:
    """Run source, result and uniform models on the same text, in turns. Where memory does not hold all, the uniform
    ones are left out, and that is said."""
    from dataclasses import replace

    others = dict(uniform)
    files = [*source.glob("*.safetensors"), made / "model.safetensors"]
    own = sum(file.stat().st_size for file in files)
    room = own + sum((path / "model.safetensors").stat().st_size for path in others.values())
    try:
        need_memory(1.2 * room, "measuring")
    except ValueError:
        need_memory(1.2 * own, "measuring")
        say("memory does not hold the uniform models beside the result: they are left out of the plot")
        others = {}
    while True:
        try:
            found = compare(source, [made, *others.values()], texts, tokens=tokens, progress=progress)
            break
        except EngineError as error:
            if "not finite" not in str(error) or not others:
                raise
            broken = next(
                (at for at, path in others.items() if re.search(rf"{re.escape(str(path))}(?![\w-])", str(error))), None
            )
            if broken is None:
                raise
            del others[broken]
    named = [name, "compressed", *(f"all at {SAYS[level]}" for level in others)]
    models = [replace(one, name=word) for one, word in zip((found.source, *found.models), named, strict=True)]
    return Figures.from_models(models, found.tokens, found.items)


def bytes_for_speed(
    source: Path, uniform: Mapping[str, Path], speed: float, least: int, most: int, texts: Sequence[str]
) -> int:
    """The size at which the model should generate so many tokens per second: time against bytes of the uniform models,
    measured here, fitted by a line. Raises RunError where even the fastest of them is slower."""
    from paperlab.lab.errors import RunError

    found = compare(source, list(uniform.values()), texts, tokens=SPEED_TOKENS)
    points = [(one.bytes, 1 / one.generating) for one in found.models]
    fastest = max(one.generating for one in found.models)
    if fastest < speed:
        raise RunError(
            f"the target is out of reach: {speed:g} tokens per second, and the fastest model with all matrices at one "
            f"level generates {fastest:.0f} here (the original {found.source.generating:.0f}); more threads, or a "
            "smaller model"
        )
    mean_x, mean_y = (sum(part) / len(points) for part in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    if slope <= 0:
        return least
    return round(min(max(mean_x + (1 / speed - mean_y) / slope, least), most))


def export_all(
    folder: Path, formats: Sequence[str], out: Path, progress: Callable[[str, int, int], None]
) -> list[dict[str, Any]]:
    """Write the packed model in `folder` in other formats inside it; what was written, or why not."""
    done = []
    for to in formats:
        name = "model.gguf" if to == "gguf" else to
        try:
            made = export(folder, folder / name, to, requantize=to == "gguf", progress=progress)  # type: ignore[arg-type]
            done.append({"format": to, "path": str(out / name), "bytes": made["bytes"], "notes": made["notes"]})
        except EngineError as error:
            done.append({"format": to, "path": None, "bytes": 0, "notes": [f"not written: {error}"]})
    return done


def samples(source: Path, made: Path, texts: Sequence[str]) -> list[dict[str, str]]:
    """Greedy continuations of a few held-out texts by source and result."""
    found = []
    models = [load(path) for path in (source, made)]
    prompts = [" ".join(text.split()[:PROMPT]) for text in texts if len(text.split()) > PROMPT]
    step = max(1, len(prompts) // SAMPLES)
    for prompt in prompts[::step][:SAMPLES]:
        said = []
        for model in models:
            assert isinstance(model, LanguageModel)
            said.append("".join(model.generate(prompt, max_tokens=ANSWER)))
        found.append({"prompt": prompt, "original": said[0], "compressed": said[1]})
    return found


def figures(
    run: Any, attempt: Any, costs: "Costs | None", more: Mapping[str, Any], missed: Mapping[str, str], says: str
) -> dict[str, Any]:
    """All that is known, for recipe.json and the page."""
    seen = attempt.measured
    rank: dict[str, int] = {}
    for alike in (True, False):  # tables are measured at levels of their own, and ranked among themselves
        names = [name for name in more["sensitive"] if (MEASURED in more["sensitive"][name]) is alike]
        names.sort(key=lambda name: -max(more["sensitive"][name].values()))
        rank |= {name: place for place, name in enumerate(names, 1)}
    gone = {DROPPED: {"bytes": 0, "error": 1.0}}
    layers = {
        name: {
            "level": level,
            "bytes": int((more["about"].get(name, {}) | gone)[level]["bytes"]),
            "error": (more["about"].get(name, {}) | gone)[level]["error"],
            "sensitivity": max(more["sensitive"][name].values()) if name in rank else None,
            "rank": rank.get(name),
            "loss": costs.loss[name].get(level) if costs else None,
        }
        for name, level in attempt.choice.items()
    }
    return {
        "paperlab": paperlab.__version__,
        "model": run.name,
        "architecture": run.plan.architecture,
        "weights": run.plan.weights,
        "met": not missed,
        "says": says,
        "asked": run.settings.says(),
        "text": run.text.describe(),
        "windows": {
            "calibration": len(run.windows.calibration),
            "search": len(run.windows.search),
            "validation": len(run.windows.validation),
            "length": run.windows.search.shape[1],
        },
        "levels": attempt.choice,
        "rounded": attempt.how,
        "layers": layers,
        "search": attempt.generations,
        "budget": attempt.budget,
        "try": attempt.number,
        "recovery": asdict(attempt.recovered) if attempt.recovered else None,
        "recovery_says": attempt.recovered.says() if attempt.recovered else None,
        "skipped": list(run.plan.skipped),
        "tied": run.plan.tied,
        "measured": seen.state(),
        "change": asdict(seen.perplexity),
    }


def finite(value: Any) -> Any:
    """NaN and infinities as null, for JSON."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_page(folder: Path, said: Mapping[str, Any], attempt: Any, source: Path, texts: Sequence[str]) -> None:
    """recipe.json and report.html in the result's folder."""
    from paperlab.lab.compress.report import page

    (folder / "recipe.json").write_text(
        json.dumps(finite(dict(said)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    file = attempt.recovery / "recovery.svg"
    drawn = file.read_text(encoding="utf-8") if attempt.recovered and file.is_file() else None
    (folder / "report.html").write_text(
        page(said, attempt.measured, samples(source, folder, texts), drawn), encoding="utf-8"
    )
