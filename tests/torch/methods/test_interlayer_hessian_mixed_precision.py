import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.allocation import units
from paperlab.kit.grid import min_max, round_to_grid
from paperlab.kit.objective import mean_loss, targets
from paperlab.kit.walk import block_linears
from paperlab.methods.quantization.interlayer_hessian_mixed_precision import (
    _alone,
    _bisect,
    _excess,
    _Trial,
    transform,
)


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(60, (4, 32), generator=draw), "attention_mask": torch.ones(4, 32).long()}]


def test_a_trial_leaves_the_model_as_it_was(data):
    model = llama()
    before = {name: p.clone() for name, p in model.named_parameters()}
    trial = _Trial(model, data, 2, 8, None)
    assert trial.rise(list(trial.layers)) != 0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_the_trace_predicts_what_noise_of_the_same_size_costs(data, curvature):
    """1/2 tr(H) / n ||e||^2 is the expected rise for random errors of that norm; for an encoder H is Gauss-Newton."""
    model = bert().double()
    name = "encoder.layer.2.intermediate.dense"
    trial = _Trial(model, data, 4, 8, None)
    predicted = _alone(model, data, trial, curvature, 100, 0)[name]
    weight = block_linears(model)[name].weight
    scale, zero = min_max(weight.detach(), bits=4)
    error = round_to_grid(weight.detach(), scale, zero, bits=4).dense() - weight.detach()
    draw = torch.Generator().manual_seed(0)
    wanted, rises, clean = targets(model, data), [], weight.detach().clone()
    with torch.no_grad():
        for _ in range(60):
            noise = torch.randn(weight.shape, generator=draw, dtype=weight.dtype)
            weight.copy_(clean + noise * error.norm() / noise.norm())
            rises.append(mean_loss(model, data, wanted))
        weight.copy_(clean)
    assert sum(rises) / 60 == pytest.approx(predicted, rel=0.15)
    assert trial.base == 0


def test_the_excess_is_half_of_each_pairs_surplus(data):
    model = bert()
    trial = _Trial(model, data, 2, 8, None)
    pieces = units(model, "block")
    names = list(pieces)
    found = _excess(trial, pieces, 1)
    pair = {
        (a, a + 1): trial.rise(pieces[names[a]] + pieces[names[a + 1]])
        - trial.rise(pieces[names[a]])
        - trial.rise(pieces[names[a + 1]])
        for a in range(3)
    }
    expected = [pair[0, 1] / 2, (pair[0, 1] + pair[1, 2]) / 2, (pair[1, 2] + pair[2, 3]) / 2, pair[2, 3] / 2]
    assert list(found.values()) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert sum(_excess(trial, pieces, 3).values()) != pytest.approx(sum(found.values()), rel=1e-3)


def test_bisection_finds_the_longest_prefix_of_a_monotone_cost():
    class Counting:
        low, high, base, calls = 4, 8, 1.0, 0

        def loss(self, bits):
            self.calls += 1
            return 1.0 + 0.001 * sum(width == 4 for width in bits.values())

    trial = Counting()
    order = [str(i) for i in range(100)]
    bits = _bisect(trial, order, 0.0375)
    assert sorted(n for n in bits if bits[n] == 4) == sorted(order[:37])
    assert trial.calls <= 7  # log2 of 101
    assert set(_bisect(trial, order, 1e-9).values()) == {8}
    assert set(_bisect(trial, order, 1.0).values()) == {4}


@pytest.mark.parametrize("make", [bert, llama])
def test_the_tolerance_and_the_budget_are_kept(make, data):
    model = make()
    arm = transform(make(), data, 0, tolerance=0.001, low=2, probes=2)
    wanted = targets(model, data)
    base = mean_loss(model, data, wanted)
    assert mean_loss(arm.model, data, wanted) <= (base * 1.001 if base else 0.001)
    assert {2, 8} >= set(arm.notes["bits"].values())
    for interactions in (True, False):
        arm = transform(make(), data, 0, mean_bits=6.0, interactions=interactions, probes=2)
        codes = sum(layer.stored_bits()["codes"] for layer in arm.layers.values())
        assert 5.88 <= codes / sum(layer.codes.numel() for layer in arm.layers.values()) <= 6
        for name, layer in block_linears(arm.model).items():
            assert torch.equal(arm.layers[name].dense(), layer.weight)
    again = transform(make(), data, 0, mean_bits=6.0, interactions=False, probes=2)
    assert again.notes["bits"] == arm.notes["bits"]


def test_bad_parameters_are_refused(data):
    for wrong in ({"low": 8}, {"tolerance": 0.0}, {"reach": 0}, {"probes": 0}, {"curvature": "x=0"}):
        with pytest.raises(ValueError, match=r"=0|low="):
            transform(llama(), data, 0, **wrong)
