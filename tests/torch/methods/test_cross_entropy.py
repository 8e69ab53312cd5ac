"""Cross-entropy: torch's own, in value and slope."""

import torch
import torch.nn.functional as F

import paperlab


def test_it_is_torch_s_own() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(50, 7, generator=draw, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(7, (50,), generator=draw)
    mine, theirs = paperlab.load("cross-entropy")(logits, labels), F.cross_entropy(logits, labels)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (mine, theirs)))


def test_large_logits_stay_finite() -> None:
    value = paperlab.load("cross-entropy")(torch.tensor([[1e4, -1e4], [1e4, -1e4]]), torch.tensor([0, 1]))
    assert value.item() == 1e4
