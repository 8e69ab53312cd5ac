"""Read and write safetensors files with NumPy alone: memory-mapped in, aligned out; and what a packed model has.

A packed model is a folder like any other of Hugging Face's. Its `model.safetensors` has, for a matrix NAME of (rows,
columns), instead of NAME.weight:

    NAME.codes   U8    the codes, tile after tile (native/kernels/kernels.h draws the order)
    NAME.scales  F16   one per row and group, [row / 16][group][16]
    NAME.mins    F16   the same, where the layout is asymmetric
    NAME.masks   U64   sparse: one bit per weight, 64 to a quad of 16 rows x 4 columns
    NAME.starts  U64   sparse: where the codes of each 16 rows begin, in bytes

    NAME.book    I8    with a codebook: (2^bits, codebook), the entries; a code stands for `codebook` columns

and in addition to any of them

    NAME.low_rank.a  F16  (rank, columns)
    NAME.low_rank.b  F16  [row / 16][rank][16]; b @ a is added to what the codes stand for
    NAME.rows, NAME.columns  I32  the rows, the columns that are kept; all else then describes the matrix of these
    NAME.outliers.starts   U32  (rows + 1,)  where each row's exact weights begin; the last is their number
    NAME.outliers.columns  U16  their columns, ascending within a row
    NAME.outliers.values   F16 or F32  the weights themselves, in place of all else

and in the header's metadata, under "paperlab.NAME", a JSON object: rows, columns, bits, group, symmetric, sparse, and
where they are there codebook, rank, outliers, kept_rows and kept_columns (how many).
Every tensor begins at a multiple of 64 bytes of the file; what fills the place before one is named paperlab.fill.N.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paperlab.core.files import replacing
from paperlab.core.sentence import SentenceError, modules
from paperlab.engine.native import EngineError

KINDS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAMES = {np.dtype(kind): name for name, kind in KINDS.items() if name != "BF16"}
_ALIGN = 64
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
"""What a model folder has in addition to its weights; `model_files` has what more there may be."""
PACKED = {
    "quantization_config": {"quant_method": "paperlab", "format": "paperlab", "version": "2"},
    "transformers_weights": "a model packed by paperlab for its CPU engine: `paperlab chat` and `paperlab serve-model` "
    "open it, and `paperlab export FOLDER --to hf -o OUT` writes it for transformers",
}
"""What a packed model's config.json has besides the model's own: transformers refuses such a folder with these words,
where it would else find none of its tensors, and draw random ones."""
FILL = "paperlab.fill."  # prefix of tensors that only align the next one


def model_files(folder: Path) -> list[str]:
    """The files of a model folder in addition to its weights, those that are there: `MODEL_FILES`, further chat
    templates, and what modules.json names. Raises EngineError."""
    more = [f"additional_chat_templates/{file.name}" for file in folder.glob("additional_chat_templates/*.jinja")]
    try:
        places = [place for _, place in modules(folder)]
    except SentenceError as error:
        raise EngineError(str(error)) from None
    for place in places:
        if place != folder:
            more += [f"{place.relative_to(folder)}/{name}" for name in ("config.json", "model.safetensors")]
    return [name for name in dict.fromkeys((*MODEL_FILES, *sorted(more))) if (folder / name).is_file()]


def copy_model_files(source: Path, out: Path) -> None:
    """Copy what a model has in addition to its weights, except for what is in `out` already. Raises EngineError."""
    for name in model_files(source):
        if not (out / name).exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, out / name)


def read_header(file: Path) -> tuple[dict[str, dict], dict[str, str], int]:
    """Read a file's header: entries by name, metadata, and the offset of the data. Raises EngineError."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size - 8, 100_000_000):
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(length))
        metadata = header.pop("__metadata__", {})
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            kind = KINDS[entry["dtype"]]
            if not 0 <= begin <= end <= size - 8 - length:
                raise ValueError(f"{name} lies outside the file")
            if int(np.prod(entry["shape"], dtype=object)) * np.dtype(kind).itemsize != end - begin:
                raise ValueError(f"{name} has another size than its shape says")
    except KeyError as error:
        raise EngineError(f"{file}: unknown or missing {error} in its header") from None
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise EngineError(f"{file} is no whole safetensors file: {error}") from None
    return header, metadata, 8 + length


class Weights:
    """All tensors of a model folder, mapped; `name in weights`, `weights.names()`."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        files = [folder / "model.safetensors"]
        if not files[0].is_file() and index.is_file():
            try:
                parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise EngineError(f"{index} is broken; fetch it again") from None
            if any(Path(part).name != part for part in parts):
                raise EngineError(f"{index} names files outside its folder")
            files = [folder / part for part in parts]
        self._where: dict[str, tuple[Path, dict, int]] = {}
        self.metadata: dict[str, str] = {}
        for file in files:
            entries, metadata, start = read_header(file)
            self.metadata |= metadata
            self._where |= {name: (file, entry, start) for name, entry in entries.items() if not name.startswith(FILL)}

    def names(self) -> list[str]:
        """Every tensor's name, in order."""
        return sorted(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._where[name][1]["shape"])

    def kind(self, name: str) -> str:
        """The type as safetensors spells it."""
        return str(self._where[name][1]["dtype"])

    def raw(self, name: str) -> np.ndarray:
        """The tensor as it is stored, memory-mapped; bfloat16 as uint16."""
        file, entry, start = self._where[name]
        kind, shape = np.dtype(KINDS[entry["dtype"]]), tuple(entry["shape"])
        if 0 in shape:
            return np.empty(shape, kind)
        return np.memmap(file, kind, "r", start + entry["data_offsets"][0], shape)

    def floats(self, name: str) -> np.ndarray:
        """The tensor as float32. Raises EngineError where it holds no floats."""
        return to_float32(self.raw(name), self.kind(name), name)


def kind_of(name: str, array: np.ndarray) -> str:
    """The type of an array as safetensors spells it; uint16 are the bits of bfloat16. Raises EngineError."""
    if array.dtype == np.uint16:
        return "BF16"
    if array.dtype not in _NAMES:
        raise EngineError(f"{name} is of type {array.dtype}, which safetensors files do not have")
    return _NAMES[array.dtype]


def to_float32(raw: np.ndarray, kind: str, name: str) -> np.ndarray:
    """An array as float32, bfloat16 from its bits. Raises EngineError where it has no floats."""
    if kind == "BF16":
        wide = raw.astype(np.uint32)
        wide <<= 16
        return np.asarray(wide).view(np.float32)
    if kind not in ("F32", "F16", "F64"):
        raise EngineError(f"{name} is of type {kind}; floats are needed")
    return np.ascontiguousarray(raw, np.float32)


@dataclass(frozen=True)
class Planned:
    """A tensor to be written. kind: as safetensors spells it; make: called when its turn comes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * np.dtype(KINDS[self.kind]).itemsize


def write(file: Path, tensors: Mapping[str, tuple[str, np.ndarray]], metadata: Mapping[str, str]) -> None:
    """Write {name: (type, array)} as one safetensors file, complete or not at all."""
    plan = [Planned(name, kind, array.shape, lambda a=array: a) for name, (kind, array) in tensors.items()]  # type: ignore[misc]
    write_planned(file, plan, metadata)


def write_planned(
    file: Path,
    plan: Sequence[Planned],
    metadata: Mapping[str, str],
    progress: Callable[[Planned], None] = lambda _: None,
    align: int = _ALIGN,
) -> None:
    """Write tensors one by one as one safetensors file, complete or not at all; only one is in memory at a time.

    align: where tensors begin; what lies between two is a tensor of its own, named FILL, as safetensors knows no gaps.
    """
    header, places, _ = _laid_out(plan, metadata, align)
    with replacing(file) as opened:
        opened.write(header)
        for tensor, place in zip(plan, places, strict=True):
            progress(tensor)
            array = np.ascontiguousarray(tensor.make())
            if array.nbytes != tensor.nbytes:
                raise ValueError(f"{tensor.name} has {array.nbytes} bytes where {tensor.nbytes} were planned")
            opened.seek(len(header) + place)
            opened.write(array.data)


def write_outline(file: Path, plan: Sequence[Planned]) -> None:
    """Write a file with the names, types and shapes of tensors, all zero: a hole that takes no room on the disk."""
    header, _, end = _laid_out(plan, {}, _ALIGN)
    with file.open("wb") as opened:
        opened.write(header)
        opened.truncate(len(header) + end)


def _laid_out(plan: Sequence[Planned], metadata: Mapping[str, str], align: int) -> tuple[bytes, list[int], int]:
    """A file's first bytes, where each tensor begins after them, and where the last one ends."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    places, at = [], 0
    for tensor in plan:
        places.append(at)
        entries[tensor.name] = {
            "dtype": tensor.kind,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
        if (gap := -at % align) and tensor is not plan[-1]:
            entries[f"{FILL}{len(places)}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [at, at + gap]}
            at += gap
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % _ALIGN)
    return len(header).to_bytes(8, "little") + header, places, at


def config_json(config: Mapping[str, Any]) -> str:
    """The text of config.json, as transformers writes it. Raises EngineError."""
    try:
        return json.dumps(dict(config), indent=2, sort_keys=True) + "\n"
    except (TypeError, ValueError) as error:
        raise EngineError(f"the config cannot be written as JSON: {error}") from None


def named(array: np.ndarray) -> tuple[str, np.ndarray]:
    """(type, array) as `write` takes it."""
    return _NAMES[array.dtype], array
