"""Two language models that take turns: how well does a placement of the large one's tokens predict real text?

At each token of held-out text one of the two models predicts it, the one that a rule names. Scored is the likelihood
of human text, the product of these predictions. Both models read that text, never their own: how errors add up in what
they write themselves is not tested, and an arm's share of the tokens holds on the given text only (`share_own` is that
of what they write).

Sizes of the large model's share are made comparable: `perplexity_at_share` divides by the perplexity of a placement
that is independent of the text and gives the large model the same share of the tokens.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paperlab.assets.loading import load_causal_lm
from paperlab.assets.models import ModelError
from paperlab.assets.texts import Text, load_text, windows
from paperlab.core.task import Metric
from paperlab.kit.switching import Rule, entropy, place, write

VERSION = 1
SCORES = ("Switcher",)
SUPPLIES = ()
AXES = ("share", "cost", "cost_read")
TIMED = False
METRICS = {
    "perplexity_at_share": Metric("lower", "excess", "exp_mean"),
    "perplexity": Metric("lower", "nll", "exp_mean"),
    "accuracy": Metric("higher", "right"),
}
PAIRED_BY = "items"
COST = {"quick": 80, "full": 200}
SEEDS = {"quick": 5, "full": 5, "gpu": 5}
MODELS = ("abstracts-lm",)
ARM_SECONDS = {"abstracts-lm": 3}
SMALL = {"abstracts-lm": "abstracts-mini"}  # by large model: one with the same tokenizer
DATA = {"abstracts": "482 arXiv titles and abstracts that neither model was trained on, bundled, CC0"}

PROMPT, LENGTH = 16, 240  # tokens of a window that are given, and that are predicted
WINDOWS = {"quick": 192, "full": 576, "gpu": 576}
CHUNK = 8  # windows in a forward pass
OWN, OWN_LENGTH = 4, 96  # windows whose prompts the two models continue by themselves, and by how many tokens


@dataclass
class Setting:
    """small, large: the models, which share a vocabulary. held_out: (n, PROMPT + LENGTH) token ids.

    entropies: (n, LENGTH) of each model, in bits; nll: in nats; right: whether its most likely token is the text's.
    """

    small: nn.Module
    large: nn.Module
    held_out: Tensor
    entropies: tuple[Tensor, Tensor]
    nll: tuple[Tensor, Tensor]
    right: tuple[Tensor, Tensor]
    provenance: dict[str, Any]
    text: Text
    seed: int


class Arm(Protocol):
    """What a driver built. rule: a `kit.switching.Rule`."""

    @property
    def rule(self) -> Rule:
        """Whether the large model predicts the next token."""


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """Both models, and what each says of every held-out token; the seed draws nothing here.

    Raises ModelError for a model without a smaller one of the same tokenizer, TextError for a text that is too short.
    """
    name = model or MODELS[0]
    if name not in SMALL:
        raise ModelError(f"no smaller model with the tokenizer of {name!r} is known; take one of {', '.join(SMALL)}")
    large, tokenizer, about = load_causal_lm(name)
    small, _, about_small = load_causal_lm(SMALL[name])
    text = load_text(data or next(iter(DATA)))
    rows = windows(tokenizer, text, PROMPT + LENGTH, WINDOWS[scale], split="held-out")
    (h, n, r), (big_h, big_n, big_r) = said(small, rows), said(large, rows)
    provenance = {**about, "small": about_small}
    return Setting(small, large, rows, (h, big_h), (n, big_n), (r, big_r), provenance, text, seed)


def remake(setting: Setting, seed: int) -> Setting:
    """The same: nothing of a setting is drawn."""
    return setting


@torch.no_grad()
def said(model: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A model's distribution of each token behind the prompt: entropies in bits, nats for the text's own token, and
    whether that is the most likely one; each (n, time - PROMPT), float64 or bool."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for chunk in rows.split(CHUNK):
        logits = model(input_ids=chunk, use_cache=False).logits[:, PROMPT - 1 : -1].float()
        next_one = chunk[:, PROMPT:]
        nats = -logits.log_softmax(-1).gather(-1, next_one[..., None])[..., 0]
        found.append((entropy(logits).double(), nats.double(), logits.argmax(-1) == next_one))
    return tuple(map(torch.cat, zip(*found, strict=True)))  # type: ignore[return-value]


def describe(setting: Setting) -> dict[str, Any]:
    """Models and data with their hashes; counts; what each model reaches alone; threads, which decide the order of
    sums."""
    alone = {
        name: {"perplexity": math.exp(nats.mean()), "accuracy": right.double().mean().item()}
        for name, nats, right in zip(("small", "large"), setting.nll, setting.right, strict=True)
    }
    return {
        "model": setting.provenance["id"],
        "provenance": setting.provenance,
        "data": setting.text.describe(),
        "prompt": PROMPT,
        "window": PROMPT + LENGTH,
        "held_out_windows": len(setting.held_out),
        "alone": alone,
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """Number of held-out windows."""
    return len(setting.held_out)


def totals(arm: Arm, setting: Setting) -> dict[str, float]:
    """Of the held-out tokens, and of what the two models write by themselves.

    share: of the tokens, predicted by the large model; cost: parameters of the model that predicts a token, as a part
    of the large one's, whatever else is read; bound: `perplexity_at_share` of the best placement of that share, which
    knows the text; mixture: of the distribution that a coin with that share gives where nobody knows how it fell, so
    that each token has both models' probabilities in that proportion. share_own: of the tokens that they write from
    PROMPT tokens on, at temperature 1; cost_read: as cost, of all tokens that a model reads there, in order to write
    or because the rule asks what the small one says of the next token.
    """
    chosen = place(*setting.entropies, arm.rule)
    small, large = setting.nll
    share = chosen.double().mean().item()
    count = int(chosen.sum())
    drawn = small.mean() - share * (small - large).mean()
    best = small.mean() - (small - large).flatten().topk(count).values.sum() / small.numel()
    mixed = -torch.logaddexp(_log(share) - large, _log(1 - share) - small).mean()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        own = write(setting.small, setting.large, setting.held_out[:OWN, :PROMPT], OWN_LENGTH, arm.rule)
    size = sum(p.numel() for p in setting.small.parameters()) / sum(p.numel() for p in setting.large.parameters())
    everything = own.large.numel() + own.large.shape[0] * (PROMPT - 1)  # what one model alone reads
    return {
        "share": share,
        "cost": share + (1 - share) * size,
        "bound": math.exp(best - drawn),
        "mixture": math.exp(mixed - drawn),
        "share_own": own.large.double().mean().item(),
        "cost_read": (own.large_read + own.small_read * size) / everything,
    }


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf


def score(arm: Arm, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """Means over a window's predicted tokens. nll: nats. excess: nats beyond those of a placement that does not look
    at the text and has the arm's share. That share is estimated over all windows, so that a window also counts by how
    far its own share is from it (the term of the delta method; its mean is 0). right: whether the most likely token is
    the text's."""
    chosen = place(*setting.entropies, arm.rule)
    share = chosen.double().mean().item()
    small, large = setting.nll
    nats = torch.where(chosen, large, small).mean(1)
    gain = (small - large).mean(1)
    excess = nats - (small.mean(1) - share * gain) + gain.mean() * (chosen.double().mean(1) - share)
    right = torch.where(chosen, setting.right[1], setting.right[0]).double().mean(1)
    for row in range(start, items(setting)):
        yield {"nll": nats[row].item(), "excess": excess[row].item(), "right": right[row].item()}
