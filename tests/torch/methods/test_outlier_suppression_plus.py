"""OS+: the fold is exact, the formulas are the paper's, the search cannot lose to no scaling."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.core.methods import find_method
from paperlab.kit.activations import per_token
from paperlab.kit.fold import scaling_groups
from paperlab.kit.scope import record_calls
from paperlab.kit.walk import walk
from paperlab.kit.weight_activation import Rounding
from paperlab.lab.drivers.compress import apply
from paperlab.methods.quantization import outlier_suppression_plus as osp
from paperlab.methods.quantization import rtn_activations

Batches = list[dict[str, torch.Tensor]]


def lopsided(model: nn.Module) -> nn.Module:
    """Give the model what trained ones have: a few channels far off centre in what the norms put out."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.LayerNorm):
                module.weight[17] *= 8
                module.bias[3] += 10
            if name.endswith("embed_tokens"):  # an RMS norm has no bias: the residual stream is off centre
                module.weight[:, 3] += 0.3
                module.weight[:, 17] -= 0.15
    return model.eval()


def made(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    shared = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    if kind == "llama":
        return lopsided(LlamaForCausalLM(LlamaConfig(**shared, num_attention_heads=4, num_key_value_heads=2)))
    return lopsided(BertModel(BertConfig(**shared, num_attention_heads=4, max_position_embeddings=64)))


@pytest.fixture(scope="module", params=["llama", "bert"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    return made(request.param)


@pytest.fixture(scope="module")
def batches() -> Batches:
    return [{"input_ids": torch.randint(96, (2, 32), generator=torch.Generator().manual_seed(s))} for s in range(4)]


def output(model: nn.Module, batches: Batches) -> torch.Tensor:
    with torch.no_grad():
        return model(**batches[0])[0]


@pytest.mark.parametrize("shift", [True, False])
def test_in_full_precision_the_function_stays(model: nn.Module, batches: Batches, shift: bool) -> None:
    params = {"weight_bits": 16, "activation_bits": 16, "shift": shift}
    moved = apply({"transform": osp.transform}, params, model=model, calibration=batches)
    exact = output(model, batches)
    # new biases are rounded to float16: 2^-11 of their size
    tolerance = 2e-3 if shift else 1e-4
    torch.testing.assert_close(output(moved.model, batches), exact, rtol=tolerance, atol=tolerance)
    assert (moved.added["shifts_and_scales"] > 0) == (shift or isinstance(model, BertModel))


def test_the_fold_itself_is_exact(model: nn.Module, batches: Batches) -> None:
    moved = copy.deepcopy(model)
    groups = scaling_groups(moved)
    for index, (_, _block, calls) in enumerate(walk(moved, batches)):
        for group in groups[index]:
            if not isinstance(group.source, nn.Linear):
                generator = torch.Generator().manual_seed(index)
                scale = 1 + torch.rand(group.width, generator=generator)
                osp.fold(group, scale, torch.randn(group.width, generator=generator), calls)
    torch.testing.assert_close(output(moved, batches), output(model, batches), rtol=1e-4, atol=1e-5)


def test_scale_by_hand() -> None:
    # channels reach 8, 2 and 5 (downwards); with t = 4 the scales are 2, 1 and 1.25
    low, high = torch.tensor([-1.0, -2.0, -5.0]), torch.tensor([8.0, 1.0, 3.0])
    assert osp.scale_to(low, high, 4.0).tolist() == [2.0, 1.0, 1.25]


def searched(model: nn.Module, batches: Batches, role: str, rounding: Rounding, steps: int):  # type: ignore[no-untyped-def]
    """What the search finds for the first block's group `role`, the group and the calls that it saw."""
    stack = copy.deepcopy(model)
    group = next(group for group in scaling_groups(stack)[0] if group.name.endswith(role))
    _, block, calls = next(iter(walk(stack, batches)))
    seen = record_calls(block, [group.scope], calls, 1)[0]
    x = torch.cat([call.hidden.flatten(0, -2) for call in seen])
    found = osp.search(group, seen, x.amin(0), x.amax(0), None, steps=steps, rounding=rounding)
    return *found, group, seen, x


@pytest.mark.parametrize("dynamic", [True, False])
def test_search_finds_the_threshold_of_least_error_and_leaves_no_trace(
    model: nn.Module, batches: Batches, dynamic: bool
) -> None:
    """Written anew for the readers alone: q, k, v and the loss of attention would only add what torch does."""
    rounding = Rounding(6, 6, dynamic=dynamic)
    name = "mlp.down_proj" if isinstance(model, LlamaForCausalLM) else "intermediate.dense"
    scale, threshold, group, _, x = searched(model, batches, name, rounding, 12)
    (reader,) = group.readers
    assert not reader._forward_pre_hooks

    def loss(s: torch.Tensor, t: float) -> float:
        weight = rounding.weight(reader.weight.detach() * s).dense() / s
        y = x / s
        if dynamic:
            y = per_token(y, bits=6, symmetric=False)
        else:
            y = (y / (2 * t / 63)).round().add(32).clamp(0, 63).sub(32) * (2 * t / 63)
        return float(((y * s) @ weight.T - x @ reader.weight.detach().T).square().sum())

    reach = float(x.abs().max())
    tried = [reach * (0.1 / reach) ** (i / 11) for i in range(12)] if reach > 0.1 else [reach]
    losses = [loss(osp.scale_to(x.amin(0), x.amax(0), t), t) for t in tried]
    assert loss(scale, threshold) <= min(losses) * 1.001
    assert loss(scale, threshold) <= losses[0]  # the first leaves the ranges


def test_attention_is_looked_at_before_its_projection(model: nn.Module, batches: Batches) -> None:
    if not isinstance(model, LlamaForCausalLM):
        pytest.skip("BERT's scope ends before the projection")
    for role, last in (("self_attn.qkv", "self_attn.o_proj"), ("mlp.gate_up", "mlp.down_proj")):
        bent = copy.deepcopy(model)
        with torch.no_grad():
            bent.get_submodule(f"model.layers.0.{last}").weight.zero_()
        ours, bents = (searched(m, batches, role, Rounding(4, 4, dynamic=True), 12) for m in (model, bent))
        assert ours[1] == bents[1]
        assert isinstance(bents[2].scope, nn.Module)
        assert not any(isinstance(child, nn.Identity) for child in bents[2].scope.children())


def error(compressed: osp.Compressed, model: nn.Module, batches: Batches) -> float:
    return float((output(compressed.model, batches) - output(model, batches)).square().mean())


def test_without_shift_and_scale_it_is_plain_rounding(model: nn.Module, batches: Batches) -> None:
    for how in ({"dynamic": True}, {"average": True}, {"symmetric": True, "per_channel": False}):
        params = {"weight_bits": 6, "activation_bits": 6, **how}
        plain = apply({"transform": rtn_activations.transform}, params, model=model, calibration=batches)
        off = {**params, "shift": False, "scale": False}
        ours = apply({"transform": osp.transform}, off, model=model, calibration=batches)
        if isinstance(model, LlamaForCausalLM):
            assert torch.equal(output(ours.model, batches), output(plain.model, batches))
        assert error(ours, model, batches) == pytest.approx(error(plain, model, batches), rel=1e-4)


def test_it_beats_rounding_on_lopsided_outliers_and_counts_what_it_adds(model: nn.Module, batches: Batches) -> None:
    bits = {"weight_bits": 8, "activation_bits": 4, "symmetric": True}
    ours = apply({"transform": osp.transform}, bits, model=model, calibration=batches)
    total = {osp: 0.0, rtn_activations: 0.0}  # untrained models differ much: three together
    for other in (made("llama" if isinstance(model, LlamaForCausalLM) else "bert", seed) for seed in range(3)):
        for method in total:
            arm = apply({"transform": method.transform}, bits, model=other, calibration=batches)
            total[method] += error(arm, other, batches)
    assert total[osp] < 0.7 * total[rtn_activations]
    added = ours.added["shifts_and_scales"] // 16
    if isinstance(model, LlamaForCausalLM):  # q, k, v, their norm; gate, up, their norm; two blocks
        assert added == 2 * (64 + 32 + 32 + 64 + 96 + 96 + 64)
    else:  # biases exist; each of four folded norms gives its residual a scale and a shift
        assert added == 4 * 2 * 64
    again = apply({"transform": osp.transform}, bits, model=model, calibration=batches)
    assert torch.equal(output(again.model, batches), output(ours.model, batches))


def test_three_migrations_in_a_llama_block_two_in_a_bert_block(model: nn.Module, batches: Batches) -> None:
    ours = apply({"transform": osp.transform}, {"dynamic": True}, model=model, calibration=batches)
    thresholds = ours.notes["thresholds"]
    assert isinstance(thresholds, dict)
    assert len(thresholds) == (6 if isinstance(model, LlamaForCausalLM) else 4)
    assert not any(name.endswith(("o_proj", "output.dense")) for name in thresholds)


def test_bad_steps(model: nn.Module, batches: Batches) -> None:
    with pytest.raises(ValueError, match="steps=0"):
        apply({"transform": osp.transform}, {"steps": 0}, model=model, calibration=batches)


def test_the_card_asks_for_no_loss_at_both_bit_widths_of_the_abstract() -> None:
    checks = {check.claim: check for check in find_method("outlier-suppression-plus").card.checks}
    for bits in (6, 8):
        check = checks[f"near-lossless-at-{bits}-bits"]
        assert (check.expect, check.role, check.baseline.method) == ("no worse", "claim", "original")
        assert check.trivial is not None
        assert check.method.params.get("weight_bits", 6) == check.trivial.params["weight_bits"] == bits
    assert checks["llama-6-bits-better-than-smoothquant"].role == "question"
