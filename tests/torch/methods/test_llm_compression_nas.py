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

from paperlab.kit.slimmable import Config, Space, Strata, extracted, shapes_of
from paperlab.kit.tuning import cross_entropy, fit
from paperlab.methods.pruning.llm_compression_nas import SuperNetwork, _Sandwich, _sorted, recipe, searched


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
    made = _Sandwich(network, setting, space, random.Random(4), True, 2, distil, True, rate=0.0, seed=3)
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
        made = _Sandwich(network, setting, Space(shapes_of(whole)), random.Random(0), True, 0, distil, True,
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
    made = _Sandwich(network, setting, Space(shapes_of(whole)), random.Random(0), False, 2, True, True,
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
    for bad in ({"share": 1.0}, {"evaluations": 0}, {"rank": -1}):
        with pytest.raises(ValueError, match="share"):
            recipe(llama(), Setting(), 0, 1e-3, **bad)
    with pytest.raises(ValueError, match="no sub-network"):
        searched(Space(SHAPES), 10, lambda config: 0.0, 4, random.Random(0), local=True)
