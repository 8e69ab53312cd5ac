"""What a sentence encoder's folder says of the way from tokens to a vector, as sentence-transformers keeps it.

    modules.json                        in order: Transformer, Pooling, then any of Dense, Normalize, Dropout
    1_Pooling/config.json               which poolings; several stand one after another
    config_sentence_transformers.json   a prompt to put before every text
    sentence_bert_config.json           whether texts are lowered (the limit of their length is the tokenizer's)

What a reader does not obey is to be refused by name, as here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class SentenceError(ValueError):
    """A folder's modules are damaged, or not all of them are obeyed. The message is one line."""


@dataclass(frozen=True)
class Described:
    """poolings: of `POOLINGS`; after: names and folders of the modules that follow; prompt: put before every text."""

    poolings: tuple[str, ...] = ("mean",)
    after: tuple[tuple[str, Path], ...] = ()
    prompt: str = ""
    lower: bool = False


def describe(folder: Path, known: Sequence[str] = ("Normalize", "Dropout")) -> Described:
    """Read a model folder; without modules.json, its 1_Pooling or the mean. known: modules that the reader obeys behind
    the pooling. Raises SentenceError."""
    prompt, lower = _prompt(folder), _object(folder / "sentence_bert_config.json").get("do_lower_case") is True
    file = folder / "modules.json"
    if not file.is_file():
        config = folder / "1_Pooling" / "config.json"
        return Described(_poolings(config, prompt) if config.is_file() else ("mean",), (), prompt, lower)
    poolings: tuple[str, ...] = ()
    after = []
    for name, place in modules(folder):
        if name == "Transformer" and not poolings:
            if place != folder:
                raise SentenceError(f"{file} has its Transformer in {place}: another layout is not known here")
        elif name == "Pooling" and not poolings:
            poolings = _poolings(place / "config.json", prompt)
        elif name in known and poolings:
            after.append((name, place))
        else:
            raise SentenceError(
                f"{file} names the module {name[:100]}, which is not obeyed in this place; known are Transformer, then "
                f"Pooling, then any of {', '.join(known)}"
            )
    if not poolings:
        raise SentenceError(f"{file} names no Pooling: nothing says how tokens become one vector")
    return Described(poolings, tuple(after), prompt, lower)


def modules(folder: Path) -> list[tuple[str, Path]]:
    """What modules.json names, in order: the class without its package where that is sentence-transformers' own, and
    the folder of the module. Empty without the file. Raises SentenceError."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        kinds = [(str(one["type"]), str(one.get("path") or "")) for one in listed]
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        raise SentenceError(f"{file} is no list of modules; fetch it again") from None
    out = []
    for kind, path in kinds:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise SentenceError(f"{file} names a folder outside its own: {path[:100]!r}")
        package, _, name = kind.rpartition(".")
        out.append((name if package.split(".")[0] == "sentence_transformers" else kind, folder / path))
    return out


def check_poolings(names: Sequence[str]) -> tuple[str, ...]:
    """The names in their order. Raises SentenceError for others."""
    if unknown := set(names) - set(POOLINGS):
        raise SentenceError(f"pooling {min(unknown)!r}; {', '.join(POOLINGS)} are known")
    return tuple(name for name in POOLINGS if name in names)


def _poolings(file: Path, prompt: str) -> tuple[str, ...]:
    config = _object(file)
    if not file.is_file():
        raise SentenceError(f"{file} is missing: nothing says how tokens become one vector; fetch it")
    for key, value in config.items():
        plain = key in (*_KEYS, "pooling_mode", "include_prompt", "word_embedding_dimension", "embedding_dimension")
        if not plain and value not in (None, False):
            raise SentenceError(f"{file}: {key[:100]} is not obeyed here; known are {', '.join(_KEYS)}")
    if prompt and config.get("include_prompt", True) is not True:
        raise SentenceError(f"{file}: include_prompt false is not obeyed here, and there is a prompt")
    stated = config.get("pooling_mode")
    if stated is None:
        names = [name for key, name in _KEYS.items() if config.get(key, name == "mean")]
    else:
        names = [str(one).lower() for one in (stated if isinstance(stated, list) else [stated])]
    try:
        chosen = check_poolings(names)
    except SentenceError as error:
        raise SentenceError(f"{file}: {error}") from None
    if not chosen:
        raise SentenceError(f"{file} asks for no pooling at all")
    return chosen


def _prompt(folder: Path) -> str:
    """The prompt that is put before every text unless another one is chosen; "" where there is none."""
    config = _object(folder / "config_sentence_transformers.json")
    name, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    if not name:
        return ""
    if not isinstance(prompts, dict) or not isinstance(prompts.get(name), str):
        raise SentenceError(f"{folder}: its default prompt {str(name)[:60]!r} is not among its prompts")
    return str(prompts[name])


def _object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise SentenceError(f"{file} is not valid JSON; fetch it again") from None
    if not isinstance(value, dict):
        raise SentenceError(f"{file} is no JSON object; fetch it again")
    return value
