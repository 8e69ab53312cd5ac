"""A small encoder, its tokenizer, and texts of ten words to classify, in place of those that the task `cls` takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from paperlab.assets.labelled import Labelled
from paperlab.tasks import cls

WORDS = ("good", "bad", "film", "plot", "was", "the", "a", "very", "slow", "fine")


def encoder(**sizes: int) -> BertModel:
    torch.manual_seed(0)
    usual = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6}
    config = BertConfig(num_attention_heads=2, max_position_embeddings=40, **(usual | sizes))  # type: ignore[arg-type]
    return BertModel(config, add_pooling_layer=False).eval()


def tokenizer(texts: list[str], truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
    return {"input_ids": [[1, *(3 + WORDS.index(word) for word in text.split())][:max_length] for text in texts]}


def counted(name: str) -> Labelled:
    """Good where there are more of "good" than of "bad"."""
    draw = torch.Generator().manual_seed(sum(map(ord, name)))
    found: dict[str, str] = {}
    while len(found) < 800:
        words = [WORDS[i] for i in torch.randint(0, len(WORDS), (7,), generator=draw).tolist()]
        if (more := words.count("good") - words.count("bad")) != 0:
            found[" ".join(words)] = "good" if more > 0 else "bad"
    return Labelled(name, tuple(found), tuple(found.values()), name)


def make_small(
    monkeypatch: pytest.MonkeyPatch, home: Path, texts: Callable[[str], Labelled] = counted, **sizes: Any
) -> None:
    """The task `cls`, and those that are built on it, take the small encoder and these texts."""
    monkeypatch.setenv("PAPERLAB_HOME", str(home))
    about = {"id": "small", "sha256": "0", "pooling": "mean"}
    monkeypatch.setattr(cls, "load_encoder", lambda name: (encoder(**sizes), tokenizer, about))
    monkeypatch.setattr(cls, "labelled", texts)
    monkeypatch.setattr(cls, "VALIDATION", 100)
