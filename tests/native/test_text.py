"""The tokenizer of a folder is read when text first comes, and its damage is reported then."""

import json

import pytest

pytest.importorskip("tokenizers")

from serving import language_model

from paperlab import engine
from paperlab.engine import EngineError


@pytest.fixture
def folder(tmp_path):
    """A model whose text ends with "the" by config.json, and by <|end|> as its tokenizer's settings name it."""
    return language_model(tmp_path / "model")


def ends(folder):
    spec = json.loads((folder / "tokenizer.json").read_text())
    return {spec["model"]["vocab"]["the"], *(t["id"] for t in spec["added_tokens"] if t["content"] == "<|end|>")}


def test_the_tokenizer_waits_for_a_text(folder):
    model = engine.load(folder)
    model.forward([(model.session(), [1])])
    assert "tokenizer" not in vars(model.tokens)
    assert model.tokens.ends == ends(folder)  # config.json states one of them: the tokenizer knows the other
    assert "tokenizer" in vars(model.tokens)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": sorted(ends(folder))}))
    model = engine.load(folder)
    assert model.tokens.ends == ends(folder)
    assert "tokenizer" not in vars(model.tokens)  # it was not needed
    assert "".join(model.generate("the", max_tokens=4)) == "".join(engine.load(folder).generate("the", max_tokens=4))


@pytest.mark.parametrize(
    "damage", ["[" * 100_000, '[{"id": 1}]', " " * (1 << 18) + "[", '[{"content": "<|end|>", "id": "x"}]']
)
def test_a_damaged_tokenizer_is_told_when_it_is_needed(folder, damage):
    (folder / "tokenizer.json").write_text('{"added_tokens": ' + damage)
    model = engine.load(folder)
    assert model.forward([(model.session(), [1])]).shape[0] == 1  # token ids run without it
    for asks in (lambda: model.ids("text"), lambda: model.tokens.ends, lambda: list(model.generate("a"))):
        with pytest.raises(EngineError, match=r"tokenizer\.json is no tokenizer"):
            asks()
