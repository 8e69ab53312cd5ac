"""Truncation: nothing is done."""

import torch

from paperlab.methods.elastic.truncation import project


def test_an_embedding_stays_as_it_is() -> None:
    x = torch.randn(5, 8)
    assert torch.equal(project(torch.randn(20, 8))(x), x)
