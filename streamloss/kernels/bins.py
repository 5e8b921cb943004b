"""Row values into the many small sums: confidence bins, classes. Fixed digits (see `digits`), each addend rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamloss.digits import CLASS_INFINITE, CLASS_WEIGHT, RELIABILITY_OUTCOME, RELIABILITY_SCORE, RELIABILITY_WEIGHT
from streamloss.ieee.bits import fma, to_bits
from streamloss.ieee.elementary import INF, ROUND, ROUND_BITS
from streamloss.jit import loop, scalar
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


@loop
def add_tally(score: Any, outcome: Any, m: int, tally: Any, at: Any, parts: Any) -> None:
    """Reliability of unweighted rows whose outcome is 0 or 1, by two additions a row: record 2·bin + outcome is

        (rows + Σ [high − ⌊2^20 / bins⌋·bin]·2^24, Σ low)

    with the Fixed parts of the score. What the bin says of the score is left out, so that both fields have room for 2^23 rows.
    """
    bins = np.float64(tally.shape[0] // 2)
    unit = np.float64(np.int64(1048576) // np.int64(bins))
    for j in range(m):
        x = score[j]
        i = fine_bin(x, bins)
        t = x + F0
        high = (t - F0) * 1048576.0 - unit * i
        parts[0, j] = ((to_bits(high + ROUND) - ROUND_BITS) << np.int64(TALLY_SHIFT)) + np.int64(1)
        parts[1, j] = to_bits((x - (t - F0)) + F1) - F1_BITS
        at[j] = to_bits(i + i + outcome[j] + ROUND) - ROUND_BITS
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


@loop
def add_reliability(score: Any, outcome: Any, w: Any, weighted: bool, m: int, bins: Any, at: Any) -> None:
    """Counts, and sums of confidence and of what happened, by confidence bin, whatever the weight and the outcome."""
    for j in range(m):
        at[j] = np.int64(fine_bin(score[j], np.float64(bins.shape[0])))
    if weighted:
        for j in range(m):
            record = bins[at[j]]
            record[0] += 1
            add_fixed(record, np.int64(RELIABILITY_WEIGHT), w[j])
            add_fixed(record, np.int64(RELIABILITY_SCORE), w[j] * score[j])
            add_fixed(record, np.int64(RELIABILITY_OUTCOME), w[j] * outcome[j])
        return
    for j in range(m):
        record = bins[at[j]]
        record[0] += 1
        high, low = fixed_parts(score[j])
        record[RELIABILITY_SCORE + 1] += high
        record[RELIABILITY_SCORE + 2] += low
        high, low = fixed_parts(outcome[j])
        record[RELIABILITY_OUTCOME + 1] += high
        record[RELIABILITY_OUTCOME + 2] += low


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
def share_labels(outcome: Any, m: int, w: Any, weighted: bool, classes: Any) -> None:
    """Soft binary labels: y of each row's weight is the positive class's, the rest the other's."""
    for j in range(m):
        weight = w[j] if weighted else 1.0
        add_fixed(classes[1], np.int64(CLASS_WEIGHT), weight * outcome[j])
        add_fixed(classes[0], np.int64(CLASS_WEIGHT), weight * (1.0 - outcome[j]))


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
        record = classes[own[j]]
        if v[j] == INF:
            record[CLASS_INFINITE] += np.int64(counts_infinite)
        elif v[j] < 1048576.0:  # as above: how a value is rounded must not depend on its neighbours
            record[at + 1] += parts[0, j]
            record[at + 2] += parts[1, j]
        else:
            add_fixed(record, at, v[j])


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
        record = classes[own[j]]
        if v[j] == INF:
            record[CLASS_INFINITE] += np.int64(counts_infinite)
        else:
            add_fixed(record, at, w[j] * v[j])
