"""Fixed places: evenly spread, as many as the share says."""

import pytest
import torch

from paperlab.kit.switching import place
from paperlab.methods.elastic.periodic_switching import switch


def places(share: float, time: int) -> list[bool]:
    bits = torch.rand(2, time)
    chosen = place(bits, bits, lambda entropies, large, _: switch(large, share=share))
    assert torch.equal(chosen[0], chosen[1])
    return chosen[0].tolist()


def test_places_by_hand() -> None:
    assert places(0.5, 6) == [False, True] * 3
    assert places(0.25, 8) == [False, False, False, True] * 2
    assert places(0.75, 8) == [False, True, True, True] * 2
    assert not any(places(0.0, 9))
    assert all(places(1.0, 9))
    with pytest.raises(ValueError, match="give 0 to 1"):
        places(-0.5, 2)


@pytest.mark.parametrize("share", [0.25, 0.43, 0.9])
def test_every_stretch_has_its_share(share: float) -> None:
    chosen = places(share, 300)
    for start in range(0, 280, 7):
        assert abs(sum(chosen[start : start + 20]) - 20 * share) <= 1
