"""Speech with transcripts: strings of digits that a synthetic voice says, and recordings that a user brings along."""

import hashlib
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperlab.assets import voices
from paperlab.assets.cache import cached_tensors

DIGITS = (
    "zˈɪɹO", "wˈʌn", "tˈu", "θɹˈi", "fˈɔɹ", "fˈIv", "sˈɪks", "sˈɛvən", "ˈAt", "nˈIn"
)  # as the voice's own lexicon has them  # fmt: skip
STRINGS, LENGTHS = 1_400, (2, 4)
SPEED, PITCH, TRACT = (0.8, 1.3), (0.7, 1.4), (0.87, 1.15)  # drawn evenly; TRACT: factor of all frequencies
RATE = 8_000  # samples a second
QUIET, MARGIN = 0.02, 0.05  # share of the peak; seconds
MOST_SECONDS, MOST_WORDS = 6, 60  # of recordings that are brought along


def spoken_digits() -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Waves (n, samples), labels (n, most), and their hash: spoken once, then read from the cache, without a voice."""

    def speak() -> Mapping[str, Tensor]:
        draw = torch.Generator().manual_seed(0)
        found, said = [], []
        for number in range(STRINGS):
            count = int(torch.randint(LENGTHS[0], LENGTHS[1] + 1, (), generator=draw))
            digits = torch.randint(0, 10, (count,), generator=draw).tolist()
            speed, pitch, tract = (
                low + (high - low) * torch.rand((), generator=draw).item() for low, high in (SPEED, PITCH, TRACT)
            )
            spoken = voices.say(" ".join(DIGITS[d] for d in digits), seed=number, speed=speed, pitch=pitch / tract)
            found.append(trimmed(resampled(spoken, RATE / voices.RATE / tract)))
            said.append([digit + 1 for digit in digits])
        waves, labels = padded(found), padded([torch.tensor(row) for row in said])
        return {"waves": (waves / waves.abs().amax(1, keepdim=True) * 32_000).round().short(), "labels": labels.long()}

    told = cached_tensors("speech", {"voice": voices.pin()}, speak, code=__file__)
    digest = hashlib.sha256(told["waves"].numpy().tobytes() + told["labels"].numpy().tobytes()).hexdigest()
    return level(told["waves"].float()), told["labels"], {"sha256": digest, "examples": len(told["labels"])}


def recordings(folder: Path) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """As `spoken_digits`, of a folder of recordings and transcripts. Raises ValueError for one that will not do."""
    try:
        lines = (folder / "transcripts.tsv").read_text(encoding="utf-8").splitlines()
        rows = [(name, words.lower().split()) for name, _, words in (line.partition("\t") for line in lines if line)]
        waves = [_wav(folder / name) for name, _ in rows]
    except (OSError, UnicodeDecodeError, wave.Error, EOFError) as error:
        raise ValueError(
            f"{folder}: {error}; --data takes spoken-digits or a folder of .wav files with transcripts.tsv, a line "
            "for each file: its name, a tab, its words"
        ) from error
    known = sorted({word for _, words in rows for word in words})
    if len(rows) < 100 or not all(words for _, words in rows) or len(known) > MOST_WORDS:
        raise ValueError(
            f"{folder}: {len(rows)} recordings, {len(known)} different words; at least 100 are wanted, each with "
            f"words, of which at most {MOST_WORDS} are different"
        )
    labels = padded([torch.tensor([known.index(word) + 1 for word in words]) for _, words in rows])
    found = padded(waves)
    digest = hashlib.sha256(found.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    return level(found), labels, {"id": folder.name, "sha256": digest, "examples": len(rows), "words": len(known)}


def _wav(file: Path) -> Tensor:
    """The first channel of a file, at RATE. Raises ValueError for one that is too long or has other samples."""
    with wave.open(str(file), "rb") as sound:
        channels, width, rate, count = sound.getparams()[:4]
        if width != 2 or not 0 < count <= MOST_SECONDS * rate:
            raise ValueError(
                f"{file}: {8 * width} bits, {count / rate:.1f} s; 16 and at most {MOST_SECONDS} s are read"
            )
        samples = torch.frombuffer(bytearray(sound.readframes(count)), dtype=torch.int16)[::channels].float()
    return resampled(samples, RATE / rate)


def padded(rows: list[Tensor]) -> Tensor:
    """Rows of unequal length -> (n, longest), zeros behind."""
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def level(waves: Tensor) -> Tensor:
    """(n, samples), zeros behind -> the same with a mean square of 1 where it is not padding."""
    place = torch.arange(1, waves.shape[1] + 1)
    lengths = ((waves != 0) * place).amax(1, keepdim=True).clamp(min=1)
    return waves / (waves.square().sum(1, keepdim=True) / lengths).sqrt().clamp(min=1e-9)


def resampled(wave: Tensor, factor: float) -> Tensor:
    """(samples,) -> about `factor` times as many (samples,), by Fourier transform: nothing above the new half rate."""
    count = round(len(wave) * factor)
    spectrum = torch.fft.rfft(wave)[: count // 2 + 1]
    return torch.fft.irfft(spectrum, count) * (count / len(wave))


def trimmed(wave: Tensor) -> Tensor:
    """(samples,) -> the same without what comes before and after its first and last loud sample, but for MARGIN."""
    loud = (wave.abs() > QUIET * wave.abs().max()).nonzero()
    margin = round(MARGIN * RATE)
    return wave[max(0, int(loud[0]) - margin) : int(loud[-1]) + margin]
