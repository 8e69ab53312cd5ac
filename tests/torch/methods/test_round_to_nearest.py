"""Round to nearest: a row by hand, and every grid beside PyTorch's own rounding."""

import pytest
import torch

from paperlab.methods.quantization.round_to_nearest import quantize


def test_by_hand() -> None:
    # 2 bits over [-1, 2]: s = (2 - -1) / 3 = 1, z = round(1 / 1) = 1; 0.6 -> 1 + 1, -0.4 -> 0 + 1
    stored = quantize(torch.tensor([[-1.0, 0.6, -0.4, 2.0]]), bits=2)
    assert stored.codes.tolist() == [[0, 2, 1, 3]]
    assert (stored.scale.item(), stored.zero.item()) == (1, 1)
    assert stored.dense().tolist() == [[-1, 1, 0, 2]]
    assert stored.stored_bits() == {"codes": 4 * 2, "scale": 16, "zero": 2}
    # symmetric at 3 bits: s = 2 * 3.5 / 7 = 1, half a step beyond code 3; there is no zero point to store
    even = quantize(torch.tensor([[-3.0, 0.6, 1.4, 3.5]]), bits=3, symmetric=True)
    assert even.codes.tolist() == [[-3, 1, 1, 3]]
    assert even.stored_bits() == {"codes": 4 * 3, "scale": 16}


def test_each_group_has_a_grid_of_its_own() -> None:
    # one loud column spoils its own group of two, not the other
    stored = quantize(torch.tensor([[0.0, 0.3, 0.0, 300.0]]), bits=2, group=2)
    torch.testing.assert_close(stored.dense(), torch.tensor([[0.0, 0.3, 0.0, 300.0]]), rtol=1e-3, atol=0)
    assert quantize(torch.tensor([[0.0, 0.3, 0.0, 300.0]]), bits=2).dense()[0, 1] == 0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_as_pytorch_rounds(bits: int, group: int | None, symmetric: bool) -> None:
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(bits)) * 0.05
    parts = weight.reshape(-1, group or 64).double()
    if symmetric:
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        scale, zero = parts.abs().amax(1) / ((high - low) / 2), torch.zeros(len(parts), dtype=torch.int32)
        scale = scale.half().float()
    else:
        low, high = 0, 2**bits - 1
        scale = ((parts.amax(1).clamp(min=0) - parts.amin(1).clamp(max=0)) / high).half().float()
        zero = (-parts.amin(1).clamp(max=0) / scale).round().int()
    theirs = torch.fake_quantize_per_channel_affine(parts.float(), scale, zero, 0, low, high).view_as(weight)
    ours = quantize(weight, bits=bits, group=group, symmetric=symmetric)
    torch.testing.assert_close(ours.dense(), theirs, rtol=0, atol=1e-6)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="bits=17"):
        quantize(torch.ones(2, 4), bits=17)
    with pytest.raises(ValueError, match="group=3"):
        quantize(torch.ones(2, 4), group=3)
