"""MuE: thresholds and their decay worked by hand, the loss in double precision, depths item by item by a plain loop."""

import copy
import itertools
import math
from typing import Any

import objective_settings
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperlab.kit.encoder_decoder import Leaving, threshold, write
from paperlab.methods.elastic.fewer_layers import Objective as Plain
from paperlab.methods.elastic.mue_multiple_exiting import Objective, Similar


def test_the_threshold_that_takes_a_number_of_layers_worked_by_hand() -> None:
    similar = torch.tensor([[0.1, 0.5, 0.9], [0.3, 0.4, 0.2], [0.6, 0.1, 0.8], [0.2, 0.7, 0.3]], dtype=torch.double)
    # left once reached: at 0.6 after 3, 3, 1 and 2 layers, at 0.7 after 3, 3, 3 and 2; at 0.1 all after the first
    assert threshold(similar, 3) == math.inf
    assert threshold(similar, 2.75) == 0.7
    assert threshold(similar, 2.7) == 0.6
    assert threshold(similar, 2.25) == 0.6
    assert threshold(similar, 2.2) == 0.5
    assert threshold(similar, 1.0) == 0.1
    assert threshold(similar, 0.2) == 0.1
    assert threshold(similar[:, :1], 1.0) == math.inf


def test_a_mean_number_of_layers_is_kept_to_and_nearly_reached() -> None:
    similar = torch.rand(500, 6, generator=torch.Generator().manual_seed(0))
    for mean in (1.3, 2.0, 3.7, 5.5):
        at = threshold(similar, mean)
        depths = [next((i + 1 for i, one in enumerate(row[:-1]) if one >= at), 6) for row in similar.tolist()]
        assert mean - 0.02 < sum(depths) / 500 <= mean


def longhand(network: Any, setting: Any, rule: Similar, row: int) -> tuple[list[int], int, int]:
    """Captions of one item: words' layers, the image's and the text's, by eq. 3.2 with its decay."""
    items = setting.test["caption"]
    parts = []
    for x, least in zip(
        network.embed(items.images[row, None], items.text[row, None]), (rule.image, rule.text), strict=True
    ):
        depth = 0
        for layer in network.encoder:
            depth, y = depth + 1, layer(x)
            close = (x * y).sum() / x.norm() / y.norm() > least
            x = y
            if close:
                break
        parts.append((x, depth))
    memory, words, layers = network.memory(*(x for x, _ in parts)), [1], []
    own: list[list[Any]] = [[] for _ in network.decoder]
    for step in range(10):
        x = network.word(torch.tensor([words[-1:]]), step)
        theta = rule.beta * rule.word + (1 - rule.beta) * math.exp(-rule.tau * step / 10)
        for depth, layer in enumerate(network.decoder, 1):
            own[depth - 1].append(layer.own(x))
            kept = [torch.cat(part, 2) for part in zip(*own[depth - 1], strict=True)]
            y = layer(x, kept, layer.cross.keys(memory))
            close = (x * y).sum() / x.norm() / y.norm() > theta
            x = y
            if close:
                break
        for above in range(depth, len(own)):
            own[above].append(network.decoder[above].own(x))
        layers.append(depth)
        words.append(int(network.speak(x[0, 0]).argmax()))
        if words[-1] == 0:
            break
    return layers, parts[0][1], parts[1][1]


@torch.no_grad()
def test_each_part_is_left_once_it_is_as_similar_as_its_threshold() -> None:
    setting = objective_settings.captioning()
    network = setting.model.double()
    network.apart = True
    for part in setting.test.values():
        object.__setattr__(part, "images", part.images.double())
    rule = Similar(False, beta=0.95, tau=1.0)
    items = setting.test["caption"]
    seen, read = rule.parts(*network.states(items.images, items.text))
    rule.image, rule.text = threshold(seen, 2.0), threshold(read, 2.0)
    rule.found = []
    setting.run(Leaving(network, {"caption": rule}), "caption")
    rule.word, rule.found = threshold(torch.cat([torch.stack(one, 1) for one in rule.found]), 2.0), None
    found = setting.run(Leaving(network, {"caption": rule}), "caption", "test")
    assert len(found.image.unique()) > 1
    assert len(found.layers[found.layers > 0].unique()) > 1
    rule.image, rule.text, rule.word = (one - 1e-9 for one in (rule.image, rule.text, rule.word))  # reached is passed
    for row in range(12):
        layers, image, text = longhand(network, setting, rule, row)
        assert found.layers[row, : len(layers)].tolist() == layers
        assert (found.image[row].item(), found.text[row].item()) == (image, text)


def test_the_loss_is_the_sum_over_the_layers_of_the_decoder() -> None:
    setting = objective_settings.captioning()
    network: Any = setting.model.double()
    inputs, labels = next(setting.batches(0))
    inputs["images"] = inputs["images"].double()

    def by_hand(layers: range) -> Tensor:
        total = torch.zeros((), dtype=torch.double)
        for depth in layers:
            cut = copy.copy(network)
            cut._modules = {**network._modules, "decoder": network.decoder[:depth]}
            logits = cut(**inputs)
            for item, words in zip(logits, labels, strict=True):
                kept = words >= 0
                total = total + F.cross_entropy(item[kept], words[kept]) / len(labels)
        return total

    for layerwise, layers in ((True, range(1, 4)), (False, range(3, 4))):
        objective = Objective(network, setting, layerwise=layerwise)
        found, wanted = objective(inputs, labels, 0.0), by_hand(layers)
        torch.testing.assert_close(found, wanted)
        parameters = list(network.parameters())
        pairs = zip(*(torch.autograd.grad(one, parameters) for one in (found, wanted)), strict=True)
        assert all(torch.allclose(got, want) for got, want in pairs)


def test_with_all_the_time_and_none_of_its_parts_it_is_the_plain_network() -> None:
    setting = objective_settings.captioning()
    inputs, labels = next(setting.batches(0))
    objective: Any = Objective(
        copy.deepcopy(setting.model), setting, entailment_time=1.0, caption_time=1.0, decompose=False, layerwise=False
    )
    plain: Any = Plain(copy.deepcopy(setting.model), setting)
    assert torch.equal(objective(inputs, labels, 0.0), plain(inputs, labels, 0.0))
    for problem in ("caption", "entailment"):
        *_, rule = objective.rules(problem)  # the last leaves nothing out
        assert rule.image == rule.text == rule.word == math.inf
        found, wanted = (
            setting.run(one, problem) for one in (Leaving(objective.model, {problem: rule}), plain.result())
        )
        assert torch.equal(found.words, wanted.words)
        assert setting.time(found) == setting.time(wanted) == 1


@pytest.mark.parametrize(("reverse", "decompose"), list(itertools.product((False, True), (True, False))))
def test_the_time_is_kept_on_validation_items_and_nearly_taken(reverse: bool, decompose: bool) -> None:
    setting = objective_settings.captioning()
    more = {"reverse": reverse, "decompose": decompose, "copies": not reverse}
    network: Any = Objective(setting.model, setting, entailment_time=0.7, caption_time=0.8, **more).result()
    assert network.times == {"entailment": 0.7, "caption": 0.8}
    for problem, most in network.times.items():
        written = setting.run(network, problem)
        rule = network.rules[problem]
        assert rule.copies == (not reverse)
        assert isinstance(rule, Similar)
        assert (rule.beta, rule.tau) == ((0.95, 1.0) if problem == "caption" else (1.0, 0.0))
        assert 0.5 < setting.time(written) <= most
        if not decompose:
            assert torch.equal(written.image, written.text)


def test_reversed_leaves_where_the_other_stays() -> None:
    setting = objective_settings.captioning()
    items = setting.test["caption"]
    states = setting.model.states(items.images, items.text)
    one, other = (Similar(False, sign).parts(*states)[0] for sign in (1.0, -1.0))
    assert torch.equal(one, -other)
    rule = Similar(False, -1.0)
    rule.image = rule.text = rule.word = 0.0
    plain = write(setting.model, items.images, items.text, 10, rule)
    assert (plain.image == 3).all()  # cosines above 0: never reached from below


def test_what_cannot_be_is_refused() -> None:
    images, setting = objective_settings.convolutional(), objective_settings.captioning()
    with pytest.raises(ValueError, match="not both"):
        Objective(images.model, images)
    for wrong in ({"entailment_time": 0.0}, {"caption_time": 1.1}, {"beta": 0.0}, {"tau": -1.0}):
        with pytest.raises(ValueError, match="above 0"):
            Objective(setting.model, setting, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no rule"):
        Objective(setting.model, setting, entailment_time=0.01).result()
