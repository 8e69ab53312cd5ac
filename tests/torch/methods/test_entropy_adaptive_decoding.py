"""The rule by hand, against a counter that is kept token by token, and on two models that differ where it counts."""

import pytest
import torch
from torch import Tensor

from paperlab.core.methods import find_method
from paperlab.kit.switching import place
from paperlab.methods.elastic.entropy_adaptive_decoding import switch


def placed(small: Tensor, large: Tensor, threshold: float, window: int, duration: int, current: bool = False) -> Tensor:
    return place(
        small,
        large,
        lambda e, chosen, ahead: switch(
            e, chosen, ahead, threshold=threshold, window=window, duration=duration, current=current
        ),
    )


def test_turns_by_hand() -> None:
    """Means of two, three tokens at least: 4 and 4 call the large model, which then sees 1 and 1."""
    small = torch.tensor([[0.0, 4, 4, 4, 9, 9, 9, 1, 1, 1]])
    large = torch.tensor([[9.0, 9, 9, 1, 1, 1, 9, 9, 9, 9]])
    assert placed(small, large, 2.0, 2, 3).int().tolist() == [[0, 0, 0, 1, 1, 1, 0, 0, 0, 0]]
    # With the next token's own: already the mean of 4 and 4 counts for the second of them, the large model's is unseen.
    assert placed(small, large, 4.0, 2, 3, True).int().tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 0, 0]]
    # At position 9 three of the small model's are behind it, and the mean of 1 and 1 is below 2.
    assert placed(small, large, 1.0, 2, 3).int().tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]  # at the threshold: large


def stepwise(
    small: list[float], large: list[float], threshold: float, window: int, duration: int, ahead: bool
) -> list[bool]:
    """The published rule with its counter of tokens since the last switch."""
    current, counter, seen, out = False, 0, [], []
    for token in range(len(small)):
        if seen and counter >= duration:
            bits = (small[: token + 1] if ahead else seen)[-window:]
            wanted = sum(bits) / len(bits) >= threshold
            if wanted != current:
                current, counter = wanted, 0
        out.append(current)
        seen.append((large if current else small)[token])
        counter += 1
    return out


@pytest.mark.parametrize("current", [False, True])
@pytest.mark.parametrize(("window", "duration"), [(5, 10), (1, 1), (3, 2), (4, 7)])
def test_it_is_the_rule_with_a_counter(window: int, duration: int, current: bool) -> None:
    draw = torch.Generator().manual_seed(window)
    small, large = (torch.rand(6, 80, generator=draw, dtype=torch.float64) * scale for scale in (6, 5))
    chosen = placed(small, large, 2.7, window, duration, current)
    assert 0.1 < chosen.double().mean() < 0.9
    for row in range(6):
        wanted = stepwise(small[row].tolist(), large[row].tolist(), 2.7, window, duration, current)
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
            switch(empty, empty.bool(), lambda: torch.zeros(1, 1), **wrong)


def test_either_reading_is_compared_with_a_coin_of_its_share() -> None:
    claims = [check for check in find_method("entropy-adaptive-decoding").card.checks if check.role == "claim"]
    assert [bool(check.method.params.get("current")) for check in claims] == [False, False, True, True]
    for check in claims:
        assert check.baseline.method == "random-switching"
        assert f"{check.baseline.params['share']:.2f}"[2:] in check.claim
        assert check.equal == {"share": 0.05}


def test_the_next_token_s_entropy_counts_in_one_reading_only() -> None:
    small, large = torch.full((2, 30), 1.0), torch.full((2, 30), 1.0)
    small[1, 20] = 9.0
    past, current = (placed(small, large, 5.0, 1, 1, reading) for reading in (False, True))
    assert past[1].nonzero().flatten().tolist() == [21]
    assert current[1].nonzero().flatten().tolist() == [20]
    assert not past[0].any()
    assert not current[0].any()
