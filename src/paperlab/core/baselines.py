"""Variants of the plain baselines: one table for all cards, so that no card can pick the weakest.

A claim that a method beats one of these is judged against the strongest of its variants, on each model anew
(`core.figures.baseline_index`). Other baselines search their own setting: AWQ and SmoothQuant their strength, on
calibration data. Scales are those of common tools: 2 max / (2^bits - 1) where symmetric.
"""

from dataclasses import replace

from paperlab.core.card import WITHIN, Arm, Check, Scalar

# The first variant of each has the method's defaults.
VARIANTS: dict[str, tuple[dict[str, Scalar], ...]] = {
    "round-to-nearest": ({"symmetric": False}, {"symmetric": True}),
    "gptq": ({"act_order": False}, {"act_order": True}),  # with act_order its groups are static
}


def with_rivals(check: Check) -> Check:
    """The check, and where it claims or asks that something is better than a plain baseline, the baseline's other
    variants as its rivals; the method itself is never one."""
    base, method = check.baseline, check.method
    known = VARIANTS.get(base.method)
    if known is None or check.expect in WITHIN or check.role not in ("claim", "question"):
        return check
    arms = [Arm(base.method, {**base.params, **one}, base.after) for one in known]
    own = [_whole(arm) for arm in (base, method)]
    return replace(check, rivals=tuple(arm for arm in arms if _whole(arm) not in own))


def _whole(arm: Arm) -> Arm:
    """The arm with the first variant's parameters where it leaves them out."""
    return Arm(arm.method, {**VARIANTS.get(arm.method, ({},))[0], **arm.params}, arm.after)
