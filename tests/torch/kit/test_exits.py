"""Networks that can be left after any layer: what their decoder says at each, and when it is sure enough."""

from itertools import pairwise

import objective_settings
import pytest
import torch
import torch.nn.functional as F

from paperlab.kit.exits import Exits, agreement, at_each_depth, confidence, first_sure, layered


def test_the_last_depth_is_the_whole_network_and_a_wrapper_changes_nothing() -> None:
    setting = objective_settings.layered()
    images = setting.test.inputs[0]
    wrapped = Exits(setting.model, (1, 3))
    found, same = (at_each_depth(model, images) for model in (setting.model, wrapped))
    assert len(found) == len(wrapped.layers) == 3
    assert torch.equal(found[-1], setting.model(images))
    assert all(torch.equal(one, other) for one, other in zip(found, same, strict=True))
    assert not any(torch.equal(one, other) for one, other in pairwise(found))
    assert len(wrapped.state_dict()) == len(setting.model.state_dict())


def test_a_network_without_a_shared_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="share a decoder"):
        layered(objective_settings.convolutional().model)


def test_the_threshold_is_the_highest_that_spends_no_more() -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        sure = torch.rand(12, 4, generator=draw)
        mean = 3 * torch.rand((), generator=draw).item()
        best = torch.zeros(12)
        for threshold in sure[:, :3].flatten().sort().values:
            depth = torch.tensor([next((k for k in range(3) if row[k] >= threshold), 3) for row in sure])
            if depth.double().mean() <= mean:
                best = depth
        assert first_sure(sure, mean).tolist() == best.tolist()


def test_sureness_worked_by_hand() -> None:
    """Two pixels, background and two classes."""
    shares = torch.tensor([[[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]], [[0.1, 0.9, 0.0], [0.2, 0.2, 0.6]]])  # depths, pixels
    logits = [one.T.reshape(1, 3, 1, 2).clamp(min=1e-9).log() for one in shares]
    found = confidence(logits)
    assert found[0].tolist() == pytest.approx([0.7 / 0.9, 1.5 / 1.7])
    assert agreement(logits)[0].tolist() == [0, 0.5]  # the second pixel stays, the first was background
    nothing = F.one_hot(torch.zeros(1, 1, 2, dtype=torch.long), 3).permute(0, 3, 1, 2).float()
    assert agreement([nothing, nothing])[0].tolist() == [0, 1]
