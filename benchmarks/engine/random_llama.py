"""A Llama of 1.1B parameters with random weights: what language.py measures speed on."""

import json
from pathlib import Path

import numpy as np

from paperlab import engine
from paperlab.engine.native import Parts, tiles
from paperlab.engine.packing.container import named, write

SHAPE = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "intermediate_size": 5632,
         "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 64,
         "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
         "hidden_act": "silu", "tie_word_embeddings": False}  # fmt: skip
GGUF = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm"}  # fmt: skip


def random_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of SHAPE."""
    width, inner = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    shared = SHAPE["num_key_value_heads"] * SHAPE["head_dim"]
    rows = {"q_proj": width, "k_proj": shared, "v_proj": shared, "o_proj": width, "gate_proj": inner, "up_proj": inner}
    outer = (SHAPE["vocab_size"], width)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": outer, "lm_head": outer, "model.norm": (width,)}
    for layer in range(SHAPE["num_hidden_layers"]):
        for name in GGUF:
            part = name.rpartition(".")[2]
            shape = (width,) if "norm" in name else (width, inner) if part == "down_proj" else (rows[part], width)
            shapes[f"model.layers.{layer}.{name}"] = shape
    return shapes


def random_packed(out: Path, layout: engine.Layout) -> None:
    """A packed folder of SHAPE with random codes, and random places kept."""
    draw = np.random.default_rng(0)
    tensors: dict[str, tuple[str, np.ndarray]] = {}
    metadata = {"format": "paperlab", "paperlab": "2"}
    for name, shape in random_shapes().items():
        if len(shape) == 1:
            tensors[f"{name}.weight"] = "F16", np.ones(shape, np.float16)
            continue
        rows, columns = shape
        codes = draw.integers(0, 1 << layout.bits, shape, np.uint8)
        scales = np.full((rows, columns // layout.group_size), 0.002, np.float16)
        keep = (draw.random(shape, np.float32) < layout.keep).astype(np.uint8) if layout.sparse else None
        mins = None if layout.symmetric else np.full_like(scales, -0.01)
        for part, array in tiles(Parts(codes, scales, mins, keep, layout.bits, layout.group_size)).items():
            tensors[f"{name}.{part}"] = named(array)
        about = {"rows": rows, "columns": columns, "bits": layout.bits, "group": layout.group_size}
        metadata[f"paperlab.{name}"] = json.dumps(about | {"symmetric": layout.symmetric, "sparse": layout.sparse})
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(SHAPE))
    write(out / "model.safetensors", tensors, metadata)


def random_gguf(file: Path) -> None:
    """A GGUF file of SHAPE with random float16 weights, for llama.cpp's quantizer."""
    from gguf import GGUFWriter

    draw = np.random.default_rng(0)
    writer = GGUFWriter(str(file), "llama")
    writer.add_context_length(SHAPE["max_position_embeddings"])
    writer.add_embedding_length(SHAPE["hidden_size"])
    writer.add_block_count(SHAPE["num_hidden_layers"])
    writer.add_feed_forward_length(SHAPE["intermediate_size"])
    writer.add_head_count(SHAPE["num_attention_heads"])
    writer.add_head_count_kv(SHAPE["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(SHAPE["rms_norm_eps"])
    writer.add_rope_dimension_count(SHAPE["head_dim"])
    writer.add_vocab_size(SHAPE["vocab_size"])
    writer.add_file_type(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"t{i}" for i in range(SHAPE["vocab_size"])])
    writer.add_token_types([1] * SHAPE["vocab_size"])
    writer.add_token_merges(["t 1"])
    outer = {"model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm"}
    for name, shape in random_shapes().items():
        there = outer.get(name) or f"blk.{name.split('.')[2]}.{GGUF[name.split('.', 3)[3]]}"
        if len(shape) == 1:
            writer.add_tensor(f"{there}.weight", np.ones(shape, np.float32))
        else:
            writer.add_tensor(f"{there}.weight", (draw.standard_normal(shape, np.float32) * 0.02).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
