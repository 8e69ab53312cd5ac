"""A matrix of codewords: by hand, its gradients, what is stored of it."""

import torch

from paperlab.kit.codebook import Codebook, cluster


def test_weight_and_nearest_codes_by_hand() -> None:
    words = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    book = Codebook(torch.tensor([[1, 2], [0, 1]]), words, torch.tensor([[2.0], [10.0]]))
    assert book.weight().tolist() == [[2, 0, 2, 2], [0, 0, 10, 0]]
    # first row halved: (1.1, 0.6) is nearest to (1, 1), (0.4, 0.1) to (0, 0); second divided by ten alike
    assert book.nearest(torch.tensor([[2.2, 1.2, 0.8, 0.2], [11.0, 6.0, 4.0, 1.0]])).tolist() == [[2, 0], [2, 0]]
    stored = book.packed(2)
    assert torch.equal(stored.dense(), book.weight())
    assert stored.stored_bits() == {"codes": 4 * 2, "scale": 2 * 16, "codebook": 6 * 16}


def test_gradients_follow_the_chain_rule() -> None:
    torch.manual_seed(3)
    book = cluster(torch.randn(5, 12), dim=2, bits=2, seed=0)
    gradient = torch.randn(5, 12)
    words, scale = book.words.clone().requires_grad_(), book.scale.clone().requires_grad_()
    (words[book.codes].flatten(1) * scale).backward(gradient)
    mine = book.gradients(gradient)
    torch.testing.assert_close(mine["words"], words.grad)
    torch.testing.assert_close(mine["scale"], scale.grad)


def test_few_distinct_rows_are_met_exactly() -> None:
    row = torch.tensor([[1.0, -1.0, 3.0, 0.5]])
    weight = torch.cat([row, -2 * row, 5 * row])  # after division by each row's norm: +-row, four pairs
    torch.testing.assert_close(cluster(weight, dim=2, bits=2, seed=0).weight(), weight)
