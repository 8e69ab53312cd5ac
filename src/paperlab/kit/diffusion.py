"""A small text-to-image diffusion model: a text encoder, a U-Net that reads it by cross-attention, and DDIM sampling.

    x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e,   a_t the product of 1 - b_s up to t,   b from 1e-4 to 0.02 in STEPS steps
    the network predicts e from x_t, t and the phrase      (Ho et al., 2006.11239; text: Rombach et al., 2112.10752)
    guidance: e = e_none + g (e_phrase - e_none)      (Ho and Salimans, 2207.12598)
    DDIM, eta 0: x_s = sqrt(a_s) x_0(e) + sqrt(1 - a_s) e      (Song et al., 2010.02502, eq. 12)

Layers are named as in Stable Diffusion: `text_encoder` beside `unet`; attention and feed-forward are linear layers,
what is between them convolutions.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 1000  # of the noise
PAD = 0  # token id; a phrase of nothing else is the empty one


def signal(times: Tensor) -> Tensor:
    """a_t, the share of the image's variance that is left at times 0 to STEPS - 1; float64, the same shape."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64), 0)[times]


class Attention(nn.Module):
    """Queries of x attend to a context, or to x itself. Both (batch, n, width), of widths of their own."""

    def __init__(self, width: int, heads: int, context: int | None = None, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context or width, width, bias=False)
        self.to_v = nn.Linear(context or width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(batch, n, width), (batch, m, context) -> (batch, n, width)."""
        given = x if context is None else context
        q, k, v = (
            layer(of).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, of in ((self.to_q, x), (self.to_k, given), (self.to_v, given))
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.to_out(out.transpose(1, 2).flatten(2))


class TextLayer(nn.Module):
    """A causal layer with norms before its halves, as CLIP's."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, causal=True)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> the same."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.layer_norm2(x))))


class TextEncoder(nn.Module):
    """(batch, length) token ids -> (batch, length, width)."""

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.layers = nn.ModuleList(TextLayer(width, heads) for _ in range(layers))
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """All positions, those of padding too, as Stable Diffusion reads them."""
        x = self.tokens(ids) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x)


class Residual(nn.Module):
    """Two convolutions, with the time between them."""

    def __init__(self, inside: int, outside: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, inside), nn.GroupNorm(8, outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, outside)
        self.shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(batch, inside, h, w), (batch, time) -> (batch, outside, h, w)."""
        hidden = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(hidden)))


class Spatial(nn.Module):
    """Self-attention over positions, cross-attention to the text, gated feed-forward."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attn1, self.attn2 = Attention(width, heads), Attention(width, heads, context)
        self.proj, self.out = nn.Linear(width, 8 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(batch, width, h, w), (batch, tokens, context) -> (batch, width, h, w)."""
        flat = x.flatten(2).transpose(1, 2)
        flat = flat + self.attn1(self.norms[0](flat))
        flat = flat + self.attn2(self.norms[1](flat), context)
        value, gate = self.proj(self.norms[2](flat)).chunk(2, dim=-1)
        flat = flat + self.out(value * F.gelu(gate))
        return flat.transpose(1, 2).view_as(x)


class UNet(nn.Module):
    """Two resolutions; attention at the lower one. Sides of an image are even."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        time, deep = 4 * width, 2 * width
        self.width = width
        self.time_in, self.time_out = nn.Linear(width, time), nn.Linear(time, time)
        self.conv_in, self.first = nn.Conv2d(1, width, 3, padding=1), Residual(width, width, time)
        self.down = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.residuals = nn.ModuleList(Residual(inside, deep, time) for inside in (deep, deep, 2 * deep))
        self.transformers = nn.ModuleList(Spatial(deep, heads, context) for _ in range(3))
        self.up, self.last = nn.Conv2d(deep, width, 3, padding=1), Residual(2 * width, width, time)
        self.norm_out, self.conv_out = nn.GroupNorm(8, width), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, images: Tensor, times: Tensor, context: Tensor) -> Tensor:
        """(batch, 1, h, w), (batch,) whole numbers, (batch, tokens, context) -> (batch, 1, h, w)."""
        rates = torch.exp(-math.log(10_000) * torch.arange(self.width // 2) / (self.width // 2))
        angles = times[:, None] * rates
        time = self.time_out(F.silu(self.time_in(torch.cat([angles.cos(), angles.sin()], 1))))
        top = self.first(self.conv_in(images), time)
        skip = deep = self.transformers[0](self.residuals[0](self.down(top), time), context)
        deep = self.transformers[1](self.residuals[1](deep, time), context)
        deep = self.transformers[2](self.residuals[2](torch.cat([deep, skip], 1), time), context)
        raised = self.up(F.interpolate(deep, scale_factor=2.0))
        return self.conv_out(F.silu(self.norm_out(self.last(torch.cat([raised, top], 1), time))))


class TextToImage(nn.Module):
    """Called with noisy images (batch, 1, h, w), times (batch,) and phrases (batch, length): the noise in them."""

    def __init__(
        self, vocabulary: int, length: int, *, text_width: int = 64, text_layers: int = 3, width: int = 32,
        heads: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.text_encoder = TextEncoder(vocabulary, length, text_width, heads, text_layers)
        self.unet = UNet(width, heads, text_width)

    def forward(self, images: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """The noise, (batch, 1, h, w)."""
        return self.unet(images, times, self.text_encoder(ids))


def noised(images: Tensor, times: Tensor, noise: Tensor) -> Tensor:
    """x_t of images (batch, 1, h, w) at times (batch,)."""
    a = signal(times).to(images.dtype)[:, None, None, None]
    return a.sqrt() * images + (1 - a).sqrt() * noise


@torch.no_grad()
def sample(model: TextToImage, ids: Tensor, noise: Tensor, *, steps: int = 20, guidance: float = 3.0) -> Tensor:
    """Images (batch, 1, h, w), -1 to 1, of phrases (batch, length), from this noise; the text is encoded once."""
    count = len(ids)
    context = model.text_encoder(torch.cat([ids, torch.full_like(ids, PAD)]))
    times = torch.linspace(STEPS - 1, 0, steps + 1).round().long()
    images = noise
    for now, after in pairwise(times):
        said = model.unet(images.repeat(2, 1, 1, 1), now.repeat(2 * count), context)
        wanted, plain = said.split(count)
        error = plain + guidance * (wanted - plain)
        a, b = (float(signal(t)) for t in (now, after))
        clean = ((images - (1 - a) ** 0.5 * error) / a**0.5).clamp(-1, 1)
        error = (images - a**0.5 * clean) / (1 - a) ** 0.5  # what the clamped image leaves
        images = b**0.5 * clean + (1 - b) ** 0.5 * error if after > 0 else clean
    return images


def frechet(one: Tensor, other: Tensor) -> float:
    """Squared Frechet distance between normal laws with the mean and covariance of features (n, width), (m, width)."""
    first, second = one.double(), other.double()
    apart = (first.mean(0) - second.mean(0)).square().sum()
    a, b = first.T.cov(), second.T.cov()
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return max(float(apart + a.trace() + b.trace() - 2 * both), 0.0)
