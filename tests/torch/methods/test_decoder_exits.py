"""Exits in the decoder: when patience leaves, worked by hand; the loss, and the time."""

import copy
from typing import Any

import objective_settings
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.kit.encoder_decoder import Leaving
from paperlab.methods.elastic.decoder_exits import Objective, Patience


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


def test_the_loss_weighs_later_layers_more_and_own_classifiers_learn() -> None:
    setting = objective_settings.captioning()
    network: Any = setting.model
    objective = Objective(network, setting)
    inputs, labels = next(setting.batches(0))
    states = network.written(**inputs)
    each = [objective.said(k, state) for k, state in enumerate(states)]
    # own classifiers begin as the network's
    assert all(torch.allclose(logits, network.speak(state)) for logits, state in zip(each, states, strict=True))
    losses = [
        sum(F.cross_entropy(i[w >= 0], w[w >= 0]) for i, w in zip(logits, labels, strict=True)) / len(labels)
        for logits in each
    ]
    found = objective(inputs, labels, 0.0)
    torch.testing.assert_close(found, (losses[0] + 2 * losses[1] + 3 * losses[2]) / 6)
    found.backward()
    heads: Any = objective.heads
    assert [head[1].weight.grad is not None for head in heads] == [True] * 2


def test_the_encoder_is_run_whole_and_the_time_is_kept_or_the_least_taken() -> None:
    setting = objective_settings.captioning()
    for most in (0.95, 0.6):  # one layer of three is never enough to be patient: 5 of 6 at least
        network: Any = Objective(
            copy.deepcopy(setting.model), setting, caption_time=most, entailment_time=most
        ).result()
        for problem in ("caption", "entailment"):
            found = setting.run(network, problem)
            assert (found.image == 3).all()
            assert (found.text == 3).all()
            assert (found.layers[found.layers > 0] >= 2).all()
            hasty = Leaving(network.model, {problem: Patience(network.rules[problem].layers, 1)})
            least = setting.time(setting.run(hasty, problem))
            assert setting.time(found) <= most or setting.time(found) == pytest.approx(least)
            assert not network.rules[problem].copies


def test_what_cannot_be_is_refused() -> None:
    images, setting = objective_settings.convolutional(), objective_settings.captioning()
    with pytest.raises(ValueError, match="not both"):
        Objective(images.model, images)
    with pytest.raises(ValueError, match="above 0"):
        Objective(setting.model, setting, caption_time=0.0)
