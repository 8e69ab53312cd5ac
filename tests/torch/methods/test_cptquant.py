import copy

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.objective import loss
from paperlab.kit.walk import block_linears, blocks
from paperlab.methods.quantization import random_allocation
from paperlab.methods.quantization.cptquant import _correlation, _pruning, _taylor, transform


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


def batches(count: int = 2):
    draw = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(60, (4, 32), generator=draw), "attention_mask": torch.ones(4, 32).long()}
        for _ in range(count)
    ]


def test_taylor_is_the_slope_of_the_loss_along_a_relative_perturbation():
    """|dL/dx * x| summed bounds, and with matching signs equals, the first-order change that noise on x makes."""
    model, batch = llama().double(), batches(1)[0]
    model.requires_grad_(True)
    score = _taylor(model, [batch], 0)[2]
    assert all(p.requires_grad for p in model.parameters())
    layers = {name: layer for name, layer in block_linears(model).items() if name.startswith("model.layers.2.")}
    total = 0.0
    for layer in layers.values():
        seen = []
        handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].detach()))
        loss(model, batch, None)
        handle.remove()
        x = seen[0]
        probe = x.clone().requires_grad_()
        handle = layer.register_forward_pre_hook(lambda _, args, probe=probe: (probe,))
        worst = torch.autograd.grad(loss(model, batch, None), probe)[0].sign() * x.abs()
        handle.remove()
        sides = []
        for step in (1e-3, -1e-3):  # the model's norms compute in float32: a smaller step would drown
            handle = layer.register_forward_pre_hook(lambda _, args, at=x + step * worst: (at,))
            with torch.no_grad():
                sides.append(loss(model, batch, None).item())
            handle.remove()
        total += (sides[0] - sides[1]) / 2e-3
    assert score == pytest.approx(total, rel=1e-3)


def test_pruning_is_the_rise_of_the_loss_and_leaves_the_model_alone():
    model, data = llama(), batches()
    state = copy.deepcopy(model.state_dict())
    scores = _pruning(model, data, 0.5)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    by_hand = llama()
    with torch.no_grad():
        for layer in (m for m in blocks(by_hand)[1][3].modules() if isinstance(m, torch.nn.Linear)):
            smallest = layer.weight.abs().flatten().argsort()[: layer.weight.numel() // 2]
            layer.weight.view(-1)[smallest] = 0
        rise = np.mean([loss(by_hand, b, None).item() - loss(model, b, None).item() for b in data])
    assert scores[3] == pytest.approx(rise, abs=1e-6)


def test_correlation_agrees_with_canonical_correlations_of_sklearn():
    from sklearn.cross_decomposition import CCA
    from sklearn.decomposition import PCA

    model, data = llama(), batches(4)
    found = _correlation(model, data, 3)
    states = [torch.cat(s).flatten(0, 1).double().numpy() for s in zip(*(_hidden(model, b) for b in data), strict=True)]
    for i in (0, 2):
        a, b = (PCA(3).fit_transform(states[j]) for j in (i, i + 1))
        left, right = CCA(3, max_iter=5000, tol=1e-10, scale=False).fit_transform(a, b)
        expected = np.mean([np.corrcoef(left[:, k], right[:, k])[0, 1] for k in range(3)])
        assert found[i] == pytest.approx(1 - expected, abs=1e-3)


def _hidden(model, batch):
    states = []
    stack = blocks(model)[1]
    handles = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        for block in stack
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return states


@pytest.mark.parametrize("rule", ["correlation", "pruning", "taylor"])
@pytest.mark.parametrize("make", [llama, bert])
def test_every_rule_spends_the_budget_and_no_more(rule, make):
    arm = transform(make(), batches(), 0, rule=rule, tokens=64)
    codes = sum(layer.stored_bits()["codes"] for layer in arm.layers.values())
    weights = sum(layer.codes.numel() for layer in arm.layers.values())
    assert 3.9 <= codes / weights <= 4
    for name, layer in block_linears(arm.model).items():
        assert torch.equal(arm.layers[name].dense(), layer.weight)
        assert arm.layers[name].bits == next(b for unit, b in arm.notes["bits"].items() if name.startswith(unit + "."))
    order = sorted(arm.notes["sensitivity"], key=arm.notes["sensitivity"].get)
    widths = [arm.notes["bits"][name] for name in order]
    assert widths == sorted(widths)  # equal blocks: more sensitive, never fewer bits
    again = transform(make(), batches(), 0, rule=rule, tokens=64)
    assert again.notes["sensitivity"] == arm.notes["sensitivity"]


def test_random_allocation_has_the_same_size_and_its_own_order():
    arms = [random_allocation.transform(llama(), seed) for seed in range(4)]
    sizes = {arm.totals()["layer_bits"] for arm in arms}
    assert sizes == {transform(llama(), batches(), 0).totals()["layer_bits"]}
    assert len({tuple(arm.notes["bits"].items()) for arm in arms}) > 1
    same = random_allocation.transform(llama(), 3)
    assert same.notes == arms[3].notes


def test_bad_parameters_are_refused():
    for wrong, match in (({"rule": "magic"}, "taylor"), ({"rule": "pruning", "sparsity": 1.0}, "sparsity"),
                         ({"tokens": 0}, "tokens"), ({"mean_bits": 1.0}, "mean_bits")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            transform(llama(), batches(), 0, **wrong)
    with pytest.raises(ValueError, match="calibration"):
        transform(llama(), [], 0)
