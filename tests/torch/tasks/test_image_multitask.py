"""The task of two labels at several widths: turns, splits, costs, wishes, a good arm against planted bad ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from paperlab.kit.training import Split
from paperlab.kit.tuning import Tuned
from paperlab.tasks import image_multitask as task


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise; what is asked is where images go."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    np.savez(path, images=np.random.default_rng(0).normal(0, 40, (600, 20, 20)), labels=np.arange(600) % 3)
    return path


def rows(images: Tensor) -> set[bytes]:
    """Images, however they are turned."""
    return {min(image.rot90(k, (1, 2)).numpy().tobytes() for k in range(4)) for image in images}


def test_an_image_is_in_one_split_and_test_images_are_the_same_for_all_seeds(file: Path) -> None:
    one, two = (task.make(seed, "quick", data=str(file)) for seed in (0, 1))
    assert torch.equal(one.test.inputs[0], two.test.inputs[0])
    assert torch.equal(one.test.labels, two.test.labels)
    parts = [rows(split.inputs[0]) for split in (one.train, one.validation, one.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 600
    assert parts[0] != rows(two.train.inputs[0])
    assert not torch.equal(one.model.classifiers[0].weight, two.model.classifiers[0].weight)  # type: ignore[union-attr, index]


def test_a_label_says_how_an_image_was_turned(file: Path) -> None:
    images = torch.rand(200, 1, 5, 5)
    turned, turns = task.rotated(images, torch.Generator().manual_seed(0))
    assert turns.bincount().min() > 30
    for before, after, count in zip(images, turned, turns.tolist(), strict=True):
        assert np.array_equal(after[0].numpy(), np.rot90(before[0].numpy(), count))
    setting = task.make(0, "quick", data=str(file))
    first, again, other = (next(setting.batches(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0]["images"], again[0]["images"])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0]["images"], other[0]["images"])


def test_a_narrow_network_costs_what_torch_counts() -> None:
    network = task.Slimmable((16, 32), 16, (3, 4))
    for configuration in ((1.0, (1.0, 1.0)), (0.25, (0.75, 0.5)), (0.75, (0.25, 1.0))):
        width, heads = configuration
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            feature = network.encode(torch.randn(1, 1, 14, 14), width)
            for index, head in enumerate(heads):
                network.read(feature, index, head)
        counts = counter.get_flop_counts()["Global"]
        flops = sum(count for operation, count in counts.items() if "convolution" in str(operation))
        assert network.multiplications(14, configuration) == flops / 2


def test_a_narrow_network_reads_its_first_channels_alone() -> None:
    network, images = task.Slimmable((16, 32), 16, (3, 4)), torch.randn(2, 1, 8, 8)
    before = [network.read(network.encode(images, 0.5), index, 0.25) for index in range(2)]
    with torch.no_grad():
        for layer, kept in ((network.encoder[0], 8), (network.encoder[1], 16), (network.heads[0], 4)):
            layer["convolution"].weight[kept:] = torch.nan  # type: ignore[index]
    after = network.read(network.encode(images, 0.5), 0, 0.25)
    torch.testing.assert_close(after, before[0])
    assert not torch.allclose(before[0][:, :3], before[1][:, :3])


def test_wishes_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "WISHES", (0.0, 0.5, 1.0))
    seems = torch.tensor([[0.9, 0.1], [0.6, 0.6], [0.2, 0.8]], dtype=torch.double)
    true = torch.tensor([[0.8, 0.3], [0.5, 0.7], [0.1, 0.6]], dtype=torch.double)
    # the turn alone: the third, 0.6 right; both alike: the second, 0.6; the digit alone: the first, 0.8
    assert task.wished(seems, true) == pytest.approx(1 - (0.6 + 0.6 + 0.8) / 3)


def test_more_configurations_of_the_same_worth_serve_no_better() -> None:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for count in (1, 50):
        noise = torch.randn(2, 2_000, count, 2, generator=generator, dtype=torch.double) * 0.02
        seen, own = 0.7 + noise
        found[count] = torch.tensor([task.wished(a, b) for a, b in zip(seen, own, strict=True)]).mean().item()
    assert found[50] == pytest.approx(found[1], abs=0.0015)  # the best of 50 on test images would gain 0.04


class Knows(nn.Module):
    """Images say their labels; right at every width, or only from some width of the encoder on."""

    classes = (3, 4)

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least, self.weight = least, nn.Parameter(torch.zeros(1))
        network = task.Slimmable((8,), 8, self.classes)
        self.multiplications, self.configurations = network.multiplications, network.configurations

    def encode(self, images: Tensor, width: float) -> Tensor:
        return images[:, 0, 0, :2] + (width < self.least)

    def read(self, feature: Tensor, index: int, width: float) -> Tensor:
        count = self.classes[index]
        return F.one_hot(feature[:, index].long() % count, count).float()


def test_a_good_arm_beats_planted_bad_ones(file: Path) -> None:
    setting = task.make(0, "quick", data=str(file))
    labels = torch.stack((torch.arange(60) % 3, torch.arange(60) // 3 % 4), 1)
    images = torch.zeros(60, 1, 2, 2)
    images[:, 0, 0] = labels.float()
    setting.test = setting.validation = Split((images,), labels)
    found: dict[str, Any] = {}
    for name, model in (("good", Knows(0.0)), ("wide", Knows(1.0)), ("bad", Knows(2.0))):
        (found[name],) = task.score(Tuned(model, 1.0), setting)
    assert [found[name]["wrong_full"] for name in found] == [0, 0, 1]
    assert [found[name]["wrong_narrow"] for name in found] == [0, 1, 1]
    assert found["wide"]["wrong"] == pytest.approx(0.75)
    assert [found[name]["wrong_wished"] for name in ("good", "bad")] == [0, 1]
    assert found["wide"]["wrong_wished"] == 0  # a full encoder with narrow heads is within both budgets
    assert setting.validate(Knows(0.0)) == 1
    assert setting.validate(Knows(1.0)) == pytest.approx(0.25)


def test_other_data_is_refused() -> None:
    assert task.items(SimpleNamespace()) == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not --model"):
        task.make(0, "quick", model="x")
    with pytest.raises(ValueError, match="no such file"):
        task.make(0, "quick", data="sorting")
