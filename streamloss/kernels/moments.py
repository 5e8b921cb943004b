"""Row values into moments, extremes and histograms: exact, whatever the order.

Moments add Σx and Σx² (weighted: Σwx, Σw²x, Σw²x²) as limbs. The fast ways split x and the two halves of x² = h + l
(l = fma(x, x, −h)) at fixed powers of two by adding and subtracting 1.5·2^(52+u): what is rounded off stays a float64, what
is kept is an integer multiple of 2^u that adds as int64. `add_narrow` is exact where a whole tile is 0 or 2^-21 ≤ |x| < 2^3,
`add_moments` for each 2^-39 ≤ |x| < 2^11; any other value goes digit by digit. See `digits` for the format.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamloss.digits import HIGHEST, LOWEST, LOWEST_EXPONENT, MIDDLE, OCTAVE
from streamloss.ieee.bits import fma, to_bits
from streamloss.ieee.elementary import INF, ONE_BITS
from streamloss.jit import loop, scalar
from streamloss.kernels.limbs import add_float, add_int, add_product, add_weight, integer_parts, product, unit_parts

MAGNITUDE = 0x7FFFFFFFFFFFFFFF
FAST_LOW, FAST_HIGH = 2.0**-39, 2.0**11
NARROW_LOW, NARROW_HIGH = 0x3EA0000000000000, 0x4020000000000000  # the bits of 2^-21 and 2^3
FIRST_BUCKET = (1023 + LOWEST_EXPONENT) * OCTAVE
BUCKET_SHIFT = 52 - 7


def magic(unit: int) -> float:
    """1.5·2^(52+u): added to x and taken off again, it leaves the multiple of 2^u that is next to x."""
    return 1.5 * 2.0 ** (52 + unit)


def bits_of(x: float) -> int:
    """The bits of a constant."""
    return int(np.float64(x).view(np.int64))


# For the units u of x and of x²; N and S are those of `add_narrow`.
U0, U1 = magic(-40), magic(-91)
V0, V1, V2, V3 = magic(-29), magic(-80), magic(-131), magic(-182)
N0, N1 = magic(-48), magic(-73)
S0, S1, S2 = magic(-45), magic(-96), magic(-147)
U0_BITS, U1_BITS = bits_of(U0), bits_of(U1)
V0_BITS, V1_BITS, V2_BITS, V3_BITS = bits_of(V0), bits_of(V1), bits_of(V2), bits_of(V3)
N0_BITS, N1_BITS = bits_of(N0), bits_of(N1)
S0_BITS, S1_BITS, S2_BITS = bits_of(S0), bits_of(S1), bits_of(S2)


@loop
def value_range(v: Any, n: int) -> Any:
    """(least key, greatest key, least size, greatest size): keys are integers in the order of the values, sizes the bits of
    their absolute values; the least size is that of the values that are not 0.
    """
    low, high = np.int64(HIGHEST), np.int64(LOWEST)
    for i in range(n):
        b = to_bits(v[i])
        low, high = min(low, b), max(high, b)
    if low > 0:
        return low, high, low, high
    smallest, largest = np.int64(MAGNITUDE), np.int64(0)
    low, high = np.int64(HIGHEST), np.int64(LOWEST)
    for i in range(n):
        b = to_bits(v[i])
        size = b & np.int64(MAGNITUDE)
        key = b ^ ((b >> np.int64(63)) & np.int64(MAGNITUDE))
        smallest, largest = min(smallest, size if size > 0 else np.int64(MAGNITUDE)), max(largest, size)
        low, high = min(low, key), max(high, key)
    return low, high, smallest, largest


@scalar
def narrow_parts(x: float) -> Any:
    """(q0, q1, a0, a1, a2): x = q0·2^-48 + q1·2^-73 and x² = a0·2^-45 + a1·2^-96 + a2·2^-147, for what `add_narrow` takes."""
    t = x + N0
    q0, q1 = to_bits(t) - N0_BITS, to_bits((x - (t - N0)) + N1) - N1_BITS
    h = x * x
    low = fma(x, x, -h)
    t = h + S0
    a0, a1 = to_bits(t) - S0_BITS, to_bits((h - (t - S0)) + S1) - S1_BITS
    t = low + S1
    return q0, q1, a0, a1 + (to_bits(t) - S1_BITS), to_bits((low - (t - S1)) + S2) - S2_BITS


@scalar
def wide_parts(x: float) -> Any:
    """(q0, q1, a0, a1, a2, a3): x by 2^-40 and 2^-91, x² by 2^-29, 2^-80, 2^-131 and 2^-182, for what `add_moments` takes."""
    t = x + U0
    q0, q1 = to_bits(t) - U0_BITS, to_bits((x - (t - U0)) + U1) - U1_BITS
    h = x * x
    low = fma(x, x, -h)
    t = h + V0
    a0 = to_bits(t) - V0_BITS
    r = h - (t - V0)
    t = r + V1
    a1, a2 = to_bits(t) - V1_BITS, to_bits((r - (t - V1)) + V2) - V2_BITS
    t = low + V1
    a1 = a1 + (to_bits(t) - V1_BITS)
    r = low - (t - V1)
    t = r + V2
    return q0, q1, a0, a1, a2 + (to_bits(t) - V2_BITS), to_bits((r - (t - V2)) + V3) - V3_BITS


@loop
def add_narrow(v: Any, n: int, sums: Any, shift: Any, buckets: Any) -> None:
    """`add_moments` for 2^-21 ≤ |v| < 2^3 and 0; buckets are found on the way, and are right where v is above 0."""
    q0: Any
    q0 = q1 = a0 = a1 = a2 = np.int64(0)
    for i in range(n):
        x = v[i]
        buckets[i] = (to_bits(x) >> np.int64(BUCKET_SHIFT)) - np.int64(FIRST_BUCKET - 1 - MIDDLE)
        p0, p1, b0, b1, b2 = narrow_parts(x)
        q0 += p0
        q1 += p1
        a0 += b0
        a1 += b1
        a2 += b2
    add_int(sums[0], q0, shift - 48)
    add_int(sums[0], q1, shift - 73)
    add_int(sums[1], a0, shift - 45)
    add_int(sums[1], a1, shift - 96)
    add_int(sums[1], a2, shift - 147)


@loop
def add_moments(v: Any, n: int, sums: Any, shift: Any) -> Any:
    """Adds Σv and Σv² of 2^-39 ≤ |v| < 2^11; returns how many others there are but 0, for `add_odd_moments`.

    shift is added to every exponent: 0 where sums are whole limbs, else what moves them into a window (see `slices`).
    """
    q0: Any
    q0 = q1 = a0 = a1 = a2 = a3 = np.int64(0)
    odd = np.int64(0)
    for i in range(n):
        x = v[i]
        size = abs(x)
        fits = (size >= FAST_LOW) & (size < FAST_HIGH)
        odd += np.int64((not fits) & (size != 0.0))
        p0, p1, b0, b1, b2, b3 = wide_parts(x if fits else 0.0)
        q0 += p0
        q1 += p1
        a0 += b0
        a1 += b1
        a2 += b2
        a3 += b3
    add_int(sums[0], q0, shift - 40)
    add_int(sums[0], q1, shift - 91)
    add_int(sums[1], a0, shift - 29)
    add_int(sums[1], a1, shift - 80)
    add_int(sums[1], a2, shift - 131)
    add_int(sums[1], a3, shift - 182)
    return odd


@scalar
def is_odd(x: float) -> Any:
    """Whether a value is finite and none of those that `add_moments` takes."""
    size = abs(x)
    return (size != 0.0) & (size < INF) & ((size < FAST_LOW) | (size >= FAST_HIGH))


@loop
def add_squared(x: float, sums: Any, shift: Any) -> None:
    """Adds x and x² of a finite x, digit by digit."""
    m, e = integer_parts(x)
    add_int(sums[0], m, e + shift)
    m = abs(m)
    a, b = m >> np.int64(27), m & np.int64(0x7FFFFFF)
    add_int(sums[1], a * a, 2 * e + 54 + shift)
    add_int(sums[1], 2 * a * b, 2 * e + 27 + shift)
    add_int(sums[1], b * b, 2 * e + shift)


@loop
def add_odd_moments(v: Any, n: int, sums: Any) -> Any:
    """Adds Σv and Σv² of what `add_moments` has left; returns the number of infinite ones, which are left out."""
    infinite = 0
    for i in range(n):
        if abs(v[i]) == INF:
            infinite += 1
        elif is_odd(v[i]):
            add_squared(v[i], sums, np.int64(0))
    return infinite


@loop
def add_indicators(v: Any, n: int, sums: Any, shift: Any, extremes: Any) -> None:
    """Moments and extremes of values that are 0 or 1."""
    ones = np.int64(0)
    for i in range(n):
        ones += np.int64(v[i])
    add_int(sums[0], ones, shift)
    add_int(sums[1], ones, shift)
    if ones < n:
        extremes[0], extremes[1] = min(extremes[0], np.int64(0)), max(extremes[1], np.int64(0))
    if ones > 0:
        extremes[0], extremes[1] = min(extremes[0], np.int64(ONE_BITS)), max(extremes[1], np.int64(ONE_BITS))


@loop
def add_range(low: int, high: int, extremes: Any) -> None:
    """The least and the greatest so far."""
    extremes[0] = min(extremes[0], low)
    extremes[1] = max(extremes[1], high)


@loop
def add_weighted(x: float, w: float, sums: Any, shift: Any) -> None:
    """Adds wx, w²x and w²x² of finite numbers that are not 0."""
    h, low, e = product(w, x)
    f, fe = unit_parts(w)
    add_float(sums[0], h, e + shift)
    add_float(sums[0], low, e + shift)
    add_product(sums[1], h, low, e + shift, f, 0.0, fe)
    add_product(sums[2], h, low, e + shift, h, low, e)


@loop
def add_weighted_one(v: float, w: float, sums: Any, lost: Any) -> Any:
    """A row of `add_weighted_moments`; 1 where it is infinite."""
    if abs(v) == INF:
        add_weight(lost, w, np.int64(0))
        return np.int64(1)
    if v != 0.0:
        add_weighted(v, w, sums, np.int64(0))
    return np.int64(0)


@loop
def add_weighted_moments(v: Any, w: Any, n: int, sums: Any, lost: Any) -> Any:
    """Adds Σwv, Σw²v and Σw²v² of finite v; the weights of infinite ones go to `lost` (Σw, Σw²). Returns their number."""
    infinite = np.int64(0)
    for i in range(n):
        infinite += add_weighted_one(v[i], w[i], sums, lost)
    return infinite


@scalar
def bucket_of(b: int) -> Any:
    """The histogram bucket of the value with these bits."""
    size = ((b & np.int64(MAGNITUDE)) >> np.int64(BUCKET_SHIFT)) - np.int64(FIRST_BUCKET - 1)
    size = min(max(size, np.int64(0)), np.int64(MIDDLE))
    return np.int64(MIDDLE) + (-size if b < 0 else size)


@loop
def find_buckets(v: Any, n: int, buckets: Any) -> None:
    """The histogram bucket of every value: 128 an octave, from the bits."""
    for i in range(n):
        buckets[i] = bucket_of(to_bits(v[i]))


@loop
def count_buckets(buckets: Any, m: int, counts: Any) -> None:
    """One more for the bucket of every row. Unsigned indices spare Numba's look for negative ones, a third of the time."""
    for j in range(m):
        counts[buckets[j]] += 1
