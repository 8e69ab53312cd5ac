"""Model folders as mappings: tensors are read one at a time and written as they come; no model is in memory whole."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from paperlab.engine.packing.container import MODEL_FILES
from paperlab.lab.errors import RunError

SHARD = 5_000_000_000  # bytes of a shard at most, unless one tensor is larger
SINGLE, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
SMALL = (
    "*config*.json",
    "*token*",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.jinja",
    "modules.json",
)  # what goes with weights
SAME = ("model_type", "architectures", "num_attention_heads", "num_key_value_heads", "hidden_act")
Progress = Callable[[str, int, int], None]  # what, bytes done, of how many

_FLOATS = {"F64", "F32", "F16", "BF16"}
_WIDTH = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


class Folder(Mapping[str, Tensor]):
    """The tensors of a Hugging Face folder by name, read from its safetensors files when asked for.

    Raises ValueError for a folder without safetensors files (pickled weights are never loaded), or with broken ones.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._open = [safe_open(file, framework="pt") for file in _files(path)]
        except Exception as error:  # safetensors has an exception of its own, derived from Exception
            if isinstance(error, ValueError):
                raise
            raise ValueError(f"{path} has a .safetensors file that cannot be read: {error}") from None
        self._where = {name: number for number, opened in enumerate(self._open) for name in opened.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        return self._open[self._where[name]].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def layout(self, name: str) -> tuple[str, list[int], int]:
        """Type, shape and bytes of a tensor, from its file's header alone."""
        part = self._open[self._where[name]].get_slice(name)
        kind, shape = part.get_dtype(), part.get_shape()
        size = _WIDTH.get(kind, 1)
        for length in shape:
            size *= length
        return kind, shape, size

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(self.layout(name)[2] for name in self)

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says; {} without one."""
        file = self.path / CONFIG
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _files(path: Path) -> list[Path]:
    """The weight files of a folder: those that its index names, else model.safetensors, else all there are."""
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give the folder of a model, with config.json and .safetensors files")
    if (path / INDEX).is_file():
        named = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        files = [path / name for name in sorted(set(named))]
        if absent := [file.name for file in files if not file.is_file()]:
            raise ValueError(f"{path} lacks {absent[0]}, which its index names; fetch the model again")
        return files
    files = [path / SINGLE] if (path / SINGLE).is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{path} has no .safetensors files; save the model with save_pretrained(..., safe_serialization=True)"
        )
    return files


def check_models(base: Folder, models: Sequence[Folder], progress: Progress) -> None:
    """Refuse models that cannot be merged, before any work; all tensors are read once, in search of NaN.

    Raises RunError for another architecture, packed weights, another tokenizer, tensors that are missing or of another
    shape, and values that are not finite.
    """
    for model in (base, *models):
        if "quantization_config" in model.config:
            raise RunError(f"{model.path} is quantized; merge the original weights, then quantize the result")
    words = _vocabulary(base.path)
    for model in models:
        for key in SAME:
            ours, theirs = base.config.get(key), model.config.get(key)
            if ours != theirs and None not in (ours, theirs):
                raise RunError(f"{model.path} has {key} {_short(theirs)} and {base.path} {_short(ours)}: {_FAMILY}")
        missing = sorted(set(base) - set(model)) or sorted(set(model) - set(base))
        if missing:
            lacking = "lacks" if missing[0] in base else "has"
            more = f" and {len(missing) - 1} more tensors" if missing[1:] else ""
            raise RunError(f"{model.path} {lacking} {missing[0]}{more}, unlike {base.path}: {_FAMILY}")
        for name in base:
            ours, theirs = base.layout(name)[1], model.layout(name)[1]
            if ours != theirs:
                raise RunError(f"{name} is {theirs} in {model.path} and {ours} in {base.path}: {_FAMILY}")
        others = _vocabulary(model.path)
        if words is not None and others is not None and words != others:
            word = min(set(words.items()) ^ set(others.items()), key=lambda pair: pair[1])[0]
            raise RunError(
                f"{model.path} and {base.path} have other tokenizers ({word!r} is {others.get(word, 'no token')} and "
                f"{words.get(word, 'no token')}): their embeddings do not belong together"
            )
    total, done = sum(folder.bytes for folder in (base, *models)), 0
    for folder in (base, *models):
        for name in folder:
            progress(name, done, total)
            kind, _, size = folder.layout(name)
            if kind in _FLOATS and not torch.isfinite(folder[name]).all():
                raise RunError(f"{name} of {folder.path} holds NaN or infinite values; the model is broken")
            done += size


_FAMILY = "models to merge must have been tuned from the one base"


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """Token ids by token, of tokenizer.json or vocab.txt; None where there is neither."""
    file = folder / "tokenizer.json"
    if file.is_file():
        told = json.loads(file.read_text(encoding="utf-8"))
        words = told.get("model", {}).get("vocab", {})
        if isinstance(words, list):  # of a unigram model: pairs of token and score, in order
            words = {row[0]: number for number, row in enumerate(words)}
        return {**words, **{row["content"]: row["id"] for row in told.get("added_tokens", [])}}
    plain = folder / "vocab.txt"
    if plain.is_file():
        return {word: number for number, word in enumerate(plain.read_text(encoding="utf-8").splitlines())}
    return None


def check_out(out: Path, size: int) -> None:
    """Refuse a place where `size` bytes cannot be written as a new folder, before any work. Raises RunError."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists already; give another name, or remove it first")
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    if not os.access(folder, os.W_OK):
        raise RunError(f"cannot write {out}: no permission to write in {folder}")
    free = shutil.disk_usage(folder).free
    if size > free:
        raise RunError(f"{out} takes {size / 1e9:.2f} GB, and {folder} has {free / 1e9:.2f} GB left")


def write_model(
    out: Path,
    base: Folder,
    tensors: Iterable[tuple[str, Tensor]],
    progress: Progress,
    more: Mapping[str, bytes] | None = None,
) -> Path:
    """Write tensors as they come, each of the base's type and shape, with the base's configuration and tokenizer.

    In shards of at most SHARD bytes, and an index where there is more than one. more: further small files by name.
    `out` appears whole or not at all, whatever fails or is killed; what a killed process left beside it is removed by
    the next one. Raises RunError where `out` holds something, another process writes it, or the disk is full.
    """
    check_out(out, base.bytes)
    with _staged(out) as place:
        _write_tensors(place, base, tensors, progress)
        copy_small_files(base.path, place)
        for name, content in (more or {}).items():
            (place / name).write_bytes(content)
    return out


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out`, which gets its name at the end and is removed where an error ends it."""
    parent, lock = out.absolute().parent, out.absolute().with_name(f".{out.name}.lock")
    parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"another process is writing {out}") from None
        for stale in parent.glob(f".{out.name}.partial-*"):  # its writer was killed: the lock is ours
            shutil.rmtree(stale, ignore_errors=True)
        place = Path(tempfile.mkdtemp(dir=parent, prefix=f".{out.name}.partial-"))
        try:
            yield place
            place.chmod(0o755)
            if out.is_dir():
                out.rmdir()  # empty, as `check_out` saw
            place.rename(out)
        except OSError as error:
            raise RunError(f"cannot write {out}: {error.strerror or error}; nothing was left there") from None
        finally:
            shutil.rmtree(place, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _write_tensors(place: Path, base: Folder, tensors: Iterable[tuple[str, Tensor]], progress: Progress) -> None:
    """Headers first, as all sizes are known; then each tensor at its own place in its file."""
    layouts = {name: base.layout(name) for name in base}
    shards: list[list[str]] = [[]]
    filled = 0
    for name, (_, _, size) in layouts.items():
        if shards[-1] and filled + size > SHARD:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    total, done = sum(size for _, _, size in layouts.values()), 0
    several = len(shards) > 1
    files = [
        f"model-{n:05d}-of-{len(shards):05d}.safetensors" if several else SINGLE for n in range(1, len(shards) + 1)
    ]
    where: dict[str, tuple[BinaryIO, int]] = {}
    opened: list[BinaryIO] = []
    try:
        for file, names in zip(files, shards, strict=True):
            opened.append((place / file).open("wb"))
            where |= _begin(opened[-1], {name: layouts[name] for name in names})
        for name, tensor in tensors:
            progress(name, done, total)
            stream, offset = where[name]
            stream.seek(offset)
            stream.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            done += layouts[name][2]
    finally:
        for stream in opened:
            stream.close()
    progress("", total, total)
    if several:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (place / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _begin(file: BinaryIO, layouts: Mapping[str, tuple[str, list[int], int]]) -> dict[str, tuple[BinaryIO, int]]:
    """Write the header of a safetensors file; where each tensor belongs."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (kind, shape, size) in layouts.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    file.write(len(written).to_bytes(8, "little") + written)
    start = file.tell()
    return {name: (file, start + row["data_offsets"][0]) for name, row in header.items() if name != "__metadata__"}


def copy_small_files(source: Path, out: Path) -> None:
    """Configuration and tokenizer of a model folder, for new weights; files that are there already stay."""
    names = {file.name for pattern in SMALL for file in source.glob(pattern)} | set(MODEL_FILES)
    for name in sorted(names - {INDEX}):
        if (source / name).is_file() and not (out / name).exists():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, out / name)
