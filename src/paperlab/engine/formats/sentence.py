"""The way from a text's tokens to its vector, by a sentence encoder's folder (paperlab/core/sentence.py reads it)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paperlab.core.sentence import SentenceError, describe
from paperlab.engine.formats.tokenizer import read_json
from paperlab.engine.native import EngineError
from paperlab.engine.packing.container import Weights

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
    """poolings: of `paperlab.core.sentence.POOLINGS`; steps: what follows; prompt: put before a text."""

    poolings: tuple[str, ...] = ("mean",)
    steps: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    prompt: str = ""
    lower: bool = False

    def read(self, text: str) -> str:
        """The text that the tokenizer sees."""
        return (self.prompt + text).lower() if self.lower else self.prompt + text


def of(folder: Path) -> Sentence:
    """Read a model folder. Raises EngineError for what is not obeyed."""
    try:
        said = describe(folder, ("Dense", "Normalize", "Dropout"))
    except SentenceError as error:
        raise EngineError(str(error)) from None
    steps = [_dense(place) if name == "Dense" else normalize for name, place in said.after if name != "Dropout"]
    return Sentence(said.poolings, tuple(steps), said.prompt, said.lower)


def _dense(folder: Path) -> Dense:
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
