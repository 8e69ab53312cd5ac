"""Random search: how it draws, and that it takes the best."""

from collections import Counter

import pytest

from paperlab.kit.searching import Choice, Space
from paperlab.methods.distillation.random_architectures import architecture

SPACE = Space((16, 16, 16), 6, 3, (0.25, 0.5, 1.0), least=2)


def test_layers_are_removed_by_a_coin_and_narrowed_alike() -> None:
    asked: list[Choice] = []

    def evaluate(choice: Choice) -> float:
        asked.append(choice)
        return SPACE.compression(choice)

    found = architecture(SPACE, evaluate, 3_000, 0)
    assert len(asked) == 3_000
    assert found == (0.25, 0.0, 0.0)
    counts = Counter(choice[1] for choice in asked)
    assert counts[0.0] / 3_000 == pytest.approx(0.5, abs=0.05)
    assert all(counts[factor] / 3_000 == pytest.approx(1 / 6, abs=0.03) for factor in SPACE.factors)
    assert all(choice[0] > 0 for choice in asked)
    assert architecture(SPACE, SPACE.compression, 5, 1) == architecture(SPACE, SPACE.compression, 5, 1)
