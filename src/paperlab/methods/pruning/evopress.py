"""EvoPress: which layers to prune more and which less, by an evolutionary search that scores whole models.

    parent: every layer at the mean sparsity (level 0); level l of a layer has l * step more weights removed
    child:  the parent with min(a, b) switches, a and b from 1 to 3: one layer a level down and one a level up
    select: the children with the least KL to the original on few tokens, the survivors on more, and last the parent
            with them, which stays unless a child beats it

For depth a state says which attentions and which feed-forwards are dropped, as many of each; a switch drops one and
brings one of its kind back; the first parent is the best of `initial` random states. Levels are SparseGPT's, made
behind unpruned layers. Sieberling et al., "EvoPress: Towards Optimal Dynamic Model Compression via Evolutionary
Search", arXiv 2410.14649; github.com/IST-DASLab/EvoPress at 50888a0.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.compressed import Compressed, count_weights
from paperlab.kit.depth import Droppable, how_many
from paperlab.kit.fitness import Fitness
from paperlab.kit.matrix import Sparse
from paperlab.kit.sparse_levels import sparse_levels
from paperlab.kit.stats import gather
from paperlab.kit.walk import Batch, block_linears, linears, walk

CARD = Card(
    paper="evopress",
    family="pruning",
    sources=("abstract", "code"),
    configuration="scripts/run_prune_search.sh, run_sparse_gpt.sh, run_owl_prune.sh and run_drop_search.sh",
    task="lm_compress",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    models=("abstracts-lm",),
    gap="Theirs: 7B to 14B parameters, up to 8 million calibration tokens, 400 generations of 64 children. Here: 6 "
    "million parameters in 6 blocks, 4,096 tokens, 20 generations of 16, which may stop short of convergence (half a "
    "generation for each layer, theirs nearly two). A pass shows nothing about models with 32 blocks. Their first "
    "claim, that a lower sum of layer errors can go with a worse model, is not tested: a pair that shows "
    "it can always be searched for, and the share of pairs needs a task that judges pairs.",
    checks=(
        Check(
            claim="sparsity-better-than-owl",
            says="At 70 % the layers' sparsities that are found give a better model than OWL's, which are tuned over "
            "20 settings.",
            equal={"density": 0.01},
            method=Arm("evopress", sparsity=0.7),
            baseline=Arm("owl", sparsity=0.7),
            beside=(Arm("sparsegpt", sparsity=0.7), Arm("original")),
            ablation=Arm("evopress", sparsity=0.7, steps=0),
        ),
        Check(
            claim="depth-better-than-scores",
            says="A third of the attentions and feed-forwards dropped by search leaves a better model than blocks "
            "dropped by a score: perplexity without the block (shortened Llama), cosine (ShortGPT), window, norm.",
            equal={"parameters": 0.0},
            method=Arm("evopress", target="depth", sparsity=0.34),
            baseline=Arm("block-dropping", by="perplexity", sparsity=0.34, tokens=4096),
            beside=(
                Arm("block-dropping", by="cosine", sparsity=0.34),
                Arm("block-dropping", by="window", sparsity=0.34),
                Arm("block-dropping", by="norm", sparsity=0.34),
            ),
            trivial=Arm("block-dropping", by="random", sparsity=0.34),
        ),
        Check(
            claim="sparsity-better-than-random-search",
            says="Is it the evolution? Allocations drawn at random, with as many evaluations in the same stages.",
            equal={"density": 0.01},
            method=Arm("evopress", sparsity=0.7),
            baseline=Arm("evopress", sparsity=0.7, search="random"),
            role="question",
        ),
        Check(
            claim="depth-better-than-random-search",
            says="And for depth: states drawn at random, with as many evaluations. There are only 225 of them here.",
            equal={"parameters": 0.0},
            method=Arm("evopress", target="depth", sparsity=0.34),
            baseline=Arm("evopress", target="depth", sparsity=0.34, search="random"),
            role="question",
        ),
        Check(
            claim="depth-better-than-the-same-parts-by-score",
            says="The search may drop an attention and keep its feed-forward. Is it better than scores that may too?",
            equal={"parameters": 0.0},
            method=Arm("evopress", target="depth", sparsity=0.34),
            baseline=Arm(
                "block-dropping", unit="feed_forward", by="perplexity", sparsity=0.34, tokens=4096,
                after=Arm("block-dropping", unit="attention", by="perplexity", sparsity=0.34, tokens=4096),
            ),
            role="question",
        ),
    ),
    departs=(
        "two stages of selection for sparsity too (16 children, 2, 1); theirs has three there (64, 8, 2, 1)",
        "a child equal to the parent is drawn again for sparsity too; the first 32 states for depth are tried on 128 "
        "tokens, theirs 64 on 2,048, and last stages see 1,024 tokens, theirs 32,768 and 65,536",
        "a layer's last level keeps at least one weight; theirs may remove all",
        "exactly round(n * sparsity) weights of a layer go; their threshold takes also all that equal it",
        "weights are stored as float16; where float32 cannot factor the Hessian, more damping is tried",
        "quantization with dynamic bit widths, their third use, is left out",
        "levels were four of 3.75 % and no layer lost more than 90 %, until a reader found them narrower than the "
        "script's; blocks had been undecided against scores then, levels had no verdict",
    ),
)  # fmt: skip

State = tuple[int, ...]  # a level for each layer; or, for depth, 1 for each dropped attention, then each feed-forward
TRIES = 200  # before a generation is content with fewer different children


def transform(
    model: nn.Module,
    calibration: list[Batch],
    seed: int,
    *,
    target: Literal["sparsity", "depth"] = "sparsity",
    sparsity: float = 0.7,
    search: Literal["evolution", "random"] = "evolution",
    steps: int = 20,
    offspring: int = 16,
    stage_tokens: str = "128,1024",
    survivors: str = "2,1",
    initial: int = 32,
    levels: int = 8,
    level_step: float = 0.0596,
    damping: float = 0.01,
) -> Compressed:
    """The model with the best layer sparsities of mean `sparsity`, or without that share of its parts (rounded down).

    steps: generations of `offspring` children. stage_tokens, survivors: of each stage of selection, with commas; the
    last survivor is the parent. search="random": children are drawn without looking at the parent, which still stays
    unless beaten. initial: random states tried first (depth). levels: sparsities above and below the mean, at most.
    level_step: weights between two levels, as a share of the squared width; theirs are 1,000,000 of 4096^2.
    """
    stages = list(zip(_whole_numbers(stage_tokens), _whole_numbers(survivors), strict=True))
    if stages[-1][1] != 1:
        raise ValueError(f"survivors={survivors!r}: the last stage leaves one, the parent")
    total = count_weights(model)
    if target == "depth" and not how_many(model, sparsity):
        return Compressed(model, {}, total)
    draw = random.Random(seed)
    fitness = Fitness(model, calibration)
    space = (
        Depth(model, sparsity, draw)
        if target == "depth"
        else Levels(model, calibration, sparsity, levels, level_step, damping, draw)
    )

    def best_of(states: list[State], tokens: int, keep: int) -> list[State]:
        """The `keep` states of least KL on one draw of tokens, the best first; of equal ones the earlier."""
        rows = fitness.draw(tokens, draw)
        scored = [(fitness(space.show(state), rows), number) for number, state in enumerate(states)]
        return [states[number] for _, number in sorted(scored)[:keep]]

    parent = best_of(space.first(initial), stages[0][0], 1)[0]
    for _ in range(steps):
        make = partial(space.switch, parent) if search == "evolution" else space.fresh
        born = different(make, offspring, parent)
        for number, (tokens, keep) in enumerate(stages, 1):
            born = best_of(born if number < len(stages) else [*born, parent], tokens, keep)
        parent = born[0]
    space.show(parent)
    stored = space.stored(parent)
    notes = {"state": parent, "evaluations": fitness.evaluations, "tokens": fitness.tokens}
    return Compressed(model, stored, total, notes=notes, removed=total - count_weights(model))


def different(make: Callable[[], State], count: int, parent: State) -> list[State]:
    """`count` states that differ from each other and from the parent; fewer where `make` finds no more."""
    found: list[State] = []
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        if (state := make()) != parent and state not in found:
            found.append(state)
    return found


class Levels:
    """Sparsities of all layers: a state has a level for each. Every layer's levels are pruned beforehand."""

    def __init__(
        self, model: nn.Module, calibration: list[Batch], sparsity: float, levels: int, level_step: float,
        damping: float, draw: random.Random,
    ) -> None:  # fmt: skip
        self.model, self.draw = model, draw
        layers = block_linears(model)
        width = next(iter(layers.values())).in_features
        step = max(1, int(level_step * width**2))
        self.pruned: dict[str, dict[int, Sparse]] = {}
        for name, block, calls in walk(model, calibration):  # nothing is changed: all levels see original inputs
            inside = linears(block)
            statistics = gather(block, inside, calls, {"hessian"})
            for inner, layer in inside.items():
                size = layer.weight.numel()
                low = -min(levels, int(sparsity * size / step))
                high = max(0, min(levels, int(((1 - sparsity) * size - 1) / step)))
                wanted = [sparsity + level * step / size for level in range(low, high + 1)]
                hessian = statistics[inner]("hessian")
                made = sparse_levels(layer.weight.detach(), hessian, wanted, damping=damping)
                self.pruned[f"{name}.{inner}"] = dict(zip(range(low, high + 1), made, strict=True))
        self.weights = [layers[name].weight for name in self.pruned]
        self.shown: list[int | None] = [None] * len(self.weights)

    def first(self, _: int) -> list[State]:
        """Every layer at the mean sparsity."""
        return [(0,) * len(self.pruned)]

    def switch(self, parent: State, times: int = 0) -> State:
        """As many weights removed as before: each switch takes one layer a level down and one a level up."""
        child = list(parent)
        for _ in range(times or switches(self.draw)):
            down = [i for i, made in enumerate(self.pruned.values()) if child[i] - 1 in made]
            up = [i for i, made in enumerate(self.pruned.values()) if child[i] + 1 in made]
            if not down or not up:
                break
            lower, higher = self.draw.choice(down), self.draw.choice(up)
            child[lower] -= 1
            child[higher] += 1
        return tuple(child)

    def fresh(self) -> State:
        """The mean everywhere, then 1 to as many switches as there are layers, drawn evenly on a log scale."""
        return self.switch((0,) * len(self.pruned), max(1, round(len(self.pruned) ** self.draw.random())))

    @torch.no_grad()
    def show(self, state: State) -> nn.Module:
        """The model with these weights; only layers whose level is another are written."""
        for i, (made, level) in enumerate(zip(self.pruned.values(), state, strict=True)):
            if self.shown[i] != level:
                self.shown[i] = level
                self.weights[i].copy_(made[level].dense())
        return self.model

    def stored(self, state: State) -> dict[str, Sparse]:
        """What each layer stores."""
        return {name: made[level] for (name, made), level in zip(self.pruned.items(), state, strict=True)}


class Depth:
    """Attentions and feed-forwards: a state has 1 for each dropped attention, then for each dropped feed-forward."""

    def __init__(self, model: nn.Module, sparsity: float, draw: random.Random) -> None:
        self.trial, self.draw = Droppable(model), draw
        self.blocks, self.count = len(self.trial.stack), how_many(model, sparsity)

    def first(self, initial: int) -> list[State]:
        """Random states; the best becomes the first parent."""
        return different(self.fresh, initial, ())

    def fresh(self) -> State:
        """As many attentions as feed-forwards dropped, drawn."""
        state = [0] * (2 * self.blocks)
        for start in (0, self.blocks):
            for index in self.draw.sample(range(self.blocks), self.count):
                state[start + index] = 1
        return tuple(state)

    def switch(self, parent: State) -> State:
        """One part dropped and one of its kind brought back, for each switch."""
        child = list(parent)
        for _ in range(switches(self.draw)):
            start = self.blocks * self.draw.randint(0, 1)
            part = range(start, start + self.blocks)
            drop, back = (self.draw.choice([i for i in part if child[i] == value]) for value in (0, 1))
            child[drop], child[back] = 1, 0
        return tuple(child)

    def show(self, state: State) -> nn.Module:
        """The model with the dropped parts silent."""
        return self.trial.without(*self._indices(state))

    def stored(self, state: State) -> dict[str, Sparse]:
        """Nothing: the parts are taken out of the model."""
        self.trial.finish(*self._indices(state))
        return {}

    def _indices(self, state: State) -> tuple[set[int], set[int]]:
        dropped = [i for i, value in enumerate(state) if value]
        return {i for i in dropped if i < self.blocks}, {i - self.blocks for i in dropped if i >= self.blocks}


def switches(draw: random.Random) -> int:
    """1 to 3, the lower the likelier."""
    return min(draw.randint(1, 3), draw.randint(1, 3))


def _whole_numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"{text!r}: whole numbers from 1 with commas, such as '128,1024'")
    return found
