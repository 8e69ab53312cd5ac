"""The rule by hand, against a counter that is kept token by token, and on two models that differ where it counts."""

import pytest
import torch
from torch import Tensor

from paperlab.core.methods import find_method
from paperlab.kit.switching import place
from paperlab.methods.elastic.entropy_adaptive_decoding import switch


def placed(small: Tensor, large: Tensor, threshold: float, window: int, duration: int) -> Tensor:
    return place(
        small, large, lambda e, chosen: switch(e, chosen, threshold=threshold, window=window, duration=duration)
    )


def test_turns_by_hand() -> None:
    """Means of two, three tokens at least: 4 and 4 call the large model, which then sees 1 and 1."""
    small = torch.tensor([[0.0, 4, 4, 4, 9, 9, 9, 1, 1, 1]])
    large = torch.tensor([[9.0, 9, 9, 1, 1, 1, 9, 9, 9, 9]])
    assert placed(small, large, 2.0, 2, 3).int().tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 0, 0]]
    # At position 9 three of the small model's are behind it, and the mean of 1 and 1 is below 2.
    assert placed(small, large, 1.0, 2, 3).int().tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]  # at the threshold: large


def stepwise(small: list[float], large: list[float], threshold: float, window: int, duration: int) -> list[bool]:
    """The published rule with its counter of tokens since the last switch."""
    current, counter, seen, out = False, 0, [], []
    for token in range(len(small)):
        if seen and counter >= duration:
            wanted = sum(seen[-window:]) / len(seen[-window:]) >= threshold
            if wanted != current:
                current, counter = wanted, 0
        out.append(current)
        seen.append((large if current else small)[token])
        counter += 1
    return out


@pytest.mark.parametrize(("window", "duration"), [(5, 10), (1, 1), (3, 2), (4, 7)])
def test_it_is_the_rule_with_a_counter(window: int, duration: int) -> None:
    draw = torch.Generator().manual_seed(window)
    small, large = (torch.rand(6, 80, generator=draw, dtype=torch.float64) * scale for scale in (6, 5))
    chosen = placed(small, large, 2.7, window, duration)
    assert 0.1 < chosen.double().mean() < 0.9
    for row in range(6):
        wanted = stepwise(small[row].tolist(), large[row].tolist(), 2.7, window, duration)
        assert chosen[row].tolist() == wanted
        runs = (chosen[row, 1:] != chosen[row, :-1]).nonzero().flatten().diff()
        assert (runs >= duration).all()


def test_only_the_past_decides_and_a_higher_threshold_takes_less() -> None:
    small, large = torch.rand(4, 60) * 6, torch.rand(4, 60) * 6
    before = placed(small, large, 3.0, 5, 10)
    small[:, 40:], large[:, 40:] = 0.0, 0.0
    assert torch.equal(placed(small, large, 3.0, 5, 10)[:, :41], before[:, :41])
    assert not placed(small, large, 7.0, 5, 10).any()
    assert placed(small, large, 0.0, 5, 10)[:, 10:].all()


def test_values_out_of_range_are_refused() -> None:
    empty = torch.zeros(1, 0)
    for wrong in ({"threshold": -1.0}, {"window": 0}, {"duration": 0}):
        with pytest.raises(ValueError, match="1 or more tokens"):
            switch(empty, empty.bool(), **wrong)


def test_the_card_s_figures_of_compute_are_those_of_the_writer_alone() -> None:
    """Which is what speaks for watching the writer's entropy: `departs`."""
    llama, qwen = 1 - (0.43 + 0.57 * 3 / 11), 1 - (0.25 + 0.75 * 1.5 / 14)
    assert (llama, qwen) == (pytest.approx(0.415, abs=0.002), pytest.approx(0.67, abs=0.002))
    for check in find_method("entropy-adaptive-decoding").card.checks:
        if check.role == "claim":
            assert check.baseline.method == "random-switching"
            assert check.equal == {"share": 0.05}
