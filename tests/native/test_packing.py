"""How codes are chosen, against the same in NumPy one weight after another; and what an interrupted pack leaves."""

import json

import numpy as np
import pytest
from test_hostile import model

from paperlab.engine import EngineError, Layout, pack
from paperlab.engine.native import Parts, round_to_nearest, tiles

F = np.float32


def trials(low, high, bits, symmetric):
    """Scales and minima that are tried, in order."""
    zero, top = F(1 << (bits - 1)), F((1 << bits) - 1)
    if not symmetric:
        shrinks = [F(1) - F(0.03) * F(step) for step in range(11 if bits < 8 else 1)]
        return [((high - low) * shrink / top, low * shrink) for shrink in shrinks]
    even, extreme = max(-low, high) / (zero - 1), -(low if -low > high else high) / zero
    out = [(even, F(0))]
    for step in range(13 if bits < 8 else 0):
        out += [(extreme * (F(1.06) - F(0.03) * F(step)), F(0)), (even * (F(1) - F(0.03) * F(step)), F(0))]
    return out


def nearest(w, bits, scale, low, symmetric):
    zero, top = F(1 << (bits - 1)), F((1 << bits) - 1)
    inverse = F(1) / scale if scale else F(0)
    return np.rint(np.clip(w * inverse + zero if symmetric else (w - low) * inverse, F(0), top))


def rounded(w, kept, bits, symmetric):
    """Codes, scale and minimum of one group."""
    zero = F(1 << (bits - 1)) if symmetric else F(0)
    some = w[kept]
    best, least = (np.float16(0), np.float16(0)), np.inf
    for scale, low in trials(min([F(0), *some]), max([F(0), *some]), bits, symmetric):
        half, minimum = np.float16(scale), np.float16(low)
        codes = nearest(some, bits, F(half), F(minimum), symmetric) - zero
        loss = F(0)
        for error in some - (codes * F(half) + F(minimum)):
            loss += error * error
        if loss < least:
            best, least = (half, minimum), loss
    return nearest(w, bits, F(best[0]), F(best[1]), symmetric), *best


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_those_of_plain_loops(bits, symmetric):
    random = np.random.default_rng(bits)
    weight = random.standard_normal((5, 57)).astype(F) * np.array([[1], [1e-6], [1e3], [0], [0.02]], F)
    weight[4, 3] = 1.5
    for keep in [None] + [(random.random(weight.shape) < 0.4).astype(np.uint8)] * (bits >= 4 and symmetric):
        codes, scales, mins = round_to_nearest(weight, bits, 16, symmetric=symmetric, keep=keep)
        for row in range(5):
            for group in range(4):
                part = slice(group * 16, group * 16 + 16)
                kept = np.ones_like(weight[row, part], bool) if keep is None else keep[row, part] > 0
                wanted = rounded(weight[row, part], kept, bits, symmetric)
                np.testing.assert_array_equal(codes[row, part], wanted[0])
                assert scales[row, group] == wanted[1]
                assert mins is None or mins[row, group] == wanted[2]


def test_impossible_weights_and_codes():
    weight = np.zeros((300, 500), F)
    weight[299, 3], weight[200, 70] = np.nan, np.inf
    with pytest.raises(EngineError, match=r"row 200, column 70"):  # the first, whoever finds one first
        round_to_nearest(weight, 4, 64)
    with pytest.raises(EngineError, match="too far below 0"):
        round_to_nearest(np.full((1, 16), -1e6, F), 8, 16, symmetric=False)
    with pytest.raises(EngineError, match="too large for 3 bits"):
        tiles(Parts(np.full((16, 64), 8, np.uint8), np.ones((16, 1), np.float16), None, None, 3, 64))


def test_packing_that_stops_leaves_nothing(tmp_path):
    model(tmp_path / "a")
    calls = []

    def progress(name, done, total):
        calls.append((name, done, total))
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "a", tmp_path / "b", Layout(4), progress=progress)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert calls[0][1] == 0 < calls[-1][1] < calls[-1][2]
    (tmp_path / "b" / "1_Pooling").mkdir(parents=True)
    (tmp_path / "b" / "notes.txt").write_text("mine")
    (tmp_path / "a" / "1_Pooling").mkdir()
    (tmp_path / "a" / "1_Pooling" / "config.json").write_text("{}")
    pack(tmp_path / "a", tmp_path / "b", Layout(4))
    assert (tmp_path / "b" / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "b" / "1_Pooling" / "config.json").read_text()) == {}
    for file in ("model.safetensors", "config.json"):  # half a model is nobody's to overwrite
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / "c" / file).write_text("{}")
        with pytest.raises(EngineError, match="already holds a model"):
            pack(tmp_path / "a", tmp_path / "c", Layout(4))
        (tmp_path / "c" / file).unlink()
