"""Exits in the decoder: when each rule leaves, worked by hand; losses and gradients of each kind."""

import copy
import math
from typing import Any

import objective_settings
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.methods.elastic.decoder_exits import Confidence, Entropy, Objective, Patience


class Says:
    """Layers that say what they are told: logits by layer and row."""

    def __init__(self, logits: list[Tensor]) -> None:
        self.told = logits

    def said(self, layer: int, state: Tensor) -> Tensor:
        return self.told[layer][state[:, 0].long()]


def leaves(rule: Any, layers: int, rows: list[int]) -> list[list[bool]]:
    rule.begin(0, 1, 9)
    states = torch.tensor(rows, dtype=torch.double)[:, None, None]
    return [rule.leave(layer, torch.tensor(rows), states, states).tolist() for layer in range(layers)]


def test_each_rule_worked_by_hand() -> None:
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.98, 0.01, 0.01]])
    says: Any = Says([shares.log()])
    assert leaves(Confidence(says, 0.45), 1, [0, 1, 2]) == [[True, False, True]]
    assert leaves(Confidence(says, 0.9), 1, [0, 1, 2]) == [[False, False, True]]
    entropies = [-sum(p * math.log(p) for p in row) for row in shares.tolist()]
    assert entropies[2] < entropies[0] < entropies[1]
    for most, wanted in ((entropies[0] + 1e-4, [True, False, True]), (entropies[0] - 1e-4, [False, False, True])):
        assert leaves(Entropy(says, -most), 1, [0, 1, 2]) == [wanted]


def test_patience_counts_layers_that_agree_in_a_row() -> None:
    said = torch.tensor([[0, 1], [0, 2], [0, 2], [1, 2], [1, 2]])  # by layer and row
    says: Any = Says([F.one_hot(row, 3).float() for row in said])
    assert leaves(Patience(says, 1), 5, [0, 1])[:3] == [[False, False], [True, False], [True, True]]
    assert leaves(Patience(says, 2), 5, [0, 1]) == [
        [False, False],
        [False, False],
        [True, False],
        [False, True],
        [False, True],
    ]
    alone = Patience(says, 1)
    assert leaves(alone, 2, [1]) == [[False], [False]]
    assert leaves(alone, 2, [0]) == [[False], [True]]  # counted anew for each word


@pytest.mark.parametrize("sure", ["confidence", "entropy", "patience"])
def test_losses_and_who_learns_from_them(sure: Any) -> None:
    setting = objective_settings.captioning()
    network: Any = setting.model
    objective = Objective(network, setting, sure=sure)
    inputs, labels = next(setting.batches(0))
    states = network.written(**inputs)
    each = [objective.said(k, state) for k, state in enumerate(states)]
    # own classifiers begin as the network's
    assert all(torch.allclose(logits, network.speak(state)) for logits, state in zip(each, states, strict=True))
    losses = [
        sum(F.cross_entropy(i[w >= 0], w[w >= 0]) for i, w in zip(logits, labels, strict=True)) / len(labels)
        for logits in each
    ]
    wanted = sum(losses) if sure == "entropy" else (losses[0] + 2 * losses[1] + 3 * losses[2]) / 6
    found = objective(inputs, labels, 0.0)
    torch.testing.assert_close(found, wanted)
    found.backward()
    grown = network.encoder[0].attention.out.weight.grad.clone()
    network.zero_grad()
    losses[-1].backward()  # type: ignore[union-attr]
    assert torch.allclose(grown, network.encoder[0].attention.out.weight.grad, atol=1e-7) == (sure == "entropy")
    heads: Any = objective.heads
    learns = [head[1].weight.grad is not None for head in heads]
    assert learns == [sure != "confidence"] * 2


@pytest.mark.parametrize("sure", ["confidence", "entropy", "patience"])
def test_the_encoder_is_run_whole_and_the_time_is_kept(sure: Any) -> None:
    setting = objective_settings.captioning()
    network: Any = Objective(
        copy.deepcopy(setting.model), setting, sure=sure, caption_time=0.9, entailment_time=0.9
    ).result()
    for problem in ("caption", "entailment"):
        found = setting.run(network, problem)
        assert (found.image == 3).all()
        assert (found.text == 3).all()
        assert setting.time(found) <= 0.9 or sure == "patience"
        assert not network.rules[problem].copies


def test_what_cannot_be_is_refused() -> None:
    images, setting = objective_settings.convolutional(), objective_settings.captioning()
    with pytest.raises(ValueError, match="not both"):
        Objective(images.model, images)
    with pytest.raises(ValueError, match="above 0"):
        Objective(setting.model, setting, caption_time=0.0)
