"""Early exits of a recogniser: the summed loss in double precision, single exits, what is added late, who leaves."""

import copy
from typing import Any

import objective_settings
import pytest
import torch
from torch import Tensor, nn

from paperlab.kit import ctc
from paperlab.kit.exits import stops
from paperlab.methods.elastic.early_exit_asr import EarlyExits, Objective, between, first_sure


def alignments(log_probs: Tensor, labels: list[int]) -> Tensor:
    """-log of the probability of the labels by the forward recursion of Graves et al., sum by sum; log_probs (frames,
    symbols)."""
    extended = [0]
    for label in labels:
        extended += [label, 0]
    ways = [
        log_probs[0, symbol] if place < 2 else torch.tensor(-1e30).double() for place, symbol in enumerate(extended)
    ]
    for frame in log_probs[1:]:
        before = ways
        ways = []
        for place, symbol in enumerate(extended):
            come = [before[place]] + ([before[place - 1]] if place else [])
            if place > 1 and symbol and symbol != extended[place - 2]:
                come.append(before[place - 2])
            ways.append(torch.logsumexp(torch.stack(come), 0) + frame[symbol])
    return -torch.logsumexp(torch.stack(ways[-2:]), 0)


def test_the_losses_of_all_exits_are_summed_with_equal_weights() -> None:
    setting = objective_settings.recogniser()
    torch.manual_seed(1)
    objective = Objective(setting.model.double(), setting).eval().double()
    features, labels = setting.test.inputs[0][:3].double(), setting.test.labels[:3]
    found = objective({"features": features}, labels, 0.0)
    network: Any = objective.network
    hidden, wanted = network.front(features), torch.zeros((), dtype=torch.double)
    for number, block in enumerate(network.blocks, 1):
        hidden = block(hidden)
        if number % 2 == 0:
            logits = hidden @ network.outputs[number // 2 - 1].weight.T + network.outputs[number // 2 - 1].bias
            for one, row in zip(logits.log_softmax(-1), labels.tolist(), strict=True):
                said = [label for label in row if label]
                wanted = wanted + alignments(one, said) / len(said) / 3
    torch.testing.assert_close(found, wanted)
    parameters = list(objective.parameters())
    for got, want in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(got, want)


def test_one_exit_is_the_plain_network_without_what_comes_after_it() -> None:
    setting = objective_settings.recogniser()
    features = setting.test.inputs[0]
    whole: Any = Objective(setting.model, setting, exits="6").result()
    assert torch.equal(whole(features), setting.model(features))
    cut = copy.deepcopy(setting.model)
    cut.blocks = nn.ModuleList(list(cut.blocks)[:4])  # type: ignore[arg-type]
    short: Any = Objective(setting.model, setting, exits="4").result()
    assert torch.equal(short(features), cut(features))
    assert [name for name, _ in short.named_parameters() if name.startswith("blocks.4")] == []
    count = sum(p.numel() for p in short.parameters())
    assert count == sum(p.numel() for p in cut.parameters())


def gradients(start: str, share: float) -> tuple[set[str], Objective]:
    """Which parameters get any, at this share of the training."""
    setting = objective_settings.recogniser()
    objective = Objective(setting.model, setting, start=start)  # type: ignore[arg-type]
    objective(*next(setting.batches(0)), share).backward()
    return {name for name, p in objective.network.named_parameters() if p.grad is not None}, objective


@pytest.mark.parametrize("start", ["pretrained", "frozen"])
def test_exits_are_added_in_the_middle_of_the_training(start: str) -> None:
    early, objective = gradients(start, 0.49)
    assert not any(name.startswith(("outputs.0", "outputs.1")) for name in early)
    assert any(name.startswith("blocks.5") for name in early)
    late, objective = gradients(start, 0.5)
    assert {"outputs.0.weight", "outputs.1.weight"} <= late
    outputs: Any = objective.network.outputs
    assert torch.equal(outputs[0].weight, outputs[2].weight)  # they begin as the last exit's
    assert outputs[0].weight is not outputs[2].weight
    assert any(name.startswith("blocks") for name in late) == (start == "pretrained")


def test_frozen_blocks_stay_as_they_are_and_early_exits_alone_learn() -> None:
    setting = objective_settings.recogniser()
    objective = Objective(setting.model, setting, start="frozen")
    objective(*next(setting.batches(0)), 0.6)
    before = {name: tensor.clone() for name, tensor in objective.network.state_dict().items()}
    optimizer = torch.optim.AdamW(objective.parameters(), 0.1, weight_decay=0.0)
    for inputs, labels in (next(setting.batches(seed)) for seed in range(3)):
        optimizer.zero_grad()
        objective(inputs, labels, 0.6).backward()
        optimizer.step()
    changed = {name for name, tensor in objective.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"outputs.{number}.{kind}" for number in (0, 1) for kind in ("weight", "bias")}


class Said(EarlyExits):
    """Four utterances, three exits after blocks 2, 4 and 6, whose logits are given."""

    def __init__(self, sure: Tensor, choose: str, layers: float) -> None:
        nn.Module.__init__(self)
        self.sure, self.depths, self.choose, self.layers = sure, (2, 4, 6), choose, layers

    def exits(self, features: Tensor) -> list[Tensor]:
        """One frame, two symbols, the probability of the second being `sure`."""
        rows = self.sure[features[:, 0, 0].long()]
        return [torch.stack((1 - p, p), 1).log()[:, None] for p in rows.unbind(1)]


SURE = torch.tensor([[0.95, 0.96, 0.97], [0.6, 0.9, 0.95], [0.55, 0.6, 0.7], [0.94, 0.8, 0.9]])
UTTERANCES, ONE = torch.arange(4.0)[:, None, None], torch.ones(4).long()


@pytest.mark.parametrize("choose", ["posterior", "entropy"])
def test_an_utterance_leaves_at_the_first_exit_that_is_sure_enough(choose: str) -> None:
    # thresholds from 0.90 down let 1 and 4 go at once, 2 after four blocks, 3 never: (2 + 4 + 6 + 2) / 4 blocks
    for layers, wanted in ((3.5, [0, 1, 2, 0]), (2.0, [0, 0, 0, 0]), (6.0, [1, 2, 2, 2])):
        assert Said(SURE, choose, layers).policy(UTTERANCES, ONE).argmax(1).tolist() == wanted


def test_depths_that_are_not_evenly_spaced_keep_to_the_mean() -> None:
    """Half at the first exit and half at the last would be 3.5 of 3 blocks, though the mean index would do."""
    sure = torch.tensor([[0.9, 0.95, 1.0], [0.8, 0.9, 1.0], [0.2, 0.3, 1.0], [0.1, 0.2, 1.0]])
    depths = torch.tensor([1.0, 2.0, 6.0]).double()
    found = first_sure(sure, depths, 3.0)
    assert depths[found].mean() <= 3
    brute = [stops(sure, value) for value in sure[:, :2].flatten()]
    assert depths[found].mean() == max(mean for one in brute if (mean := depths[one].mean()) <= 3)


def test_padding_does_not_change_how_sure_an_exit_is() -> None:
    told = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    frames = torch.tensor([9, 5, 2])
    for rule in (ctc.posterior, ctc.certainty):
        found = rule(told, frames)
        for row, length in enumerate(frames.tolist()):
            alone = rule(told[row : row + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(found[row], alone[0])


def test_other_choices_take_as_many_blocks() -> None:
    depths = torch.tensor([2.0, 4.0, 6.0]).double()
    for choose in ("random", "fixed"):
        shares = Said(SURE, choose, 3.5).policy(UTTERANCES, ONE)
        torch.testing.assert_close(shares.sum(1), torch.ones(4).double())
        assert (shares @ depths).mean().item() == pytest.approx(3.5)
        assert torch.equal(shares[0], shares[3])


def test_between_two_exits_worked_by_hand() -> None:
    depths = torch.tensor([2.0, 4.0, 6.0]).double()
    for layers, wanted in ((2, [1, 0, 0]), (3, [0.5, 0.5, 0]), (4, [0, 1, 0]), (5.5, [0, 0.25, 0.75]), (9, [0, 0, 1])):
        assert between(depths, layers).tolist() == wanted


def test_what_cannot_be_is_refused() -> None:
    images, setting = objective_settings.layered(), objective_settings.recogniser()
    with pytest.raises(ValueError, match="this network is none"):
        Objective(images.model, images)
    with pytest.raises(ValueError, match="more than"):
        Objective(setting.model, setting, exits="7")
    with pytest.raises(ValueError, match="first exit, 2"):
        Objective(setting.model, setting, layers=1.0)
    with pytest.raises(ValueError, match="none to add"):
        Objective(setting.model, setting, exits="6", start="frozen")
