"""`paperlab pack` and `paperlab chat`."""

import json
from pathlib import Path

import pytest
from test_hostile import model
from typer.testing import CliRunner

from paperlab.cli import app, models
from paperlab.engine import EngineError, Layout, load, pack
from paperlab.engine.packing.container import Weights


def test_pack_writes_what_the_engine_loads(tmp_path):
    model(tmp_path / "a")
    command = ["pack", str(tmp_path / "a"), "-o", str(tmp_path / "b")]
    done = CliRunner().invoke(app, [*command, "--bits", "4", "--group", "16", "--symmetric", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["bits_per_weight"] < 6
    assert load(tmp_path / "b").about["hidden"] == 32
    again = CliRunner().invoke(app, ["pack", str(tmp_path / "a"), "-o", str(tmp_path / "b")])
    assert again.exit_code == 2
    assert "already holds a model" in again.stderr


def test_pack_says_what_it_cost(tmp_path):
    """Fewer bits cost more; a warning where it is surely beyond 2 %. What cannot be measured is said, and no error."""

    def packed(source, name, *options):
        done = CliRunner().invoke(app, ["pack", str(source), "-o", str(tmp_path / name), *options, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)[0]

    eight, two = (packed("abstracts-lm", f"bits{bits}", "--bits", str(bits)) for bits in (8, 2))
    assert 0 < eight["kl"] < 0.01 < two["kl"]
    assert eight["change_low"] <= eight["change"] < 0.02 < two["change_low"]
    assert eight["perplexity"] == pytest.approx(eight["source_perplexity"] * (1 + eight["change"]), rel=1e-6)
    assert ["warning" in " ".join(row["notes"]) for row in (eight, two)] == [False, True]
    model(tmp_path / "a")  # it has no tokenizer
    assert "could not be measured" in " ".join(packed(tmp_path / "a", "b")["notes"])
    assert packed("abstracts-lm", "silent", "--no-measure")["notes"] == []


def test_pack_by_a_recipe(tmp_path):
    model(tmp_path / "a")
    file = tmp_path / "recipe.json"
    file.write_text('[{"match": "*", "bits": 4, "group": 16}, {"match": "*.down_proj", "bits": 8, "keep": 0.5}]')
    assert models.read_recipe(file) == [("*", Layout(4, 16)), ("*.down_proj", Layout(8, keep=0.5))]
    done = CliRunner().invoke(app, ["pack", str(tmp_path / "a"), "-o", str(tmp_path / "b"), "--recipe", str(file)])
    assert done.exit_code == 0, done.output
    for text in ("{", "[1]", '[{"bits": 4}]', '[{"match": "*", "bitz": 4}]'):
        file.write_text(text)
        done = CliRunner().invoke(app, ["pack", str(tmp_path / "a"), "-o", str(tmp_path / "c"), "--recipe", str(file)])
        assert done.exit_code == 2
        assert "a recipe is a list" in done.stderr


def test_a_recipe_and_bits_contradict_each_other(tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text('[["*", {"bits": 8}]]')
    done = CliRunner().invoke(app, ["pack", "any", "-o", str(tmp_path / "b"), "--recipe", str(file), "--bits", "4"])
    assert done.exit_code == 2
    assert "leave --bits" in done.stderr


def test_the_recipe_of_the_howto(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "pack_a_model.md").read_text(encoding="utf-8")
    model(tmp_path / "a")
    file = tmp_path / "recipe.json"
    file.write_text(page.split("```json\n")[1].split("```")[0])
    pack(tmp_path / "a", tmp_path / "b", models.read_recipe(file))
    kinds = {name.rsplit(".", 2)[-2] for name in Weights(tmp_path / "b").names() if ".mlp." in name or ".self_" in name}
    assert {"low_rank", "outliers"} <= kinds
    assert "model.layers.0.mlp.up_proj.book" in Weights(tmp_path / "b")
    lm = load(tmp_path / "b")
    assert lm.forward([(lm.session(), [1, 2, 3])]).shape == (1, 40)
    fields = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert fields | {"pattern"} == set(Layout.__dataclass_fields__)


def test_chat_keeps_its_cache_in_the_bits_that_were_asked_for(trained):
    _, folder = trained
    (folder / "chat_template.jinja").write_text("w1 w2")
    for bits, code in ((4, 0), (7, 2)):
        words = ["chat", str(folder), "--cache-bits", str(bits), "--max-tokens", "3"]
        done = CliRunner().invoke(app, words, input="hello\n")
        assert done.exit_code == code, done.output
    assert "a cache of 7 bits; 32, 16, 8 and 4 are possible" in done.stderr


@pytest.mark.parametrize("words", [["chat", "nowhere"], ["pack", "nowhere", "-o", "x"]])
def test_unknown_models_are_refused_in_one_line(words, tmp_path):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "nowhere" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("round-to-nearest", {"bits": 4, "group": 32}),
        ("round-to-nearest", {"bits": 8, "symmetric": True}),
        ("round-to-nearest", {"bits": 3, "group": 16}),
        ("round-to-nearest", {"bits": 2, "group": 96}),
        ("easyquant", {"bits": 4, "n_std": 2.0}),
        ("zeroquant-v2-lorc", {"bits": 3, "rank": 5, "symmetric": True}),
    ],
    ids=str,
)
def test_pack_by_a_method_computes_what_the_method_made(method, params, trained, tmp_path):
    from test_models import IDS, logits_of, relative

    import paperlab

    model, folder = trained
    settings = [word for name, value in params.items() for word in ("--set", f"{name}={value}")]
    command = ["pack", str(folder), "-o", str(tmp_path / "b"), "--method", method, *settings]
    done = CliRunner().invoke(app, [*command, "--tables", "16", "--json"])
    assert done.exit_code == 0, done.output
    small = paperlab.load(method, **params)(model)
    mine = load(tmp_path / "b")
    logits = mine.forward([(mine.session(cache_bits=32), IDS)], every=True)
    exact = params.get("symmetric") or method == "easyquant"
    assert relative(logits, logits_of(small, IDS)) < (1e-3 if exact else 1e-2)  # float16 minima


@pytest.mark.parametrize(
    ("method", "params"),
    [("nf4", {"group": 32}), ("kmeans", {"dim": 2, "sample": 2048}), ("kmeans", {"dim": 4, "sample": 2048})],
    ids=str,
)
def test_a_method_s_codebook_is_kept_in_8_bits(method, params, trained, tmp_path):
    import numpy as np
    import torch
    from test_models import IDS, logits_of, relative

    import paperlab
    from paperlab.lab.ship import codes_of

    model, folder = trained
    small = paperlab.load(method, **params)(model, calibration=[torch.tensor([IDS])])
    given = {name: codes_of(name, layer) for name, layer in small.compressed.layers.items()}
    pack(folder, tmp_path / "b", [("*", Layout(16))], given)
    for name, layer in small.compressed.layers.items():
        step = layer.codebook.float().abs().max() / 127
        layer.codebook = (layer.codebook.float() / step).round() * step
        before, after = small.get_submodule(name).weight, layer.dense()
        assert np.abs((after - before).detach().numpy()).max() <= float(step * layer.scale.float().max()) * 0.51
        before.data = after
    mine = load(tmp_path / "b")
    logits = mine.forward([(mine.session(cache_bits=32), IDS)], every=True)
    assert relative(logits, logits_of(small, IDS)) < 5e-3  # scales with the step multiplied in, in float16


def test_a_method_whose_codes_have_no_kernel_is_refused(trained, tmp_path):
    import torch
    from test_models import IDS

    import paperlab
    from paperlab.lab.ship import codes_of

    small = paperlab.load("kmeans", dim=3, sample=2048)(trained[0], calibration=[torch.tensor([IDS])])
    name, layer = next(iter(small.compressed.layers.items()))
    with pytest.raises(EngineError, match="vectors of 3"):
        codes_of(name, layer)
    layer.bits = torch.full((1, 1), 4)
    with pytest.raises(EngineError, match="several widths"):
        codes_of(name, layer)


def test_a_pruned_model_is_exported_in_floats_as_the_method_left_it(tmp_path):
    """Rounded on the way, what a recovery then changes a little would be rounded away when it is packed."""
    import numpy as np

    from paperlab.assets.models import model_folder

    out = tmp_path / "pruned"
    words = ["export", "abstracts-lm", "--to", "hf", "--method", "magnitude", "--set", "sparsity=0.5", "--type", "F32"]
    done = CliRunner().invoke(app, [*words, "-o", str(out)])
    assert done.exit_code == 0, done.output
    source, made = Weights(model_folder("abstracts-lm")[0]), Weights(out)
    inside = [name for name in made.names() if name.endswith("_proj.weight")]
    assert inside
    for name in made.names():
        before, after = source.floats(name), made.floats(name)
        assert np.count_nonzero(after == 0) >= (after.size // 2 if name in inside else 0)
        assert np.array_equal(after, np.where(after == 0, 0, before))
