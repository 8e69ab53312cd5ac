"""Signatures: by hand, orthogonal to clean training, layers beyond the first are left alone, its ends, refusals."""

import pytest
import torch
from torch import Tensor

import paperlab
from paperlab.methods.merging.robust_weight_signatures import signature


def states(count: int) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(count)
    shapes = {"0.weight": (4, 3), "0.bias": (4,), "1.weight": (4,), "1.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
    return [{name: torch.randn(shape, generator=draw) for name, shape in shapes.items()} for _ in range(count)]


def test_by_hand() -> None:
    base, patched, clean, robust = (
        {"w.weight": torch.tensor([values])} for values in ([0.0, 0.0], [5.0, 5.0], [2.0, 0.0], [3.0, 4.0])
    )
    merged = paperlab.load("robust-weight-signatures")(base, [patched, clean, robust])
    assert merged["w.weight"].tolist() == [[5.0, 9.0]]  # (3, 4) without its part along (2, 0) is (0, 4)
    plain = paperlab.load("robust-weight-signatures", project=False)(base, [patched, clean, robust])
    assert plain["w.weight"].tolist() == [[8.0, 9.0]]
    two = paperlab.load("robust-weight-signatures", scale=0.5)(base, [patched, clean, robust, clean])
    assert two["w.weight"].tolist() == [[5.0, 6.0]]  # clean's own signature is nothing: half of (0, 4) / 2


def test_a_signature_is_orthogonal_to_clean_training() -> None:
    draw = torch.Generator().manual_seed(0)
    own, change = torch.randn(2, 1000, dtype=torch.float64, generator=draw)
    assert abs((signature(change, own) @ own).item()) < 1e-9
    torch.testing.assert_close(signature(change, torch.zeros_like(own)), change)


@pytest.mark.parametrize(("layers", "touched"), [(1, "0."), (2, ("0.", "2.")), (9, ("0.", "2."))])
def test_only_the_first_layers_are_patched(layers: int, touched: str | tuple[str, ...]) -> None:
    base, *models = states(4)
    merged = paperlab.load("robust-weight-signatures", layers=layers)(base, models)
    for name in base:
        assert torch.equal(merged[name], models[0][name]) == (not name.startswith(touched))


def test_factor_nothing_is_the_clean_network() -> None:
    base, *models = states(5)
    merged = paperlab.load("robust-weight-signatures", scale=0.0)(base, models)
    assert all(torch.equal(merged[name], models[0][name]) for name in base)


def test_of_two_models_the_first_is_the_clean_one() -> None:
    base, clean, robust = states(3)
    merge = paperlab.load("robust-weight-signatures")
    short, long = merge(base, [clean, robust]), merge(base, [clean, clean, robust])
    assert all(torch.equal(short[name], long[name]) for name in base)


def test_refusals() -> None:
    base, *models = states(3)
    with pytest.raises(ValueError, match="at least one that was tuned"):
        paperlab.load("robust-weight-signatures")(base, models[:1])
    with pytest.raises(ValueError, match="at least the first"):
        paperlab.load("robust-weight-signatures", layers=0)(base, [*models, base])
