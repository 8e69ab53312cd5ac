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
from itertools import islice
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
    gap="Theirs: Llama of 8 billion parameters, instructions, MMLU and the like, latency of a device. Here: 6 million "
    "parameters in 6 blocks of 4 heads, perplexity, one size (three fifths). As many tokens for all: at quick 12 "
    "thousand in 24 steps, which is little for a super-network and favours arms that tune one size; at full 300 steps. "
    "A step that tunes four networks takes 3 to 4 times as long, and one such training would serve every size: neither "
    "is counted. With LoRA on seed 100 its validation loss was that of the cut network at 24 steps (3.89 nats), and "
    "fell no further by 96, where the cut network had 3.78. Speed is not measured: at one size and shape it is that of "
    "the parameters.",
    checks=(
        Check(
            claim="better-than-width-pruning",
            says="The sub-network that the search finds is better than one cut by importance to a fixed shape and "
            "tuned on as many tokens (the paper: up to 3.4 % more on MMLU than structural pruning). The shape is the "
            "better of two tried on seed 100, with nearly all channels; the even one stands beside.",
            baseline=Arm("lora", rank=32, scale=0.5, after=Arm("minitron", width=0.9375, inner=0.396)),
            beside=(
                Arm("lora", rank=32, scale=0.5, after=Arm("minitron", width=0.7813, inner=0.604)),
                Arm("minitron", width=0.9375, inner=0.396),
            ),
            trivial=Arm("lora", rank=32, scale=0.5, after=Arm("minitron", width=0.9375, inner=0.396, by="random")),
            ablation=Arm("llm-compression-nas", share=0.591, training="standard"),
        ),
        Check(
            claim="better-than-block-dropping",
            says="It is better than the model without the half of its blocks that it misses least, tuned likewise.",
            baseline=Arm("lora", rank=32, scale=0.5, after=Arm("block-dropping", by="perplexity", sparsity=0.5)),
        ),
        Check(
            claim="importance-better-than-given-order",
            says="Does it help to sort units and blocks by importance before the super-network is tuned?",
            baseline=Arm("llm-compression-nas", share=0.591, order="given"),
            role="question",
        ),
        Check(
            claim="super-network-better-than-plain-tuning",
            says="Is it better than the same search in a network that was tuned as a whole alone?",
            baseline=Arm("llm-compression-nas", share=0.591, training="standard"),
            role="question",
        ),
        Check(
            claim="search-better-than-random-draws",
            says="Does a search around the best find more than as many random draws?",
            baseline=Arm("llm-compression-nas", share=0.591, search="random"),
            role="question",
        ),
        Check(
            claim="better-with-all-weights-trained",
            says="And where all weights are trained, in the cut network with the dense one's logits beside the text?",
            method=Arm("llm-compression-nas", share=0.591, rank=0),
            baseline=Arm("divergence", hard=0.5, after=Arm("minitron", width=0.9375, inner=0.396)),
            role="question",
        ),
        Check(
            claim="better-than-two-of-four",
            says="The authors' library counts masks of 2:4 as structural pruning. Is it better than Wanda's, tuned, "
            "with as many weights that are not zero?",
            method=Arm("llm-compression-nas", share=0.591, rank=0),
            baseline=Arm("fine-tuning", after=Arm("wanda", sparsity=0.5, pattern="2:4")),
            equal={"nonzero": 0.02, "tokens": 0.0},
            role="question",
        ),
    ),
    departs=(
        "the paper's text was not at hand beyond abstract and introduction: which structural pruning it compares with, "
        "its tables and its weights of the distillation were not read",
        "cross-entropy and KL to the whole at temperature 1, equal, as in their code for smaller models (plm_pruning); "
        "the library's strategies have no distillation in place, and its distill.py uses 0.3, 0.7 and temperature 10",
        "LoRA beside every linear layer of the blocks, their defaults; the released configuration has it at query, key "
        "and value alone. Embeddings are not adapted",
        "importance: channels by what norms give out, neurons where the down projection reads (theirs: before the "
        "activation), heads by what the output projection reads, blocks by the loss without them. Their branch records "
        "these activations and leaves single blocks out, but has no script that turns them into an order",
        "sampling: their stratified one of 20 ranges; their fixed grid of 21 networks is left out, and so is a check "
        "of either against uniform draws",
        "key/value heads all stay; channels and neurons are multiples of 8, channels at least 32 as theirs",
        "one size is wanted, so every network tried has as many neurons as fit into it; theirs is a search for a front "
        "of sizes, random by default, of 100 networks, here 16",
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
    order: Literal["importance", "given"] = "importance",
    sampling: Literal["calibrated", "uniform"] = "calibrated",
    training: Literal["sandwich", "standard"] = "sandwich",
    distil: bool = True,
    networks: int = 2,
    search: Literal["local", "random"] = "local",
    evaluations: int = 16,
) -> Tuned:
    """The sub-network that the search found, as a model of its own.

    share: of the model's parameters that may stay, above 0 and below 1. rank, scale: of LoRA's matrices beside every
    linear layer of the blocks; rank 0 trains all weights. order: "given" leaves units and blocks as they come.
    training: "standard" tunes the whole network alone. networks: drawn in a step. evaluations: that the search may
    ask for. Raises ValueError for a share that no sub-network has.
    """
    if not 0 < share < 1 or evaluations < 1 or rank < 0:
        raise ValueError(f"share={share} is above 0 and below 1, evaluations={evaluations} at least 1, rank={rank} 0+")
    space, draw = Space(shapes_of(model)), random.Random(seed)
    whole, blocks = _sorted(model, setting, seed, order)
    network = SuperNetwork(whole, blocks, rank, scale)
    trained = _Sandwich(
        network, setting, space, draw, training == "sandwich", networks, distil, sampling == "calibrated", rate=rate,
        seed=seed,
    )  # fmt: skip
    for step in range(setting.steps):
        trained.step(step / setting.steps)
    merged = network.merged().eval()

    def evaluate(config: Config) -> float:
        return setting.validate(extracted(merged, config, blocks))

    limit = int(share * space.shapes.parameters(space.shapes.whole))
    best = searched(space, limit, evaluate, evaluations, draw, local=search == "local")
    count = sum(parameter.numel() for parameter in trained.parameters)
    return Tuned(extracted(merged, best, blocks), rate, {}, trained.done, count)


def _sorted(model: nn.Module, setting: Any, seed: int, order: str) -> tuple[nn.Module, tuple[int, ...]]:
    shapes = shapes_of(model)
    if order == "given":
        even = Importance(
            torch.ones(shapes.channels), torch.ones(shapes.blocks, shapes.heads),
            torch.ones(shapes.blocks, shapes.neurons), torch.ones(shapes.blocks),
        )  # fmt: skip
        return ordered(model, even)
    model.eval()
    return ordered(model, importance(model, [inputs for inputs, _ in islice(setting.batches(seed), BATCHES)]))


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
        self, network: SuperNetwork, setting: Any, space: Space, draw: random.Random, sandwich: bool, networks: int,
        distil: bool, calibrated: bool, *, rate: float, seed: int,
    ) -> None:  # fmt: skip
        super().__init__(network, setting, cross_entropy, rate=rate, seed=seed, asks=("student", "labels"))
        self.network, self.space, self.draw, self.sandwich = network, space, draw, sandwich
        self.networks, self.distil, self.source = networks, distil, Strata(space) if calibrated else space

    def _loss(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        weights, labels = self.network.weights(), labels.flatten()

        def logits(config: Config) -> Tensor:
            return sliced(self.network.model, weights, config, self.network.blocks, inputs).float().flatten(0, -2)

        whole = logits(self.space.shapes.whole)
        total = F.cross_entropy(whole, labels)
        drawn = [self.source.draw(self.draw) for _ in range(self.networks)] if self.sandwich else []
        for config in (*drawn, self.space.smallest) if self.sandwich else ():
            student = logits(config)
            total = total + F.cross_entropy(student, labels)
            if self.distil:
                total = total + F.kl_div(
                    student.log_softmax(-1), whole.detach().log_softmax(-1), log_target=True, reduction="batchmean"
                )
        return total


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
                raise ValueError(f"no sub-network has {limit} parameters; the whole has {space.shapes.whole}")
            continue
        if config not in found:
            found[config] = evaluate(config)
    return max(found, key=found.__getitem__)
