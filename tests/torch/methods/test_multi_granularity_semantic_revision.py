"""Multi-granularity semantic revision: which token is mended, what clipping leaves of the KL, the span term by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from contract_cases import VOCABULARY, tiny
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from window_settings import Windows

from paperlab.kit.writing import answer, continued, on_answers
from paperlab.methods.distillation import multi_granularity_semantic_revision as method


@pytest.fixture
def teacher() -> LlamaForCausalLM:
    made = copy.deepcopy(tiny("Llama"))
    with torch.no_grad():
        made.get_parameter("lm_head.weight").copy_(torch.randn(VOCABULARY, 64, generator=torch.manual_seed(5)))
    return made  # type: ignore[return-value]


def test_kept_tokens_stay_and_the_rest_is_sampled() -> None:
    ids = torch.randint(3, VOCABULARY, (3, 4), generator=torch.manual_seed(0))
    kept = torch.randint(3, VOCABULARY, (3, 6), generator=torch.manual_seed(1))
    upto = torch.tensor([0, 3, 6])
    made = continued(tiny("Llama"), ids, 6, torch.Generator().manual_seed(0), kept=kept, upto=upto)
    assert torch.equal(made[:, :4], ids)
    for row, count in enumerate(upto.tolist()):
        assert torch.equal(made[row, 4 : 4 + count], kept[row, :count])
    assert not torch.equal(made[0, 4:], kept[0])
    one = continued(tiny("Llama"), ids[:1].repeat(4000, 1), 2, torch.Generator().manual_seed(0),
                    kept=kept[:1, :2].repeat(4000, 1), upto=torch.ones(4000, dtype=torch.long))  # fmt: skip
    with torch.no_grad():
        p = tiny("Llama")(input_ids=torch.cat((ids[:1], kept[:1, :1]), 1)).logits[0, -1].softmax(-1)
    assert (torch.bincount(one[:, -1], minlength=VOCABULARY) / 4000 - p).abs().max() < 0.03


def test_the_token_that_is_mended_has_the_greatest_kl_where_the_two_disagree(teacher: LlamaForCausalLM) -> None:
    model = tiny("Llama")
    ids = torch.randint(3, VOCABULARY, (8, 13), generator=torch.manual_seed(0))
    made = method.revised(model, teacher, ids, torch.Generator().manual_seed(0))
    assert torch.equal(made[:, :6], ids[:, :6])
    with torch.no_grad():
        p = F.log_softmax(teacher(input_ids=ids).logits, -1)
        q = F.log_softmax(model(input_ids=ids).logits, -1)
    for row in range(8):
        best, place = -1.0, -1
        for token in range(6, 13):
            before = token - 1
            if p[row, before].argmax() != ids[row, token]:
                value = F.kl_div(q[row, before], p[row, before], log_target=True, reduction="sum").item()
                best, place = max((best, place), (value, token))
        assert torch.equal(made[row, :place], ids[row, :place])
        assert made[row, place] == p[row, place - 1].argmax()


def test_an_answer_that_is_the_teachers_choice_everywhere_stays(teacher: LlamaForCausalLM) -> None:
    ids = torch.randint(3, VOCABULARY, (2, 4), generator=torch.manual_seed(0))
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat((ids, teacher(input_ids=ids).logits[:, -1:].argmax(-1)), dim=1)
    assert answer(ids) == 4
    assert torch.equal(method.revised(tiny("Llama"), teacher, ids, torch.Generator().manual_seed(0)), ids)


def test_clipping_that_keeps_all_is_the_kl_and_never_exceeds_it() -> None:
    torch.manual_seed(0)
    p, q = (torch.randn(3, 5, 11, dtype=torch.float64) * 3).log_softmax(-1), torch.randn(3, 5, 11).double()
    q = q.log_softmax(-1)
    asked = torch.randint(11, (3, 5))
    whole = F.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()
    flat = torch.ones(3, 5, dtype=torch.float64)
    torch.testing.assert_close(method.clipped_kl(p, q, asked, -9 * flat, 9 * flat), whole)
    for lower, upper in ((0.0, 0.9), (0.3, 0.7), (0.1, 0.98), (5.0, 9.0)):
        value = method.clipped_kl(p, q, asked, lower * flat, upper * flat)
        assert 0 <= value <= whole
    # nothing but the token asked for is kept: two classes are left
    two = [torch.stack((one.exp().gather(-1, asked[..., None])[..., 0],) * 2, -1) for one in (p, q)]
    two = [torch.stack((one[..., 0], 1 - one[..., 1]), -1) for one in two]
    binary = F.kl_div(two[1].log(), two[0], reduction="none").sum(-1).mean()
    torch.testing.assert_close(method.clipped_kl(p, q, asked, 5 * flat, 9 * flat), binary)
    torch.testing.assert_close(method.clipped_kl(p, p, asked, 0.1 * flat, 0.9 * flat), 0 * whole)


def test_the_bounds_are_ordered_and_learn() -> None:
    torch.manual_seed(0)
    bounds = method.Bounds()
    p, q = (torch.randn(2, 5, 11) * 3).log_softmax(-1), torch.randn(2, 5, 11).log_softmax(-1)
    lower, upper = bounds(p, q)
    torch.testing.assert_close(lower, torch.full((2, 5), 0.1192), atol=1e-3, rtol=0)
    torch.testing.assert_close(upper, torch.full((2, 5), 0.9842), atol=1e-3, rtol=0)
    with torch.no_grad():
        for parameter in bounds.parameters():
            parameter.add_(torch.randn_like(parameter))
    lower, upper = bounds(p, q)
    assert ((lower > 0) & (lower < upper) & (upper < 1)).all()
    method.clipped_kl(p, q, torch.zeros(2, 5, dtype=torch.long), lower, upper).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in bounds.parameters())


def test_span_by_hand() -> None:
    p = torch.tensor([[[0.5, 0.5], [0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [1.0, 1e-30]]], dtype=torch.float64)
    q = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]], dtype=torch.float64)
    # spans of two: the pairs 0-1 and 2-3, of which the products are (.4, .1) and (.04, .54); the student's (.25, .25)
    expected = ((0.15**2 + 0.15**2) + (0.21**2 + 0.29**2)) / 2
    got = method.span_distance(p.log(), q.log(), 2)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
    assert method.span_distance(p.log(), p.log(), 2) == 0


def test_revised_answers_serve_two_steps_and_cost_no_more_tokens(
    monkeypatch: pytest.MonkeyPatch, teacher: LlamaForCausalLM
) -> None:
    drawn = {True: 0, False: 0}
    asked: list[Tensor] = []
    real = torch.multinomial

    def spy(model: nn.Module, ids: Tensor) -> Tensor:
        if model is teacher and torch.is_grad_enabled() is False:
            asked.append(ids)
        return on_answers(model, ids)

    monkeypatch.setattr("paperlab.kit.writing.on_answers", spy)
    for revise in drawn:

        def counted(p: Tensor, *rest: int, generator: torch.Generator, revise: bool = revise) -> Tensor:
            drawn[revise] += len(p)
            return real(p, *rest, generator=generator)

        monkeypatch.setattr(torch, "multinomial", counted)
        method.recipe(copy.deepcopy(tiny("Llama")), Windows(teacher, steps=4), 0, 1e-3, revise=revise)
    assert drawn[True] <= drawn[False]
    assert torch.equal(asked[0], asked[1])
    assert not torch.equal(asked[1], asked[2])
    assert not torch.equal(asked[4], asked[5])
