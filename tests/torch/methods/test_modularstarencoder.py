"""ModularStarEncoder: the sum written out, one exit, the exits of other depths, heads."""

import pytest
import torch
from embedding_inputs import compare, inputs

from paperlab.methods.elastic import fixed_size
from paperlab.methods.elastic.modularstarencoder import exits_of, head, loss


def test_one_exit_is_the_symmetric_loss() -> None:
    """sentence-transformers' figures, as in test_fixed_size.py."""
    slopes = [13.023594, 13.1796496, -0.1329401837, 0.3811507635, 0.0]
    compare(lambda q, d: loss(q, d, exits="3"), 6.425335338626676, slopes)


def test_deeper_exits_weigh_more() -> None:
    q, d = inputs()
    alone = [fixed_size.loss(q, d, layer=n, scale=10.0, symmetric=True) for n in (1, 2, 3)]
    torch.testing.assert_close(loss(q, d, exits="1,2,3"), alone[0] / 3 + 2 * alone[1] / 3 + alone[2])


def test_the_exits_are_the_authors_depths() -> None:
    assert exits_of(36) == (4, 9, 18, 27, 36)
    assert exits_of(6) == (1, 2, 3, 5, 6)
    q, d = inputs(layers=6)
    assert torch.equal(loss(q, d), loss(q, d, exits="1,2,3,5,6"))


def test_a_head_begins_as_nothing_and_learns() -> None:
    x = torch.randn(3, 8)
    made = head(8)
    torch.testing.assert_close(made(x), x)
    assert [tuple(parameter.shape) for parameter in made.parameters()] == [(8, 8)]


def test_exits_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="4"):
        loss(*inputs(), exits="1,4")


def test_one_layer_is_refused() -> None:
    q, d = inputs()
    with pytest.raises(ValueError, match="several layers"):
        loss(q[-1:], d[-1:])
