"""Exact addition into limbs (see `digits`): integers, float64s, and products of up to four of them, digit by digit."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamloss.digits import BIAS
from streamloss.ieee.bits import fma, from_bits, mul, to_bits
from streamloss.jit import loop, scalar
from streamloss.kernels.atoms import add_at

MASK32 = 0xFFFFFFFF
MANTISSA = 0x000FFFFFFFFFFFFF
HIDDEN = 0x0010000000000000


@loop
def add_int(limbs: Any, value: Any, exponent: Any) -> None:
    """limbs += value·2^exponent for an int64 below 2^62 in size."""
    at = exponent + BIAS
    i = at >> 5
    shift = np.int64(at & 31)
    low = (value & np.int64(MASK32)) << shift
    high = (value >> np.int64(32)) << shift
    add_at(limbs, i, low & np.int64(MASK32))
    add_at(limbs, i + 1, (low >> np.int64(32)) + (high & np.int64(MASK32)))
    add_at(limbs, i + 2, high >> np.int64(32))


@scalar
def integer_parts(x: float) -> Any:
    """(m, e): x = m·2^e with |m| < 2^53, for finite x."""
    b = to_bits(x)
    e = (b >> np.int64(52)) & np.int64(0x7FF)
    m = b & np.int64(MANTISSA)
    if e == 0:
        e = np.int64(1)
    else:
        m |= np.int64(HIDDEN)
    return (-m if b < 0 else m), e - np.int64(1075)


@loop
def add_float(limbs: Any, x: float, exponent: Any) -> None:
    """limbs += x·2^exponent."""
    m, e = integer_parts(x)
    if m != 0:
        add_int(limbs, m, e + exponent)


@scalar
def unit_parts(x: float) -> Any:
    """(f, e): x = f·2^e with 1 ≤ |f| < 2, or (0, 0)."""
    tiny = abs(x) < 2.2250738585072014e-308
    b = to_bits(mul(x, 18014398509481984.0) if tiny else x)
    e = ((b >> np.int64(52)) & np.int64(0x7FF)) - np.int64(1023)
    f = from_bits((b & ~(np.int64(0x7FF) << np.int64(52))) | (np.int64(1023) << np.int64(52)))
    if x == 0.0:
        return 0.0, np.int64(0)
    return f, e - np.int64(54 if tiny else 0)


@scalar
def product(a: float, b: float) -> Any:
    """(h, l, e): a·b = (h + l)·2^e exactly, over the whole range of finite float64s."""
    fa, ea = unit_parts(a)
    fb, eb = unit_parts(b)
    h = mul(fa, fb)
    return h, fma(fa, fb, -h), ea + eb


@loop
def add_product(limbs: Any, h: float, low: float, e: int, g: float, slow: float, f: int) -> None:
    """limbs += (h + low)·2^e · (g + slow)·2^f."""
    for a in (h, low):
        for b in (g, slow):
            if a != 0.0 and b != 0.0:
                p = mul(a, b)
                add_float(limbs, p, e + f)
                add_float(limbs, fma(a, b, -p), e + f)


@loop
def add_weight(sums: Any, w: float, shift: Any) -> None:
    """Adds w and w²; shift is added to their exponents (see `moments`)."""
    f, e = unit_parts(w)
    add_float(sums[0], f, e + shift)
    add_product(sums[1], f, 0.0, e + shift, f, 0.0, e)
