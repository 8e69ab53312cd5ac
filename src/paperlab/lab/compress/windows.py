"""The text of a compression in parts that no two purposes share, and a whole model's change measured on one of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperlab.assets.texts import Text, TextError, separator, split_documents
from paperlab.kit.walk import block_linears, blocks

LENGTH = 256  # tokens of a window
CALIBRATION, SEARCH, VALIDATION = 32, 4, 4  # windows; all others are there to train on
FEWEST = 4  # windows in all, below which nothing can be told apart


@dataclass(frozen=True)
class Windows:
    """Token ids (n, LENGTH): those that the solver sees, that the search measures on, that recovery trains on and is
    validated on. held_out: documents that none of them saw, for the decision."""

    calibration: Tensor
    search: Tensor
    training: Tensor
    validation: Tensor
    held_out: tuple[str, ...]


def windows_of(text: Text, tokenizer: Any, context: int, seed: int) -> Windows:
    """Cut a text. Its held-out half (or what it holds out itself) goes to the decision. Raises TextError."""
    length = min(LENGTH, context)
    between, stream = separator(tokenizer), []
    shown = split_documents(text, "calibration")
    for ids in tokenizer(list(shown), add_special_tokens=False, verbose=False)["input_ids"] if shown else []:
        stream += [*ids, *([] if between is None else [between])]
    there = len(stream) // length
    if there < FEWEST:
        raise TextError(
            f"text {text.id!r} is too short: half of it has {len(stream):,} tokens, and {FEWEST * length:,} are needed "
            "to calibrate, to search and to validate; give more"
        )
    held_out = tuple(split_documents(text, "held-out"))
    left = (
        sum(map(len, tokenizer(list(held_out), add_special_tokens=False, verbose=False)["input_ids"]))
        if held_out
        else 0
    )
    if left < FEWEST * length:
        raise TextError(
            f"text {text.id!r} is too short: the half that decides has {left:,} tokens, and {FEWEST * length:,} are "
            "needed; give more, or in more and shorter documents"
        )
    # What the tokenizer puts before a text, as the measuring of the result has it.
    start = start_of(tokenizer)
    there = len(stream) // (length - len(start))
    cut = torch.tensor(stream[: there * (length - len(start))]).reshape(there, length - len(start))
    cut = torch.cat([torch.tensor(start, dtype=torch.long).expand(there, -1), cut], 1)
    cut = cut[torch.randperm(there, generator=torch.Generator().manual_seed(seed))]
    search = min(SEARCH, there // 4)
    validation = min(VALIDATION, there // 4)
    rest = cut[search + validation :]
    return Windows(
        rest[:CALIBRATION],
        cut[:search],
        rest,
        cut[search : search + validation],
        held_out,
    )


def start_of(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before a text."""
    whole, bare = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return list(whole[:at])


@dataclass(frozen=True)
class Change:
    """kl: KL(original || changed), nats a token. nats: of the text, a token. flips: share of other likeliest tokens."""

    kl: float
    nats: float
    flips: float


class Judge:
    """The original's predictions on a few windows, and how far from them the model is with some weights changed.

    model: changed in place while it is measured; `reset` puts it back. Its blocks' inputs are kept, so that a change
    in a late block costs the blocks after it alone. dropped: the numbers of blocks that are left out while measuring.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        self.model, self.ids = model, ids
        self.dropped: frozenset[int] = frozenset()
        self.blocks = list(blocks(model)[1])
        self.linears: dict[str, Any] = dict(block_linears(model))
        self.linears |= tables_of(model)
        stem = blocks(model)[0]
        self.block_of = {
            name: index
            for index in range(len(self.blocks))
            for name in self.linears
            if name.startswith(f"{stem}.{index}.")
        }
        self.original = {name: layer.weight.detach().clone() for name, layer in self.linears.items()}
        self.outputs: list[list[Any]] = []  # by window: what each block gives
        self.truth: list[Tensor] = []
        nats = []
        for row in ids:
            seen: list[Any] = []
            hooks = [
                block.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out)) for block in self.blocks
            ]
            try:
                logits = self._logits(row)
            finally:
                for hook in hooks:
                    hook.remove()
            self.outputs.append(seen)
            self.truth.append(logits.log_softmax(-1))
            nats.append(float(F.nll_loss(self.truth[-1], row[1:])))
        self.nats = sum(nats) / len(nats)

    def _logits(self, row: Tensor) -> Tensor:
        with left_out(self.blocks, self.dropped):
            out = self.model(input_ids=row[None], use_cache=False).logits[0, :-1]
        return out.float()

    @torch.no_grad()
    def measure(self, changed: Mapping[str, Tensor], windows: int | None = None) -> Change:
        """The change with these matrices in place of the original's."""
        for name, weight in changed.items():
            self.linears[name].weight.copy_(weight)
        try:
            first = min((self.block_of.get(name, 0) for name in changed), default=0)
            if any(name not in self.block_of for name in changed):
                first = 0
            return self.now(first, windows)
        finally:
            self.reset(changed)

    @torch.no_grad()
    def now(self, first: int = 0, windows: int | None = None) -> Change:
        """The same for the weights that the model has now, which are the original's before block `first`."""
        kl = nats = flips = 0.0
        rows = list(range(len(self.ids)))[:windows]
        for at in rows:
            for index in range(first):  # all of these only pass on what the last of them gave
                self.blocks[index].forward = lambda *_, out=self.outputs[at][first - 1], **__: out
            try:
                log = self._logits(self.ids[at]).log_softmax(-1)
            finally:
                for index in range(first):
                    self.blocks[index].__dict__.pop("forward", None)
            truth = self.truth[at]
            kl += float((truth.exp() * (truth - log)).sum(-1).mean())
            nats += float(F.nll_loss(log, self.ids[at][1:]))
            flips += float((log.argmax(-1) != truth.argmax(-1)).float().mean())
        if kl != kl:
            return Change(float("inf"), float("inf"), 1.0)
        return Change(max(kl, 0.0) / len(rows), nats / len(rows), flips / len(rows))

    @torch.no_grad()
    def reset(self, names: Mapping[str, Any] | Sequence[str]) -> None:
        """Put the original's weights back."""
        for name in names:
            self.linears[name].weight.copy_(self.original[name])


@contextmanager
def left_out(stack: Sequence[nn.Module], which: Collection[int]) -> Iterator[None]:
    """The model without some of its blocks: each gives on what it was given."""
    for index in which:
        leave_out(stack[index])
    try:
        yield
    finally:
        for index in which:
            stack[index].__dict__.pop("forward", None)


def leave_out(block: nn.Module) -> None:
    """A block that gives on the hidden states that it was given, as a tensor: all that the engine runs give one."""
    block.forward = lambda hidden_states, *_, **__: hidden_states


def tables_of(model: nn.Module) -> dict[str, Any]:
    """Embedding and, where it is not the same matrix, output head, by name."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    ends: list[Any] = []
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        with suppress(AttributeError, NotImplementedError):
            ends.append(getattr(model, getter)())
    for end in ends:
        name = next((name for name, module in model.named_modules() if module is end), None)
        if end is not None and name and id(end.weight) not in seen:
            seen.add(id(end.weight))
            found[name] = end
    return found
