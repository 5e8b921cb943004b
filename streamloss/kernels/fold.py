"""The fold: row values become integers. Everything here adds exactly, so neither order nor threads can show.

`moments` adds Σx and Σx² (weighted: Σwx, Σw²x, Σw²x²) as limbs. The fast way splits x and the two halves of x² = h + l
(l = fma(x, x, −h)) at fixed powers of two by adding and subtracting 1.5·2^(52+u): what is rounded off stays a float64, what
is kept is an integer multiple of 2^u that adds as int64. It is exact for 2^-39 ≤ |x| < 2^11 and vectorises; any other value
goes digit by digit. See `state` for the format.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from streamloss.errors import USED
from streamloss.ieee.bits import fma, to_bits
from streamloss.ieee.elementary import INF, ONE_BITS
from streamloss.jit import kernel, loop, scalar
from streamloss.kernels.limbs import add_float, add_int, add_product, add_weight, integer_parts, product, unit_parts
from streamloss.kernels.panel import CLIPPED, NORMALIZED
from streamloss.quantities import BYTES, CROSS_ENTROPY, OUTCOME, SCORE
from streamloss.state import (
    CLASS_INFINITE,
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_DIGITS,
    LEDGER_BEYOND,
    LEDGER_CLIPPED,
    LEDGER_NORMALIZED,
    LOWEST_EXPONENT,
    MIDDLE,
    OCTAVE,
    RELIABILITY_OUTCOME,
    RELIABILITY_SCORE,
    RELIABILITY_WEIGHT,
)

BLOCK = 512  # rows folded at a time: 512 addends below 2^51 fit an int64
ROWS_BETWEEN_CARRIES = 1 << 22  # rows that may be added before the digits must be carried

MAGNITUDE = 0x7FFFFFFFFFFFFFFF
FAST_LOW, FAST_HIGH = 2.0**-39, 2.0**11
FIRST_BUCKET = (1023 + LOWEST_EXPONENT) * OCTAVE
BUCKET_SHIFT = 52 - 7

# 1.5·2^(52+u) and its bits, for the units u of x and of x².
U0, U1 = 1.5 * 2.0 ** (52 - 40), 1.5 * 2.0 ** (52 - 91)
V0, V1, V2, V3 = 1.5 * 2.0 ** (52 - 29), 1.5 * 2.0 ** (52 - 80), 1.5 * 2.0 ** (52 - 131), 1.5 * 2.0 ** (52 - 182)
F0, F1, F2 = 1.5 * 2.0 ** (52 - 20), 1.5 * 2.0 ** (52 - 60), 1.5 * 2.0 ** (52 - 100)
FIXED_FROM, FIXED_TO = 2.0**-60, 2.0**53  # weights that the Fixed digits take


def _bits(x: float) -> int:
    return int(np.float64(x).view(np.int64))


U0_BITS, U1_BITS = _bits(U0), _bits(U1)
V0_BITS, V1_BITS, V2_BITS, V3_BITS = _bits(V0), _bits(V1), _bits(V2), _bits(V3)
F0_BITS, F1_BITS, F2_BITS = _bits(F0), _bits(F1), _bits(F2)


@loop
def add_moments(v: Any, n: int, sums: Any) -> Any:
    """Adds Σv and Σv² of finite v; returns the number of infinite ones, which are left out."""
    q0: Any
    q0 = q1 = a0 = a1 = a2 = a3 = np.int64(0)
    odd = np.int64(0)
    for i in range(n):
        x = v[i]
        size = abs(x)
        fits = (size >= FAST_LOW) & (size < FAST_HIGH)
        odd += np.int64((not fits) & (size != 0.0))
        x = x if fits else 0.0
        t = x + U0
        q0 += to_bits(t) - U0_BITS
        q1 += to_bits((x - (t - U0)) + U1) - U1_BITS
        h = x * x
        low = fma(x, x, -h)
        t = h + V0
        a0 += to_bits(t) - V0_BITS
        r = h - (t - V0)
        t = r + V1
        a1 += to_bits(t) - V1_BITS
        a2 += to_bits((r - (t - V1)) + V2) - V2_BITS
        t = low + V1
        a1 += to_bits(t) - V1_BITS
        r = low - (t - V1)
        t = r + V2
        a2 += to_bits(t) - V2_BITS
        a3 += to_bits((r - (t - V2)) + V3) - V3_BITS
    add_int(sums[0], q0, -40)
    add_int(sums[0], q1, -91)
    add_int(sums[1], a0, -29)
    add_int(sums[1], a1, -80)
    add_int(sums[1], a2, -131)
    add_int(sums[1], a3, -182)
    infinite = 0
    if odd > 0:
        for i in range(n):
            x = v[i]
            size = abs(x)
            if size == INF:
                infinite += 1
            elif size != 0.0 and not FAST_LOW <= size < FAST_HIGH:
                m, e = integer_parts(x)
                add_int(sums[0], m, e)
                m = abs(m)
                a, b = m >> np.int64(27), m & np.int64(0x7FFFFFF)
                add_int(sums[1], a * a, 2 * e + 54)
                add_int(sums[1], 2 * a * b, 2 * e + 27)
                add_int(sums[1], b * b, 2 * e)
    return infinite


@loop
def add_indicators(v: Any, n: int, sums: Any, extremes: Any) -> None:
    """The same as `add_moments` and `add_extremes` for values that are 0 or 1."""
    ones = np.int64(0)
    for i in range(n):
        ones += np.int64(v[i])
    add_int(sums[0], ones, 0)
    add_int(sums[1], ones, 0)
    if ones < n:
        extremes[0], extremes[1] = min(extremes[0], np.int64(0)), max(extremes[1], np.int64(0))
    if ones > 0:
        extremes[0], extremes[1] = min(extremes[0], np.int64(ONE_BITS)), max(extremes[1], np.int64(ONE_BITS))


@loop
def add_weighted_moments(v: Any, w: Any, n: int, sums: Any, lost: Any) -> Any:
    """Adds Σwv, Σw²v and Σw²v² of finite v; the weights of infinite ones go to `lost` (Σw, Σw²). Returns their number."""
    infinite = 0
    for i in range(n):
        if abs(v[i]) == INF:
            infinite += 1
            add_weight(lost, w[i])
        elif v[i] != 0.0:
            h, low, e = product(w[i], v[i])
            f, fe = unit_parts(w[i])
            add_float(sums[0], h, e)
            add_float(sums[0], low, e)
            add_product(sums[1], h, low, e, f, 0.0, fe)
            add_product(sums[2], h, low, e, h, low, e)
    return infinite


@loop
def add_extremes(v: Any, n: int, extremes: Any) -> None:
    """Least and greatest as integers whose order is that of the float64s."""
    low, high = extremes[0], extremes[1]
    for i in range(n):
        b = to_bits(v[i])
        key = b ^ ((b >> np.int64(63)) & np.int64(MAGNITUDE))
        low = min(low, key)
        high = max(high, key)
    extremes[0], extremes[1] = low, high


@loop
def find_buckets(v: Any, n: int, buckets: Any) -> None:
    """The histogram bucket of every value: 128 an octave, from the bits."""
    for i in range(n):
        b = to_bits(v[i])
        size = ((b & np.int64(MAGNITUDE)) >> np.int64(BUCKET_SHIFT)) - np.int64(FIRST_BUCKET - 1)
        size = min(max(size, np.int64(0)), np.int64(MIDDLE))
        buckets[i] = np.int64(MIDDLE) + (-size if b < 0 else size)


@scalar
def fixed_parts(x: float) -> Any:
    """(high, low): 0 ≤ x < 2^20 as high·2^-20 + low·2^-60, rounded once."""
    t = x + F0
    return to_bits(t) - F0_BITS, to_bits((x - (t - F0)) + F1) - F1_BITS


@loop
def add_fixed(digits: Any, at: int, x: float) -> None:
    """digits[at : at + 4] += x for 0 ≤ x < 2^62, rounded once to 2^-100; more counts as 2^62."""
    if x >= 1048576.0:
        x = min(x, 2.0**62)
        whole = np.int64(x / 1048576.0)
        digits[at] += whole
        x -= np.float64(whole) * 1048576.0
    t = x + F0
    digits[at + 1] += to_bits(t) - F0_BITS
    x -= t - F0
    t = x + F1
    digits[at + 2] += to_bits(t) - F1_BITS
    digits[at + 3] += to_bits((x - (t - F1)) + F2) - F2_BITS


@loop
def fine_bin(score: float, bins: int) -> Any:
    """The bin (i/bins, (i + 1)/bins] of a score, edges exact; 0 goes to the first, all from 1 to the last."""
    i = np.int64(score * bins)
    if fma(score, np.float64(bins), -np.float64(i)) <= 0.0:
        i -= 1
    return min(max(i, 0), bins - 1)


@loop
def split_fixed(v: Any, m: int, high: Any, low: Any) -> Any:
    """The Fixed parts of every value; returns how many are too large for them (2^20 and above)."""
    large = np.int64(0)
    for j in range(m):
        x = v[j]
        fits = x < 1048576.0
        large += np.int64(not fits)
        h, r = fixed_parts(x if fits else 0.0)
        high[j] = h
        low[j] = r
    return large


@loop
def add_reliability(score: Any, outcome: Any, w: Any, weighted: bool, m: int, bins: Any, parts: Any) -> None:
    """Counts, and sums of confidence and of what happened, by confidence bin. parts (5, BLOCK) is room to work in."""
    at = parts[4]
    for j in range(m):
        at[j] = fine_bin(score[j], bins.shape[0])
    if weighted:
        for j in range(m):
            record = bins[at[j]]
            record[0] += 1
            add_fixed(record, RELIABILITY_WEIGHT, w[j])
            add_fixed(record, RELIABILITY_SCORE, w[j] * score[j])
            add_fixed(record, RELIABILITY_OUTCOME, w[j] * outcome[j])
        return
    split_fixed(score, m, parts[0], parts[1])
    split_fixed(outcome, m, parts[2], parts[3])
    for j in range(m):
        record = bins[at[j]]
        record[0] += 1
        record[RELIABILITY_SCORE + 1] += parts[0, j]
        record[RELIABILITY_SCORE + 2] += parts[1, j]
        record[RELIABILITY_OUTCOME + 1] += parts[2, j]
        record[RELIABILITY_OUTCOME + 2] += parts[3, j]


@loop
def count_labels(label: Any, index: Any, m: int, w: Any, weighted: bool, classes: Any, own: Any) -> None:
    """Label frequencies; own[j] becomes row j's class."""
    for j in range(m):
        own[j] = label[index[j]]
    if classes.shape[0] == 2:
        ones = np.int64(0)
        for j in range(m):
            ones += own[j]
        classes[0, 0] += m - ones
        classes[1, 0] += ones
    else:
        for j in range(m):
            classes[own[j], 0] += 1
    if weighted:
        for j in range(m):
            add_fixed(classes[own[j]], CLASS_WEIGHT, w[j])


@loop
def share_labels(outcome: Any, m: int, w: Any, weighted: bool, classes: Any) -> None:
    """Soft binary labels: y of each row's weight is the positive class's, the rest the other's."""
    for j in range(m):
        weight = w[j] if weighted else 1.0
        add_fixed(classes[1], CLASS_WEIGHT, weight * outcome[j])
        add_fixed(classes[0], CLASS_WEIGHT, weight * (1.0 - outcome[j]))


@loop
def add_by_side(own: Any, m: int, classes: Any, at: int, parts: Any) -> None:
    """The sums of two classes without a store for every row."""
    for part in range(2):
        whole = ones = np.int64(0)
        for j in range(m):
            whole += parts[part, j]
            ones += parts[part, j] * own[j]
        classes[0, at + 1 + part] += whole - ones
        classes[1, at + 1 + part] += ones


@loop
def add_by_class(
    v: Any, own: Any, w: Any, weighted: bool, m: int, counts_infinite: bool, classes: Any, at: int, parts: Any
) -> None:
    """Sums of one quantity by class; infinite values are counted (once a row: `counts_infinite`) and left out."""
    large = split_fixed(v, m, parts[0], parts[1])
    if weighted or large > 0:
        for j in range(m):
            record = classes[own[j]]
            if v[j] == INF:
                record[CLASS_INFINITE] += np.int64(counts_infinite)
            elif weighted:
                add_fixed(record, at, w[j] * v[j])
            elif v[j] < 1048576.0:  # as below: how a value is rounded must not depend on its neighbours
                record[at + 1] += parts[0, j]
                record[at + 2] += parts[1, j]
            else:
                add_fixed(record, at, v[j])
        return
    if classes.shape[0] == 2:
        add_by_side(own, m, classes, at, parts)
        return
    for j in range(m):
        classes[own[j], at + 1] += parts[0, j]
        classes[own[j], at + 2] += parts[1, j]


@loop
def choose(code: Any, flags: Any, first: int, last: int, index: Any, ledger: Any) -> Any:
    """Counts the rows by code and flag, and lists those that are used; returns their number."""
    n = last - first
    some = np.int64(0)
    for j in range(n):
        some |= np.int64(code[first + j]) | np.int64(flags[first + j])
        index[j] = first + j
    if some == 0:
        ledger[USED] += n
        return n
    m = 0
    for i in range(first, last):
        ledger[code[i]] += 1
        if code[i] == USED:
            index[m] = i
            m += 1
            ledger[LEDGER_NORMALIZED] += np.int64((flags[i] & NORMALIZED) != 0)
            ledger[LEDGER_CLIPPED] += np.int64((flags[i] & CLIPPED) != 0)
    return m


@loop
def count_buckets(buckets: Any, m: int, counts: Any) -> None:
    """One more for the bucket of every row."""
    for j in range(m):
        counts[buckets[j], 0] += 1


@loop
def values(row: Any, index: Any, m: int, together: bool, room: Any) -> Any:
    """row[index[:m]], in place where the rows follow one another."""
    if together:
        return row[index[0] : index[0] + m]
    for j in range(m):
        room[j] = row[index[j]]
    return room[:m]


@kernel
def fold(
    out: Any,
    code: Any,
    flags: Any,
    weight: Any,
    label: Any,
    slots: Any,
    indicator: Any,
    spread: Any,
    per_class: Any,
    ledger: Any,
    total_weight: Any,
    moments: Any,
    infinite: Any,
    infinite_weight: Any,
    extremes: Any,
    cross: Any,
    histogram: Any,
    reliability: Any,
    classes: Any,
    threads: int,
) -> None:
    """Adds the row values out (SLOTS, n) of USED rows to the accumulators, each with a leading axis of threads.

    slots (M,) are the quantities to fold, indicator (M,) whether they are only 0 or 1, spread (M,) their row in the histogram
    or −1, per_class the slots with a mean by class. weight and label are (n,) or (0,).
    """
    n = code.shape[0]
    weighted = weight.shape[0] > 0
    for t in prange(threads):
        start, stop = n * t // threads, n * (t + 1) // threads
        index = np.empty(BLOCK, dtype=np.int64)
        room = np.empty(BLOCK)
        more_room = np.empty(BLOCK)
        w = np.empty(BLOCK)
        buckets = np.empty(BLOCK, dtype=np.int64)
        own = np.empty(BLOCK, dtype=np.int64)
        parts = np.empty((5, BLOCK), dtype=np.int64)
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            m = choose(code, flags, first, last, index, ledger[t])
            if weighted:
                for j in range(m):
                    w[j] = weight[index[j]]
                    add_weight(total_weight[t], w[j])
                    ledger[t, LEDGER_BEYOND] += np.int64(not FIXED_FROM <= w[j] <= FIXED_TO)
            together = m > 0 and index[m - 1] - index[0] == m - 1
            for q in range(slots.shape[0]):
                v = values(out[slots[q]], index, m, together, room)
                if indicator[q] and not weighted:
                    add_indicators(v, m, moments[t, q], extremes[t, q])
                    continue
                if weighted:
                    infinite[t, q] += add_weighted_moments(v, w, m, moments[t, q], infinite_weight[t, q])
                else:
                    infinite[t, q] += add_moments(v, m, moments[t, q])
                add_extremes(v, m, extremes[t, q])
                h = spread[q]
                if h >= 0:
                    find_buckets(v, m, buckets)
                    if weighted:
                        for j in range(m):
                            add_fixed(histogram[t, h, buckets[j]], 0, w[j])
                    else:
                        count_buckets(buckets, m, histogram[t, h])
            if cross.shape[1] > 0:
                v = values(out[CROSS_ENTROPY], index, m, together, room)
                u = values(out[BYTES], index, m, together, more_room)
                for j in range(m):
                    if abs(v[j]) != INF:
                        one = w[j] if weighted else 1.0
                        h1, l1, e1 = product(one, v[j])
                        h2, l2, e2 = product(one, u[j])
                        add_product(cross[t, 0], h1, l1, e1, h2, l2, e2)
            if reliability.shape[1] > 0:
                v = values(out[SCORE], index, m, together, room)
                u = values(out[OUTCOME], index, m, together, more_room)
                add_reliability(v, u, w, weighted, m, reliability[t], parts)
            if classes.shape[1] > 0 and label.shape[0] > 0:
                count_labels(label, index, m, w, weighted, classes[t], own)
                for q in range(per_class.shape[0]):
                    v = values(out[per_class[q]], index, m, together, room)
                    add_by_class(v, own, w, weighted, m, q == 0, classes[t], CLASS_SUMS + FIXED_DIGITS * q, parts)
            elif classes.shape[1] > 0:
                v = values(out[OUTCOME], index, m, together, room)
                share_labels(v, m, w, weighted, classes[t])
