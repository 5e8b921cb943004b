"""Row values into the many small sums: confidence bins, classes. Fixed digits (see `digits`), each addend rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamloss.digits import CLASS_INFINITE, CLASS_WEIGHT, RELIABILITY_OUTCOME, RELIABILITY_SCORE, RELIABILITY_WEIGHT
from streamloss.ieee.bits import fma, mul, to_bits
from streamloss.ieee.elementary import INF, ROUND, ROUND_BITS
from streamloss.jit import loop, scalar
from streamloss.kernels.atoms import add_at
from streamloss.kernels.moments import bits_of, magic

F0, F1, F2 = magic(-20), magic(-60), magic(-100)
F0_BITS, F1_BITS, F2_BITS = bits_of(F0), bits_of(F1), bits_of(F2)
FIXED_HIGH = 0x4130000000000000  # the bits of 2^20, from which the two middle digits do not do
TALLY_SHIFT = 24
FIXED_FROM, FIXED_TO = 2.0**-60, 2.0**53  # weights that the Fixed digits take


@scalar
def fixed_parts(x: float) -> Any:
    """(high, low): 0 ≤ x < 2^20 as high·2^-20 + low·2^-60, rounded once."""
    t = x + F0
    return to_bits(t) - F0_BITS, to_bits((x - (t - F0)) + F1) - F1_BITS


@loop
def add_fixed(digits: Any, at: Any, x: float) -> None:
    """digits[at : at + 4] += x for 0 ≤ x < 2^62, rounded once to 2^-100; more counts as 2^62."""
    if x >= 1048576.0:
        x = min(x, 2.0**62)
        whole = np.int64(mul(x, 2.0**-20))
        add_at(digits, at, whole)
        x -= mul(np.float64(whole), 1048576.0)
    t = x + F0
    add_at(digits, at + 1, to_bits(t) - F0_BITS)
    x -= t - F0
    t = x + F1
    add_at(digits, at + 2, to_bits(t) - F1_BITS)
    add_at(digits, at + 3, to_bits((x - (t - F1)) + F2) - F2_BITS)


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


@scalar
def fine_bin(score: float, bins: float) -> Any:
    """The bin (i/bins, (i + 1)/bins] of a score as a float64, edges exact; 0 goes to the first, all from 1 to the last."""
    i = fma(score, bins, ROUND) - ROUND
    i = i - 1.0 if fma(score, bins, -i) <= 0.0 else i
    return min(max(i, 0.0), bins - 1.0)


@scalar
def tally_parts(x: float, outcome: float, bins: float, unit: float) -> Any:
    """Which record of the tally a score goes to, and what is added to its two fields; unit is ⌊2^20 / bins⌋."""
    i = fine_bin(x, bins)
    t = x + F0
    high = mul(t - F0, 1048576.0) - mul(unit, i)
    packed = ((to_bits(high + ROUND) - ROUND_BITS) << np.int64(TALLY_SHIFT)) + np.int64(1)
    return to_bits(i + i + outcome + ROUND) - ROUND_BITS, packed, to_bits((x - (t - F0)) + F1) - F1_BITS


@loop
def add_tally(score: Any, outcome: Any, m: int, tally: Any, at: Any, parts: Any) -> None:
    """Reliability of unweighted rows whose outcome is 0 or 1, by two additions a row: record 2·bin + outcome is

        (rows + Σ [high − ⌊2^20 / bins⌋·bin]·2^24, Σ low)

    with the Fixed parts of the score. What the bin says of the score is left out, so that both fields have room for 2^23 rows.
    """
    bins = np.float64(tally.shape[0] // 2)
    unit = np.float64(np.int64(1048576) // np.int64(bins))
    for j in range(m):
        at[j], parts[0, j], parts[1, j] = tally_parts(score[j], outcome[j], bins, unit)
    for j in range(m):
        tally[at[j], 0] += parts[0, j]
        tally[at[j], 1] += parts[1, j]


def tallied_rows(tally: Any) -> int:
    """The most rows that any record of the tally has."""
    return int((tally[..., 0] & ((1 << TALLY_SHIFT) - 1)).max(initial=0))


def drain_tally(tally: Any, reliability: Any) -> None:
    """Moves what `add_tally` has gathered into the reliability records (threads, bins, width)."""
    threads, bins, _ = reliability.shape
    packed, low = np.moveaxis(tally.reshape(threads, bins, 2, 2), 3, 0)
    rows = packed & ((1 << TALLY_SHIFT) - 1)
    both = rows.sum(axis=2)
    reliability[..., 0] += both
    high = (packed >> TALLY_SHIFT).sum(axis=2) + both * ((1 << 20) // bins * np.arange(bins))
    reliability[..., RELIABILITY_SCORE + 1] += high
    reliability[..., RELIABILITY_SCORE + 2] += low.sum(axis=2)
    reliability[..., RELIABILITY_OUTCOME + 1] += rows[..., 1] << 20
    tally[...] = 0


@scalar
def add_small(digits: Any, at: Any, x: float) -> None:
    """`add_fixed` for 0 ≤ x < 2^20, rounded to 2^-60."""
    high, low = fixed_parts(x)
    add_at(digits, at + 1, high)
    add_at(digits, at + 2, low)


@loop
def add_judged(score: float, outcome: float, w: float, weighted: bool, record: Any) -> None:
    """A row into the record of its confidence bin."""
    add_at(record, 0, 1)
    if weighted:
        add_fixed(record, np.int64(RELIABILITY_WEIGHT), w)
        add_fixed(record, np.int64(RELIABILITY_SCORE), mul(w, score))
        add_fixed(record, np.int64(RELIABILITY_OUTCOME), mul(w, outcome))
    else:
        add_small(record, np.int64(RELIABILITY_SCORE), score)
        add_small(record, np.int64(RELIABILITY_OUTCOME), outcome)


@loop
def add_reliability(score: Any, outcome: Any, w: Any, weighted: bool, m: int, bins: Any, at: Any) -> None:
    """Counts, and sums of confidence and of what happened, by confidence bin, whatever the weight and the outcome."""
    for j in range(m):
        at[j] = np.int64(fine_bin(score[j], np.float64(bins.shape[0])))
    for j in range(m):
        add_judged(score[j], outcome[j], w[j] if weighted else 1.0, weighted, bins[at[j]])


@loop
def count_labels(own: Any, m: int, w: Any, weighted: bool, classes: Any) -> None:
    """Label frequencies; own[j] is the class of row j."""
    if classes.shape[0] == 2:
        ones = np.int64(0)
        for j in range(m):
            ones += np.int64(own[j])
        classes[0, 0] += m - ones
        classes[1, 0] += ones
    else:
        for j in range(m):
            classes[own[j], 0] += 1
    if weighted:
        for j in range(m):
            add_fixed(classes[own[j]], np.int64(CLASS_WEIGHT), w[j])


@loop
def add_share(outcome: float, w: float, classes: Any) -> None:
    """A soft binary label: y of the row's weight is the positive class's, the rest the other's."""
    add_fixed(classes[1], np.int64(CLASS_WEIGHT), mul(w, outcome))
    add_fixed(classes[0], np.int64(CLASS_WEIGHT), mul(w, 1.0 - outcome))


@loop
def share_labels(outcome: Any, m: int, w: Any, weighted: bool, classes: Any) -> None:
    """Soft binary labels: y of each row's weight is the positive class's, the rest the other's."""
    for j in range(m):
        add_share(outcome[j], w[j] if weighted else 1.0, classes)


@loop
def add_by_side(v: Any, own: Any, m: int, classes: Any, at: int) -> None:
    """The sums of two classes without a store for every row; v < 2^20."""
    all_high: Any
    all_high = all_low = high = low = np.int64(0)
    for j in range(m):
        h, r = fixed_parts(v[j])
        all_high += h
        all_low += r
        high += h & -np.int64(own[j])
        low += r & -np.int64(own[j])
    classes[0, at + 1] += all_high - high
    classes[0, at + 2] += all_low - low
    classes[1, at + 1] += high
    classes[1, at + 2] += low


@loop
def add_of_class(v: float, w: float, weighted: bool, counts_infinite: bool, record: Any, at: int) -> None:
    """A value into the record of its row's class; an infinite one is counted and left out."""
    if v == INF:
        add_at(record, CLASS_INFINITE, np.int64(counts_infinite))
    elif weighted:
        add_fixed(record, at, mul(w, v))
    elif v < 1048576.0:  # as `add_by_class`: how a value is rounded must not depend on its neighbours
        add_small(record, at, v)
    else:
        add_fixed(record, at, v)


@loop
def add_by_class(v: Any, own: Any, m: int, small: bool, counts_infinite: bool, classes: Any, at: int, parts: Any) -> None:
    """Sums of one quantity by class; infinite values are counted (once a row: `counts_infinite`) and left out.

    `small`: all values are known to be below 2^20.
    """
    if small and classes.shape[0] == 2:
        add_by_side(v, own, m, classes, at)
        return
    large = split_fixed(v, m, parts[0], parts[1])
    if large == 0:
        for j in range(m):
            classes[own[j], at + 1] += parts[0, j]
            classes[own[j], at + 2] += parts[1, j]
        return
    for j in range(m):
        add_of_class(v[j], 1.0, False, counts_infinite, classes[own[j]], at)


@loop
def add_hits_by_class(v: Any, own: Any, m: int, classes: Any, at: int) -> None:
    """`add_by_class` of values that are 0 or 1."""
    one = np.int64(1048576)  # in the high digit
    if classes.shape[0] == 2:
        total: Any
        total = hits = np.int64(0)
        for j in range(m):
            hit = np.int64(v[j])
            total += hit
            hits += hit & np.int64(own[j])
        classes[0, at + 1] += (total - hits) * one
        classes[1, at + 1] += hits * one
        return
    for j in range(m):
        classes[own[j], at + 1] += np.int64(v[j]) * one


@loop
def add_weighted_by_class(v: Any, own: Any, w: Any, m: int, counts_infinite: bool, classes: Any, at: int) -> None:
    """`add_by_class` of weighted rows."""
    for j in range(m):
        add_of_class(v[j], w[j], True, counts_infinite, classes[own[j]], at)
