"""Model folders as mappings: tensors are read one at a time and written in shards; no model is in memory whole."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from paperlab.core.files import write_atomically

SHARD = 2_000_000_000  # bytes of a shard at most, unless one tensor is larger
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL = ("*.json", "*.txt", "*.model", "*.jinja")  # configuration and tokenizer files of a model folder


class Folder(Mapping[str, Tensor]):
    """The tensors of a Hugging Face folder by name, read from its safetensors files when asked for.

    Raises ValueError for a folder without safetensors files (pickled weights are never loaded).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = sorted(path.glob("*.safetensors"))
        if not files:
            what = "has no .safetensors files" if path.is_dir() else "is no folder"
            raise ValueError(f"{path} {what}; save the model with save_pretrained(..., safe_serialization=True)")
        self._open = [safe_open(file, framework="pt") for file in files]
        self._where = {name: number for number, opened in enumerate(self._open) for name in opened.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        return self._open[self._where[name]].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def write_folder(out: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write tensors as they come, in shards of at most SHARD bytes and an index where there is more than one.

    Whole or not at all: shards are written under other names first. Raises ValueError where `out` holds weights
    already.
    """
    if list(out.glob("*.safetensors")):
        raise ValueError(f"{out} holds weights already; name an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    shards: list[list[str]] = []
    waiting: dict[str, Tensor] = {}
    sizes = 0
    parts: list[Path] = []

    def flush() -> None:
        if waiting:
            parts.append(out / f".part-{len(parts):05d}")
            save_file({name: tensor.contiguous() for name, tensor in waiting.items()}, parts[-1], {"format": "pt"})
            shards.append(list(waiting))
            waiting.clear()

    try:
        waiting_bytes = 0
        for name, tensor in tensors:
            size = tensor.numel() * tensor.element_size()
            if waiting_bytes + size > SHARD:
                flush()
                waiting_bytes = 0
            waiting[name] = tensor.clone()
            waiting_bytes, sizes = waiting_bytes + size, sizes + size
        flush()
    except BaseException:
        for part in parts:
            part.unlink(missing_ok=True)
        raise
    if len(parts) == 1:
        parts[0].rename(out / SINGLE)
        return
    names = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    weight_map = {name: file for file, inside in zip(names, shards, strict=True) for name in inside}
    index = {"metadata": {"total_size": sizes}, "weight_map": weight_map}
    for part, name in zip(parts, names, strict=True):
        part.rename(out / name)
    write_atomically(out / INDEX, json.dumps(index, indent=2).encode())


def copy_small_files(source: Path, out: Path) -> None:
    """Configuration and tokenizer of a model folder, for new weights; files that are there already stay."""
    for pattern in SMALL:
        for file in source.glob(pattern):
            if file.name != INDEX and not (out / file.name).exists():
                shutil.copyfile(file, out / file.name)
