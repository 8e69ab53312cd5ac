"""An encoder with a linear head over classes, whose lower blocks may be run once for all texts and never again."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.kit.walk import blocks

DROPOUT = 0.1  # before the head while training, as in BERT


@dataclass
class Said:
    """Logits (n, classes), and the hidden states where they were asked for: what enters the blocks, then what each
    leaves, (n, time, width)."""

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class Classifier(nn.Module):
    """encoder: of transformers. head: on the mean of the tokens' last states, or on the first token's.

    Called with input_ids, or with inputs_embeds where `upper` cut the lower blocks off: then with the states that enter
    the first block that is left. rows: which texts these are; for a teacher that has said what it says (`Teacher`).
    """

    def __init__(self, encoder: Any, classes: int, pooling: str = "mean") -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling={pooling!r}: give 'mean' or 'cls'")
        self.encoder, self.pooling = encoder, pooling
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None, rows: Tensor | None = None, output_hidden_states: bool = False,
    ) -> Said:  # fmt: skip
        """(n, time) ids, or (n, time, width) states, and a mask (n, time), 1 for a token."""
        given = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        out = self.encoder(**given, attention_mask=attention_mask, output_hidden_states=output_hidden_states)
        pooled = F.dropout(self.pooled(out.last_hidden_state, attention_mask), DROPOUT, self.training)
        return Said(self.head(pooled), out.hidden_states if output_hidden_states else None)

    def pooled(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """(n, time, width) -> (n, width)."""
        if self.pooling == "cls":
            return states[:, 0]
        weight = torch.ones(states.shape[:2]) if mask is None else mask
        return (states * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)


class Given(nn.Module):
    """Stands where an encoder's embeddings were, and passes on the states that the encoder is called with."""

    def forward(self, input_ids: Any = None, *_: Any, inputs_embeds: Tensor | None = None, **__: Any) -> Tensor:
        """(n, time, width), as they come."""
        if inputs_embeds is None:
            raise ValueError("the lower blocks were cut off this encoder: call it with inputs_embeds, their states")
        return inputs_embeds


class Teacher(nn.Module):
    """A classifier whose logits for known texts, by row, are looked up; the rest, and hidden states, are computed.

    known: (texts, classes), NaN for a text that is not known. The model is not trained.
    """

    def __init__(self, model: Classifier, known: Tensor) -> None:
        super().__init__()
        self.model, self.known = model.eval().requires_grad_(False), known

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, rows: Tensor | None = None, inputs_embeds: Any = None,
        output_hidden_states: bool = False,
    ) -> Said:  # fmt: skip
        """As a classifier; inputs_embeds, which are a student's, are not looked at."""
        if rows is not None and not output_hidden_states and self.known[rows].isfinite().all():
            return Said(self.known[rows])
        return self.model(input_ids, attention_mask, output_hidden_states=output_hidden_states)


def lower(encoder: nn.Module, depth: int) -> nn.Module:
    """A copy of an encoder with its first `depth` blocks."""
    stem, stack = blocks(encoder)
    return _with(encoder, stem, stack[:depth])


def upper(encoder: nn.Module, depth: int) -> nn.Module:
    """A copy of an encoder of the BERT kind without its embeddings and its first `depth` blocks.

    Raises ValueError for one whose embeddings are not a module of that name.
    """
    stem, stack = blocks(encoder)
    if not isinstance(encoder._modules.get("embeddings"), nn.Module):
        raise ValueError(
            f"{type(encoder).__name__} has no module `embeddings` that its lower blocks could stand in for"
        )
    small = _with(encoder, stem, stack[depth:])
    small.embeddings = Given()
    return small


def _with(encoder: Any, stem: str, stack: nn.ModuleList) -> nn.Module:
    """A copy of an encoder with another stack of blocks; no weight of the others is copied on the way."""
    memo: dict[int, Any] = {}
    whole = encoder.get_submodule(stem)
    memo[id(whole)] = copy.deepcopy(stack)
    small: Any = copy.deepcopy(encoder, memo)
    small.config.num_hidden_layers = len(stack)
    return small


@dataclass
class States:
    """Hidden states of many texts, end to end. flat (tokens, width) in half precision; starts (texts + 1,)."""

    flat: Tensor
    starts: Tensor

    def of(self, rows: Tensor, time: int) -> Tensor:
        """(rows, time, width) in float32, zero behind a text's end."""
        found = torch.zeros(len(rows), time, self.flat.shape[1])
        for place, row in enumerate(rows.tolist()):
            first, last = int(self.starts[row]), int(self.starts[row + 1])
            found[place, : last - first] = self.flat[first:last]
        return found


@torch.no_grad()
def states_after(encoder: Any, texts: Sequence[Sequence[int]], depths: Sequence[int]) -> dict[int, States]:
    """What blocks `depths` (0: the embeddings) leave for each text, by depth; texts of like length together."""
    model = lower(encoder, max(depths)).eval()
    lengths = torch.tensor([len(text) for text in texts])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    width = encoder.config.hidden_size
    flat = {depth: torch.zeros(int(starts[-1]), width, dtype=torch.float16) for depth in depths}
    for rows in lengths.argsort(stable=True).split(64):
        ids, mask = padded([texts[row] for row in rows.tolist()])
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        for place, row in enumerate(rows.tolist()):
            for depth in depths:
                state = out.hidden_states[depth][place, : int(lengths[row])]
                flat[depth][int(starts[row]) : int(starts[row + 1])] = state.half()
    return {depth: States(flat[depth], starts) for depth in depths}


def padded(texts: Sequence[Sequence[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids (n, time) and mask (n, time) of texts, as long as the longest."""
    time = max(map(len, texts))
    ids = torch.tensor([[*text, *[pad] * (time - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (time - len(text)) for text in texts])
    return ids, mask
