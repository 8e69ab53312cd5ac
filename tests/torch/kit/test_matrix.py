"""Matrix types: what they stand for, and how many bits they take, counted by hand and against each other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.low_rank import compensate
from paperlab.kit.matrix import Dense, Factors, Matrix, Sparse, Sum
from paperlab.kit.quantized import Quantized


def weights(rows: int = 8, columns: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def rounded(weight: torch.Tensor, bits: int = 4) -> Quantized:
    return round_to_grid(weight, *min_max(weight, bits=bits), bits=bits)


def total(matrix: Matrix) -> int:
    return sum(matrix.stored_bits().values())


@pytest.mark.parametrize(
    "matrix",
    [
        Dense(weights()),
        rounded(weights()),
        Sparse(weights() > 0, Dense(weights())),
        Factors(weights(8, 2), weights(2, 16)),
        Sum((rounded(weights()), Factors(weights(8, 2), weights(2, 16)))),
    ],
    ids=lambda matrix: type(matrix).__name__,
)
def test_all_keep_the_protocol(matrix: Matrix) -> None:
    assert isinstance(matrix, Matrix)
    assert tuple(matrix.shape) == (8, 16) == tuple(matrix.dense().shape)
    assert 0 <= matrix.density <= 1
    assert float((matrix.dense() != 0).double().mean()) <= matrix.density
    assert total(matrix) > 0


def test_a_bitmask_and_the_kept_values() -> None:
    mask = torch.tensor([[True, False, True, False], [False, True, True, False]])
    matrix = Sparse(mask, Dense(torch.arange(8.0).view(2, 4)))
    assert matrix.dense().tolist() == [[0, 0, 2, 0], [0, 5, 6, 0]]
    assert matrix.density == 0.5
    assert matrix.stored_bits() == {"values": 4 * 16, "positions": 8}


def test_whole_rows_and_columns_cost_a_bit_each() -> None:
    mask = torch.zeros(32, 64, dtype=torch.bool)
    mask[:16, 8:] = True
    assert Sparse(mask, Dense(weights(32, 64))).stored_bits()["positions"] == 32 + 64


def test_few_weights_are_listed() -> None:
    mask = torch.zeros(64, 1024, dtype=torch.bool)
    mask[3, 5] = mask[9, 1000] = True
    assert Sparse(mask, Dense(weights(64, 1024))).stored_bits()["positions"] == 2 * 16 + 65 * 32


def test_codes_at_pruned_places_are_not_stored() -> None:
    weight = weights(8, 64)
    mask = weights(8, 64, 1) > 0.5
    codes, sparse = rounded(weight), Sparse(mask, rounded(weight))
    kept = int(mask.sum())
    assert sparse.stored_bits()["codes"] == 4 * kept
    assert sparse.stored_bits()["scale"] == codes.stored_bits()["scale"]
    assert torch.equal(sparse.dense(), torch.where(mask, codes.dense(), 0.0))


def test_pruned_rounded_and_corrected_is_one_matrix() -> None:
    weight = weights(32, 48)
    mask = weights(32, 48, 1) > 0
    stored = Sparse(mask, rounded(weight, 3))
    corrected = compensate(weight, stored, rank=4, bits=16)
    assert total(corrected) == total(stored) + 4 * (32 + 48) * 16
    assert (corrected.dense() - weight).square().sum() < (stored.dense() - weight).square().sum()
    assert corrected.density == 1.0


def test_a_sum_of_sparse_ones_keeps_the_union() -> None:
    first, second = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    both = Sum((Sparse(first, Dense(torch.ones(1, 3))), Sparse(second, Dense(torch.ones(1, 3)))))
    assert both.density == pytest.approx(2 / 3)
    assert both.dense().tolist() == [[1, 1, 0]]


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        Sum((Dense(weights(2, 3)), Dense(weights(3, 2))))
    with pytest.raises(ValueError, match="a mask is bool"):
        Sparse(torch.ones(2, 3, dtype=torch.bool), Dense(weights(3, 2)))
    with pytest.raises(ValueError, match="a mask is bool"):
        Sparse(torch.ones(2, 3), Dense(weights(2, 3)))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**31))
def test_sparse_never_costs_more_than_a_bit_a_weight_beyond_its_values(
    rows: int, columns: int, share: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, columns, generator=draw) < share
    matrix = Sparse(mask, Dense(torch.randn(rows, columns, generator=draw)))
    kept = int(mask.sum())
    assert 16 * kept <= total(matrix) <= 16 * kept + rows * columns
    assert matrix.density == pytest.approx(kept / mask.numel())
