"""2D Matryoshka: the authors' figures at fixed draws, what is drawn, all sizes, refusals."""

import importlib

import pytest
import torch
from embedding_inputs import compare, inputs

import paperlab
from paperlab.methods.elastic import matryoshka_representation_learning as nested

method = importlib.import_module("paperlab.methods.elastic.2d_matryoshka_sentence_embeddings")


@pytest.mark.parametrize(
    ("align", "layer", "value", "slopes"),
    [
        (True, 1, 31.94146510886199, [65.62153594, 72.31953552, -0.1109966751, 2.479358028, 6.072023942]),
        (True, 2, 34.71253526413828, [85.22804149, 90.65253956, -0.112548118, 2.474355446, 0.0]),
        (False, 1, 31.33888464506851, [65.45267771, 72.3491025, -0.1072999688, 2.478451827, 5.778912345]),
        (False, 2, 34.21885108122025, [85.21224606, 90.62445933, -0.1072999688, 2.478451827, 0.0]),
    ],
)
def test_it_is_the_authors_loss(
    align: bool, layer: int, value: float, slopes: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AngleTDMSETrainer.compute_loss of SeanLee97/AnglE@74e5ba2, with random.randint giving the layer, 8 the only size
    below 16, a pooler that gives back these inputs, and in-batch negatives for its loss."""
    monkeypatch.setattr(torch, "randint", lambda high, shape: torch.tensor(layer - 1))
    compare(lambda q, d: method.loss(q, d, align=align), value, slopes)


def test_every_layer_but_the_last_is_drawn_and_one_size_at_a_time() -> None:
    queries, documents = inputs(layers=4, width=40)
    layers, sizes = set(), set()
    torch.manual_seed(0)
    for _ in range(60):
        (slope,) = torch.autograd.grad(method.loss(queries, documents, align=False), queries)
        early = [n for n in range(3) if slope[n].abs().sum() > 0]
        assert len(early) == 1
        layers.add(early[0])
    assert layers == {0, 1, 2}
    for _ in range(60):
        with torch.no_grad():
            sizes.add(round(method.loss(queries[2:], documents[2:], align=False).item(), 9))
    assert len(sizes) == 3  # 8, 16, 32


def test_with_all_sizes_it_is_the_nested_loss_of_two_layers() -> None:
    queries, documents = (x[1:] for x in inputs())
    mine = method.loss(queries, documents, align=False, sizes_per_step=0, sizes="4,8")
    theirs = sum(nested.loss(queries[n], documents[n], sizes="4,8,16") for n in (0, 1))
    torch.testing.assert_close(mine, theirs)


def test_layers_that_agree_need_no_alignment() -> None:
    queries, documents = (x[-1:].expand(2, -1, -1) for x in inputs())
    values = [method.loss(queries, documents, align=align) for align in (True, False)]
    torch.testing.assert_close(*values)


def test_refusals() -> None:
    queries, documents = inputs()
    with pytest.raises(ValueError, match="several layers"):
        method.loss(queries[-1:], documents[-1:])
    with pytest.raises(ValueError, match="several layers"):
        paperlab.load("2d-matryoshka-sentence-embeddings")(queries[-1], documents[-1])
    with pytest.raises(ValueError, match="above 0"):
        method.loss(queries, documents, temperature=0.0)
