"""The fold: the values of a tile of rows, still in the first-level cache, are added to a thread's integer sums."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from streamloss.digits import CLASS_SUMS, FIXED_DIGITS, LEDGER_BEYOND, LEDGER_CLIPPED, LEDGER_NORMALIZED
from streamloss.errors import USED
from streamloss.ieee.elementary import INF
from streamloss.jit import allocating, loop
from streamloss.kernels.bins import (
    FIXED_FROM,
    FIXED_HIGH,
    FIXED_TO,
    add_by_class,
    add_fixed,
    add_hits_by_class,
    add_reliability,
    add_tally,
    add_weighted_by_class,
    count_labels,
    drain_tally,
    share_labels,
    tallied_rows,
)
from streamloss.kernels.limbs import add_product, add_weight, product
from streamloss.kernels.moments import (
    NARROW_HIGH,
    NARROW_LOW,
    add_indicators,
    add_moments,
    add_narrow,
    add_odd_moments,
    add_range,
    add_weighted_moments,
    count_buckets,
    find_buckets,
    value_range,
)
from streamloss.kernels.panel import CLIPPED, NORMALIZED
from streamloss.quantities import BYTES, CROSS_ENTROPY, ENTROPY, ENTROPY_GAP, OUTCOME, SCORE, SLOTS

TILE = 512  # rows folded at a time: as many addends below 2^51 fit an int64
STRIDE = TILE + 8  # columns of a tile's arrays: rows 4096 bytes apart would share the same few places of the cache


class Sums(NamedTuple):
    """What the rows are added to. The accumulators (see `state.layout`) have a leading axis of threads.

    slots (M,) are the quantities to fold; indicator (M,) says whether they are only 0 or 1, spread (M,) gives their row in
    the histogram and by_class (M,) their place among the means by class, or −1. hard says that labels are classes, not
    chances of the positive one.

    Two accumulators are kept small for the caches' sake, and `drain` empties them into their big brothers: for rows without
    weights counts (threads, spreads, BUCKETS), int32, stands for the histogram, and where what happened is 0 or 1 besides,
    tally (threads, 2·bins, 2) for the reliability records (see `add_tally`). Where they do not apply they are empty.
    """

    hard: Any
    slots: Any
    indicator: Any
    spread: Any
    by_class: Any
    ledger: Any
    weight: Any
    moments: Any
    infinite: Any
    infinite_weight: Any
    extremes: Any
    cross: Any
    histogram: Any
    reliability: Any
    counts: Any
    tally: Any
    classes: Any


class Rows(NamedTuple):
    """What a batch of n rows has besides its values. code, flags and at_target (n,) are written to; the others may be (0,).

    gap says that cross-entropy − entropy is wanted. out (S, n) keeps the row values of the slots `kept` (S,). The threads take
    `step` rows at a time, TILE at most, from `cursor` (1,) on (see `cursor`).
    """

    cursor: Any
    step: Any
    code: Any
    flags: Any
    at_target: Any
    label: Any
    weight: Any
    bytes: Any
    gap: bool
    kept: Any
    out: Any


class Scratch(NamedTuple):
    """Room for a tile."""

    used: Any
    weight: Any
    index: Any
    buckets: Any
    own: Any
    parts: Any


@allocating
def scratch() -> Scratch:
    """Room for `fold_tile` to work in."""
    return Scratch(
        np.empty((SLOTS, STRIDE)),
        np.empty(TILE),
        np.empty(TILE, dtype=np.int64),
        np.empty(TILE, dtype=np.uint32),
        np.empty(TILE, dtype=np.uint32),
        np.empty((2, STRIDE), dtype=np.int64),
    )


@loop
def choose(code: Any, flags: Any, n: int, index: Any, ledger: Any) -> Any:
    """Counts n rows by code and flag, and lists those that are used; returns their number."""
    some = np.int64(0)
    for j in range(n):
        some |= np.int64(code[j]) | np.int64(flags[j])
        index[j] = j
    if some == 0:
        ledger[USED] += n
        return n
    m = 0
    for j in range(n):
        ledger[code[j]] += 1
        if code[j] == USED:
            index[m] = j
            m += 1
            ledger[LEDGER_NORMALIZED] += np.int64((flags[j] & NORMALIZED) != 0)
            ledger[LEDGER_CLIPPED] += np.int64((flags[j] & CLIPPED) != 0)
    return m


@loop
def compact(out: Any, index: Any, m: int, used: Any) -> None:
    """used[:, :m] = out[:, index[:m]]."""
    for slot in range(out.shape[0]):
        for j in range(m):
            used[slot, j] = out[slot, index[j]]


@loop
def load_numbers(from_: Any, first: Any, index: Any, m: int, together: bool, to: Any) -> None:
    """to[:m] = from_[first + index[:m]]."""
    if together:
        start = first + index[0]
        stored = from_[start : start + m]
        for j in range(m):
            to[j] = stored[j]
    else:
        for j in range(m):
            to[j] = from_[first + index[j]]


@loop
def fold_plain(q: int, v: Any, m: int, own: Any, sums: Sums, t: int, buckets: Any, parts: Any) -> None:
    """Adds the values of quantity q of rows without weights."""
    moments, spread, at = sums.moments[t, q], sums.spread[q], sums.by_class[q]
    digits = CLASS_SUMS + FIXED_DIGITS * at
    if sums.indicator[q]:
        add_indicators(v, m, moments, np.int64(0), sums.extremes[t, q])
        if at >= 0:
            add_hits_by_class(v, own, m, sums.classes[t], digits)
        return
    low, high, smallest, largest = value_range(v, m)
    add_range(low, high, sums.extremes[t, q])
    narrow = (smallest >= np.int64(NARROW_LOW)) & (largest < np.int64(NARROW_HIGH))
    if narrow:
        add_narrow(v, m, moments, np.int64(0), buckets)
    elif add_moments(v, m, moments, np.int64(0)) > 0:
        sums.infinite[t, q] += add_odd_moments(v, m, moments)
    if spread >= 0:
        if low <= 0 or not narrow:
            find_buckets(v, m, buckets)
        count_buckets(buckets, m, sums.counts[t, spread])
    if at >= 0:
        add_by_class(v, own, m, largest < np.int64(FIXED_HIGH), at == 0, sums.classes[t], digits, parts)


@loop
def fold_weighted(q: int, v: Any, w: Any, m: int, own: Any, sums: Sums, t: int, buckets: Any) -> None:
    """Adds the values of quantity q of rows with weights."""
    spread, at = sums.spread[q], sums.by_class[q]
    sums.infinite[t, q] += add_weighted_moments(v, w, m, sums.moments[t, q], sums.infinite_weight[t, q])
    low, high, _, _ = value_range(v, m)
    add_range(low, high, sums.extremes[t, q])
    if spread >= 0:
        find_buckets(v, m, buckets)
        counts = sums.histogram[t, spread]
        for j in range(m):
            add_fixed(counts[buckets[j]], np.int64(0), w[j])
    if at >= 0:
        add_weighted_by_class(v, own, w, m, at == 0, sums.classes[t], CLASS_SUMS + FIXED_DIGITS * at)


@loop
def add_crossed(v: float, u: float, w: float, cross: Any) -> None:
    """Adds w²·v·u of a finite v."""
    if abs(v) != INF:
        h1, l1, e1 = product(w, v)
        h2, l2, e2 = product(w, u)
        add_product(cross, h1, l1, e1, h2, l2, e2)


@loop
def fold_bytes(v: Any, u: Any, w: Any, weighted: bool, m: int, cross: Any) -> None:
    """Σ w²·cross-entropy·bytes of the finite ones."""
    for j in range(m):
        add_crossed(v[j], u[j], w[j] if weighted else 1.0, cross)


@loop
def fold_tile(rows: Rows, first: int, n: int, out: Any, sums: Sums, t: Any, room: Scratch) -> None:
    """Adds the USED ones of rows first … first + n, whose values stand in out (SLOTS, STRIDE), for thread t; keeps them all
    where they are to be kept.
    """
    for j in range(min(n, rows.bytes.shape[0])):
        out[BYTES, j] = rows.bytes[first + j]
    if rows.gap:
        for j in range(n):
            out[ENTROPY_GAP, j] = out[CROSS_ENTROPY, j] - out[ENTROPY, j]
    for s in range(rows.kept.shape[0]):
        values, place = out[rows.kept[s]], rows.out[s]
        for j in range(n):
            place[first + j] = values[j]
    index, w, own, classes = room.index, room.weight, room.own, sums.classes[t]
    m = choose(rows.code[first : first + n], rows.flags[first : first + n], n, index, sums.ledger[t])
    if m == 0:
        return
    together = index[m - 1] - index[0] == m - 1
    used, start = out, index[0]
    if not together:
        compact(out, index, m, room.used)
        used, start = room.used, np.int64(0)
    stop = start + m
    weighted = rows.weight.shape[0] > 0
    if weighted:
        load_numbers(rows.weight, first, index, m, together, w)
        for j in range(m):
            add_weight(sums.weight[t], w[j], np.int64(0))
            sums.ledger[t, LEDGER_BEYOND] += np.int64(not FIXED_FROM <= w[j] <= FIXED_TO)
    outcome = used[OUTCOME, start:stop]
    if classes.shape[0] > 0 and sums.hard:
        load_numbers(rows.label, first, index, m, together, own)
        count_labels(own, m, w, weighted, classes)
    elif classes.shape[0] > 0:
        share_labels(outcome, m, w, weighted, classes)
    for q in range(sums.slots.shape[0]):
        v = used[sums.slots[q], start:stop]
        if weighted:
            fold_weighted(q, v, w, m, own, sums, t, room.buckets)
        else:
            fold_plain(q, v, m, own, sums, t, room.buckets, room.parts)
    if sums.cross.shape[1] > 0:
        fold_bytes(used[CROSS_ENTROPY, start:stop], used[BYTES, start:stop], w, weighted, m, sums.cross[t, 0])
    if sums.tally.shape[1] > 0:
        add_tally(used[SCORE, start:stop], outcome, m, sums.tally[t], room.buckets, room.parts)
    elif sums.reliability.shape[1] > 0:
        add_reliability(used[SCORE, start:stop], outcome, w, weighted, m, sums.reliability[t], room.buckets)


def drain(sums: Sums, above: int = 0) -> None:
    """Empties counts and tally into the histogram and the reliability records; not one in which no count is above `above`."""
    counts = sums.counts.reshape(-1)
    if counts.max(initial=0) > above:
        filled = np.flatnonzero(counts)
        sums.histogram.reshape(-1)[filled] += counts[filled]
        counts[filled] = 0
    if tallied_rows(sums.tally) > above:
        drain_tally(sums.tally, sums.reliability)
