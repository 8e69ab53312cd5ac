import itertools

import pytest
import torch

from paperlab.kit.allocation import allocate, parse_choices, round_layers, units, weights_in
from paperlab.kit.walk import block_linears


def test_a_hand_worked_split():
    """Six equal units at mean 4 from 2/4/8: a units at 8 need 2a at 2; (1, 3, 2) is the most mixed."""
    scores = {name: float(rank) for rank, name in enumerate("abcdef")}
    bits = allocate(scores, dict.fromkeys(scores, 10), choices=(2, 4, 8), mean_bits=4)
    assert bits == {"f": 8, "e": 4, "d": 4, "c": 4, "b": 2, "a": 2}


def test_the_rest_of_the_budget_goes_down_the_ranking():
    """Budget (6 - 4) * 10 = 20 extra bits: the first (7 weights) would need 28, so it waits; the others fit in turn."""
    bits = allocate({"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 7, "b": 2, "c": 1}, choices=(4, 8), mean_bits=6)
    assert bits == {"a": 4, "b": 8, "c": 8}


@pytest.mark.parametrize("mean_bits", [2.0, 3.0, 4.0, 5.5, 8.0])
def test_the_budget_is_never_passed_and_nearly_used(mean_bits):
    draw = torch.Generator().manual_seed(1)
    for _ in range(20):
        sizes = {str(i): int(n) for i, n in enumerate(torch.randint(10, 60, (30,), generator=draw))}
        scores = dict(zip(sizes, torch.rand(30, generator=draw).tolist(), strict=True))
        bits = allocate(scores, sizes, choices=(2, 4, 8), mean_bits=mean_bits)
        mean = sum(bits[name] * sizes[name] for name in sizes) / sum(sizes.values())
        assert mean_bits * 0.98 <= mean <= mean_bits + 1e-9


def test_every_ranking_of_equal_units_gets_the_same_classes():
    counts = {
        tuple(sorted(allocate(dict(zip("abcde", order, strict=True)), dict.fromkeys("abcde", 3), **how).values()))
        for order in itertools.permutations(range(5))
        for how in [{"choices": (2, 4, 8), "mean_bits": 4}]
    }
    assert len(counts) == 1


def test_bad_budgets_and_choices_are_refused():
    with pytest.raises(ValueError, match="between 2 and 8"):
        allocate({"a": 1.0}, {"a": 1}, choices=(2, 8), mean_bits=9)
    assert parse_choices("2,8,4") == (8, 4, 2)
    for wrong in ("", "2;4", "0,4", "4,17"):
        with pytest.raises(ValueError, match="whole bits"):
            parse_choices(wrong)


def tiny_llama(layers: int = 2):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_units_partition_the_linear_layers_and_rounding_touches_only_them():
    model = tiny_llama(12)  # block 1 and block 10 must not be confused
    by_block, by_layer = units(model, "block"), units(model, "layer")
    names = list(block_linears(model))
    assert [name for piece in by_block.values() for name in piece] == names == list(by_layer)
    assert {len(piece) for piece in by_block.values()} == {7}
    assert set(weights_in(model, by_block).values()) == {64 * 64 * 2 + 64 * 32 * 2 + 64 * 96 * 3}
    before = {name: p.clone() for name, p in model.named_parameters()}
    done = round_layers(model, {names[0]: 3, names[8]: 5}, group=32)
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed == [f"{names[0]}.weight", f"{names[8]}.weight"]
    assert done[names[8]].bits == 5
    assert torch.equal(done[names[0]].dense(), block_linears(model)[names[0]].weight)
    with pytest.raises(ValueError, match="block"):
        units(model, "head")
