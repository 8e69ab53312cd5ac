"""Distilling step by step: the two tasks' losses by hand, self-consistency, padding, what is taught."""

import copy

import pytest
import torch
import torch.nn.functional as F
from contract_cases import tiny
from window_settings import Windows

from paperlab.kit.rationales import Example, examples_of, nearest, padded, surprise, written
from paperlab.methods.distillation.rationale_distillation import recipe

ONE = Example((5, 6, 7), (8, 6, 7), (10, 3), ((20, 10, 3), (21, 11, 3), (22, 10, 3)), ((10, 3), (11, 3), (10, 3)))


class Asked(Windows):
    examples = (ONE,)


def by_hand(model: torch.nn.Module, prompt: tuple[int, ...], text: tuple[int, ...]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([prompt + text])).logits[0]
    return F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(text))


def test_surprise_does_not_see_padding_or_the_prompt() -> None:
    prompts, texts = [(5, 6, 7), (8, 9, 10)], [(20, 21, 22, 3), (30, 3)]
    got = surprise(tiny("Llama"), prompts, texts)
    expected = [by_hand(tiny("Llama"), *pair) for pair in zip(prompts, texts, strict=True)]
    torch.testing.assert_close(got, torch.stack(expected))
    _, mask, labels = padded(prompts, texts)
    assert mask.sum(1).tolist() == [7, 5]
    assert (labels != -100).sum(1).tolist() == [4, 2]


def test_most_decide_what_is_consistent_and_the_model_which_is_nearest() -> None:
    good, others = ONE.consistent()
    assert good == [(20, 10, 3), (22, 10, 3)]
    assert others == [(21, 11, 3)]
    tie = Example((1,), (2,), (3,), ((7, 3), (8, 3), (7, 3)), ((5,), (6,), (5,)))
    assert tie.consistent() == ([(7, 3)], [(8, 3)])
    values = [by_hand(tiny("Llama"), ONE.explain, text).item() for text in good]
    assert nearest(tiny("Llama"), [ONE.explain], [good]) == [good[values.index(min(values))]]


def test_a_step_is_adamw_on_both_tasks() -> None:
    for rationales in ("first", "none"):
        got = recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama"), 1), 0, 1e-3, rationales=rationales, weight=2.0)
        own = copy.deepcopy(tiny("Llama"))
        loss = by_hand(own, ONE.predict, ONE.answer)
        if rationales == "first":
            loss = loss + 2 * by_hand(own, ONE.explain, ONE.rationales[0])
        optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3 * 0.5 / 0.95, weight_decay=0.0)
        loss.backward()
        optimizer.step()
        for name, parameter in own.named_parameters():
            torch.testing.assert_close(got.model.get_parameter(name), parameter, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="at least 0"):
        recipe(copy.deepcopy(tiny("Llama")), Asked(tiny("Llama")), 0, 1e-3, weight=-1.0)


def test_what_is_written_is_greedy_or_drawn_and_stops_at_the_end() -> None:
    model, prompt = tiny("Llama"), (5, 6, 7)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat((ids, model(input_ids=ids).logits[:, -1:].argmax(-1)), 1)
        p = (model(input_ids=ids[:, :3]).logits[0, -1] / 1.5).softmax(-1)
    greedy = tuple(ids[0, 3:].tolist())
    assert written(model, [prompt], 5, -1) == [greedy]
    assert written(model, [prompt], 5, greedy[2]) == [greedy[: greedy.index(greedy[2]) + 1]]
    drawn = written(model, [prompt] * 4000, 1, -1, temperature=1.5, draw=torch.Generator().manual_seed(0))
    share = torch.bincount(torch.tensor(drawn)[:, 0], minlength=len(p)) / 4000
    assert (share - p).abs().max() < 0.03
    with pytest.raises(ValueError, match="one length"):
        written(model, [(1, 2), (1,)], 1, -1)


def test_windows_serve_where_there_are_no_examples() -> None:
    found = examples_of(Windows(tiny("Llama")), 0)
    inputs, _ = next(Windows(tiny("Llama")).batches(0))
    assert len(found) == 4
    assert found[0].explain + found[0].rationales[0] == tuple(inputs["input_ids"][0].tolist())


def test_shuffled_reasons_are_another_question_s_and_all_arms_count_what_they_read() -> None:
    class Several(Windows):
        examples = tuple(Example((5, n), (8, n), (n, 3), ((n, 20, 3),), ((20,),)) for n in range(30, 40))
        batch = 10

    shown: list[tuple[int, ...]] = []
    model = copy.deepcopy(tiny("Llama"))
    handle = model.register_forward_pre_hook(
        lambda _, args, given: shown.extend(map(tuple, given["input_ids"].tolist())), with_kwargs=True
    )
    made = recipe(model, Several(tiny("Llama"), 1), 0, 1e-3, rationales="shuffled")
    handle.remove()
    reasons = [row for row in shown if row[0] == 8]
    assert sorted(row[2] for row in reasons) == list(range(30, 40))
    assert sum(row[1] != row[2] for row in reasons) >= 5
    assert made.notes == {"tokens": 10 * 4 + 10 * 5}
