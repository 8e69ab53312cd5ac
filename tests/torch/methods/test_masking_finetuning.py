"""Masks: by hand, the straight-through gradient, what stays as it was, and what a random mask does not learn."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperlab.kit.training import stored_bits
from paperlab.methods.pruning.masking_finetuning import Masked, adapter


def layer() -> nn.Linear:
    linear = nn.Linear(2, 2)
    linear.weight.data, linear.bias.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.5, 0.0])
    return linear


def test_by_hand() -> None:
    masked = Masked(layer(), torch.tensor([[0.1, -0.1], [-0.2, 0.0]]), learnt=True)
    assert torch.equal(masked(torch.tensor([[1.0, 10.0]])), torch.tensor([[1.5, 40.0]]))


def test_the_gradient_of_a_score_is_that_of_its_weight_times_the_weight() -> None:
    scores = torch.tensor([[0.1, -0.1], [-0.2, 0.3]])
    masked = Masked(layer(), scores.clone(), learnt=True)
    x = torch.tensor([[1.0, 10.0], [2.0, -1.0]])
    masked(x).square().sum().backward()
    weight = (layer().weight.detach() * (scores >= 0)).requires_grad_()
    F.linear(x, weight, layer().bias).square().sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(masked.scores.grad, weight.grad * layer().weight.detach())


def test_a_share_of_the_weights_begins_masked_and_only_scores_are_trained() -> None:
    torch.manual_seed(0)
    masked = adapter(nn.Linear(300, 200), sparsity=0.05)
    trained = [name for name, parameter in masked.named_parameters() if parameter.requires_grad]
    assert trained == ["scores"]
    scores = masked.get_parameter("scores")
    assert stored_bits(masked) == 300 * 200 + 32 * (300 * 200 + 200)
    assert (scores < 0).double().mean().item() == pytest.approx(0.05, abs=0.005)
    assert -0.001 <= scores.min() <= scores.max() <= 0.019
    whole = nn.Linear(5, 4)
    torch.testing.assert_close(adapter(whole, sparsity=0.0)(torch.ones(1, 5)), whole(torch.ones(1, 5)))


@pytest.mark.parametrize("masks", ["learnt", "random"])
def test_learnt_masks_change_and_random_ones_do_not(masks: str) -> None:
    torch.manual_seed(0)
    target = nn.Linear(30, 20)
    x = torch.randn(200, 30)
    wanted = (target.weight * (torch.rand_like(target.weight) > 0.3)).detach()
    masked = adapter(target, masks=masks)  # type: ignore[arg-type]
    before = masked(x).detach()
    optimizer = torch.optim.AdamW([masked.get_parameter("scores")], lr=1e-3, weight_decay=0.0)
    errors = []
    for _ in range(60):
        error = (masked(x) - F.linear(x, wanted, target.bias)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert torch.equal(masked(x), before) == (masks == "random")
    assert (errors[-1] < errors[0] / 5) == (masks == "learnt")


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="share below 1"):
        adapter(nn.Linear(2, 2), sparsity=1.0)
