"""Turns of two models: against plain loops without caches, and what is read."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from paperlab.kit.switching import Ahead, Rule, entropy, place, write

VOCABULARY = 40
PROMPTS = torch.randint(3, VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(1))


def llama(seed: int, width: int) -> nn.Module:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


def gpt2(seed: int, width: int) -> nn.Module:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=width, n_layer=2, n_head=2, n_positions=64, initializer_range=0.4,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).double().eval()


def at(places: Tensor) -> Rule:
    """The large model at given places (n, length)."""
    return lambda entropies, large, _: places[:, large.shape[1]]


def busy(entropies: Tensor, large: Tensor, _: Ahead) -> Tensor:
    """The large model after a token of more bits than the row's others on average."""
    return entropies[:, -1] > entropies.mean(1) if large.shape[1] else torch.ones(len(large), dtype=torch.bool)


def asks(entropies: Tensor, large: Tensor, ahead: Ahead) -> Tensor:
    """At every third token: the large model if the small one is more certain of the next token than of those so far;
    else whoever had the word."""
    if large.shape[1] % 3:
        return large[:, -1]
    bits = ahead()
    return bits[:, -1] < bits.mean(1) if large.shape[1] else torch.ones(len(large), dtype=torch.bool)


def plain(small: nn.Module, large: nn.Module, ids: Tensor, length: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Greedy turns, every token from the whole text, no cache; entropies by their definition."""
    rows, chosen = [row.tolist() for row in ids], torch.zeros(len(ids), 0, dtype=torch.bool)
    bits = torch.zeros(len(ids), 0)
    for time in range(length):

        def ahead(text: Tensor = torch.tensor(rows), count: int = time + 1) -> Tensor:  # noqa: B008
            odds = [small(row[None], use_cache=False).logits[0, -count:].softmax(-1) for row in text]
            return torch.stack([torch.distributions.Categorical(probs=p).entropy() / math.log(2) for p in odds])

        now = rule(bits, chosen, ahead)
        fresh = []
        for row, big in zip(rows, now.tolist(), strict=True):
            with torch.no_grad():
                odds = (large if big else small)(torch.tensor([row]), use_cache=False).logits[0, -1].softmax(-1)
            row.append(int(odds.argmax()))
            fresh.append(-sum(p * math.log2(p) for p in odds.tolist() if p > 0))
        bits, chosen = torch.cat((bits, torch.tensor(fresh)[:, None]), 1), torch.cat((chosen, now[:, None]), 1)
    return torch.tensor(rows), chosen


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize("rule", [busy, asks, at(torch.rand(3, 24, generator=torch.Generator().manual_seed(2)) < 0.5)])
def test_turns_with_caches_are_those_of_a_plain_loop(make: Callable[[int, int], nn.Module], rule: Rule) -> None:
    small, large = make(0, 8), make(1, 16)
    ids, chosen = plain(small, large, PROMPTS, 24, rule)
    written = write(small, large, PROMPTS, 24, rule, temperature=0)
    assert 0.1 < chosen.double().mean() < 0.9  # both wrote
    assert not (chosen[0] == chosen[1]).all()  # rows switch at different places
    assert torch.equal(written.ids, ids)
    assert torch.equal(written.large, chosen)
    alone = plain(small, small, PROMPTS, 24, rule)[0]
    assert not torch.equal(alone, ids)


def test_one_model_alone_is_its_own_generate() -> None:
    small, large = llama(0, 8), llama(1, 16)
    for model, places in ((small, torch.zeros), (large, torch.ones)):
        wanted = model.generate(PROMPTS, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)  # type: ignore[operator]
        written = write(small, large, PROMPTS, 12, at(places(3, 12, dtype=torch.bool)), temperature=0)
        assert torch.equal(written.ids, wanted)


class Padded(nn.Module):
    """A model with seven more entries in its vocabulary, which are never drawn."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        out = self.model(**inputs)
        return SimpleNamespace(logits=F.pad(out.logits, (0, 7), value=-1e9), past_key_values=out.past_key_values)


def test_vocabularies_may_be_padded_to_other_lengths() -> None:
    small, large = llama(0, 8), llama(1, 16)
    wanted = write(small, large, PROMPTS, 12, busy, temperature=0)
    found = write(small, Padded(large), PROMPTS, 12, busy, temperature=0)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.large, wanted.large)
    assert any(row.any() != row.all() for row in wanted.large.T)  # rows of both lengths at once


def test_a_model_reads_up_to_the_last_token_before_its_own() -> None:
    """By hand: five tokens of prompt, four new ones; the first and the third are the large model's."""
    places = torch.tensor([[True, False, True, False]])
    written = write(llama(0, 8), llama(1, 16), PROMPTS[:1], 4, at(places))
    assert (written.large_read, written.small_read) == (5 + 2, 5 + 3)
    untouched = write(llama(0, 8), llama(1, 16), PROMPTS, 4, at(torch.zeros(3, 4, dtype=torch.bool)))
    assert (untouched.large_read, untouched.small_read) == (0, 3 * (5 + 3))


def test_the_small_model_reads_every_token_where_the_rule_asks_it() -> None:
    def rule(entropies: Tensor, large: Tensor, ahead: Ahead) -> Tensor:
        return ahead()[:, -1] >= 0  # always the large one

    written = write(llama(0, 8), llama(1, 16), PROMPTS[:1], 4, rule)
    assert written.large.all()
    assert (written.large_read, written.small_read) == (5 + 3, 5 + 3)


def test_tokens_are_drawn_from_the_writer_s_distribution() -> None:
    """Of 2,000 first tokens, at a temperature of 2, as often as the large model says, within four standard errors."""
    small, large = llama(0, 8), llama(1, 16)
    prompt = PROMPTS[:1].expand(2000, -1)
    with torch.no_grad():
        odds = (large(PROMPTS[:1]).logits[0, -1] / 2).softmax(-1)
    torch.manual_seed(0)
    # All rows are one prompt: let one forward pass answer for all of them.
    fixed = Fixed(large(PROMPTS[:1]).logits.detach())
    drawn = write(small, fixed, prompt, 1, at(torch.ones(2000, 1, dtype=torch.bool)), temperature=2.0).ids[:, -1]
    counted = torch.bincount(drawn, minlength=VOCABULARY) / 2000
    assert ((counted - odds).abs() <= 4 * (odds * (1 - odds) / 2000).sqrt() + 1e-3).all()


class Fixed(nn.Module):
    """Always the same logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, **inputs: Tensor) -> "Fixed":
        self.past_key_values = None
        return self


def test_entropy_is_in_bits() -> None:
    odds = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(odds.log()), torch.tensor([1.5, 2.0, 0.0]))
    logits = torch.randn(5, 9, dtype=torch.float64)
    wanted = torch.distributions.Categorical(logits=logits).entropy() / math.log(2)
    torch.testing.assert_close(entropy(logits), wanted)


def test_a_rule_sees_the_entropy_of_who_predicted() -> None:
    small, large = torch.full((2, 6), 1.0), torch.full((2, 6), 5.0)
    seen: list[Tensor] = []

    def rule(entropies: Tensor, chosen: Tensor, ahead: Ahead) -> Tensor:
        seen.append(entropies.clone())
        assert torch.equal(ahead(), small[:, : entropies.shape[1] + 1])
        return torch.tensor([True, len(seen) % 2 == 0])

    chosen = place(small, large, rule)
    assert chosen.tolist() == [[True] * 6, [False, True, False, True, False, True]]
    assert seen[-1].tolist() == [[5.0] * 5, [1.0, 5.0, 1.0, 5.0, 1.0]]


def test_what_makes_no_sense_is_refused() -> None:
    small, never = llama(0, 8), at(torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one in each row"):
        write(small, small, PROMPTS[:, :0], 4, never)
    with pytest.raises(ValueError, match="below 0"):
        write(small, small, PROMPTS, 4, never, temperature=-1)
    with pytest.raises(ValueError, match="one bool for each of 3 rows"):
        write(small, small, PROMPTS, 4, lambda *_: torch.zeros(3))
