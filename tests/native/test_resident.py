"""What of a model's file stays in memory: nothing of what was copied into another form."""

import re
from pathlib import Path

import numpy as np
import pytest
from test_hostile import model

from paperlab import engine
from paperlab.engine import Layout

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux's /proc")
ROWS = 1 << 18  # times 32 columns in float32: 32 MiB


def of_files():
    """Bytes of mapped files that are in memory."""
    return int(re.search(r"RssFile:\s+(\d+) kB", STATUS.read_text())[1]) * 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    table = np.random.default_rng(1).standard_normal((ROWS, 32)).astype(np.float32)
    place = tmp_path_factory.mktemp("resident") / "wide"
    head = {"model.embed_tokens.weight": table, "lm_head.weight": table[::-1].copy()}
    for name, shape in (("gate", (64, 32)), ("up", (64, 32)), ("down", (32, 64))):
        head[f"model.layers.0.mlp.{name}_proj.weight"] = np.ones(shape, np.float32)
    return model(place, {"vocab_size": ROWS, "tie_word_embeddings": False, "intermediate_size": 64}, **head)


def test_rounded_weights_leave_the_file(folder):
    size = (folder / "model.safetensors").stat().st_size
    before = of_files()
    kept = engine.load(folder, threads=1)
    logits = kept.forward([(kept.session(), [1, 2])])
    assert of_files() - before > size / 3  # floats are multiplied where the file has them
    del kept
    before = of_files()
    rounded = engine.load(folder, bits=8, threads=1)
    assert of_files() - before < size / 20
    again = rounded.forward([(rounded.session(), [1, 2])])
    assert np.abs(again - logits).max() / np.abs(logits).max() < 0.05
    assert of_files() - before < size / 20


def test_repacked_weights_leave_the_file(folder, tmp_path):
    pytest.importorskip("gguf")
    engine.export(folder, tmp_path / "c", "compressed-tensors", recipe=[("lm_head", Layout(8, 32))])
    engine.export(folder, tmp_path / "m.gguf", "gguf", dtype="Q8_0")
    for place, file in ((tmp_path / "m.gguf", tmp_path / "m.gguf"), (tmp_path / "c", tmp_path / "c/model.safetensors")):
        before = of_files()
        opened = engine.load(place, threads=1)
        assert of_files() - before < file.stat().st_size / 10
        del opened
