"""Inside `frozen` only what is told to asks for a gradient; afterwards all is as it was, also after an error."""

import pytest
from torch import nn

from paperlab.kit.objective import frozen


def test_flags_come_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].bias.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    with frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        model[0].bias.requires_grad_(True)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert [parameter.requires_grad for parameter in model.parameters()] == before
