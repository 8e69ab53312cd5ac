"""Compressor: the shape of a tiny model is the one of most operations at a given size, found by a genetic algorithm.

    fitness(shape) = GFLOPs(shape) - |MB(shape) - limit|       layers, width, heads, feed-forward width, vocabulary
    distil         L = T^2 KL(softmax(teacher / T) || softmax(student / T)),   T = 10, on texts without labels

The fitness trains nothing. The student starts from random weights. Shi, Yang, Xu, Kang and Lo, "Compressing
pre-trained models of code into 3 MB", arXiv 2208.07120. Code read: soarsmu/Compressor@fbf435b (searcher.py, flops.py,
CodeBERT/vulnerability_prediction/compress).
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from paperlab.core.card import Arm, Card, Check
from paperlab.kit.classifier import Classifier, Teacher
from paperlab.kit.tuning import Tuned, cross_entropy, fit

CARD = Card(
    family="distillation",
    paper="compressor-code-3mb",
    sources=("abstract", "code"),
    configuration="searcher.py -t 3; distill.py of CodeBERT, size 3",
    task="cls_tiny",
    metric="accuracy",
    expect="higher",
    margin=0.02,
    method=Arm("compressor-code-3mb"),
    gap="Theirs: CodeBERT and GraphCodeBERT, 481 MB, on vulnerability and clone detection, 10 to 20 epochs on "
    "thousands of functions of 400 tokens. Here: MiniLM, 91 MB, questions of 14 tokens in 42 classes, 1,400 labelled "
    "and as many not, some 6 epochs; what pre-training told the teacher counts for more where texts are so few. The "
    "search counts operations of 514 tokens; of 14, shapes of one size all take about as many. A pass says nothing of "
    "code, of long inputs, nor of latency.",
    checks=(
        Check(
            claim="better-than-random-shapes",
            says="Is a student of the shape that the search finds, of most operations counted at 514 tokens, better "
            "than one of a random shape of the size?",
            baseline=Arm("compressor-code-3mb", search="random"),
            equal={"steps": 0.0, "bytes": 0.1},
            role="question",
        ),
        Check(
            claim="better-than-a-bilstm",
            says="The student is better than a bidirectional LSTM of the size that is trained by the same teacher on "
            "the same texts (the authors' baseline; no figure of it in the abstract).",
            baseline=Arm("compressor-code-3mb", kind="lstm"),
            equal={"steps": 0.0, "bytes": 0.1},
        ),
        Check(
            claim="keeps-the-teachers-accuracy",
            says="The student is no worse than its teacher by 5 % (the paper: at 3 MB 96.15 % and 97.74 % of the "
            "teachers' performance are left, on average over tasks of code in two classes).",
            expect="no worse",
            margin=0.05,
            baseline=Arm("compressor-code-3mb", kind="teacher"),
            trivial=Arm("compressor-code-3mb", texts="labelled", targets="labels"),
        ),
        Check(
            claim="better-than-uniformly-scaled",
            says="Is it better than the teacher's shape scaled down by one factor, and filled up with vocabulary?",
            baseline=Arm("compressor-code-3mb", search="uniform"),
            equal={"steps": 0.0, "bytes": 0.1},
            role="question",
        ),
        Check(
            claim="other-texts-better-than-the-teachers-own",
            says="Trained by the teacher, is the student better on texts without labels than on as many that the "
            "teacher was tuned on? Beside: on these, by their labels.",
            baseline=Arm("compressor-code-3mb", texts="labelled"),
            beside=(Arm("compressor-code-3mb", texts="labelled", targets="labels"),),
            equal={"steps": 0.0, "bytes": 0.1},
            role="question",
        ),
        Check(
            claim="teacher-better-than-labels",
            says="On the texts that have labels, is the student better that learns from the teacher?",
            method=Arm("compressor-code-3mb", texts="labelled"),
            baseline=Arm("compressor-code-3mb", texts="labelled", targets="labels"),
            equal={"steps": 0.0, "bytes": 0.1},
            role="question",
        ),
        Check(
            claim="genetic-better-than-sampling",
            says="Does the genetic algorithm find a better shape than the fittest of as many random ones?",
            baseline=Arm("compressor-code-3mb", search="sampling"),
            equal={"steps": 0.0, "bytes": 0.1},
            role="question",
        ),
    ),
    departs=(
        "the paper's text was not at hand; its figures are those of the abstract",
        "the bounds of the search are the teacher's sizes, which are 6 layers and 384 wide; theirs are CodeBERT's",
        "the student's vocabulary is the teacher's most frequent word pieces in its texts, all others being unknown; "
        "theirs is a byte-pair encoding of its own. The table between them (30,522 numbers) is not counted",
        "parameters are those that the student really has; the authors' formula counts a pooler and 514 positions",
        "a child is drawn again at most 50 times where it is known already; in the code for ever",
        "dropout 0.2, as their clone detection has it; vulnerability prediction 0.5. AdamW's rate of 1e-4 became one "
        "of the task's, as steps are 540 or 5,000; each seed tries all, in every arm, as shapes change with it",
        "the weights are those of the last step; theirs are the best by validation data of all epochs. Warm-up takes a "
        "twentieth of the steps and not a tenth. The head is linear on the mean of the tokens; theirs has a dense "
        "layer before it and reads the first token",
        "the searched shape may be over the limit, as the fitness allows; shapes that it is compared with have its "
        "size, which a run changed: random ones were of 90 to 100 % of the limit, while the searched one had 105 %",
        "the bi-LSTM has the searched student's size and the student's loss, rates, embedding and dropout of inputs to "
        "its dense layer (0.1); theirs a mean squared error, an embedding of its own and padding that is read",
        "sizes of 25 and 50 MB are left out",
    ),
)

CLOSE = 0.03  # how far, as a share, a random shape's size may be from that of the searched one
TOKENS = 514  # for which operations are counted, whatever the texts' length, as in the code


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder."""

    heads: int
    width: int
    feed_forward: int
    layers: int
    vocabulary: int


Choices = dict[str, list[int]]
Genome = dict[str, int]  # in the order in which mutation goes through it: as first drawn, or as crossed
DRAWN = ("vocabulary", "heads", "width", "feed_forward", "layers")
CROSSED = ("heads", "width", "feed_forward", "layers", "vocabulary")


def operations(s: Shape, tokens: int = TOKENS) -> int:
    """Floating-point operations of a forward pass, as the authors count them: embedding is a product with one-hot rows,
    dropout, norms and activations count."""
    h, i = s.width, s.feed_forward
    block = 8 * h * h + 4 * h * i + 4 * h * tokens + 10 * tokens * s.heads + 9 * i + 20 * h + 5
    embedding = 2 * h * s.vocabulary + 2 * h * (tokens + 2) + 11 * h
    classifier = 2 * h * h + 15 * h
    return (s.layers * block + embedding + classifier) * tokens


def parameters(s: Shape, positions: int, classes: int, types: int = 2) -> int:
    """Weights of an encoder of BERT's kind without a pooler, and a linear head."""
    h, i = s.width, s.feed_forward
    block = 4 * (h * h + h) + 2 * h * i + i + h + 4 * h
    return (s.vocabulary + positions + types + 2) * h + s.layers * block + (h + 1) * classes


def genetic(
    choices: Choices, fitness: Callable[[Shape], float], draw: random.Random, *, population: int = 50,
    generations: int = 100,
) -> Shape:  # fmt: skip
    """The fittest shape of the last generation; constants as in the code.

    A child crosses two parents at one place (with probability 0.6), or is a parent whose genes from one place on are
    drawn anew; shapes that are there already are changed further. The fittest of old and new live.
    """
    living: list[Genome] = []

    def add(genome: Genome) -> None:
        for _ in range(50):
            if genome not in living:  # dictionaries are equal whatever their order
                living.append(genome)
                return
            genome = mutated(genome, choices, draw)

    for _ in range(population):
        add(dict(zip(DRAWN, (draw.choice(choices[name]) for name in DRAWN), strict=True)))
    for _ in range(generations):
        children: list[Genome] = []
        while len(children) < population:
            one, two = draw.sample(living, 2)
            if draw.random() < 0.6:
                children += crossed(one, two, draw)
            else:
                children += [mutated(one, choices, draw), mutated(two, choices, draw)]
        for child in children:
            add(child)
        living = sorted(living, key=lambda genome: fitness(Shape(**genome)), reverse=True)[:population]
    return Shape(**living[0])


def crossed(one: Genome, two: Genome, draw: random.Random) -> list[Genome]:
    """Both children of two parents, who change places from a random gene on, of five in the order of CROSSED."""
    place = draw.randint(1, len(CROSSED) - 1)
    return [{name: own[name] if number < place else other[name] for number, name in enumerate(CROSSED)}
               for own, other in ((one, two), (two, one))]  # fmt: skip


def mutated(genome: Genome, choices: Choices, draw: random.Random) -> Genome:
    """The genome with all genes from a random place on changed, where there is another choice, in its own order."""
    made, names = dict(genome), list(genome)
    for name in names[draw.randrange(len(names)) :]:
        if others := [value for value in choices[name] if value != genome[name]]:
            made[name] = draw.choice(others)
    return made


def drawn(choices: Choices, draw: random.Random) -> Shape:
    """Any shape."""
    return Shape(**{name: draw.choice(choices[name]) for name in DRAWN})


def choices_of(config: Any, vocabulary: bool) -> Choices:
    """What may be chosen below a model's sizes; without `vocabulary`, that one stays."""
    known = config.vocab_size
    return {
        "heads": [1, 2, 4, 8],
        "width": list(range(16, config.hidden_size + 1, 16)),
        "feed_forward": list(range(32, config.intermediate_size, 32)),
        "layers": list(range(1, config.num_hidden_layers + 1)),
        "vocabulary": list(range(1000, known + 1, 1000)) if vocabulary and known >= 1000 else [known],
    }


def chosen(search: str, choices: Choices, megabytes: Callable[[Shape], float], limit: float, seed: int) -> Shape:
    """A shape by one of the searches of `recipe`; limit in megabytes. Those that are not led by the fitness, which may
    trade a little size for operations, are of the size of the shape that the genetic algorithm finds."""
    draw = random.Random(seed)

    def fitness(shape: Shape) -> float:
        return operations(shape) / 1e9 - abs(megabytes(shape) - limit)

    if search == "genetic":
        return genetic(choices, fitness, draw)
    if search == "sampling":  # as many as the genetic algorithm looks at
        return max((drawn(choices, draw) for _ in range(50 + 100 * 50)), key=fitness)
    size = megabytes(genetic(choices, fitness, draw))
    if search == "uniform":
        scaled = [
            Shape(**{name: _nearest(choices[name], share / 200) for name in DRAWN}) for share in range(1, 201)
        ]  # fmt: skip
        fitting = [shape for shape in scaled if megabytes(shape) <= size]
        best = max(fitting, key=megabytes) if fitting else scaled[0]
        more = [replace(best, vocabulary=value) for value in choices["vocabulary"] if value > best.vocabulary]
        return max((shape for shape in (best, *more) if megabytes(shape) <= size), key=megabytes, default=best)
    shapes = [drawn(choices, draw) for _ in range(20_000)]
    close = [shape for shape in shapes if abs(megabytes(shape) - size) <= CLOSE * size]
    return close[0] if close else min(shapes, key=lambda shape: abs(megabytes(shape) - size))


def _nearest(values: list[int], share: float) -> int:
    """The one that is nearest to this share of the last, which is the largest."""
    return min(values, key=lambda value: abs(value - values[-1] * share))


def recipe(
    model: nn.Module,
    setting: Any,
    seed: int,
    rate: float,
    *,
    search: Literal["genetic", "random", "sampling", "uniform"] = "genetic",
    kind: Literal["transformer", "lstm", "teacher"] = "transformer",
    texts: Literal["unlabelled", "labelled"] = "unlabelled",
    targets: Literal["teacher", "labels", "mismatched"] = "teacher",
    temperature: float = 10.0,
    dropout: float = 0.2,
) -> Tuned:
    """A student of random weights, its sizes below the model's, trained for the setting's steps.

    The setting's `limit` is its size in bytes, 3,000,000 where there is none; `unlabelled(seed)` gives batches as
    `batches` does, of other texts, where it has them; `seed_rates` are tried by each seed, the best by validation data
    kept, where it has them, in place of `rate`. search: the shape is found by the "genetic" algorithm, is a "random"
    one of about its size, the fittest of random ones ("sampling"), or the model's scaled down ("uniform"). kind: in
    place of a transformer a bidirectional "lstm" of the size, or the "teacher" itself, untrained. texts: which half.
    targets: what the "teacher" says; "labels"; or what it says of the next text of the batch ("mismatched"), which is
    for controls. Raises ValueError for labels of texts without any, and an LSTM of what is no classifier.
    """
    if targets == "labels" and texts != "labelled":
        raise ValueError(f"targets='labels', texts={texts!r}: only labelled texts have labels")
    if kind == "teacher":
        told = setting.teacher
        return Tuned(copy.deepcopy(told.model if isinstance(told, Teacher) else told), rate)
    encoder: Any = model.encoder if isinstance(model, Classifier) else model
    config, limit = encoder.config, float(getattr(setting, "limit", 3e6))
    classes = model.head.out_features if isinstance(model, Classifier) else 0
    if kind == "lstm" and not classes:
        raise ValueError(f"kind='lstm': {type(model).__name__} is no classifier")
    source = setting.batches if texts == "labelled" else getattr(setting, "unlabelled", setting.batches)
    counts = counted(islice(source(seed), 200), config.vocab_size)
    positions = int(getattr(setting, "length", config.max_position_embeddings))

    def megabytes(shape: Shape) -> float:
        return 4 * parameters(shape, positions, classes) / 1e6

    shape = chosen(search, choices_of(config, bool(classes)), megabytes, limit / 1e6, seed)

    def distil(student: Tensor, teacher: Tensor) -> Tensor:
        return divergence(student, teacher.roll(1, 0) if targets == "mismatched" else teacher, temperature)

    loss, asks = (cross_entropy, ("student", "labels")) if targets == "labels" else (distil, ("student", "teacher"))

    def trained(rate: float) -> Tuned:
        torch.manual_seed(seed)
        if kind == "lstm":
            made: nn.Module = BiLSTM(counts, parameters(shape, positions, classes), classes)
        else:
            made = student(model, shape, positions, dropout, counts)
        made.register_buffer("rate", torch.tensor(rate, dtype=torch.float64), persistent=False)
        return Tuned(made, rate, {}, *fit(made, setting, loss, rate=rate, seed=seed, asks=asks, batches=source(seed)))

    if len(rates := getattr(setting, "seed_rates", (rate,))) == 1:
        return trained(rates[0])
    return max((trained(rate) for rate in rates), key=lambda one: setting.validate(one.model))


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the KL divergence at temperature T. student, teacher: logits (n, classes)."""
    said, soft = (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1)
    return temperature**2 * F.kl_div(said, soft, reduction="batchmean")


def counted(batches: Any, vocabulary: int) -> Tensor:
    """(vocabulary,): how often each token occurs."""
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for inputs, _ in batches:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        counts += torch.bincount((ids if mask is None else ids[mask > 0]).flatten(), minlength=vocabulary)
    return counts


class Frequent(nn.Embedding):
    """Embeddings of the most frequent tokens; all others share the last. table (old vocabulary,): old to new ids."""

    def __init__(self, counts: Tensor, size: int, width: int) -> None:
        super().__init__(size, width)
        nn.init.normal_(self.weight, std=0.02)
        table = torch.full((len(counts),), size - 1)
        table[counts.argsort(descending=True, stable=True)[: size - 1]] = torch.arange(size - 1)
        self.table: Tensor
        self.register_buffer("table", table)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of the old vocabulary (n, time) -> (n, time, width)."""
        return super().forward(self.table[ids])


class BiLSTM(nn.Module):
    """The authors' bi-LSTM: one layer on embeddings of 300 numbers of 1,000 tokens, the last states of both directions
    through a dense layer of 200. It is as wide as `size` parameters allow, 1 at least."""

    def __init__(self, counts: Tensor, size: int, classes: int, tokens: int = 1000, width: int = 300) -> None:
        super().__init__()
        fixed = tokens * width + 200 + (200 + 1) * classes
        half = (8 * width + 16 + 400) / 16  # 8 h² + (8 width + 16 + 400) h parameters depend on the hidden width h
        hidden = max(1, int((half**2 + max(0, size - fixed) / 8) ** 0.5 - half))
        self.embedding = Frequent(counts, tokens, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.dense, self.head = nn.Linear(2 * hidden, 200), nn.Linear(200, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Tensor:
        """Ids and mask (n, time) -> logits (n, classes)."""
        lengths = attention_mask.sum(1).cpu()
        packed = pack_padded_sequence(self.embedding(input_ids), lengths, batch_first=True, enforce_sorted=False)
        last = self.lstm(packed)[1][0].transpose(0, 1).flatten(1)
        return self.head(F.dropout(self.dense(last).relu(), 0.1, self.training))


def student(model: Any, shape: Shape, positions: int, dropout: float, counts: Tensor) -> nn.Module:
    """A model of the same kind in another shape, its weights random."""
    encoder = model.encoder if isinstance(model, Classifier) else model
    config = copy.deepcopy(encoder.config)
    named = {
        "hidden_size": shape.width, "intermediate_size": shape.feed_forward, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads, "head_dim": shape.width // shape.heads,
        "max_position_embeddings": positions, "hidden_dropout_prob": dropout, "vocab_size": shape.vocabulary,
    }  # fmt: skip
    for name, value in named.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, value)
    if not isinstance(model, Classifier):
        return type(encoder)(config)
    made = Classifier(type(encoder)(config, add_pooling_layer=False), model.head.out_features, model.pooling)
    made.encoder.set_input_embeddings(Frequent(counts, shape.vocabulary, shape.width))
    return made
