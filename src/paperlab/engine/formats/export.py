"""Write a model in the formats of other runtimes: Hugging Face safetensors, compressed-tensors, GGUF.

Codes are copied unchanged wherever a format can hold them; they are rounded a second time only where the caller asks
for it. The output appears when it is complete, or not at all.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paperlab.engine.formats import compressed_tensors, gguf_writer
from paperlab.engine.formats.floats import from_float32
from paperlab.engine.formats.source import Item, Source, write_tokenizer
from paperlab.engine.native import EngineError
from paperlab.engine.packing.container import PACKED, Planned, copy_model_files, write_planned
from paperlab.engine.packing.layout import ENCODERS, Codes, Layout, Recipe, ends_of, is_packable, layout_of
from paperlab.engine.packing.output import check_place, check_space, staged

Format = Literal["hf", "compressed-tensors", "gguf"]
Progress = Callable[[str, int, int], None]
_FLOATS = ("F32", "F16", "BF16")
_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MORE = ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
SHARD = 5_000_000_000


def export(
    source: str | Path,
    out: str | Path,
    to: Format,
    *,
    recipe: Layout | Recipe | None = None,
    given: Mapping[str, Codes] | None = None,
    dtype: str | None = None,
    requantize: bool = False,
    shard: int = SHARD,
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Any]:
    """Write the model folder or GGUF file `source` as `out`: a folder, or for "gguf" a file whose name ends so.

    recipe, given: as for `pack`, to quantize on the way. dtype: of what is written as floats, "F32", "F16" or "BF16"
    (None: floats keep their own, what codes stand for becomes F32); for GGUF also "Q8_0", "Q4_0" and "Q4_1".
    requantize: codes that GGUF has no block for may be rounded again. shard: the most bytes of one safetensors file.
    progress: called with the tensor, the bytes written before it, and of how many.

    Returns bytes, tensors, and notes: sentences on what the format stores differently. Raises EngineError, and leaves
    nothing behind then.
    """
    source, out = Path(source), Path(out)
    check(source, out, to, dtype)
    opened = Source(source)
    bert = opened.config.get("model_type") in ENCODERS
    items = _chosen(opened, recipe, given or {}, bert, to == "compressed-tensors")
    if opened.config.get("tie_word_embeddings"):
        head, _ = ends_of(opened.items)
        if _repeats_table(opened):
            items = [item for item in items if item.name != head]
        elif head:
            opened.config["tie_word_embeddings"] = False  # a head that is there is the head
    with staged(out) as place:
        if to == "gguf":
            return gguf_writer.write(opened, items, place, dtype, requantize, progress, partial(check_space, out))
        notes: list[str] = []
        config = {key: value for key, value in opened.config.items() if key not in PACKED}
        if to == "hf":
            plan = [_floating(item, dtype) for item in items]
        else:
            plan, notes, config["quantization_config"] = compressed_tensors.plan(items, dtype, _floating)
        kinds = {tensor.kind for tensor in plan if tensor.kind in _FLOATS and len(tensor.shape) == 2}
        config.pop("torch_dtype", None)
        config["dtype"] = _TYPES["F16" if to != "hf" else kinds.pop() if len(kinds) == 1 else "F32"]
        size = _write_folder(plan, place, shard, progress, partial(check_space, out))
        (place / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _copy_tokenizer(opened, place)
    return {"bytes": size, "tensors": len(plan), "notes": notes}


def _repeats_table(source: Source) -> bool:
    """Whether the output head is there and is the embeddings once more."""
    head, table = (source.items.get(name) for name in ends_of(source.items))
    if not (head and table and head.raw and table.raw):
        return False
    return (head.shape, head.dtype) == (table.shape, table.dtype) and np.array_equal(head.raw(), table.raw())


def check(source: Path, out: Path, to: Format, dtype: str | None = None) -> None:
    """Refuse at once what `export` would refuse, before a method or a recipe is applied. Raises EngineError."""
    if to not in ("hf", "compressed-tensors", "gguf"):
        raise EngineError(f'no format "{to}"; hf, compressed-tensors and gguf are known')
    types = (*_FLOATS, *gguf_writer.BLOCKS) if to == "gguf" else _FLOATS
    if dtype not in (None, *types):
        raise EngineError(f'no type "{dtype}" for {to}; {", ".join(types)} are known')
    if to == "gguf" and out.suffix != ".gguf":
        raise EngineError(f"{out}: name a file that ends with .gguf")
    if to != "gguf" and out.suffix == ".gguf":
        raise EngineError(f"{out}: --to {to} writes a folder; only --to gguf writes a file")
    check_place(out)
    if (source / "config.json").is_file():
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        if to == "gguf":
            gguf_writer.check(config)
        if to == "compressed-tensors" and config.get("model_type") == "gpt2":
            raise EngineError(
                "GPT-2's matrices lie the other way round, for which compressed-tensors has no form; --to hf"
            )


def _chosen(
    source: Source, recipe: Layout | Recipe | None, given: Mapping[str, Codes], bert: bool, packed: bool
) -> list[Item]:
    """The source's tensors, those quantized that the recipe or `given` names. packed: for compressed-tensors."""
    if isinstance(recipe, Layout):
        recipe = [("*", recipe)]
    out, matched = [], not recipe
    for item in source.items.values():
        free = is_packable(item.name, item.shape, bert) and not (packed and compressed_tensors.is_table(item.stem))
        layout = layout_of(item.stem, recipe) if recipe and free else Layout(16)
        if item.stem in given:
            out.append(item.with_codes(given[item.stem]))
        elif layout.bits == 16:
            out.append(item)
        elif item.grid:
            raise EngineError(
                f"{item.name} is in few bits already; give the original weights, or no bits and no recipe"
            )
        else:
            out.append(item.rounded(layout, whole=packed))
            matched = True
    if not matched and not given:
        raise EngineError(f"no matrix of {source.path} matches the recipe")
    if absent := sorted(set(given) - {item.stem for item in out}):
        raise EngineError(f"{source.path} has no matrix {absent[0]}, for which codes are given")
    return out


def _floating(item: Item, dtype: str | None) -> Planned:
    """A tensor to write as floats of that type; one of other numbers stays as it is."""
    kind = dtype if dtype and item.dtype in _FLOATS else item.dtype
    if kind == item.dtype and item.raw is not None:
        return Planned(item.name, kind, item.shape, item.raw)
    return Planned(item.name, kind, item.shape, lambda: from_float32(item.floats(), kind, item.name))


def _write_folder(
    plan: list[Planned], place: Path, shard: int, progress: Progress, check: Callable[[int], None]
) -> int:
    """Write tensors to as many files as `shard` asks for; their bytes. check: refuses more than the disk has free."""
    total = sum(tensor.nbytes for tensor in plan)
    check(total)
    files: list[list[Planned]] = [[]]
    for tensor in plan:
        if files[-1] and sum(one.nbytes for one in files[-1]) + tensor.nbytes > shard:
            files.append([])
        files[-1].append(tensor)
    done = 0

    def report(tensor: Planned) -> None:
        nonlocal done
        progress(tensor.name, done, total)
        done += tensor.nbytes

    where: dict[str, str] = {}
    for number, tensors in enumerate(files, 1):
        name = "model.safetensors" if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        write_planned(place / name, tensors, {"format": "pt"}, report, align=1)
        where |= {tensor.name: name for tensor in tensors}
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (place / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def _copy_tokenizer(source: Source, place: Path) -> None:
    """Write tokenizer and settings: copies from a folder, or made from a GGUF file's fields."""
    if source.fields:
        return write_tokenizer(source, place)
    for name in _MORE:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, place / name)
    copy_model_files(source.path, place)  # config.json is there already
