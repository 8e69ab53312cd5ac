"""NF4: the published levels, nearest codes, double quantization counted and honoured."""

import pytest
import torch

from paperlab.methods.quantization import nf4

# QLoRA (arXiv 2305.14314), appendix E, to the digits printed there
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def test_levels_are_the_published_ones():
    torch.testing.assert_close(nf4.levels(), torch.tensor(PUBLISHED), rtol=0, atol=2e-6)
    assert nf4.levels()[7] == 0


def test_nearest_by_brute_force():
    weight = torch.randn(6, 128, generator=torch.Generator().manual_seed(0))
    out = nf4.quantize(weight, group=32)
    scale = weight.view(6, 4, 32).abs().amax(2).half().float()
    brute = (weight.view(6, 4, 32, 1) / scale[..., None, None] - nf4.levels()).abs().argmin(3)
    assert torch.equal(out.codes[..., 0].long(), brute.view(6, 128))
    torch.testing.assert_close(out.dense(), (nf4.levels()[brute] * scale[..., None]).view(6, 128), rtol=1e-6, atol=0)


def test_size():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    assert sum(nf4.quantize(weight).stored_bits().values()) == 64 * 256 * 4 + 256 * 16
    # 256 scales of 8 bits, one float32 for all of them, their mean
    assert sum(nf4.quantize(weight, double=True).stored_bits().values()) == 64 * 256 * 4 + 256 * 8 + 32 + 32


def test_double_quantization_costs_little():
    weight = torch.randn(64, 320, generator=torch.Generator().manual_seed(0))
    error = [float((nf4.quantize(weight, double=d).dense() - weight).square().mean()) for d in (False, True)]
    assert error[1] == pytest.approx(error[0], rel=0.02)
    assert error[0] != error[1]
    coded = nf4.quantize(weight, double=True).scale
    assert len(coded.unique()) <= 256 * (-(-coded.numel() // 256))  # 8 bits for each second-level block


def test_zeros_and_refusals():
    assert torch.equal(nf4.quantize(torch.zeros(2, 64)).dense(), torch.zeros(2, 64))
    with pytest.raises(ValueError, match="group=48"):
        nf4.quantize(torch.zeros(2, 64), group=48)
