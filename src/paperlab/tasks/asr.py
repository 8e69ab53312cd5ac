"""Recognising spoken digits in noise by an encoder that can be left after several of its blocks: how many are wrong?

Default: strings of two to four digits, said by one synthetic voice (`paperlab.assets.speech`) at drawn speed and pitch,
resampled so that its formants move as those of shorter and longer vocal tracts do, 8 kHz; pink noise of a strength that
differs from string to string, so that some are easy and some are not. The strings are spoken once, and kept. Test
strings and their noise are the same for all seeds, each an item; a seed draws which of the others train, the network
and all training, in which the noise is new at every step, and weaker at first (EASE): without that no network learned
anything in the steps of `quick`. Intervals are over seeds and strings: they say nothing about other voices. `--data
FOLDER` takes recordings: .wav files (16 bits, 6 s at most) and `transcripts.tsv`, a line for each: its name, a tab, its
words (at most 60 different ones in all).

    error           words wrong, of all words (an item: a string's edits over the mean number of words), on the CTC best
                    path, at the exit that the network chooses for each string (`policy`: shares of its exits, of which
                    this is the expectation), else at its last
    error_2, 4, 6   at the deepest of its exits that is within so many blocks; where it has none there, nothing said
    error_early     mean of error_2 and error_4
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets import speech
from paperlab.assets.speech import RATE
from paperlab.core.task import Metric
from paperlab.kit import ctc
from paperlab.kit.training import Split
from paperlab.kit.tuning import Batch, Tuned

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ("model",)
AXES = ("parameters", "steps", "layers")
TIMED = False
METRICS = {
    "error": Metric("lower", "wrong"),
    "error_2": Metric("lower", "wrong_2"),
    "error_4": Metric("lower", "wrong_4"),
    "error_6": Metric("lower", "wrong_6"),
    "error_early": Metric("lower", "wrong_early"),
}
PAIRED_BY = "items"
COST = {"quick": 180, "full": 1_800}  # of two arms
ARM_SECONDS = {"": 18}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {
    "spoken-digits": "1,400 strings of digits by a synthetic voice, made on the spot from a pinned package "
    "(hibari-tts, Apache-2.0, distilled from Kokoro-82M, Apache-2.0)",
}

NOISE = (-5.0, 10.0)  # dB of the voice above the noise, drawn evenly for each string
EASE = 20.0  # dB less noise at the first step of training; none less from the middle on
FFT, WINDOW, HOP, MELS = 256, 200, 80, 40  # samples; a frame is 10 ms
LOWEST, HIGHEST = 60.0, 3_800.0  # Hz, of the mel filters
BLOCKS, WIDTH, HEADS, KERNEL, DROPOUT = 6, 48, 4, 3, 0.1
BATCH = 16
STEPS = {"quick": 600, "full": 6_000, "gpu": 6_000}
RATES = (2e-3, 4e-3)  # tried by every arm
TEST, VALIDATION = 0.3, 0.15  # shares of all strings


class Recogniser(nn.Module):
    """Log-mel frames to symbols: three convolutions that leave an eighth of the frames (`front`), Conformer blocks
    (`blocks`), a linear map to the symbols, the first being the blank (`output`)."""

    def __init__(self, blocks: int, width: int, symbols: int) -> None:
        super().__init__()
        self.front = Front(width)
        self.blocks = nn.ModuleList(Conformer(width) for _ in range(blocks))
        self.output = nn.Linear(width, symbols)

    def forward(self, features: Tensor) -> Tensor:
        """(n, frames, MELS) -> logits (n, frames / 8, symbols)."""
        hidden = self.front(features)
        for block in self.blocks:
            hidden = block(hidden)
        return self.output(hidden)


class Front(nn.Module):
    """(n, frames, MELS) -> (n, frames / 8, width): convolutions that halve the frames, each with layer norm.
    They see 150 ms, half a word, so that most of the context is left to the blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(MELS if n == 0 else width, width, 3, 2, 1) for n in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        """The frames that enter the first block."""
        hidden = features
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            hidden = F.relu(norm(convolution(hidden.transpose(1, 2)).transpose(1, 2)))
        return hidden


class Conformer(nn.Module):
    """Half a feed-forward part, attention, convolution, the other half (Gulati et al., arXiv 2005.08100), but without
    positions, which the convolutions tell, with layer norm in the convolution, which keeps no statistics, and without
    the norm at the end: with it, networks of this size gave an answer without content after 300 steps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = (
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
            )
            for _ in range(2)
        )  # fmt: skip
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.asks, self.joins = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gates = nn.Linear(width, 2 * width)
        self.convolution = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.mixes = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, frames, width) -> the same."""
        x = x + 0.5 * self.drop(self.before(x))
        n, frames, width = x.shape
        asks = self.asks(self.norms[0](x)).view(n, frames, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        joined = F.scaled_dot_product_attention(*asks.unbind(0)).transpose(1, 2).reshape(n, frames, width)
        x = x + self.drop(self.joins(joined))
        inner = self.convolution(F.glu(self.gates(self.norms[1](x)), -1).transpose(1, 2)).transpose(1, 2)
        x = x + self.drop(self.mixes(F.silu(self.norms[2](inner))))
        return x + 0.5 * self.drop(self.after(x))

    def drop(self, x: Tensor) -> Tensor:
        """Dropout."""
        return F.dropout(x, DROPOUT, self.training)


@dataclass
class Setting:
    """A fresh network (`model`) where every arm starts; waves (n, samples) and labels (n, most) to train with, which
    get new noise in every batch; to validate and to test features, the number of frames that are not padding, and
    labels. Labels count from 1, 0 is padding."""

    model: nn.Module
    train: Split
    validation: Split
    test: Split
    steps: int
    about: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = RATES
    batch: int = BATCH
    teacher: nn.Module | None = None

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Features of strings in new noise, and labels, without end."""
        draw, done = torch.Generator().manual_seed(seed), 0
        while True:
            for (waves,), labels in self.train.batches(self.batch, draw):
                ease = EASE * max(0.0, 1 - 2 * done / self.steps)
                yield {"features": log_mel(noisy(waves, draw, ease))}, labels
                done += 1

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (n, frames, symbols), labels (n, most) -> (n,): nats of the labels, over their number."""
        return ctc.nats(logits.log_softmax(-1), labels) / (labels != ctc.BLANK).sum(1)

    def validate(self, model: nn.Module) -> float:
        """One less the share of words wrong in the validation strings at the network's last exit."""
        return 1 - rates_of(model, self.validation)[-1].item()


@torch.no_grad()
def edits_of(model: Any, split: Split) -> Tensor:
    """(n, exits) in double precision: edits of each string at each exit of the network, which is its end where it has
    no `exits(features)`."""
    rows = []
    for (features, _), labels in split.batches(100):
        told = model.exits(features) if hasattr(model, "exits") else [model(features)]
        rows.append(torch.stack([ctc.wrong(logits.log_softmax(-1), labels) for logits in told], 1))
    return torch.cat(rows)


def rates_of(model: nn.Module, split: Split) -> Tensor:
    """(exits,): the share of words wrong at each."""
    return edits_of(model, split).sum(0) / (split.labels != ctc.BLANK).sum()


def depths_of(model: nn.Module) -> tuple[int, ...]:
    """After how many blocks the network can be left."""
    return getattr(model, "depths", (BLOCKS,))


@torch.no_grad()
def policy(model: Any, split: Split) -> Tensor:
    """(n, exits): the share that each exit gets of each string, as the network says; else all at the last."""
    if hasattr(model, "policy"):
        return model.policy(*split.inputs).double()
    count = len(depths_of(model))
    return F.one_hot(torch.full((len(split),), count - 1), count).double()


def noisy(waves: Tensor, draw: torch.Generator, ease: float = 0.0) -> Tensor:
    """Waves (n, samples), padded with zeros, of mean square 1 where they are not -> the same in pink noise (power falls
    as frequency rises), at a level drawn for each, `ease` dB lower than NOISE says."""
    count, samples = waves.shape
    low, high = NOISE
    level = low + ease + (high - low) * torch.rand(count, 1, generator=draw)
    length = 1 << (samples - 1).bit_length()  # of other lengths the Fourier transform may take many times as long
    frequency = torch.arange(length // 2 + 1).clamp(min=length * LOWEST / RATE)  # flat where nothing is heard
    white = torch.fft.rfft(torch.randn(count, length, generator=draw))
    noise = torch.fft.irfft(white / frequency.sqrt(), length)[:, :samples]
    return waves + noise / noise.square().mean(1, keepdim=True).sqrt() * 10 ** (-level / 20)


def frames_of(waves: Tensor) -> Tensor:
    """(n, samples), zeros behind -> (n,): how many frames behind `Front` are not padding."""
    samples = ((waves != 0) * torch.arange(1, waves.shape[1] + 1)).amax(1)
    return (samples / (8 * HOP)).ceil().clamp(min=1).long()


def log_mel(waves: Tensor) -> Tensor:
    """(n, samples) -> (n, frames, MELS): log power in each filter, each string with mean 0 and variance 1."""
    spectrum = torch.stft(waves, FFT, HOP, WINDOW, torch.hann_window(WINDOW), return_complex=True).abs().square()
    logs = (spectrum.transpose(1, 2) @ mel_filters()).clamp(min=1e-6).log()
    return (logs - logs.mean((1, 2), keepdim=True)) / logs.std((1, 2), keepdim=True)


def mel_filters() -> Tensor:
    """(FFT / 2 + 1, MELS): triangles whose corners are evenly spaced in mel = 2595 log10(1 + Hz / 700)."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (LOWEST, HIGHEST))
    corners = 700 * (10 ** (torch.linspace(low, high, MELS + 2) / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, FFT // 2 + 1)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """Strings, and a fresh network. Raises ValueError for recordings that cannot be used, PackageError for a voice
    that cannot be had, MissingExtra without OpenVINO."""
    if model is not None:
        raise ValueError("this task trains its own small networks; it takes --data FOLDER, not --model")
    name = "spoken-digits" if data is None else data
    waves, labels, about = speech.spoken_digits() if name in DATA else speech.recordings(Path(name))
    fixed, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=fixed)
    tested, held = round(TEST * len(labels)), round(VALIDATION * len(labels))
    rest = order[tested:][torch.randperm(len(order) - tested, generator=own)]
    test, validation = (
        Split((log_mel(noisy(waves[rows], draw)), frames_of(waves[rows])), labels[rows])
        for rows, draw in ((order[:tested], fixed), (rest[:held], own))
    )
    training = Split((waves[rest[held:]],), labels[rest[held:]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Recogniser(BLOCKS, WIDTH, int(labels.max()) + 1).eval()
    return Setting(network, training, validation, test, STEPS[scale], {"id": name, **about})


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts, sizes; threads, which decide the order of sums."""
    return {
        "model": f"Conformer, {BLOCKS} blocks, {WIDTH} wide",
        "data": setting.about,
        "noise": list(NOISE),
        "train": len(setting.train),
        "validation": len(setting.validation),
        "test": len(setting.test),
        "rates": list(setting.rates),
        "chance": dict.fromkeys(METRICS, 1.0),  # nothing said
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """The test strings."""
    return len(setting.test)


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """parameters of what is left after training, optimiser steps, the learning rate that was chosen, layers: the mean
    number of blocks for a test string."""
    depths = torch.tensor(depths_of(arm.model), dtype=torch.double)
    layers = (policy(arm.model, setting.test) @ depths).mean().item()
    parameters = sum(parameter.numel() for parameter in arm.model.parameters())
    return {"parameters": float(parameters), "steps": float(arm.steps), "rate": arm.rate, "layers": layers}


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """For each test string its edits over the mean number of words; see the head of this file."""
    test = setting.test
    words = (test.labels != ctc.BLANK).sum(1, keepdim=True).double()
    edits = edits_of(arm.model, test) / words.mean()
    columns = torch.cat([words / words.mean(), edits], 1)  # the first: nothing said, every word missing
    found = {most: columns[:, sum(depth <= most for depth in depths_of(arm.model))] for most in (2, 4, 6)}
    rows = {
        "wrong": (edits * policy(arm.model, test)).sum(1),
        **{f"wrong_{most}": column for most, column in found.items()},
        "wrong_early": (found[2] + found[4]) / 2,
    }
    for item in range(start, len(test)):
        yield {name: column[item].item() for name, column in rows.items()}
