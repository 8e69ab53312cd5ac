"""What every loss, head, classifier and projection of embeddings promises."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract_cases import Case, assert_moves, assert_same, cases
from torch import Tensor, nn

from paperlab.kit.embedding import Labelled, Ladder, Pairs, in_batch
from paperlab.lab.drivers.embed import build, use

LAYERS, WIDTH, ROWS, CLASSES = 6, 384, 8, 5


def states(seed: int) -> Tensor:
    return torch.randn(ROWS, LAYERS, WIDTH, generator=torch.Generator().manual_seed(seed))


class Setting:
    """Two steps on a few states."""

    layers, width, steps, batch, classes = LAYERS, WIDTH, 2, 4, 0
    rates: tuple[float, ...] = (1e-3,)
    train: Any = Pairs(states(0), states(1))
    validation: Any = train

    def network(self) -> nn.Module:
        return Ladder(LAYERS, WIDTH, 8, 0.1)


class Classes(Setting):
    """The same with labels."""

    classes = CLASSES
    train: Any = Labelled(states(0), torch.arange(ROWS) % CLASSES)
    validation: Any = train


def trains(case: Case) -> None:
    """The driver builds it on pairs and on labelled texts; the same seed gives the same bits."""
    for setting in (Setting(), Classes()):
        if "loss" not in case.verbs and case.verbs != ("project",):
            continue
        built = [build(case.functions(), case.params, setting=setting, seed=3) for _ in range(2)]
        assert_same(built[0].model.state_dict(), built[1].model.state_dict())
        assert (built[0].trained > 0) == ("loss" in case.verbs)
        out = built[0].embed(states(2))
        assert out.shape == (LAYERS, ROWS, WIDTH)
        assert out.isfinite().all()
        assert torch.equal(out, built[1].embed(states(2)))


def loss(case: Case, call: Any) -> None:
    queries, documents = (states(seed).transpose(0, 1).clone().requires_grad_() for seed in (3, 4))
    kept = queries.detach().clone(), documents.detach().clone()
    torch.manual_seed(0)
    value = call(queries, documents)
    assert value.shape == ()
    assert value.isfinite()
    value.backward()
    for one in (queries, documents):
        assert one.grad is not None
        assert one.grad.isfinite().all()
        assert one.grad.abs().sum() > 0
    assert torch.equal(queries, kept[0])
    assert torch.equal(documents, kept[1])
    aligned = torch.eye(ROWS, WIDTH).repeat(LAYERS, 1, 1) + 0.1 * torch.ones(LAYERS, ROWS, WIDTH)
    values = []
    for other in (aligned, aligned.roll(1, 1)):
        torch.manual_seed(0)
        values.append(call(aligned, other).item())
    assert values[0] < values[1]  # the right documents cost less than the wrong ones


def head(case: Case, call: Any) -> None:
    made = call(WIDTH)
    assert isinstance(made, nn.Module)
    assert made(states(0)[:, 0]).shape == (ROWS, WIDTH)
    assert_moves(made, lambda one, device: one(states(0)[:, 0].to(device, torch.bfloat16)), (ROWS, WIDTH))


def classifiers(case: Case, call: Any) -> None:
    made = call(WIDTH, CLASSES)
    assert isinstance(made, nn.Module)
    x = states(0)[:, 0]
    for size, logits in made(x).items():
        assert logits.shape == (ROWS, CLASSES)
        changed = torch.cat([x[:, :size], x.roll(1, 0)[:, size:]], 1)
        torch.testing.assert_close(made(changed)[size], logits)  # from the first coordinates alone


def project(case: Case, call: Any) -> None:
    made = call(states(0)[:, 0])
    assert isinstance(made, nn.Module)
    assert made(states(1)[:, 0]).shape == (ROWS, WIDTH)
    assert made(states(1)[:, 0]).isfinite().all()


CONTRACTS = {"loss": loss, "head": head, "classifiers": classifiers, "project": project}


class Halves(nn.Module):
    """A classifier of the first half."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width // 2, classes)

    def forward(self, embeddings: Tensor) -> dict[int, Tensor]:
        size = self.layer.in_features
        return {size: self.layer(embeddings[:, :size])}


class Cheats(Halves):
    """One that looks at all of it."""

    def forward(self, embeddings: Tensor) -> dict[int, Tensor]:
        size = self.layer.in_features
        return {size: self.layer(embeddings[:, size:])}


PLANTED: dict[str, Callable[..., Any]] = {
    "loss": lambda queries, documents: in_batch(queries, documents),
    "head": lambda width: nn.LayerNorm(width),
    "classifiers": lambda width, classes: Halves(width, classes),
    "project": lambda embeddings: nn.Identity(),
}
BROKEN: dict[str, Callable[..., Any]] = {
    "loss": lambda queries, documents: -in_batch(queries, documents),
    "head": lambda width: nn.Linear(width, width // 2),
    "classifiers": lambda width, classes: Cheats(width, classes),
    "project": lambda embeddings: F.normalize(embeddings),
}


@pytest.mark.parametrize("case", cases("embed", PLANTED), ids=str)
def test_a_method_keeps_what_its_driver_promises(case: Case) -> None:
    plugged: Any = use(SimpleNamespace(verbs=case.verbs), case.functions(), case.params)  # type: ignore[arg-type]
    for verb in case.verbs:
        CONTRACTS[verb](case, plugged if verb == case.verbs[0] else getattr(plugged, verb))
    trains(case)


@pytest.mark.parametrize("verb", PLANTED)
def test_a_method_that_breaks_a_promise_is_seen(verb: str) -> None:
    with pytest.raises(AssertionError):
        test_a_method_keeps_what_its_driver_promises(Case("planted", (verb,), planted={verb: BROKEN[verb]}))
