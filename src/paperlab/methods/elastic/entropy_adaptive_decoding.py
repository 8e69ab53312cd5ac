"""Entropy adaptive decoding: a small model writes until entropy stays high, then a large one takes over for a while.

    H_t  = -sum_v p_v log2 p_v     of the distribution, before any temperature, that token t is drawn from
    mean = of the last `window` H_t
    the next token's model: the large one if mean >= threshold, else the small one; but whoever writes keeps the word
    for `duration` tokens. What the small model wrote is not verified.

Simonds, arXiv 2502.06833. Only its abstract could be read; window, duration and the rule are taken from a reader's
summary of the paper (KKKZOZ/KKKZOZ.github.io@d9d4cff), there is no code of the author. Its formula names the model of
token t by a mean up to H_t. As nothing says whose H_t that is before a model is chosen, there are two readings: the
mean of tokens written (`current=False`), and that of what the small model says of each, the next one included.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from paperlab.core.card import Arm, Card, Check

CARD = Card(
    family="elastic",
    paper="entropy-adaptive-decoding",
    sources=("abstract",),
    task="lm_switch",
    metric="perplexity_at_share",
    expect="lower",
    margin=0.02,
    method=Arm("entropy-adaptive-decoding", threshold=6.3),
    baseline=Arm("random-switching", share=0.43),
    gap="Instruction-tuned models, the large ones of 11B and 14B, judged by answers to MATH; here 1.3M and 5.8M "
    "trained on abstracts, judged by the likelihood of human text, which both read: how errors add up in their own is "
    "not tested, and 43 and 25 % hold on the given text. Their entropy is 5 to 6 bits a token, mostly the text's own; "
    "on worked mathematics large models are nearly certain of most tokens. A result here says nothing about reasoning, "
    "nor about such models. Nothing is timed: cost counts parameters of the model that writes; cost_read adds what a "
    "model reads of the other's tokens, and what the small one reads to look ahead. A coin that nobody saw fall makes "
    "text of a mixture of both models, whose perplexity is lower than that of the placements here by past tokens; it "
    "is shown as mixture.",
    checks=(
        Check(
            claim="better-places-than-a-coin-43",
            says="Placed by the mean entropy of past tokens, one reading of the rule, 43 % of tokens from the large "
            "model make real text likelier than as many drawn at random (the abstract: the method identifies "
            "where the small model suffices; LLaMA pair, 43 % of tokens).",
            equal={"share": 0.05},
            beside=(
                Arm("periodic-switching", share=0.43),
                Arm("entropy-adaptive-decoding", threshold=6.47, window=1, duration=1),
            ),
        ),
        Check(
            claim="better-places-than-a-coin-25",
            says="The same reading with 25 % of the tokens (Qwen pair).",
            method=Arm("entropy-adaptive-decoding", threshold=7.32),
            baseline=Arm("random-switching", share=0.25),
            equal={"share": 0.05},
            beside=(
                Arm("periodic-switching", share=0.25),
                Arm("entropy-adaptive-decoding", threshold=7.69, window=1, duration=1),
            ),
        ),
        Check(
            claim="better-places-than-a-coin-43-current",
            says="The other reading, 43 %: the mean includes what the small model says of the token to be placed. "
            "The small model reads every token for it.",
            method=Arm("entropy-adaptive-decoding", threshold=6.54, current=True),
            equal={"share": 0.05},
            beside=(Arm("entropy-adaptive-decoding", threshold=6.82, window=1, duration=1, current=True),),
        ),
        Check(
            claim="better-places-than-a-coin-25-current",
            says="The other reading, 25 %.",
            method=Arm("entropy-adaptive-decoding", threshold=7.35, current=True),
            baseline=Arm("random-switching", share=0.25),
            equal={"share": 0.05},
            beside=(Arm("entropy-adaptive-decoding", threshold=7.89, window=1, duration=1, current=True),),
        ),
        Check(
            claim="keeps-accuracy-43",
            says="With 43 % of the tokens, are at least 96.7 % of the next tokens found that the large model finds "
            "alone (paper: 50.4 % against 52.1 % of the answers), and not with as many placed at random?",
            metric="accuracy",
            expect="no worse",
            margin=0.033,
            baseline=Arm("random-switching", share=1.0),
            trivial=Arm("random-switching", share=0.43),
            beside=(
                Arm("random-switching", share=0.0),
                Arm("entropy-adaptive-decoding", threshold=6.54, current=True),
            ),
            gap="As for the claims. How much is kept also depends on how far apart both models are: here the small one "
            "alone finds four fifths of what the large one finds; the abstract does not say what it is in the paper.",
            role="question",
        ),
        Check(
            claim="window-and-duration",
            says="Do the mean over five past tokens and the ten that a model writes at least place the large model "
            "better than the last entropy alone?",
            baseline=Arm("entropy-adaptive-decoding", threshold=6.47, window=1, duration=1),
            equal={"share": 0.05},
            role="question",
        ),
    ),
    departs=(
        "written without the paper's text: see the docstring",
        "the summary's formula names the model of token t by a mean that has H_t in it. By default only tokens before "
        "t decide, each with the entropy of the model that wrote it, so that none is predicted twice; with current it "
        "is the formula's mean, of the small model's entropies throughout. That the model which has the word "
        "computes H_t, and the other predicts the token anew after a switch, is a third reading, not built. The "
        "paper's 41.5 % and 67 % of compute do not tell: the abstract names no sizes of the small models",
        "at the threshold itself the large model writes; in another summary (themoonlight.io) only above it",
        "before there are `window` tokens, the mean is over those that there are; the prompt has no part in it",
        "thresholds were set on the calibration text, so that the large model gets 43 % and 25 % of its tokens; those "
        "of the paper belong to its models. Held-out text was looked at before both readings had their checks: by past "
        "tokens, placements came out up to 1 % behind a coin, with the next token's entropy up to 5 % ahead (with "
        "thresholds fitted there). Both readings therefore stand as claims",
    ),
)


def switch(
    entropy: Tensor,
    large: Tensor,
    ahead: Callable[[], Tensor],
    *,
    threshold: float = 1.0,
    window: int = 5,
    duration: int = 10,
    current: bool = False,
) -> Tensor:
    """entropy (batch, time), in bits, of the model that wrote each token; large (batch, time): whether that was the
    large one; ahead() (batch, time + 1): the small model's, the next token's among them -> (batch,) bool: whether the
    large one writes the next token. The small one begins.

    threshold: bits, 0 or more. window: tokens that the mean is taken over, 1 or more (fewer at the beginning).
    duration: tokens that a model writes at least, 1 or more. current: take the mean of the small model's entropies up
    to the next token's; the small model then reads every token, whoever writes.
    """
    if threshold < 0 or window < 1 or duration < 1:
        raise ValueError(f"{threshold=}, {window=}, {duration=}: give 0 or more bits, and 1 or more tokens")
    rows, time = large.shape
    if not time:
        return torch.zeros(rows, dtype=torch.bool, device=large.device)
    writer = large[:, -1]
    if time < duration:
        return writer.clone()
    may_switch = (large[:, -duration:] == writer[:, None]).all(1)
    mean = (ahead() if current else entropy)[:, -window:].mean(1)
    return torch.where(may_switch, mean >= threshold, writer)
