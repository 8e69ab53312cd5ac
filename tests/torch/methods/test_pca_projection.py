"""PCA: the axes of points that lie along known directions, scikit-learn's, what a turn keeps."""

import numpy
import pytest
import torch
import torch.nn.functional as F
from embedding_inputs import compare
from sklearn.decomposition import PCA

from paperlab.methods.elastic.pca_projection import loss, project


def test_it_trains_with_the_plain_loss() -> None:
    """As in test_fixed_size.py."""
    slopes = [28.15190632, 27.26370885, -0.3090788282, 0.7786775007, 0.0]
    compare(lambda q, d: loss(q[-1], d[-1]), 12.724961623106848, slopes)


def test_it_is_scikit_learn_s() -> None:
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(3, 0.2, 12) + 0.5
    unit = F.normalize(x, dim=-1)
    theirs = PCA(svd_solver="full").fit(unit.numpy()).transform(unit.numpy())
    mine = project(x)(x).numpy()
    signs = numpy.sign((mine * theirs).sum(0))
    assert mine == pytest.approx(theirs * signs, abs=1e-5)
    assert (numpy.diff(mine.var(0)) <= 0).all()


def test_a_turn_alone_keeps_cosines() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    turned = project(x, centre=False)(x)
    torch.testing.assert_close(turned @ turned.T, F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).T)
