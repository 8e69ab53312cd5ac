"""Self-data distillation: which blocks go, what is written in place of the answers, and what is trained on it."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from contract_cases import VOCABULARY, batches, tiny
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from paperlab.kit.tuning import Batch
from paperlab.methods.pruning.self_data_distillation import (
    IGNORED,
    angles,
    answers_only,
    continued,
    on_answers,
    recipe,
    rewritten,
    without_blocks,
)


class Setting:
    steps = 2
    rates: tuple[float, ...] = (1e-3,)

    def __init__(self, teacher: nn.Module | None = None) -> None:
        self.model = tiny("Llama")
        self.teacher = teacher

    def batches(self, seed: int) -> Iterator[tuple[Batch, Tensor]]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            ids = torch.randint(3, VOCABULARY, (2, 9), generator=draw)
            yield {"input_ids": ids[:, :-1]}, ids[:, 1:]

    def validate(self, model: nn.Module) -> float:
        return 0.0


def test_a_block_that_does_nothing_goes_first(six_blocks: LlamaForCausalLM) -> None:
    model: Any = copy.deepcopy(six_blocks)
    idle = model.model.layers[3]
    idle.self_attn.o_proj.weight.data.zero_()
    idle.mlp.down_proj.weight.data.zero_()
    batch = {"input_ids": torch.arange(12).view(2, 6)}
    found = angles(model, [batch], 1)
    assert len(found) == 6
    assert found[3] == pytest.approx(0, abs=1e-3)
    assert all(0 <= value <= 1 for value in found)
    with torch.no_grad():
        before = model(**batch).logits
        cut: Any = without_blocks(model, [batch], 1)
        torch.testing.assert_close(cut(**batch).logits, before)
    assert len(cut.model.layers) == cut.config.num_hidden_layers == 5
    assert [block.self_attn.layer_idx for block in cut.model.layers] == list(range(5))
    assert len(angles(six_blocks, [batch], 2)) == 5
    with pytest.raises(ValueError, match="blocks_dropped=6"):
        without_blocks(copy.deepcopy(six_blocks), [batch], 6)


def test_the_angle_of_the_last_run_is_taken_before_the_final_norm(six_blocks: LlamaForCausalLM) -> None:
    batch = {"input_ids": torch.arange(6).view(1, 6)}
    seen: list[Tensor] = []
    block: Any = six_blocks.model.layers[5]
    handle = block.register_forward_hook(lambda _, args, out: seen.extend((args[0], out)))
    with torch.no_grad():
        six_blocks(**batch)
    handle.remove()
    cosine = torch.nn.functional.cosine_similarity(seen[0], seen[1], dim=-1)
    assert angles(six_blocks, [batch], 1)[5] == pytest.approx((cosine.arccos() / torch.pi).mean().item(), abs=1e-5)


def test_what_the_teacher_writes_follows_its_distribution() -> None:
    teacher = copy.deepcopy(tiny("Llama"))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        teacher.lm_head.weight.mul_(200)
        greedy = ids
        for _ in range(4):
            greedy = torch.cat((greedy, teacher(input_ids=greedy).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(continued(teacher, ids, 4, torch.Generator().manual_seed(0)), greedy)
    many = continued(tiny("Llama"), ids.repeat(4000, 1), 1, torch.Generator().manual_seed(0))[:, -1]
    with torch.no_grad():
        p = tiny("Llama")(input_ids=ids).logits[0, -1].softmax(-1)
    share = torch.bincount(many, minlength=VOCABULARY) / 4000
    assert (share - p).abs().max() < 0.03


def test_prompts_stay_answers_are_replaced_and_only_they_have_labels() -> None:
    given = next(Setting().batches(0))
    ((inputs, labels),) = [next(rewritten(tiny("Llama"), iter([given]), torch.Generator().manual_seed(1)))]
    ids, old = inputs["input_ids"], given[0]["input_ids"]
    assert torch.equal(ids[:, :4], old[:, :4])
    assert torch.equal(ids[:, 1:], labels[:, :-1])
    assert not torch.equal(labels[:, 3:], given[1][:, 3:])
    _, masked = next(answers_only(iter([(inputs, labels)])))
    assert (masked[:, :3] == IGNORED).all()
    assert torch.equal(masked[:, 3:], labels[:, 3:])
    student = torch.randn(16, VOCABULARY, dtype=torch.float64)
    chosen = masked.flatten() != IGNORED
    expected = -student.log_softmax(-1)[chosen, masked.flatten()[chosen]].mean()
    torch.testing.assert_close(on_answers(student, masked.flatten()), expected)


def test_the_two_arms_differ_by_the_answers_alone() -> None:
    made = {}
    for answers in ("own", "reference", "none"):
        setting = Setting(tiny("Llama"))
        made[answers] = recipe(copy.deepcopy(tiny("Llama")), setting, 3, 1e-2, answers=answers)
    assert [made[answers].steps for answers in made] == [2, 2, 0]
    weights = {answers: [p.detach() for p in arm.model.parameters()] for answers, arm in made.items()}
    assert {len(rows) for rows in weights.values()} == {len(weights["none"])}
    assert any(not torch.equal(a, b) for a, b in zip(weights["own"], weights["reference"], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights["own"], weights["none"], strict=True))
    with torch.no_grad():
        assert made["own"].model(**batches()[0]).logits.isfinite().all()
    with pytest.raises(ValueError, match="whole model"):
        recipe(copy.deepcopy(tiny("Llama")), Setting(), 0, 1e-3)


def test_a_share_of_the_rate_is_that_rate() -> None:
    made = []
    for rate, share in ((1e-2, 0.5), (5e-3, 1.0)):
        arm = recipe(copy.deepcopy(tiny("Llama")), Setting(), 3, rate, answers="reference", rate_share=share)
        made.append([p.detach() for p in arm.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))
    with pytest.raises(ValueError, match="above 0"):
        recipe(copy.deepcopy(tiny("Llama")), Setting(), 3, 1e-2, rate_share=0.0)
