"""Diffusion: the noise schedule and DDIM against formulas, Frechet against scipy, attention against torch's own."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from torch import Tensor, nn

from paperlab.kit.diffusion import PAD, Attention, TextToImage, frechet, noised, sample, signal


def small() -> TextToImage:
    torch.manual_seed(0)
    return TextToImage(12, 4, text_width=16, text_layers=2, width=8, heads=2).eval()


def test_what_is_left_of_the_image_is_a_product() -> None:
    left = 1.0
    for step in range(11):
        left *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
    assert float(signal(torch.tensor(10))) == pytest.approx(left, rel=1e-12)
    assert float(signal(torch.tensor(999))) < 1e-4


def test_noised_images_have_the_variance_that_the_schedule_says() -> None:
    draw = torch.Generator().manual_seed(0)
    images, noise = torch.zeros(4000, 1, 2, 2), torch.randn(4000, 1, 2, 2, generator=draw)
    times = torch.full((4000,), 300)
    spread = noised(images, times, noise).var().item()
    assert spread == pytest.approx(1 - float(signal(torch.tensor(300))), rel=0.03)
    assert torch.allclose(noised(torch.ones(1, 1, 2, 2), torch.tensor([0]), torch.zeros(1, 1, 2, 2)),
                          torch.tensor(math.sqrt(1 - 1e-4)))  # fmt: skip


class Knows(nn.Module):
    """Says the noise that would leave one certain image, whatever the phrase: sampling must end there."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image, self.text_encoder, self.unet = image, lambda ids: ids, self.said

    def said(self, images: Tensor, times: Tensor, context: Tensor) -> Tensor:
        a = signal(times).float()[:, None, None, None]
        return (images - a.sqrt() * self.image) / (1 - a).sqrt()


def test_sampling_with_a_perfect_network_ends_at_the_image() -> None:
    image = torch.rand(1, 1, 4, 4) * 2 - 1
    found = sample(Knows(image), torch.ones(3, 4, dtype=torch.long), torch.randn(3, 1, 4, 4), steps=5)  # type: ignore[arg-type]
    torch.testing.assert_close(found, image.expand(3, 1, 4, 4), rtol=1e-3, atol=1e-3)


def test_one_step_by_hand_with_guidance() -> None:
    model, noise = small(), torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[3, 4, 0, 0], [5, 0, 0, 0]])
    with torch.no_grad():
        time = torch.full((2,), 999)
        wanted, plain = model(noise, time, ids), model(noise, time, torch.full_like(ids, PAD))
        error = plain + 3.0 * (wanted - plain)
        a = float(signal(torch.tensor(999)))
        expected = ((noise - (1 - a) ** 0.5 * error) / a**0.5).clamp(-1, 1)
    torch.testing.assert_close(sample(model, ids, noise, steps=1, guidance=3.0), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(sample(model, ids, noise, guidance=0.0), sample(model, ids, noise, guidance=3.0))


def test_two_steps_by_hand() -> None:
    """Equation 12 of DDIM with sigma 0, written out for times 999, 500 and 0 (the second picture is not clamped)."""
    model, noise = small(), torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[3, 4, 0, 0]])
    a, b = (float(signal(torch.tensor(t))) for t in (999, 500))
    with torch.no_grad():
        clean = ((noise - (1 - a) ** 0.5 * model(noise, torch.tensor([999]), ids)) / a**0.5).clamp(-1, 1)
        left = (noise - a**0.5 * clean) / (1 - a) ** 0.5
        second = b**0.5 * clean + (1 - b) ** 0.5 * left
        expected = ((second - (1 - b) ** 0.5 * model(second, torch.tensor([500]), ids)) / b**0.5).clamp(-1, 1)
    torch.testing.assert_close(sample(model, ids, noise, steps=2, guidance=1.0), expected, rtol=1e-4, atol=1e-4)


def test_without_guidance_the_phrase_says_nothing() -> None:
    model, noise = small(), torch.randn(1, 1, 6, 6)
    one, two = (sample(model, torch.tensor([[word, 0, 0, 0]]), noise, guidance=0.0) for word in (3, 7))
    assert torch.equal(one, two)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_torch_s_own(causal: bool) -> None:
    torch.manual_seed(2)
    mine, theirs = Attention(8, 2, causal=causal), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([mine.to_q.weight, mine.to_k.weight, mine.to_v.weight]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(mine.to_out.state_dict())
    x = torch.randn(3, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None
    torch.testing.assert_close(mine(x), theirs(x, x, x, attn_mask=mask)[0], rtol=1e-4, atol=1e-5)


def test_later_words_do_not_change_what_earlier_ones_say() -> None:
    encoder = small().text_encoder
    one, two = encoder(torch.tensor([[3, 4, 5, 6]])), encoder(torch.tensor([[3, 4, 9, 10]]))
    torch.testing.assert_close(one[:, :2], two[:, :2])
    assert not torch.allclose(one[:, 2:], two[:, 2:])


def test_the_frechet_distance_is_that_of_scipy() -> None:
    draw = np.random.default_rng(0)
    one, two = draw.normal(size=(200, 5)), draw.normal(1.0, 2.0, size=(300, 5)) @ draw.normal(size=(5, 5))
    a, b = np.cov(one.T), np.cov(two.T)
    expected = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet(torch.tensor(one), torch.tensor(two)) == pytest.approx(float(expected), rel=1e-8)
    assert frechet(torch.tensor(one), torch.tensor(one)) == pytest.approx(0, abs=1e-8)


def test_every_part_of_the_network_is_trained() -> None:
    model = small().train()
    noise = torch.randn(4, 1, 6, 6)
    ids = torch.randint(0, 12, (4, 4))
    F.mse_loss(model(noise, torch.tensor([0, 10, 500, 999]), ids), noise).backward()
    unmoved = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]  # type: ignore[union-attr]
    assert unmoved == []
