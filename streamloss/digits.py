"""The exact numbers that a state is made of: named places of integer arrays, and the digits that sums stand in.

Three kinds of number. *Limbs*: a sum of float64s, or of products of four of them, without any rounding: a number in base 2^32
with int64 digits (Neal's small superaccumulator, arXiv 1505.05571), lowest bit 2^-BIAS. *Fixed*: four digits of 40 bits,
whole·2^20 + high·2^-20 + low·2^-60 + least·2^-100, for the many small sums of bins and classes; a row's addend is rounded once,
to 2^-60 or, weighted, 2^-100. They take weights from 2^-60 to 2^53; rows beyond are counted, and what rests on Fixed sums is
then not reported. *Counts*. Limbs and Fixed are canonical once they are carried: equal sums then have equal digits.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]

LIMB_BITS = 32
BIAS = 4320  # the lowest bit a limb can hold is 2^-4320: a product of four of the smallest float64s needs 2^-4296
LIMBS = 268  # up to 2^4256, and half of a last limb for the count
FIXED_BITS = 40
FIXED_DIGITS = 4
FIXED_UNIT = 100  # the last digit counts 2^-100, the first 2^20

# Histogram buckets of either sign: 128 in every octave from 2^-128 to 2^128, so a midpoint is within 0.4 %. The middle one
# holds 0 and what is smaller, the outermost two infinity and what is larger.
OCTAVE = 128
LOWEST_EXPONENT = -128
MIDDLE = 256 * OCTAVE + 1
BUCKETS = 2 * MIDDLE + 1

LEDGER = 17  # rows by code (see errors.py), then by flag, then those with a weight beyond the Fixed digits
LEDGER_NORMALIZED, LEDGER_CLIPPED, LEDGER_BEYOND = 14, 15, 16
LOWEST, HIGHEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max

# Columns of the reliability and class records: counts, then Fixed sums.
RELIABILITY_WEIGHT, RELIABILITY_SCORE, RELIABILITY_OUTCOME, RELIABILITY_WIDTH = 1, 5, 9, 13
CLASS_INFINITE, CLASS_WEIGHT, CLASS_SUMS = 1, 2, 6

# Columns of the counts of a convention (see `conventions`): rows of weight 0 and those of the ignored label, which some tools
# count; infinite ones; those without a number; and those that were clipped, by the three types that numbers have.
IDLE, INDEXED, INFINITE, UNDEFINED, CUT = range(5)
CONVENTION_COUNTS = CUT + 3


def carry(array: Array, digit: int, to: int, bits: int) -> None:
    """Carries what is beyond `bits` bits, or negative, from one digit of the last axis to the next."""
    array[..., to] += array[..., digit] >> bits
    array[..., digit] &= (1 << bits) - 1


def carry_limbs(array: Array) -> None:
    """Makes whole limbs, the last axis, canonical in place."""
    filled = np.flatnonzero(array.reshape(-1, LIMBS).any(axis=0))
    for i in range(filled[0] if len(filled) else LIMBS, LIMBS - 1):
        if i > filled[-1] and not array[..., i].any():  # nothing is carried any more, and nothing stands above
            break
        carry(array, i, i + 1, LIMB_BITS)


def carry_fixed(array: Array, start: int = 0) -> None:
    """Makes Fixed digits, the last axis from `start` on, canonical in place."""
    for at in range(start, array.shape[-1], FIXED_DIGITS):
        for i in range(at + FIXED_DIGITS - 1, at, -1):
            carry(array, i, i - 1, FIXED_BITS)


def limbs_int(limbs: Array) -> int:
    """The exact number that canonical limbs hold, in units of the lowest bit."""
    total = 0
    for digit in reversed(limbs.tolist()):
        total = (total << LIMB_BITS) + digit
    return total


def limbs_ints(limbs: Array) -> list[int]:
    """The same of many numbers, (…, digits), in their order."""
    count = limbs.shape[-1] - 1
    below = np.ascontiguousarray(limbs[..., :-1], dtype="<u4").tobytes()
    size = count * LIMB_BITS // 8
    return [
        (top << count * LIMB_BITS) + int.from_bytes(below[i * size : (i + 1) * size], "little")
        for i, top in enumerate(limbs[..., -1].reshape(-1).tolist())
    ]


def limbs_value(limbs: Array) -> Fraction:
    """The exact number that canonical limbs hold."""
    return Fraction(limbs_int(limbs), 1 << BIAS)


def keyed(keys: Array) -> NDArray[np.float64]:
    """The float64s whose order-preserving integers are `keys`, as extremes are kept (see `kernels.moments.value_range`)."""
    return np.where(keys < 0, keys ^ np.int64(HIGHEST), keys).view(np.float64)


def fixed_units(digits: Array) -> list[int]:
    """Exact integers, in units of 2^-FIXED_UNIT, of Fixed numbers (n, FIXED_DIGITS)."""
    units = []
    for whole, high, low, least in digits.tolist():
        units.append((((((whole << FIXED_BITS) + high) << FIXED_BITS) + low) << FIXED_BITS) + least)
    return units


def fixed_value(digits: Array) -> Fraction:
    """The exact number of one Fixed sum."""
    return Fraction(fixed_units(digits[None])[0], 1 << FIXED_UNIT)


def fits_window(total: int, offset: int, width: int) -> bool:
    """Whether a number stands in a window; the number alone decides, not the way in which it came about."""
    above = total >> LIMB_BITS * offset
    return above << LIMB_BITS * offset == total and above.bit_length() <= LIMB_BITS * (width - 1) + 62


def put_limbs(total: int, limbs: Array) -> None:
    """Writes a number into limbs of which the last one is signed."""
    for i in range(len(limbs) - 1):
        limbs[i] = total & ((1 << LIMB_BITS) - 1)
        total >>= LIMB_BITS
    limbs[-1] = total
