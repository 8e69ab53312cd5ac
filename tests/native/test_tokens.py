"""Tokenizers of GGUF files against those that transformers makes of the same fields, and through an export."""

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

from test_gguf import VOCABULARY, write  # noqa: E402
from tokenizers import Tokenizer, decoders, models, normalizers, trainers  # noqa: E402

from paperlab import engine  # noqa: E402
from paperlab.engine import EngineError  # noqa: E402
from paperlab.engine.formats.gguf_reader import BYTE, CONTROL, NORMAL, UNKNOWN, USER, tokenizer  # noqa: E402

TEXTS = [
    "",
    "the cat sat on the mat",
    " leading and  double   spaces",
    "bytes: é ß 猫 \n\t end",
    "a<s>b</s> <tool>the cat</tool>",
    "the the thethe hehehe",
    "2024 cats",
]
WORDS = "the cat sat on a mat he hat that then there where these those eat seat heat".split()  # noqa: SIM905


def pieces():
    """Fields of a sentencepiece vocabulary: control, bytes, characters, and parts of words with scores."""
    tokens = ["<unk>", "<s>", "</s>", "<tool>", "</tool>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [UNKNOWN, CONTROL, CONTROL, USER, USER] + [BYTE] * 256
    made = sorted({"▁", *"abcdefghinorstwm. "} - {" "})
    parts = {
        word[i:j] for word in ("▁" + word for word in WORDS) for i in range(len(word)) for j in range(i + 2, i + 5)
    }
    made += sorted(part for part in parts if len(part) > 1)
    scores = [0.0] * len(tokens)
    random = np.random.default_rng(5)
    tokens, kinds = tokens + made, kinds + [NORMAL] * len(made)
    scores += [-float(rank) for rank in random.permutation(len(made))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def by_transformers(fields):
    """The `tokenizers` object that transformers builds of the fields."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

    names = GGUF_TOKENIZER_MAPPING["tokenizer"]
    settings = {names[key]: fields[f"tokenizer.{key}"] for key in names if f"tokenizer.{key}" in fields}
    return convert_gguf_tokenizer("llama", settings)[0]


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_vocabularies(text):
    fields = pieces()
    mine, theirs = tokenizer(fields), by_transformers(fields)
    ids = mine.encode(text).ids
    assert ids[0] == 1
    assert ids[1:] == theirs.encode(text, add_special_tokens=False).ids
    assert mine.decode(ids) == theirs.decode(ids)
    without = tokenizer({**fields, "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True})
    assert without.encode(text).ids == [*ids[1:], 2]


def test_a_sentencepiece_tokenizer_through_an_export(tmp_path):
    pytest.importorskip("torch")
    from test_models import make

    fields = pieces()
    made = tokenizer(fields)
    make(tmp_path / "a", vocab_size=len(fields["tokenizer.ggml.tokens"]) + 3)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(tmp_path / "a")
    engine.export(tmp_path / "a", tmp_path / "m.gguf", "gguf")
    back = engine.load(tmp_path / "m.gguf")
    for text in TEXTS:
        assert back.ids(text) == made.encode(text).ids
    assert (
        by_transformers_of(tmp_path / "m.gguf").encode(TEXTS[1], add_special_tokens=False).ids == back.ids(TEXTS[1])[1:]
    )


def by_transformers_of(file):
    from paperlab.engine.formats.gguf_reader import read_fields

    return by_transformers(read_fields(file))


def test_tokenizers_that_gguf_has_no_name_for(tmp_path):
    pytest.importorskip("torch")
    from test_models import make

    make(tmp_path / "a")
    for number, change in enumerate(("cut", "kind")):
        made = Tokenizer(models.BPE() if change == "cut" else models.WordLevel({"a": 0}, "a"))
        made.normalizer = normalizers.NFC()
        made.decoder = decoders.ByteLevel()
        if change == "cut":
            made.train_from_iterator(["some text"], trainers.BpeTrainer(vocab_size=40, show_progress=False))
        made.save(str(tmp_path / "a" / "tokenizer.json"))
        with pytest.raises(EngineError, match="cuts texts as none does" if change == "cut" else "only BPE"):
            engine.export(tmp_path / "a", tmp_path / f"{number}.gguf", "gguf")


def test_a_llama_3_vocabulary_begins_texts_and_keeps_whole_words(tmp_path):
    names = ["<s>", "a", "b", "c", "ab", "abc"]
    fields = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.token_type": [CONTROL] + [NORMAL] * 5,
        "tokenizer.ggml.bos_token_id": 0,
    }
    assert tokenizer(fields).encode("abc").ids == [0, 5]
    assert tokenizer({**fields, "tokenizer.ggml.pre": "gpt-2"}).encode("abc").ids == [4, 3]


FIELDS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "x", "y"],
    "tokenizer.ggml.merges": ["a b"],
}


@pytest.mark.parametrize("merge", ["x y", "ZZZZ Q", "abc", "", " ", "a ", "a b c"])
def test_merges_of_what_is_no_token_are_left_out(merge):
    made = tokenizer({**FIELDS, "tokenizer.ggml.merges": [merge, "a b"]})
    assert made.encode("abcxy").ids == tokenizer(FIELDS).encode("abcxy").ids == [3, 2, 4, 5]


DAMAGED = {
    "two names": ({"tokenizer.ggml.tokens": ["a", "b", "ab", "a"]}, "two of its tokens are named 'a'"),
    "no texts": ({"tokenizer.ggml.tokens": [1, 2, 3, 4]}, "cannot be made"),
    "scores": ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": ["x"] * 6}, "cannot be made"),
    "unknown": (
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.scores": [0.0] * 6,
            "tokenizer.ggml.unknown_token_id": 77,
        },
        "cannot be made",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_vocabulary_is_told_when_it_is_needed(name, tmp_path):
    changes, message = DAMAGED[name]

    def add(writer):
        for key, value in ({**FIELDS} | changes).items():
            kind = gguf.GGUFValueType.get_type(value)
            inner = [gguf.GGUFValueType.get_type(value[0])] if isinstance(value, list) else []
            writer.add_key_value(key, value, kind, *inner)

    write(tmp_path / "m.gguf", "F32", more=add)
    model = engine.load(tmp_path / "m.gguf")
    assert model.forward([(model.session(), [1])]).shape == (1, VOCABULARY)  # token ids run without it
    for asks in (lambda: model.ids("ab"), lambda: model.tokens.token_bytes):
        with pytest.raises(EngineError, match=message) as caught:
            asks()
        assert "m.gguf" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_named_templates_of_a_file(tmp_path):
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "{{ tools }}"}]
    write(tmp_path / "m.gguf", "F32", more=lambda writer: writer.add_chat_template(named))
    tokens = engine.load(tmp_path / "m.gguf").tokens
    assert (tokens.template, tokens.templates) == ("D", {"tool_use": "{{ tools }}"})


def test_a_file_without_a_tokenizer_takes_ids(tmp_path):
    write(tmp_path / "m.gguf", "F32")
    model = engine.load(tmp_path / "m.gguf")
    assert model.forward([(model.session(), [1])]).shape == (1, VOCABULARY)
    with pytest.raises(EngineError, match="no tokenizer"):
        model.ids("text")
