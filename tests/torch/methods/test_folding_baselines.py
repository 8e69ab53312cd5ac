"""AWQ, SmoothQuant and random rotation on small whole models."""

import itertools

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.fold import scaling_groups
from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization import awq, random_rotation, round_to_nearest, smoothquant

DRAW = torch.Generator().manual_seed(0)
BATCHES = [{"input_ids": torch.randint(0, 60, (8, 16), generator=DRAW)} for _ in range(4)]
TEST = torch.randint(0, 60, (4, 16), generator=DRAW)


def loud(model: nn.Module) -> nn.Module:
    """Norms with one loud channel, as language models have."""
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() and parameter.dim() == 1 and name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 2)
            with torch.no_grad():
                parameter[5] *= 15
    return model.eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    return loud(LlamaForCausalLM(config))


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    return loud(BertModel(config))


def error(small: nn.Module, model: nn.Module) -> float:
    with torch.no_grad():
        wanted, got = model(TEST)[0], small(TEST)[0]
        if wanted.shape[2] == 64:  # hidden states: the loud channel would drown the others
            wanted, got = (x[..., torch.arange(64) != 5] for x in (wanted, got))
        return float((got - wanted).square().mean() / wanted.square().mean())


@pytest.mark.parametrize("make", [llama, bert])
@pytest.mark.parametrize(
    ("verb", "params"),
    [
        (awq.transform, {"bits": 12, "group": 32, "clip": False}),
        (smoothquant.transform, {"weight_bits": 12, "act_bits": 16}),
        (random_rotation.transform, {"weight_bits": 12}),
        (random_rotation.transform, {"weight_bits": 12, "rotation": "orthogonal"}),
    ],
)
def test_at_12_bits_the_function_stays(make, verb, params):
    if make is bert and verb is random_rotation.transform:
        with pytest.raises(ValueError, match="built as Llama's"):
            apply({"transform": verb}, params, model=make(), calibration=BATCHES)
        return
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = apply({"transform": verb}, params, model=model, calibration=BATCHES)
    assert error(small.model, model) < 1e-4  # 12 bits are not exact; an unfolded scale would cost 0.1 and more
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # the caller's stays
    moved = [name for name, value in small.model.state_dict().items() if name in before and "norm" not in name.lower()
             and value.shape == before[name].shape and (value - before[name]).abs().max() > 1e-3]  # fmt: skip
    assert moved  # and yet the weights are others


def test_awq_beats_plain_rounding_at_the_same_size():
    model = llama()
    grid = {"bits": 4, "group": 32}
    plain = apply({"quantize": round_to_nearest.quantize}, grid, model=model, calibration=[])
    scaled = apply({"transform": awq.transform}, grid, model=model, calibration=BATCHES)
    assert error(scaled.model, model) < 0.8 * error(plain.model, model)
    assert scaled.totals() == plain.totals()  # everything folds: no bit more
    assert all(0 <= alpha < 1 for alpha in scaled.notes["alphas"].values())


def test_awq_search_is_the_best_of_its_grid():
    model = llama()
    group = scaling_groups(model)[0][3]  # up -> down: the scope is the layer itself
    x = torch.randn(50, 96, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 5, 96)
    x_mean = x.abs().mean(0)
    weight = group.readers[0].weight.detach().clone()
    scale, alpha = awq.search(group, x_mean, [awq.Call(x, (), {})], steps=10, bits=3, group=32, symmetric=False)
    losses = []
    for step in range(10):
        s = x_mean ** (step / 10)
        s = (s / (s.max() * s.min()).sqrt()).half().float()
        rounded = round_to_nearest.quantize(weight * s, bits=3, group=32).dense() / s
        losses.append(float(((weight - rounded) @ x.T).square().sum()))
    assert alpha == losses.index(min(losses)) / 10
    assert scale.max() * scale.min() == pytest.approx(1, rel=2e-3)
    assert torch.equal(group.readers[0].weight, weight)  # the search leaves no trace


def test_awq_clip_is_the_best_of_its_grid():
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 64, generator=generator) ** 3
    x = torch.randn(200, 64, generator=generator)
    best = awq.clip_search(weight, x.T @ x, bits=3, group=32, symmetric=False)
    for row, part in itertools.product(range(5), range(2)):
        w, own = weight[row : row + 1, 32 * part : 32 * part + 32], x[:, 32 * part : 32 * part + 32]
        costs = []
        for step in range(10):
            top = w.abs().max() * (1 - 0.05 * step)
            q = round_to_nearest.quantize(w.clamp(-top, top), bits=3).dense()
            costs.append(float(((q - w) @ own.T).square().sum()))
        assert best[row, part].item() == pytest.approx(float(w.abs().max()) * (1 - 0.05 * costs.index(min(costs))))


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


def test_smoothquant_counts():
    small = apply({"transform": smoothquant.transform}, {}, model=bert(), calibration=BATCHES)
    # 4 norms are read by residuals too: 64 factors each; 12 layers with one input range each
    assert small.added == {"residual_scale": 16 * 4 * 64, "input_scale": 16 * 12}
    parts = small.layers["encoder.layer.0.intermediate.dense"].stored_bits()
    assert parts == {"codes": 8 * 64 * 96, "scale": 16}


def test_rotation_helps_at_4_bit_activations():
    model = llama()
    grid = {"weight_bits": 8, "act_bits": 4}
    errors = {
        kind: error(
            apply(
                {"transform": random_rotation.transform}, {**grid, "rotation": kind}, model=model, calibration=[]
            ).model,
            model,
        )
        for kind in ("none", "hadamard")
    }  # fmt: skip
    assert errors["hadamard"] < 0.7 * errors["none"]


def test_rotation_counts_and_repeats():
    first, again, other = (
        apply({"transform": random_rotation.transform}, {}, model=llama(), calibration=[], seed=seed)
        for seed in (1, 1, 2)
    )
    name = "model.layers.0.mlp.gate_proj"
    assert torch.equal(first.layers[name].codes, again.layers[name].codes)
    assert not torch.equal(first.layers[name].codes, other.layers[name].codes)
    assert first.added == {"rotation": 64 + 96}  # one sign for each channel that is turned at run time


@pytest.mark.parametrize(
    ("verb", "params", "says"),
    [
        (awq.transform, {"steps": 0}, "steps=0"),
        (awq.transform, {"group": 60}, "group=60"),
        (smoothquant.transform, {"alpha": 1.5}, "alpha=1.5"),
        (smoothquant.transform, {"level": "O4"}, "level='O4'"),
        (random_rotation.transform, {"rotation": "spin"}, "rotation='spin'"),
    ],
)
def test_refusals(verb, params, says):
    with pytest.raises(ValueError, match=says):
        apply({"transform": verb}, params, model=llama(), calibration=BATCHES)
