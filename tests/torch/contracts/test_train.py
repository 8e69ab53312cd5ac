"""What every part of a network or of its training promises, as a practitioner plugs it in."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract_cases import Case, assert_moves, assert_same, cases
from torch import Tensor, nn

from paperlab.lab.drivers.train import use

WIDTH, HEADS, INNER, TIME, VOCABULARY = 16, 2, 32, 6, 11


def made(make: Callable[..., nn.Module], *args: Any) -> nn.Module:
    """A module in evaluation mode; made again with the same seed, it has the same bits."""
    modules = []
    for _ in range(2):
        torch.manual_seed(3)
        modules.append(make(*args))
    assert isinstance(modules[0], nn.Module)
    assert_same(modules[0].state_dict(), modules[1].state_dict())
    return modules[0].eval()


def is_a_layer(module: nn.Module, shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> None:
    """Of the shape that it is said to be; finite; all that it trains gets a gradient; on any device."""
    x = torch.randn(shape_in, generator=torch.Generator().manual_seed(1), requires_grad=True)
    kept = x.detach().clone()
    out = module(x)
    assert out.shape == shape_out
    assert out.isfinite().all()
    module.train()
    out = module(x)
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    module.eval()
    assert torch.equal(x, kept)
    assert x.grad is not None
    has_gradients(module)
    assert_moves(module, lambda one, device: one(kept.to(device, torch.bfloat16)), shape_out)


def has_gradients(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert parameter.grad.isfinite().all(), name


def looks_only_back(run: Callable[[Tensor], Tensor], x: Tensor, other: Tensor) -> None:
    """Outputs up to position 3 do not change with what comes after it."""
    changed = torch.cat([x[:, :4], other[:, 4:]], 1)
    with torch.no_grad():
        torch.testing.assert_close(run(changed)[:, :4], run(x)[:, :4], rtol=1e-4, atol=1e-5)


def linear(make: Any) -> None:
    is_a_layer(made(make, WIDTH, 5, True), (2, 3, WIDTH), (2, 3, 5))


def norm(make: Any) -> None:
    is_a_layer(made(make, WIDTH), (2, 3, WIDTH), (2, 3, WIDTH))


def activation(make: Any) -> None:
    is_a_layer(made(make), (2, 3, WIDTH), (2, 3, WIDTH))


def feed_forward(make: Any) -> None:
    is_a_layer(made(make, WIDTH, INNER), (2, 3, WIDTH), (2, 3, WIDTH))


def attention(make: Any, *more: int) -> None:
    module = made(make, WIDTH, HEADS, *more)
    is_a_layer(module, (2, TIME, WIDTH), (2, TIME, WIDTH))
    looks_only_back(module, torch.randn(2, TIME, WIDTH), torch.randn(2, TIME, WIDTH))


def block(make: Any) -> None:
    attention(make, INNER)


def network(make: Any) -> None:
    module = made(make, VOCABULARY, WIDTH, HEADS, 2, TIME)
    ids = torch.arange(2 * TIME).view(2, TIME) % VOCABULARY
    out = module(ids)
    assert out.shape == (2, TIME, VOCABULARY)
    looks_only_back(module, ids, ids.flip(1))
    F.cross_entropy(module(ids).flatten(0, 1), ids.flatten()).backward()
    has_gradients(module)
    assert_moves(module, lambda one, device: one(ids.to(device)), (2, TIME, VOCABULARY))


def loss(call: Any) -> None:
    labels = torch.tensor([0, 1, 2, 3])
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    kept = logits.detach().clone(), labels.clone()
    value = call(logits, labels)
    assert value.shape == ()
    assert value.isfinite()
    value.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
    assert torch.equal(logits, kept[0])
    assert torch.equal(labels, kept[1])
    right = F.one_hot(labels, 5) * 4.0
    assert call(right, labels) < call(right.roll(1, 1), labels)


def rate(call: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, call(20))
    rates = []
    for _ in range(25):  # also past its end
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert all(0 <= one <= 1 for one in rates)
    assert max(rates) > 0


def init(call: Any) -> None:
    states = []
    for _ in range(2):
        module = nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, INNER), nn.LayerNorm(INNER))
        before = {name: value.shape for name, value in module.state_dict().items()}
        torch.manual_seed(3)
        assert call(module) is None
        states.append(module.state_dict())
        assert {name: value.shape for name, value in module.state_dict().items()} == before
        assert all(value.isfinite().all() for value in module.state_dict().values())
    assert torch.equal(states[0]["1.weight"], states[1]["1.weight"])  # nothing is left of how it was before


def optimizer(call: Any) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(4, 4), torch.randn(32, 4)
    one = call(module.parameters(), 1e-2)
    assert isinstance(one, torch.optim.Optimizer)
    values = []
    for _ in range(30):
        value = (module(x) - x).square().mean()
        one.zero_grad()
        value.backward()
        one.step()
        values.append(value.item())
    assert values[-1] < values[0]


CONTRACTS = {one.__name__: one for one in (
    linear, norm, activation, attention, feed_forward, block, network, loss, rate, init, optimizer
)}  # fmt: skip


class Mixer(nn.Module):
    """A running mean of the positions so far."""

    def __init__(self, width: int, heads: int, inner: int = 0) -> None:
        super().__init__()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)[:, None])


class Backwards(Mixer):
    """A mixer that sees what comes."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + x.flip(1))


def tokens(vocabulary: int, width: int, heads: int, layers: int, length: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(vocabulary, width), Mixer(width, heads), nn.Linear(width, vocabulary))


def scale_down(network: nn.Module) -> None:
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)


PLANTED: dict[str, Callable[..., Any]] = {
    "linear": lambda in_features, out_features, bias: nn.Linear(in_features, out_features, bias),
    "norm": lambda width: nn.LayerNorm(width),
    "activation": lambda: nn.GELU(),
    "attention": lambda width, heads: Mixer(width, heads),
    "feed_forward": lambda width, inner: nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width)),
    "block": lambda width, heads, inner: Mixer(width, heads, inner),
    "network": tokens,
    "loss": lambda logits, labels: F.cross_entropy(logits, labels),
    "rate": lambda step, steps: 1 - step / steps,
    "init": scale_down,
    "optimizer": lambda parameters, learning_rate: torch.optim.SGD(parameters, lr=learning_rate),
}
BROKEN: dict[str, Callable[..., Any]] = {
    "linear": lambda in_features, out_features, bias: nn.Linear(in_features, in_features, bias),
    "norm": lambda width: nn.Linear(width, 1),
    "activation": lambda: nn.Flatten(),
    "attention": lambda width, heads: Backwards(width, heads),
    "feed_forward": lambda width, inner: nn.Linear(width, inner),
    "block": lambda width, heads, inner: Backwards(width, heads),
    "network": lambda vocabulary, width, heads, layers, length: nn.Embedding(vocabulary, width),
    "loss": lambda logits, labels: -F.cross_entropy(logits, labels),
    "rate": lambda step, steps: 2.0,
    "init": lambda network: network,
    "optimizer": lambda parameters, learning_rate: torch.optim.SGD(parameters, lr=learning_rate, maximize=True),
}


@pytest.mark.parametrize("case", cases("train", PLANTED), ids=str)
def test_a_part_keeps_what_its_driver_promises(case: Case) -> None:
    plugged = use(SimpleNamespace(verbs=case.verbs), case.functions(), case.params)  # type: ignore[arg-type]
    for verb in case.verbs:
        CONTRACTS[verb](plugged if len(case.verbs) == 1 else plugged[verb])  # type: ignore[index]


@pytest.mark.parametrize("verb", PLANTED)
def test_a_part_that_breaks_a_promise_is_seen(verb: str) -> None:
    with pytest.raises(AssertionError):
        test_a_part_keeps_what_its_driver_promises(Case("planted", (verb,), planted={verb: BROKEN[verb]}))
