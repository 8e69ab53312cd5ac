"""Read a model's tensors one by one, whatever its format: a folder, a packed folder, a GGUF file."""

import json
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paperlab.engine.formats import gguf_reader
from paperlab.engine.formats.floats import from_float32
from paperlab.engine.formats.tokenizer import Tokens
from paperlab.engine.native import EngineError, call, library, pointer
from paperlab.engine.packing.container import Weights
from paperlab.engine.packing.layout import Codes, Layout, is_turned, quantize

_STRIP = 1 << 22  # weights whose codes are computed together


@dataclass(frozen=True)
class Grid:
    """How codes are scaled. bits: of a code; group: columns to a scale, 0 for whole rows.

    corrected: the matrix has more than codes: a low-rank part, exact weights or absent channels.
    """

    bits: int
    group: int
    symmetric: bool
    sparse: bool = False
    corrected: bool = False


@dataclass(frozen=True)
class Grouped:
    """A matrix as codes (rows, columns) uint8, scales and minima (rows, groups) float16, on a grid.

    W = scales * (codes - 2^(bits - 1)), or scales * codes + mins; the last group may be cut.
    """

    grid: Grid
    codes: np.ndarray
    scales: np.ndarray
    mins: np.ndarray | None = None

    def spread(self, part: np.ndarray) -> np.ndarray:
        """(rows, groups) -> (rows, columns) float32."""
        wide = np.repeat(part.astype(np.float32), self.grid.group or self.codes.shape[1], axis=1)
        return wide[:, : self.codes.shape[1]]

    def floats(self) -> np.ndarray:
        """(rows, columns) float32: the weights that the codes stand for."""
        codes = self.codes.astype(np.float32)
        if self.mins is None:
            return self.spread(self.scales) * (codes - (1 << (self.grid.bits - 1)))
        return self.spread(self.scales) * codes + self.spread(self.mins)

    def reordered(self, rows: np.ndarray) -> "Grouped":
        """The rows in another order."""
        mins = None if self.mins is None else self.mins[rows]
        return replace(self, codes=self.codes[rows], scales=self.scales[rows], mins=mins)


@dataclass(frozen=True)
class Item:
    """A tensor by the name that transformers gives it, read when it is asked for. grid: None where stored as floats.

    dtype: as safetensors spells it; dequantized weights are float32.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: Grid | None
    floats: Callable[[], np.ndarray]
    grouped: Callable[[], Grouped]
    raw: Callable[[], np.ndarray] | None = None

    @property
    def stem(self) -> str:
        """The name without .weight."""
        return self.name.removesuffix(".weight")

    def rounded(self, layout: Layout, *, whole: bool = False) -> "Item":
        """The matrix on another grid, rounded to the nearest codes. whole: with integer zero points."""
        if layout.codebook or layout.rank or layout.outliers or layout.structured:
            raise EngineError(
                f"{self.name}: codebook, rank, outliers and channels are for `pack`; export the packed folder then"
            )
        grid = Grid(layout.bits, layout.group_size, layout.symmetric, layout.sparse)

        def grouped() -> Grouped:
            weight = self.floats()
            try:
                made = quantize(weight, layout)
            except EngineError as error:
                raise EngineError(f"{self.name}: {error}") from None
            codes, scales, mins = _unmasked(made), made.scales, made.mins
            if whole and mins is not None:
                step = scales.astype(np.float32)
                step[step == 0] = np.inf
                zeros = np.rint(-mins.astype(np.float32) / step).clip(0, (1 << layout.bits) - 1)
                mins = (-zeros * scales).astype(np.float16)
                spread = Grouped(grid, codes, scales).spread
                codes = np.rint(weight / spread(step) + spread(zeros)).clip(0, (1 << layout.bits) - 1).astype(np.uint8)
            return Grouped(grid, codes, scales, mins)

        return replace(self, dtype="F32", grid=grid, floats=lambda: grouped().floats(), grouped=grouped, raw=None)

    def with_codes(self, codes: Codes) -> "Item":
        """The matrix with codes that were made elsewhere. Raises EngineError where it has more than codes."""
        if codes.shape != self.shape:
            raise EngineError(f"{self.name} is {self.shape}, the codes given for it are {codes.shape}")
        if codes.low_rank or codes.outliers or codes.book is not None:
            raise EngineError(f"{self.name} has more than codes: `pack` it, then export the packed folder to hf")
        layout = codes.layout
        grid = Grid(codes.bits, layout.group_size, layout.symmetric, layout.sparse)
        done = Grouped(grid, _unmasked(codes), codes.scales, codes.mins)
        return replace(self, dtype="F32", grid=done.grid, floats=done.floats, grouped=lambda: done, raw=None)


def _unmasked(made: Codes) -> np.ndarray:
    """The codes, with the code of the value 0 for pruned weights."""
    return made.codes if made.mask is None else np.where(made.mask, made.codes, np.uint8(1 << (made.bits - 1)))


def halves_of_heads(rows: int, heads: int) -> np.ndarray:
    """The row order that takes adjacent rotary pairs (llama.cpp) to the two halves of a head (transformers)."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _biases(names: Iterable[str], config: dict[str, Any], path: Path) -> dict[str, bool]:
    """What config.json has to say of the biases in a GGUF file. Raises EngineError where it has no words for them."""
    blocks = {name for name in names if name.startswith("model.layers.") and name.endswith(".bias")}
    qkv, out = (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
    )  # qwen2: the first three
    mlp = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    always = qkv if config["model_type"] == "qwen2" else ()
    said: dict[str, bool] = {}
    for name, parts in (("attention_bias", () if always else (*qkv, *out)), ("mlp_bias", mlp)):
        said[name] = any(one.endswith(tuple(f"{part}.bias" for part in parts)) for one in blocks)
        always = (*always, *(parts if said[name] else ()))
    if blocks != {f"model.layers.{i}.{part}.bias" for i in range(config["num_hidden_layers"]) for part in always}:
        raise EngineError(
            f"{path}: some of its blocks' matrices have biases and others none; config.json cannot say so"
        )
    return {name: True for name, is_so in said.items() if is_so}


class Source:
    """An opened model. config: config.json, or the same from GGUF's fields (then `fields` holds those)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = call("files_open", str(path).encode())
        weakref.finalize(self, library().pl_files_free, self._handle)
        listed = json.loads(library().pl_files_list(self._handle).decode(errors="replace"))
        self.fields: dict[str, Any] = {}
        if path.is_file():
            self.fields = gguf_reader.read_fields(path)
            self.config = gguf_reader.config(self.fields, tied="lm_head.weight" not in listed)
            self.config |= _biases(listed, self.config, path)
            if "rope_freqs.weight" in listed:
                raise EngineError(f"{path} keeps its rotary scaling as a table; export from the model's folder instead")
        else:
            self.config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        files = None if self.fields else Weights(path)
        self.items = {name: self._item(name, about, files) for name, about in listed.items()}

    def _item(self, name: str, about: dict[str, Any], files: Weights | None) -> Item:
        shape = tuple(about["shape"])
        quantized = "bits" in about
        keys = ("bits", "group", "symmetric", "sparse", "beside")  # as the compiled part names them
        grid = Grid(*(about[key] for key in keys)) if quantized else None
        if quantized and is_turned(name, self.config):
            turned = lambda: np.ascontiguousarray(self._floats(name, shape).T)  # noqa: E731
            return Item(name, shape[::-1], "F32", None, turned, lambda: self._grouped(name, shape, None))
        order = self._row_order(name, shape)
        floats = lambda: self._floats(name, shape)[order]  # noqa: E731
        grouped = lambda: self._grouped(name, shape, grid).reordered(order)  # noqa: E731
        if files is not None and not quantized:
            return Item(name, shape, about["dtype"], None, floats, grouped, lambda: files.raw(name))
        dtype = about["dtype"] if about["dtype"] in ("F16", "BF16") else "F32"
        return Item(name, shape, dtype, grid, floats, grouped)

    def _row_order(self, name: str, shape: tuple[int, ...]) -> Any:
        """The index that puts the rows of a tensor in transformers' order."""
        if self.fields and self.config["model_type"] == "llama" and ".self_attn." in name:
            for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
                if f".{part}." in name:
                    return halves_of_heads(shape[0], self.config[heads])
        return slice(None)

    def _floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        out = np.empty(shape, np.float32)
        matrix = len(shape) == 2 and name.endswith(".weight")
        call("files_read", self._handle, name.encode(), 0, shape[0] if matrix else 1, pointer(out))
        return out

    def _grouped(self, name: str, shape: tuple[int, ...], grid: Grid | None) -> Grouped:
        """Codes from weights and scales, in any format of the engine's that has both.

        Raises EngineError where codes and scales alone do not give the weights back.
        """
        if grid is None:
            raise EngineError(f"{name} is stored as floats: it has no codes")
        rows, columns = shape
        scales = np.empty((rows, -(-columns // grid.group) if grid.group else 1), np.float16)
        mins = None if grid.symmetric else np.empty_like(scales)
        call("files_scales", self._handle, name.encode(), pointer(scales), pointer(mins))
        out = Grouped(grid, np.empty(shape, np.uint8), scales, mins)
        zero = 1 << (grid.bits - 1) if grid.symmetric else 0
        step = max(1, _STRIP // columns)
        weight = np.empty((step, columns), np.float32)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            part = Grouped(grid, out.codes[first:last], scales[first:last], None if mins is None else mins[first:last])
            call("files_read", self._handle, name.encode(), first, last, pointer(weight))
            truth, scale = weight[: last - first], part.spread(part.scales)
            offset = part.spread(part.mins) if part.mins is not None else np.float32(0)
            nearest = np.rint((truth - offset) / np.where(scale == 0, np.inf, scale)) + zero
            part.codes[:] = nearest.clip(0, (1 << grid.bits) - 1)
            if (np.abs(part.floats() - truth) > 1e-6 * (np.abs(offset) + np.abs(scale) * (1 << grid.bits))).any():
                raise EngineError(f"{name} is more than codes and scales; export it to Hugging Face's format (--to hf)")
        return out


class GgufWeights:
    """The tensors of a GGUF file in transformers' names and order, as `pack` takes them. Raises EngineError."""

    def __init__(self, source: Source) -> None:
        self.source, self.path = source, source.path
        self.config: Mapping[str, Any] = source.config
        Tokens.of(source.path).tokenizer  # noqa: B018  a damaged one is told before any work

    def write_files(self, place: Path) -> None:
        """Write the tokenizer and its settings into a folder."""
        write_tokenizer(self.source, place)

    def names(self) -> list[str]:
        """Every tensor's name, in order."""
        return sorted(self.source.items)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self.source.items[name].shape

    def kind(self, name: str) -> str:
        """The type as safetensors spells it; dequantized weights are F32."""
        return self.source.items[name].dtype

    def raw(self, name: str) -> np.ndarray:
        """The tensor in its type; bfloat16 as uint16."""
        return from_float32(self.floats(name), self.kind(name), name)

    def floats(self, name: str) -> np.ndarray:
        """The tensor as float32."""
        return self.source.items[name].floats()

    def check(self, name: str) -> None:
        """Refuse to round a matrix that is in few bits already. Raises EngineError."""
        if grid := self.source.items[name].grid:
            raise EngineError(
                f"{name} of {self.source.path} is in {grid.bits} bits already; give the original weights, or export "
                "the file (--to hf)"
            )


def write_tokenizer(source: Source, place: Path) -> None:
    """Write the tokenizer and its settings that a GGUF file's fields describe into a folder, where there are any."""
    tokens = Tokens.of(source.path)
    if len(tokens.ends) > 1:
        (place / "generation_config.json").write_text(json.dumps({"eos_token_id": sorted(tokens.ends)}) + "\n")
    if tokens.tokenizer is None:
        return
    tokens.tokenizer.save(str(place / "tokenizer.json"))
    settings: dict[str, Any] = {name: token for name, token in tokens.specials.items() if token}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings["model_max_length"] = source.config["max_position_embeddings"]
    if tokens.templates:
        named = {"default": tokens.template, **tokens.templates}
        settings["chat_template"] = [{"name": name, "template": text} for name, text in named.items() if text]
    elif tokens.template:
        settings["chat_template"] = tokens.template
    (place / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
