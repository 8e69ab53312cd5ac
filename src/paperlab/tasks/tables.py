"""Making a click-through model smaller: how well does what is left tell clicks from the rest?

DeepFM (Guo et al., 1703.04247) on rows of categories: an embedding for each field's value, whose pairwise products a
factorization machine adds up and a perceptron reads. It is trained once for each seed. Arms compress it, train it
further, or both; all are judged on the same test rows.

The default rows are drawn from a fixed rule with what real click logs have: few frequent and many rare values, effects
of single values, of pairs through hidden factors, all of one strength, and of pairs that follow no factors at all. How
many factors decides what tables can be narrowed to, so there are two rules: `clicks` has 6, `clicks-of-two-factors` 2.
`--data FILE.csv`: a header, then 0 or 1 and categories in each line.
"""

import copy
import csv
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.core.task import Metric
from paperlab.kit.compressed import Compressed
from paperlab.kit.tuning import Tuned

VERSION = 1
SCORES = ("Tuned", "Compressed")
SUPPLIES = ("model", "calibration")
AXES = ("parameters", "bytes", "steps")
TIMED = False
METRICS = {"gini": Metric("higher", "gini"), "cross_entropy": Metric("lower", "nats")}
PAIRED_BY = "seeds"
DRAWS = True  # the seed draws the model that every arm starts from
COST = {"quick": 60, "full": 900}
ARM_SECONDS = {"": 6}
SEEDS = {"quick": 5, "full": 10, "gpu": 10}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {
    "clicks": "rows of eight categories and a click, drawn from a fixed rule in this file with six hidden factors",
    "clicks-of-two-factors": "the same with two, whose pairs count for as much",
}

SIZES = (20, 50, 100, 200, 500, 1000, 1500, 2000)  # values of each field of the drawn rows
SKEW = 1.05  # the k-th most frequent value of a field is k^-SKEW as frequent as the first
HIDDEN = {"clicks": 6, "clicks-of-two-factors": 2}  # dimensions of the hidden factors
PAIRS = 0.61  # standard deviation of what a pair's factors do, before other effects
ROWS = {"quick": 45_000, "full": 220_000, "gpu": 220_000}
TEST, VALIDATION = 10_000, 5_000  # rows; of a file at most a fifth and a tenth
WIDTH = 16  # of an embedding
INNER = (128, 128, 128)
BATCH = 256
EPOCHS = 4  # that the original is trained at most; it is taken after the one that is best on validation rows
BASE_RATES = (1e-3, 3e-3, 1e-2)  # tried for it
TUNING_EPOCHS = 2
RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # tried by every arm that trains


class DeepFM(nn.Module):
    """ids: (n, fields) int64, 0 for a value that was never seen -> (n, 2) logits of no click and click."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.single = nn.ModuleList(nn.Embedding(size, 1) for size in sizes)
        self.tables = nn.ModuleList(nn.Embedding(size, WIDTH) for size in sizes)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((len(sizes) * WIDTH, *INNER)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.perceptron = nn.Sequential(*layers)
        self.output = nn.Linear(INNER[-1], 1)
        for table in (*self.single, *self.tables):
            nn.init.normal_(table.weight, std=0.01)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, fields) -> (n, 2)."""
        values = torch.stack([table(ids[:, f]) for f, table in enumerate(self.tables)], dim=1)
        single = torch.stack([table(ids[:, f]) for f, table in enumerate(self.single)], dim=1).sum((1, 2))
        pairs = (values.sum(1).square() - values.square().sum(1)).sum(1) / 2
        z = single + pairs + self.output(self.perceptron(values.flatten(1)))[:, 0]
        return torch.stack([torch.zeros_like(z), z], dim=1)


@dataclass(frozen=True)
class Rows:
    """ids: (n, fields) int64. labels: (n,) int64, 1 for a click."""

    ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Setting:
    """What an arm starts from, and rows to train and judge by. calibration: the training rows, in batches."""

    model: nn.Module
    train: Rows
    validation: Rows
    test: Rows
    steps: int
    about: dict[str, Any]
    rates: tuple[float, ...] = RATES
    teacher: nn.Module | None = None

    @property
    def calibration(self) -> list[dict[str, Tensor]]:
        """The training rows as model inputs."""
        return [{"ids": part} for part in self.train.ids.split(4096)]

    def calibration_from(self, name: str) -> list[dict[str, Tensor]]:
        """Raises ValueError: there is one table."""
        raise ValueError(f"calibration={name}: this task has no other table")

    def batches(self, seed: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Batches of training rows, epoch after epoch, in an order that the seed draws."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            for rows in torch.randperm(len(self.train), generator=generator).split(BATCH):
                yield {"ids": self.train.ids[rows]}, self.train.labels[rows]

    def validate(self, model: nn.Module) -> float:
        """The Gini coefficient on the validation rows."""
        return gini(clicks(model, self.validation), self.validation.labels)


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The rows, and DeepFM trained on them, kept in the cache. The seed draws which rows test and validate, and the
    training.

    Raises ValueError for a model, and for a file that is no table of clicks.
    """
    if model is not None:
        raise ValueError("this task trains its own model; it takes --data, not --model")
    rule = data or "clicks"
    name, table = (rule, draw(ROWS[scale], HIDDEN[rule])) if rule in HIDDEN else read(Path(rule))
    test, rest = _split(table, min(TEST, len(table) // 5), 2 * seed)
    validation, train = _split(rest, min(VALIDATION, len(table) // 10), 2 * seed + 1)
    sizes = tuple(int(column.max()) + 1 for column in table.ids.T)
    digest = hashlib.sha256(table.ids.numpy().tobytes() + table.labels.numpy().tobytes()).hexdigest()
    key = {"data": digest, "seed": seed, "threads": torch.get_num_threads()}
    weights = cached_tensors("tables", key, lambda: _original(sizes, train, validation, seed), code=__file__)
    original = DeepFM(sizes).eval()
    original.load_state_dict(weights)
    about = {"id": name, "sha256": digest, "rows": len(table), "clicks": int(table.labels.sum())}
    return Setting(original, train, validation, test, TUNING_EPOCHS * -(-len(train) // BATCH), about)


def draw(rows: int, hidden: int = 6) -> Rows:
    """Rows of categories and clicks from the rule above; the first are the same whatever their number.

    hidden: dimensions of the factors; pairs count for as much whatever it is.
    """
    g = torch.Generator().manual_seed(0)
    single = [0.3 * torch.randn(size, generator=g) for size in SIZES]
    factors = [torch.randn(size, hidden, generator=g) for size in SIZES]
    weights = torch.randn(len(SIZES), len(SIZES), generator=g) * PAIRS / hidden**0.5
    tables = {(f, h): 0.5 * torch.randn(SIZES[f], SIZES[h], generator=g) for f, h in ((0, 1), (1, 2), (0, 3))}
    order = [torch.randperm(size, generator=g) for size in SIZES]
    shares = [torch.arange(1, size + 1) ** -SKEW for size in SIZES]
    parts = []
    for count in [5000] * (rows // 5000) + ([rows % 5000] if rows % 5000 else []):
        ids = torch.stack(
            [o[torch.multinomial(s, count, True, generator=g)] for o, s in zip(order, shares, strict=True)], 1
        )
        z = torch.full((count,), -1.2)
        for f in range(len(SIZES)):
            z += single[f][ids[:, f]]
            for h in range(f):
                z += weights[f, h] * (factors[f][ids[:, f]] * factors[h][ids[:, h]]).sum(1)
        for (f, h), effect in tables.items():
            z += effect[ids[:, f], ids[:, h]]
        parts.append((ids, torch.bernoulli(z.sigmoid(), generator=g).long()))
    return Rows(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def read(file: Path) -> tuple[str, Rows]:
    """A CSV file of clicks: its name, and its rows; a value that comes once counts as never seen. Raises ValueError."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            _, *table = list(csv.reader(lines))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a table: {error}") from None
    if len(table) < 1000 or {len(row) for row in table} != {len(table[0])} or {row[0] for row in table} != {"0", "1"}:
        raise ValueError(f"{file} needs 1,000 lines of equally many columns, the first of them 0 or 1")
    columns = []
    for values in itertools.islice(zip(*table, strict=True), 1, None):
        often = [value for value, count in Counter(values).items() if count > 1]
        number = {value: 1 + at for at, value in enumerate(sorted(often))}
        columns.append([number.get(value, 0) for value in values])
    return file.name, Rows(torch.tensor(columns).T.contiguous(), torch.tensor([int(row[0]) for row in table]))


def _split(rows: Rows, count: int, seed: int) -> tuple[Rows, Rows]:
    """`count` rows drawn by the seed, and the others."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return tuple(Rows(rows.ids[part], rows.labels[part]) for part in (order[:count], order[count:]))  # type: ignore


def _original(sizes: tuple[int, ...], train: Rows, validation: Rows, seed: int) -> dict[str, Tensor]:
    """The weights of DeepFM at the rate and after the epoch that are best on validation rows."""
    best, kept = -2.0, dict[str, Tensor]()
    for rate in BASE_RATES:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = DeepFM(sizes)
            optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
            for _ in range(EPOCHS):
                for rows in torch.randperm(len(train)).split(BATCH):
                    optimizer.zero_grad(set_to_none=True)
                    F.cross_entropy(model(train.ids[rows]), train.labels[rows]).backward()
                    optimizer.step()
                if (found := gini(clicks(model, validation), validation.labels)) > best:
                    best, kept = found, copy.deepcopy(model.state_dict())
    return kept


@torch.no_grad()
def clicks(model: nn.Module, rows: Rows) -> Tensor:
    """(n,) log-odds of a click, float64."""
    logits = torch.cat([model(ids=part) for part in rows.ids.split(4096)]).double()
    return logits[:, 1] - logits[:, 0]


def gini(score: Tensor, labels: Tensor) -> float:
    """2 AUC - 1: 0 for chance, 1 where every click scores above every other row; ties count half.

    AUC = (sum of the clicks' ranks - m (m + 1) / 2) / (m (n - m)), for m clicks of n rows.
    """
    _, place, count = score.unique(return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count - 1) / 2)[place]
    m = int(labels.sum())
    return 2 * (rank[labels == 1].sum().item() - m * (m + 1) / 2) / (m * (len(labels) - m)) - 1


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts and sizes; threads, which decide the order of sums."""
    return {
        "model": "DeepFM",
        "parameters": sum(parameter.numel() for parameter in setting.model.parameters()),
        "data": setting.about,
        "train": len(setting.train),
        "validation": len(setting.validation),
        "test": len(setting.test),
        "steps": setting.steps,
        "rates": list(setting.rates),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """One: the test rows as a whole. A seed is what is sampled here."""
    return 1


def totals(arm: Tuned | Compressed, setting: Setting) -> dict[str, float]:
    """Parameters, bytes in 32 bits each, steps of training after the original's, and the rate that was chosen."""
    count = sum(parameter.numel() for parameter in arm.model.parameters())
    steps, rate = (arm.steps, arm.rate) if isinstance(arm, Tuned) else (0, 0.0)
    return {"parameters": count, "bytes": 4 * count, "steps": steps, "rate": rate}


def score(arm: Tuned | Compressed, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """gini: 2 AUC - 1 on the test rows. nats: mean cross-entropy there."""
    if start:
        return
    found = clicks(arm.model, setting.test)
    nats = F.binary_cross_entropy_with_logits(found, setting.test.labels.double())
    yield {"gini": gini(found, setting.test.labels), "nats": nats.item()}
