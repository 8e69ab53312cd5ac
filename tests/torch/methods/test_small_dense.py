"""The small dense network: weights counted by hand, and no other than the reference decoder."""

import torch

from paperlab.kit.networks import decoder
from paperlab.methods.pruning.small_dense import network


def test_its_weights_by_hand() -> None:
    small = network(256, 4, 2, 128, width=16, inner=24)
    block = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16
    assert sum(p.numel() for p in small.parameters()) == 2 * 256 * 16 + 2 * block + 16


def test_it_is_the_reference_decoder_and_causal() -> None:
    torch.manual_seed(0)
    small = network(256, 4, 2, 128, width=16, inner=24)
    torch.manual_seed(0)
    reference = decoder({}, vocabulary=256, width=16, heads=4, layers=2, inner=24, length=128)
    ids = torch.randint(256, (2, 9))
    assert torch.equal(small(ids), reference(ids))
    changed = ids.clone()
    changed[:, 5] = (ids[:, 5] + 1) % 256
    torch.testing.assert_close(small(ids)[:, :5], small(changed)[:, :5])
