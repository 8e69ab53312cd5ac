"""Importance against the gradient of explicit masks, thresholds, and what retraining and its order change."""

import copy
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from front_settings import Setting, classifier
from torch import Tensor

from paperlab.kit.elastic import SubNetwork, sizes_of
from paperlab.kit.tuning import cross_entropy, fit
from paperlab.kit.walk import blocks
from paperlab.methods.pruning import importance_pruning
from paperlab.methods.pruning.importance_pruning import SHARES, importance, kept, recipe


def test_importance_is_the_gradient_of_masks_example_by_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance_pruning, "BATCHES", 2)
    model, setting = classifier(), Setting()
    heads, units = importance(model, setting, 5)
    masks = [torch.ones(3, 4, requires_grad=True), torch.ones(3, 24, requires_grad=True)]

    def masked(place: int, number: int, width: int):  # type: ignore[no-untyped-def]
        return lambda _, args: (args[0] * masks[place][number].repeat_interleave(width), *args[1:])

    for number, block in enumerate(blocks(model)[1]):
        block.attention.output.dense.register_forward_pre_hook(masked(0, number, 8))
        block.output.dense.register_forward_pre_hook(masked(1, number, 1))
    found: list[list[Tensor]] = [[], []]
    for inputs, labels in islice(setting.batches(5), 2):
        for row in range(len(labels)):
            one = {name: value[row : row + 1] for name, value in inputs.items()}
            loss = F.cross_entropy(model(**one).logits, labels[row : row + 1])
            for place, gradient in enumerate(torch.autograd.grad(loss, masks)):
                found[place].append(gradient.abs())
    by_head = torch.stack(found[0]).mean(0)
    torch.testing.assert_close(heads, by_head / by_head.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(units, torch.stack(found[1]).mean(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("share", [*SHARES, 1.0])
def test_the_most_important_stay_and_fit_the_threshold(share: float) -> None:
    sizes, draw = sizes_of(classifier()), torch.Generator().manual_seed(0)
    heads, units = torch.rand(3, 4, generator=draw), torch.rand(3, 24, generator=draw)
    network = kept(sizes, heads, units, share)
    assert share - 0.15 < sizes.share(network) <= share
    for score, mask in ((heads, network.heads), (units, network.units)):
        if mask.any() and not mask.all():
            assert score[mask].min() > score[~mask].max()
    assert int(network.units.sum()) == pytest.approx(6 * int(network.heads.sum()), abs=6)


def test_without_retraining_pruned_networks_have_the_weights_of_the_fine_tuned_one() -> None:
    setting = Setting(steps=60)
    tuned = recipe(classifier(), setting, 0, 1e-2, retrain=0.0)
    plain = classifier()
    fit(plain, setting, cross_entropy, rate=1e-2, seed=0, asks=("student", "labels"), steps=tuned.steps)
    whole, *pruned = setting.asked
    assert torch.equal(whole.get_parameter("head.weight"), plain.head.weight)
    assert all(torch.equal(one.get_parameter("head.weight"), plain.head.weight) for one in pruned)
    assert len(pruned) == len(SHARES)


@pytest.mark.parametrize("gradual", [False, True])
def test_compute_is_what_the_setting_allows_and_retraining_helps(gradual: bool) -> None:
    setting = Setting(steps=150)
    tuned = recipe(classifier(), setting, 0, 1e-2, gradual=gradual)
    assert tuned.model.compute == pytest.approx(150, rel=0.1)  # type: ignore[arg-type]
    without = Setting(steps=150)
    recipe(classifier(), without, 0, 1e-2, retrain=0.0)
    smallest = [Setting().validate(one.asked[-1]) for one in (setting, without)]
    assert smallest[0] > smallest[1] + 0.1


def test_gradual_pruning_starts_from_the_next_larger_network() -> None:
    heads = {}
    for gradual in (False, True):
        setting = Setting(steps=100)
        recipe(classifier(), setting, 0, 1e-2, gradual=gradual)
        heads[gradual] = [one.get_parameter("head.weight").clone() for one in setting.asked]
    assert torch.equal(heads[True][0], heads[False][0])  # the whole network
    torch.testing.assert_close(heads[True][1], heads[False][1], rtol=1e-3, atol=1e-4)  # the first pruned one
    assert not torch.allclose(heads[True][2], heads[False][2], rtol=1e-2, atol=1e-3)


def test_reversed_the_least_important_stay() -> None:
    sizes, scores = sizes_of(classifier()), (torch.rand(3, 4), torch.rand(3, 24))
    good, bad = kept(sizes, *scores, 0.3), kept(sizes, -scores[0], -scores[1], 0.3)
    assert not (good.units & bad.units).any()
    shown = []
    for reverse in (False, True):
        setting = Setting(steps=40)
        recipe(classifier(), setting, 0, 5e-3, retrain=0.0, reverse=reverse)
        shown.append(Setting().validate(setting.asked[3]))
    assert shown[0] > shown[1] + 0.1


def test_the_start_and_the_network_are_not_changed_by_looking() -> None:
    model = classifier()
    before = copy.deepcopy(model.state_dict())
    importance(model, Setting(), 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert sizes_of(model).share(SubNetwork(torch.zeros(3, 4) > 0, torch.zeros(3, 24) > 0)) == 0


def test_a_share_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to below 1"):
        recipe(classifier(), Setting(), 0, 1e-2, retrain=1.0)
