"""Merging sentence encoders that were tuned from one: how well does what comes out still do the tasks?

MiniLM's upper two blocks are tuned on labelled texts; the lower four stay as they are, so that their output is
computed once. A task's own linear head stands on the mean over tokens and is not merged (but in "sweep", below).
What is merged, by `data`:

    tasks              one model for each of three tasks: movie reviews, questions, messages (the default)
    apart              the same three models side by side as one: each task is read by its own blocks. For methods that
                       prune what one model learnt: nothing of one task meets another
    movie-reviews      one model, tuned on that task; also questions, messages
    ...-large          the same, tuned with a larger learning rate, so that it moved farther from the base
    sweep              runs on movie reviews with other learning rates, epochs and orders, from one head that was fitted
                       to the untouched encoder; blocks and head are merged. Also judged on product reviews, of which
                       no run saw any

The seed draws training and validation texts, heads and orders; the test texts are the same for all seeds.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.labelled import labelled
from paperlab.assets.loading import load_encoder
from paperlab.core.task import Metric
from paperlab.kit.merging import Merged

VERSION = 1
SCORES = ("Merged",)
SUPPLIES = ("base", "models", "validate", "distance")
AXES = ("bytes", "models", "density")
TIMED = False
METRICS = {
    "accuracy": Metric("higher", "correct"),
    "error": Metric("lower", "wrong"),
    "cross_entropy": Metric("lower", "nats"),
    "shifted_error": Metric("lower", "wrong_shifted"),
    "accuracy_movie_reviews": Metric("higher", "correct_movie_reviews"),
    "accuracy_questions": Metric("higher", "correct_questions"),
    "accuracy_messages": Metric("higher", "correct_messages"),
}
PAIRED_BY = "items"
DRAWS = True  # the seed draws the models themselves, so that every arm depends on it
COST = {"quick": 120, "full": 1500}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS = ("minilm-l6",)
ARM_SECONDS = {"minilm-l6": 4}
DATA = {
    "movie-reviews": "sentences of film reviews that people marked as clearly good or bad (Hutto and Gilbert 2014, "
    "after Pang and Lee 2005), from a pinned package",
    "questions": "questions by what they ask for, six classes (TREC; Li and Roth 2002), from the same package",
    "messages": "short messages, spam or not (Almeida, Hidalgo and Yamakami 2011), from the same package",
    "product-reviews": "sentences of product reviews, marked as the films' (Hutto and Gilbert 2014), same package",
}

TASKS = ("movie-reviews", "questions", "messages")
SHIFTED = "product-reviews"
CARRIED = {"messages": "sms", "product-reviews": "amazon-reviews"}  # the package's names, where records have another
TUNED = 2  # upper blocks
LENGTH = 32  # tokens of a text that are read
TEST, VALIDATION = 300, 150  # texts of each task
TRAIN = {"quick": 800, "full": 4000, "gpu": 4000}
BATCH = 16
WARMUP = 0.06
DECAY = 0.01
RATE, LARGE = 3e-4, 1e-3  # of the three tried on a seed that no check uses, the two best on validation texts
# Runs of the sweep: learning rate, epochs. Each has an order of its own.
SWEEP = ((2e-4, 1), (3e-4, 1), (5e-4, 1), (5e-4, 2), (1e-3, 1))
SCALES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # tried by every method that has such a factor; those of DARE's code
STRIDE = 100  # texts that are read together


class Top(nn.Module):
    """The tuned blocks: states of the block below (n, t, width) and a mask (n, t) -> means over tokens (n, width)."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(copy.deepcopy(block) for block in blocks)

    def states(self, states: Tensor, mask: Tensor) -> Tensor:
        """The last block's output (n, t, width)."""
        return _through(self.blocks, states, mask)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Means over the tokens of each text (n, width)."""
        share = mask[..., None].float()
        return (self.states(states, mask) * share).sum(1) / share.sum(1)


class Reader(nn.Module):
    """What is merged: the blocks by the name of who reads with them, and heads where these are merged too."""

    def __init__(self, tops: dict[str, Top], heads: dict[str, nn.Linear] | None = None) -> None:
        super().__init__()
        self.tops, self.heads = nn.ModuleDict(tops), nn.ModuleDict(heads or {})


class Texts(NamedTuple):
    """States of the last frozen block (n, t, width) float16, mask (n, t) bool, labels (n,) int64."""

    states: Tensor
    mask: Tensor
    labels: Tensor

    def rows(self, rows: Tensor) -> "Texts":
        """Those texts."""
        return Texts(self.states[rows], self.mask[rows], self.labels[rows])

    def cut(self) -> "Texts":
        """Without the columns that are padding in every text."""
        width = int(self.mask.any(0).sum())
        return Texts(self.states[:, :width].float(), self.mask[:, :width], self.labels)


@dataclass
class Part:
    """One task. top: whose blocks read it. head: its own, or None where the reader holds it."""

    name: str
    top: str
    head: nn.Linear | None
    validation: Texts
    test: Texts
    unlabelled: Texts
    shifted: Texts | None = None

    @torch.no_grad()
    def logits(self, reader: Any, texts: Texts) -> Tensor:
        """(n, classes); texts of like length are read together."""
        top, head = reader.tops[self.top], self.head or reader.heads[self.name]
        order = texts.mask.sum(1).argsort(stable=True)
        found = []
        for rows in order.split(STRIDE):
            some = texts.rows(rows).cut()
            found.append(head(top(some.states, some.mask)))
        return torch.cat(found)[order.argsort()]


@dataclass
class Setting:
    """base: what all began as. models: what is merged. parts: the tasks, each with its texts."""

    base: nn.Module
    models: list[Any]
    parts: list[Part]
    about: dict[str, Any]
    scales: tuple[float, ...] = ()
    seen: dict[str, Tensor] = field(default_factory=dict)

    def validate(self, model: Any) -> float:
        """Mean over the tasks of the accuracy on validation texts."""
        right = [
            (part.logits(model, part.validation).argmax(1) == part.validation.labels).double().mean().item()
            for part in self.parts
        ]
        return sum(right) / len(right)

    @torch.no_grad()
    def distance(self, model: Any) -> float:
        """Mean absolute difference between the last states of `model` and of the first tuned model, over the tokens of
        training texts, whose labels are not looked at."""
        far = []
        for part in self.parts:
            some = part.unlabelled.cut()
            ours = model.tops[part.top].states(some.states, some.mask)[some.mask]
            if part.name not in self.seen:
                self.seen[part.name] = self.models[0].tops[part.top].states(some.states, some.mask)[some.mask]
            far.append((ours - self.seen[part.name]).abs().mean().item())
        return sum(far) / len(far)


@dataclass
class _Maker:
    """What all siblings of one seed have in common."""

    seed: int
    scale: str
    encoder: Any
    tokenizer: Any
    model: str  # hash
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.encoder.encoder.layer[-TUNED:])

    def top(self) -> Top:
        """The untouched upper blocks."""
        return Top(self.blocks).eval()

    def texts(self, name: str) -> tuple[Texts, int]:
        """The first texts of a data set, in an order that is always the same, as the frozen blocks leave them; and how
        many classes there are."""
        known = labelled(CARRIED.get(name, name))
        kinds = [label.split(":")[0] for label in known.labels]
        names = sorted(set(kinds))
        count = TEST + (0 if name == SHIFTED else VALIDATION + TRAIN[self.scale])
        order = torch.randperm(len(kinds), generator=torch.Generator().manual_seed(0))[:count].tolist()
        self.digests[name] = known.sha256

        def read() -> dict[str, Tensor]:
            states, mask = _frozen(self.encoder, self.tokenizer, [known.texts[row] for row in order])
            return {"states": states, "mask": mask}

        key = {"model": self.model, "data": known.sha256, "count": count, "threads": torch.get_num_threads()}
        kept = cached_tensors("merge_text", key, read, code=__file__)
        labels = torch.tensor([names.index(kinds[row]) for row in order])
        return Texts(kept["states"], kept["mask"], labels), len(names)

    def split(self, texts: Texts) -> tuple[Texts, Texts, Texts]:
        """Training, validation and test texts; the last are the first ones, for all seeds."""
        draw = torch.Generator().manual_seed(self.seed)
        rest = TEST + torch.randperm(len(texts.labels) - TEST, generator=draw)
        return texts.rows(rest[VALIDATION:]), texts.rows(rest[:VALIDATION]), texts.rows(torch.arange(TEST))

    def part(self, name: str, top: str, rate: float) -> tuple[Part, Top]:
        """A task and the blocks that were tuned on it, with its head in the task."""
        texts, classes = self.texts(name)
        train, validation, test = self.split(texts)

        weights = self.kept(
            name, {"rate": rate}, lambda: _tune(self.top(), self.head(classes), train, rate, 1, self.seed)
        )
        tuned, head = self.top(), self.head(classes)
        _load(tuned, head, weights)
        unlabelled = train.rows(torch.arange(64))
        return Part(name, top, head, validation, test, unlabelled), tuned

    def head(self, classes: int) -> nn.Linear:
        """A fresh head, drawn by the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return nn.Linear(self.encoder.config.hidden_size, classes)

    def kept(self, name: str, what: dict[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Weights tuned on a data set, made once for each seed."""
        key = {"model": self.model, "data": self.digests[name], "seed": self.seed, "scale": self.scale}
        key |= {**what, "threads": torch.get_num_threads()}
        return cached_tensors("merge_text", key, make, code=__file__)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The base and what was tuned from it, once for each seed, kept in the cache; with the texts to judge by.

    Raises ValueError for other data than the module's text names, and for a model that is not of BERT's layout.
    """
    allowed = ("tasks", "apart", *TASKS, *(f"{name}-large" for name in TASKS), "sweep")
    data = data or "tasks"
    if data not in allowed:
        raise ValueError(f"no data {data!r}; this task merges what was tuned on {', '.join(allowed)}")
    encoder, tokenizer, provenance = load_encoder(model or MODELS[0])
    if len(getattr(getattr(encoder, "encoder", None), "layer", ())) <= TUNED:
        raise ValueError(f"{model} has not BERT's layout with more than {TUNED} blocks; give an encoder that has")
    maker = _Maker(seed, scale, encoder, tokenizer, provenance["sha256"])
    if data == "sweep":
        base, models, parts = _sweep(maker)
    else:
        names = TASKS if data in ("tasks", "apart") else (data.removesuffix("-large"),)
        rate = LARGE if data.endswith("-large") else RATE
        made = [maker.part(name, name if data == "apart" else "all", rate) for name in names]
        parts = [part for part, _ in made]
        if data == "apart":
            base = Reader({name: maker.top() for name in names})
            models = [Reader({part.name: top for part, top in made})]
        else:
            base, models = Reader({"all": maker.top()}), [Reader({"all": top}) for _, top in made]
    digest = hashlib.sha256("\n".join(f"{k} {v}" for k, v in sorted(maker.digests.items())).encode()).hexdigest()
    about = {"model": provenance["id"], "provenance": provenance, "data": {"id": data, "sha256": digest}}
    return Setting(
        base=base.eval(), models=[one.eval() for one in models], parts=parts, about=about,
        scales=SCALES if data == "tasks" else (),
    )  # fmt: skip


def _sweep(maker: _Maker) -> tuple[nn.Module, list[nn.Module], list[Part]]:
    """Runs on one task from one head, that was fitted to the untouched encoder."""
    name = TASKS[0]
    texts, classes = maker.texts(name)
    shifted, _ = maker.texts(SHIFTED)
    train, validation, test = maker.split(texts)

    def probe() -> dict[str, Tensor]:
        head = maker.head(classes)
        _fit_head(maker.top(), head, train)
        return {f"head.{key}": value for key, value in head.state_dict().items()}

    probed = maker.kept(name, {"what": "probe"}, probe)
    models: list[nn.Module] = []
    for number, (rate, epochs) in enumerate(SWEEP):

        def tune(rate: float = rate, epochs: int = epochs, number: int = number) -> dict[str, Tensor]:
            top, head = maker.top(), maker.head(classes)
            _load(top, head, {**_named(top, head), **probed})
            return _tune(top, head, train, rate, epochs, 100 * (maker.seed + 1) + number)

        weights = maker.kept(name, {"rate": rate, "epochs": epochs, "run": number}, tune)
        top, head = maker.top(), maker.head(classes)
        _load(top, head, weights)
        models.append(Reader({"all": top}, {name: head}))
    top, head = maker.top(), maker.head(classes)
    _load(top, head, {**_named(top, head), **probed})
    part = Part(name, "all", None, validation, test, train.rows(torch.arange(64)), shifted)
    return Reader({"all": top}, {name: head}), models, [part]


def _named(top: Top, head: nn.Linear) -> dict[str, Tensor]:
    tops = {f"top.{key}": value for key, value in top.state_dict().items()}
    return {**tops, **{f"head.{key}": value for key, value in head.state_dict().items()}}


def _load(top: Top, head: nn.Linear, weights: dict[str, Tensor]) -> None:
    for module, prefix in ((top, "top."), (head, "head.")):
        module.load_state_dict({key: weights[prefix + key] for key in module.state_dict()})


def _tune(top: Top, head: nn.Linear, train: Texts, rate: float, epochs: int, seed: int) -> dict[str, Tensor]:
    """AdamW with warm-up and linear decay, dropout as the encoder has it, as BERT is fine-tuned in DARE's code."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parameters = [*top.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, rate, weight_decay=DECAY)
        steps, done = epochs * -(-len(train.labels) // BATCH), 0
        top.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(train.labels)).split(BATCH):
                for group in optimizer.param_groups:
                    group["lr"] = rate * min((done + 1) / (WARMUP * steps), 1) * (1 - done / steps)
                some = train.rows(rows).cut()
                loss = F.cross_entropy(head(top(some.states, some.mask)), some.labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                done += 1
        top.eval()
    return _named(top, head)


def _fit_head(top: Top, head: nn.Linear, train: Texts) -> None:
    """A linear probe of the untouched encoder, by full-batch descent."""
    with torch.no_grad():
        parts = [train.rows(rows).cut() for rows in torch.arange(len(train.labels)).split(STRIDE)]
        vectors = torch.cat([top(part.states, part.mask) for part in parts])
    optimizer = torch.optim.AdamW(head.parameters(), 1e-2, weight_decay=DECAY)
    for _ in range(200):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(head(vectors), train.labels).backward()
        optimizer.step()


def _through(blocks: Any, states: Tensor, mask: Tensor) -> Tensor:
    """Blocks of BERT's layout on states (n, t, width), tokens of padding left out of attention."""
    bias = (~mask)[:, None, None].float() * torch.finfo(torch.float32).min
    for block in blocks:
        states = block(states, attention_mask=bias)
        states = states[0] if isinstance(states, tuple) else states
    return states


@torch.no_grad()
def _frozen(encoder: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """States of the last block that stays as it is, (n, LENGTH, width) float16, and the mask (n, LENGTH)."""
    width = encoder.config.hidden_size
    states = torch.zeros(len(texts), LENGTH, width, dtype=torch.float16)
    mask = torch.zeros(len(texts), LENGTH, dtype=torch.bool)
    order = sorted(range(len(texts)), key=lambda row: (len(texts[row]), row))
    for at in range(0, len(order), STRIDE):
        rows = order[at : at + STRIDE]
        some = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        inside = some["attention_mask"].bool()
        out = _through(encoder.encoder.layer[:-TUNED], encoder.embeddings(input_ids=some["input_ids"]), inside)
        states[rows, : out.shape[1]], mask[rows, : out.shape[1]] = out.half(), inside
    return states, mask


def describe(setting: Setting) -> dict[str, Any]:
    """Model and data with their hashes, counts, and how far the models moved from the base."""
    start = setting.base.state_dict()
    far = [
        torch.cat([(value - start[name]).abs().flatten() for name, value in model.state_dict().items()])
        for model in setting.models
    ]
    return {
        **setting.about,
        "tasks": [part.name for part in setting.parts],
        "models": len(setting.models),
        "mean_change": sum(one.mean().item() for one in far) / len(far),
        "validation": VALIDATION,
        "test": TEST,
        "scales": list(setting.scales),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """Number of items: one holds a test text of every task."""
    return TEST


def totals(arm: Merged, setting: Setting) -> dict[str, float]:
    """models that went in, bytes of the one that came out, the share of its weights that differ from the base's, and
    the factor where one was chosen."""
    start = setting.base.state_dict()
    state = arm.model.state_dict()
    count = sum(value.numel() for value in state.values())
    moved = sum(int((value != start[name]).sum()) for name, value in state.items())
    found = {"models": float(arm.models), "bytes": 4.0 * count, "density": moved / count}
    return found if arm.scale is None else {**found, "scale": arm.scale}


def score(arm: Merged, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """correct: share of an item's texts that are classified right, wrong: of the others; nats: mean negative
    log-likelihood of the right classes; correct_questions and so on: whether that task's text is right; wrong_shifted:
    whether the text of another domain is not (sweep)."""
    columns: dict[str, list[float]] = {}
    nats = torch.zeros(TEST, dtype=torch.float64)
    for part in setting.parts:
        logits = part.logits(arm.model, part.test).double()
        nats += F.cross_entropy(logits, part.test.labels, reduction="none") / len(setting.parts)
        right = (logits.argmax(1) == part.test.labels).double()
        columns[f"correct_{part.name.replace('-', '_')}"] = right.tolist()
    correct = torch.tensor(list(columns.values()), dtype=torch.float64).mean(0)
    columns |= {"correct": correct.tolist(), "wrong": (1 - correct).tolist(), "nats": nats.tolist()}
    for part in setting.parts:
        if part.shifted is not None:
            wrong = part.logits(arm.model, part.shifted).argmax(1) != part.shifted.labels
            columns["wrong_shifted"] = wrong.double().tolist()
    for item in range(start, items(setting)):
        yield {name: column[item] for name, column in columns.items()}
