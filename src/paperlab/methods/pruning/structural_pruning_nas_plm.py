"""Structural pruning by architecture search: one fine-tuning trains all sub-networks, a search then picks a front.

    sub-network   (layers, heads, units): the first of each, the same in every layer
    train, "full" L = CE(whole) + sum over two random ones and the smallest of  CE(s) + CE(s, whole)
    search        by (share of parameters, error on validation data), at the shared weights, with no training:
                  a neighbour of a member of the front, that is one of its three numbers drawn anew

Klein, Golebiowski, Ma, Perrone and Archambeau, "Structural pruning of pre-trained language models via neural
architecture search", arXiv 2405.02267. Code read: whittle-org/plm_pruning@1ea930f (train_supernet.py,
search_spaces.py, local_search.py, run_offline_search.py) and the training strategies of whittle-org/whittle.
"""

import random
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.elastic import Config, Front, Member, Space, active, sizes_of
from paperlab.kit.tuning import Batch, Training, Tuned, cross_entropy, logits_of

CARD = Card(
    family="pruning",
    paper="structural-pruning-nas-plm",
    sources=("abstract", "code"),
    configuration="jobs/experiment_configs.py: search space small, strategy full",
    task="cls_elastic",
    metric="hypervolume",
    expect="higher",
    margin=0.02,
    method=Arm("structural-pruning-nas-plm"),
    equal={"compute": 0.1},
    gap="Theirs: BERT and RoBERTa, eight data sets, five epochs in batches of 4, 100 networks tried, sizes of the "
    "whole model. Here: four upper blocks of MiniLM, questions in 42 classes, each arm the compute of 230 training "
    "steps of the whole network, 24 networks tried, sizes of those blocks. The super-network gets some 118 steps of "
    "16 texts, .6 epochs and not five, while the pruned networks' only training, of the whole, gets some 200: an arm "
    "that trains one size is favoured. At temperature 10, with 50 networks, a trial on seed 7 had it behind retrained "
    "pruning by .773 to .835, which is a question here. A pass says nothing of latency, nor of more training.",
    checks=(
        Check(
            claim="better-front-than-fixed-thresholds",
            says="One super-network and its search give better trade-offs of size and error than pruning heads and "
            "units by importance at fixed thresholds, without retraining (the paper: a more flexible set of "
            "trade-offs; no figure in its abstract). Compute is equal. Beside: each pruned network retrained, and "
            "layers dropped, each depth trained.",
            baseline=Arm("importance-pruning", retrain=0.0),
            trivial=Arm("structural-pruning-nas-plm", training="standard"),
            beside=(Arm("importance-pruning"), Arm("separate-networks", depths=True)),
        ),
        Check(
            claim="cheaper-than-training-each",
            says="At equal compute sharing weights gives a better front than standard search, which fine-tunes every "
            "network that it tries by itself.",
            baseline=Arm("separate-networks"),
        ),
        Check(
            claim="better-than-retrained-pruning",
            says="Is the front better than that of importance pruning where each pruned network is retrained?",
            baseline=Arm("importance-pruning"),
            role="question",
        ),
        Check(
            claim="better-than-gradual-pruning",
            says="Is the front better than that of importance pruning where each network starts from the next larger?",
            baseline=Arm("importance-pruning", gradual=True),
            role="question",
        ),
        Check(
            claim="half-size-as-accurate",
            says="Where half of the blocks' parameters may stay, is it more accurate than importance pruning to half?",
            metric="accuracy_50",
            baseline=Arm("importance-pruning"),
            beside=(Arm("importance-pruning", gradual=True), Arm("separate-networks")),
            role="question",
        ),
        Check(
            claim="local-better-than-random-search",
            says="Does local search find a better front than random draws, of as many networks tried at the same "
            "shared weights?",
            baseline=Arm("structural-pruning-nas-plm", search="random"),
            equal={"steps": 0.0, "evaluations": 0.0},
            role="question",
        ),
        Check(
            claim="better-than-plain-fine-tuning",
            says="Do sub-networks have to be trained: is the front better than one searched in a network that was "
            "fine-tuned as a whole alone?",
            baseline=Arm("structural-pruning-nas-plm", training="standard"),
            role="question",
        ),
    ),
    departs=(
        "the paper's text was not at hand beyond its introduction: which pruning methods it compares with, and its "
        "figures, were not read. Its introduction cites Michel et al. (2019) and Kwon et al. (2022), who prune without "
        "retraining; the former's importance, for heads and units, stands for both",
        "distillation at temperature 1, which their program runs: the temperature of its arguments is never read",
        "at the commit that was read, a network with some of its heads has all of them and only fewer parameters by "
        "count: masks reach feed-forward units, and attention where no head is left. Here the other heads are gone",
        "they count a layer's output projection whole as long as one head is left; here its columns go with the heads",
        "the smallest network of a training step has one layer, head and unit, as their search space says; the "
        "library's sampler takes none of the layers. The space begins at one layer too",
        "hypervolume on test data of the front that validation data chose, from a tenth of the parameters, reference "
        "point (1, 1); theirs is of validation figures as quantiles over all methods, reference point (2, 2)",
        "the length of training is what the compute leaves after the search, which tries 24 networks and not 100; "
        "AdamW without weight decay",
        "of their strategies random_linear and kd are left out, of their spaces medium, layer and large, of their "
        "searches NSGA-II, MO-REA, EHVI and Bayesian ones",
    ),
)


def recipe(
    model: nn.Module,
    setting: Any,
    seed: int,
    rate: float,
    *,
    training: Literal["full", "sandwich", "random", "standard"] = "full",
    search: Literal["local", "random"] = "local",
    evaluations: int = 24,
    networks: int = 2,
    temperature: float = 1.0,
) -> Tuned:
    """The copy, trained as a super-network, and the front that the search found in it.

    The setting's steps are the compute of training and search, in steps of the whole network; `validation_steps`, if
    it has it, is what validating the whole network takes of them. training: which networks a step trains: the whole,
    `networks` random ones and the smallest ("sandwich"), distilled from the whole ("full"); one "random" one; or the
    whole alone ("standard"). evaluations: networks that the search tries, at least 4. temperature: of distillation.
    """
    if evaluations < 4 or networks < 0 or not temperature > 0:
        raise ValueError(
            f"evaluations={evaluations} is 4 or more, networks={networks} 0 or more, temperature={temperature} above 0"
        )
    sizes = sizes_of(model)
    space, draw = Space(sizes), random.Random(seed)
    once = float(getattr(setting, "validation_steps", 0.0))
    shares = [sizes.share(space.network(space.draw(random.Random(number)))) for number in range(200)]
    budget = setting.steps - evaluations * once * sum(shares) / len(shares)
    if budget <= 0:
        raise ValueError(f"evaluations={evaluations}: trying so many networks leaves nothing of {setting.steps} steps")
    trained = _SuperNetwork(model, setting, space, draw, training, networks, temperature, rate=rate, seed=seed)
    while trained.compute < budget:
        trained.step(trained.compute / budget)
    model.eval()
    compute = trained.compute

    def evaluate(config: Config) -> tuple[float, float]:
        nonlocal compute
        network = space.network(config)
        compute += once * sizes.share(network)
        with active(model, network):
            return sizes.share(network), 1 - setting.validate(model)

    found = searched(space, evaluate, evaluations, draw, local=search == "local")
    members = [Member(share, 1 - error, model, space.network(config)) for config, (share, error) in found.items()]
    count = sum(parameter.numel() for parameter in trained.parameters)
    return Tuned(Front(members, compute, evaluations), rate, {}, trained.done, count)


class _SuperNetwork(Training):
    """Training of several sub-networks in each step. compute: spent so far, in steps of the whole network."""

    def __init__(
        self, model: nn.Module, setting: Any, space: Space, draw: random.Random, strategy: str, networks: int,
        temperature: float, *, rate: float, seed: int,
    ) -> None:  # fmt: skip
        super().__init__(model, setting, cross_entropy, rate=rate, seed=seed, asks=("student", "labels"))
        self.space, self.draw, self.strategy, self.networks = space, draw, strategy, networks
        self.temperature, self.compute = temperature, 0.0

    def _loss(self, inputs: Batch, labels: Tensor, share: float) -> Tensor:
        labels = labels.flatten()
        if self.strategy == "random":
            return F.cross_entropy(self._logits(inputs, self.space.draw(self.draw)), labels)
        whole = self._logits(inputs, self.space.most)
        total = F.cross_entropy(whole, labels)
        if self.strategy == "standard":
            return total
        configs = [self.space.draw(self.draw) for _ in range(self.networks)]
        for config in (*configs, (1, 1, 1)):
            logits = self._logits(inputs, config)
            total = total + F.cross_entropy(logits, labels)
            if self.strategy == "full":
                total = total + distillation(logits, whole.detach(), self.temperature)
        return total

    def _logits(self, inputs: Batch, config: Config) -> Tensor:
        network = self.space.network(config)
        self.compute += self.space.sizes.share(network)
        with active(self.model, network):
            return logits_of(self.model, inputs).float().flatten(0, -2)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the cross-entropy of both at temperature T. student, teacher: logits (n, classes)."""
    return temperature**2 * F.cross_entropy(student / temperature, (teacher / temperature).softmax(-1))


def searched(
    space: Space, evaluate: Callable[[Config], tuple[float, float]], budget: int, draw: random.Random, *, local: bool
) -> dict[Config, tuple[float, float]]:
    """What was tried, with its costs, both to be low: the space's corners, a random one, then either neighbours of
    random members of the front, or random ones. Trying one again counts, and gives what it gave."""
    found: dict[Config, tuple[float, float]] = {}
    for number in range(budget):
        if number < len(space.corners):
            config = space.corners[number]
        elif number == len(space.corners) or not local:
            config = space.draw(draw)
        else:
            config = space.neighbour(draw.choice(efficient(found)), draw)
        found[config] = evaluate(config)
    return found


def efficient(found: dict[Config, tuple[float, float]]) -> list[Config]:
    """Those than which no other is as good in both costs and better in one, in the order in which they were tried; of
    equal ones the first."""
    costs = torch.tensor(list(found.values()), dtype=torch.float64)
    worse = (costs[:, None] >= costs).all(-1) & (costs[:, None] > costs).any(-1)
    front = (config for config, beaten in zip(found, worse.any(1).tolist(), strict=True) if not beaten)
    first: dict[tuple[float, float], Config] = {}
    for config in front:
        first.setdefault(found[config], config)
    return list(first.values())
