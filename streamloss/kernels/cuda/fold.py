"""The fold on a CUDA device: the values of rows are added to integer sums in its memory.

Integers add up to the same whoever adds them first, so the state that comes back has the CPU's digits once both are carried.
What nearly every row adds, a thread keeps in registers, or where there are few places in a column of a table of its warp,
until it has no more rows; what is rare, or goes to many places, is added by atomic additions, by the CPU's own text (see
`kernels.atoms`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from streamloss.digits import (
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_BITS,
    FIXED_DIGITS,
    HIGHEST,
    LEDGER_NORMALIZED,
    LIMB_BITS,
    LOWEST,
    RELIABILITY_OUTCOME,
    RELIABILITY_SCORE,
)
from streamloss.errors import USED
from streamloss.ieee.bits import LANES, lane_from, lane_of, lane_to, lanes, meet, to_bits
from streamloss.jit import part
from streamloss.kernels.atoms import add_at
from streamloss.kernels.bins import (
    FIXED_FROM,
    FIXED_TO,
    TALLY_SHIFT,
    add_fixed,
    add_judged,
    add_of_class,
    add_share,
    fine_bin,
    fixed_parts,
    tally_parts,
)
from streamloss.kernels.cuda.warps import BESIDE
from streamloss.kernels.fold import add_crossed
from streamloss.kernels.limbs import MASK32, add_weight
from streamloss.kernels.moments import (
    MAGNITUDE,
    NARROW_HIGH,
    NARROW_LOW,
    add_squared,
    add_weighted_one,
    bucket_of,
    narrow_parts,
    wide_parts,
)
from streamloss.kernels.panel import CLIPPED, NORMALIZED

# What a thread's registers add up to: parts of x (0) and of x² (1) and their units, of each first those of `narrow_parts`, then
# those of `wide_parts`.
UNITS = ((0, -48), (0, -73), (0, -40), (0, -91), (1, -45), (1, -96), (1, -147), (1, -29), (1, -80), (1, -131), (1, -182))
PARTS = len(UNITS)
NO_PARTS = (np.int64(0),) * PARTS
_FAST_LOW, _FAST_HIGH = (1023 - 39) << 52, (1023 + 11) << 52  # the bits of 2^-39 and 2^11, between which are `wide_parts`
FIXED_MASK, TALLY_MASK = (1 << FIXED_BITS) - 1, (1 << TALLY_SHIFT) - 1
_INFINITE = 0x7FF0000000000000


class Found(NamedTuple):
    """What the fold reads of rows whose values are found. Of these and of the sums a kernel gets what it needs and no more: to
    hand over an array takes the host some microseconds, and a launch should not take longer than its rows.
    """

    code: Any
    flags: Any
    label: Any
    weight: Any
    out: Any


class OfValues(NamedTuple):
    """The sums that `add_values` adds to, by their names in `kernels.fold.Sums`."""

    spread: Any
    by_class: Any
    moments: Any
    infinite: Any
    infinite_weight: Any
    extremes: Any
    histogram: Any
    classes: Any


class OfRows(NamedTuple):
    """Those that `add_rest` adds to."""

    hard: Any
    ledger: Any
    weight: Any
    cross: Any
    reliability: Any
    tally: Any
    classes: Any


@part
def is_gathered(b: Any) -> Any:
    """Whether `gathered` takes the value with these bits."""
    size = b & np.int64(MAGNITUDE)
    return np.int64(_FAST_LOW) <= size < np.int64(_FAST_HIGH)


@part
def gathered(v: Any, p: Any) -> Any:
    """The registers p with a value's parts added; they take 2^11 rows."""
    lane, size = lane_from(), to_bits(v) & np.int64(MAGNITUDE)
    if np.int64(NARROW_LOW) <= size < np.int64(NARROW_HIGH):
        q0, q1, s0, s1, s2 = narrow_parts(lanes(v))
        return (
            p[0] + lane_of(q0, lane), p[1] + lane_of(q1, lane), p[2], p[3], p[4] + lane_of(s0, lane), p[5] + lane_of(s1, lane),
            p[6] + lane_of(s2, lane), p[7], p[8], p[9], p[10],
        )  # fmt: skip
    q2, q3, s3, s4, s5, s6 = wide_parts(lanes(v))
    return (
        p[0], p[1], p[2] + lane_of(q2, lane), p[3] + lane_of(q3, lane), p[4], p[5], p[6], p[7] + lane_of(s3, lane),
        p[8] + lane_of(s4, lane), p[9] + lane_of(s5, lane), p[10] + lane_of(s6, lane),
    )  # fmt: skip


FEW, TWO_FEW = 16, 32  # classes up to which each lane of a warp has sums of its own in shared memory, and their places


@part
def clear(table: Any) -> None:
    """Has the table (places, 33) of a warp's own sums, a column a lane, hold nothing."""
    for lane in range(lane_from(), lane_to(np.int64(LANES))):
        for place in range(table.shape[0]):
            table[place, lane] = 0
    meet()


@part
def whole(table: Any, place: Any) -> Any:
    """What the lanes have at a place."""
    total = np.int64(0)
    for lane in range(LANES):
        total += table[place, lane]
    return total


@part
def flush_all(parts: Any, mine: Any, table: Any) -> None:
    """Adds the registers of all lanes to parts."""
    meet()
    for place, value in enumerate(mine):
        table[place, lane_from()] = value
    meet()
    for place in range(lane_from(), lane_to(np.int64(PARTS))):
        low = high = np.int64(0)  # apart: the sum of 32 lanes may not fit
        for lane in range(LANES):
            low += table[place, lane] & np.int64(MASK32)
            high += table[place, lane] >> np.int64(32)
        add_at(parts[place], 0, low)
        add_at(parts[place], 1, high)


@part
def widen_extremes(extremes: Any, q: Any, low: Any, high: Any) -> None:
    """Takes in a thread's least and greatest. Most have nothing new, and need not wait for one another."""
    if low < extremes[0, q, 0]:
        cuda.atomic.min(extremes, (0, q, 0), low)
    if high > extremes[0, q, 1]:
        cuda.atomic.max(extremes, (0, q, 1), high)


@part
def add_in_place(v: Any, w: Any, weighted: bool, label: Any, i: Any, q: Any, sums: OfValues, table: Any) -> None:
    """A value into the histogram and the means by class, where its quantity has them."""
    spread, by_class = sums.spread[q], sums.by_class[q]
    if spread >= 0:
        counts = sums.histogram[0, spread, bucket_of(to_bits(v))]
        if weighted:
            add_fixed(counts, np.int64(0), w)
        else:
            add_at(counts, 0, 1)
    if by_class >= 0:
        own = np.int64(label[i])
        if not weighted and sums.classes.shape[1] <= FEW and v < 1048576.0:
            high, low = fixed_parts(v)
            table[2 * own, lane_from()] += high
            table[2 * own + 1, lane_from()] += low
        else:
            digits = CLASS_SUMS + FIXED_DIGITS * by_class
            add_of_class(v, w, weighted, by_class == 0, sums.classes[0, own], digits)


@part
def flush_classes(q: Any, sums: OfValues, table: Any) -> None:
    """Adds what the lanes have of the means by class to where they belong."""
    by_class, classes = sums.by_class[q], sums.classes.shape[1]
    if by_class >= 0 and classes <= FEW:
        meet()
        for place in range(lane_from(), lane_to(np.int64(2 * classes))):
            digits = CLASS_SUMS + FIXED_DIGITS * by_class
            add_at(sums.classes[0, place // 2], digits + 1 + place % 2, whole(table, place))


def add_values(rows: Found, n: Any, at: Any, sums: OfValues, parts: Any) -> None:
    """Moments, extremes, histograms and means by class of the first n rows, without weights; a block's second index is the
    quantity.

    at (M,) is the place of every quantity among rows.out (S, …), parts (M, PARTS, 2) what registers are emptied into.
    """
    table = cuda.shared.array((TWO_FEW, BESIDE), np.int64)
    q = cuda.blockIdx.y
    values, moments = rows.out[at[q]], sums.moments[0, q]
    low, high, infinite, mine = np.int64(HIGHEST), np.int64(LOWEST), np.int64(0), NO_PARTS
    clear(table)
    for i in range(np.int64(cuda.grid(1)), n, cuda.gridsize(1)):
        if rows.code[i] == USED:
            v = values[i]
            b = to_bits(v)
            size = b & np.int64(MAGNITUDE)
            key = b ^ ((b >> np.int64(63)) & np.int64(MAGNITUDE))
            low, high = min(low, key), max(high, key)
            if is_gathered(b):
                mine = gathered(v, mine)
            elif size == np.int64(_INFINITE):
                infinite += 1
            elif size > 0:
                add_squared(v, moments, np.int64(0))
            add_in_place(v, 1.0, False, rows.label, i, q, sums, table)
    flush_classes(q, sums, table)
    flush_all(parts[q], mine, table)
    widen_extremes(sums.extremes, q, low, high)
    if infinite > 0:
        add_at(sums.infinite[0], q, infinite)


def add_weighted_values(rows: Found, n: Any, at: Any, sums: OfValues) -> None:
    """The same of rows with weights."""
    q = cuda.blockIdx.y
    values, moments = rows.out[at[q]], sums.moments[0, q]
    low, high, infinite = np.int64(HIGHEST), np.int64(LOWEST), np.int64(0)
    none = sums.infinite  # whoever has weights has no table
    for i in range(np.int64(cuda.grid(1)), n, cuda.gridsize(1)):
        if rows.code[i] == USED:
            v, w = values[i], rows.weight[i]
            b = to_bits(v)
            key = b ^ ((b >> np.int64(63)) & np.int64(MAGNITUDE))
            low, high = min(low, key), max(high, key)
            infinite += add_weighted_one(v, w, moments, sums.infinite_weight[0, q])
            add_in_place(v, w, True, rows.label, i, q, sums, none)
    widen_extremes(sums.extremes, q, low, high)
    if infinite > 0:
        add_at(sums.infinite[0], q, infinite)


def carry_limbs(limbs: Any) -> None:
    """Makes every row of limbs (n, digits) canonical."""
    for i in range(np.int64(cuda.grid(1)), limbs.shape[0], cuda.gridsize(1)):
        for digit in range(limbs.shape[1] - 1):
            limbs[i, digit + 1] += limbs[i, digit] >> np.int64(LIMB_BITS)
            limbs[i, digit] &= np.int64(MASK32)


def carry_fixed(digits: Any, begin: Any) -> None:
    """The same of Fixed digits, in records (n, …) from column `begin` on."""
    for i in range(np.int64(cuda.grid(1)), digits.shape[0], cuda.gridsize(1)):
        for place in range(digits.shape[1] - 1, begin, -1):
            if (place - begin) % FIXED_DIGITS > 0:
                digits[i, place - 1] += digits[i, place] >> np.int64(FIXED_BITS)
                digits[i, place] &= np.int64(FIXED_MASK)


def carry_tally(tally: Any, reliability: Any) -> None:
    """Moves what the tally has gathered into the records of the bins (bins, …), as `bins.drain_tally` does."""
    bins = np.int64(reliability.shape[0])
    unit = np.int64(1048576) // bins
    for i in range(np.int64(cuda.grid(1)), bins, cuda.gridsize(1)):
        for outcome in range(2):
            packed, low = tally[2 * i + outcome, 0], tally[2 * i + outcome, 1]
            rows = packed & np.int64(TALLY_MASK)
            reliability[i, 0] += rows
            reliability[i, RELIABILITY_SCORE + 1] += (packed >> np.int64(TALLY_SHIFT)) + rows * unit * i
            reliability[i, RELIABILITY_SCORE + 2] += low
            reliability[i, RELIABILITY_OUTCOME + 1] += outcome * (rows << np.int64(20))
            tally[2 * i + outcome, 0] = 0
            tally[2 * i + outcome, 1] = 0


def add_rest(rows: Found, n: Any, score: Any, outcome: Any, loss: Any, bytes_: Any, sums: OfRows) -> None:
    """What the first n rows add besides: the ledger, weights, labels, confidence bins, losses times bytes.

    score, outcome, loss and bytes_ are places among rows.out (S, …), −1 for what is not there.
    """
    ledger, weighted = sums.ledger[0], rows.weight.shape[0] > 0
    used: Any
    place: Any
    used = normalized = clipped = beyond = np.int64(0)
    table = cuda.shared.array((FEW, BESIDE), np.int64)
    clear(table)
    bins = np.float64(sums.tally.shape[1] // 2)
    unit = np.float64(np.int64(1048576) // max(np.int64(bins), np.int64(1)))
    few = sums.hard and 0 < sums.classes.shape[1] <= FEW
    for i in range(np.int64(cuda.grid(1)), n, cuda.gridsize(1)):
        if rows.code[i] != USED:
            add_at(ledger, np.int64(rows.code[i]), 1)
            continue
        used += 1
        normalized += np.int64((rows.flags[i] & NORMALIZED) != 0)
        clipped += np.int64((rows.flags[i] & CLIPPED) != 0)
        w = rows.weight[i] if weighted else 1.0
        if weighted:
            add_weight(sums.weight[0], w, np.int64(0))
            beyond += np.int64(not FIXED_FROM <= w <= FIXED_TO)
        if sums.classes.shape[1] > 0:
            if sums.hard:
                own = np.int64(rows.label[i])
                record = sums.classes[0, own]
                if few:
                    table[own, lane_from()] += 1
                else:
                    add_at(record, 0, 1)
                if weighted:
                    add_fixed(record, np.int64(CLASS_WEIGHT), w)
            else:
                add_share(rows.out[outcome, i], w, sums.classes[0])
        if bytes_ >= 0:
            add_crossed(rows.out[loss, i], rows.out[bytes_, i], w, sums.cross[0, 0])
        if sums.tally.shape[1] > 0:
            record_of, packed, below = tally_parts(rows.out[score, i], rows.out[outcome, i], bins, unit)
            add_at(sums.tally[0, record_of], 0, packed)
            add_at(sums.tally[0, record_of], 1, below)
        elif sums.reliability.shape[1] > 0:
            most = np.float64(sums.reliability.shape[1])
            place = np.int64(fine_bin(rows.out[score, i], most))
            add_judged(rows.out[score, i], rows.out[outcome, i], w, weighted, sums.reliability[0, place])
    if few:
        meet()
        for place in range(lane_from(), lane_to(np.int64(sums.classes.shape[1]))):
            add_at(sums.classes[0, place], 0, whole(table, place))
        meet()
    counts = (used, normalized, clipped, beyond)  # their places in the ledger, but for the first, follow one another
    for which, count in enumerate(counts):
        table[which, lane_from()] = count
    meet()
    for place in range(lane_from(), lane_to(np.int64(len(counts)))):
        add_at(ledger, LEDGER_NORMALIZED - 1 + place if place > 0 else USED, whole(table, place))
