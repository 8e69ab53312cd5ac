"""What `pack` and `export` refuse before any work, and what transformers says of a packed folder."""

import json
import subprocess
import sys

import numpy as np
import pytest
from test_hostile import model
from typer.testing import CliRunner

from paperlab import engine
from paperlab.cli import app, progress
from paperlab.engine import EngineError, Layout, Tensors
from paperlab.engine.packing.container import Weights


def refused(*words):
    """The one line that a command ends with."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture
def no_work(monkeypatch):
    """Fail where a matrix is rounded or a model is loaded."""

    def never(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr("paperlab.engine.packing.pack.pack_matrix", never)
    monkeypatch.setattr("paperlab.engine.packing.layout.round_to_nearest", never)
    monkeypatch.setattr("paperlab.assets.loading._load", never)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gemma2"}, "pre_feedforward_layernorm.weight is missing"),
        ({"model_type": "phi3"}, "qkv_proj.weight is missing"),
        ({"model_type": "mamba"}, '"mamba" is not known here; llama, mistral, '),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"model_type": "whisper"}, '"whisper" is not known here'),
        ({"hidden_act": "relu"}, "not known for a gated MLP"),
        ({"num_attention_heads": 4, "num_key_value_heads": 4}, "multiple of 16"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, '"dynamic"'),
        ({"num_hidden_layers": 2}, "model.layers.1.input_layernorm.weight is missing"),
        ({"intermediate_size": 64}, "where the configuration says"),
    ],
    ids=str,
)
def test_a_model_that_the_engine_cannot_run_is_refused_by_name(config, said, tmp_path, no_work):
    folder = model(tmp_path / "a", config)
    for more in (["--bits", "4"], ["--method", "gptq"]):
        line = refused("pack", folder, "-o", tmp_path / "b", *more)
        assert said in line
        assert f"cannot run {folder}" in line
    weights = Weights(folder)
    tensors = Tensors(
        json.loads((folder / "config.json").read_text()), {n: np.array(weights.raw(n)) for n in weights.names()}
    )
    with pytest.raises(EngineError, match="the engine cannot run the model: "):
        engine.pack(tensors, tmp_path / "b", Layout(4))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path, no_work, monkeypatch):
    folder = model(tmp_path / "a")
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("{}")
    for out, said in (
        (tmp_path / "taken", "already holds a model"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "b", "cannot write"),
        ("/proc/paperlab", "cannot write"),
    ):
        for more in ([], ["--method", "gptq"]):
            assert said in refused("pack", folder, "-o", out, *more)
            assert said in refused("export", folder, "--to", "hf", "-o", out, *more)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 1000}))
    for more in ([], ["--method", "gptq"]):
        assert "has 0.00 GB left" in refused("pack", folder, "-o", tmp_path / "b", *more)


def test_export_refuses_what_gguf_has_no_name_for_before_a_method(tmp_path, no_work):
    folder = model(tmp_path / "a", {"model_type": "gemma2"})
    line = refused("export", folder, "--to", "gguf", "-o", tmp_path / "m.gguf", "--method", "gptq")
    assert '"gemma2" is not written as GGUF' in line


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("smoothquant", "smoothquant left parts in the model that a file of weights cannot hold"),
        ("kmeans", "vectors of 3"),
        ("focal", "--method takes a method that makes a finished model smaller"),
        ("gptq", "bits"),
    ],
)
def test_a_method_whose_result_cannot_be_packed_is_refused_before_the_model_is_loaded(method, said, tmp_path, no_work):
    pytest.importorskip("torch")
    settings = {"kmeans": ["--set", "dim=3", "--set", "sample=2048"], "gptq": ["--set", "bits=40"]}.get(method, [])
    folder = model(tmp_path / "a")
    assert said in refused("pack", folder, "-o", tmp_path / "b", "--method", method, *settings)


TELL = """
import sys, transformers
try:
    getattr(transformers, sys.argv[2]).from_pretrained(sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
else:
    print("loaded")
"""


def test_transformers_refuses_a_packed_folder_by_name_and_loads_its_export(tmp_path):
    pytest.importorskip("transformers")
    engine.pack(model(tmp_path / "a"), tmp_path / "b", Layout(4, 16))
    kept = json.loads((tmp_path / "b" / "config.json").read_text())
    assert kept["quantization_config"]["quant_method"] == "paperlab"
    assert np.isfinite((lm := engine.load(tmp_path / "b")).forward([(lm.session(), [1, 2])])).all()
    for kind in ("AutoModelForCausalLM", "AutoModel"):
        said = subprocess.run([sys.executable, "-c", TELL, tmp_path / "b", kind], capture_output=True, text=True).stdout
        assert said.startswith("ValueError")
        assert "a model packed by paperlab" in said
        assert "paperlab export FOLDER --to hf" in said
    engine.export(tmp_path / "b", tmp_path / "c", "hf")
    assert not {"quantization_config", "transformers_weights"} & set(
        json.loads((tmp_path / "c/config.json").read_text())
    )
    done = subprocess.run(
        [sys.executable, "-c", TELL, tmp_path / "c", "AutoModelForCausalLM"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "loaded"


def test_each_width_has_one_default(tmp_path):
    assert Layout(8) == Layout(8, 64, symmetric=True)
    assert Layout(4) == Layout(4, 32, symmetric=False)
    assert Layout(4, symmetric=True) == Layout(4, 32, symmetric=True)
    assert Layout(4, keep=0.5) == Layout(4, 64, symmetric=True, keep=0.5)
    assert Layout(4, codebook=1) == Layout(4, 64, symmetric=True, codebook=1)
    folder = model(tmp_path / "a")
    for bits in (8, 4, 3, 2):
        done = CliRunner().invoke(app, ["pack", str(folder), "-o", str(tmp_path / str(bits)), "--bits", str(bits)])
        assert done.exit_code == 0, done.output
        packed, loaded = engine.load(tmp_path / str(bits)), engine.load(folder, bits=bits)
        logits = [lm.forward([(lm.session(), [1, 2, 3])], every=True) for lm in (packed, loaded)]
        assert (logits[0] == logits[1]).all()


def test_embeddings_and_head_that_a_method_left_are_packed_and_said(tmp_path, trained):
    _, folder = trained
    sizes = {}
    for words in ([], ["--tables", "16"], ["--tables", "4"]):
        out = tmp_path / f"b{len(sizes)}"
        command = ["pack", str(folder), "-o", str(out), "--method", "round-to-nearest", "--set", "bits=4", *words]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        sizes[" ".join(words)] = (out / "model.safetensors").stat().st_size
        shown = "2 matrices stay in floats" if "16" in words else f"take {words[1] if words else 8} bits"
        assert shown in done.stdout
        assert ("lm_head.codes" in Weights(out)) == ("16" not in words)
        assert ("model.embed_tokens.codes" in Weights(out)) == ("16" not in words)
    assert sizes["--tables 4"] < sizes[""] < sizes["--tables 16"]


def test_what_a_method_is_calibrated_on_is_said_before_it_starts(tmp_path, trained):
    _, folder = trained
    words = ["pack", str(folder), "--method", "gptq", "--set", "bits=4", "--set", "group=32"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "b"), "--documents", "3"])
    assert done.exit_code == 0, done.output
    assert "gptq is calibrated on 3 of " in done.stderr
    assert " documents of abstracts: " in done.stderr
    assert "--data and --documents choose others" in done.stderr
    mine = tmp_path / "mine.txt"
    mine.write_text("w1 w2 w3 w4 w5")
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "c"), "--data", str(mine)])
    assert done.exit_code == 0, done.output
    assert "gptq is calibrated on 1 of 1 documents of mine.txt: 5 tokens, at most 512 of each\n" in done.stderr
    assert "--documents are for a --method" in refused("pack", folder, "-o", tmp_path / "d", "--documents", "3")


def test_a_log_gets_a_line_each_tenth_with_the_time_left(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LEAST", 0.0)
    with progress.progress("gptq", "steps") as report:
        for done in range(41):
            report("blocks", done, 40)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "gptq: 4 of 40 steps, about 5 s left"
    with progress.progress("packing", "M weights", 1e6) as report:
        report("a", 3_000_000, 30_000_000)
    assert capsys.readouterr().err == "packing: 3 of 30 M weights, about 5 s left\n"


def test_work_that_reports_nothing_still_shows_that_it_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.5)
    monkeypatch.setattr(progress, "LEAST", 0.0)
    import time

    with progress.progress("awq", "steps"):
        time.sleep(1.6)
    assert "awq: at work for 1 s" in capsys.readouterr().err
    monkeypatch.setenv("PAPERLAB_LOG", "ERROR")
    with progress.progress("awq", "steps") as report:
        report("blocks", 1, 1)
    assert capsys.readouterr().err == ""


def test_a_gguf_file_is_packed_as_its_folder_is(tmp_path):
    pytest.importorskip("gguf")
    from serving import language_model

    folder = language_model(tmp_path / "a")
    engine.export(folder, tmp_path / "m.gguf", "gguf")
    for source, out in ((folder, "p"), (tmp_path / "m.gguf", "q")):
        words = ["pack", str(source), "-o", str(tmp_path / out), "--bits", "8", "--group", "32"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert "perplexity" in done.stdout
    one, other = Weights(tmp_path / "p"), Weights(tmp_path / "q")
    assert one.names() == other.names()
    assert all(np.array_equal(one.raw(name), other.raw(name)) for name in one.names())
    mine, theirs = (engine.load(tmp_path / out, threads=1) for out in "pq")
    talk = [{"role": "user", "content": "the man"}]
    assert mine.ids(talk) == theirs.ids(talk)
    assert list(mine.generate(talk, max_tokens=20)) == list(theirs.generate(talk, max_tokens=20))
    assert "takes the folder of a model" in refused(
        "pack", tmp_path / "m.gguf", "-o", tmp_path / "r", "--method", "gptq"
    )


def test_a_gguf_file_in_few_bits_is_refused_before_any_work(tmp_path, no_work):
    pytest.importorskip("gguf")
    from test_gguf import write

    write(tmp_path / "m.gguf", "Q8_0")
    line = refused("pack", tmp_path / "m.gguf", "-o", tmp_path / "p", "--bits", "4")
    assert "is in 8 bits already; give the original weights" in line
    (tmp_path / "n.gguf").write_bytes(b"GGUF")
    assert "n.gguf" in refused("pack", tmp_path / "n.gguf", "-o", tmp_path / "p")


def test_every_end_of_a_text_goes_along(tmp_path):
    pytest.importorskip("gguf")
    from test_gguf import write

    def ends(writer):
        writer.add_eos_token_id(3)
        writer.add_eot_token_id(7)

    write(tmp_path / "m.gguf", "F32", more=ends)
    engine.pack(tmp_path / "m.gguf", tmp_path / "p", Layout(8))
    engine.export(tmp_path / "m.gguf", tmp_path / "hf", "hf")
    for made in ("m.gguf", "p", "hf"):
        assert engine.load(tmp_path / made).tokens.ends == {3, 7}
