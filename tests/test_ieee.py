"""Our own float64 arithmetic: every function within its ulps of mpmath over its whole range, the edges exact.

The functions, their ranges and their truth are those of scripts/measure_ulp.py, which prints the README's table from more
points. What was measured there with two million points a function stands behind LIMITS.
"""

from __future__ import annotations

import importlib.util
import math
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numba
import numpy as np
import pytest

from streamloss import jit
from streamloss.ieee import bits

SCRIPT = Path(__file__).parents[1] / "scripts" / "measure_ulp.py"
spec = importlib.util.spec_from_file_location("measure_ulp", SCRIPT)
assert spec is not None and spec.loader is not None
measure_ulp = importlib.util.module_from_spec(spec)
sys.modules["measure_ulp"] = measure_ulp
spec.loader.exec_module(measure_ulp)

INF = math.inf
POINTS = 600 if jit.DISABLED else 6_000  # of each function; plain Python is slow

# Ulps. softplus adds max(x, 0) to log1p; expm1_tail is the product of three roundings and a polynomial that is 2 · 2^-53
# off at its worst.
LIMITS = {
    "expm1_tail": 4.7,
    "log1p_ratio": 2.0,
    "softplus": 1.35,
    "logistic[2]": 1.35,
    "logistic[3]": 1.35,
    "log": 0.9,
    "log1p": 0.9,
}
LIMIT = 1.1

# The worst points that scripts/measure_ulp.py has found in millions.
KNOWN = {
    "exp": (50.26418350821325, 674.1007201306248),
    "exp_nonpositive": (105.02394639193449, 627.6611631961443),
    "exp_inner": (105.02394639193449, 627.6611631961443),
    "expm1_tail": (4.580446463659356e-10, 4.7456415170536796e-07, 1.078530939186501e-05),
    "log1p_ratio": (0.06376617820491659,),
    "log": (1.4142000003903499, 1.414200001628086),
    "log1p": (-0.2928999999998932, 0.4142024150028084),
    "sigmoid": (-522.2665012777034, -240.16297290977138),
    "softplus": (0.3092070678340603, 0.33416932325658827, 0.36033603399040454),
    "logistic[2]": (-0.4223453604498338, -0.33433048645175306),
}


def apply(function, *arrays):
    """function of every element, compiled as the kernels compile it."""

    @numba.njit(error_model="numpy")
    def loop(y, *x):
        for i in range(y.size):
            y[i] = call(function, i, x)

    if len(arrays) == 1:

        @numba.njit
        def call(f, i, x):
            return f(x[0][i])

    else:

        @numba.njit
        def call(f, i, x):
            return f(x[0][i], x[1][i], x[2][i])

    y = np.empty(len(arrays[0]))
    with np.errstate(all="ignore"):
        loop(y, *arrays)
    return y


def at(name, *x):
    """The values of one of the measured functions."""
    return measure_ulp.values(measure_ulp.FUNCTIONS[name].ours, np.array(x, dtype=np.float64)).tolist()


# ---- accuracy


@pytest.mark.parametrize("name", measure_ulp.FUNCTIONS)
def test_within_its_ulps(name):
    function = measure_ulp.FUNCTIONS[name]
    x = measure_ulp.points(function, POINTS, np.random.default_rng(20))
    x = np.concatenate([x, KNOWN.get(name, ())])
    error, where = measure_ulp.worst(function, x)
    assert error <= LIMITS.get(name, LIMIT), f"{error} ulps at {where!r}"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("exp", -745.2, -708.0),  # gradual underflow
        ("sigmoid", -745.2, -708.0),
        ("softplus", -745.2, -708.0),
        ("log", 5e-324, 2.3e-308),  # subnormal arguments
        ("log1p", 5e-324, 2.3e-308),
        ("log1p", -2.3e-308, -5e-324),
    ],
)
def test_subnormals(name, low, high):
    function = measure_ulp.FUNCTIONS[name]
    x = np.random.default_rng(21).uniform(low, high, 100 if jit.DISABLED else 500)
    x = np.concatenate([x, [low, high]])
    y = measure_ulp.values(function.ours, x)
    errors = [measure_ulp.ulps(a, function.true(measure_ulp.mp.mpf(b))) for a, b in zip(y, x.tolist(), strict=True)]
    assert max(errors) <= LIMITS.get(name, LIMIT)


def test_the_filter_of_the_script_hides_nothing():
    """The 80-bit pre-filter and mpmath agree on the worst point."""
    function = measure_ulp.FUNCTIONS["exp"]
    x = measure_ulp.points(function, 300, np.random.default_rng(22))
    y = measure_ulp.values(function.ours, x)
    every = [measure_ulp.ulps(a, function.true(measure_ulp.mp.mpf(b))) for a, b in zip(y, x.tolist(), strict=True)]
    assert measure_ulp.worst(function, x)[0] == max(every)


# ---- edges


def same(ours, expected):
    """Equal with the sign of zero."""
    return ours == expected and math.copysign(1, ours) == math.copysign(1, expected)


LARGEST = 1.7976931348623157e308
OVERFLOW = 709.782712893384  # the last float64 whose exponential is finite
UNDERFLOW = -745.1332191019411  # and the last whose exponential is not 0


@pytest.mark.parametrize(
    ("name", "x", "y"),
    [
        ("exp", 0.0, 1.0),
        ("exp", -0.0, 1.0),
        ("exp", INF, INF),
        ("exp", -INF, 0.0),
        ("exp", math.nextafter(OVERFLOW, INF), INF),
        ("exp", 1e308, INF),
        ("exp", -1e308, 0.0),
        ("exp", math.nextafter(UNDERFLOW, -INF), 0.0),
        ("exp", UNDERFLOW, 5e-324),
        ("exp", 5e-324, 1.0),
        ("exp_nonpositive", 0.0, 1.0),
        ("exp_nonpositive", -0.0, 1.0),
        ("exp_nonpositive", -INF, 0.0),
        ("exp_nonpositive", -1e308, 0.0),
        ("exp_nonpositive", math.nextafter(-708.0, -INF), 0.0),
        ("exp_inner", 0.0, 1.0),
        ("exp_inner", -0.0, 1.0),
        ("expm1_tail", 0.0, 0.0),
        ("expm1_tail", -0.0, 0.0),
        ("log", 1.0, 0.0),
        ("log", 0.0, -INF),
        ("log", -0.0, -INF),
        ("log", INF, INF),
        ("log1p", 0.0, 0.0),
        ("log1p", -1.0, -INF),
        ("log1p", INF, INF),
        ("log1p", 5e-324, 5e-324),
        ("log1p", -5e-324, -5e-324),
        ("log1p", 1e-300, 1e-300),
        ("sigmoid", 0.0, 0.5),
        ("sigmoid", -0.0, 0.5),
        ("sigmoid", INF, 1.0),
        ("sigmoid", -INF, 0.0),
        ("sigmoid", 1e308, 1.0),
        ("sigmoid", -1e308, 0.0),
        ("softplus", INF, INF),
        ("softplus", -INF, 0.0),
        ("softplus", 1e308, 1e308),
        ("softplus", LARGEST, LARGEST),
        ("softplus", -1e308, 0.0),
        ("softplus", 0.0, math.log(2)),
        ("softplus", -0.0, math.log(2)),
    ],
)  # fmt: skip
def test_edge(name, x, y):
    assert same(at(name, x)[0], y)


def test_thresholds_of_exp_are_finite():
    assert at("exp", OVERFLOW)[0] == pytest.approx(LARGEST, rel=1e-12)
    assert at("exp_inner", 709.0)[0] == pytest.approx(math.exp(709.0), rel=1e-15)
    assert at("exp_nonpositive", -708.0)[0] == pytest.approx(math.exp(-708.0), rel=1e-15)


def test_logs_of_powers_of_two_and_extremes():
    values = [2.0**k for k in (-1074, -1073, -1022, -537, -1, 1, 52, 512, 1023)] + [LARGEST]
    for ours, x in zip(at("log", *values), values, strict=True):
        assert measure_ulp.ulps(ours, measure_ulp.mp.log(x)) <= 0.9
    for ours, x in zip(at("log1p", LARGEST, math.nextafter(-1.0, 0.0)), (LARGEST, math.nextafter(-1.0, 0.0)), strict=True):
        assert measure_ulp.ulps(ours, measure_ulp.mp.log1p(x)) <= 0.9


def test_exp_and_log_do_not_turn_back():
    """Monotone over neighbours, also where the reduction changes its multiple of ln 2 and the octave changes."""
    count = 200 if jit.DISABLED else 2_000
    for name, centres in (
        ("exp", (0.5 * math.log(2), 1.5 * math.log(2), 100.5 * math.log(2))),
        ("log", (0.5**0.5, 1.0, 2.0**0.5)),
    ):
        for centre in centres:
            x = centre + np.arange(-count // 2, count // 2) * np.spacing(centre)
            assert (np.diff(at(name, *x)) >= 0).all()


def test_logistic_is_symmetric():
    """p of x is 1 − p of −x, and their costs alike, bit for bit; the two chances add to 1."""
    x = np.random.default_rng(23).normal(scale=20.0, size=POINTS // 3)
    p, rest = np.array(at("logistic[0]", *x)), np.array(at("logistic[1]", *x))
    assert (p == at("logistic[1]", *-x)).all() and (p == at("sigmoid", *x)).all()
    assert at("logistic[2]", *x) == at("logistic[3]", *-x) and at("logistic[3]", *x) == at("softplus", *x)
    assert (np.abs(p + rest - 1.0) <= 2.3e-16).all()


# ---- fma


def exact_fma(a, b, c):
    """a·b + c rounded once, from rationals."""
    if not all(map(math.isfinite, (a, b, c))):
        return a * b + c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c
    try:
        return exact.numerator / exact.denominator
    except OverflowError:
        return INF if exact > 0 else -INF


HARD = [
    (1 + 2**-52, 1 - 2**-52, -1.0),  # −2^-104, which a rounded product loses
    (1 + 2**-52, 1 + 2**-52, -(1 + 2**-51)),
    (0.1, 10.0, -1.0),
    (1 / 3, 3.0, -1.0),
    (134217729.0, 134217729.0, -18014398777917440.0),
    (2.0**-540, 2.0**-540, 2.0**-1074),  # below half of the smallest
    (2.0**-537, 2.0**-538, 0.0),  # half of the smallest: to even
    (2.0**-537, 3 * 2.0**-538, 0.0),
    (-(2.0**-537), 2.0**-538, 0.0),  # −0
    (2.0**-600, 2.0**-600, 1.0),
    (2.0**-600, -(2.0**-600), 1.0),
    (1.5, 2.0**-53, 1.0),  # just above a tie
    (1.0, 2.0**-53, 1.0),  # a tie
    (LARGEST, 2.0, -LARGEST),  # the product overflows, the sum does not
    (LARGEST, 1 + 2**-52, -(2.0**970)),
    (LARGEST, 2.0, 0.0),
    (LARGEST, -2.0, 0.0),
    (2.0**1000, 2.0**1000, 1.0),
    (-(2.0**1000), 2.0**1000, 1.0),
    (5e-324, 5e-324, -5e-324),
    (2.2250738585072014e-308, 0.5, 5e-324),
    (0.0, 5.0, -0.0),
    (-0.0, 5.0, -0.0),
    (3.0, 5.0, -15.0),
    (INF, 1.0, 5.0),
    (INF, -1.0, 5.0),
    (2.0, 3.0, -INF),
]  # fmt: skip


def fused_triples():
    rng = np.random.default_rng(24)
    n = POINTS // 3
    a, b = rng.normal(size=(2, n))
    near = -(a * b) * (1 + rng.integers(-4, 5, n) * 2.0**-52)  # catastrophic cancellation
    c = np.where(rng.random(n) < 0.5, near, rng.normal(size=n) * 2.0 ** rng.integers(-60, 60, n))
    wild = rng.integers(0, 0x7FE0000000000000, (3, n), dtype=np.int64).view(np.float64) * rng.choice([-1.0, 1.0], (3, n))
    return [np.concatenate(parts) for parts in zip((a, b, c), wild, np.array(HARD).T, strict=True)]


def test_fma_rounds_once():
    a, b, c = fused_triples()
    for ours, x, y, z in zip(apply(bits.fma, a, b, c), a.tolist(), b.tolist(), c.tolist(), strict=True):
        assert same(ours, exact_fma(x, y, z)), (x, y, z)


@pytest.mark.parametrize("triple", [(INF, 0.0, 1.0), (INF, 1.0, -INF), (math.nan, 1.0, 1.0), (1.0, 1.0, math.nan)])
def test_fma_without_a_value(triple):
    assert math.isnan(apply(bits.fma, *np.array([triple]).T.copy())[0])


def test_the_errors_of_products_are_exact():
    """fma(a, b, −ab) is what the product lost, the reason to have fma at all."""
    a, b = np.random.default_rng(25).normal(size=(2, 300))
    lost = apply(bits.fma, a, b, -(a * b))
    for x, y, e in zip(a.tolist(), b.tolist(), lost.tolist(), strict=True):
        assert Fraction(x * y) + Fraction(e) == Fraction(x) * Fraction(y)


# ---- bit views


def test_bits_go_round():
    rng = np.random.default_rng(26)
    x = rng.integers(-(2**63), 2**63 - 1, POINTS, dtype=np.int64).view(np.float64)
    x = np.concatenate([x[~np.isnan(x)], [0.0, -0.0, 1.0, -1.0, INF, -INF, 5e-324, LARGEST]])

    @numba.njit
    def there_and_back(v):
        return bits_back(bits_there(v))

    bits_there, bits_back = bits.to_bits, bits.from_bits
    back = apply(there_and_back, x)
    assert (back.view(np.int64) == x.view(np.int64)).all()


def test_to_bits_is_the_ieee_layout():
    to_bits = bits.to_bits

    @numba.njit
    def view(v):
        return to_bits(v)

    for x in (0.0, -0.0, 1.0, -2.5, INF, -INF, 5e-324, -5e-324, LARGEST, math.pi):
        assert view(x) == struct.unpack("<q", struct.pack("<d", x))[0]
    assert math.isnan(struct.unpack("<d", struct.pack("<q", view(math.nan)))[0])


def test_from_bits_keeps_nan():
    from_bits = bits.from_bits

    @numba.njit
    def view(i):
        return from_bits(i)

    assert math.isnan(view(0x7FF8000000000000))
    assert view(0x7FF0000000000000) == INF
    assert same(view(-(2**63)), -0.0)


# ---- widening


def check_widened(stored, expected):
    with np.errstate(all="ignore"):  # signalling NaN
        ours = apply(bits.widen, stored)
    nan = np.isnan(expected)
    assert (np.isnan(ours) == nan).all()
    assert (ours.view(np.int64) == expected.view(np.int64))[~nan].all()


def test_widens_every_float16():
    patterns = np.arange(65_536, dtype=np.uint16)
    with np.errstate(all="ignore"):
        expected = patterns.view(np.float16).astype(np.float64)
    check_widened(patterns, expected)


def test_widens_every_bfloat16():
    """By the definition: sign, 8 bits of exponent, 7 of mantissa."""
    patterns = np.arange(65_536, dtype=np.uint16)
    sign = np.where(patterns >> 15, -1.0, 1.0)
    exponent, mantissa = (patterns >> 7 & 0xFF).astype(int), (patterns & 0x7F).astype(float)
    size = np.where(exponent == 0, mantissa * 2.0**-133, np.ldexp(128.0 + mantissa, exponent - 134))
    size = np.where(exponent == 255, np.where(mantissa == 0, INF, math.nan), size)
    check_widened(patterns.view(np.int16), sign * size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_widens_floats(dtype):
    whole = np.dtype(dtype.replace("float", "int"))
    limits = np.iinfo(whole)
    patterns = np.random.default_rng(27).integers(limits.min, limits.max, POINTS, dtype=whole)
    edges = np.array([0.0, -0.0, 1.0, INF, -INF, math.nan, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal], dtype)
    stored = np.concatenate([patterns.view(dtype), edges])
    with np.errstate(all="ignore"):
        expected = stored.astype(np.float64)
    check_widened(stored, expected)


def test_mpmath_is_as_precise_as_it_is_trusted():
    """The truth behind all of this, against a sum of rationals: e to 38 digits."""
    e = sum(Fraction(1, math.factorial(n)) for n in range(40))
    assert abs(measure_ulp.mp.exp(1) - measure_ulp.mp.mpf(e.numerator) / e.denominator) < measure_ulp.mp.mpf(10) ** -38
