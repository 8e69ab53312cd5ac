"""The synthetic task: what is drawn, a good network against planted bad ones, how steps are told."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from paperlab.kit.tuning import Tuned
from paperlab.tasks import synthetic as task


def test_examples_are_the_parity_of_their_ones() -> None:
    x, parity = task.examples(4_000, 8, torch.Generator().manual_seed(0))
    assert set(x.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert parity.tolist() == [int((row == 1).sum()) % 2 for row in x]
    active = (x != 0).sum(1)
    counts = active.bincount(minlength=9)
    assert counts[0] == 0
    assert (counts[1:] > 400).all()  # every difficulty as often
    assert ((x != 0).double().mean(0) - 4.5 / 8).abs().max() < 0.05  # at every place as often


def test_the_seed_draws_the_network_and_not_the_test_examples() -> None:
    one, two = task.make(0, "quick"), task.make(1, "quick")
    assert torch.equal(one.test.inputs[0], two.test.inputs[0])
    assert not torch.equal(one.model.head.weight, two.model.head.weight)  # type: ignore[union-attr, arg-type]
    first, again, other = (next(one.batches(seed))[0]["x"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class Knows(nn.Module):
    """The right parity, or the wrong one; two steps for inputs with many numbers."""

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.right = right

    def forward(self, x: Tensor) -> Tensor:
        parity = ((x == 1).sum(-1) + (not self.right)) % 2
        return 8.0 * nn.functional.one_hot(parity, 2)

    def inner_steps(self, x: Tensor) -> Tensor:
        return 1 + ((x != 0).sum(-1) > 4).long()


def test_a_good_arm_beats_planted_bad_ones() -> None:
    setting = task.make(0, "quick")
    found = {}
    for name, model in (("good", Knows(True)), ("bad", Knows(False)), ("untrained", setting.model)):
        (found[name],) = task.score(Tuned(model, 1.0), setting)
    assert (found["good"]["wrong"], found["bad"]["wrong"]) == (0, 1)
    assert 0.4 < found["untrained"]["wrong"] < 0.6
    assert found["good"]["nats"] < found["untrained"]["nats"] < found["bad"]["nats"]
    assert found["good"]["hard_over_easy"] == 2
    assert found["untrained"]["hard_over_easy"] == 1
    assert 1 < task.totals(Tuned(Knows(True), 1.0), setting)["inner_steps"] < 2
    assert setting.validate(Knows(True)) == 1


def test_other_data_is_refused() -> None:
    assert task.items(SimpleNamespace()) == 1  # type: ignore[arg-type]
    for wrong in ({"data": "sorting"}, {"model": "x"}):
        with pytest.raises(ValueError, match="no other model or data"):
            task.make(0, "quick", **wrong)
