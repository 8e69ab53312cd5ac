"""Fixed size: sentence-transformers' figures, a hand-worked batch, what is not looked at, refusals."""

import math

import pytest
import torch
from embedding_inputs import compare, inputs

import paperlab
from paperlab.methods.elastic.fixed_size import classifiers, head, loss


def test_it_is_multiple_negatives_ranking_loss() -> None:
    """sentence-transformers 6.2.0: MultipleNegativesRankingLoss(None).compute_loss_from_embeddings([q[-1], d[-1]],
    None)."""
    compare(loss, 12.724961623106848, [28.15190632, 27.26370885, -0.3090788282, 0.7786775007, 0.0])


def test_both_ways_it_is_the_symmetric_one() -> None:
    """The same with scale=10, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"."""
    compare(
        lambda q, d: loss(q, d, symmetric=True, scale=10.0),
        6.425335338626676,
        [13.023594, 13.1796496, -0.1329401837, 0.3811507635, 0.0],
    )


def test_two_pairs_by_hand() -> None:
    """Cosines are 1, 0 for the first query and .6, .8 for the second."""
    queries, documents = torch.tensor([[[2.0, 0.0], [0.6, 0.8]]]), torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    first, second = math.log(1 + math.exp(-5)), math.log(1 + math.exp(5 * (0.6 - 0.8)))
    assert loss(queries, documents, scale=5.0).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_only_its_own_size_and_layer_are_looked_at() -> None:
    queries, documents = inputs()
    loss(queries, documents, layer=2, dims=5).backward()
    assert queries.grad is not None
    assert queries.grad[1, :, :5].abs().min() > 0
    assert queries.grad[1, :, 5:].abs().max() == 0
    assert queries.grad[0].abs().max() == queries.grad[2].abs().max() == 0


@pytest.mark.parametrize("wrong", [{"dims": 17}, {"layer": 4}, {"layer": -1}, {"scale": 0.0}])
def test_what_is_not_there_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="give"):
        loss(*inputs(), **wrong)


def test_classifier_and_head() -> None:
    x = torch.randn(3, 16)
    logits = classifiers(16, 5, dims=4)(x)
    assert {size: tuple(one.shape) for size, one in logits.items()} == {4: (3, 5)}
    assert torch.equal(head(16)(x), x)
    assert not list(head(16).parameters())
    torch.testing.assert_close(head(16, projection=True)(x), x)
    with pytest.raises(ValueError, match="give 1 to 16"):
        classifiers(16, 5, dims=17)


def test_plugged_in_it_takes_one_layer_or_all() -> None:
    plugged = paperlab.load("fixed-size", scale=20.0)
    queries, documents = inputs()
    assert plugged(queries[-1], documents[-1]).item() == plugged(queries, documents).item()
    assert plugged.classifiers(16, 5)(torch.randn(3, 16))[16].shape == (3, 5)
    with pytest.raises(ValueError, match="of each"):
        plugged(queries, documents[-1])
