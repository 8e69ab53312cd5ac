"""The task of spoken digits: filters against another library, noise as strong as is said, splits, exits, a good arm
against planted bad ones, a user's recordings."""

import wave
from pathlib import Path
from typing import Any

import numpy as np
import objective_settings
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from paperlab.assets import speech, voices
from paperlab.kit.training import Split
from paperlab.kit.tuning import Tuned
from paperlab.tasks import asr as task


def test_mel_filters_are_those_of_another_library() -> None:
    wanted = mel_filter_bank(
        task.FFT // 2 + 1, task.MELS, task.LOWEST, task.HIGHEST, speech.RATE, norm=None, mel_scale="htk"
    )
    torch.testing.assert_close(task.mel_filters().double(), torch.tensor(wanted), atol=1e-4, rtol=0)


def test_noise_is_as_strong_as_is_said_and_pink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "NOISE", (6.0, 6.0))
    silence, draw = torch.zeros(50, 8_000), torch.Generator().manual_seed(0)
    noise = task.noisy(silence, draw)
    torch.testing.assert_close(noise.square().mean(1), torch.full((50,), 10**-0.6))
    easier = task.noisy(silence, draw, 20.0)
    torch.testing.assert_close(easier.square().mean(1), torch.full((50,), 10**-2.6))
    power = torch.fft.rfft(noise).abs().square().mean(0)  # one bin is one Hz
    assert (power[190:210].mean() / power[1_990:2_010].mean()).item() == pytest.approx(10, rel=0.15)


def test_features_are_logs_of_power_and_know_no_loudness() -> None:
    tone = torch.sin(2 * torch.pi * 1_000 * torch.arange(4_000) / speech.RATE)[None]
    found = task.log_mel(tone + 1e-3 * torch.randn(1, 4_000, generator=torch.Generator().manual_seed(0)))
    assert found.shape == (1, 51, task.MELS)
    assert found.mean((0, 1)).argmax() == task.mel_filters()[32].argmax()  # 1 kHz is the 32nd of 128 bins to 4 kHz
    assert found.mean().abs() < 1e-5
    assert found.std().item() == pytest.approx(1)


def test_resampling_keeps_a_tone() -> None:
    tone = torch.sin(2 * torch.pi * 50 * torch.arange(2_400) / 2_400)
    wanted = torch.sin(2 * torch.pi * 50 * torch.arange(800) / 800)
    torch.testing.assert_close(speech.resampled(tone, 1 / 3), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(speech.resampled(wanted, 3.0), tone, atol=1e-4, rtol=0)


def test_silence_around_a_sound_is_cut_but_for_a_margin() -> None:
    sound = torch.zeros(8_000)
    sound[3_000:5_000] = 1.0
    sound[7_000] = 0.01
    assert len(speech.trimmed(sound)) == pytest.approx(2_000 + 2 * 400, abs=1)


def test_a_level_of_one_where_there_is_sound() -> None:
    waves = torch.zeros(2, 100)
    waves[0, :50], waves[1] = 3.0, 0.5
    found = speech.level(waves)
    assert found[0].tolist() == 50 * [1.0] + 50 * [0.0]
    assert found[1].tolist() == 100 * [1.0]


def test_training_is_easier_at_first_and_the_seed_draws_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = objective_settings.recogniser()
    setting.steps = 4
    eases = []
    monkeypatch.setattr(task, "noisy", lambda waves, draw, ease: eases.append(ease) or waves)
    batches = setting.batches(0)
    for _ in range(5):
        next(batches)
    assert eases == [20, 10, 0, 0, 0]
    monkeypatch.undo()
    first, same, other = (next(setting.batches(seed))[0]["features"] for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_the_loss_is_over_the_number_of_words() -> None:
    setting = objective_settings.recogniser()
    logits, labels = torch.randn(2, 7, 5), torch.tensor([[1, 2, 3], [4, 0, 0]])
    found = setting.loss(logits, labels)
    wanted = F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), labels, torch.tensor([7, 7]), torch.tensor([3, 1]))
    torch.testing.assert_close(found.mean(), wanted)  # PyTorch's own mean is over lengths, then over examples


class Says(nn.Module):
    """Right or not at each exit, by utterance; exits after blocks `depths`."""

    def __init__(self, labels: Tensor, right: Tensor, depths: tuple[int, ...], shares: Tensor | None = None) -> None:
        super().__init__()
        self.labels, self.right, self.depths = labels, right, depths
        if shares is not None:
            self.policy = lambda features, frames: shares

    def exits(self, features: Tensor) -> list[Tensor]:
        rows = features[:, 0, 0].long()
        spaced = torch.stack((self.labels[rows], torch.zeros_like(self.labels[rows])), 2).flatten(1)
        return [F.one_hot(spaced * self.right[rows, e, None], 5).float() * 50 for e in range(len(self.depths))]


def rates(model: nn.Module, setting: Any) -> dict[str, float]:
    """The mean over items."""
    rows = list(task.score(Tuned(model, 1.0), setting))
    assert list(task.score(Tuned(model, 1.0), setting, start=2)) == rows[2:]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def test_exits_count_where_they_are_and_shares_are_expected_values() -> None:
    setting = objective_settings.recogniser()
    labels = torch.tensor([[1, 2], [3, 0], [4, 4], [2, 0]])  # 6 words
    setting.test = setting.validation = Split((torch.arange(4.0)[:, None, None], torch.ones(4)), labels)
    right = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    arm = Says(labels, right, (2, 4, 6))
    assert [row["wrong_4"] for row in task.score(Tuned(arm, 1.0), setting)] == [0, 0, 2 / 1.5, 1 / 1.5]
    assert rates(arm, setting) == pytest.approx(
        {"wrong": 1 / 6, "wrong_2": 4 / 6, "wrong_4": 3 / 6, "wrong_6": 1 / 6, "wrong_early": 3.5 / 6}
    )
    assert task.totals(Tuned(arm, 1.0), setting)["layers"] == 6
    assert setting.validate(arm) == pytest.approx(1 - 1 / 6)
    best = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]])
    chosen = Says(labels, right, (2, 4, 6), best)
    assert rates(chosen, setting)["wrong"] == pytest.approx(1 / 6)
    assert task.totals(Tuned(chosen, 1.0), setting)["layers"] == pytest.approx((2 + 4 + 6 + 3) / 4)
    worst = Says(labels, right, (2, 4, 6), best.flip(0))
    assert rates(worst, setting)["wrong"] == pytest.approx(0.5)
    late = Says(labels, right[:, 1:], (4, 6))
    assert rates(late, setting)["wrong_2"] == pytest.approx(1)  # nothing is said within two blocks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of 120 tones, at another rate, in two channels."""
    path = tmp_path_factory.mktemp("tones")
    lines = []
    for number in range(120):
        tone = np.sin(2 * np.pi * (300 + 200 * (number % 3)) * np.arange(4_000 + 10 * number) / 16_000) * 9_000
        with wave.open(str(path / f"{number}.wav"), "wb") as sound:
            sound.setparams((2, 2, 16_000, 0, "NONE", ""))
            sound.writeframes(np.stack((tone, 0 * tone), 1).astype("<i2").tobytes())
        lines.append(f"{number}.wav\t{['low', 'Middle high', 'high'][number % 3]}\n")
    (path / "transcripts.tsv").write_text("".join(lines), encoding="utf-8")
    return path


def test_a_users_recordings(folder: Path) -> None:
    one, two = (task.make(seed, "quick", data=str(folder)) for seed in (0, 1))
    assert torch.equal(one.test.inputs[0], two.test.inputs[0])
    assert [len(split) for split in (one.test, one.validation, one.train)] == [36, 18, 66]
    assert not torch.equal(one.train.labels, two.train.labels)
    assert sorted(one.test.labels[:, 0].unique().tolist()) == [1, 2, 3]  # high, low, middle
    assert {tuple(row) for row in one.test.labels.tolist()} <= {(1, 0), (2, 0), (3, 1)}
    assert one.train.inputs[0].shape[1] <= (4_000 + 1_190) // 2 + 1
    assert one.model(one.test.inputs[0][:2]).shape[-1] == 4
    assert one.about["id"] == folder.name
    assert not torch.equal(one.model.output.weight, two.model.output.weight)  # type: ignore[union-attr]


def test_recordings_that_will_not_do_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not --model"):
        task.make(0, "quick", model="x")
    with pytest.raises(ValueError, match=r"transcripts\.tsv"):
        task.make(0, "quick", data=str(tmp_path))
    (tmp_path / "transcripts.tsv").write_text(f"{folder}/0.wav\tone\n")
    with pytest.raises(ValueError, match="at least 100"):
        task.make(0, "quick", data=str(tmp_path))


def test_strings_are_spoken_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for the voice: each digit is a tone of its own."""
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    monkeypatch.setattr(speech, "STRINGS", 40)
    heard = []

    def say(phonemes: str, *, seed: int, speed: float, pitch: float) -> Tensor:
        heard.append(phonemes)
        return torch.cat([torch.sin(torch.arange(6_000) * (0.1 + len(word) / 50)) for word in phonemes.split()])

    monkeypatch.setattr(voices, "say", say)
    waves, labels, about = speech.spoken_digits()
    assert len(heard) == 40
    again: Any = speech.spoken_digits()
    assert len(heard) == 40
    assert torch.equal(waves, again[0])
    assert about == again[2]
    for row, phonemes in zip(labels.tolist(), heard, strict=True):
        assert " ".join(speech.DIGITS[digit - 1] for digit in row if digit) == phonemes
    assert {sum(map(bool, row)) for row in labels.tolist()} == {2, 3, 4}


def test_an_item_for_each_string() -> None:
    assert task.items(objective_settings.recogniser()) == 24


def test_frames_are_counted_without_padding() -> None:
    waves = torch.zeros(2, 4_000)
    waves[0, :1_281], waves[1] = 1.0, 1.0
    assert task.frames_of(waves).tolist() == [3, 7]
    frames = objective_settings.recogniser().model.front(task.log_mel(waves + torch.randn(2, 4_000))).shape[1]  # type: ignore[operator]
    assert frames - 1 <= 7 <= frames


def test_a_recogniser_learns_to_tell_tones() -> None:
    """One word to a string, tones of four heights: what is trained is better than where it began."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(1, 5, (64, 1), generator=draw)
    waves = torch.sin(labels * 700 * 2 * torch.pi * torch.arange(3_200) / speech.RATE)
    setting = objective_settings.recogniser()
    setting.test = Split((task.log_mel(waves), task.frames_of(waves)), labels)
    before = rates(setting.model, setting)["wrong"]
    optimizer = torch.optim.AdamW(setting.model.parameters(), 5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        setting.loss(setting.model(setting.test.inputs[0]), labels).mean().backward()
        optimizer.step()
    assert rates(setting.model, setting)["wrong"] < 0.5 * before
