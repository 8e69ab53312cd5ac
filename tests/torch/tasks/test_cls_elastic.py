"""Fronts of classifiers: where arms start, what a planted bad front is worth, and figures worked by hand."""

from pathlib import Path

import pytest
import torch
from text_settings import make_small
from torch import Tensor, nn

from paperlab.kit.elastic import Front, Member, Space, active, sizes_of
from paperlab.kit.tuning import Tuned, cross_entropy, fit
from paperlab.tasks import cls, cls_elastic


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> cls_elastic.Setting:
    make_small(monkeypatch, tmp_path)
    monkeypatch.setattr(cls_elastic, "VALIDATION", 60)
    return cls_elastic.make(0, "quick", data="movie-reviews")


def tuned(*members: Member) -> Tuned:
    return Tuned(Front(members, 5.0, len(members)), 0.1, {}, 3, 7)


def test_four_of_six_blocks_are_trained_and_say_what_the_whole_encoder_says(setting: cls_elastic.Setting) -> None:
    assert (setting.frozen, sizes_of(setting.model).blocks, len(setting.validation)) == (2, 4, 60)
    known = cls.make(0, "quick", data="movie-reviews")
    assert torch.equal(setting.model.get_parameter("head.weight"), known.model.get_parameter("head.weight"))
    for one in (setting.logits(setting.model, setting.test), known.logits(known.model, setting.test)):
        assert one[0].shape == (160, 2)
    torch.testing.assert_close(
        setting.logits(setting.model, setting.test)[0], known.logits(known.model, setting.test)[0], atol=5e-3, rtol=0
    )
    parts = torch.cat([setting.train, setting.validation, setting.test])
    assert torch.equal(parts.sort().values, torch.arange(800))
    assert setting.validation_steps == pytest.approx(60 / 16 / 3)
    assert torch.equal(cls_elastic.remake(setting, 2).test, cls_elastic.make(2, "quick", data="movie-reviews").test)


def test_a_good_front_is_worth_more_than_planted_bad_ones(setting: cls_elastic.Setting) -> None:
    model = setting.model
    fit(model, setting, cross_entropy, rate=3e-3, seed=0, asks=("student", "labels"), steps=40)
    space = Space(sizes_of(model))
    (alone,) = cls_elastic.score(Tuned(model, 0.0), setting)
    assert alone["correct"] > 0.8
    assert (alone["hypervolume"], alone["correct_50"]) == (0.0, 0.0)  # one network of the whole size, no trade-off

    def member(config: tuple[int, int, int], validation: float) -> Member:
        network = space.network(config)
        return Member(space.sizes.share(network), validation, model, network)

    class Wrong(nn.Module):
        def forward(self, **inputs: Tensor) -> Tensor:
            return -model(**inputs).logits

    half = (2, 2, 64)
    with active(model, space.network(half)):
        logits, labels = setting.logits(model, setting.test)
    right = (logits.argmax(-1) == labels).double().mean().item()
    assert space.sizes.share(space.network(half)) == 0.5
    good = tuned(member(half, 0.8), member(space.most, 0.9))
    (row,) = cls_elastic.score(good, setting)
    assert row["correct_50"] == pytest.approx(right)
    assert row["correct_30"] == 0.0
    assert row["correct"] == alone["correct"]
    assert row["hypervolume"] == pytest.approx(0.5 * right / 0.9)
    (bad,) = cls_elastic.score(tuned(Member(0.5, 0.8, Wrong().eval()), member(space.most, 0.9)), setting)
    assert bad["hypervolume"] < 0.5 * row["hypervolume"]
    assert setting.validate(good.model) == pytest.approx(0.5 * 0.8 / 0.9)
    told = cls_elastic.totals(good, setting)
    assert (told["compute"], told["evaluations"], told["members"], told["steps"]) == (5.0, 2.0, 2.0, 3.0)
    assert told["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert cls_elastic.describe(setting)["least"] == 0.1
