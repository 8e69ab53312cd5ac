"""Networks in a network: cut or taken out, a size is the plain decoder with those weights."""

import pytest
import torch
import torch.nn.functional as F

from paperlab.kit.nested import Nested, sizes_of
from paperlab.kit.networks import decoder

IDS = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(1))


def nested() -> Nested:
    torch.manual_seed(0)
    return Nested(20, 16, 2, 3, 24, 32).double()


def test_the_whole_is_the_reference_decoder() -> None:
    model = nested()
    plain = decoder({}, vocabulary=20, width=16, heads=2, layers=3, inner=24, length=32).double()
    plain.load_state_dict(model.decoder.state_dict())
    torch.testing.assert_close(model(IDS), plain(IDS))
    torch.testing.assert_close(model.at((1.0, 1.0, 1.0))(IDS), plain(IDS))


def test_a_size_is_the_decoder_in_which_the_other_units_are_silent() -> None:
    """Units whose column of `down` is zero say nothing, whatever they hear."""
    model, size = nested(), (0.25, 0.5, 1.0)
    plain = decoder({}, vocabulary=20, width=16, heads=2, layers=3, inner=24, length=32).double()
    plain.load_state_dict(model.decoder.state_dict())
    with torch.no_grad():
        for block, kept in zip(plain.get_submodule("blocks").children(), (6, 12, 24), strict=True):
            block.get_parameter("feed_forward.down.weight")[:, kept:] = 0
    wanted = plain(IDS)
    torch.testing.assert_close(model.at(size)(IDS), wanted)
    small = model.extract(size)
    torch.testing.assert_close(small(IDS), wanted)
    whole = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in small.parameters()) == whole - 3 * 16 * (18 + 12)
    torch.testing.assert_close(model(IDS), model.decoder(IDS))  # cutting left the whole as it was
    assert not torch.allclose(model(IDS), wanted)


def test_only_units_of_a_size_are_trained_by_it() -> None:
    model = nested()
    labels = IDS.roll(-1, 1).flatten()
    F.cross_entropy(model.at((0.5, 0.5, 0.25))(IDS).flatten(0, 1), labels).backward()
    for layer, kept in zip(model.layers, (12, 12, 6), strict=True):
        gate, up, down = (layer.get_parameter(f"{name}.weight").grad for name in ("gate", "up", "down"))
        assert gate is not None
        assert up is not None
        assert down is not None
        assert (gate[:kept].abs().sum(1) > 0).all()
        assert (down[:, :kept].abs().sum(0) > 0).all()
        assert gate[kept:].abs().sum() == up[kept:].abs().sum() == down[:, kept:].abs().sum() == 0


def test_an_error_leaves_the_network_whole() -> None:
    model = nested()
    before = model(IDS)
    with pytest.raises(IndexError):
        model.at((0.5, 0.5, 0.5))(IDS + 100)
    torch.testing.assert_close(model(IDS), before)


def test_sizes_are_read_and_refused() -> None:
    assert sizes_of("1, 0.5,0.25:0.5:1", 3) == ((1.0,) * 3, (0.5,) * 3, (0.25, 0.5, 1.0))
    for wrong in ("0", "1.5", "0.5:0.5", "a", ""):
        with pytest.raises(ValueError, match="sizes"):
            sizes_of(wrong, 3)
    for size in ((1.0,), (0.0, 1.0, 1.0), (2.0, 1.0, 1.0)):
        with pytest.raises(ValueError, match="one a layer"):
            nested().at(size)
