"""PV-Tuning: length of the P step, hand-worked V step, its limits, rules against each other, counted bits."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paperlab.kit.codebook import Codebook, cluster
from paperlab.methods.quantization.pv_tuning import State, c_step, p_step, transform, v_step


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.dim() == 2 else 1)  # predictions that are not flat
    return model


def batches(count: int = 4) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(64, (4, 16), generator=draw)} for _ in range(count)]


def tuned(rule: str = "pv", **params: object) -> tuple[LlamaForCausalLM, object]:
    teacher = tiny()
    small = transform(copy.deepcopy(teacher), batches(), teacher, 0, rule=rule, **({"dim": 2, "code_bits": 3} | params))
    return teacher, small


def by_hand() -> Codebook:
    """Codewords -1, 0, 1 of one weight each; W = 2 * [-1, 0, 1, 1]."""
    codebook = torch.tensor([[-1.0], [0.0], [1.0]])
    return Codebook(torch.tensor([[0, 1, 2, 2]]), codebook, torch.tensor([[2.0]]))


def test_v_step_by_hand() -> None:
    # ||W|| = sqrt(12). Two of four groups are chosen: u = 3 (group 1) and u = -4 (group 0), ||u_S|| = 5.
    # code_rate 0.5: eta = 0.5 * sqrt(12) / 5 = 0.3464. Group 0: -2 + 1.386 = -0.614 -> nearest of (-2, 0, 2) is 0.
    # Group 1: 0 - 1.039 = -1.039 -> -2. Groups 2 and 3 are not chosen, though u = 2.9 would move them.
    matrix = by_hand()
    move = -torch.tensor([[-4.0, 3.0, 2.9, 0.0]])
    assert v_step(matrix, move, length=0.5, code_fraction=0.5, trust=10.0) == 2
    assert matrix.codes.tolist() == [[1, 0, 2, 2]]


def test_trust_takes_back_all_but_the_longest_update() -> None:
    matrix = by_hand()
    # each change moves W by 2 of sqrt(12): one is 0.577, two are 0.816
    move = -torch.tensor([[-4.0, 3.0, 2.9, 0.0]])
    assert v_step(matrix, move, length=0.5, code_fraction=0.5, trust=0.6) == 1
    assert matrix.codes.tolist() == [[1, 1, 2, 2]]
    matrix = by_hand()
    assert v_step(matrix, move, length=0.5, code_fraction=0.5, trust=0.01) == 1  # one is always allowed
    assert v_step(by_hand(), move, length=0.5, code_fraction=0.0, trust=1.0) == 0


def test_straight_through_collects_small_steps() -> None:
    state = State(by_hand())
    gradient = torch.tensor([[-1.0, 0.0, 0.0, 0.0]])
    # each step moves the hidden weight by about 0.2 * sqrt(12) = 0.69 from -2; it crosses -1 at the second
    changed = [
        c_step(state, gradient, step, rule="straight-through", code_rate=0.2, code_fraction=0, trust=0)
        for step in (1, 2)
    ]
    assert changed == [0, 1]
    assert state.book.codes.tolist() == [[1, 1, 2, 2]]


def test_a_move_can_be_taken_as_it_is() -> None:
    matrix = by_hand()
    # W = (-2, 0, 2, 2); group 2 would go to 0.8, nearer to 0 than to 2; the others move less and are not chosen
    assert v_step(matrix, torch.tensor([[0.9, 0.0, -1.2, 0.0]]), length=None, code_fraction=0.25, trust=10.0) == 1
    assert matrix.codes.tolist() == [[0, 1, 1, 2]]


def test_p_step_is_as_long_as_said_and_goes_down() -> None:
    torch.manual_seed(4)
    state = State(cluster(torch.randn(5, 12), dim=2, bits=2, seed=0))
    matrix, target = state.book, torch.randn(5, 12)
    for step in range(1, 100):
        before, error = matrix.words.clone(), (matrix.weight() - target).square().sum()
        p_step(state, 2 * (matrix.weight() - target), step, 0.01)
        assert ((matrix.words - before).norm() / before.norm()).item() == pytest.approx(0.01, rel=1e-3)
        if step == 1:
            assert (matrix.weight() - target).square().sum() < error


def test_the_original_is_untouched_and_the_weights_are_what_is_stored() -> None:
    teacher, small = tuned(steps=2)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), tiny().parameters(), strict=True))
    for name, layer in small.layers.items():
        assert torch.equal(small.model.get_submodule(name).weight, layer.dense())
    assert not any(parameter.requires_grad for parameter in small.model.parameters())


def test_no_steps_is_clustering_and_codebooks_only_keeps_codes() -> None:
    _, start = tuned(steps=0)
    _, only = tuned("codebooks", steps=5)
    _, pv = tuned("pv", steps=5, code_rate=0.1)
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(start.layers[name].codes, only.layers[name].codes)
    assert not torch.equal(start.layers[name].codebook, only.layers[name].codebook)
    assert pv.notes["code_changes"] > 0
    book = cluster(tiny().get_submodule(name).weight.detach(), dim=2, bits=3, seed=0)
    assert torch.equal(start.layers[name].codes.squeeze(-1).long(), book.codes)


@pytest.mark.parametrize("rule", ["pv", "pv+straight-through", "straight-through", "codebooks"])
def test_tuning_lowers_the_divergence_at_equal_bits(rule: str) -> None:
    _, small = tuned(rule, steps=24, code_rate=0.01)
    losses = small.notes["losses"]
    assert sum(losses[-4:]) < sum(losses[:4])
    assert small.totals() == tuned(steps=0)[1].totals()


def test_bits_are_counted_whole() -> None:
    _, small = tuned(steps=0)
    bits = small.layers["model.layers.0.mlp.up_proj"].stored_bits()  # (64, 32), pairs of weights, 8 codewords
    assert bits == {"codes": 64 * 16 * 3, "scale": 64 * 16, "codebook": 8 * 2 * 16}


def test_same_seed_same_bits() -> None:
    first, second = (tuned(steps=3)[1] for _ in range(2))
    assert all(torch.equal(first.layers[n].codes, second.layers[n].codes) for n in first.layers)
    assert first.notes == second.notes


@pytest.mark.parametrize(
    ("params", "said"),
    [({"dim": 3}, "does not divide"), ({"code_bits": 0}, "between 1 and 12"), ({"steps": -1}, "at least 0")],
)
def test_bad_parameters(params: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tuned(**params)


def test_tuning_without_text_is_refused() -> None:
    with pytest.raises(ValueError, match="needs calibration text"):
        transform(tiny(), [], tiny(), 0)
