"""The task of segmented scenes: what is drawn, masks worked out, policies, a good arm against planted bad ones."""

from types import SimpleNamespace
from typing import Any

import objective_settings
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.training import Split
from paperlab.kit.tuning import Tuned
from paperlab.tasks import image_segmentation as task


def test_a_pixel_has_a_class_where_there_is_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "NOISE", (0.0, 0.0))
    digits = Split((torch.full((3, 10, 10), 0.2),), torch.tensor([0, 4, 9]))
    digits.inputs[0][:, 3:7, 3:7] = 0.9
    images, labels, strength = task.scenes(digits, 300, torch.Generator().manual_seed(0))
    assert images.shape == (300, 1, 20, 20)
    assert torch.equal(images[:, 0] > 0.3, labels > 0)
    assert set(labels.unique().tolist()) == {0, 1, 5, 10}
    assert strength.max() == 0
    inked = (labels > 0).sum((1, 2))
    assert inked.min() == 16  # a scene has a digit at least
    assert 32 < inked.max() <= 48  # and three at most
    assert (labels > 0)[:, 3:17, 3:17].any(0).all()  # anywhere that a digit can be
    assert not (labels > 0)[:, :3].any()


def test_noise_is_as_strong_as_is_said() -> None:
    digits = Split((torch.zeros(2, 10, 10),), torch.tensor([0, 1]))
    images, labels, strength = task.scenes(digits, 400, torch.Generator().manual_seed(0))
    assert labels.max() == 0
    torch.testing.assert_close(images.std((1, 2, 3)), strength, rtol=0.2, atol=0)
    assert strength.max() - strength.min() > 0.35


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two seeds on drawn digits; the network that arms start from is trained for a few steps."""
    draw = torch.Generator().manual_seed(0)
    digits = torch.rand(200, 10, 10, generator=draw), torch.arange(200) % 10, "0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERLAB_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(task, "_digits", lambda: digits)
        patch.setattr(task, "START_STEPS", 2)
        yield task.make(0, "quick"), task.make(1, "quick"), task.make(0, "quick")


def test_the_seed_draws_the_digits_and_the_network_and_not_the_test_scenes(settings: Any) -> None:
    one, two, _ = settings
    assert torch.equal(one.test.inputs[0], two.test.inputs[0])
    assert not torch.equal(one.train.inputs[0], two.train.inputs[0])
    weights = [setting.model.classifier.weight for setting in settings]
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert len(one.digits) == 90  # of 200: 80 judge, 30 validate
    first, same, other = (next(one.batches(seed))[0]["images"] for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_overlap_is_the_mean_iou_of_the_classes_that_are_there() -> None:
    found, labels = torch.randint(0, 4, (2, 30, 5, 5), generator=torch.Generator().manual_seed(0))
    for one, row, true in zip(task.overlap(found, labels), found, labels, strict=True):
        ious = []
        for number in set(true.flatten().tolist()):
            mine, other = ({tuple(p) for p in (t == number).nonzero().tolist()} for t in (row, true))
            ious.append(len(mine & other) / len(mine | other))
        assert one.item() == pytest.approx(sum(ious) / len(ious))


def test_the_loss_weighs_the_background_less() -> None:
    setting = objective_settings.layered()
    logits, labels = torch.zeros(2, 11, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    labels[1] = 3
    torch.testing.assert_close(setting.loss(logits, labels), torch.tensor([0.2, 1.0]) * torch.tensor(11.0).log())


class Knows(nn.Module):
    """Right from some layer on; `layers` count, and all else is given."""

    def __init__(self, labels: Tensor, right_from: int, shares: tuple[float, ...]) -> None:
        super().__init__()
        self.labels, self.right_from, self.shares = labels, right_from, torch.tensor(shares)
        self.layers = [lambda hidden: hidden + 1] * 3

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(images)), images

    def decode(self, hidden: Tensor, pixels: Tensor) -> Tensor:
        found = self.labels[pixels[:, 0, 0, 0].long()]
        found = found if hidden[0] >= self.right_from else (found + 1) % 11
        return F.one_hot(found, 11).permute(0, 3, 1, 2).float()

    def policy(self, images: Tensor) -> Tensor:
        return self.shares.expand(len(images), -1)


def test_a_good_arm_beats_planted_bad_ones_and_shares_are_expected_values() -> None:
    setting = objective_settings.layered()
    images = torch.arange(24.0)[:, None, None, None].expand(24, 1, 20, 20)
    setting.test = setting.validation = Split((images,), setting.test.labels)
    arms = {"good": (1, (1, 0, 0)), "late": (3, (0, 0.5, 0.5)), "early": (3, (1, 0, 0)), "bad": (4, (0, 0, 1))}
    found: dict[str, Any] = {}
    for name, (right_from, shares) in arms.items():
        arm = Tuned(Knows(setting.test.labels, right_from, shares), 1.0)
        (found[name],) = task.score(arm, setting)
        found[name]["layers"] = task.totals(arm, setting)["layers"]
    assert [found[name]["quality_last"] for name in arms] == [1, 1, 1, 0]
    assert [found[name]["quality"] for name in arms] == [1, 0.5, 0, 0]
    assert [found[name]["layers"] for name in arms] == [1, 2.5, 1, 3]
    assert setting.validate(Knows(setting.test.labels, 3, (1, 0, 0))) == 1  # all layers, where no depths are told


def test_other_data_is_refused() -> None:
    assert task.items(SimpleNamespace()) == 1  # type: ignore[arg-type]
    for wrong in ({"data": "coco"}, {"model": "x"}):
        with pytest.raises(ValueError, match="no other model or data"):
            task.make(0, "quick", **wrong)
