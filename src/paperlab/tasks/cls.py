"""Fine-tuning a pretrained encoder on text classification: how many held-out texts does it get right?

Every arm starts from the encoder with a head that was fitted to its untouched features (a linear probe), so that an
arm which does nothing has the probe's figure, and adapters, which leave the head as it is, have one that fits. At
`quick` the lower blocks are frozen and their states are computed once for all texts, in half precision; at `full`
everything is trained. Default: questions in 42 classes. Film reviews, good or bad, are scored also on reviews of goods
(`shifted`), which no arm sees; but there the probe gets right what tuning gets right in the steps of `quick`, so that
nothing is told apart. `--data` takes the other names of `DATA` or a FILE of "label text" lines; `--model` any encoder's
folder.

Seed s is tested on fold s: test parts do not overlap, training parts do. `cls_distill` is the same with a smaller
student to train, and a teacher.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.labelled import Labelled, labelled, labelled_file
from paperlab.assets.loading import load_encoder
from paperlab.core.task import Metric
from paperlab.kit import classifier
from paperlab.kit.classifier import Classifier, States, Teacher, lower, padded, states_after, upper
from paperlab.kit.training import stored_bits
from paperlab.kit.tuning import Batch, Tuned, cross_entropy, fit, logits_of
from paperlab.kit.walk import blocks

VERSION = 1
SCORES = ("Tuned",)
SUPPLIES = ()
AXES = ("bytes", "parameters", "steps", "trained")
TIMED = False
METRICS = {
    "accuracy": Metric("higher", "correct"),
    "cross_entropy": Metric("lower", "nats"),
    "shifted": Metric("higher", "shifted"),
}
PAIRED_BY = "seeds"
COST = {"quick": 110, "full": 1700}
ARM_SECONDS = {"minilm-l6": 14}
SEEDS = {"quick": 5, "full": 5, "gpu": 5}
MODELS = ("minilm-l6",)
DATA = {
    "movie-reviews": "10,070 sentences of film reviews that people marked as clearly good or bad (Hutto and Gilbert "
    "2014), from a pinned package, MIT; shifted: 2,977 of reviews of goods",
    "amazon-reviews": "2,977 sentences of reviews of goods, marked likewise; shifted: of film reviews",
    "questions": "5,332 questions in 42 classes (TREC; Li and Roth 2002), from the same package; nothing is shifted",
    "sms": "4,522 short messages, spam or not (Almeida and Hidalgo 2011), from the same package, never shipped",
}
DEFAULT = "questions"
SHIFTED = {"movie-reviews": "amazon-reviews", "amazon-reviews": "movie-reviews"}
GENERAL = ("editorials", "tweets")  # texts of other kinds, without labels, for methods that ask for them

TEXTS = {"quick": 4000, "full": 12_000, "gpu": 12_000}  # of the data set, at most
OTHERS = 800  # texts of the shifted domain, and of the general kind, at most
LENGTH = {"quick": 32, "full": 64, "gpu": 64}  # tokens of a text that are read
VALIDATION = 400
BATCH = 16
STEPS = {"quick": 60, "full": 300, "gpu": 300}
TEACHER_STEPS = {"quick": 120, "full": 400, "gpu": 400}
RATES = {  # tried by every arm
    "quick": (7e-5, 2e-4, 6e-4, 2e-3, 6e-3),
    "full": (1e-4, 3e-4, 1e-3),
    "gpu": (1e-4, 3e-4, 1e-3),
}
TEACHER_RATE = 2e-4
PENALTY = 1e-3  # on the probe's squared weights


@dataclass
class Corpus:
    """What a data set and an encoder decide together, the same for all seeds.

    ids: tokens of every text: first those of the data set, then of the shifted domain, then general ones. labels: of
    the first two kinds. sizes: how many of each. states: by depth, what that block leaves of each text. features
    (texts, width): pooled, by depth, of the untouched encoder.
    """

    encoder: Any
    provenance: dict[str, Any]
    ids: list[list[int]]
    labels: Tensor
    names: tuple[str, ...]
    sizes: tuple[int, int, int]
    states: dict[int, States]
    features: dict[int, Tensor]
    about: dict[str, Any]


@dataclass
class Setting:
    """model: where every arm starts; its blocks take what block `frozen` left. train, validation, test, shifted: rows
    of the corpus. teacher: a tuned classifier of all blocks; pretrained: the same before it was tuned; None in `cls`.
    """

    model: nn.Module
    corpus: Corpus
    frozen: int
    depth: int
    train: Tensor
    validation: Tensor
    test: Tensor
    shifted: Tensor
    seed: int
    scale: str
    steps: int
    rates: tuple[float, ...]
    teacher: nn.Module | None = None
    pretrained: nn.Module | None = None

    def inputs(self, rows: Tensor) -> Batch:
        """What a model is called with for these texts."""
        ids, mask = padded([self.corpus.ids[row] for row in rows.tolist()])
        given = {"input_ids": ids, "attention_mask": mask, "rows": rows}
        if self.frozen:
            given["inputs_embeds"] = self.corpus.states[self.frozen].of(rows, ids.shape[1])
        return given

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        """Training texts and their labels, again and again, in an order drawn by the seed."""
        for rows in self.order(self.train, seed):
            yield self.inputs(rows), self.corpus.labels[rows]

    def general(self, seed: int) -> Iterator[Batch]:
        """Texts of other kinds, without labels."""
        first = self.corpus.sizes[0] + self.corpus.sizes[1]
        for rows in self.order(torch.arange(first, first + self.corpus.sizes[2]), seed):
            yield self.inputs(rows)

    def validate(self, model: nn.Module) -> float:
        """Accuracy on the validation texts."""
        logits, labels = self.logits(model, self.validation)
        return (logits.argmax(-1) == labels).double().mean().item()

    @torch.no_grad()
    def logits(self, model: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and labels (n,), texts of like length together."""
        lengths = torch.tensor([len(self.corpus.ids[row]) for row in rows.tolist()])
        order = rows[lengths.argsort(stable=True)]
        said = torch.cat([logits_of(model, self.inputs(part)) for part in order.split(64)])
        return said, self.corpus.labels[order]

    def order(self, rows: Tensor, seed: int) -> Iterator[Tensor]:
        """Batches of rows, again and again; four at a time are sorted by length, so that little is padding."""
        draw = torch.Generator().manual_seed(seed)
        while True:
            for part in rows[torch.randperm(len(rows), generator=draw)].split(4 * BATCH):
                lengths = torch.tensor([len(self.corpus.ids[row]) for row in part.tolist()])
                sorted_ = part[lengths.argsort(stable=True)].split(BATCH)
                for number in torch.randperm(len(sorted_), generator=draw).tolist():
                    if len(sorted_[number]) == min(BATCH, len(rows)):
                        yield sorted_[number]


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The setting; the seed draws the split. Raises ModelError, PackageError, and ValueError for a file that cannot be
    used."""
    return setting_of(corpus_of(model or MODELS[0], data or DEFAULT, scale), seed, scale)


def remake(setting: Setting, seed: int) -> Setting:
    """The setting for another seed: only what it draws is made again."""
    return setting_of(setting.corpus, seed, setting.scale)


def plan(corpus: Corpus, scale: str) -> dict[str, int]:
    """Blocks of the encoder (`all`) and of a student, and how many of each are frozen at this scale."""
    count = len(blocks(corpus.encoder)[1])
    quick = scale == "quick"
    frozen, small = count * 2 // 3 if quick else 0, count // 6 if quick else 0
    return {"all": count, "frozen": frozen, "student": -(-count // 2), "student_frozen": small}


def corpus_of(model: str, data: str, scale: str) -> Corpus:
    """The texts as tokens, and what the untouched encoder makes of them, computed once and kept in the cache."""
    encoder, tokenizer, provenance = load_encoder(model)
    known = labelled(data) if data in DATA else labelled_file(Path(data))
    other = labelled(SHIFTED[data]) if data in SHIFTED else None
    names = tuple(sorted(set(known.labels)))
    kept, more = _some(known, TEXTS[scale]), _some(other, OTHERS) if other else []
    general = [pair for name in GENERAL for pair in _some(labelled(name), OTHERS // len(GENERAL))]
    texts = [text for text, _ in (*kept, *more, *general)]
    ids = tokenizer(texts, truncation=True, max_length=LENGTH[scale])["input_ids"]
    labels = torch.tensor([names.index(label) for _, label in (*kept, *more)])
    corpus = Corpus(
        encoder, provenance, ids, labels, names, (len(kept), len(more), len(general)), {}, {},
        {"id": known.id, "sha256": known.sha256, "examples": len(kept), "shifted": other.sha256 if other else None},
    )  # fmt: skip
    depths = plan(corpus, scale)
    wanted = sorted({depths["frozen"], depths["student_frozen"]} - {0})

    def compute() -> Mapping[str, Tensor]:
        ends = {depths["all"], depths["student"]}
        found = states_after(encoder, ids, sorted({*wanted, *ends}))
        told = {f"states.{depth}": found[depth].flat for depth in wanted}
        return told | {f"features.{depth}": _features(found[depth], provenance["pooling"]) for depth in ends}

    key = {
        "weights": provenance["sha256"], "data": known.sha256, "shifted": corpus.about["shifted"], "scale": scale,
        "texts": len(texts), "length": LENGTH[scale], "depths": depths, "threads": torch.get_num_threads(),
    }  # fmt: skip
    stored = cached_tensors("cls", key, compute, code=str(classifier.__file__))
    starts = torch.tensor([0, *map(len, ids)]).cumsum(0)
    corpus.states = {depth: States(stored[f"states.{depth}"], starts) for depth in wanted}
    corpus.features = {depth: stored[f"features.{depth}"] for depth in (depths["all"], depths["student"])}
    return corpus


def _some(known: Labelled, count: int) -> list[tuple[str, str]]:
    """At most `count` texts with their labels, always the same."""
    order = torch.randperm(len(known.texts), generator=torch.Generator().manual_seed(0))[:count]
    return [(known.texts[row], known.labels[row]) for row in order.tolist()]


def _features(states: States, pooling: str) -> Tensor:
    pairs = list(zip(states.starts.tolist(), states.starts.tolist()[1:], strict=False))
    if pooling == "cls":
        return states.flat[states.starts[:-1]].float()
    return torch.stack([states.flat[first:last].float().mean(0) for first, last in pairs])


def setting_of(corpus: Corpus, seed: int, scale: str, *, distil: bool = False) -> Setting:
    """The corpus split by the seed, and where arms start: all blocks, or a student with a teacher."""
    depths, count = plan(corpus, scale), corpus.sizes[0]
    fold = torch.randperm(count, generator=torch.Generator().manual_seed(0)) % SEEDS[scale]
    test, rest = (fold == seed % SEEDS[scale]).nonzero()[:, 0], (fold != seed % SEEDS[scale]).nonzero()[:, 0]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
    end = min(VALIDATION, len(rest) // 5)
    depth = depths["student" if distil else "all"]
    frozen = depths["student_frozen" if distil else "frozen"]
    setting = Setting(
        _start(corpus, depth, frozen, rest[end:]), corpus, frozen, depth, rest[end:], rest[:end], test,
        torch.arange(count, count + corpus.sizes[1]), seed, scale, STEPS[scale], RATES[scale],
    )  # fmt: skip
    if distil:
        setting.pretrained = _start(corpus, depths["all"], 0, setting.train)
        setting.teacher = _teacher(setting)
    return setting


def _start(corpus: Corpus, depth: int, frozen: int, train: Tensor) -> Classifier:
    """A classifier of blocks `frozen` + 1 to `depth`, its head fitted to the untouched features of training texts."""
    encoder = lower(corpus.encoder, depth)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pooling = corpus.provenance["pooling"]
        made = Classifier(upper(encoder, frozen) if frozen else encoder, len(corpus.names), pooling)
    weight, bias = probe(corpus.features[depth][train], corpus.labels[train], len(corpus.names))
    made.head.weight.data, made.head.bias.data = weight, bias
    return made.eval()


def probe(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight (classes, width) and bias of a logistic regression with a small penalty, by L-BFGS from zero."""
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, labels) + PENALTY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def _teacher(setting: Setting) -> Teacher:
    """All blocks tuned on the training texts, with what it says of each; made once for each seed."""
    corpus, scale = setting.corpus, setting.scale
    model = _start(corpus, plan(corpus, scale)["all"], 0, setting.train)
    model.encoder.get_input_embeddings().requires_grad_(False)  # two thirds of the weights, and the least changed
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def train() -> Mapping[str, Tensor]:
        whole = replace(setting, model=model, frozen=0, steps=TEACHER_STEPS[scale])
        with torch.random.fork_rng(devices=[]):
            fit(model, whole, cross_entropy, rate=TEACHER_RATE, seed=setting.seed, asks=("student", "labels"))
        known = torch.full((len(corpus.ids), len(corpus.names)), torch.nan)
        with torch.no_grad():  # what a run of the same seed is shown
            for rows in itertools.islice(setting.order(setting.train, setting.seed), setting.steps):
                known[rows] = logits_of(model, whole.inputs(rows))
        state = model.state_dict()
        return {"known": known, **{name: state[name] for name in trained}}

    key = {
        "weights": corpus.provenance["sha256"], **corpus.about, "scale": scale, "seed": setting.seed,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    stored = cached_tensors("cls", key, train, code=__file__)
    model.load_state_dict({name: stored[name] for name in trained}, strict=False)
    return Teacher(model, stored["known"])


def describe(setting: Setting) -> dict[str, Any]:
    """Model and data with their hashes; counts; what the start and the teacher get right of the validation texts;
    threads, which decide the order of sums."""
    teacher = {} if setting.teacher is None else {"teacher": round(setting.validate(setting.teacher), 4)}
    return {
        "model": setting.corpus.provenance["id"],
        "provenance": setting.corpus.provenance,
        "data": setting.corpus.about,
        "classes": len(setting.corpus.names),
        "blocks": setting.depth,
        "frozen": setting.frozen,
        "train": len(setting.train),
        "validation": len(setting.validation),
        "test": len(setting.test),
        "steps": setting.steps,
        "batch": BATCH,
        "rates": list(setting.rates),
        "probe": round(setting.validate(setting.model), 4),
        **teacher,
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test texts as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Tuned, setting: Setting) -> dict[str, float]:
    """steps, the learning rate that was chosen, parameters that were trained; of the whole classifier, frozen blocks
    and embeddings included: parameters and bytes; and the bytes that a further task would take, which are those of what
    was trained. 32 bits for each parameter, or what a layer's own `stored_bits()` says."""
    cut = _parameters(lower(setting.corpus.encoder, setting.frozen)) if setting.frozen else 0
    found = {
        "bytes": 4 * cut + stored_bits(arm.model) / 8,
        "parameters": float(cut + _parameters(arm.model)),
        "bytes_per_task": _trained_bits(arm.model) / 8,
    }
    stored = {} if arm.compressed is None else arm.compressed.totals()
    return found | stored | {"steps": float(arm.steps), "rate": arm.rate, "trained": float(arm.trained)}


def _trained_bits(model: nn.Module) -> int:
    bits = 0
    for module in model.modules():
        count = sum(parameter.numel() for parameter in module.parameters(recurse=False) if parameter.requires_grad)
        own = getattr(module, "stored_bits", None)
        bits += own() if count and callable(own) else 32 * count
    return bits


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def score(arm: Tuned, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """correct: share of the test texts; nats: mean negative log-likelihood of their labels; shifted: share of the
    texts of the other domain, where the data set has one."""
    if start:
        return
    logits, labels = setting.logits(arm.model, setting.test)
    values = {
        "correct": (logits.argmax(-1) == labels).double().mean().item(),
        "nats": F.cross_entropy(logits.double(), labels).item(),
    }
    if len(setting.shifted):
        logits, labels = setting.logits(arm.model, setting.shifted)
        values["shifted"] = (logits.argmax(-1) == labels).double().mean().item()
    yield values
