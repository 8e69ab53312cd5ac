"""Read the fields of a GGUF file, and the tokenizer that they describe. (The compiled part reads its tensors.)"""

import math
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paperlab.engine.native import EngineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # kinds of tokens
# How a text is cut before byte pairs are merged, by the name that llama.cpp gives it: a pattern, or None where
# ByteLevel's own is meant; digits: each one a piece of its own.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CUTS: dict[str, tuple[str | None, bool]] = {
    "default": (None, False),
    "gpt-2": (None, False),
    "smollm": (None, True),
    "llama-bpe": (_LLAMA3, False),
    "qwen2": (_LLAMA3.replace("{1,3}", ""), False),
}
SPACE = "\u2581"  # what sentencepiece writes for a space


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def plain(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.plain("Q")
        if length > len(self.data) - self.at:
            raise ValueError("a text reaches past the end")
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.plain("I"), self.plain("Q")
            if inner == _ARRAY or count > len(self.data) - self.at:
                raise ValueError("an array is damaged")
            return [self.value(inner) for _ in range(count)]
        return self.plain(_PLAIN[kind])


def read_fields(file: Path) -> dict[str, Any]:
    """Every field of a GGUF file by name. Raises EngineError."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            if data[:4] != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            reader.at = 16
            return {reader.text(): reader.value(reader.plain("I")) for _ in range(reader.plain("Q"))}
    except (ValueError, KeyError, struct.error, OSError) as error:
        raise EngineError(f"{file} is no whole GGUF file: {error}") from None


_CONFIG = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
}


def config(fields: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    """transformers' config.json from the fields of a file that the compiled part has accepted."""
    kind = fields["general.architecture"]
    out: dict[str, Any] = {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "rms_norm_eps": round(fields[f"{kind}.attention.layer_norm_rms_epsilon"], 12),
    }
    for field, name in _CONFIG.items():
        if f"{kind}.{field}" in fields:
            value = fields[f"{kind}.{field}"]
            out[name] = value[0] if isinstance(value, list) else value  # one for each layer, and all the same
    out.setdefault("num_key_value_heads", out["num_attention_heads"])
    if names := fields.get("tokenizer.ggml.tokens"):
        out["vocab_size"] = len(names)
    theta = fields.get(f"{kind}.rope.freq_base", 10000.0)
    # As llama.cpp reads them: linear where nothing is said, by a factor that has two names, and 0 is none.
    scaling = f"{kind}.rope.scaling."
    factor = fields.get(scaling + "factor", fields.get(f"{kind}.rope.scale_linear", 0.0)) or 1.0
    scaled = fields.get(scaling + "type") or "linear"
    if scaled == "none" or (scaled == "linear" and factor == 1):
        scaled = "default"
    rope = {"rope_type": scaled, "rope_theta": theta}
    if scaled != "default":
        rope["factor"] = factor
    if scaling + "original_context_length" in fields:
        rope["original_max_position_embeddings"] = fields[scaling + "original_context_length"]
    if rope["rope_type"] == "yarn":
        attention = fields.get(scaling + "attn_factor", fields.get(scaling + "yarn_attn_factor", 1.0))
        rope["attention_factor"] = attention * (0.1 * math.log(rope["factor"]) + 1 if rope["factor"] > 1 else 1.0)
        rope |= {
            f"beta_{end}": fields[f"{scaling}yarn_beta_{end}"]
            for end in ("fast", "slow")
            if f"{scaling}yarn_beta_{end}" in fields
        }
    out["rope_theta"], out["rope_parameters"] = theta, rope
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if f"tokenizer.ggml.{theirs}_token_id" in fields:
            out[f"{ours}_token_id"] = fields[f"tokenizer.ggml.{theirs}_token_id"]
    return out


def tokenizer(fields: dict[str, Any]) -> "Tokenizer | None":
    """The tokenizer of a file's fields, byte-level or sentencepiece's BPE; None where they describe another."""
    names = fields.get("tokenizer.ggml.tokens")
    kind = fields.get("tokenizer.ggml.model")
    if not names or kind not in ("gpt2", "llama"):
        return None
    from tokenizers import AddedToken

    made = _byte_level(fields, names) if kind == "gpt2" else _sentencepiece(fields, names)
    if made is None:
        return None
    kinds = fields.get("tokenizer.ggml.token_type", [])
    made.add_special_tokens(
        [AddedToken(n, special=True, normalized=False) for n, k in zip(names, kinds, strict=False) if k == CONTROL]
    )
    made.add_tokens([AddedToken(n, normalized=False) for n, k in zip(names, kinds, strict=False) if k == USER])
    return made


def _byte_level(fields: dict[str, Any], names: list[str]) -> "Tokenizer | None":
    cut, merges = CUTS.get(fields.get("tokenizer.ggml.pre", "default")), fields.get("tokenizer.ggml.merges")
    if cut is None or merges is None:
        return None
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pattern, digits = cut
    known = _ids(names)
    pairs = [(first, second) for first, _, second in (merge.partition(" ") for merge in merges)]
    # As in llama.cpp, merges of what is no token are left out: they cannot come about.
    pairs = [pair for pair in pairs if pair[0] in known and pair[1] in known and "".join(pair) in known]
    llama3 = fields.get("tokenizer.ggml.pre") == "llama-bpe"
    made = Tokenizer(models.BPE(known, pairs, ignore_merges=llama3))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    if pattern:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    _ends(made, fields, names, bos=llama3)
    return made


def _sentencepiece(fields: dict[str, Any], names: list[str]) -> "Tokenizer | None":
    """A sentencepiece tokenizer. Its scores give the merges: neighbours whose union scores best are joined first."""
    scores = fields.get("tokenizer.ggml.scores")
    if not scores or len(scores) != len(names):
        return None
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    known = _ids(names)
    pairs = [
        (-scores[i], i, known[name[:cut]], known[name[cut:]])
        for name, i in known.items()
        for cut in range(1, len(name))
        if name[:cut] in known and name[cut:] in known
    ]
    merges = [(names[first], names[second]) for _, _, first, second in sorted(pairs)]
    unknown = fields.get("tokenizer.ggml.unknown_token_id", 0)
    model = models.BPE(known, merges, unk_token=names[unknown], fuse_unk=True, byte_fallback=True)
    made = Tokenizer(model)
    prefix = fields.get("tokenizer.ggml.add_space_prefix", True)
    scheme = "first" if prefix else "never"
    made.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    _ends(made, fields, names, bos=True)
    return made


def _ids(names: list[str]) -> dict[str, int]:
    """Token ids by name. Raises EngineError where two tokens have one name: a text could not tell them apart."""
    known = {name: i for i, name in enumerate(names)}
    if len(known) < len(names):
        twice = next(name for i, name in enumerate(names) if known[name] != i)
        raise EngineError(f"two of its tokens are named {twice!r}; give token ids, or a file whose vocabulary is whole")
    return known


def _ends(made: "Tokenizer", fields: dict[str, Any], names: list[str], *, bos: bool) -> None:
    """Add the tokens that begin and end a text, where the file asks for them. bos: the default for the first."""
    from tokenizers import processors

    ids = {}
    for end, asked in (("bos", bos), ("eos", False)):
        token = fields.get(f"tokenizer.ggml.{end}_token_id")
        if fields.get(f"tokenizer.ggml.add_{end}_token", asked) and isinstance(token, int) and token < len(names):
            ids[end] = names[token], token
    if ids:
        first, last = ([ids[end][0]] if end in ids else [] for end in ("bos", "eos"))
        made.post_processor = processors.TemplateProcessing([*first, "$A", *last], None, list(ids.values()))
