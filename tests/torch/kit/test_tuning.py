"""One training loop: by hand, resumed anywhere, and what a loss is handed."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from contract_cases import tiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paperlab.kit.compressed import Compressed
from paperlab.kit.matrix import Dense, Sparse
from paperlab.kit.tuning import LOSS_TAKES, Training, Tuned, cross_entropy, fit, rate_at
from paperlab.kit.walk import block_linears
from paperlab.lab.drivers.finetune import build


class Setting:
    """A small model that is its own teacher, and random tokens."""

    steps, rates = 6, (1e-3,)

    def __init__(self, teacher: bool = True) -> None:
        self.model = tiny("Llama")
        self.teacher = tiny("Llama") if teacher else None

    def batches(self, seed: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            ids = torch.randint(3, 90, (2, 9), generator=draw)
            yield {"input_ids": ids[:, :-1]}, ids[:, 1:]

    def validate(self, model: nn.Module) -> float:
        return 0.0


def start(setting: Setting, accumulate: int = 1, rate: float = 1e-3) -> Training:
    model = copy.deepcopy(setting.model)
    return Training(model, setting, cross_entropy, rate=rate, seed=3, asks=("student", "labels"), accumulate=accumulate)


def test_it_is_plain_adamw_with_a_warm_up_and_a_linear_fall() -> None:
    setting = Setting()
    training = start(setting)
    reference = copy.deepcopy(setting.model).train()
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1.0, weight_decay=0.0)
    batches = setting.batches(3)
    for step in range(6):
        inputs, labels = next(batches)
        loss = F.cross_entropy(reference(**inputs).logits.flatten(0, 1), labels.flatten())
        assert training.step(step / 6) == loss.item()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / 6) / 0.95 if step else 0.0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for own, other in zip(training.model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(own, other)
    assert [rate_at(0.0), rate_at(0.05), rate_at(1.0)] == [0.0, 1.0, 0.0]


def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = start(Setting(), accumulate=2)
    for step in range(6):
        whole.step(step / 6)
    cut = start(Setting(), accumulate=2)
    for step in range(4):
        cut.step(step / 6)
    save_file({name: tensor.contiguous().clone() for name, tensor in cut.state().items()}, tmp_path / "at.safetensors")
    torch.randn(7)
    again = start(Setting(), accumulate=2)
    again.take_up(load_file(tmp_path / "at.safetensors"))
    for step in range(again.done, 6):
        again.step(step / 6)
    for own, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_the_checkpoint_of_another_model_is_refused() -> None:
    training = start(Setting())
    state = training.state()
    state["model.other"] = torch.zeros(1)
    with pytest.raises(ValueError, match="another model"):
        training.take_up(state)


def test_two_small_batches_are_one_large_one() -> None:
    setting = Setting()
    twice = start(setting, accumulate=2)
    twice.step(0.5)
    model = copy.deepcopy(setting.model).train()
    batches = setting.batches(3)
    losses = []
    for _ in range(2):
        inputs, labels = next(batches)
        losses.append(F.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten()) / 2)
    sum(losses).backward()  # type: ignore[union-attr]
    for own, other in zip(twice.model.parameters(), model.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(own.grad, other.grad)


def test_a_loss_is_handed_what_it_asks_for() -> None:
    setting = Setting()
    seen: dict[str, object] = {}

    def loss(**given: object) -> Tensor:
        seen.update(given)
        return cross_entropy(given["student"], given["labels"])  # type: ignore[arg-type]

    fit(copy.deepcopy(setting.model), setting, loss, rate=1e-3, seed=0, asks=LOSS_TAKES)
    assert set(seen) == set(LOSS_TAKES)
    blocks = setting.model.config.num_hidden_layers
    hidden = seen["teacher_hidden"]
    assert isinstance(hidden, tuple)
    assert len(hidden) == blocks + 1
    assert all(not state.requires_grad for state in hidden)
    assert seen["share"] == 5 / 6
    with pytest.raises(ValueError, match="asks for weather"):
        fit(copy.deepcopy(setting.model), setting, loss, rate=1e-3, seed=0, asks=("student", "weather"))
    with pytest.raises(ValueError, match="asks for a teacher"):
        fit(setting.model, Setting(teacher=False), loss, rate=1e-3, seed=0, asks=("teacher_hidden",))


def test_a_loss_that_is_no_number_stops_before_the_weights_are_lost() -> None:
    setting = Setting()
    model = copy.deepcopy(setting.model)
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        fit(model, setting, lambda student: student.sum() * float("nan"), rate=1e-3, seed=0, asks=("student",))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_what_was_pruned_stays_pruned_and_is_counted_so() -> None:
    setting = Setting()
    model = copy.deepcopy(setting.model)
    layers = {}
    for name, layer in block_linears(model).items():
        mask = layer.weight > 0
        layers[name] = Sparse(mask, Dense(layer.weight.detach().clone()))
        layer.weight.data.mul_(mask)
    pruned = Compressed(model, layers, sum(p.numel() for p in model.parameters()))
    tuned = build({}, {}, setting=setting, seed=1, start=pruned)
    assert isinstance(tuned, Tuned)
    assert tuned.compressed is not None
    assert tuned.compressed.totals() == pruned.totals()
    for name, layer in block_linears(tuned.model).items():
        assert not layer.weight[~layers[name].mask].any()
        assert not torch.equal(layer.weight, layers[name].dense())
        assert torch.equal(tuned.compressed.layers[name].dense(), layer.weight)
