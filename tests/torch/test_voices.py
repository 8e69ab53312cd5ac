"""The voice: harmonics summed one by one, what the parts of a wave weigh; the voice itself where it lies at hand."""

import math
from pathlib import Path

import pytest
import torch

from paperlab.assets import voices
from paperlab.assets.packages import PackageError


def test_pulses_are_the_sum_of_all_harmonics() -> None:
    f0 = torch.full((4,), 490.0)
    turn = 2 * math.pi * 490 * torch.arange(1, 4 * voices.FRAME + 1, dtype=torch.double) / voices.RATE
    wanted = sum((h * turn).cos() for h in range(1, 23))  # 22 harmonics are below 11 kHz
    torch.testing.assert_close(voices.pulses(f0).double(), wanted, atol=2e-3, rtol=0)


def test_no_pulses_where_there_is_no_voice() -> None:
    f0 = torch.tensor([0.0] * 4 + [200.0] * 4)
    found = voices.pulses(f0)
    assert found[: 3 * voices.FRAME].abs().max() == 0
    assert found[5 * voices.FRAME :].abs().max() > 10


def test_a_harmonic_part_of_one_leaves_the_pulses_and_noise_comes_from_the_seed() -> None:
    bins, frames = voices.WINDOW // 2 + 1, 40
    one, none, f0 = torch.zeros(bins, frames), torch.full((bins, frames), -30.0), torch.full((frames,), 150.0)
    wave = voices.synthesise(one, one, none, none, one, f0, seed=0)
    scale = 4 / voices.WINDOW  # so that a cosine of amplitude 1 has the magnitude e^h
    middle = slice(4 * voices.FRAME, -4 * voices.FRAME)
    torch.testing.assert_close(wave[middle], voices.pulses(f0)[middle] * scale, atol=1e-4, rtol=1e-3)
    higher = voices.synthesise(one, one, none, none, one, f0, seed=0, pitch=1.5)
    torch.testing.assert_close(higher[middle], voices.pulses(f0 * 1.5)[middle] * scale, atol=1e-4, rtol=1e-3)
    noisy = [voices.synthesise(none, one, one, none, one, f0, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    # each bin has variance 2 and a frame is seen through WINDOW / FRAME windows
    assert noisy[0][middle].std().item() == pytest.approx((2 / voices.WINDOW / 1.5) ** 0.5, rel=0.1)


def test_it_speaks_the_same_twice_and_faster_if_asked() -> None:
    pytest.importorskip("openvino")
    try:
        voices.say("ˈAt", seed=0)
    except PackageError as error:
        pytest.skip(str(error))
    one, two, fast = (voices.say("θɹˈi ˈAt", seed=0, speed=speed) for speed in (1.0, 1.0, 1.6))
    assert torch.equal(one, two)
    assert 0.05 < one.abs().max() < 1.5
    assert 0.5 < len(fast) / len(one) < 0.8
    with pytest.raises(ValueError, match="no sound for"):
        voices.say("ж", seed=0)


def test_without_a_network_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    voices._voice.cache_clear()
    with pytest.raises(PackageError, match=r"hibari-tts.*Connect to the network"):
        voices.say("ˈAt", seed=0)
    voices._voice.cache_clear()
