"""GGUF files of the Llama layout written as Hugging Face folders."""

import json
from pathlib import Path
from typing import Any


def convert_gguf(source: Path, folder: Path) -> None:
    """Write a Llama-layout GGUF file as a Hugging Face folder: config.json, fp32 model.safetensors, tokenizer.

    fp32, because scale * code + minimum is not representable in 16 bits. llama.cpp stores the rows of query and
    key with the two halves of each head interleaved (rotary pairs side by side); transformers wants the halves.
    transformers' own GGUF loader needs accelerate and splits digits otherwise than the original tokenizer.
    """
    import numpy as np
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import save_file

    reader = GGUFReader(source)
    value = {key: field.contents() for key, field in reader.fields.items()}
    heads, kv_heads = value["llama.attention.head_count"], value["llama.attention.head_count_kv"]
    tensors: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weight = weight.reshape([int(n) for n in reversed(tensor.shape)])
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            count = heads if "attn_q" in tensor.name else kv_heads
            rows, columns = weight.shape
            weight = weight.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        tensors[_hf_name(tensor.name)] = np.ascontiguousarray(weight)
    theta = value["llama.rope.freq_base"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(value["tokenizer.ggml.tokens"]),
        "hidden_size": value["llama.embedding_length"],
        "intermediate_size": value["llama.feed_forward_length"],
        "num_hidden_layers": value["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": value["llama.context_length"],
        "rms_norm_eps": round(value["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_theta": theta,  # where transformers before 5 looks; without it they would assume another base in silence
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "bos_token_id": value["tokenizer.ggml.bos_token_id"],
        "eos_token_id": value["tokenizer.ggml.eos_token_id"],
        "pad_token_id": value["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _gguf_tokenizer(value).save_pretrained(folder)


def _hf_name(name: str) -> str:
    """The transformers name of a Llama tensor in GGUF."""
    outer = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    inner = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    stem = name.removesuffix(".weight")
    if stem in outer:
        return f"{outer[stem]}.weight"
    _, block, part = stem.split(".")
    return f"model.layers.{block}.{inner[part]}.weight"


def _gguf_tokenizer(value: dict[str, Any]) -> Any:
    """Byte-level BPE with single digits, as the "smollm" pre-tokenizer of GGUF says, with the chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if (value["tokenizer.ggml.model"], value["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise ValueError(f"no conversion for the GGUF tokenizer {value['tokenizer.ggml.pre']!r}; give a folder")
    names, control = value["tokenizer.ggml.tokens"], 3
    merges = [tuple(merge.split(" ")) for merge in value["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(name, special=True, normalized=False)
            for name, what in zip(names, value["tokenizer.ggml.token_type"], strict=True)
            if what == control
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=names[value["tokenizer.ggml.bos_token_id"]],
        eos_token=names[value["tokenizer.ggml.eos_token_id"]],
        unk_token=names[value["tokenizer.ggml.unknown_token_id"]],
        pad_token=names[value["tokenizer.ggml.padding_token_id"]],
        chat_template=value["tokenizer.chat_template"],
        model_max_length=value["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
