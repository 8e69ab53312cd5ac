"""Structural pruning by search: the loss against formulas, plain training as a special case, the search by hand."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from front_settings import Setting, classifier

from paperlab.kit.elastic import Config, Sizes, Space, cut, sizes_of
from paperlab.kit.tuning import cross_entropy, fit
from paperlab.methods.pruning.structural_pruning_nas_plm import (
    _SuperNetwork,
    distillation,
    efficient,
    recipe,
    searched,
)  # fmt: skip


def test_distillation_is_that_of_soft_labels() -> None:
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(5, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 4, generator=draw, dtype=torch.float64)
    value = distillation(student, teacher, 10.0)
    soft, said = (teacher / 10).softmax(-1), (student / 10).softmax(-1)
    torch.testing.assert_close(value, -100 * (soft * said.log()).sum(-1).mean())
    value.backward()
    torch.testing.assert_close(student.grad, 10 * (said - soft).detach() / 5)


@pytest.mark.parametrize("strategy", ["full", "sandwich", "random", "standard"])
def test_a_step_adds_the_gradients_of_its_networks(strategy: str) -> None:
    """Each network is cut out and differentiated by itself; weights of the head, which all share, must agree."""
    setting = Setting()
    model = classifier()
    space = Space(sizes_of(model))
    made = _SuperNetwork(model, setting, space, random.Random(4), strategy, 2, 1.0, rate=0.0, seed=3)
    model.eval()  # no dropout before the head, which would be drawn anew for each network
    inputs, labels = next(setting.batches(3))
    draw = random.Random(4)
    drawn = [space.draw(draw) for _ in range(1 if strategy == "random" else 2)]
    configs: list[Config] = {
        "random": drawn, "standard": [space.most], "sandwich": [space.most, *drawn, (1, 1, 1)],
        "full": [space.most, *drawn, (1, 1, 1)],
    }[strategy]  # fmt: skip
    with torch.no_grad():
        teacher = model(**inputs).logits
    expected = torch.zeros_like(model.head.weight)
    for config in configs:
        alone = cut(model, space.network(config))
        logits = alone(**inputs).logits
        loss = F.cross_entropy(logits, labels)
        if strategy == "full" and config != space.most:
            loss = loss - (teacher.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
        expected += torch.autograd.grad(loss, alone.get_parameter("head.weight"))[0]
    made._loss(inputs, labels, 0.0).backward()
    torch.testing.assert_close(model.head.weight.grad, expected, rtol=1e-4, atol=1e-6)
    assert made.compute == pytest.approx(sum(space.sizes.share(space.network(config)) for config in configs))


def test_the_whole_network_alone_is_plain_fine_tuning_bit_by_bit() -> None:
    setting = Setting(steps=6, validation_steps=0.0)
    tuned = recipe(classifier(0.1), setting, 3, 1e-2, training="standard", evaluations=4)
    plain = classifier(0.1)
    fit(plain, setting, cross_entropy, rate=1e-2, seed=3, asks=("student", "labels"))
    assert tuned.steps == 6
    (model,) = tuned.model.models  # type: ignore[union-attr]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_compute_is_what_the_setting_allows() -> None:
    setting = Setting(steps=60)
    for strategy, search in (("full", "local"), ("random", "random"), ("standard", "local")):
        tuned = recipe(classifier(), setting, 0, 5e-3, training=strategy, search=search, evaluations=20)  # type: ignore[arg-type]
        assert tuned.model.compute == pytest.approx(60, rel=0.1)  # type: ignore[arg-type]
        assert tuned.model.evaluations == 20
        assert max(member.validation for member in tuned.model.members) > 0.7  # type: ignore[union-attr]
        assert len(tuned.model.models) == 1  # type: ignore[arg-type]


SPACE = Space(Sizes(6, 12, 64, 100, 10, 5, 5))


def cost(config: Config) -> tuple[float, float]:
    """Error falls with layers and heads; units are good for nothing, so that the front has the fewest of them."""
    layers, heads, _ = config
    return SPACE.sizes.share(SPACE.network(config)), 1 - layers / 12 - heads / 24


def area(found: dict[Config, tuple[float, float]]) -> float:
    points = sorted(found[config] for config in efficient(found))
    ends = [share for share, _ in points[1:]] + [1.0]
    return sum((end - share) * (1 - error) for (share, error), end in zip(points, ends, strict=True))


def test_the_search_tries_corners_then_neighbours_of_the_front() -> None:
    tried: list[Config] = []

    def evaluate(config: Config) -> tuple[float, float]:
        if len(tried) > 4:
            known = {config: cost(config) for config in tried}
            front = [c for c in known if not any(
                all(x <= y for x, y in zip(known[o], known[c], strict=True)) and known[o] != known[c] for o in known
            )]  # fmt: skip
            assert any(sum(a != b for a, b in zip(config, member, strict=True)) == 1 for member in front)
        tried.append(config)
        return cost(config)

    found = searched(SPACE, evaluate, 60, random.Random(0), local=True)
    assert len(tried) == 60
    assert tuple(tried[:3]) == ((6, 12, 64), (1, 1, 1), (3, 5, 31))
    assert set(found) == set(tried)


def test_local_search_beats_random_draws_where_the_front_is_a_corner_of_the_space() -> None:
    pairs = [
        [area(searched(SPACE, cost, 50, random.Random(seed), local=local)) for local in (True, False)]
        for seed in range(10)
    ]
    assert sum(local > at_random for local, at_random in pairs) >= 8
    assert sum(local - at_random for local, at_random in pairs) > 0.3


def test_efficient_by_hand_with_equals() -> None:
    found: dict[Config, tuple[float, float]] = {
        (1, 1, 1): (0.1, 0.5), (1, 1, 2): (0.1, 0.5), (1, 1, 3): (0.2, 0.5), (2, 1, 1): (0.2, 0.4),
        (3, 1, 1): (0.9, 0.4),
    }  # fmt: skip
    assert efficient(found) == [(1, 1, 1), (2, 1, 1)]


def test_what_cannot_be_is_refused() -> None:
    setting = Setting(steps=10, validation_steps=5.0)
    with pytest.raises(ValueError, match="leaves nothing of 10 steps"):
        recipe(copy.deepcopy(setting.model), setting, 0, 1e-2)
    with pytest.raises(ValueError, match="4 or more"):
        recipe(copy.deepcopy(setting.model), setting, 0, 1e-2, evaluations=3)
