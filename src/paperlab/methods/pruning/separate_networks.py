"""Standard architecture search: every network that is tried is fine-tuned by itself, from the pre-trained weights.

The space's corners come first, then random draws; all are trained for as many steps. What a search at shared weights
must beat at equal compute (Klein et al., arXiv 2405.02267, run_nas.py). With `depths`, layer dropping: the networks
are those of the first layers (Sajjad et al., arXiv 2004.03844, whose best strategy drops the top ones).
"""

import random
from typing import Any

from torch import nn

from paperlab.core.card import Card
from paperlab.kit.elastic import Front, Member, Space, cut, sizes_of
from paperlab.kit.tuning import Tuned, cross_entropy, fit

CARD = Card(family="pruning")


def recipe(model: nn.Module, setting: Any, seed: int, rate: float, *, networks: int = 8, depths: bool = False) -> Tuned:
    """The front of `networks` (3 or more) sub-networks, each cut out of the copy and fine-tuned by itself.

    The setting's steps are the compute of all, in steps of the whole network; `validation_steps`, if it has it, is
    what validating the whole network takes of them. depths: in their place one network of each number of layers, all
    heads and units in them.
    """
    if networks < 3:
        raise ValueError(f"networks={networks}: the first three are the space's corners")
    sizes = sizes_of(model)
    space, draw = Space(sizes), random.Random(seed)
    configs = [*space.corners, *(space.draw(draw) for _ in range(networks - 3))]
    if depths:
        configs = [(layers, *space.most[1:]) for layers in range(sizes.blocks, 0, -1)]
    shares = [sizes.share(space.network(config)) for config in configs]
    once = float(getattr(setting, "validation_steps", 0.0))
    steps = max(1, round(setting.steps / sum(shares) - once))
    members, count = [], 0
    for config, share in zip(configs, shares, strict=True):
        small = cut(model, space.network(config))
        _, trained = fit(
            small, setting, cross_entropy, rate=rate, seed=seed, asks=("student", "labels"), steps=steps
        )  # fmt: skip
        members.append(Member(share, setting.validate(small), small))
        count = max(count, trained)
    return Tuned(Front(members, sum(shares) * (steps + once), len(configs)), rate, {}, steps * len(configs), count)
