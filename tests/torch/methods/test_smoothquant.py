"""SmoothQuant: equation 4 by hand, and what it does to whole models."""

import pytest
import torch
from loud_models import BATCHES, assert_function_stays, bert, copied, error, llama

from paperlab.kit import objective
from paperlab.kit.fold import scaling_groups
from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization import smoothquant


@pytest.mark.parametrize("make", [llama, bert])
def test_at_12_bits_the_function_stays(make):
    model = make()
    before = copied(model)
    params = {"weight_bits": 12, "act_bits": 16}
    small = apply({"transform": smoothquant.transform}, params, model=model, calibration=BATCHES)
    assert_function_stays(small.model, model, before)


def test_smoothing_by_hand():
    group = scaling_groups(llama())[0][0]
    with torch.no_grad():
        for reader in group.readers:
            reader.weight.fill_(0.25)
        group.readers[2].weight[0, 0] = -4.0
    absmax = torch.full((64,), 16.0)
    scale = smoothquant.smoothing(group, absmax, 0.5)
    assert scale[0].item() == 2  # sqrt(16 / 4): the largest weight of the three layers counts
    assert scale[1].item() == 8  # sqrt(16 / 0.25)
    assert smoothquant.smoothing(group, absmax, 1.0)[3].item() == 16  # all of it moves
    assert smoothquant.smoothing(group, absmax, 0.0)[3].item() == 4


@pytest.mark.parametrize("make", [llama, bert])
def test_smoothing_helps_where_a_channel_is_loud(make):
    model = make()
    errors = {
        level: [
            error(apply({"transform": smoothquant.transform}, {"level": level, "smooth": s}, model=model,
                        calibration=BATCHES).model, model)
            for s in (True, False)
        ]
        for level in ("O1", "O2", "O3")
    }  # fmt: skip
    assert all(smoothed < plain for smoothed, plain in errors.values()), errors


def test_what_is_stored_is_counted():
    small = apply({"transform": smoothquant.transform}, {}, model=bert(), calibration=BATCHES)
    # 4 norms are read by residuals too: 64 factors each; 12 layers with one input range each
    ranges = {name: bits for name, bits in small.added.items() if name.endswith("input_range")}
    assert small.added == {"residual_scale": 16 * 4 * 64, **ranges}
    assert list(ranges.values()) == [32] * 12
    parts = small.layers["encoder.layer.0.intermediate.dense"].stored_bits()
    assert parts == {"codes": 8 * 64 * 96, "scale": 16}


@pytest.mark.parametrize(("params", "says"), [({"alpha": 1.5}, "alpha=1.5"), ({"level": "O4"}, "level='O4'")])
def test_refusals(params, says):
    with pytest.raises(ValueError, match=says):
        apply({"transform": smoothquant.transform}, params, model=llama(), calibration=BATCHES)


@pytest.mark.parametrize("make", [llama, bert])
def test_the_searched_strength_is_the_one_of_least_loss(make):
    model = make()
    params = {"weight_bits": 4, "act_bits": 4, "level": "O1", "weights": "channel", "symmetric": False}

    def loss(alpha):
        arm = apply({"transform": smoothquant.transform}, {**params, "alpha": alpha}, model=model, calibration=BATCHES)
        batches = objective.sample(BATCHES, smoothquant.SEARCH_TOKENS)
        return objective.mean_loss(arm.model, batches, objective.targets(model, batches)), arm.notes["alpha"]

    searched, alpha = loss(None)
    assert alpha in smoothquant.ALPHAS
    assert searched == pytest.approx(min(loss(a)[0] for a in (0.1, 0.5, 0.9, alpha)))


@pytest.mark.parametrize("make", [llama, bert])
def test_an_encoder_is_searched_on_more_tokens(make, monkeypatch):
    seen = []
    monkeypatch.setattr(objective, "sample", lambda calibration, tokens: seen.append(tokens) or calibration[:1])
    apply({"transform": smoothquant.transform}, {"alpha": None}, model=make(), calibration=BATCHES)
    assert seen == [512 if make is llama else 2048]
