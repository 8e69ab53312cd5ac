"""Which learning rate an arm keeps."""

import pytest

from paperlab.lab.drivers._rates import best_rate


def test_the_rate_with_the_highest_figure_is_kept_and_each_is_tried_once_in_order() -> None:
    asked: list[float] = []
    shown: list[tuple[str, int, int]] = []

    def figure(rate: float) -> float:
        asked.append(rate)
        return {3e-3: 0.2, 1e-3: 0.5, 1e-2: 0.4}[rate]

    found = best_rate((3e-3, 1e-3, 1e-2), figure, lambda *told: shown.append(told))
    assert found == {"rate": 1e-3, "validation": {"0.003": 0.2, "0.001": 0.5, "0.01": 0.4}}
    assert asked == [3e-3, 1e-3, 1e-2]
    assert shown == [("learning rates", done, 3) for done in (1, 2, 3)]


def test_a_tie_goes_to_the_smaller_rate_and_what_is_no_number_loses() -> None:
    assert best_rate((1e-2, 1e-3), lambda rate: 0.5)["rate"] == 1e-3
    assert best_rate((1e-3, 1e-2), lambda rate: float("nan") if rate == 1e-3 else -9.0)["rate"] == 1e-2
    assert best_rate((1e-2, 1e-3), lambda rate: float("nan") if rate == 1e-3 else -9.0)["rate"] == 1e-2


def test_one_rate_is_not_tried_and_none_is_refused() -> None:
    assert best_rate((1e-3,), lambda rate: 1 / 0) == {"rate": 1e-3, "validation": {"0.001": 0.0}}
    with pytest.raises(ValueError, match="names no learning rate"):
        best_rate((), lambda rate: 0.0)
