"""Matrices without whole rows or columns: against transformers with zeros there, and files that lie about them."""

import json

import numpy as np
import pytest
from engine_kernels import Laid
from serving import encoder
from test_hostile import model, refused

from paperlab import engine
from paperlab.engine import EngineError, Layout, pack
from paperlab.engine.native import round_to_nearest
from paperlab.engine.packing.container import Weights, write

MLP = "model.layers.0.mlp."


def kept(folder, stem):
    """(rows, columns) that a matrix of a packed folder holds; None for all."""
    weights = Weights(folder)
    return tuple(
        np.array(weights.raw(f"{stem}.{side}")) if f"{stem}.{side}" in weights else None for side in ("rows", "columns")
    )


def dense(folder, out):
    """The weights that a packed folder stands for, by name."""
    engine.export(folder, out, "hf")
    weights = Weights(out)
    return {name.removesuffix(".weight"): weights.floats(name) for name in weights.names() if "norm" not in name}


CASES = [
    ("llama-wide-heads", Layout(4, 32, keep=0.37, pattern="channels")),
    ("llama", Layout(8, "row", keep=0.6, pattern="rows")),
    ("qwen2", Layout(3, symmetric=False, keep=0.5, pattern="columns")),
    ("llama-tied", Layout(4, keep=0.3, pattern="columns", outliers=0.01, rank=2)),
    ("mistral", Layout(8, 64, keep=0.5, pattern="channels", codebook=4)),
]


@pytest.mark.parametrize("isa", engine.instruction_sets())
@pytest.mark.parametrize(("kind", "layout"), CASES, ids=[layout.pattern + kind for kind, layout in CASES])
def test_logits_are_those_of_zeros(kind, layout, isa, tmp_path):
    pytest.importorskip("transformers")
    from test_models import IDS, logits_of, make, relative, transformers

    truth = make(tmp_path / "a", kind)
    before = {name: part.detach().numpy().copy() for name, part in truth.named_parameters()}
    pack(tmp_path / "a", tmp_path / "b", layout)
    stands = dense(tmp_path / "b", tmp_path / "c")
    for stem in ("mlp.gate_proj", "mlp.down_proj", "self_attn.o_proj"):
        stem = f"model.layers.1.{stem}"
        weight = before[f"{stem}.weight"]
        rows, columns = kept(tmp_path / "b", stem)
        absent = np.ones(weight.shape, bool)
        rows, columns = (np.arange(n) if i is None else i for i, n in zip((rows, columns), weight.shape, strict=True))
        absent[np.ix_(rows, columns)] = False
        assert absent.any() == (layout.pattern != "channels" or "mlp" in stem)
        assert (stands[stem][absent] == 0).all()
        if layout.pattern != "channels":  # those of the largest norms
            axis = int(layout.pattern == "rows")
            norms, stays = np.linalg.norm(weight, axis=axis), rows if axis else columns
            assert len(stays) == round(len(norms) * layout.keep)
            assert norms[stays].min() >= np.delete(norms, stays).max() * (1 - 1e-6)
        if not (layout.outliers or layout.codebook):
            small = np.ascontiguousarray(weight[np.ix_(rows, columns)])
            codes, scales, mins = round_to_nearest(small, layout.bits, layout.group_size, symmetric=layout.symmetric)
            with Laid(codes, scales, mins, None, layout.bits, layout.group_size) as laid:
                np.testing.assert_array_equal(stands[stem][~absent], laid.read().ravel())
    mine = engine.load(tmp_path / "b", isa=isa)
    logits = mine.forward([(mine.session(cache_bits=32), IDS)], every=True)
    changed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "c").eval()
    assert relative(logits, logits_of(changed, IDS)) < 3e-4
    session = mine.session(cache_bits=32)
    single = np.concatenate([mine.forward([(session, [token])]) for token in IDS[:40]])
    assert (single == logits[:40]).all()


def test_an_mlp_loses_the_same_channels_everywhere_and_takes_less(tmp_path):
    model(tmp_path / "a")
    source = Weights(tmp_path / "a")
    gate, up, down = (source.floats(f"{MLP}{part}_proj.weight") for part in ("gate", "up", "down"))
    size = np.linalg.norm(gate, axis=1) * np.linalg.norm(up, axis=1) * np.linalg.norm(down, axis=0)
    pack(tmp_path / "a", tmp_path / "b", Layout(4, 16, True, keep=1 / 3, pattern="channels"))
    inner = np.sort(np.argsort(size)[-16:])
    for part in ("gate", "up"):
        np.testing.assert_array_equal(kept(tmp_path / "b", f"{MLP}{part}_proj")[0], inner)
    np.testing.assert_array_equal(kept(tmp_path / "b", f"{MLP}down_proj")[1], inner)
    pack(tmp_path / "a", tmp_path / "c", Layout(4, 16, True))
    narrow, whole = engine.load(tmp_path / "b"), engine.load(tmp_path / "c")
    saved = 3 * 32 * 32 * (4 + 16 / 16) / 8
    assert whole.about["bytes_per_token"] - narrow.about["bytes_per_token"] == saved  # and no lists remain


def test_what_is_all_zero_already_is_left_out(tmp_path):
    source = Weights(model(tmp_path / "a"))
    gate, out = (
        source.floats(f"model.layers.0.{stem}.weight").copy() for stem in ("mlp.gate_proj", "self_attn.o_proj")
    )
    gate[5:30] = 0  # such a channel adds nothing, whatever the other two matrices hold
    out[:, 3], out[7:9], zero = 0, 0, np.zeros((16, 32), np.float32)
    changed = {f"{MLP}gate_proj.weight": gate, "model.layers.0.self_attn.o_proj.weight": out}
    model(tmp_path / "a", **changed, **{"model.layers.0.self_attn.k_proj.weight": zero})
    pack(tmp_path / "a", tmp_path / "b", Layout(8, 16, pattern="channels"))
    inner = np.delete(np.arange(48), np.s_[5:30])
    for part, side in (("gate", 0), ("up", 0), ("down", 1)):
        np.testing.assert_array_equal(kept(tmp_path / "b", f"{MLP}{part}_proj")[side], inner)
    rows, columns = kept(tmp_path / "b", "model.layers.0.self_attn.o_proj")
    np.testing.assert_array_equal(rows, np.delete(np.arange(32), [7, 8]))
    np.testing.assert_array_equal(columns, np.delete(np.arange(32), 3))
    assert all(len(side) == 1 for side in kept(tmp_path / "b", "model.layers.0.self_attn.k_proj"))
    assert kept(tmp_path / "b", "model.layers.0.self_attn.q_proj") == (None, None)
    plain, small = engine.load(tmp_path / "a", bits=8, group=16), engine.load(tmp_path / "b")
    truth = plain.forward([(plain.session(), [1, 2, 3])])
    np.testing.assert_allclose(small.forward([(small.session(), [1, 2, 3])]), truth, atol=2e-2 * np.abs(truth).max())
    for pattern in ("rows", "columns"):
        pack(tmp_path / "a", tmp_path / pattern, Layout(8, 16, pattern=pattern))
        got = kept(tmp_path / pattern, "model.layers.0.self_attn.o_proj")
        assert [side is not None for side in got] == [pattern == "rows", pattern == "columns"]


@pytest.mark.parametrize("pattern", ["rows", "columns"])
def test_encoders(pattern, tmp_path):
    pack(encoder(tmp_path / "a"), tmp_path / "b", Layout(8, 16, keep=0.6, pattern=pattern))
    engine.export(tmp_path / "b", tmp_path / "c", "hf")
    ids = [[1, 5, 9, 2], [1, 7, 2]]
    mine, truth = (engine.load(tmp_path / name).embed_ids(ids) for name in "bc")
    np.testing.assert_allclose(mine, truth, atol=1e-3)


def test_files_may_lie_about_what_they_hold(tmp_path):
    model(tmp_path / "a")
    folder = tmp_path / "b"
    pack(
        tmp_path / "a",
        folder,
        [
            ("*.o_proj", Layout(4, 16, keep=0.5, pattern="columns")),
            ("*.q_proj", Layout(4, 16, keep=0.5, pattern="rows")),
        ],
    )
    weights = Weights(folder)
    tensors = {name: (weights.kind(name), np.array(weights.raw(name))) for name in weights.names()}
    engine.load(folder)
    for stem, side in (("o_proj", "columns"), ("q_proj", "rows")):
        stem = f"model.layers.0.self_attn.{stem}"
        kind, sound = tensors[f"{stem}.{side}"]
        assert (kind, len(sound)) == ("I32", 16)
        lists = {
            "backwards": sound[::-1].copy(),
            "twice": np.repeat(sound[::2], 2),
            "beyond": np.append(sound[:-1], 32),
            "negative": np.append(-1, sound[1:]),
            "far": np.append(sound[:-1], 2**31 - 1),
        }
        for list_ in lists.values():
            write(
                folder / "model.safetensors",
                {**tensors, f"{stem}.{side}": ("I32", list_.astype(np.int32))},
                weights.metadata,
            )
            refused(folder, f"{side} does not ascend within 0 to 31")
        for entry, message in (
            (("I32", sound[:-1]), "should hold 16"),
            (("I64", sound.astype(np.int64)), "should hold 16 values of I32"),
        ):
            write(folder / "model.safetensors", {**tensors, f"{stem}.{side}": entry}, weights.metadata)
            refused(folder, message)
        without = {name: entry for name, entry in tensors.items() if name != f"{stem}.{side}"}
        write(folder / "model.safetensors", without, weights.metadata)
        refused(folder, f"{side} is missing")
        fields = json.loads(weights.metadata[f"paperlab.{stem}"])
        for count, message in (
            (0, "0 of 32"),
            (-1, "-1 of 32"),
            (33, "33 of 32"),
            (2**40, "of 32 are impossible"),
            ("a", "integer"),
            (15, "should hold 15"),
        ):
            about = {f"paperlab.{stem}": json.dumps(fields | {f"kept_{side}": count})}
            write(folder / "model.safetensors", tensors, weights.metadata | about)
            refused(folder, message)
        about = {f"paperlab.{stem}": json.dumps({key: value for key, value in fields.items() if key != f"kept_{side}"})}
        write(folder / "model.safetensors", tensors, weights.metadata | about)
        refused(folder, r"(scales|codes) should hold")
    bad = np.zeros((32, 32), np.float32)
    bad[3, 4] = np.nan
    model(tmp_path / "c", **{"model.layers.0.self_attn.o_proj.weight": bad})
    with pytest.raises(EngineError, match=r"o_proj.*NaN or infinite"):
        pack(tmp_path / "c", tmp_path / "d", Layout(4, keep=0.5, pattern="rows"))
    with pytest.raises(EngineError, match="no gated MLP"):
        pack(
            tmp_path / "a",
            tmp_path / "d",
            [("*_proj", Layout(4, keep=0.5, pattern="channels")), ("*.up_proj", Layout(4))],
        )
    with pytest.raises(EngineError, match="no pattern diagonal"):
        Layout(4, pattern="diagonal")
