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


def test_one_stop_text_is_one_stop_text(folder):
    model = engine.load(folder, threads=1)
    how = {"max_tokens": 60, "temperature": 1, "seed": 3}
    whole = "".join(model.generate("the man", **how))
    at = next(i for i in range(5, len(whole)) if "\ufffd" not in whole[i : i + 2] and whole[i] in whole[:i])
    stop = whole[at : at + 2]  # its first letter comes before it
    assert "".join(model.generate("the man", stop=stop, **how)) == whole[: whole.index(stop)]
    assert "".join(model.generate("the man", stop=[stop], **how)) == whole[: whole.index(stop)]
    assert "".join(model.generate("the man", stop="", **how)) == whole
    with pytest.raises(EngineError, match="stop is a text, or a list of texts"):
        next(model.generate("the man", stop=[3], **how))


@pytest.mark.parametrize("text", ["Grüße", "世界 🙂", "a\u0301é"])
def test_a_character_that_is_cut_is_left_out(folder, text):
    tokens = engine.load(folder, threads=1).tokens
    ids = tokens.encode(text)
    for n in range(len(ids) + 1):
        whole = b"".join(tokens.token_bytes(one) for one in ids[:n]).decode(errors="ignore")
        assert "".join(tokens.stream(ids[:n])) == whole
    first = tokens.encode("é")[0]
    assert "".join(tokens.stream([first, *tokens.encode("a")])) == "\ufffda"  # no cut, but bytes that are no text


def test_prompts_and_numbers_that_cannot_be_say_what_can(folder):
    model = engine.load(folder, threads=1)
    refused = {
        r"max_tokens is -1; a whole number from 0": {"prompt": "the", "max_tokens": -1},
        r"max_tokens is 1\.5; a whole number": {"prompt": "the", "max_tokens": 1.5},
        r"a prompt is a text, a list of messages .* this list has 'a'": {"prompt": ["a"]},
        r"this list has '1\.5'": {"prompt": [1, 1.5]},
        r"this list has \"\{'role'": {"prompt": [1, {"role": "user", "content": "a"}]},
        r"there is nothing to continue": {"prompt": []},
        r"top_k is 4294967297": {"prompt": "the", "top_k": 2**32 + 1},
        r"cache_bits is 4294967304": {"prompt": "the", "cache_bits": 2**32 + 8},
        r"token ids must be whole numbers below": {"prompt": [2**40]},
    }
    for message, options in refused.items():
        with pytest.raises(EngineError, match=message):
            list(model.generate(**options))
    assert list(model.generate("the", max_tokens=0)) == []
    for options in ({"context": 2**64 + 8}, {"context": 0}, {"context": 1.5}):
        with pytest.raises(EngineError, match="context"):
            model.session(**options)
    with pytest.raises(EngineError, match="threads is 4294967297"):
        engine.load(folder, threads=2**32 + 1)
