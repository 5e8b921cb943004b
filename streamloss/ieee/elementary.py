"""exp, log, log1p, sigmoid and softplus of float64, branch-free: of one number, in loops that Numba vectorises without
fast-math, or of 32 in Lanes (see `bits`).

exp reduces x = n·ln 2 + r with |r| ≤ ln 2 / 2 and sums 1 + r + r²·Q(r), Q the Chebyshev interpolant of degree 9 of
(e^r − 1 − r) / r² (truncation 0.15 · 2^-53). log and log1p follow fdlibm's e_log.c and s_log1p.c: log(1 + f) through
s = f / (2 + f). Quotients come from a polynomial for the reciprocal and steps of Newton's, four times as fast as the divider
and rounded as well. At the edges: exp(−inf) = 0, log(0) = −inf, log(inf) = inf, exp overflows to inf; NaN is not
caught.
Largest errors against mpmath are measured by tests/test_ieee.py and stand in the README.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamloss.ieee.bits import fma, from_bits, select, to_bits
from streamloss.jit import scalar

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
LN2_HI = 6.93147180369123816490e-01  # 32 significant bits: n·LN2_HI is exact
LN2_LO = 1.90821492927058770002e-10
ROUND = 6755399441055744.0  # 1.5 · 2^52: adding it rounds to an integer, held in the low bits
ROUND_BITS = 0x4338000000000000
ONE_BITS = 0x3FF0000000000000
SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
MANTISSA = 0x000FFFFFFFFFFFFF
INF = np.inf

_Q0, _Q1, _Q2, _Q3, _Q4 = (
    0.5000000000000001,
    0.16666666666666669,
    0.04166666666662399,
    0.008333333333330051,
    0.0013888888917281794,
)
_Q5, _Q6, _Q7, _Q8, _Q9 = (
    0.00019841269863105968,
    2.480152119021773e-05,
    2.7557268378684192e-06,
    2.7620138719733994e-07,
    2.5100424157005067e-08,
)
_L1, _L2, _L3, _L4, _L5, _L6, _L7 = (
    6.666666666666735130e-01,
    3.999999999940941908e-01,
    2.857142874366239149e-01,
    2.222219843214978396e-01,
    1.818357216161805012e-01,
    1.531383769920937332e-01,
    1.479819860511658591e-01,
)

# atanh(s) / s = 1 + s²·A(s²) for s ≤ 1/3, Chebyshev interpolant of degree 9 (truncation 0.04 · 2^-53)
_A0, _A1, _A2, _A3, _A4 = 0.3333333333333333, 0.20000000000007292, 0.1428571428355438, 0.11111111358713932, 0.09090894718066429
_A5, _A6, _A7, _A8, _A9 = (
    0.07692785032479312,
    0.06657072104827468,
    0.06000536404795356,
    0.04400369243072337,
    0.08082022805971766,
)
_R0, _R1, _R2 = 0.50031925, -0.25499255, 0.11686289  # 1 / (2 + f), minimax of degree 2
_S0, _S1, _S2 = 0.98989899, -0.80808081, 0.32323232  # 1 / (1 + f) for 0 ≤ f ≤ 1, the same
TINY = 2.2250738585072014e-308  # 2^-1022, the least normal number
RECIPROCAL_BITS = 0x7FDE623822FC16E6  # less the bits of u: a line through every octave of 1 / u, within 13 %


@scalar
def expm1_tails(r: float) -> Any:
    """e^r − 1 − r and e^−r − 1 + r for |r| ≤ ln 2 / 2, without cancellation: relative error a few 2^-53."""
    square = r * r  # even and odd powers apart: half as many steps wait for one another
    even = fma(fma(fma(fma(_Q8, square, _Q6), square, _Q4), square, _Q2), square, _Q0)
    odd = fma(fma(fma(fma(_Q9, square, _Q7), square, _Q5), square, _Q3), square, _Q1)
    return square * fma(odd, r, even), square * fma(odd, -r, even)


@scalar
def expm1_tail(r: float) -> Any:
    """e^r − 1 − r for |r| ≤ ln 2 / 2."""
    return expm1_tails(r)[0]


@scalar
def _reduce(x: float) -> Any:
    """(t, r): x = n·ln 2 + r, n in the low bits of t = n + ROUND."""
    t = fma(x, LOG2E, ROUND)
    n = t - ROUND
    return t, fma(n, -LN2_LO, fma(n, -LN2_HI, x))


@scalar
def exp_inner(x: float) -> Any:
    """e^x for −708 ≤ x ≤ 709: the hot loop's exp, without a look at the edges."""
    t, r = _reduce(x)
    p = 1.0 + (r + expm1_tail(r))
    return from_bits(to_bits(p) + (to_bits(t) << np.int64(52)))


@scalar
def exp_nonpositive(x: float) -> Any:
    """e^x for x ≤ 709; 0 below −708 (what is lost is under 1e-307)."""
    return select(x >= -708.0, exp_inner(x), 0.0)


@scalar
def _exp_parts(x: float) -> Any:
    """(hi, lo, a, b): e^x = (hi + lo)·a·b with lo the rounding error of hi and a, b powers of two; x in −746 … 710."""
    x = select(x > -746.0, x, -746.0)
    t, r = _reduce(select(x < 710.0, x, 710.0))
    tail = r + expm1_tail(r)
    hi = 1.0 + tail
    lo = tail - (hi - 1.0)
    n = t - ROUND
    first = select(n > -1000.0, n, -1000.0)
    first = select(first < 1000.0, first, 1000.0)
    a = from_bits(ONE_BITS + (to_bits(first + ROUND) << np.int64(52)))
    b = from_bits(ONE_BITS + (to_bits(n - first + ROUND) << np.int64(52)))
    return hi, lo, a, b


@scalar
def exp(x: float) -> Any:
    """e^x over the whole range, gradual underflow and overflow to inf included."""
    hi, _, a, b = _exp_parts(x)
    return hi * a * b


@scalar
def _over_two_plus(f: float) -> Any:
    """f / (2 + f) for √½ ≤ 1 + f ≤ √2."""
    d = 2.0 + f
    r = fma(fma(_R2, f, _R1), f, _R0)  # 1 / d within 1.3e-3
    e = fma(-d, r, 1.0)
    r = fma(r, fma(e, e, e), r)  # within 2.2e-9
    s = f * r
    return fma(fma(-s, d, f), r, s)


@scalar
def _reciprocal(d: float) -> Any:
    """1 / d for 1 ≤ d ≤ 2."""
    f = d - 1.0
    r = fma(fma(_S2, f, _S1), f, _S0)  # within 1.1e-2
    e = fma(-d, r, 1.0)
    r = fma(r, fma(e, e, e), r)  # within 1.3e-6
    e = fma(-d, r, 1.0)
    return fma(r, fma(e, e, e), r)


@scalar
def _about_reciprocal(u: float) -> Any:
    """1 / u within 2 % for 2^-1022 ≤ u ≤ 2^1000, where only the size of a correction matters."""
    r = from_bits(RECIPROCAL_BITS - to_bits(u))
    return fma(r, fma(-u, r, 1.0), r)


@scalar
def _log_core(m: float, k: float, c: float) -> Any:
    """log(2^k·m) + c."""
    return log_near(m - 1.0, k, c)


@scalar
def log_near(f: float, k: float, c: float) -> Any:
    """log(2^k·(1 + f)) + c for √½ ≤ 1 + f ≤ √2."""
    s = _over_two_plus(f)
    z = s * s
    w = z * z
    t1 = w * fma(w, fma(w, _L6, _L4), _L2)
    t2 = z * fma(w, fma(w, fma(w, _L7, _L5), _L3), _L1)
    half = 0.5 * f * f
    return fma(s, half + (t2 + t1), fma(k, LN2_LO, c)) - half + f + k * LN2_HI


@scalar
def _split(x: float) -> Any:
    """(m, k): x = 2^k·m with m in [√½, √2), for normal positive x."""
    shifted = to_bits(x) + (ONE_BITS - SQRT_HALF_BITS)
    k = from_bits((shifted >> np.int64(52)) + (ROUND_BITS - 1023)) - ROUND
    m = from_bits((shifted & np.int64(MANTISSA)) + SQRT_HALF_BITS)
    return m, k


@scalar
def log(x: float) -> Any:
    """ln x for x ≥ 0; −inf at 0, inf at inf."""
    tiny = x < TINY
    m, k = _split(select(tiny, x * 18014398509481984.0, x))
    y = _log_core(m, select(tiny, k - 54.0, k), 0.0)
    return select(x < INF, select(x > 0.0, y, -INF), INF)


@scalar
def log_chance(p: float) -> Any:
    """ln p for 2^-1022 ≤ p ≤ 1 with the bits of `log`, and −inf at 0: the hot loop's logarithm."""
    m, k = _split(p)
    return select(p > 0.0, _log_core(m, k, 0.0), -INF)


@scalar
def _log1p_plus(x: float, u: float, c: float, extra: float) -> Any:
    """ln(1 + x) + extra for x > −1; u = 1 + x rounded, c = what that left out over u (1 % will do), extra small."""
    m, k = _split(u)
    small = (x > -0.2928932188134524) & (x < 0.41421356237309503)
    return log_near(select(small, x, m - 1.0), select(small, 0.0, k), select(small, extra, c + extra))


@scalar
def log1p(x: float) -> Any:
    """ln(1 + x) for x ≥ −1, accurate near 0; −inf at −1."""
    u = 1.0 + x
    c = select(x >= 1.0, 1.0 - (u - x), x - (u - 1.0))
    y = _log1p_plus(x, u, c * _about_reciprocal(select(u < 1e300, u, 1e300)), 0.0)
    return select(x < INF, select(x > -1.0, y, -INF), INF)


@scalar
def log1p_ratio(low: float, high: float) -> Any:
    """ln(1 + low/high) for 0 ≤ low ≤ high; 0 where both are 0."""
    whole = fma(2.0, high, low)
    s = low / select(whole > 0.0, whole, 1.0)
    z = s * s
    w = z * z
    even = fma(fma(fma(fma(_A8, w, _A6), w, _A4), w, _A2), w, _A0)
    odd = fma(fma(fma(fma(_A9, w, _A7), w, _A5), w, _A3), w, _A1)
    return fma(2.0 * s * z, fma(odd, z, even), 2.0 * s)


@scalar
def log_rest(p: float) -> Any:
    """ln(1 − p) for 0 ≤ p ≤ 1 with the bits of `log1p`."""
    u = 1.0 - p
    y = _log1p_plus(-p, u, ((1.0 - u) - p) * _about_reciprocal(u), 0.0)
    return select(p < 1.0, y, -INF)


@scalar
def logistic(x: float) -> Any:
    """(σ(x), σ(−x), softplus(−x), softplus(x)) from one exponential: p, 1 − p, −ln p and −ln(1 − p) of the logit x."""
    hi, lo, a, b = _exp_parts(-abs(x))
    e, error = hi * a * b, lo * a * b
    d = 1.0 + e
    lost = e - (d - 1.0)
    rest = lost + error
    inverse = _reciprocal(d)
    large, small = inverse, e * inverse
    large = fma(fma(-large, d, 1.0) - large * rest, inverse, large)
    small = fma(fma(-small, d, e) + error - small * rest, inverse, small)
    tail = _log1p_plus(e, d, lost * inverse, error * inverse)
    positive, size = x >= 0.0, abs(x)
    over, under = size + tail, 0.0 + tail
    return (
        select(positive, large, small),
        select(positive, small, large),
        select(positive, under, over),
        select(positive, over, under),
    )


@scalar
def sigmoid(x: float) -> Any:
    """1 / (1 + e^−x), 0 at −inf and 1 at inf."""
    return logistic(x)[0]


@scalar
def softplus(x: float) -> Any:
    """ln(1 + e^x), 0 at −inf and inf at inf: the binary cross-entropy of the logit −x."""
    return logistic(x)[3]
