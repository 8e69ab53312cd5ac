"""PV-Tuning: length of the P step, hand-worked V step, its limits, rules against each other, counted bits."""

import copy
import math
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paperlab.kit.codebook import Codebook, cluster
from paperlab.methods.quantization.pv_tuning import State, p_step, transform, v_step


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
    # W = (-2, 0, 2, 2); groups 2 and 0 are farthest; 0.8 is nearer to 0 than to 2, -0.9 nearer to 0 than to -2
    book = by_hand()
    towards = torch.tensor([[-0.9, 0.5, 0.8, 1.5]])
    assert v_step(book, towards, code_fraction=0.5) == 2
    assert book.codes.tolist() == [[1, 1, 1, 2]]
    book = by_hand()
    assert v_step(book, towards, code_fraction=0.25) == 1  # only group 2
    assert book.codes.tolist() == [[0, 1, 1, 2]]
    assert v_step(by_hand(), towards, code_fraction=0.0) == 0


def test_all_groups_are_straight_through() -> None:
    book, towards = cluster(torch.randn(6, 16), dim=2, bits=3, seed=0), torch.randn(6, 16)
    wanted = book.nearest(towards)
    v_step(book, towards, code_fraction=1.0)
    assert torch.equal(book.codes, wanted)


def test_the_buffer_collects_small_steps() -> None:
    state = State(by_hand(), by_hand().weight())
    gradient = torch.tensor([[-1.0, 0.0, 0.0, 0.0]])
    # without momentum the first steps are sqrt(1 - 0.95^t) of 1.0 * sqrt(12): 0.77, then more
    first = state.buffer.norm().item() * math.sqrt(0.05)
    changed = []
    for count in (1, 2):
        state.step("buffer", state.buffer, gradient, count, 1.0 if count == 1 else 0.5, 0.0)
        if count == 1:
            assert state.buffer[0, 0].item() == pytest.approx(-2 + first, rel=1e-4)
        changed.append(v_step(state.book, state.buffer, code_fraction=1.0))
    assert changed == [0, 1]
    assert state.book.codes.tolist() == [[1, 1, 2, 2]]


def test_p_step_is_as_long_as_said_and_goes_down() -> None:
    torch.manual_seed(4)
    matrix, target = cluster(torch.randn(5, 12), dim=2, bits=2, seed=0), torch.randn(5, 12)
    state = State(matrix, matrix.weight())
    for step in range(1, 100):
        before, error = matrix.words.clone(), (matrix.weight() - target).square().sum()
        p_step(state, 2 * (matrix.weight() - target), step, 0.01)
        length = 0.01 * math.sqrt(1 - 0.95**step) / (1 - 0.9**step)
        assert ((matrix.words - before).norm() / before.norm()).item() == pytest.approx(length, rel=1e-3)
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
    _, pv = tuned("pv", steps=5, code_rate=0.5)
    name = "model.layers.0.mlp.up_proj"
    assert torch.equal(start.layers[name].codes, only.layers[name].codes)
    assert not torch.equal(start.layers[name].codebook, only.layers[name].codebook)
    assert pv.notes["code_changes"] > 0
    book = cluster(tiny().get_submodule(name).weight.detach(), dim=2, bits=3, seed=0)
    assert torch.equal(start.layers[name].codes.squeeze(-1).long(), book.codes)


@pytest.mark.parametrize("rule", ["pv", "straight-through", "codebooks"])
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
    [
        ({"dim": 3}, "does not divide"),
        ({"code_bits": 0}, "between 1 and 12"),
        ({"steps": -1}, "at least 0"),
        ({"rule": "x"}, "rule"),
    ],
)
def test_bad_parameters(params: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tuned(**params)


def test_tuning_without_text_is_refused() -> None:
    with pytest.raises(ValueError, match="needs calibration text"):
        transform(tiny(), [], tiny(), 0)


def test_text_held_back_chooses_the_rate_and_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[transform.__module__]
    _, only = tuned("codebooks", steps=4)
    assert only.notes["rates"][0] in module.RATES
    assert only.notes["code_changes"] == 0
    _, pv = tuned("pv", steps=4)
    assert pv.notes["rates"][1] in module.CODE_RATES
    monkeypatch.setattr(module, "EVALUATE", 2)
    _, wild = tuned("codebooks", steps=12, rate=0.2)  # far too fast: what comes later is worse
    assert len(wild.notes["losses"]) in range(2, 13, 2)
    teacher, held = tiny(), batches()[3]

    def away(small: object) -> float:
        with torch.no_grad():
            return module.kl(small.model(**held).logits, teacher(**held).logits).item()

    monkeypatch.setattr(module, "EVALUATE", 100)
    assert away(wild) <= away(tuned("codebooks", steps=12, rate=0.2)[1]) + 1e-6
