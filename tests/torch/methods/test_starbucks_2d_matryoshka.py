"""Starbucks: the authors' figures, the menu, what the teacher is spared, refusals."""

import pytest
import torch
from embedding_inputs import compare, inputs
from torch import Tensor

from paperlab.methods.elastic import fixed_size, starbucks_2d_matryoshka
from paperlab.methods.elastic.starbucks_2d_matryoshka import loss


def test_it_is_the_authors_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """SrlDenseModel.forward of ielab/Starbucks@2a3b24f (retrieval/modeling.py), layers 1, 2, 3 with sizes 4, 8, 16,
    temperature 1, KL weight 1; its scores are dot products, ours cosines."""

    def products(queries: Tensor, documents: Tensor) -> Tensor:
        return queries @ documents.T

    monkeypatch.setattr(starbucks_2d_matryoshka, "cosines", products)
    compare(
        lambda q, d: loss(q, d, scale=1.0),
        10.758752049583904,
        [19.23600344, 18.30880345, -0.2025750236, 0.4048625848, 2.20278857],
    )


def test_a_menu_of_the_whole_alone_is_the_plain_loss() -> None:
    q, d = inputs()
    torch.testing.assert_close(loss(q, d, menu="3:16"), fixed_size.loss(q, d), rtol=1e-14, atol=0)


def test_the_teacher_is_not_pulled_towards_its_pupils() -> None:
    q, d = inputs()
    slopes = [torch.autograd.grad(loss(q, d, kl_weight=w), q)[0] for w in (0.0, 1.0, 5.0)]
    assert torch.equal(slopes[0][-1], slopes[1][-1])
    assert torch.equal(slopes[0][-1], slopes[2][-1])
    assert not torch.equal(slopes[0][0], slopes[1][0])


def test_the_default_menu_is_the_stairs() -> None:
    q, d = inputs()
    assert torch.equal(loss(q, d), loss(q, d, menu="1:4,2:8,3:16"))
    assert starbucks_2d_matryoshka._menu("", 6, 384) == [(1, 16), (2, 32), (3, 64), (4, 128), (5, 256), (6, 384)]


@pytest.mark.parametrize("menu", ["1", "0:4", "4:4", "1:17", "1:x"])
def test_a_menu_of_what_is_not_there_is_refused(menu: str) -> None:
    with pytest.raises(ValueError, match="menu"):
        loss(*inputs(), menu=menu)


def test_one_layer_is_refused() -> None:
    q, d = inputs()
    with pytest.raises(ValueError, match="several layers"):
        loss(q[-1:], d[-1:])
