"""The primitives of `bits` in plain Python and NumPy, slow and exact: what stands in their place under NUMBA_DISABLE_JIT."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

import numpy as np

LANES = 32
SQUARE = 16  # rows and classes that `turn` takes at a time


def _fma(a: float, b: float, c: float) -> Any:
    if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
        return np.float64(a) * np.float64(b) + np.float64(c)
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:
        return np.float64(a) * np.float64(b) + np.float64(c)
    try:
        return np.float64(exact.numerator / exact.denominator)
    except OverflowError:
        return np.float64(math.inf if exact > 0 else -math.inf)


_fmas = np.frompyfunc(_fma, 3, 1)


def fma(a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once."""
    several = any(isinstance(x, np.ndarray) for x in (a, b, c))
    return _fmas(a, b, c).astype(np.float64) if several else _fma(a, b, c)


def mul(a: float, b: float) -> Any:
    """a·b of two numbers, rounded before anything is added to it."""
    return np.float64(a) * np.float64(b)


def to_bits(x: Any) -> Any:
    """The bits of a float64 as int64."""
    return x.view(np.int64) if isinstance(x, np.ndarray) else np.int64(struct.unpack("<q", struct.pack("<d", x))[0])


def from_bits(i: Any) -> Any:
    """The float64 with these bits; sums of bit patterns wrap as int64 does."""
    if isinstance(i, np.ndarray):
        return i.view(np.float64)
    return np.float64(struct.unpack("<d", struct.pack("<Q", int(i) & 0xFFFFFFFFFFFFFFFF))[0])


def select(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, else b, in every lane; both have been computed."""
    several = any(isinstance(x, np.ndarray) for x in (condition, a, b))
    return np.where(condition, a, b) if several else a if condition else b


def widen(x: Any) -> Any:
    """A stored prediction value, or what `load_narrow` gave, as float64."""
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, np.uint16):
        return np.float64(x.view(np.float16))
    if isinstance(x, np.int16):
        return np.float64(np.uint32((int(x) & 0xFFFF) << 16).view(np.float32))
    return np.float64(x)


def lowest(x: Any) -> Any:
    """−inf as the array x stores it."""
    return {np.dtype(np.uint16): np.uint16(0xFC00), np.dtype(np.int16): np.int16(-128)}.get(x.dtype, -math.inf)


def lanes(x: float) -> Any:
    """32 times the same number."""
    return np.full(LANES, x, dtype=np.float64)


def turn(x: Any, row: Any, first: Any, panel: Any, lane: Any) -> None:
    """panel[first + j, lane + i] = x[row + i, first + j] for i and j below 16, of two C-contiguous arrays of one dtype.
    Where rows are shorter, what follows in memory is taken for the rest: that there is so much is the caller's care.
    """
    flat, k = x.reshape(-1), x.shape[1]
    for i in range(SQUARE):
        at = (row + i) * k + first
        panel[first : first + SQUARE, lane + i] = flat[at : at + SQUARE]


def by_column(x: Any) -> Any:
    """Whether the array (rows, columns) holds column after column, not row after row."""
    return bool(x.flags.f_contiguous and not x.flags.c_contiguous)


def load(x: Any, row: Any, first: Any) -> Any:
    """x[row, first : first + 32], widened; x is (rows, columns), contiguous, and its end the caller's care."""
    return np.array([widen(v) for v in x[row, first : first + LANES]])


def load_narrow(x: Any, row: Any, first: Any) -> Any:
    """`load` as float32 where the stored values are no wider: for comparisons, at half the price."""
    return load(x, row, first)


def narrow(x: Any, v: Any) -> Any:
    """32 times the number v, or 32 values that x can hold, as wide as `load_narrow` gives the values of x."""
    return v if isinstance(v, np.ndarray) else lanes(v)


def store(x: Any, row: Any, first: Any, v: Any) -> None:
    """x[row, first : first + 32] = v; x is (rows, columns) of float64, C-contiguous, and its end the caller's care."""
    x[row, first : first + LANES] = v


def numbered(v: Any) -> Any:
    """0, 1, … 31, as wide as v."""
    return np.arange(float(LANES))


def lane_from() -> Any:
    """The first of the lanes that are this thread's: on a device it has one."""
    return np.int64(0)


def lane_to(count: Any) -> Any:
    """Behind the last of the lanes below `count` that are this thread's."""
    return np.int64(count)


def lane_of(v: Any, lane: Any) -> Any:
    """The number in a lane, one of this thread's."""
    return v[lane] if isinstance(v, np.ndarray) else v


def meet() -> None:
    """Has every thread of a warp see what the others have written."""


def count_of(mask: Any) -> Any:
    """In how many lanes the mask holds."""
    return np.int64(np.count_nonzero(mask))


def sum_of(v: Any) -> Any:
    """Σ of the lanes by a fixed tree: lane + 16, + 8, + 4, + 2, + 1."""
    while len(v) > 1:
        v = v[: len(v) // 2] + v[len(v) // 2 :]
    return v[0]


def max_of(v: Any) -> Any:
    """The largest lane, by the same tree; a NaN in the first half of a step wins, one in the second loses."""
    while len(v) > 1:
        a, b = v[: len(v) // 2], v[len(v) // 2 :]
        v = np.where(b > a, b, a)
    return v[0]
