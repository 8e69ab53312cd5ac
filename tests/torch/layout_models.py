"""Small random models of many architectures: two blocks of 32 channels, an input for each."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

WORDS, LENGTH = 64, 32
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES = {"vocab_size": WORDS, "intermediate_size": 48, "max_position_embeddings": 64, **WIDTH}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHARED = {"num_key_value_heads": 2}  # four query heads share two value heads
SIZED = {"head_dim": 8, **SHARED}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **TOKENS}
IMAGE = {"image_size": 16, "patch_size": 4}
T5 = {"vocab_size": WORDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
BART = {
    "vocab_size": WORDS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2, **TOKENS,
}  # fmt: skip
FALCON = {"vocab_size": WORDS, **WIDTH, **TOKENS}
OPT = {"vocab_size": WORDS, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64, **WIDTH, **TOKENS}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], **SIZES}
CLIP = {"text_config": SIZES | TOKENS, "vision_config": WIDTH | IMAGE | {"intermediate_size": 48}, "projection_dim": 16}

# name: (class, its configuration's class, settings)
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        name: (f"{name}ForCausalLM", f"{name}Config", SIZES | TOKENS | more)
        for name, more in {
            "Llama": SHARED, "Mistral": SHARED, "Qwen2": SHARED, "Qwen3": SIZED, "SmolLM3": SHARED, "Granite": SHARED,
            "Gemma": SIZED, "Gemma2": SIZED, "Phi": {}, "Phi3": SHARED, "StableLm": SHARED, "Olmo": SHARED,
            "Olmo2": SHARED, "Cohere": SHARED, "Starcoder2": SHARED, "Glm": SIZED, "Glm4": SIZED, "Nemotron": SHARED,
            "Persimmon": {}, "GPTNeoX": {}, "Mixtral": {"num_local_experts": 4, **SHARED},
            "Qwen2Moe": {"shared_expert_intermediate_size": 24, **MIXTURE, **SHARED}, "Qwen3Moe": MIXTURE | SIZED,
            "BitNet": SHARED,
            "GptOss": {"num_local_experts": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, **SIZED},
        }.items()
    },
    "Gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", SIZES | TOKENS | SIZED),
    "OPT": ("OPTForCausalLM", "OPTConfig", OPT),
    "Olmo, clipped": ("OlmoForCausalLM", "OlmoConfig", SIZES | TOKENS | SHARED | {"clip_qkv": 1.0}),
    "OPT, narrow embedding": ("OPTForCausalLM", "OPTConfig", OPT | {"word_embed_proj_dim": 16}),
    "OPT, post-norm": ("OPTForCausalLM", "OPTConfig", OPT | {"do_layer_norm_before": False}),
    "GPT2": ("GPT2LMHeadModel", "GPT2Config", GPT),
    "GPTBigCode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", GPT),
    "GPTNeo": (
        "GPTNeoForCausalLM", "GPTNeoConfig",
        {"vocab_size": WORDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64,
         "attention_types": [[["global", "local"], 1]], **TOKENS},
    ),
    "GPTJ": ("GPTJForCausalLM", "GPTJConfig", GPT | {"rotary_dim": 4}),
    "Falcon": ("FalconForCausalLM", "FalconConfig", FALCON),
    "Falcon, two norms": (
        "FalconForCausalLM", "FalconConfig", FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "Falcon, in turn": (
        "FalconForCausalLM", "FalconConfig",
        FALCON | {"parallel_attn": False, "multi_query": False, "alibi": True, "bias": True},
    ),
    "Bloom, other residual": (
        "BloomForCausalLM", "BloomConfig",
        {"vocab_size": WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4,
         "apply_residual_connection_post_layernorm": True},
    ),
    "Bloom": ("BloomForCausalLM", "BloomConfig", {"vocab_size": WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "Mpt": (
        "MptForCausalLM", "MptConfig",
        {"vocab_size": WORDS, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    "Mamba": ("MambaForCausalLM", "MambaConfig", SIZES | TOKENS | {"state_size": 4, "intermediate_size": 64}),
    **{name: (f"{name}Model", f"{name}Config", SIZES | {"pad_token_id": 0}) for name in ("Bert", "Roberta")},
    "Electra, narrow embedding": ("ElectraModel", "ElectraConfig", SIZES | {"embedding_size": 16}),
    "ModernBert": (
        "ModernBertModel", "ModernBertConfig", SIZES | TOKENS | {"cls_token_id": 1, "sep_token_id": 2},
    ),
    "MPNet": ("MPNetModel", "MPNetConfig", SIZES | {"pad_token_id": 1}),
    "DistilBert": (
        "DistilBertModel", "DistilBertConfig",
        {"vocab_size": WORDS, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64},
    ),
    "Deberta": ("DebertaModel", "DebertaConfig", DEBERTA),
    "DebertaV2": ("DebertaV2Model", "DebertaV2Config", DEBERTA | {"share_att_key": True, "position_buckets": 8}),
    "DebertaV2, own positions": ("DebertaV2Model", "DebertaV2Config", DEBERTA | {"share_att_key": False}),
    "Albert": ("AlbertModel", "AlbertConfig", SIZES | {"embedding_size": 16}),
    "ViT": ("ViTModel", "ViTConfig", WIDTH | IMAGE | {"intermediate_size": 48}),
    "Dinov2": ("Dinov2Model", "Dinov2Config", WIDTH | IMAGE | {"mlp_ratio": 2}),
    "CLIP": ("CLIPModel", "CLIPConfig", CLIP),
    "T5": ("T5ForConditionalGeneration", "T5Config", T5 | {"decoder_start_token_id": 0}),
    "T5, gated": (
        "T5ForConditionalGeneration", "T5Config",
        T5 | {"decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "T5, encoder": ("T5EncoderModel", "T5Config", T5),
    "Bart": ("BartForConditionalGeneration", "BartConfig", BART | {"forced_eos_token_id": None}),
    "MBart": ("MBartForConditionalGeneration", "MBartConfig", BART | {"forced_eos_token_id": None}),
    "Whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig",
        BART | {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 64,
                "suppress_tokens": None, "begin_suppress_tokens": None},
    ),
}  # fmt: skip


def make(name: str) -> Any:
    """The model in evaluation mode; weights that start at 0 or 1 differ from it."""
    model, config, settings = MODELS[name]
    torch.manual_seed(0)
    made: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def inputs(name: str, count: int, seed: int) -> list[dict[str, Tensor]]:
    """Batches that the model can be called with."""
    draw = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        ids = torch.randint(3, WORDS, (1, LENGTH), generator=draw)
        images = torch.randn(1, 3, 16, 16, generator=draw)
        sound = torch.randn(1, 8, 32, generator=draw)
        special: dict[str, Callable[[], dict[str, Tensor]]] = {
            "ViT": lambda images=images: {"pixel_values": images},
            "Dinov2": lambda images=images: {"pixel_values": images},
            "CLIP": lambda ids=ids, images=images: {"input_ids": ids, "pixel_values": images},
            "Whisper": lambda ids=ids, sound=sound: {"input_features": sound, "decoder_input_ids": ids},
        }
        decoder = {"decoder_input_ids": ids.flip(1)} if name in ("T5", "T5, gated", "Bart", "MBart") else {}
        batches.append(special[name]() if name in special else {"input_ids": ids} | decoder)
    return batches


@torch.no_grad()
def outputs(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    """Logits, hidden states or embeddings of all batches, flat."""
    found = [model(**batch) for batch in batches]
    names = ("logits", "last_hidden_state", "text_embeds", "image_embeds")
    return torch.cat([out[name].flatten() for out in found for name in names if name in out])
