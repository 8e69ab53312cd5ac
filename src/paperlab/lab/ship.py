"""From a method's result to the CPU engine: `small.compressed.pack(folder)`, without a float copy on disk."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from paperlab.kit.compressed import Compressed
from paperlab.kit.matrix import Dense, Factors, Matrix, Sparse, Sum
from paperlab.kit.quantized import Quantized
from paperlab.lab.errors import RunError

if TYPE_CHECKING:
    import numpy as np

    from paperlab.engine import Codes, Tensors

TABLE_BITS = 8  # of embeddings and head, which methods leave in floats: as good as the floats, at a quarter of float32
SMALL = {
    "hidden_size": 384,
    "intermediate_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "head_dim": 64,
    "vocab_size": 512,
    "max_position_embeddings": 256,
}
"""Sizes of the model that a method is rehearsed on; the usual groups divide them."""
SPARSE_BITS = 8  # of a pruned matrix whose values no method rounded: the engine's sparse kernels take 8 or 4


@dataclass
class Packable(Compressed):
    """What `.compressed` of a model is that `paperlab.load(...)(model)` returned: its size, and the way to the engine.

    method: who made it. unstored: parts that compute with the model but have no place in a file of weights. files: the
    folder that the model came from, for its tokenizer; None where there is none.
    """

    method: str = ""
    unstored: tuple[str, ...] = ()
    files: Path | None = field(default=None)

    @classmethod
    def of(cls, compressed: Compressed, method: str, unstored: list[str], model: nn.Module) -> "Packable":
        """`compressed` with what packing needs to know. model: as its user sees it (device, dtype)."""
        known = {f.name: getattr(compressed, f.name) for f in fields(Compressed)}
        known["model"] = model
        folder = Path(getattr(getattr(model, "config", None), "_name_or_path", "") or "/nowhere")
        return cls(**known, method=method, unstored=tuple(unstored), files=folder if folder.is_dir() else None)

    def pack(
        self,
        out: str | Path,
        *,
        sparse_bits: int = SPARSE_BITS,
        table_bits: int = TABLE_BITS,
        progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    ) -> dict[str, float]:
        """Write the model into the folder `out` as the CPU engine reads it.

        The method's own codes and masks; embeddings and head of a language model in `table_bits` where the method left
        them in floats; other tensors as they are. Returns bytes, weights, bits per weight of what was packed, and how
        many matrices are left as they were.

        sparse_bits: 8 or 4, for pruned matrices whose values are floats. table_bits: 8, 4, 3 or 2; 16 leaves embeddings
        and head as they are, so that the engine computes just what the method's model does. progress: called with a
        matrix's name, the weights packed before it, and of how many. Raises RunError for a model whose method works
        while it runs, and EngineError for a model or matrix that the engine cannot run, or an `out` that holds a model.
        """
        from paperlab.engine import pack
        from paperlab.engine.packing.layout import tables

        given = _Given(self.stored(), sparse_bits)
        return pack(tensors_of(self.model, self.files), out, tables(table_bits), given, progress)

    def stored(self) -> dict[str, Matrix]:
        """The matrices that are more than floats, by name. Raises RunError where parts of the model are `unstored`."""
        if self.unstored:
            more = f" and {len(self.unstored) - 1} more" if self.unstored[1:] else ""
            raise RunError(
                f"{self.method} left parts in the model that a file of weights cannot hold ({self.unstored[0]}{more}): "
                "the engine would run another one"
            )
        return {name: layer for name, layer in self.layers.items() if not isinstance(layer, Dense)}


def rehearse(slug: str, params: Mapping[str, Any], folder: Path) -> None:
    """Apply a method to a small random model of the folder's architecture, before any work on the model.

    Raises ValueError for a value out of the method's range, and RunError or EngineError where its result has no place
    in a packed model, as `Packable.pack` would after all the work. Another fault of the method on so small a model (a
    group that divides no row) is left for the real one to show.
    """
    from paperlab.core.card import Arm
    from paperlab.engine.packing.pack import pack_codes
    from paperlab.lab.arms import functions_of
    from paperlab.lab.drivers import compress
    from paperlab.lab.use import load

    compress.rehearse(functions_of(Arm(slug, dict(params))), params)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, texts = _small(folder), [torch.randint(SMALL["vocab_size"], (1, 32)) for _ in range(4)]
        made = load(slug, **params)(model, calibration=texts)
    except Exception:
        return  # of any kind: what it means on this model says nothing about the other
    for name, matrix in made.compressed.stored().items():
        pack_codes(codes_of(name, matrix))


def _small(folder: Path) -> nn.Module:
    """A random model of the architecture and settings in a folder's config.json, two blocks of 384 columns."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from paperlab.engine.packing.layout import ENCODERS

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    heads, shared = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    sizes = SMALL | {"num_key_value_heads": 2 if shared and shared < heads else 6}
    config.update({name: value for name, value in sizes.items() if hasattr(config, name)})
    for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, token, None)  # they may lie outside the small vocabulary
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = kinds[:2]
    auto: Any = AutoModel if config.model_type in ENCODERS else AutoModelForCausalLM
    return auto.from_config(config).eval()


class _Given(Mapping[str, "Codes"]):
    """The stored matrices as the engine's codes, each made when it is asked for."""

    def __init__(self, layers: Mapping[str, Matrix], sparse_bits: int) -> None:
        self.layers, self.sparse_bits = layers, sparse_bits

    def __getitem__(self, name: str) -> "Codes":
        return codes_of(name, self.layers[name], self.sparse_bits)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


class _State(Mapping[str, "np.ndarray"]):
    """A model's tensors as NumPy arrays, each when it is asked for, as its files have them: matrices that
    `kit.opening.opened` turned are turned back. bfloat16 as the bits in uint16."""

    def __init__(self, model: nn.Module) -> None:
        self.state = model.state_dict()
        self.turned = {f"{name}.weight" for name, module in model.named_modules() if "closed" in module.__dict__}

    def __getitem__(self, name: str) -> "np.ndarray":
        tensor: Tensor = self.state[name].detach()
        tensor = (tensor.T if name in self.turned and tensor.dim() == 2 else tensor).to("cpu").contiguous()
        if tensor.dtype is torch.bfloat16:
            return tensor.view(torch.uint16).numpy()
        return tensor.numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


def tensors_of(model: nn.Module, files: Path | None = None) -> "Tensors":
    """A transformers model in memory as a source for `engine.pack`. files: a folder with its tokenizer."""
    from paperlab.engine import Tensors

    config: Any = model.config
    return Tensors(config.to_dict(), _State(model), files)


def codes_of(name: str, matrix: Matrix, sparse_bits: int = SPARSE_BITS) -> "Codes":
    """A method's matrix as the engine stores it. Raises EngineError for what the engine has no kernel for.

    Codes with or without a mask; either with factors that are added. Values that are floats are rounded to
    `sparse_bits` where a mask leaves some out, as the engine's sparse kernels read 8 or 4 bits.
    """
    from dataclasses import replace

    from paperlab.engine import EngineError, Layout, quantize

    if isinstance(matrix, Sum) and len(matrix.parts) == 2 and isinstance(matrix.parts[1], Factors):
        low = matrix.parts[1]
        factors = (low.left.float().numpy(), low.right.float().numpy())
        return replace(codes_of(name, matrix.parts[0], sparse_bits), low_rank=factors)
    if isinstance(matrix, Sparse) and isinstance(matrix.values, Quantized):
        codes = _codes(name, matrix.values, sparse=True)
        if codes.mins is not None or codes.book is not None:
            what = "a zero point" if codes.book is None else "a codebook"
            raise EngineError(f"{name} is sparse and has {what}: sparse codes are symmetric (symmetric=True)")
        return replace(codes, mask=matrix.mask.numpy())
    if isinstance(matrix, Sparse):
        layout = Layout(sparse_bits, 64 if matrix.shape[1] % 64 == 0 else "row", symmetric=True)
        return quantize(matrix.dense().numpy(), layout, matrix.mask.numpy())
    if isinstance(matrix, Quantized):
        return _codes(name, matrix)
    kind = type(matrix).__name__
    raise EngineError(f"{name} is stored as {kind}: the engine packs codes, masks, and either with factors added")


def _codes(name: str, layer: Quantized, *, sparse: bool = False) -> "Codes":
    """Codes of one matrix in the narrowest width that the engine has for them."""
    import numpy as np

    from paperlab.engine import Codes, EngineError

    book, most = layer.codebook, float(layer.bits if isinstance(layer.bits, int | float) else layer.bits.max())
    width = next((width for width in ((4, 8) if sparse else (2, 3, 4, 8)) if most <= width), 0)
    dim = book.shape[2] if book is not None else 1
    obstacles = {
        "codes of several widths": not isinstance(layer.bits, int | float),
        f"{most:g} bits to a code": not width if book is None else width != most,
        "a sum of codebooks": book is not None and len(book) > 1,
        f"vectors of {dim}": dim not in (1, 2, 4),
    }
    if any(obstacles.values()):
        what = ", ".join(what for what, met in obstacles.items() if met)
        raise EngineError(
            f"{name} has {what}: the engine packs codes of 8, 4, 3 and 2 bits, one codebook to a matrix, and 1, 2 or 4 "
            "weights to a code"
        )
    rows = layer.shape[0]

    def spread(part: Tensor) -> "np.ndarray":
        return np.repeat(part.numpy().astype(np.float32), rows // part.shape[0], axis=0)

    scales, codes, out = spread(layer.scale), layer.codes.numpy().astype(np.int32), layer.outliers
    exact = (out.row.numpy(), out.column.numpy(), out.value.numpy()) if out else None
    if book is not None:
        unsigned = np.ascontiguousarray(codes[..., 0], np.uint8)
        return Codes(width, unsigned, scales, outliers=exact, book=book[0].float().numpy())
    mins = None if layer.zero is None else (-spread(layer.zero) * scales).astype(np.float16)
    unsigned = (codes + (1 << (width - 1)) if layer.zero is None else codes).astype(np.uint8)
    return Codes(width, unsigned, scales.astype(np.float16), mins, outliers=exact)
