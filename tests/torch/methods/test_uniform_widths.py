"""Uniform widths: the widest that leaves out enough, or the narrowest there is."""

import pytest

from paperlab.kit.searching import Choice, Space
from paperlab.methods.distillation.uniform_widths import architecture

SPACE = Space((16, 16, 16), 6, 3, (0.25, 0.5, 1.0), least=2)


def test_the_widest_that_leaves_out_enough() -> None:
    """(6+1)16 + 17*16 + 17*16 + 17*3 + 2*48 = 803 parameters; 8 wide 56 + 72 + 72 + 27 + 48 = 275; 4 wide 107."""
    assert [SPACE.parameters((f,) * 3) for f in SPACE.factors] == [28 + 20 + 20 + 15 + 24, 275, 803]
    asked: list[Choice] = []

    def evaluate(choice: Choice) -> float:
        asked.append(choice)
        return 0.0

    found = [architecture(SPACE, evaluate, compression=share) for share in (0.0, 0.6, 0.7, 0.99)]
    assert [choice[0] for choice in found] == [1.0, 0.5, 0.25, 0.25]
    assert asked == found
    with pytest.raises(ValueError, match="share of parameters"):
        architecture(SPACE, evaluate, compression=1.0)


def test_the_first_layers_alone() -> None:
    assert architecture(SPACE, lambda _: 0.0, layers=1) == (1.0, 0.0, 0.0)
    assert architecture(SPACE, lambda _: 0.0, compression=0.99, layers=2) == (0.25, 0.25, 0.0)
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="3 hidden layers"):
            architecture(SPACE, lambda _: 0.0, layers=wrong)
