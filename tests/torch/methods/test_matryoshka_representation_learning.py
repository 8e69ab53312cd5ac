"""Matryoshka: the tool's figures for pairs, the authors' layer written out, one size, refusals."""

import pytest
import torch
import torch.nn.functional as F
from embedding_inputs import compare, inputs

import paperlab
from paperlab.methods.elastic import fixed_size
from paperlab.methods.elastic.matryoshka_representation_learning import classifiers, loss


@pytest.mark.parametrize(
    ("sizes", "value", "slopes"),
    [
        ("", 30.99167613153653, [59.67376536, 62.45589383, -0.1072999688, 2.478451827, 0.0]),  # 8, 16
        ("3, 5, 16", 44.187892112057014, [104.128205, 103.734629, -0.4780051511, 0.7786775007, 0.0]),
    ],
)
def test_it_is_matryoshka_loss(sizes: str, value: float, slopes: list[float]) -> None:
    """sentence-transformers 6.2.0: MatryoshkaLoss(model, inner, [8, 16]) and [3, 5, 16], with a model that gives back
    its input and MultipleNegativesRankingLoss for inner."""
    compare(lambda q, d: loss(q[-1], d[-1], sizes=sizes), value, slopes)


def test_of_one_size_it_is_the_plain_loss() -> None:
    q, d = inputs()
    for size in (5, 16):
        assert torch.equal(loss(q[-1], d[-1], sizes=str(size)), fixed_size.loss(q, d, dims=size))


def test_two_sizes_by_hand() -> None:
    """One coordinate: cosines are all 1, so that two documents are level. Two: the right ones alone are similar."""
    q = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    expected = torch.log(torch.tensor(2.0)) + torch.log1p(torch.exp(torch.tensor(-20.0)))
    torch.testing.assert_close(loss(q, q.clone(), sizes="1,2"), expected)


@pytest.mark.parametrize("efficient", [False, True])
def test_its_classifiers_are_those_of_the_authors_layer(efficient: bool) -> None:
    """MRL.py: x[:, :m] through its own layer, or through the first m columns of the one layer with the same bias."""
    torch.manual_seed(0)
    module, x = classifiers(16, 5, sizes="4,8,16", efficient=efficient), torch.randn(7, 16)
    assert len(module.layers) == (1 if efficient else 3)
    for place, (size, logits) in enumerate(module(x).items()):
        layer = module.layers[0 if efficient else place]
        torch.testing.assert_close(logits, x[:, :size] @ layer.weight[:, :size].T + layer.bias)
    labels = torch.randint(5, (7,))
    sum(F.cross_entropy(one, labels) for one in module(x).values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("sizes", ["8,4", "8,17", "0,8", "eight"])
def test_sizes_that_make_no_sense_are_refused(sizes: str) -> None:
    q, d = inputs()
    with pytest.raises(ValueError, match="size"):
        loss(q[-1], d[-1], sizes=sizes)


def test_the_snippet_s_call() -> None:
    plugged = paperlab.load("matryoshka-representation-learning", scale=20.0)
    q, d = inputs()
    assert plugged(q[-1], d[-1]).item() == plugged(q, d).item() == pytest.approx(30.99167613153653)
    assert sorted(plugged.classifiers(384, 3)(torch.randn(2, 384))) == [8, 16, 32, 64, 128, 256, 384]
