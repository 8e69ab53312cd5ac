"""Write a tokenizer as the fields of a GGUF file."""

import json
import re
from typing import TYPE_CHECKING, Any

from paperlab.engine.formats.gguf_reader import BYTE, CONTROL, CUTS, NORMAL, UNKNOWN, UNUSED, USER
from paperlab.engine.formats.source import Source
from paperlab.engine.formats.tokenizer import Tokens
from paperlab.engine.native import EngineError

if TYPE_CHECKING:
    from gguf import GGUFWriter


def write(writer: "GGUFWriter", source: Source, size: int) -> None:
    """Add the tokenizer's fields; a GGUF source's own are copied. size: rows of the embeddings.

    Without a tokenizer the file is marked "no_vocab" and runs on token ids. Raises EngineError for tokenizers that
    llama.cpp has no name for.
    """
    if source.fields:
        return _copied(writer, source.fields)
    tokens = Tokens.of(source.path)
    if tokens.tokenizer is None:
        writer.add_tokenizer_model("no_vocab")
        return
    spec = json.loads(tokens.tokenizer.to_str())
    pieces = spec["model"].get("byte_fallback") and spec["model"].get("type") == "BPE"
    if pieces:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer_of(spec))
    names: list[str | None] = [None] * size
    kinds = [NORMAL] * size
    added = {entry["id"]: (entry["content"], CONTROL if entry["special"] else USER) for entry in spec["added_tokens"]}
    for name, i in spec["model"]["vocab"].items():
        _put(names, i, name)
    for i, (name, kind) in added.items():
        _put(names, i, name)
        kinds[i] = kind
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in spec["model"]["merges"]]
    if pieces:
        for i, name in enumerate(names):
            if name == spec["model"].get("unk_token"):
                kinds[i] = UNKNOWN
            elif name and re.fullmatch("<0x[0-9A-F]{2}>", name):
                kinds[i] = BYTE
    kinds = [UNUSED if name is None else kind for name, kind in zip(names, kinds, strict=True)]
    writer.add_token_list([f"[PAD{i}]" if name is None else name for i, name in enumerate(names)])
    writer.add_token_types(kinds)
    if pieces:  # the rank of the first merge that makes a token is its score
        ranks: dict[str, int] = {}
        for rank, (first, second) in enumerate(merges):
            ranks.setdefault(first + second, rank)
        writer.add_token_scores([-float(ranks.get(name or "", len(merges))) for name in names])
    else:
        writer.add_token_merges([f"{first} {second}" for first, second in merges])
    ids = {}
    for key in ("bos", "eos", "unk", "pad"):
        token = tokens.tokenizer.token_to_id(tokens.specials.get(f"{key}_token") or "")
        token = source.config.get(f"{key}_token_id") if token is None else token
        token = token[0] if isinstance(token, list) and token else token
        if isinstance(token, int) and 0 <= token < size:
            ids[key] = token
            getattr(writer, f"add_{key}_token_id")(token)
    empty = tokens.encode("")
    writer.add_add_bos_token(bool(empty) and empty[0] == ids.get("bos"))
    writer.add_add_eos_token(bool(empty) and empty[-1] == ids.get("eos") and empty[-1:] != empty[:1])
    writer.add_add_space_prefix(bool(pieces) and _prefixed(spec))
    if tokens.templates:
        named = {"default": tokens.template, **tokens.templates}
        writer.add_chat_template([{"name": name, "template": text} for name, text in named.items() if text])
    elif tokens.template:
        writer.add_chat_template(tokens.template)


def _put(names: list[str | None], place: int, name: str) -> None:
    if place >= len(names):
        raise EngineError(f"the tokenizer has the token {place}, and the model {len(names)} rows of embeddings")
    names[place] = name


def _prefixed(spec: dict[str, Any]) -> bool:
    """Whether a sentencepiece tokenizer puts a space before a text."""
    steps = [spec.get("normalizer") or {}, spec.get("pre_tokenizer") or {}]
    steps += [part for step in steps for part in step.get("normalizers", [])]
    return any(step.get("type") == "Prepend" or step.get("prepend_scheme", "never") != "never" for step in steps)


def pre_tokenizer_of(spec: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer.json cuts texts. Raises EngineError where it has none that is known here."""
    if spec["model"].get("type") != "BPE" or (spec.get("decoder") or {}).get("type") != "ByteLevel":
        raise EngineError(
            "only BPE tokenizers of bytes or of sentencepiece are written as GGUF; --to hf keeps this one as it is"
        )
    step = spec.get("pre_tokenizer") or {}
    digits, pattern, regex = False, None, False
    for part in step.get("pretokenizers", [step]):
        if part.get("type") == "Digits" and part.get("individual_digits"):
            digits = True
        elif part.get("type") == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
            pattern = part["pattern"].get("Regex")
        elif part.get("type") == "ByteLevel" and not part.get("add_prefix_space"):
            regex = part.get("use_regex", True)
        else:
            pattern = "?"
    wanted = (None if regex and pattern is None else pattern or "?", digits)
    for name, cut in CUTS.items():
        if cut == wanted and name != "default":
            return name
    known = ", ".join(name for name in CUTS if name != "default")
    raise EngineError(f"this tokenizer cuts texts as none does that GGUF has a name for here ({known})")


def _copied(writer: "GGUFWriter", fields: dict[str, Any]) -> None:
    from gguf import GGUFValueType

    for name, value in fields.items():
        if name.startswith("tokenizer.") and value != []:
            kind = GGUFValueType.get_type(value)
            if name.endswith("_token_id"):
                kind = GGUFValueType.UINT32
            inner = GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
            writer.add_key_value(name, value, kind, inner)
