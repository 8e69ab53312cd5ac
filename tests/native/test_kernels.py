"""Each kernel of each instruction set against the same sum in double precision."""

import numpy as np
import pytest
from engine_kernels import Laid, attend, corrections, from_bf16, matmul_f, quantize, row, to_bf16
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from paperlab.engine import instruction_sets
from paperlab.engine.native import EngineError, call, pointer, round_to_nearest

ISAS = instruction_sets()
FAST = [isa for isa in ISAS if isa != "ref"]
EPSILON = np.finfo(np.float32).eps
each_isa = pytest.mark.parametrize("isa", ISAS)
seeds = st.integers(0, 2**32 - 1)
widths = st.integers(1, 300)


def floats(seed, *shape, spread=1.0):
    """Normal draws; a few of them large, tiny or zero."""
    random = np.random.default_rng(seed)
    x = random.standard_normal(shape) * spread
    x[random.random(shape) < 0.02] *= 1000
    x[random.random(shape) < 0.02] *= 1e-38
    x[random.random(shape) < 0.05] = 0
    return x.astype(np.float32)


@each_isa
@settings(max_examples=40, deadline=None)
@given(seed=seeds, columns=widths, group=st.sampled_from([0, 16, 32, 64, 128]), planes=st.sampled_from([1, 2]))
def test_rounding_activations(isa, seed, columns, group, planes):
    x = floats(seed, 3, columns)
    q, scales, sums = quantize(isa, x, group, planes)
    size = group or q.shape[1]
    assert (q[:, columns:] == 0).all()
    assert q.min() >= -127
    assert (sums == q.astype(np.int64).reshape(len(q), -1, size).sum(-1)).all()
    back = (
        (q.reshape(len(q), -1, size) * scales[..., None].astype(np.float64)).reshape(3, planes, -1).sum(1)[:, :columns]
    )
    step = np.repeat(scales[planes - 1 :: planes], size, axis=1)[:, :columns]
    assert (np.abs(back - x) <= step * 0.5 + np.abs(x) * 2.0**-22 + 2.0**-100).all()
    for mine, plain in zip((q, scales, sums), quantize("ref", x, group, planes), strict=True):
        assert (mine == plain).all()


@each_isa
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_spoils_its_group_and_no_other(isa, bad):
    x = floats(1, 1, 128)
    x[0, 70] = bad
    q, scales, sums = quantize(isa, x, 64)
    assert np.isnan(scales[0, 1])
    assert (q[0, 64:] == 0).all()
    assert sums[0, 1] == 0
    assert np.isfinite(scales[0, 0])


@st.composite
def packed(draw, sparse):
    bits = draw(st.sampled_from([8, 4] if sparse else [8, 4, 3, 2]))
    return {
        "bits": bits,
        "group": draw(st.sampled_from([0, 16, 32, 64, 128])),
        "rows": draw(st.integers(1, 70)),
        "columns": draw(widths),
        "tokens": draw(st.one_of(st.integers(1, 19), st.sampled_from([32, 33, 47, 70]))),
        "mins": not sparse and draw(st.booleans()),
        "density": draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])) if sparse else None,
        "extreme": draw(st.booleans()),
        "planes": draw(st.sampled_from([1, 2])),
        "seed": draw(seeds),
        "dim": 0,
    }


@st.composite
def with_a_codebook(draw):
    case, dim = draw(packed(sparse=False)), draw(st.sampled_from([1, 2, 4]))
    group = draw(st.sampled_from([0, 16 * dim, 32 * dim, 64]))
    return case | {"group": group, "columns": dim * draw(st.integers(1, 70)), "mins": False, "dim": dim}


def build(case):
    """Codes, scales, minima, mask, book, and the weights that they stand for, in double precision."""
    random = np.random.default_rng(case["seed"])
    bits, rows, columns = case["bits"], case["rows"], case["columns"]
    step = case["group"] or 64
    padded = -(-columns // step) * step
    size = case["group"] or padded
    top, dim = 2**bits, case["dim"] or 1
    codes = random.integers(0, top, (rows, columns // dim), np.uint8, endpoint=False)
    if case["extreme"]:  # the largest products there are
        codes = np.where(random.random(codes.shape) < 0.5, 0, top - 1).astype(np.uint8)
    scales = (random.standard_normal((rows, padded // size)) * 0.1).astype(np.float16)
    mins = random.standard_normal(scales.shape).astype(np.float16) if case["mins"] else None
    keep = (random.random((rows, columns)) < case["density"]).astype(np.uint8) if case["density"] is not None else None
    spread = lambda a: np.repeat(a.astype(np.float64), size, axis=1)[:, :columns]  # noqa: E731
    plain = codes.repeat(dim, axis=1)
    weight = plain * spread(scales) + spread(mins) if mins is not None else (plain - 2.0 ** (bits - 1)) * spread(scales)
    if keep is not None:
        weight = weight * keep
    book = None
    if case["dim"]:
        book = random.integers(-128, 128, (top, dim)).astype(np.int8)
        if case["extreme"]:
            book[0], book[-1] = -128, 127
        weight = book[codes].reshape(rows, columns) * spread(scales)
    return codes, scales, mins, keep, book, weight, size


def check_product(case, isa):
    codes, scales, mins, keep, book, weight, size = build(case)
    x = floats(case["seed"] + 1, case["tokens"], case["columns"])
    if case["extreme"]:
        x = np.where(x < 0, -1, 1).astype(np.float32)
    planes = case["planes"]
    q, sx, sums = quantize(isa, x, case["group"], planes)
    exact = (q.reshape(len(q), -1, size) * sx[..., None].astype(np.float64)).reshape(len(x), planes, -1).sum(1)
    exact = exact[:, : case["columns"]]
    with Laid(codes, scales, mins, keep, case["bits"], case["group"], book) as laid:
        np.testing.assert_allclose(laid.read(), weight, rtol=2e-7, atol=1e-6)
        y = laid.multiply(isa, q, sx, sums, planes)
        each = [slice(t * planes, (t + 1) * planes) for t in range(len(x))]
        alone = np.concatenate([laid.multiply(isa, q[t], sx[t], sums[t], planes) for t in each])
    # whole groups are summed exactly; the rest is rounding of one product and one sum per group, where an
    # offset (zero point, minimum) may cancel what the group's codes alone amount to
    step = np.abs(np.repeat(scales.astype(np.float64), size, axis=1)[:, : case["columns"]])
    magnitude = np.abs(exact) @ (np.abs(weight) + step * 2.0 ** case["bits"] * (mins is not None)).T
    assert (np.abs(y - exact @ weight.T) <= 4 * EPSILON * (q.shape[1] // size + 2) * magnitude + 1e-30).all()
    assert (y == alone).all(), "a token's result depends on the rest of the batch"
    return y


@each_isa
@settings(max_examples=80, deadline=None)
@given(case=packed(sparse=False))
def test_dense_products(isa, case):
    check_product(case, isa)


@each_isa
@settings(max_examples=60, deadline=None)
@given(case=packed(sparse=True))
def test_sparse_products(isa, case):
    check_product(case, isa)


@each_isa
@settings(max_examples=60, deadline=None)
@given(case=with_a_codebook())
def test_products_with_a_codebook(isa, case):
    check_product(case, isa)


@pytest.mark.skipif(len(FAST) < 2, reason="one fast instruction set here")
@settings(max_examples=40, deadline=None)
@given(case=st.one_of(packed(sparse=False), packed(sparse=True), with_a_codebook()))
def test_fast_instruction_sets_agree_to_the_bit(case):
    first, *others = (check_product(case, isa) for isa in FAST)
    assert all((first == other).all() for other in others)


@each_isa
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_rows_so_long_that_blocks_are_read_side_by_side(isa, bits):
    case = {
        "bits": bits,
        "group": 64,
        "rows": 53,
        "columns": 4200,
        "density": None,
        "extreme": False,
        "seed": 7,
        "dim": 0,
    }
    for tokens, planes, mins in ((1, 1, True), (1, 2, False), (2, 1, False)):
        check_product(case | {"tokens": tokens, "planes": planes, "mins": mins}, isa)


@each_isa
def test_two_of_four_and_whole_columns(isa):
    random = np.random.default_rng(5)
    weight = random.standard_normal((48, 128)).astype(np.float32)
    order = np.abs(weight).reshape(48, 32, 4).argsort(-1).argsort(-1)
    two_of_four = (order >= 2).reshape(48, 128).astype(np.uint8)
    columns = np.broadcast_to(np.arange(128) % 3 > 0, (48, 128)).astype(np.uint8)
    x = random.standard_normal((2, 128)).astype(np.float32)
    for keep in (two_of_four, np.ascontiguousarray(columns)):
        codes, scales, _ = round_to_nearest(weight, 8, 64, keep=keep)
        with Laid(codes, scales, None, keep, 8, 64) as laid:
            y = laid.multiply(isa, *quantize(isa, x, 64))
        truth = x @ (weight * keep).T
        assert np.abs(y - truth).max() < 0.02 * np.abs(truth).max()


@each_isa
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@settings(max_examples=40, deadline=None)
@given(seed=seeds, rows=st.integers(1, 23), columns=widths, tokens=st.integers(1, 9))
def test_float_products(isa, kind, seed, rows, columns, tokens):
    weight = np.clip(floats(seed, rows, columns), -60000, 60000)
    weight = to_bf16(weight) if kind == "bfloat16" else weight.astype(kind)
    exact = (from_bf16(weight) if kind == "bfloat16" else weight).astype(np.float64)
    x = floats(seed + 1, tokens, columns)
    y = matmul_f(isa, weight, x)
    bound = EPSILON * (columns / 4 + 4) * (np.abs(x.astype(np.float64)) @ np.abs(exact).T) + 1e-30
    assert (np.abs(y - x @ exact.T) <= bound).all()
    alone = np.concatenate([matmul_f(isa, weight, x[t : t + 1]) for t in range(tokens)])
    assert (y == alone).all(), "a token's result depends on the rest of the batch"


@each_isa
@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    rows=st.integers(1, 70),
    columns=widths,
    tokens=st.integers(1, 9),
    rank=st.integers(0, 20),
    density=st.sampled_from([0, 0.01, 0.3]),
)
def test_low_rank_and_exact_weights(isa, seed, rows, columns, tokens, rank, density):
    random = np.random.default_rng(seed)
    left = random.standard_normal((rows, rank)).astype(np.float16)
    exact = random.standard_normal((rows, columns)).astype(np.float32) * (random.random((rows, columns)) < density)
    z, x, y = (random.standard_normal((tokens, n)).astype(np.float32) for n in (rank, columns, rows))
    out = corrections(isa, left, exact, z, x, y)
    wide = [a.astype(np.float64) for a in (z, left, x, exact, y)]
    truth = wide[0] @ wide[1].T + wide[2] @ wide[3].T + wide[4]
    size = np.abs(wide[0]) @ np.abs(wide[1]).T + np.abs(wide[2]) @ np.abs(wide[3]).T + np.abs(wide[4])
    assert (np.abs(out - truth) <= EPSILON * (rank + columns + 2) * size).all()
    alone = [corrections(isa, left, exact, z[t : t + 1], x[t : t + 1], y[t : t + 1]) for t in range(tokens)]
    assert (out == np.concatenate(alone)).all(), "a token's result depends on the rest of the batch"


@each_isa
def test_products_carry_nan_and_infinity(isa):
    weight = np.ones((5, 40), np.float32)
    x = np.ones((2, 40), np.float32)
    x[1, 39] = np.nan
    y = matmul_f(isa, weight, x)
    assert (y[0] == 40).all()
    assert np.isnan(y[1]).all()
    codes, scales, _ = round_to_nearest(weight, 8, 64)
    with Laid(codes, scales, None, None, 8, 64) as laid:
        y = laid.multiply(isa, *quantize(isa, x, 64))
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


@each_isa
@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    queries=st.integers(1, 11),
    more=st.integers(0, 60),
    head=st.sampled_from([16, 32, 48, 64, 80, 128]),
    causal=st.booleans(),
)
def test_attention(isa, bits, seed, queries, more, head, causal):
    random = np.random.default_rng(seed)
    positions = queries + more
    q, keys, values = (random.standard_normal((n, head)).astype(np.float32) for n in (queries, positions, positions))
    values *= random.choice([0, 1e-3, 1, 100], (positions, 1)).astype(np.float32)
    keys[:, 3] *= 10  # a channel as outlying as in real models
    given = keys, values
    y, kept_keys, kept_values = attend(isa, q, *given, causal=causal, bits=bits)
    for kept, x in ((kept_keys, keys), (kept_values, values)):
        if bits >= 16:
            assert (kept == (x if bits == 32 else from_bf16(to_bf16(x)))).all()
            continue
        # rotated by an orthonormal matrix, no entry is larger than the row's norm; a code is off by half a step
        step = np.linalg.norm(x.astype(np.float64), axis=1) / (127 if bits == 8 else 7.75)
        assert (np.linalg.norm(kept - x, axis=1) <= np.sqrt(head) * step * 0.51 + 1e-30).all()
    keys, values = kept_keys.astype(np.float64), kept_values
    scores = q.astype(np.float64) @ keys.T * head**-0.5
    if causal:
        scores[np.arange(positions)[None] > np.arange(queries)[:, None] + positions - queries] = -np.inf
    weights = np.exp(scores - scores.max(1, keepdims=True))
    truth = weights / weights.sum(1, keepdims=True) @ values
    np.testing.assert_allclose(y, truth, rtol=5e-5, atol=2e-5 * max(1, np.abs(values).max()))
    one, _, _ = attend(isa, q[-1:], *given, causal=causal, bits=bits)
    assert (one[0] == y[-1]).all(), "a query's result depends on the other queries"


def truth_of(name, x, a, b, epsilon):
    x, a, b = (v.astype(np.float64) for v in (x, a, b))
    if name == "rms_norm":
        return x / np.sqrt((x * x).mean() + epsilon) * a
    if name == "layer_norm":
        return (x - x.mean()) / np.sqrt(x.var() + epsilon) * a + b
    if name == "silu_mul":
        return x / (1 + np.exp(-x)) * a
    if name == "gelu":
        return x * 0.5 * (1 + erf(x / np.sqrt(2)))
    if name == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    e = np.exp(x - x.max())
    return e / e.sum()


@each_isa
@pytest.mark.parametrize("name", ["rms_norm", "layer_norm", "silu_mul", "gelu", "gelu_tanh", "softmax"])
@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 200), spread=st.sampled_from([0.01, 1.0, 20.0]))
def test_rows(isa, name, seed, n, spread):
    random = np.random.default_rng(seed)
    x, a, b = (random.standard_normal(n).astype(np.float32) for _ in range(3))
    x *= np.float32(spread)
    y = row(isa, name, x, a, b, 1e-5)
    with np.errstate(over="ignore"):
        truth = truth_of(name, x, a, b, 1e-5)
    scale = 1 + np.abs(x).max() * np.abs(a).max() if name == "silu_mul" else 1 + np.abs(truth).max()
    assert np.abs(y - truth).max() <= 2e-6 * scale * (1 + 20 * (name == "layer_norm"))


@each_isa
@pytest.mark.parametrize("name", ["rms_norm", "layer_norm", "silu_mul", "gelu", "softmax"])
def test_rows_carry_nan(isa, name):
    x, ones = np.linspace(-3, 3, 37).astype(np.float32), np.ones(37, np.float32)
    x[20] = np.nan
    y = row(isa, name, x, ones, ones, 1e-5)
    assert np.isnan(y[20])
    assert np.isnan(y).all() == (name in ("rms_norm", "layer_norm", "softmax"))


@each_isa
def test_softmax_of_masked_scores(isa):
    x = np.full(33, -np.inf, np.float32)
    x[7] = x[30] = 3
    y = row(isa, "softmax", x)
    assert y[7] == y[30] == 0.5
    assert y.sum() == 1


@settings(max_examples=40, deadline=None)
@given(seed=seeds, bits=st.sampled_from([8, 4, 3, 2]), symmetric=st.booleans(), columns=widths)
def test_packing_loses_at_most_the_plain_grid_s_step(seed, bits, symmetric, columns):
    weight = floats(seed, 5, columns, spread=0.05)
    codes, scales, mins = round_to_nearest(weight, bits, 64, symmetric=symmetric)
    with Laid(codes, scales, mins, None, bits, 64) as laid:
        back = laid.read()
    for first in range(0, columns, 64):
        part, error = weight[:, first : first + 64], (back - weight)[:, first : first + 64]
        low, high = part.min(1).clip(max=0), part.max(1).clip(min=0)
        step = (high - low) / (2**bits - 1) if not symmetric else np.maximum(-low, high) / (2 ** (bits - 1) - 1)
        # half a step, and what scale and minimum lose as float16 (2^-11 of them, 2^-25 where they are subnormal)
        rounding = (high - low) * 2.0**-10 + 2.0**-24 * 2**bits
        plain = np.sqrt(part.shape[1]) * (step / 2 + rounding)
        assert (np.linalg.norm(error, axis=1) <= plain * 1.001).all()


def test_packing_refuses_what_it_cannot_hold():
    weight = np.ones((2, 64), np.float32)
    weight[1, 3] = np.nan
    with pytest.raises(EngineError, match=r"NaN or infinite \(row 1, column 3\)"):
        round_to_nearest(weight, 4, 64)
    with pytest.raises(EngineError, match="known are 8, 4, 3 and 2"):
        round_to_nearest(np.ones((2, 64), np.float32), 5, 64)
    with pytest.raises(EngineError, match="multiple of 16"):
        round_to_nearest(np.ones((2, 64), np.float32), 4, 24)
    with pytest.raises(EngineError, match="too large for float16"):
        round_to_nearest(np.full((2, 64), 1e9, np.float32), 4, 64)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_pool_does_every_piece_of_every_call_once(threads):
    counters = np.zeros(37, np.int32)
    call("test_pool", threads, 2000, pointer(counters), len(counters))
    assert (counters == 2000).all()
