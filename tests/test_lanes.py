"""Thirty-two numbers at once are thirty-two numbers: every function of the kernels, in Lanes, has the bits that it has alone.

Run with NUMBA_DISABLE_JIT=1 as well (test_jit does): Lanes are NumPy arrays there.
"""

from __future__ import annotations

import numba
import numpy as np
import pytest

from streamloss.ieee import bits, elementary
from streamloss.ieee.bits import LANES
from streamloss.kernels import divergence

INF, NAN = np.inf, np.nan
EDGES = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 5e-324, -5e-324, 2.3e-308, -1e300, 0.34, -0.34, 708.0, -708.1]


def points(low, high, edges=True, seed=31):
    """A few Lanes of the range, among them the edges that lie in it."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, 8 * LANES)
    x[::3] = np.sign(x[::3]) * 10.0 ** rng.uniform(-18, 0, len(x[::3])) * min(abs(low), abs(high)) if low < 0 < high else x[::3]
    if edges:
        some = [v for v in EDGES if v != v or low <= v <= high]
        x[: len(some)] = some
    return x


def alone(function, *columns):
    """function of every row of numbers."""

    @numba.njit(error_model="numpy")
    def loop(y, columns):
        for i in range(y.shape[0]):
            y[i] = call(function, columns, i)

    call = _caller(len(columns))
    y = np.empty(len(columns[0]))
    with np.errstate(all="ignore"):
        loop(y, tuple(columns))
    return y


def _caller(count):
    if count == 1:
        return numba.njit(lambda f, c, i: f(c[0][i]))
    if count == 2:
        return numba.njit(lambda f, c, i: f(c[0][i], c[1][i]))
    return numba.njit(lambda f, c, i: f(c[0][i], c[1][i], c[2][i]))


def together(function, *columns):
    """The same in Lanes."""
    load, store = bits.load, bits.store
    count = len(columns)

    if count == 1:
        call = numba.njit(lambda f, c, i: f(load(c[0], i, 0)))
    elif count == 2:
        call = numba.njit(lambda f, c, i: f(load(c[0], i, 0), load(c[1], i, 0)))
    else:
        call = numba.njit(lambda f, c, i: f(load(c[0], i, 0), load(c[1], i, 0), load(c[2], i, 0)))

    @numba.njit(error_model="numpy")
    def loop(y, columns):
        for i in range(y.shape[0]):
            store(y, i, 0, call(function, columns, i))

    y = np.empty((len(columns[0]) // LANES, LANES))
    with np.errstate(all="ignore"):
        loop(y, tuple(column.reshape(-1, LANES) for column in columns))
    return y.reshape(-1)


def pick(function, i):
    """One of several values that a function returns."""
    return numba.njit(error_model="numpy")(lambda *x: function(*x)[i])


FUNCTIONS = {
    "exp_inner": (elementary.exp_inner, (-708, 709)),
    "exp_nonpositive": (elementary.exp_nonpositive, (-2000, 709)),
    "expm1_tail": (elementary.expm1_tail, (-0.34, 0.34)),
    "log": (elementary.log, (0, 1e308)),
    "log, small": (elementary.log, (0, 4)),
    "log1p": (elementary.log1p, (-1, 1e10)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_number(name):
    function, (low, high) = FUNCTIONS[name]
    x = points(low, high)
    np.testing.assert_array_equal(together(function, x).view(np.int64), alone(function, x).view(np.int64))


def test_log1p_ratio():
    high = points(0, 1)
    low = high * points(0, 1, edges=False, seed=32)
    for column in (low, high):
        column[np.isnan(column)] = 0.0
    np.testing.assert_array_equal(together(elementary.log1p_ratio, low, high), alone(elementary.log1p_ratio, low, high))


def pairs():
    """Probabilities and d = ln(q/p): near and far, zeros on either side and on both."""
    rng = np.random.default_rng(33)
    q = rng.random(8 * LANES)
    p = q * np.exp(np.where(rng.random(len(q)) < 0.5, rng.uniform(-1e-4, 1e-4, len(q)), rng.uniform(-8, 8, len(q))))
    q[:3], p[:3] = (0.0, 0.5, 0.0), (0.5, 0.0, 0.0)
    with np.errstate(all="ignore"):
        return q, p, np.log(q) - np.log(p)


@pytest.mark.parametrize("i", range(2))
def test_brackets(i):
    function = pick(divergence.brackets, i)
    np.testing.assert_array_equal(together(function, *pairs()), alone(function, *pairs()))


def test_jensen():
    np.testing.assert_array_equal(together(divergence.jensen, *pairs()), alone(divergence.jensen, *pairs()))


# ---- the primitives


@numba.njit
def loaded(x, y, first):
    for i in range(x.shape[0]):
        bits.store(y, i, 0, bits.load(x, i, first))


@numba.njit
def largest_and_counts(x, own, found):
    for i in range(x.shape[0]):
        v = bits.load_narrow(x, i, 0)
        mine = bits.narrow(x, own)
        found[i, 0] = bits.max_of(v)
        found[i, 1] = bits.count_of(v > mine)
        found[i, 2] = bits.count_of((v == mine) | ((v < mine) & ~(v <= -1.0)))
        found[i, 3] = bits.count_of(bits.numbered(v) < 5.0)
        found[i, 4] = bits.count_of(v != v)


def stored(dtype):
    """Rows of 40 stored values of every kind, and what they stand for."""
    rng = np.random.default_rng(34)
    wide = rng.standard_normal((6, 40)) * 10.0 ** rng.integers(-6, 4, (6, 40))
    wide[0, :6] = (0.0, -0.0, INF, -INF, 6e-8, 65504.0)
    if dtype == "float16":
        return wide.astype(np.float16).view(np.uint16), wide.astype(np.float16).astype(np.float64)
    if dtype == "bfloat16":
        whole = wide.astype(np.float32).view(np.uint32)
        return (whole >> 16).astype(np.uint16).view(np.int16), (whole & 0xFFFF0000).view(np.float32).astype(np.float64)
    return wide.astype(dtype), wide.astype(dtype).astype(np.float64)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("first", [0, 3, 8])
def test_load_widens(dtype, first):
    x, truth = stored(dtype)
    y = np.empty((len(x), LANES))
    loaded(x, y, first)
    np.testing.assert_array_equal(y.view(np.int64), np.ascontiguousarray(truth[:, first : first + LANES]).view(np.int64))


def test_load_widens_every_float16():
    every = np.arange(1 << 16, dtype=np.uint16).reshape(-1, LANES)
    y = np.empty(every.shape)
    loaded(every, y, 0)
    np.testing.assert_array_equal(y, every.view(np.float16).astype(np.float64))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_comparisons_on_narrow_values(dtype):
    x, truth = stored(dtype)
    own = truth[1, 7]
    found = np.empty((len(x), 5))
    largest_and_counts(x, own, found)
    for row, v in zip(found, truth[:, :LANES], strict=True):
        some = (v == own) | ((v < own) & (v > -1.0))
        assert row.tolist() == [v.max(), (v > own).sum(), some.sum(), 5, 0]


@numba.njit
def summed(x, y):
    for i in range(x.shape[0]):
        y[i] = bits.sum_of(bits.load(x, i, 0))


def test_sums_go_by_the_tree():
    x = np.random.default_rng(35).standard_normal((50, LANES)) * 10.0 ** np.random.default_rng(36).integers(-8, 8, (50, LANES))
    y, tree = np.empty(50), x
    summed(x, y)
    while tree.shape[1] > 1:
        half = tree.shape[1] // 2
        tree = tree[:, :half] + tree[:, half:]
    np.testing.assert_array_equal(y, tree[:, 0])
    assert (y != x.sum(axis=1)).any()  # NumPy's order is another: the order is what is tested


@numba.njit
def operated(x, y):
    a, b = bits.load(x, 0, 0), bits.load(x, 1, 0)
    bits.store(y, 0, 0, a + b)
    bits.store(y, 1, 0, a - 2.0)
    bits.store(y, 2, 0, 3.0 * b)
    bits.store(y, 3, 0, a / b)
    bits.store(y, 4, 0, -a)
    bits.store(y, 5, 0, abs(a))
    bits.store(y, 6, 0, bits.fma(a, b, 1.0))
    bits.store(y, 7, 0, bits.select(a > b, a, 7.0))
    bits.store(y, 8, 0, bits.select(x[0, 0] > 0.0, a, b))
    bits.store(y, 9, 0, bits.from_bits(bits.to_bits(a) + (bits.to_bits(b) << np.int64(3))))
    bits.store(y, 10, 0, bits.lanes(4.5))


def test_operators():
    x = np.random.default_rng(37).standard_normal((2, LANES))
    x[0, 0] = 0.25
    y = np.empty((11, LANES))
    operated(x, y)
    a, b = x
    for row, truth in enumerate((a + b, a - 2, 3 * b, a / b, -a, abs(a))):
        np.testing.assert_array_equal(y[row], truth)
    np.testing.assert_array_equal(y[6], alone(bits.fma, a, b, np.ones(LANES)))
    np.testing.assert_array_equal(y[7], np.where(a > b, a, 7.0))
    np.testing.assert_array_equal(y[8], a)
    np.testing.assert_array_equal(y[9].view(np.int64), a.view(np.int64) + (b.view(np.int64) << 3))
    np.testing.assert_array_equal(y[10], 4.5)


@numba.njit
def turned(x, panel):
    for first in range(0, x.shape[1], bits.SQUARE):
        bits.turn(x, 1, first, panel, 16)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 10, 16, 33])
def test_turn_is_a_transposition(dtype, k):
    """Of 16 rows from row 1 on, to lane 16 and those behind it; classes past the last one are not looked at."""
    x = np.arange(60 * k).reshape(60, k).astype(dtype)
    panel = np.zeros((48, LANES), dtype)
    turned(x, panel)
    np.testing.assert_array_equal(panel[:k, 16:], x[1:17].T)
    assert not panel[:, :16].any()
