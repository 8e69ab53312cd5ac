"""Networks that are trained by themselves: the whole one is plain fine-tuning, and compute adds up."""

import pytest
import torch
from front_settings import Setting, classifier

from paperlab.kit.elastic import Space, cut, sizes_of
from paperlab.kit.tuning import cross_entropy, fit
from paperlab.methods.pruning.separate_networks import recipe


def test_each_is_fine_tuned_from_the_start_by_itself() -> None:
    setting = Setting(steps=60)
    start = classifier(0.1)
    before = [parameter.clone() for parameter in start.parameters()]
    tuned = recipe(start, setting, 2, 1e-2, networks=5)
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), before, strict=True))
    assert len(setting.asked) == 5
    space, steps = Space(sizes_of(start)), tuned.steps // 5
    for made, config in zip(setting.asked[:3], space.corners, strict=True):
        alone = cut(classifier(0.1), space.network(config))
        fit(alone, setting, cross_entropy, rate=1e-2, seed=2, asks=("student", "labels"), steps=steps)
        assert all(torch.equal(a, b) for a, b in zip(made.parameters(), alone.parameters(), strict=True))
    assert tuned.model.compute == pytest.approx(60, rel=0.1)  # type: ignore[arg-type]
    shares = [sum(p.numel() for p in one.encoder.encoder.parameters()) for one in setting.asked]  # type: ignore[union-attr]
    assert sum(shares) / shares[0] * (steps + 0.5) == pytest.approx(tuned.model.compute)  # type: ignore[arg-type]


def test_layer_dropping_trains_every_depth_with_all_heads_and_units() -> None:
    setting = Setting(steps=60)
    tuned = recipe(classifier(), setting, 2, 1e-2, depths=True)
    whole = sum(p.numel() for p in classifier().encoder.encoder.parameters())
    counts = [sum(p.numel() for p in one.encoder.encoder.parameters()) for one in setting.asked]  # type: ignore[union-attr]
    assert counts == [whole, whole * 2 // 3, whole // 3]
    assert tuned.model.evaluations == 3
    assert tuned.model.compute == pytest.approx(60, rel=0.1)  # type: ignore[arg-type]
    assert tuned.steps == 3 * round(60 / 2 - 0.5)


def test_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="corners"):
        recipe(classifier(), Setting(), 0, 1e-2, networks=2)
