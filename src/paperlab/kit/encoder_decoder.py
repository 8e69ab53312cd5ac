"""A small encoder-decoder that reads an image and a text and writes words, and what leaves its layers early.

The encoder's layers see the tokens of the image and of the text together, or each of both alone (`apart`), with the
same weights. The decoder writes one word after the other. A `Rule` says after which layer each part is left; layers
that were left out are not run, and their share of the work is counted by `expected_time` and `multiply_adds`.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.exits import stops

END, BEGIN = 0, 1  # words

Pair = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Attention with several heads, in steps, so that keys and values can be kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.out = (
            nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        )  # fmt: skip

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys(self, x: Tensor) -> Pair:
        """(n, time, width) -> keys and values, each (n, heads, time, width / heads)."""
        key, value = self.key_value(x).chunk(2, -1)
        return self._split(key), self._split(value)

    def forward(self, x: Tensor, kept: Pair, causal: bool = False) -> Tensor:
        """(n, time, width), keys and values -> (n, time, width)."""
        found = F.scaled_dot_product_attention(self._split(self.query(x)), *kept, is_causal=causal)
        return self.out(found.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed_forward = feed_forward(width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, time, width) -> the same."""
        seen = self.norm(x)
        x = x + self.attention(seen, self.attention.keys(seen))
        return x + self.feed_forward(x)


class DecoderLayer(nn.Module):
    """As the encoder's, over the words so far, with attention to what the encoder gave in between."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.cross_norm, self.cross = nn.LayerNorm(width), Attention(width, heads)
        self.feed_forward = feed_forward(width)

    def own(self, x: Tensor) -> Pair:
        """Keys and values of words (n, time, width)."""
        return self.attention.keys(self.norm(x))

    def forward(self, x: Tensor, own: Pair, memory: Pair, causal: bool = False) -> Tensor:
        """Words (n, time, width); keys and values of words and of what the encoder gave -> (n, time, width)."""
        x = x + self.attention(self.norm(x), own, causal)
        x = x + self.cross(self.cross_norm(x), memory)
        return x + self.feed_forward(x)


def feed_forward(width: int) -> nn.Sequential:
    """norm, to twice the width, ReLU, back."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


class EncoderDecoder(nn.Module):
    """words: size of the vocabulary. side: pixels of an image, a multiple of `patch`, pixels of an image token. time:
    words of a text, or before the one to be written, at most. apart: whether image and text pass the encoder alone."""

    def __init__(
        self, words: int, width: int, heads: int, layers: int, *, side: int, patch: int, time: int, apart: bool = False
    ) -> None:
        super().__init__()
        self.apart = apart
        self.stem = nn.Sequential(
            nn.Conv2d(1, width // 4, 3, padding=1),
            nn.GroupNorm(1, width // 4),
            nn.ReLU(),
            nn.Conv2d(width // 4, width, patch, patch),
            nn.GroupNorm(1, width),
            nn.ReLU(),
        )
        self.words = nn.Embedding(words, width)
        self.image_place = nn.Parameter(torch.randn((side // patch) ** 2, width) * 0.5)
        self.text_place = nn.Parameter(torch.randn(time, width) * 0.5)
        self.word_place = nn.Parameter(torch.randn(time, width) * 0.5)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.encoder_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        nn.init.normal_(self.words.weight, std=width**-0.5)

    def embed(self, images: Tensor, text: Tensor) -> Pair:
        """Images (n, 1, side, side), text (n, time) -> tokens of both, each (n, tokens, width)."""
        seen = self.stem(images).flatten(2).transpose(1, 2) + self.image_place
        return seen, self.words(text) + self.text_place[: text.shape[1]]

    def named(self, words: Tensor) -> Tensor:
        """Embeddings of words; the same that logits are read off with, scaled as those of places."""
        return self.words(words) * self.words.embedding_dim**0.5

    def states(self, images: Tensor, text: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Tokens of the image and of the text, as they enter the first layer and as each layer leaves them."""
        seen, read = ([part] for part in self.embed(images, text))
        for layer in self.encoder:
            if self.apart:
                one, two = layer(seen[-1]), layer(read[-1])
            else:
                one, two = layer(torch.cat((seen[-1], read[-1]), 1)).split((seen[0].shape[1], read[0].shape[1]), 1)
            seen.append(one)
            read.append(two)
        return seen, read

    def memory(self, image: Tensor, text: Tensor) -> Tensor:
        """Tokens of both as the encoder was left -> what the decoder sees."""
        return self.encoder_norm(torch.cat((image, text), 1))

    def word(self, words: Tensor, first: int = 0) -> Tensor:
        """Words (n, time), the first of which is the `first` of all -> what enters the decoder (n, time, width)."""
        return self.named(words) + self.word_place[first : first + words.shape[1]]

    def written(self, images: Tensor, text: Tensor, words: Tensor) -> list[Tensor]:
        """What each layer of the decoder leaves, (n, time, width), all words being known; the encoder is run whole."""
        seen, read = self.states(images, text)
        memory, x, found = self.memory(seen[-1], read[-1]), self.word(words), []
        layer: Any
        for layer in self.decoder:
            x = layer(x, layer.own(x), layer.cross.keys(memory), causal=True)
            found.append(x)
        return found

    def speak(self, hidden: Tensor) -> Tensor:
        """What any layer of the decoder leaves (…, width) -> logits of the next word (…, words)."""
        return F.linear(self.norm(hidden), self.words.weight)

    def forward(self, images: Tensor, text: Tensor, words: Tensor) -> Tensor:
        """Logits (n, time, words) after all layers, of the word behind each of `words` (n, time)."""
        return self.speak(self.written(images, text, words)[-1])


class Rule:
    """Says after which layer each part of a network is left. This one: never before the last. copies: see `write`."""

    copies = False

    def depths(self, image: list[Tensor], text: list[Tensor]) -> Pair:
        """States of the image's and the text's tokens, (n, tokens, width), as they entered and after each layer -> how
        many layers each part gets, 1 or more, (n,) and (n,). They must be the same where both pass together."""
        all_of_them = torch.full((len(image[0]),), len(image) - 1)
        return all_of_them, all_of_them

    def begin(self, step: int, steps: int, count: int) -> None:
        """The decoder begins word `step`, from 0, of at most `steps`, for `count` items."""

    def leave(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """States (rows, time, width) of a word, and of the prompt before the first one, that enter and leave a layer of
        the decoder, from 0, of the items that are still there, by number -> which of them go no further (rows,)."""
        return torch.zeros(len(rows), dtype=torch.bool)

    def logits(self, model: EncoderDecoder, layer: int, after: Tensor) -> Tensor:
        """What a word is read from, of states (rows, width) that were left after a layer."""
        return model.speak(after)


class Measured(Rule):
    """Leaves a word once what is measured of it reaches a threshold, `word`, infinite at first. found: what was
    measured, by step and layer, since it was made an empty list; None keeps nothing."""

    word = math.inf
    found: list[list[Tensor]] | None = None

    def measure(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """As `leave` -> (rows,), more where less is to be gained by going on."""
        raise NotImplementedError

    def leave(self, layer: int, rows: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """As of a Rule."""
        measure = self.measure(layer, rows, before, after)
        if self.found is not None:
            self.found = [*self.found, []] if layer == 0 else self.found
            self.found[-1].append(measure)
        return measure >= self.word


@dataclass(frozen=True)
class Written:
    """words (n, length), <end> behind the end. Layers that were run: of the encoder, for the image (n,) and for the
    text (n,); of the decoder, for each word (n, length), 0 behind the end. copies: of keys and values, see `write`."""

    words: Tensor
    image: Tensor
    text: Tensor
    layers: Tensor
    copies: bool = False


def similarity(states: list[Tensor]) -> Tensor:
    """What enters the first layer and what each leaves, (n, tokens, width) -> (n, layers): the cosine between what
    enters and what leaves, all tokens being one vector."""
    flat = torch.stack([state.flatten(1) for state in states], 1)
    return F.cosine_similarity(flat[:, 1:], flat[:, :-1], dim=-1)


@torch.no_grad()
def write(
    model: EncoderDecoder, images: Tensor, text: Tensor, length: int, rule: Rule, prompt: Tensor | None = None,
    states: tuple[list[Tensor], list[Tensor]] | None = None,
) -> Written:  # fmt: skip
    """The likeliest word at each step, until <end>, `length` at most. prompt: words (n, time) that the decoder reads
    along with <begin>, at the first step. states: the network's, of these images and this text, where they are known.

    Where a word was left early, the layers above make keys and values for later words out of the state that it was left
    with (Schuster et al., arXiv 2207.07061); or, where the rule `copies`, they take over those of the layer that it was
    left at, of all words so far and of what the encoder gave, as the code of Tang et al. (ncsu-dk-lab/MuE) does.
    """
    states = model.states(images, text) if states is None else states
    depths = rule.depths(*states)
    n, layers = len(images), len(model.decoder)
    rows = torch.arange(n)
    memory = model.memory(*(torch.stack(part)[depth, rows] for part, depth in zip(states, depths, strict=True)))
    decoder: list[Any] = list(model.decoder)
    cross = [torch.stack(layer.cross.keys(memory)) for layer in decoder]
    told = torch.full((n, 1), BEGIN) if prompt is None else F.pad(prompt, (1, 0), value=BEGIN)
    most = told.shape[1] + length - 1
    own = [cross[0].new_zeros(*cross[0].shape[:3], most, cross[0].shape[-1]) for _ in decoder]
    words, used = torch.full((n, length), END), torch.zeros(n, length, dtype=torch.long)
    going, first = rows, 0
    for step in range(length):
        rule.begin(step, length, n)
        x, there, time = model.word(told[going], first), going, first + told.shape[1]
        last = torch.zeros(n, dtype=torch.long)
        for index, layer in enumerate(decoder):
            own[index][:, there, :, first:time] = torch.stack(layer.own(x))
            kept = own[index][:, there, :, :time].unbind(0)
            after = layer(x, kept, cross[index][:, there].unbind(0), causal=not first)
            out = rule.leave(index, there, x, after) | (index == layers - 1)
            gone = there[out]
            last[gone] = rule.logits(model, index, after[out, -1]).argmax(-1)
            used[gone, step] = index + 1
            for above in range(index + 1, layers) if len(gone) else ():
                if rule.copies:
                    own[above][:, gone] = own[index][:, gone]
                    cross[above][:, gone] = cross[index][:, gone]
                else:
                    own[above][:, gone, :, first:time] = torch.stack(decoder[above].own(after[out]))
            x, there = after[~out], there[~out]
            if not len(there):
                break
        words[going, step] = last[going]
        told, first = last[:, None], time
        going = going[last[going] != END]
        if not len(going):
            break
    return Written(words, *depths, used, rule.copies)


def expected_time(written: Written, model: Any, image: int, text: int) -> float:
    """Layers that were run over those that there are, 0 to 1: those of the encoder that a token goes through, the mean
    over tokens of which so many are of the `image` and of the `text`, and those of the decoder, the mean over words.
    model: the network with all its layers.

    As the expected time of 2211.11152 (section 4.1), where a word counts as much whatever is written.
    """
    encoder = (image * written.image + text * written.text) / (image + text)
    count = (written.layers > 0).sum(1)
    run = (encoder * count).sum() + written.layers.sum()
    return (run / (count.sum() * (len(model.encoder) + len(model.decoder)))).item()


def multiply_adds(written: Written, model: Any, image: int, text: int, prompt: int = 0) -> float:
    """Multiply-adds of all layers that were run, a mean over items; stem, embeddings and head are not counted. prompt:
    words that the decoder reads with <begin>.

    A layer of the decoder makes keys and values of what the encoder gave once, if any word gets there; with copies, if
    the first word does, and those above take them over. Without copies, each layer above the one where a word was left
    makes keys and values of that word.
    """
    width, layers = model.words.embedding_dim, len(model.decoder)
    one = 8 * width**2  # of a token in a layer: query, key, value, output and feed-forward
    keys = 2 * width**2
    parts = [(image, written.image), (text, written.text)]
    seen = [image, text] if model.apart else [image + text] * 2
    encoder = sum(tokens * depth * (one + 2 * width * kept) for (tokens, depth), kept in zip(parts, seen, strict=True))
    read = torch.ones(written.layers.shape[1], dtype=torch.long)
    read[0] += prompt
    each = read * (one + 2 * width**2 + 2 * width * (read.cumsum(0) + image + text))
    decoder = (written.layers * each).sum(1)
    if written.copies:
        decoder = decoder + written.layers[:, 0] * keys * (image + text)
    else:
        above = (layers - written.layers) * (written.layers > 0)
        decoder = decoder + written.layers.amax(1) * keys * (image + text) + (above * read).sum(1) * keys
    return (encoder + decoder).double().mean().item()


def threshold(measure: Tensor, mean: float) -> float:
    """What was measured (n, layers) -> the highest threshold at which at most `mean` layers are run on average, 1 or
    more where that is possible; infinite where all may be."""
    layers = measure.shape[1]
    found = measure[:, :-1].flatten().unique()
    if mean >= layers or not len(found):
        return math.inf
    low, high = 0, len(found) - 1  # at the lowest threshold all leave at once
    while low < high:
        middle = (low + high + 1) // 2
        within = stops(measure, found[middle]).double().mean().item() + 1 <= mean
        low, high = (middle, high) if within else (low, middle - 1)
    return found[low].item()


class Leaving(nn.Module):
    """A network that leaves its layers early, by the rule of each problem; a problem without one gets all layers.

    times: expected time that a problem's rule may take, as a share of the whole network's. known: the network's states
    of all items of a problem, while rules are tried on the same items again and again.
    """

    def __init__(self, model: EncoderDecoder, rules: dict[str, Rule] | None = None) -> None:
        super().__init__()
        self.model, self.rules = model, rules or {}
        self.times: dict[str, float] = {}
        self.known: dict[str, tuple[list[Tensor], list[Tensor]]] = {}

    def forward(self, images: Tensor, text: Tensor, words: Tensor) -> Tensor:
        """As the network's, with all layers."""
        return self.model(images, text, words)

    def write(self, images: Tensor, text: Tensor, length: int, problem: str, prompt: Tensor | None = None) -> Written:
        """As `write`, by the problem's rule."""
        rule = self.rules.get(problem) or Rule()
        return write(self.model, images, text, length, rule, prompt, self.known.get(problem))


FINALISTS = 4  # rules whose time is corrected
NEAR = 0.985  # share of the time that a corrected rule should take at least


@torch.no_grad()
def settle(network: Leaving, setting: Any, problem: str, rules: Iterable[Rule], most: float) -> Rule:
    """Of these rules the one that does best on validation items within an expected time of `most`; the one that takes
    the least time, where none keeps to it. The network is given it. Raises ValueError without a rule.

    A measured rule gets the threshold with which words take what image and text leave of the time, by what is measured
    of words that are not left. Once they are, they are others: the best few are tried again, up to three times, with
    the layers that they took too many, or too few.
    """
    model, items = network.model, setting.validation[problem]
    total = len(model.encoder) + len(model.decoder)
    trial = Leaving(model)
    trial.known[problem] = model.states(items.images, items.text)
    tried: list[tuple[float, float, Rule]] = []  # score, time, rule
    measured: list[tuple[float, float, Any, Tensor, float]] = []

    def attempt(rule: Rule) -> tuple[float, float]:
        trial.rules[problem] = rule
        written = setting.run(trial, problem)
        found = setting.score(written.words, problem), setting.time(written)
        tried.append((*found, rule))
        return found

    for rule in rules:
        if not isinstance(rule, Measured):
            attempt(rule)
            continue
        rule.found, trial.rules[problem] = [], rule
        whole = setting.time(setting.run(trial, problem))
        found, rule.found = torch.cat([torch.stack(layers, 1) for layers in rule.found]), None
        depth = len(model.decoder) - (whole - most) * total  # of a word, on the mean
        if depth >= 1:
            rule.word = threshold(found, depth)
            measured.append((*attempt(rule), rule, found, depth))
    for _, time, rule, found, depth in sorted(measured, key=lambda one: -one[0])[:FINALISTS]:
        for _ in range(3):
            if NEAR * most <= time <= most or (rule.word == math.inf and time <= most):
                break
            depth += ((1 + NEAR) / 2 * most - time) * total
            rule = copy.copy(rule)
            rule.word = threshold(found, depth)
            _, time = attempt(rule)
    if not tried:
        raise ValueError(f"no rule to choose from for {problem}")
    _, _, chosen = max(tried, key=lambda one: (one[1] <= most, one[0] if one[1] <= most else 0.0, -one[1]))
    network.rules[problem], network.times[problem] = chosen, most
    return chosen


def encoder_decoder(model: nn.Module) -> Any:
    """The network itself. Raises ValueError for one that is no encoder-decoder of this kind."""
    if not isinstance(model, EncoderDecoder):
        raise ValueError("layers of an encoder and of a decoder can be left early, and this network has not both")
    return model


def word_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (n, time, words), words (n, time), -100 for none -> the cross-entropy, the mean over items of the mean
    over the words of each: an answer of one word weighs as much as a caption."""
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=-100)
    each = each.view(labels.shape)
    return (each.sum(1) / (labels >= 0).sum(1).clamp(min=1)).mean()
