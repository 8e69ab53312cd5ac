"""Models beside their source on the same text: perplexity, KL divergence, flips, embeddings, bytes and speed.

    from paperlab.engine.measure import compare

    found = compare("my-model", ["packed", "my-model.gguf"], texts)
    for one in found.models:
        print(one.name, one.perplexity.value, one.change.low, one.change.high, one.kl.value, one.flips.value)

Everything is paired: each model sees the windows of tokens that the source sees, and the windows are the items of every
interval (95 %, `core.figures` for one model, `core.statistics` for two). Models take turns, window by window, so that
what else the machine does slows all of them alike.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from paperlab.core.figures import NOTHING, Value, interval
from paperlab.core.statistics import relative_gain
from paperlab.engine.encoder import Encoder
from paperlab.engine.formats.source import Source
from paperlab.engine.formats.tokenizer import Tokens
from paperlab.engine.language import LanguageModel
from paperlab.engine.load import load
from paperlab.engine.native import EngineError

Model = str | Path | LanguageModel | Encoder
Texts = Sequence[str] | Sequence[Sequence[int]]
Progress = Callable[[int, int], None]

TOKENS = {"language": 4096, "encoder": 16384}
WINDOW = {"language": 256, "encoder": 64}
NEIGHBOURS = 10
FEWEST = 2 * NEIGHBOURS  # texts of an encoder: among fewer, ten neighbours say nothing
LETTERS = 4  # characters that stand for a token where text is cut by characters
_LOGITS = 13_000_000  # of one call: 52 MB, held for the source and for one model
_ROWS = 16  # tokens whose probabilities are in memory together, in float64
_ROUNDS = 3  # of generating, in which the models take turns
_AT_ONCE = 16  # texts that an encoder embeds before the next one's turn


@dataclass(frozen=True)
class Measured:
    """One model. What does not apply is `NOTHING` (its value NaN), and a number that is not known is NaN; what compares
    with the source does not apply to the source.

    name: as it was given. bytes: of its weights' files. bits_per_weight: 8 * bytes / weights, all tensors counted.
    perplexity: exp of the mean of nats per token *of the source's tokenizer*, so that models whose tokenizers differ
    can be compared; >= 1. change: perplexity relative to the source's, less 1 (0.02: 2 % worse), paired.
    kl: KL(source || model) in nats per token, >= 0; kl_p99: its 99th percentile over tokens. flips: share of the tokens
    [0, 1] at which the likeliest next token is another than the source's. bits_per_byte: of text, only where the
    tokenizers of the models that are compared are not all the same. same_tokens: whether the model reads the text as
    the same tokens as the source; kl and flips need that.
    cosine: of an encoder's vectors with the source's, mean over texts; neighbours: share [0, 1] of the ten nearest
    texts that are the source's ten.
    scoring, generating: tokens per second, the median over windows and over single tokens.
    """

    name: str
    bytes: int
    bits_per_weight: float
    same_tokens: bool
    scoring: float
    generating: float = math.nan
    perplexity: Value = NOTHING
    change: Value = NOTHING
    kl: Value = NOTHING
    kl_p99: float = math.nan
    flips: Value = NOTHING
    bits_per_byte: Value = NOTHING
    cosine: Value = NOTHING
    neighbours: Value = NOTHING

    def worse_than(self, limit: float) -> bool:
        """Whether perplexity is worse than the source's by more than `limit` (0.02: 2 %), surely: its interval too."""
        return self.change.value > limit and self.change.low > limit


@dataclass(frozen=True)
class Comparison:
    """source: the model that the others are compared with; models: these, in their order.

    items: windows of text (language models) or texts (encoders), each of at most `window` tokens; tokens: the source's,
    that it predicted (an encoder: read).
    """

    kind: Literal["language", "encoder"]
    source: Measured
    models: tuple[Measured, ...]
    items: int
    window: int
    tokens: int


@dataclass
class _Opened:
    """A model at work, and what was seen of it, item by item. seconds: of a token."""

    name: str
    model: LanguageModel | Encoder
    seconds: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)
    flips: list[float] = field(default_factory=list)
    kl: list[np.ndarray] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class _Piece:
    """Token ids; those from `first` (>= 1) on are predicted. given: nats that the tokens before have cost."""

    ids: list[int]
    first: int
    given: float = 0.0


def compare(
    source: Model,
    models: Sequence[Model],
    texts: Texts,
    *,
    tokens: int | None = None,
    window: int | None = None,
    generate: int = 16,
    cache_bits: int = 32,
    activation_bits: int = 16,
    threads: int | None = None,
    encoders: bool = True,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Run models and their source on the same text. All are language models, or all are encoders.

    source, models: what `load` opens (a folder, a packed folder, a .gguf) or has opened; all are held at once. No
    models: the source alone. texts: documents, or the token ids of documents. tokens: how many of the source's are
    read, None 4,096 (encoders 16,384); fewer where the text is short, but always whole windows. window: tokens that are
    read together, None 256 (encoders 64), fewer where a model's context is shorter. generate: tokens generated in each
    of three rounds to measure the speed; 0 leaves it out. cache_bits, activation_bits, threads: as `load` and
    `LanguageModel.session` have them; the default is exact. encoders: whether they will do, which have no perplexity.
    progress: called with the steps done and of how many.

    Language models: the documents, with the end-of-text token between two, are one stream, cut into windows; each
    begins with what the tokenizer puts before a text. Where a model's tokenizer gives other tokens, the text is cut by
    characters instead, each model reads it in its own tokens, and all tokens of a piece count (the first is predicted
    from the start or end token; without one it costs log(vocabulary)). Memory: at most some 100 MB of logits.

    Encoders: documents, cut to `window` tokens; texts made by cutting where there are too few documents.

    Raises EngineError for a model that cannot be opened, another kind of model than the source, an encoder where none
    will do, values that are not finite, and a text of less than one window (of fewer than 20 texts).
    """
    if isinstance(texts, str):
        raise EngineError("compare takes a list of texts; put the one text in a list")
    if any(number is not None and number < 1 for number in (tokens, window)):
        raise EngineError(f"{tokens} tokens in windows of {window}: both must be at least 1")
    options = {"activation_bits": activation_bits, "threads": threads}
    opened = [_open(model, options) for model in (source, *models)]
    language = [one.model for one in opened if isinstance(one.model, LanguageModel)]
    if 0 < len(language) < len(opened):
        odd = next(
            one for one in opened if isinstance(one.model, LanguageModel) != isinstance(opened[0].model, LanguageModel)
        )
        kinds = ("a language model", "an encoder")
        mine, other = kinds if isinstance(opened[0].model, LanguageModel) else reversed(kinds)
        raise EngineError(f"{odd.name} is {other} and {opened[0].name} {mine}; compare models of one kind")
    kind: Literal["language", "encoder"] = "language" if language else "encoder"
    if kind == "encoder" and not encoders:
        raise EngineError(f"{opened[0].name} is an encoder, which has no perplexity")
    contexts = {one.name: one.model.about["context"] for one in opened}
    window = min(WINDOW[kind], *contexts.values()) if window is None else window
    for name, context in contexts.items():
        if window > context:
            raise EngineError(f"{name} reads at most {context} tokens; a window of {window} is too long for it")
    count = max(1, (tokens or TOKENS[kind]) // window)
    if kind == "encoder":
        return _compare_encoders(opened, texts, count, window, progress)
    return _compare_language(opened, texts, count, window, generate, cache_bits, progress)


def _open(model: Model, options: dict) -> _Opened:
    if isinstance(model, LanguageModel | Encoder):
        return _Opened(str(model.tokens.source), model)
    try:
        return _Opened(str(model), load(model, **options))
    except EngineError as error:
        raise EngineError(f"{error}" if str(model) in str(error) else f"{model}: {error}") from None


def size_of(path: Path) -> tuple[int, float]:
    """(bytes of a model's weights, bits per weight): of a folder's safetensors files, or of a .gguf file.

    Bits per weight are NaN where the tensors cannot be counted.
    """
    if path.is_file():
        size = path.stat().st_size
    else:
        index = path / "model.safetensors.index.json"
        parts = {"model.safetensors"}
        if not (path / "model.safetensors").is_file():
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        size = sum((path / part).stat().st_size for part in parts)
    try:
        count = sum(math.prod(item.shape) for item in Source(path).items.values())
    except EngineError:
        return size, math.nan
    return size, 8 * size / count


# ── language models ──────────────────────────────────────────────────────────────────────────────────────────────


def _compare_language(
    opened: list[_Opened], texts: Texts, count: int, window: int, generate: int, cache_bits: int, progress: Progress
) -> Comparison:
    pieces, lengths = _pieces(opened, texts, count, window)
    same = [
        one.model.about["vocabulary"] == opened[0].model.about["vocabulary"]
        and all(mine.ids == theirs.ids for mine, theirs in zip(read, pieces[0], strict=True))
        for one, read in zip(opened, pieces, strict=True)
    ]
    total = (len(pieces[0]) + (_ROUNDS if generate else 0)) * len(opened)
    for i in range(len(pieces[0])):
        _score(opened, [read[i] for read in pieces], same, cache_bits)
        progress((i + 1) * len(opened), total)
    for turn in range(_ROUNDS if generate else 0):
        for one, read in zip(opened, pieces, strict=True):
            one.pauses += _pauses(one.model, read[0].ids, generate, cache_bits)
        progress((len(pieces[0]) + turn + 1) * len(opened), total)
    counts = [len(piece.ids) - piece.first + bool(piece.given) for piece in pieces[0]]
    measured = [_language(one, opened[0], counts, lengths, alike) for one, alike in zip(opened, same, strict=True)]
    return Comparison("language", measured[0], tuple(measured[1:]), len(counts), window, sum(counts))


def _pieces(opened: list[_Opened], texts: Texts, count: int, window: int) -> tuple[list[list[_Piece]], list[int]]:
    """What each model reads: [model][item]; and the bytes of each item where it is not the same tokens for all."""
    source = opened[0].model
    if texts and not isinstance(texts[0], str):
        if len({one.model.about["vocabulary"] for one in opened}) > 1:
            raise EngineError("these models have vocabularies of different sizes; give texts, not token ids")
        stream = [int(token) for text in texts for token in text]
        return [_windows(stream, [], count, window)] * len(opened), []
    documents = [str(text) for text in texts if str(text).strip()]
    if not documents:
        raise EngineError("the text is empty")
    between, start = _separator(source.tokens), _start(source.tokens)
    stream, used = [], 0
    while used < len(documents) and len(stream) < count * (window - len(start)):
        stream += [*source.tokens.encode(documents[used], special=False), *between]
        used += 1
    if all(_reads_alike(one.model, source, documents[:used]) for one in opened[1:]):
        return [_windows(stream, start, count, window)] * len(opened), []
    slices = _slices(documents, LETTERS * window)[:count]
    if not slices:
        raise EngineError(_too_short(f"{sum(map(len, documents))} characters", f"{LETTERS * window}"))
    return [[_piece(one, text) for text in slices] for one in opened], [len(text.encode()) for text in slices]


def _windows(stream: list[int], start: list[int], count: int, window: int) -> list[_Piece]:
    length = window - len(start)
    cut = [stream[at : at + length] for at in range(0, min(count * length, len(stream)), length)]
    whole = [_Piece([*start, *ids], max(1, len(start))) for ids in cut if len(ids) == length]
    if not whole or window - whole[0].first < 1:
        raise EngineError(_too_short(f"{len(stream)} tokens", f"{window}"))
    return whole


def _too_short(there: str, window: str) -> str:
    return f"the text has {there}, and one window takes {window}; give a longer text, or shorter windows"


def _slices(documents: Sequence[str], length: int) -> list[str]:
    """Whole stretches of `length` characters of all documents in a row."""
    whole = "\n\n".join(documents)
    return [whole[at : at + length] for at in range(0, len(whole) - length + 1, length)]


def _piece(one: _Opened, text: str) -> _Piece:
    """A text in a model's own tokens, all of which count."""
    tokens = one.model.tokens
    before = _start(tokens) or _separator(tokens)
    ids = [*before, *tokens.encode(text, special=False)]
    if len(ids) > one.model.about["context"]:
        raise EngineError(
            f"{one.name} takes {len(ids)} tokens for {len(text)} characters and reads at most "
            f"{one.model.about['context']}; use shorter windows"
        )
    if len(ids) < 2:
        raise EngineError(f"the tokenizer of {one.name} makes {len(ids)} tokens of {len(text)} characters of the text")
    return _Piece(ids, len(before)) if before else _Piece(ids, 1, math.log(one.model.about["vocabulary"]))


def _reads_alike(model: LanguageModel | Encoder, source: LanguageModel | Encoder, documents: Sequence[str]) -> bool:
    """Whether two models make the same tokens of a text; one without a tokenizer takes the source's."""
    if model.about["vocabulary"] != source.about["vocabulary"]:
        return False
    if model.tokens.tokenizer is None:
        return True
    encode = lambda of: [of.tokens.encode(document, special=False) for document in documents]  # noqa: E731
    return encode(model) == encode(source)


def _start(tokens: Tokens) -> list[int]:
    """What the tokenizer puts before a text."""
    whole, bare = tokens.encode("a"), tokens.encode("a", special=False)
    return next((whole[:at] for at in range(len(whole)) if whole[at : at + len(bare)] == bare), [])


def _separator(tokens: Tokens) -> list[int]:
    """The token between documents: end of text as in pretraining (a chat model's `eos` ends a turn instead)."""
    for name in ("<|endoftext|>", tokens.specials.get("eos_token")):
        found = tokens.tokenizer.token_to_id(name) if tokens.tokenizer and name else None
        if found is not None:
            return [found]
    return []


def _score(opened: list[_Opened], pieces: list[_Piece], same: list[bool], cache_bits: int) -> None:
    """Run one item through all models, in parts that keep the logits small."""
    own: list[Iterator[np.ndarray]] = [
        _logits(one, piece, cache_bits) for one, piece in zip(opened, pieces, strict=True)
    ]
    sums = [[piece.given, 0.0] for piece in pieces]
    kl: list[list[np.ndarray]] = [[] for _ in pieces]
    at, first, ids = 0, pieces[0].first, pieces[0].ids
    for truth in own[0]:
        others = [next(logits) if alike else None for logits, alike in zip(own[1:], same[1:], strict=True)]
        for begin in range(max(0, first - 1 - at), min(len(truth), len(ids) - 1 - at), _ROWS):
            end = min(begin + _ROWS, len(truth), len(ids) - 1 - at)
            targets = np.array(ids[at + begin + 1 : at + end + 1])
            base = _log_softmax(truth[begin:end])
            chances, top = np.exp(base), truth[begin:end].argmax(1)
            for m, logits in enumerate([truth, *others]):
                if logits is None:
                    continue
                mine = base if m == 0 else _log_softmax(logits[begin:end])
                sums[m][0] -= float(mine[np.arange(end - begin), targets].sum())
                sums[m][1] += float((logits[begin:end].argmax(1) != top).sum())
                kl[m].append((chances * (base - mine)).sum(1))
        at += len(truth)
    for m, (one, piece) in enumerate(zip(opened, pieces, strict=True)):
        if not same[m]:
            at = 0
            for logits in own[m]:
                rows = slice(max(0, piece.first - 1 - at), max(0, min(len(logits), len(piece.ids) - 1 - at)))
                targets = np.array(piece.ids[at + 1 :])[rows]
                for begin in range(0, len(targets), _ROWS):
                    part = _log_softmax(logits[rows][begin : begin + _ROWS])
                    sums[m][0] -= float(part[np.arange(len(part)), targets[begin : begin + _ROWS]].sum())
                at += len(logits)
        one.nats.append(sums[m][0])
        one.flips.append(sums[m][1])
        one.kl.append(np.concatenate(kl[m]) if kl[m] else np.empty(0))


def _logits(one: _Opened, piece: _Piece, cache_bits: int) -> Iterator[np.ndarray]:
    """(rows, vocabulary) float32 after each token of a piece, in parts. Raises EngineError where one is not finite."""
    assert isinstance(one.model, LanguageModel)
    step = max(1, _LOGITS // one.model.about["vocabulary"])
    session, spent = one.model.session(len(piece.ids), cache_bits), 0.0
    for at in range(0, len(piece.ids), step):
        part = piece.ids[at : at + step]
        begun = time.perf_counter()
        logits = one.model.forward([(session, part)], every=True)
        spent += time.perf_counter() - begun
        if not np.isfinite(logits).all():
            raise EngineError(f"{one.name} gives logits that are not finite (NaN or infinite); its weights are damaged")
        if at + step >= len(piece.ids):  # before the last part: nobody asks for more after it
            one.seconds.append(spent / len(piece.ids))
        yield logits


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """(rows, vocabulary) float32 -> float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(1, keepdims=True))
    return wide


def _pauses(model: LanguageModel | Encoder, prompt: list[int], tokens: int, cache_bits: int) -> list[float]:
    """Seconds between one generated token and the next."""
    assert isinstance(model, LanguageModel)
    prompt = prompt[: max(1, min(16, model.about["context"] - tokens))]
    times = []
    for _ in model.generate_ids(prompt, max_tokens=tokens, ignore_end=True, cache_bits=cache_bits):
        times.append(time.perf_counter())
    return list(np.diff(times))


def _language(one: _Opened, source: _Opened, counts: list[int], lengths: list[int], same: bool) -> Measured:
    per_token = sum(counts) / len(counts)
    each = lambda values: [value / per_token for value in values]  # noqa: E731  their mean is that of all tokens
    nats = each(one.nats)
    size, bits = size_of(one.model.tokens.source)
    found = Measured(
        one.name,
        size,
        bits,
        same,
        1 / median(one.seconds),
        1 / median(one.pauses) if one.pauses else math.nan,
        perplexity=interval(nats, "exp_mean"),
        bits_per_byte=_bits_per_byte(one.nats, lengths) if lengths else NOTHING,
    )
    if one is source:
        return found
    gain = relative_gain(nats, each(source.nats), expect="higher", how="exp_mean")
    found = replace(found, change=Value(gain.gain, gain.low, gain.high, gain.n))
    if not same:
        return found
    divergence = np.concatenate(one.kl)
    return replace(
        found,
        kl=interval(each(max(0.0, float(part.sum())) for part in one.kl)),
        kl_p99=float(np.quantile(divergence, 0.99)),
        # Where no token flips, windows have no spread, and how many tokens there were bounds the share.
        flips=interval(each(one.flips) if any(one.flips) else [0.0] * sum(counts), bounded=True),
    )


def _bits_per_byte(nats: list[float], lengths: list[int]) -> Value:
    per_item = sum(lengths) / len(lengths)
    return interval([value / math.log(2) / per_item for value in nats])


# ── encoders ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _compare_encoders(opened: list[_Opened], texts: Texts, count: int, window: int, progress: Progress) -> Comparison:
    if texts and not isinstance(texts[0], str):
        raise EngineError("encoders are compared on texts, not on token ids: each has a tokenizer of its own")
    documents = list(dict.fromkeys(str(text) for text in texts if str(text).strip()))
    if len(documents) < count:
        documents = _slices(documents, LETTERS * window) or documents
    documents = documents[:count]
    if len(documents) < FEWEST:
        raise EngineError(
            f"the text makes {len(documents)} texts of {window} tokens, and the order of neighbours needs {FEWEST}; "
            "give a longer text"
        )
    read = [one.model.encode(documents, window) for one in opened if isinstance(one.model, Encoder)]
    for at in range(0, len(documents), _AT_ONCE):
        for one, ids in zip(opened, read, strict=True):
            assert isinstance(one.model, Encoder)
            part = ids[at : at + _AT_ONCE]
            begun = time.perf_counter()
            vectors = one.model.embed_ids(part)
            one.seconds.append((time.perf_counter() - begun) / max(1, sum(map(len, part))))
            if not np.isfinite(vectors).all():
                raise EngineError(
                    f"{one.name} gives vectors that are not finite (NaN or infinite); its weights are damaged"
                )
            one.vectors.append(vectors)
        progress(min(at + _AT_ONCE, len(documents)), len(documents))
    source = np.concatenate(opened[0].vectors).astype(np.float64)
    nearest = _nearest(source)
    measured = []
    for one, ids in zip(opened, read, strict=True):
        vectors = np.concatenate(one.vectors).astype(np.float64)
        overlap = [len(a & b) / NEIGHBOURS for a, b in zip(_nearest(vectors), nearest, strict=True)]
        size, bits = size_of(one.model.tokens.source)
        measured.append(
            Measured(
                one.name,
                size,
                bits,
                ids == read[0],
                1 / median(one.seconds),
                cosine=_cosine(vectors, source) if vectors.shape == source.shape and one is not opened[0] else NOTHING,
                neighbours=NOTHING if one is opened[0] else interval(overlap, bounded=True),
            )
        )
    seen = sum(map(len, read[0]))
    return Comparison("encoder", measured[0], tuple(measured[1:]), len(documents), window, seen)


def _cosine(a: np.ndarray, b: np.ndarray) -> Value:
    """The mean over rows; the interval is that of the distance 1 - cosine, which is never negative."""
    dot = lambda x, y: (x * y).sum(1)  # noqa: E731
    away = interval([max(0.0, float(1 - c)) for c in dot(a, b) / np.sqrt(dot(a, a) * dot(b, b))])
    return Value(1 - away.value, 1 - away.high, 1 - away.low, away.n)


def _nearest(vectors: np.ndarray) -> list[set[int]]:
    """The nearest texts of each, by the cosine."""
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    return [set(order[:NEIGHBOURS].tolist()) for order in np.argsort(-alike, axis=1, kind="stable")]
