"""What a sentence encoder's folder says of the way from tokens to a vector, as sentence-transformers keeps it.

    modules.json                        in order: Transformer, Pooling, then any of Dense, Normalize, Dropout
    1_Pooling/config.json               which poolings; several stand one after another
    2_Dense/config.json, model.safetensors
    config_sentence_transformers.json   a prompt to put before every text
    sentence_bert_config.json           whether texts are lowered (the limit of their length is the tokenizer's)

What is not obeyed here is refused by name.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paperlab.engine.formats.tokenizer import read_json
from paperlab.engine.native import EngineError

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""By the names of sentence-transformers, and in the order in which several stand."""
_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "GELU": lambda x: x * (1 + np.array([math.erf(one) for one in x / math.sqrt(2)])) / 2,
}


@dataclass(frozen=True)
class Dense:
    """A layer behind the pooling. weight: (out, in) float32; bias: (out,) float32 or None."""

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """(in,) -> (out,) float32. One vector at a time, so that none depends on what others there are."""
        out = self.weight @ vector
        return _ACTIVATIONS[self.activation](out if self.bias is None else out + self.bias).astype(np.float32)


def normalize(vector: np.ndarray) -> np.ndarray:
    """(n,) float32 of length 1."""
    return (vector / max(math.sqrt(float(np.dot(vector.astype(np.float64), vector))), 1e-12)).astype(np.float32)


@dataclass(frozen=True)
class Sentence:
    """From a text's tokens to its vector. poolings: of `POOLINGS`; steps: what follows; prompt: put before a text."""

    poolings: tuple[str, ...] = ("mean",)
    steps: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    prompt: str = ""
    lower: bool = False

    def read(self, text: str) -> str:
        """The text that the tokenizer sees."""
        return (self.prompt + text).lower() if self.lower else self.prompt + text


def of(folder: Path, *, layers: bool = True) -> Sentence:
    """Read a model folder. layers: read the weights of Dense, too; else they are refused. Raises EngineError."""
    prompt, lower = _prompt(folder), read_json(folder / "sentence_bert_config.json").get("do_lower_case") is True
    if not (folder / "modules.json").is_file():
        config = folder / "1_Pooling" / "config.json"
        return Sentence(_poolings(config, prompt) if config.is_file() else ("mean",), (), prompt, lower)
    poolings: tuple[str, ...] = ()
    steps: list[Callable[[np.ndarray], np.ndarray]] = []
    for name, place in modules(folder):
        if name == "Transformer":
            if place != folder or poolings:
                raise EngineError(
                    f"{folder / 'modules.json'} has its Transformer in {place}: another layout is not known here"
                )
        elif name == "Pooling" and not poolings:
            poolings = _poolings(place / "config.json", prompt)
        elif name == "Dense" and poolings and layers:
            steps.append(_dense(place))
        elif name == "Normalize" and poolings:
            steps.append(normalize)
        elif name != "Dropout":
            raise EngineError(
                f"{folder / 'modules.json'} names the module {name[:100]}, which is not obeyed in this place; known "
                f"are Transformer, then Pooling, then any of {'Dense, ' if layers else ''}Normalize and Dropout"
            )
    if not poolings:
        raise EngineError(f"{folder / 'modules.json'} names no Pooling: nothing says how tokens become one vector")
    return Sentence(poolings, tuple(steps), prompt, lower)


def modules(folder: Path) -> list[tuple[str, Path]]:
    """What modules.json names, in order: the class without its package where that is sentence-transformers' own, and
    the folder of the module. Empty without the file. Raises EngineError."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        kinds = [(str(one["type"]), str(one.get("path") or "")) for one in listed]
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        raise EngineError(f"{file} is no list of modules; fetch it again") from None
    out = []
    for kind, path in kinds:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise EngineError(f"{file} names a folder outside its own: {path[:100]!r}")
        package, _, name = kind.rpartition(".")
        out.append((name if package.split(".")[0] == "sentence_transformers" else kind, folder / path))
    return out


def check_poolings(names: Sequence[str]) -> tuple[str, ...]:
    """The names in their order. Raises EngineError for others."""
    if unknown := set(names) - set(POOLINGS):
        raise EngineError(f"pooling {min(unknown)!r}; {', '.join(POOLINGS)} are known")
    return tuple(name for name in POOLINGS if name in names)


def _poolings(file: Path, prompt: str) -> tuple[str, ...]:
    config = read_json(file)
    if not config:
        raise EngineError(f"{file} is missing or empty: nothing says how tokens become one vector; fetch it")
    for key, value in config.items():
        plain = key in (*_KEYS, "pooling_mode", "include_prompt", "word_embedding_dimension", "embedding_dimension")
        if not plain and value not in (None, False):
            raise EngineError(f"{file}: {key[:100]} is not obeyed here; known are {', '.join(_KEYS)}")
    if prompt and config.get("include_prompt", True) is not True:
        raise EngineError(f"{file}: include_prompt false is not obeyed here, and there is a prompt")
    stated = config.get("pooling_mode")
    if stated is None:
        names = [name for key, name in _KEYS.items() if config.get(key, name == "mean")]
    else:
        names = [str(one).lower() for one in (stated if isinstance(stated, list) else [stated])]
    try:
        chosen = check_poolings(names)
    except EngineError as error:
        raise EngineError(f"{file}: {error}") from None
    if not chosen:
        raise EngineError(f"{file} asks for no pooling at all")
    return chosen


def _dense(folder: Path) -> Dense:
    from paperlab.engine.packing.container import Weights

    config = read_json(folder / "config.json")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    package, _, activation = name.rpartition(".")
    if not package.startswith("torch.nn") or activation not in _ACTIVATIONS:
        raise EngineError(f"{folder}: the activation {name[:100]} is not known; {', '.join(_ACTIVATIONS)} are")
    for key, value in config.items():
        usual = key in ("in_features", "out_features", "bias", "activation_function")
        usual = usual or (key in ("module_input_name", "module_output_name") and value == "sentence_embedding")
        if not usual and value not in (None, False):
            raise EngineError(f"{folder / 'config.json'}: {key[:100]} is not obeyed here")
    if not (folder / "model.safetensors").is_file():
        raise EngineError(f"no model.safetensors in {folder}; pickled weights (*.bin, *.pt) are never loaded")
    weights = Weights(folder)
    biased = config.get("bias", True) is not False
    for part in ["linear.weight"] + ["linear.bias"] * biased:
        if part not in weights:
            raise EngineError(f"the tensor {part} is missing from {folder / 'model.safetensors'}")
    weight, bias = weights.floats("linear.weight"), weights.floats("linear.bias") if biased else None
    sizes = (config.get("out_features"), config.get("in_features"))
    if weight.shape != sizes or (bias is not None and bias.shape != sizes[:1]):
        raise EngineError(f"{folder}: its weights are {weight.shape}, and config.json says {sizes}")
    if not np.isfinite(weight).all() or (bias is not None and not np.isfinite(bias).all()):
        raise EngineError(f"{folder} holds NaN or infinite values; the file is damaged")
    return Dense(np.array(weight), None if bias is None else np.array(bias), activation)


def _prompt(folder: Path) -> str:
    """The prompt that is put before every text unless another one is chosen; "" where there is none."""
    config = read_json(folder / "config_sentence_transformers.json")
    name, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    if not name:
        return ""
    if not isinstance(prompts, dict) or not isinstance(prompts.get(name), str):
        raise EngineError(f"{folder}: its default prompt {str(name)[:60]!r} is not among its prompts")
    return str(prompts[name])
