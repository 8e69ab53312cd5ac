"""Masks from scores, against sorting in plain Python, with ties."""

import pytest
import torch

from paperlab.kit.masks import keep_highest, read_pattern


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.29, 0.5, 0.97])
def test_an_exact_share_of_each_row_goes_the_first_of_equal_scores(sparsity: float) -> None:
    score = torch.randint(0, 6, (7, 100), generator=torch.Generator().manual_seed(0)).float()  # many ties
    mask = keep_highest(score, sparsity=sparsity)
    for row, kept in zip(score.tolist(), mask.tolist(), strict=True):
        gone = sorted(range(100), key=lambda i: (row[i], i))[: round(100 * sparsity)]
        assert [i for i in range(100) if not kept[i]] == sorted(gone)


@pytest.mark.parametrize(("pattern", "stay", "width"), [("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4), ("3:4", 3, 4)])
def test_n_of_every_m_neighbours_stay(pattern: str, stay: int, width: int) -> None:
    score = torch.rand(5, 48, generator=torch.Generator().manual_seed(1))
    mask = keep_highest(score, sparsity=1 - stay / width, pattern=pattern)
    for row, kept in zip(score.tolist(), mask.tolist(), strict=True):
        for start in range(0, 48, width):
            best = sorted(range(start, start + width), key=lambda i: -row[i])[:stay]
            assert {i for i in range(start, start + width) if kept[i]} == set(best)


def test_what_cannot_be_done_is_refused() -> None:
    score = torch.rand(2, 6)
    for sparsity in (-0.1, 1.0):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            keep_highest(score, sparsity=sparsity)
    with pytest.raises(ValueError, match="does not divide the 6 input columns"):
        keep_highest(score, pattern="2:4")
    with pytest.raises(ValueError, match=r"removes 0\.75 of the weights: set sparsity"):
        keep_highest(score, pattern="1:4")
    for wrong in ("2", "2:", "a:b", "4:4", "0:4", "-1:4"):
        with pytest.raises(ValueError, match="write N:M"):
            read_pattern(wrong, 0.5)
