"""LLM compression by architecture search: a language model is tuned as a super-network, and a search picks from it.

    order      channels, heads and neurons of the network by importance, so that a sub-network is the first of each;
               of its blocks those whose loss matters most
    draw       sub-networks so that their parameter counts are spread evenly ("calibrated")
    step       L = CE(whole) + sum over two drawn ones and the smallest s of  CE(s) + KL(whole || s)
    search     sub-networks of at most `share` of the parameters, on validation text, at the shared weights

Sukthanker, Staffler, Hutter and Klein, "LLM Compression with Neural Architecture Search", arXiv 2410.06479. Code read:
github.com/whittle-org/whittle at 408d0f3, 56a071b (tuning with LoRA, gone since) and its branch get_activations.
"""

import copy
import random
from dataclasses import replace
from itertools import combinations, islice
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.slimmable import Config, Importance, Space, Strata, extracted, importance, ordered, shapes_of, sliced
from paperlab.kit.tuning import Batch, Training, Tuned, cross_entropy
from paperlab.kit.walk import block_linears

CARD = Card(
    family="pruning",
    paper="llm-compression-nas",
    sources=("abstract", "code"),
    configuration="config_hub/finetune/llama-3.1-8b/lora.yaml: rank 32, alpha 16",
    task="lm_recover",
    metric="perplexity",
    expect="lower",
    margin=0.02,
    method=Arm("llm-compression-nas", share=0.591),
    equal={"bytes": 0.02, "tokens": 0.0},
    gap="Theirs: Llama of 8 billion parameters, instructions, MMLU and the like, a front over sizes and latencies. "
    "Here: 6 million parameters in 6 blocks of 4 heads, perplexity, one size (three fifths): a front, and the use of "
    "one training for all sizes, are not tested. As many tokens for all: at quick 12 thousand in 24 steps, which "
    "starves a super-network: of its 48 draws about 3 have nearly the size that is judged, while the baseline trains "
    "that size alone. So what depends on that training is judged at full only, of 300 steps. A step that tunes four "
    "networks takes 3 to 4 times as long, which is not counted. Speed is not measured. On seed 100 the super-"
    "network's validation loss was that of a narrow cut at 24 steps (3.89 nats), and no lower at 96: the cut's 3.78.",
    checks=(
        Check(
            claim="better-than-tuning-what-is-found-first",
            least_scale="full",
            says="At one size, the sub-network found in the tuned super-network is better than the one that as many "
            "evaluations find in the dense network, ordered likewise, which is then tuned alone with LoRA and "
            "distillation (the paper: better than fine-tuned sub-networks of the pre-trained model, up to 3.4 % on "
            "MMLU than structural pruning, over a front of sizes).",
            baseline=Arm("llm-compression-nas", share=0.591, training="found"),
            trivial=Arm("llm-compression-nas", share=0.591, training="found", order="random"),
            ablation=Arm("llm-compression-nas", share=0.591, training="standard"),
        ),
        Check(
            claim="better-than-width-pruning",
            least_scale="full",
            says="It is better than one cut by importance to a fixed shape, with nearly all channels, and tuned with "
            "LoRA and distillation. The shape was the better of two tried on seed 100; on which data was not noted.",
            baseline=Arm(
                "llm-compression-nas", share=1.0, training="found", after=Arm("minitron", width=0.9375, inner=0.396)
            ),
        ),
        Check(
            claim="better-than-block-dropping",
            least_scale="full",
            says="It is better than the network of half the blocks, the best of all such on validation text, tuned "
            "with LoRA and distillation.",
            baseline=Arm("llm-compression-nas", share=0.591, training="found", search="blocks"),
        ),
        Check(
            claim="importance-better-than-random-order",
            says="Does it help to sort units and blocks by importance, against a random order? Asked of the network "
            "that is found first and tuned alone, so that the super-network's training plays no part.",
            method=Arm("llm-compression-nas", share=0.591, training="found"),
            baseline=Arm("llm-compression-nas", share=0.591, training="found", order="random"),
            role="question",
        ),
        Check(
            claim="super-network-better-than-plain-tuning",
            least_scale="full",
            says="Is it better than the same search in a network that was tuned as a whole alone?",
            baseline=Arm("llm-compression-nas", share=0.591, training="standard"),
            role="question",
        ),
        Check(
            claim="distillation-in-place-helps",
            least_scale="full",
            says="Is it better than with the cross-entropy of each sub-network alone?",
            baseline=Arm("llm-compression-nas", share=0.591, distil=False),
            role="question",
        ),
        Check(
            claim="calibrated-draws-better-than-uniform",
            least_scale="full",
            says="Is it better than where the sub-networks of a step are drawn without regard to their size?",
            baseline=Arm("llm-compression-nas", share=0.591, sampling="uniform"),
            role="question",
        ),
    ),
    departs=(
        "the paper's text was not at hand beyond abstract and introduction: which structural pruning it compares with, "
        "its tables and its weights of the distillation were not read; the baselines here are ours, distilled from the "
        "dense network by the same loss",
        "cross-entropy and KL to the whole at temperature 1, one to one, as in their code for smaller models "
        "(plm_pruning). The branch get_activations distils in place too, with a weight w for KL, 1 - w for "
        "cross-entropy, and a temperature, all given by the caller: one to one is w = .5 but for a factor",
        "LoRA beside every linear layer of the blocks, their defaults; the released configuration has it at query, key "
        "and value alone, and dropout of .05 in it, here none. Neither embeddings nor the head are adapted",
        "AdamW with beta2 .999 and a linear decay (theirs .95 and a cosine)",
        "importance: channels by what norms give out, neurons where the down projection reads (theirs: before the "
        "activation), heads by what the output projection reads, blocks by the loss without them; on the first four "
        "training batches (2,048 tokens). Their branch records these activations and leaves single blocks out, but "
        "has no script that turns them into an order",
        "sampling: their stratified one of 20 ranges, not their default; their fixed grid of 21 networks is left out",
        "no comparison with masks of 2:4, which their library has, nor with all weights trained (rank 0)",
        "query heads of each key/value head from 1 to all; key/value heads all stay; channels and neurons are "
        "multiples of 8, channels at least 32 as theirs",
        "one size is wanted, so every network tried has as many neurons as fit into it: 59 shapes in all, of which 12 "
        "are tried, as each arm's search on its own seed. Theirs is a search for a front of sizes, random by default, "
        "of 100 networks. With so few shapes a check of the search against random draws would decide nothing",
    ),
)

BATCHES = 4  # on which importance is measured
TRIES = 200  # draws for one sub-network of the right size


def recipe(
    model: nn.Module,
    setting: Any,
    seed: int,
    rate: float,
    *,
    share: float = 0.6,
    rank: int = 32,
    scale: float = 0.5,
    order: Literal["importance", "units", "given", "random"] = "importance",
    sampling: Literal["calibrated", "uniform"] = "calibrated",
    training: Literal["sandwich", "standard", "found"] = "sandwich",
    distil: bool = True,
    networks: int = 2,
    search: Literal["local", "random", "blocks"] = "local",
    evaluations: int = 12,
) -> Tuned:
    """The sub-network that the search found, as a model of its own.

    share: of the model's parameters that may stay, above 0 and at most 1, which leaves nothing to search. rank, scale:
    of LoRA's matrices beside every linear layer of the blocks; rank 0 trains all weights. order: "units" leaves blocks
    as they come, "given" all; "random" draws both. training: "standard" tunes the whole network alone; "found" searches
    first and tunes what was found alone, distilled from the setting's teacher. networks: drawn in a step. search:
    "blocks" tries every choice of as many whole blocks as fit. evaluations: that the other searches may ask for. Raises
    ValueError for a share that no sub-network has.
    """
    if not 0 < share <= 1 or evaluations < 1 or rank < 0:
        raise ValueError(
            f"share={share} is above 0 and at most 1, evaluations={evaluations} at least 1, rank={rank} 0+"
        )
    space = Space(shapes_of(model))
    limit = int(share * space.shapes.parameters(space.shapes.whole))
    whole, blocks = _sorted(model, setting, seed, order)

    def best_of(source: nn.Module) -> nn.Module:
        def evaluate(config: Config, chosen: tuple[int, ...] = blocks) -> float:
            return setting.validate(extracted(source, config, chosen))

        if share == 1:
            return extracted(source, space.shapes.whole, blocks)
        if search == "blocks":
            return extracted(source, *fewer_blocks(space, limit, evaluate))
        draw = random.Random(f"search {seed}")  # its own stream: arms that train otherwise search alike
        return extracted(source, searched(space, limit, evaluate, evaluations, draw, local=search == "local"), blocks)

    if training == "found":
        whole = best_of(whole)
        space = Space(shapes_of(whole))
        blocks = tuple(range(space.shapes.blocks))
    network = SuperNetwork(whole, blocks, rank, scale)
    trained = _Sandwich(
        network, setting, space, random.Random(f"training {seed}"), training, networks, distil,
        sampling == "calibrated", rate=rate, seed=seed,
    )  # fmt: skip
    for step in range(setting.steps):
        trained.step(step / setting.steps)
    merged = network.merged().eval()
    count = sum(parameter.numel() for parameter in trained.parameters)
    return Tuned(merged if training == "found" else best_of(merged), rate, {}, trained.done, count)


def _sorted(model: nn.Module, setting: Any, seed: int, order: str) -> tuple[nn.Module, tuple[int, ...]]:
    shapes = shapes_of(model)
    sizes = (shapes.channels,), (shapes.blocks, shapes.heads), (shapes.blocks, shapes.neurons), (shapes.blocks,)
    if order == "given":
        return ordered(model, Importance(*map(torch.ones, sizes)))
    if order == "random":
        draw = torch.Generator().manual_seed(seed)
        return ordered(model, Importance(*(torch.rand(size, generator=draw) for size in sizes)))
    model.eval()
    found = importance(model, [inputs for inputs, _ in islice(setting.batches(seed), BATCHES)])
    return ordered(model, replace(found, blocks=torch.ones(sizes[3])) if order == "units" else found)


class SuperNetwork(nn.Module):
    """A model with LoRA's matrices, read as any of its sub-networks. rank 0: its own weights are trained instead."""

    def __init__(self, model: nn.Module, blocks: tuple[int, ...], rank: int, scale: float) -> None:
        super().__init__()
        self.model, self.blocks, self.scale = model, blocks, scale
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for name, linear in block_linears(model).items() if rank else ():
            self.a[name.replace(".", "-")] = nn.Parameter(nn.Linear(linear.in_features, rank, bias=False).weight.data)
            self.b[name.replace(".", "-")] = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        model.requires_grad_(not rank)

    def weights(self) -> dict[str, Tensor]:
        """Of the whole network by name, with what LoRA adds."""
        found: dict[str, Tensor] = dict(self.model.named_parameters())
        for key, a in self.a.items():
            name = f"{key.replace('-', '.')}.weight"
            found[name] = found[name] + self.scale * self.b[key] @ a
        return found

    def merged(self) -> nn.Module:
        """The whole network as an ordinary model."""
        made = copy.deepcopy(self.model).requires_grad_(True)
        with torch.no_grad():
            for name, weight in self.weights().items():
                made.get_parameter(name).copy_(weight)
        return made


class _Sandwich(Training):
    """Training of several sub-networks in each step."""

    def __init__(
        self, network: SuperNetwork, setting: Any, space: Space, draw: random.Random, training: str, networks: int,
        distil: bool, calibrated: bool, *, rate: float, seed: int,
    ) -> None:  # fmt: skip
        asks = ("teacher", "labels") if training == "found" and distil else ("student", "labels")
        super().__init__(network, setting, cross_entropy, rate=rate, seed=seed, asks=asks)
        self.network, self.space, self.draw, self.sandwich = network, space, draw, training == "sandwich"
        self.networks, self.distil, self.source = networks, distil, Strata(space) if calibrated else space

    def _loss(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        weights, labels = self.network.weights(), labels.flatten()

        def logits(config: Config) -> Tensor:
            return sliced(self.network.model, weights, config, self.network.blocks, inputs).float().flatten(0, -2)

        whole = logits(self.space.shapes.whole)
        total = F.cross_entropy(whole, labels)
        if said := self._teacher(inputs):
            total = total + _kl(said["teacher"], whole)
        drawn = [self.source.draw(self.draw) for _ in range(self.networks)] if self.sandwich else []
        for config in (*drawn, self.space.smallest) if self.sandwich else ():
            student = logits(config)
            total = total + F.cross_entropy(student, labels)
            if self.distil:
                total = total + _kl(whole.detach(), student)
        return total


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Of logits (n, classes), a mean over n."""
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")


def fewer_blocks(space: Space, limit: int, evaluate: Any) -> tuple[Config, tuple[int, ...]]:
    """The best network of as many whole blocks as `limit` parameters allow, of all choices; and those blocks."""
    channels, count, repeats, neurons = space.shapes.whole
    fit = [n for n in range(1, count + 1) if space.shapes.parameters((channels, n, repeats, neurons)) <= limit]
    if not fit:
        raise ValueError(f"no block fits into {limit} parameters; the whole has {_size(space)}")
    config = channels, fit[-1], repeats, neurons
    return config, max(combinations(range(count), fit[-1]), key=lambda chosen: evaluate(config, chosen))


def _size(space: Space) -> int:
    return space.shapes.parameters(space.shapes.whole)


def searched(space: Space, limit: int, evaluate: Any, budget: int, draw: random.Random, *, local: bool) -> Config:
    """The best of `budget` sub-networks of at most `limit` parameters: a third drawn, then neighbours of the best,
    which have another number of channels, blocks or heads; or all drawn. What is found twice counts twice.

    Raises ValueError where none of that size is found.
    """
    found: dict[Config, float] = {}
    for number in range(budget):
        config = None
        for _ in range(TRIES):
            fresh = space.draw(draw)
            if local and number >= max(1, budget // 3):
                best, place = max(found, key=found.__getitem__), draw.randrange(3)
                fresh = (*best[:place], fresh[place], *best[place + 1 :])  # type: ignore[assignment]
            config = space.filled(fresh, limit)
            if config is not None and config not in found:
                break
        if config is None:
            if not found:
                raise ValueError(f"no sub-network has {limit} parameters; the whole has {_size(space)}")
            continue
        if config not in found:
            found[config] = evaluate(config)
    return max(found, key=found.__getitem__)
