"""The super-network's loss against networks cut out one by one, LoRA against its formula, the search by hand."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract_cases import output, tiny
from torch import Tensor, nn

from paperlab.core.figures import unequal
from paperlab.core.record import ArmResult
from paperlab.kit.slimmable import Config, Shapes, Space, Strata, extracted, shapes_of
from paperlab.kit.tuning import cross_entropy, fit
from paperlab.methods.pruning.llm_compression_nas import (
    CARD,
    SuperNetwork,
    _Sandwich,
    _sorted,
    fewer_blocks,
    recipe,
    searched,
)


class Setting:
    """Counting upwards, from somewhere: a model can learn it."""

    teacher: nn.Module | None = None
    rates = (1e-2,)

    def __init__(self, steps: int = 4) -> None:
        self.steps = steps

    def batches(self, seed: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            rows = torch.randint(3, 60, (4, 1), generator=draw) + torch.arange(9)
            yield {"input_ids": rows[:, :-1]}, rows[:, 1:]

    @torch.no_grad()
    def validate(self, model: Any) -> float:
        inputs, labels = next(self.batches(99))
        return -float(F.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten()))


def llama() -> Any:
    return copy.deepcopy(tiny("Llama"))


@pytest.mark.parametrize("distil", [True, False])
def test_a_step_adds_the_losses_of_its_networks(distil: bool) -> None:
    setting, model = Setting(), llama().double()
    whole, order = _sorted(model, setting, 3, "importance")
    network = SuperNetwork(whole, order, 0, 0.5)
    space = Space(shapes_of(whole))
    made = _Sandwich(network, setting, space, random.Random(4), "sandwich", 2, distil, True, rate=0.0, seed=3)
    inputs, labels = next(setting.batches(3))
    draw, source = random.Random(4), Strata(space)
    configs = [source.draw(draw), source.draw(draw), space.smallest]
    said = extracted(whole, space.shapes.whole, order)(**inputs).logits.flatten(0, 1).double()
    expected = F.cross_entropy(said, labels.flatten())
    for config in configs:
        logits = extracted(whole, config, order)(**inputs).logits.flatten(0, 1).double()
        expected = expected + F.cross_entropy(logits, labels.flatten())
        if distil:
            p = said.softmax(-1)
            expected = expected + (p * (p.log() - logits.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(made._loss(inputs, labels, 0.0).double(), expected, rtol=1e-4, atol=1e-5)


def test_no_gradient_of_distillation_reaches_the_teacher() -> None:
    """With the whole network's cross-entropy alone, weights outside every other sub-network feel no distillation."""
    setting = Setting()
    grads = []
    for distil in (True, False):
        whole, order = _sorted(llama(), setting, 3, "given")
        network = SuperNetwork(whole, order, 0, 0.5)
        made = _Sandwich(network, setting, Space(shapes_of(whole)), random.Random(0), "sandwich", 0, distil, True,
                         rate=0.0, seed=3)  # fmt: skip
        made._loss(*next(setting.batches(3)), 0.0).backward()
        grads.append(whole.model.layers[1].mlp.down_proj.weight.grad)  # the smallest network has block 0 alone
    torch.testing.assert_close(grads[0], grads[1])
    assert grads[0].abs().sum() > 0


def test_lora_adds_its_product_and_begins_at_nothing() -> None:
    network = SuperNetwork(llama(), (0, 1), 3, 0.5)
    name = "model.layers.1.mlp.up_proj"
    assert torch.equal(network.weights()[f"{name}.weight"], network.model.get_submodule(name).weight)
    assert torch.equal(output(network.merged()), output(tiny("Llama")))
    a, b = (part[name.replace(".", "-")] for part in (network.a, network.b))
    b.data.normal_()
    expected = network.model.get_submodule(name).weight + 0.5 * b @ a
    torch.testing.assert_close(network.merged().get_parameter(f"{name}.weight"), expected)
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {
        n for n, _ in network.named_parameters() if not n.startswith("model.")
    }
    assert len(network.a) == 14


def test_tuning_the_whole_alone_is_plain_fine_tuning() -> None:
    setting, plain = Setting(5), llama()
    whole, order = _sorted(llama(), setting, 0, "given")
    network = SuperNetwork(whole, order, 0, 0.5)
    made = _Sandwich(network, setting, Space(shapes_of(whole)), random.Random(0), "standard", 2, True, True,
                     rate=1e-2, seed=0)  # fmt: skip
    for step in range(5):
        made.step(step / 5)
    fit(plain, setting, cross_entropy, rate=1e-2, seed=0, asks=("student", "labels"))  # type: ignore[arg-type]
    torch.testing.assert_close(output(network.merged()), output(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 4])
def test_what_comes_back_has_the_size_and_has_learnt(rank: int) -> None:
    setting, size = Setting(40), sum(p.numel() for p in tiny("Llama").parameters())
    tuned = recipe(llama(), setting, 0, 1e-2, share=0.7, rank=rank, evaluations=8)
    assert 0.6 * size < sum(p.numel() for p in tuned.model.parameters()) <= 0.7 * size
    assert setting.validate(tuned.model) > setting.validate(llama()) + 0.5
    assert tuned.steps == 40
    assert not tuned.model.training


@pytest.mark.parametrize(
    "params",
    [{"sampling": "uniform"}, {"search": "random"}, {"training": "standard"}, {"training": "found"}, {"distil": False},
     {"order": "random"}, {"order": "units"}, {"training": "found", "search": "blocks"}],
)  # fmt: skip
def test_every_way_gives_a_network_of_the_size_that_learnt(params: dict[str, Any]) -> None:
    setting, size = Setting(30), sum(p.numel() for p in tiny("Llama").parameters())
    setting.teacher = llama()
    made = []
    for _ in range(2):
        torch.manual_seed(0)  # as the driver does; LoRA's matrices are drawn
        made.append(recipe(llama(), setting, 0, 1e-2, share=0.7, evaluations=4, **params))
    tuned, again = made
    assert sum(p.numel() for p in tuned.model.parameters()) <= 0.7 * size
    assert setting.validate(tuned.model) > setting.validate(llama()) + (
        0 if params == {"training": "standard"} else 0.3
    )
    assert tuned.steps == 30
    assert torch.equal(output(tuned.model), output(again.model))


def test_what_was_found_first_is_tuned_by_text_and_teacher() -> None:
    """The whole of what is left: cross-entropy and KL(dense || it) against a plain loop of `fit`."""
    setting, plain = Setting(5), llama()
    setting.teacher = llama()
    setting.teacher.lm_head.weight.data.mul_(3)

    def both(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        p = teacher.softmax(-1)
        return F.cross_entropy(student, labels) + (p * (p.log() - student.log_softmax(-1))).sum(-1).mean()

    tuned = recipe(llama(), setting, 0, 1e-2, share=1, rank=0, training="found", order="given")
    fit(plain, setting, both, rate=1e-2, seed=0, asks=("student", "teacher", "labels"))  # type: ignore[arg-type]
    torch.testing.assert_close(output(tuned.model), output(plain), rtol=1e-4, atol=1e-4)
    hard = recipe(llama(), setting, 0, 1e-2, share=1, rank=0, training="found", order="given", distil=False)
    assert not torch.allclose(output(hard.model), output(plain), atol=1e-3)


def test_orders_differ_in_what_they_sort() -> None:
    sorted_, units, given, chance = (
        _sorted(llama(), Setting(), 0, o) for o in ("importance", "units", "given", "random")
    )
    assert units[1] == given[1] == (0, 1)
    assert torch.equal(output(given[0]), output(llama()))
    assert all(torch.equal(a, b) for a, b in zip(sorted_[0].parameters(), units[0].parameters(), strict=True))
    assert not torch.equal(next(chance[0].parameters()), next(units[0].parameters()))
    torch.testing.assert_close(output(chance[0]), output(llama()), rtol=1e-4, atol=1e-4)


def test_the_best_of_all_choices_of_blocks() -> None:
    shapes = Shapes(64, 4, 2, 2, 32, 64, 100)
    asked = []

    def evaluate(config: Config, chosen: tuple[int, ...]) -> float:
        asked.append(chosen)
        return -abs(sum(chosen) - 4.5 - chosen[0])

    space = Space(shapes)
    limit = shapes.parameters((64, 2, 1, 64)) + 5
    config, chosen = fewer_blocks(space, limit, evaluate)
    assert config == (64, 2, 1, 64)
    assert len(asked) == len(set(asked)) == 6
    assert chosen == max(asked, key=lambda c: -abs(sum(c) - 4.5 - c[0]))
    with pytest.raises(ValueError, match="no block fits"):
        fewer_blocks(space, 10, evaluate)


def test_all_shapes_that_a_check_may_meet_are_of_equal_size() -> None:
    """Those of abstracts-lm: 59 for a search, the half of its blocks, and the narrow cut."""
    space = Space(Shapes(256, 6, 4, 2, 64, 768, 4096))
    limit = int(0.591 * space.shapes.parameters(space.shapes.whole))
    free = [(c, b, h, 8) for c in range(32, 257, 8) for b in range(1, 7) for h in (1, 2)]
    shapes = {found for one in free if (found := space.filled(one, limit)) is not None}
    assert len(shapes) == 59
    shapes |= {(256, 3, 2, 768), (240, 6, 2, 304)}
    results = [
        ArmResult(CARD.method, {}, {"bytes": 2.0 * space.shapes.parameters(one), "tokens": 1.0}, {}, 0)
        for one in shapes
    ]
    for check in CARD.checks[:3]:
        assert all(unequal(check, one, other) is None for one in results for other in results)


SHAPES = shapes_of(tiny("Llama"))
LIMIT = int(0.7 * SHAPES.parameters(SHAPES.whole))


def test_the_search_asks_for_networks_of_the_size_and_keeps_the_best() -> None:
    asked: list[Config] = []

    def evaluate(config: Config) -> float:
        asked.append(config)
        return -abs(config[0] - 50)

    best = searched(Space(SHAPES), LIMIT, evaluate, 12, random.Random(0), local=True)
    assert max(asked, key=lambda config: -abs(config[0] - 50)) == best
    assert len(set(asked)) == len(asked) <= 12
    assert all(0.9 * LIMIT <= SHAPES.parameters(config) <= LIMIT for config in asked)
    later = asked[4:]
    assert all(
        any(sum(a != b for a, b in zip(one[:3], other[:3], strict=True)) == 1 for other in asked) for one in later
    )


def test_bad_values_are_refused() -> None:
    for bad in ({"share": 1.1}, {"evaluations": 0}, {"rank": -1}):
        with pytest.raises(ValueError, match="share"):
            recipe(llama(), Setting(), 0, 1e-3, **bad)
    with pytest.raises(ValueError, match="no sub-network"):
        searched(Space(SHAPES), 10, lambda config: 0.0, 4, random.Random(0), local=True)
