"""Write GGUF files for llama.cpp with the `gguf` package: names, fields and blocks of 32 weights."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paperlab.core.install import needs
from paperlab.engine.formats import gguf_vocabulary
from paperlab.engine.formats.floats import from_float32
from paperlab.engine.formats.source import Grouped, Item, Source, halves_of_heads
from paperlab.engine.native import EngineError
from paperlab.engine.packing.layout import Layout

if TYPE_CHECKING:
    from gguf import GGUFWriter

# Bits and whether symmetric, bytes of a block of 32 weights.
BLOCKS = {"Q8_0": (8, True, 34), "Q4_0": (4, True, 18), "Q4_1": (4, False, 20)}
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_INNER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}


def check(config: Mapping[str, Any]) -> str:
    """The architecture of a model's config.json as GGUF calls it. Raises EngineError for one that is not written."""
    kind = _ARCHITECTURES.get(str(config.get("model_type")))
    if kind is None:
        raise EngineError(
            f'the architecture "{config.get("model_type")}" is not written as GGUF here; '
            f"{', '.join(_ARCHITECTURES)} are, and --to hf takes every model"
        )
    return kind


def write(
    source: Source,
    items: list[Item],
    file: Path,
    dtype: str | None,
    requantize: bool,
    progress: Callable[[str, int, int], None],
    check_space: Callable[[int], None],
) -> dict[str, Any]:
    """Write `items` to `file`. dtype, requantize, progress and the returned report: as `export` has them."""
    with needs("engine"):
        import gguf
    config = source.config
    kind = check(config)
    writer = gguf.GGUFWriter(None, kind)
    typed = [_typed(item, dtype, requantize) for item in items]
    _fields(writer, source, kind)
    types = [block for item, block in typed if len(item.shape) == 2 and not _table(item)]
    most = max(set(types), key=types.count, default="F32")
    writer.add_file_type(getattr(gguf.LlamaFileType, _FILE_TYPES.get(most, f"MOSTLY_{most}")))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    factors = _rotary_factors(config)
    sizes = []
    for item, block in typed:
        raw = gguf.GGMLQuantizationType[block]
        per, size = gguf.GGML_QUANT_SIZES[raw]
        sizes.append(math.prod(item.shape) // per * size)
        writer.add_tensor_info(_name(item), item.shape, np.dtype(np.float32), sizes[-1], raw)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    total = sum(sizes)
    check_space(total)
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done = 0
    try:
        for (item, block), size in zip(typed, sizes, strict=True):
            progress(item.name, done, total)
            writer.write_tensor_data(_bytes(item, block, _row_order(item, config)))
            done += size
        if factors is not None:
            writer.write_tensor_data(factors)
    finally:
        writer.close()
    notes = []
    if few := sum(item.grid is not None and item.grid.bits < 4 and block == "Q4_0" for item, block in typed):
        notes.append(f"{few} matrices of fewer than 4 bits take 4 bits each: the same values in a larger file")
    if sparse := sum(item.grid is not None and item.grid.sparse for item, _ in typed):
        notes.append(f"{sparse} matrices are sparse: their zeros are stored like any weight here")
    return {"bytes": file.stat().st_size, "tensors": len(typed), "notes": notes}


def _table(item: Item) -> bool:
    return item.stem in ("model.embed_tokens", "lm_head")


def _typed(item: Item, dtype: str | None, requantize: bool) -> tuple[Item, str]:
    """The tensor with the GGUF type that it takes, rounded where it is to be."""
    if len(item.shape) != 2:
        return item, "F32"
    if dtype in _FILE_TYPES:
        return item, str(dtype)
    own = _block(item)
    if item.grid is None:
        if dtype is None:
            return item, item.dtype
        # Tables do not forgive 4 bits, and no other tensor is read by one row at a time.
        wanted = "Q8_0" if _table(item) else dtype
    elif own and (own == dtype or dtype is None or (_table(item) and own == "Q8_0")):
        return item, own
    elif not requantize:
        grid, own = item.grid, own or "none"
        what = f"{grid.bits} bits in groups of {grid.group or item.shape[1]}{'' if grid.symmetric else ' with minima'}"
        what += ", and more than codes" if grid.corrected else ""
        raise EngineError(
            f"{item.name} ({what}) fits {'no block of GGUF' if own == 'none' else own}"
            f"{f', not {dtype}' if dtype and own != 'none' else ''}: rounding its codes again takes --requantize, "
            "and --type F32 writes the dequantized weights"
        )
    else:
        wanted = "Q8_0" if dtype is None or _table(item) else dtype
    if item.shape[1] % 32:
        raise EngineError(
            f"{item.name} has {item.shape[1]} columns, and {wanted} takes multiples of 32; take --type F16"
        )
    bits, symmetric, _ = BLOCKS[wanted]
    return item.rounded(Layout(bits, 32, symmetric)), wanted


def _block(item: Item) -> str | None:
    """The block type that stores the codes of a matrix unchanged; None where none does."""
    grid = item.grid
    if grid is None or grid.corrected or item.shape[1] % 32 or grid.group % 32:
        return None
    if grid.bits <= 4:
        return "Q4_0" if grid.symmetric else "Q4_1"
    return "Q8_0" if grid.bits == 8 and grid.symmetric else None


def _bytes(item: Item, block: str, order: np.ndarray | None) -> np.ndarray:
    """A tensor as it is stored in the file, its rows in another order where one is given."""
    if block not in BLOCKS:
        values = item.floats() if order is None else item.floats()[order]
        return np.ascontiguousarray(from_float32(values, block, item.name))
    matrix = item.grouped() if order is None else item.grouped().reordered(order)
    return blocks(matrix, block)


def blocks(matrix: Grouped, block: str) -> np.ndarray:
    """(rows, bytes of a row) uint8, from codes in groups that are whole numbers of blocks."""
    rows, columns = matrix.codes.shape
    bits, symmetric, _ = BLOCKS[block]
    repeat = (matrix.grid.group or columns) // 32
    tops = [matrix.scales] if symmetric or matrix.mins is None else [matrix.scales, matrix.mins]
    head = [np.repeat(part, repeat, axis=1)[:, : columns // 32, None].view(np.uint8) for part in tops]
    codes = matrix.codes.reshape(rows, -1, 32)
    if symmetric:
        codes = codes + np.uint8((1 << (bits - 1)) - (1 << (matrix.grid.bits - 1)))
    body = codes ^ np.uint8(128) if bits == 8 else codes[..., :16] | codes[..., 16:] << 4
    return np.ascontiguousarray(np.concatenate([*head, body], axis=2).reshape(rows, -1))


def _name(item: Item) -> str:
    stem, _, part = item.name.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{part}"
    pieces = stem.split(".", 3)
    if pieces[:2] == ["model", "layers"] and len(pieces) == 4 and pieces[3] in _INNER:
        return f"blk.{pieces[2]}.{_INNER[pieces[3]]}.{part}"
    raise EngineError(f"{item.name} has no place in a GGUF file of this architecture")


def _row_order(item: Item, config: dict[str, Any]) -> np.ndarray | None:
    """The row order with adjacent rotary pairs, which llama.cpp has in the Llama architecture; None elsewhere."""
    if config["model_type"] in ("llama", "mistral") and ".self_attn." in item.name:
        for part, name in ((".q_proj.", "num_attention_heads"), (".k_proj.", "num_key_value_heads")):
            if part in item.name:
                heads = config.get(name) or config["num_attention_heads"]
                return np.argsort(halves_of_heads(item.shape[0], heads))
    return None


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.get("type") or "default")
    rope.setdefault("rope_theta", config.get("rope_theta") or 10000.0)
    return rope


def _rotary_factors(config: dict[str, Any]) -> np.ndarray | None:
    """The divisor of each rotary frequency, where the model scales them as Llama 3 does."""
    rope = _rope(config)
    if rope["rope_type"] != "llama3":
        return None
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    wave = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head, 2) / head)
    low, high, original = (
        rope[name] for name in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    smooth = ((original / wave - low) / (high - low)).clip(0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


def _yarn(writer: "GGUFWriter", rope: dict[str, Any]) -> None:
    """Add yarn's fields. llama.cpp itself multiplies cosines and sines with 1 + 0.1 ln(factor)."""
    if rope.get("truncate") is False:
        raise EngineError('GGUF has no place for yarn\'s "truncate": false')
    usual = gain(rope["factor"], 1)
    wanted = rope.get("attention_factor")
    if wanted is None:
        one, every = rope.get("mscale"), rope.get("mscale_all_dim")
        wanted = gain(rope["factor"], one) / gain(rope["factor"], every) if one and every else usual
    writer.add_rope_scaling_attn_factors(wanted / usual)
    writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32))
    writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1))


def gain(factor: float, scale: float) -> float:
    """What yarn multiplies cosines and sines with."""
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def _fields(writer: "GGUFWriter", source: Source, kind: str) -> None:
    """Add the metadata fields and the tokenizer."""
    import gguf

    config = source.config
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    vocabulary_size = source.items["model.embed_tokens.weight"].shape[0]
    context = config.get("max_position_embeddings", 2048)
    if config["model_type"] == "mistral" or config.get("use_sliding_window"):
        context = min(context, config.get("sliding_window") or context)  # llama.cpp attends to all of this
    writer.add_name(str(config.get("_name_or_path") or source.path.stem))
    writer.add_context_length(context)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(vocabulary_size)
    rope = _rope(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        if original := rope.get("original_max_position_embeddings"):
            writer.add_rope_scaling_orig_ctx_len(original)
        if rope["rope_type"] == "yarn":
            _yarn(writer, rope)
    elif rope["rope_type"] not in ("default", "llama3"):
        raise EngineError(f'GGUF has no place for rotary positions scaled by "{rope["rope_type"]}"')
    gguf_vocabulary.write(writer, source, vocabulary_size)
