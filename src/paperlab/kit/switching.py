"""Two causal language models that write one text in turns: who predicts which token, and how they generate.

One rule decides before each token, from the entropies of the distributions that the tokens so far were predicted with
and from who predicted them. It may also ask what the small model says of the next token, which the small model then
has to compute whoever writes. So it works on a given text (`place`) as it does while writing (`write`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Ahead = Callable[[], Tensor]  # the small model's entropies of the t tokens so far and of the next one: (n, t + 1)
Rule = Callable[[Tensor, Tensor, Ahead], Tensor]  # entropy (n, t) in bits, large (n, t) bool -> (n,) bool: large next?


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy of the softmax over the last dimension, in bits: (..., vocabulary) -> (...), 0 or more."""
    logs = logits.log_softmax(-1)
    return torch.special.entr(logs.exp()).sum(-1) / math.log(2)


def decided(rule: Rule, entropies: Tensor, large: Tensor, ahead: Ahead) -> Tensor:
    """What the rule says of each row, (n,) bool. Raises ValueError for anything else than that."""
    said = rule(entropies, large, ahead)
    if said.shape != large.shape[:1] or said.dtype != torch.bool:
        raise ValueError(
            f"the rule gave {tuple(said.shape)} of {said.dtype}, not one bool for each of {len(large)} rows"
        )
    return said


def place(small: Tensor, large: Tensor, rule: Rule) -> Tensor:
    """Which tokens of given texts the large model predicts: (n, time) bool.

    small, large: entropies (n, time), in bits, of both models' distributions of each token given those before it.
    The rule sees, of each token, the entropy of the model that predicted it.
    """
    seen, chosen = torch.empty_like(small), torch.zeros_like(small, dtype=torch.bool)
    for time in range(small.shape[1]):
        now = decided(rule, seen[:, :time], chosen[:, :time], small[:, : time + 1].clone)
        chosen[:, time] = now
        seen[:, time] = torch.where(now, large[:, time], small[:, time])
    return chosen


class Reader:
    """A causal language model with its key-value cache of one text. tokens: how many it has read. bits (tokens,): the
    entropies of what it says follows each of them."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.cache, self.tokens = model, None, 0
        self.bits, self.last = torch.zeros(0), torch.zeros(0)

    def logits(self, ids: Tensor) -> Tensor:
        """Of the token that follows `ids` (time,): (vocabulary,). What it has not read yet, it reads now, at once."""
        if self.tokens < len(ids):
            out: Any = self.model(input_ids=ids[None, self.tokens :], past_key_values=self.cache, use_cache=True)
            self.cache, self.tokens, self.last = out.past_key_values, len(ids), out.logits[0, -1].float()
            self.bits = torch.cat((self.bits.to(self.last), entropy(out.logits[0].float())))
        return self.last


@dataclass(frozen=True)
class Written:
    """ids: (n, time + length) token ids. large: (n, length) bool, which new tokens the large model wrote.

    small_read, large_read: tokens of all texts that each model had to read in order to write, prompts among them.
    """

    ids: Tensor
    large: Tensor
    small_read: int
    large_read: int


@torch.no_grad()
def write(
    small: nn.Module, large: nn.Module, ids: Tensor, length: int, rule: Rule, *, temperature: float = 1.0
) -> Written:
    """Continue prompts (n, time), 1 or more tokens each, by `length` tokens; nothing is verified afterwards.

    Only the model that writes is run, and first reads what the other one wrote meanwhile; the small one also where the
    rule asks what it says of the next token. Both need one tokenizer;
    their embeddings may be padded to other lengths. Tokens are drawn at `temperature` from torch's global generator; 0
    takes the most likely one. Entropies are those before the temperature.
    """
    if ids.dim() != 2 or not ids.shape[1]:
        raise ValueError(f"prompts of shape {tuple(ids.shape)}: give token ids (n, time), at least one in each row")
    if temperature < 0 or length < 0:
        raise ValueError(f"{temperature=}, {length=}: neither may be below 0")
    # A row has caches of its own: rows switch at different places, so that one model's gaps differ between them.
    readers = [(Reader(small), Reader(large)) for _ in ids]
    entropies = torch.zeros(len(ids), 0, device=ids.device)
    chosen = torch.zeros(len(ids), 0, dtype=torch.bool, device=ids.device)
    for time in range(length):

        def ahead(ids: Tensor = ids, count: int = time + 1) -> Tensor:
            for (reader, _), row in zip(readers, ids, strict=True):
                reader.logits(row)
            return torch.stack([reader.bits[-count:] for reader, _ in readers])

        now = decided(rule, entropies, chosen, ahead)
        tokens, bits = [], []
        for pair, row, big in zip(readers, ids, now.tolist(), strict=True):
            reader = pair[int(big)]
            logits = reader.logits(row)
            odds = (logits / temperature).softmax(-1) if temperature else logits
            tokens.append(torch.multinomial(odds, 1) if temperature else odds.argmax(-1, keepdim=True))
            bits.append(reader.bits[-1])
        ids = torch.cat((ids, torch.stack(tokens)), 1)
        entropies = torch.cat((entropies, torch.stack(bits)[:, None]), 1)
        chosen = torch.cat((chosen, now[:, None]), 1)
    return Written(ids, chosen, *(sum(pair[place].tokens for pair in readers) for place in (0, 1)))
