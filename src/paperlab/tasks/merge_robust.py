"""Patching weights: is a network that saw clean images alone better on corrupted ones, given what others learnt there?

Small convolutional networks on handwritten digits. A first network sees a few clean images of all ten digits; all
others go on from it: on clean images of digits 0 to 4, on the same images corrupted in one way (one network for each),
and on clean images of digits 5 to 9. The first of `models` is the one to be patched, the second the clean network of
those that saw corrupted images, and these follow. By `data`:

    other      the network of digits 5 to 9 is patched with what was learnt from noise on digits 0 to 4 (the default)
    own        the clean network of digits 0 to 4 itself is patched
    several    as other, with what was learnt from noise, from lost pixels and from low contrast together

A network is asked which of its own five digits an image shows. An item is a test image, clean and corrupted.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.cache import cached_tensors
from paperlab.assets.digits import small_digits
from paperlab.core.task import Metric
from paperlab.kit.merging import Merged
from paperlab.kit.training import Split, fit_split, held_out

VERSION = 1
SCORES = ("Merged",)
SUPPLIES = ("base", "models", "validate")
AXES = ("bytes", "models")
TIMED = False
METRICS = {
    "robust_accuracy": Metric("higher", "correct_corrupted"),
    "clean_accuracy": Metric("higher", "correct_clean"),
    "robust_cross_entropy": Metric("lower", "nats_corrupted"),
}
PAIRED_BY = "items"
DRAWS = True  # the seed draws the models themselves, so that every arm depends on it
ARM_SECONDS = {"": 2}
COST = {"quick": 60, "full": 180}
SEEDS = {"quick": 10, "full": 30, "gpu": 30}
MODELS: tuple[str, ...] = ()  # the task trains its own
DATA = {"digits": "1,797 handwritten digits, 8 x 8 pixels (Alpaydin and Kaynak 1998), carried by scikit-learn, BSD"}

FIRST, SECOND = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
WIDTH = 24
TEST, VALIDATION = 50, 20  # images of each digit; the test images are the same for all seeds
FEW = 200  # images of all digits that the first network sees
EPOCHS = {"base": 8, "sibling": 25}
BATCH = 32
RATE = 3e-3
SCALES = (0.25, 0.5, 0.75, 1.0, 1.25)  # tried on validation images where signatures are added up


def noise(images: Tensor, draw: torch.Generator) -> Tensor:
    """Gaussian noise, standard deviation 0.5 of the largest pixel."""
    return images + 0.5 * torch.randn(images.shape, generator=draw)


def lost(images: Tensor, draw: torch.Generator) -> Tensor:
    """Three pixels in ten are black or white."""
    changed = torch.rand(images.shape, generator=draw) < 0.3
    return torch.where(changed, (torch.rand(images.shape, generator=draw) < 0.5).float(), images)


def faint(images: Tensor, draw: torch.Generator) -> Tensor:
    """A fifth of the contrast, around the middle grey."""
    return 0.5 + 0.2 * (images - 0.5)


CORRUPTIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"noise": noise, "lost": lost, "faint": faint}
DATASETS = {"other": ("noise",), "own": ("noise",), "several": ("noise", "lost", "faint")}


@dataclass
class Setting:
    """base, models: see the module's text. validation, test: images (n, 1, 8, 8) by corruption, "clean" among them, and
    labels (n,): places in `digits`."""

    base: nn.Module
    models: list[nn.Module]
    digits: tuple[int, ...]
    validation: dict[str, Split]
    test: dict[str, Split]
    about: dict[str, Any]
    scales: tuple[float, ...]

    def validate(self, model: nn.Module) -> float:
        """Mean of the accuracy on clean images and that on corrupted ones."""
        found = {name: self.right(model, split)[0].mean().item() for name, split in self.validation.items()}
        clean = found.pop("clean")
        return (clean + sum(found.values()) / len(found)) / 2

    @torch.no_grad()
    def right(self, model: nn.Module, split: Split) -> tuple[Tensor, Tensor]:
        """(n,) 1 where the digit is right, and nats."""
        logits = model(split.inputs[0])[:, list(self.digits)].double()
        return (logits.argmax(1) == split.labels).double(), F.cross_entropy(logits, split.labels, reduction="none")


def network() -> nn.Module:
    """Three convolutions and a linear layer: (n, 1, 8, 8) pixels -> (n, 10) logits."""
    return nn.Sequential(
        nn.Conv2d(1, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * WIDTH, 10),
    )  # fmt: skip


def make(seed: int, scale: str, *, model: str | None = None, data: str | None = None) -> Setting:
    """The networks, trained once for each seed and kept in the cache, with the images to judge by.

    The seed draws the split into images of the base, of the others and for validation, corruptions, and all training.
    """
    data = data or "other"
    if model is not None or data not in DATASETS:
        raise ValueError(f"this task trains its own small networks on digits: no --model, --data {', '.join(DATASETS)}")
    images, labels, digest = small_digits()
    images = images[:, None]
    test, validation, rest = held_out(labels, seed, TEST, VALIDATION)
    few, own = rest[:FEW], rest[FEW:]

    def train() -> dict[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            base = network()
            fit_split(base, Split((images[few],), labels[few]), EPOCHS["base"], BATCH, rate=RATE, seed=seed)
            made = {"base": base}
            for number, (name, digits, corruption) in enumerate(_siblings()):
                mine = _of(own, labels, digits)
                draw = torch.Generator().manual_seed(1000 * seed + number)
                seen = corruption(images[mine], draw) if corruption else images[mine]
                made[name] = copy.deepcopy(base)
                part, own_seed = Split((seen,), labels[mine]), 100 * seed + number
                fit_split(made[name], part, EPOCHS["sibling"], BATCH, rate=RATE, seed=own_seed)
        return {f"{name}/{key}": value for name, one in made.items() for key, value in one.state_dict().items()}

    key = {"data": digest, "seed": seed, "threads": torch.get_num_threads()}
    weights = cached_tensors("merge_robust", key, train, code=__file__)

    def trained(name: str) -> nn.Module:
        found = network().eval()
        found.load_state_dict({key: weights[f"{name}/{key}"] for key in found.state_dict()})
        return found

    names, digits = DATASETS[data], FIRST if data == "own" else SECOND

    def judged(rows: Tensor, draws: int) -> dict[str, Split]:
        mine = _of(rows, labels, digits)
        draw = torch.Generator().manual_seed(draws)
        seen = {"clean": images[mine]} | {name: CORRUPTIONS[name](images[mine], draw) for name in names}
        return {name: Split((some,), labels[mine] - digits[0]) for name, some in seen.items()}

    return Setting(
        base=trained("base"),
        models=[trained("first" if data == "own" else "second"), trained("first"), *map(trained, names)],
        digits=digits,
        validation=judged(validation, seed + 1),
        test=judged(test, 0),
        about={"id": data, "sha256": digest, "examples": len(labels)},
        scales=SCALES if data == "several" else (),
    )


def _siblings() -> list[tuple[str, tuple[int, ...], Callable[[Tensor, torch.Generator], Tensor] | None]]:
    """Name, digits and corruption of all that go on from the first network."""
    return [("first", FIRST, None), ("second", SECOND, None), *((n, FIRST, c) for n, c in CORRUPTIONS.items())]


def _of(rows: Tensor, labels: Tensor, digits: tuple[int, ...]) -> Tensor:
    """Those rows that show one of the digits."""
    return rows[torch.isin(labels[rows], torch.tensor(digits))]


def describe(setting: Setting) -> dict[str, Any]:
    """Data with its hash, counts and sizes; threads, which decide the order of sums."""
    return {
        "model": f"convolutional, width {WIDTH}, and {len(setting.models)} that went on from it",
        "data": setting.about,
        "corruptions": [name for name in setting.test if name != "clean"],
        "validation": len(setting.validation["clean"]),
        "test": len(setting.test["clean"]),
        "scales": list(setting.scales),
        "threads": torch.get_num_threads(),
    }


def items(setting: Setting) -> int:
    """Number of items: one is a test image, clean and corrupted."""
    return len(setting.test["clean"])


def totals(arm: Merged, setting: Setting) -> dict[str, float]:
    """models that went in, bytes of the one that came out, and the factor where one was chosen."""
    found = {"models": float(arm.models), "bytes": 4.0 * sum(p.numel() for p in arm.model.parameters())}
    return found if arm.scale is None else {**found, "scale": arm.scale}


def score(arm: Merged, setting: Setting, start: int = 0) -> Iterator[dict[str, float]]:
    """correct_corrupted: mean over the corruptions of whether the digit is right, nats_corrupted: mean negative
    log-likelihood there; correct_clean: whether the clean image's digit is right."""
    found = {name: setting.right(arm.model, split) for name, split in setting.test.items()}
    clean = found.pop("clean")[0].tolist()
    right, nats = (torch.stack(column).mean(0).tolist() for column in zip(*found.values(), strict=True))
    for item in range(start, items(setting)):
        yield {"correct_corrupted": right[item], "correct_clean": clean[item], "nats_corrupted": nats[item]}
