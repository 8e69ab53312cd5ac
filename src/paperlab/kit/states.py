"""Pooled states of a frozen encoder at several depths."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 32  # texts; fixed, because a text's states may change in the last bit with its neighbours


def depths(layers: int, count: int) -> tuple[int, ...]:
    """`count` of the layers 1 ... `layers`, evenly, the last among them. Raises ValueError for too few layers."""
    if layers < count:
        raise ValueError(f"the encoder has {layers} layers, and {count} depths are compared: take a deeper one")
    return tuple(layers * n // count for n in range(1, count + 1))


@torch.no_grad()
def pooled_states(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], *, length: int, layers: Sequence[int], pooling: str
) -> Tensor:
    """(texts, layers, width): the mean over tokens of the hidden states after each layer, or the first token's.

    length: tokens of a text at most. pooling: "mean" or "cls".
    """
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    found: dict[int, Tensor] = {}
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        inputs = tokenizer(
            [texts[i] for i in chosen], padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        stacked = torch.stack([hidden[layer] for layer in layers], 1)  # (batch, layers, tokens, width)
        if pooling == "cls":
            pooled = stacked[:, :, 0]
        else:
            weight = mask[:, None, :, None]
            pooled = (stacked * weight).sum(2) / weight.sum(2)
        found |= zip(chosen, pooled, strict=True)
    return torch.stack([found[i] for i in range(len(texts))])
