"""A voice at hand: phonemes to speech by the small network that the package `hibari-tts` carries (Apache-2.0).

The network (7.9 MB, 24 kHz, one American female voice, distilled from Kokoro-82M) says for each frame of 12.5 ms what
spectrum the voice has; the wave is made of that here:

    S = exp(h) e^(i pi tanh(theta)) STFT(pulses(f0)) + exp(n) Z + exp(r) e^(i phi),     Z complex, standard normal

h, n, r: log magnitudes of the harmonic, the noisy and the free part; theta, phi: phases; f0: pitch in Hz, below
UNVOICED where there is none. Only the network and its alphabet are taken out of the package, and none of its code is
run. The network runs in OpenVINO, on one thread and in single precision.
"""

import json
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from paperlab.assets.packages import fetch, packages
from paperlab.core.home import home
from paperlab.core.install import needs

if TYPE_CHECKING:
    from torch import Tensor

RATE = 24_000  # samples a second
FRAME, WINDOW = 300, 1_200  # samples
UNVOICED = 40.0  # Hz
HIGHEST = 11_000.0  # Hz: harmonics above are left out
LOUDEST = 7.0  # of the log magnitudes

Network = Callable[[list[int], float], "list[Tensor]"]


def pin() -> str:
    """Name and version of the package that carries the voice, and the sha256 of the network."""
    package = packages()["hibari-tts"]
    return f"{package} {package.members['hibari.onnx'].sha256}"


def say(phonemes: str, *, seed: int, speed: float = 1.0, pitch: float = 1.0) -> "Tensor":
    """Speech (samples,), float32, about -1 to 1, at RATE.

    phonemes: IPA as misaki writes it for American English, "θɹˈi ˈAt"; speed: 0.5 (slow) to 2, of the voice's pace;
    pitch: factor of its f0. The seed draws the noise in it. The same on the same machine, bit by bit; other processors
    round otherwise. Raises PackageError where the voice cannot be had, MissingExtra without OpenVINO, ValueError for a
    sign that the voice does not know.
    """
    alphabet, network = _voice()
    if unknown := set(phonemes) - alphabet.keys():
        raise ValueError(f"the voice has no sound for {' '.join(sorted(unknown))}")
    return synthesise(*network([0, *(alphabet[sign] for sign in phonemes), 0], speed), seed=seed, pitch=pitch)


@cache
def _voice() -> tuple[dict[str, int], Network]:
    """The number of each sign, and the network: numbers, speed -> h, theta, n, r, phi (bins, frames), f0 (frames,)."""
    with needs("site"):  # OpenVINO comes with it
        import openvino
    import numpy as np
    import torch

    package = packages()["hibari-tts"]
    folder = fetch(package, home() / "voices" / f"{package.name}-{package.version}")
    alphabet = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(folder / "hibari.onnx", "CPU", options)

    def network(numbers: list[int], speed: float) -> "list[Tensor]":
        out: Any = compiled({"ids": np.asarray([numbers], np.int64), "speed": np.asarray([speed], np.float32)})
        return [torch.from_numpy(out[port][0].copy()) for port in compiled.outputs]

    return alphabet, network


def synthesise(
    h: "Tensor",
    theta: "Tensor",
    n: "Tensor",
    r: "Tensor",
    phi: "Tensor",
    f0: "Tensor",
    *,
    seed: int,
    pitch: float = 1.0,
) -> "Tensor":
    """Log magnitudes and phases (WINDOW / 2 + 1, frames), f0 in Hz (frames,) -> samples (frames * FRAME,)."""
    import torch

    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(
        pulses(f0 * pitch), WINDOW, FRAME, window=window / (WINDOW / 4), pad_mode="reflect", return_complex=True
    )[:, : len(f0)]
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.complex64) * 2**0.5
    whole = torch.polar(h.clamp(max=LOUDEST).exp(), torch.pi * theta.tanh()) * spectrum
    whole = whole + n.clamp(max=LOUDEST).exp() * noise + torch.polar(r.clamp(max=LOUDEST).exp(), phi)
    whole = torch.cat((whole, whole[:, -1:]), 1)  # the frame that a centred transform has at its end
    return torch.istft(whole, WINDOW, FRAME, window=window, length=len(f0) * FRAME)


def pulses(f0: "Tensor") -> "Tensor":
    """f0 in Hz (frames,) -> all harmonics up to HIGHEST at amplitude 1 (frames * FRAME,), 0 where unvoiced.

    The sum of cos(h t) for h = 1 to H is sin((H + 1/2) t) / (2 sin(t / 2)) - 1/2, and H where t is a whole turn.
    """
    import torch
    import torch.nn.functional as F

    hertz = F.interpolate(f0[None, None], scale_factor=FRAME, mode="linear", align_corners=False)[0, 0].double()
    voiced, hertz = hertz > UNVOICED, hertz.clamp(min=UNVOICED)
    turn = 2 * torch.pi * (hertz.cumsum(0) / RATE).frac()
    half, count = (turn / 2).sin(), (HIGHEST / hertz).floor()
    sharp = half.abs() < 1e-3
    train = ((count + 0.5) * turn).sin() / torch.where(sharp, 1.0, 2 * half) - 0.5
    return torch.where(voiced, torch.where(sharp, count, train), 0.0).float()
