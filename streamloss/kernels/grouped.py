"""Row values into the sums of the groups that the rows belong to: what `fold` does for all rows, for many groups at once.

Rows are taken in the order of their groups, so that what is folded together has one place to go to. A group's sums are compact
(see `slices`): windows of limbs, with whole limbs beside them for values beyond, and counters in pages.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamloss.digits import CLASS_SUMS, FIXED_DIGITS, LEDGER_BEYOND, LEDGER_CLIPPED, LEDGER_NORMALIZED
from streamloss.errors import USED
from streamloss.ieee.bits import to_bits
from streamloss.ieee.elementary import INF
from streamloss.jit import decoder, loop, part, scalar
from streamloss.kernels.bins import (
    F0,
    F0_BITS,
    F1,
    F1_BITS,
    FIXED_FROM,
    FIXED_HIGH,
    FIXED_TO,
    add_by_class,
    add_fixed,
    add_hits_by_class,
    add_reliability,
    add_weighted_by_class,
    count_labels,
    fine_bin,
    share_labels,
)
from streamloss.kernels.fold import TILE, Scratch, fold_bytes, load_numbers, scratch
from streamloss.kernels.limbs import add_weight
from streamloss.kernels.moments import (
    NARROW_HIGH,
    NARROW_LOW,
    add_indicators,
    add_moments,
    add_narrow,
    add_range,
    add_squared,
    add_weighted,
    find_buckets,
    is_odd,
    value_range,
)
from streamloss.kernels.panel import CLIPPED, NORMALIZED
from streamloss.quantities import BYTES, CROSS_ENTROPY, OUTCOME, SCORE, SLOTS, Plan
from streamloss.slices import COUNTER_PAGES, PAGE, sums_by_class, window_shift
from streamloss.slicing import Slices

PAGE_BITS = PAGE.bit_length() - 1


class Groups(NamedTuple):
    """What the rows are added to; the leading axis of the accumulators is the group (see `slices.layout`).

    hard says that there are labels to count and that they are classes, crossed that cross-entropy times bytes is summed,
    labels_at is the first page of the label counts where they stand in pages, shift moves exponents into the windows. place
    (SLOTS,) says where a slot's row values stand among those handed over; slots, indicator, spread and by_class (M,) are as in
    `fold.Sums`. far (G, blocks) says which row of wide has whole limbs for a block of sums, table (G, pages) which row of pages
    or, of weighted rows, of shares has a run of counters; 0 is none. taken (2,) are the last rows in use of either.
    """

    hard: Any
    crossed: Any
    labels_at: Any
    shift: Any
    place: Any
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
    bins: Any
    reliability: Any
    classes: Any
    far: Any
    wide: Any
    table: Any
    pages: Any
    shares: Any
    taken: Any


class Columns(NamedTuple):
    """What is known of n rows: values (S, n) of the kept slots, code and flags (n,), label and weight, (n,) or (0,)."""

    values: Any
    code: Any
    flags: Any
    label: Any
    weight: Any


@decoder
def sort_rows(ids: Any, groups: int, place: Any, owners: Any) -> None:
    """place (n,): where every row goes when rows are put in the order of their groups; owners (n,): the groups in this order.

    ids (n,) are below `groups`.
    """
    at = np.zeros(groups + 1, dtype=np.int64)
    for i in range(len(ids)):
        at[ids[i] + 1] += 1
    for g in range(groups):
        owners[at[g] : at[g] + at[g + 1]] = g
        at[g + 1] += at[g]
    for i in range(len(ids)):
        g = ids[i]
        place[i] = at[g]
        at[g] += 1


@decoder
def move_rows(x: Any, place: Any, out: Any) -> None:
    """out[place] = x: to write all over the memory costs a third of reading from all over it."""
    for i in range(len(place)):
        out[place[i]] = x[i]


@decoder
def move_wide_rows(x: Any, place: Any, out: Any) -> None:
    """The same of rows of several numbers."""
    for i in range(len(place)):
        for j in range(x.shape[1]):
            out[place[i], j] = x[i, j]


@loop
def page_of(table: Any, page: Any, taken: Any) -> Any:
    """The row of a page of counters, a new one where there was none."""
    row = table[page]
    if row == 0:
        taken[1] += 1
        row = taken[1]
        table[page] = row
    return np.int64(row)


@part
def count_in_pages(numbers: Any, m: int, table: Any, first: Any, pages: Any, taken: Any) -> None:
    """One more for counter numbers[j] of every row; the counters' pages begin at `first` of the table. pages are flat here, and
    unsigned indices spare Numba's look for negative ones.
    """
    bits, low, begin = np.uint64(PAGE_BITS), np.uint64(PAGE - 1), np.uint64(first)
    for j in range(m):
        k = np.uint64(numbers[j])
        row = np.int64(table[begin + (k >> bits)])
        if row == 0:
            row = page_of(table, begin + (k >> bits), taken)
        pages[(np.uint64(row) << bits) + (k & low)] += 1


@loop
def share_in_pages(numbers: Any, w: Any, m: int, table: Any, first: Any, shares: Any, taken: Any) -> None:
    """The same of weighted rows."""
    for j in range(m):
        k = np.int64(numbers[j])
        add_fixed(shares[page_of(table, first + (k >> PAGE_BITS), taken), k & (PAGE - 1)], np.int64(0), w[j])


@loop
def far_row(groups: Groups, g: Any, block: Any) -> Any:
    """The row of `wide` that has a block's whole limbs, a new one where there was none."""
    row = groups.far[g, block]
    if row == 0:
        groups.taken[0] += 1
        row = groups.taken[0]
        groups.far[g, block] = row
    return np.int64(row)


@scalar
def exponent_of(x: float) -> Any:
    """e with 2^e ≤ |x| < 2^(e + 1); −1023 for 0 and subnormal numbers."""
    return ((to_bits(x) >> np.int64(52)) & np.int64(0x7FF)) - np.int64(1023)


@scalar
def weight_fits(w: float) -> Any:
    """Whether Σw and Σw² take it in their windows: the weights that the Fixed digits take too."""
    return (w >= FIXED_FROM) & (w <= FIXED_TO)


@scalar
def goes_far(x: float, w: float, weighted: bool) -> Any:
    """Whether a finite value, or what a weight makes of it, needs whole limbs; `add_moments` and 0 do not."""
    e = exponent_of(x)
    if weighted:
        return (x != 0.0) & ~(weight_fits(w) & (e >= -64) & (e <= 20))
    return is_odd(x) & ((e < -43) | (e > 40))


@part
def add_bins(score: Any, outcome: Any, m: int, bins: Any, at: Any, parts: Any) -> None:
    """Reliability of unweighted rows whose outcome is 0 or 1: (rows, Σ outcome, Σ high, Σ low) of the score's Fixed parts."""
    count = np.float64(bins.shape[0])
    for j in range(m):
        x = score[j]
        t = x + F0
        at[j] = np.int64(fine_bin(x, count))
        parts[0, j] = to_bits(t) - F0_BITS
        parts[1, j] = to_bits((x - (t - F0)) + F1) - F1_BITS
    for j in range(m):
        i, happened, high, low = at[j], np.int64(outcome[j]), parts[0, j], parts[1, j]
        rows, hits, highs, lows = bins[i, 0], bins[i, 1], bins[i, 2], bins[i, 3]
        bins[i, 0], bins[i, 1], bins[i, 2], bins[i, 3] = rows + 1, hits + happened, highs + high, lows + low


@loop
def add_odd(v: Any, m: int, groups: Groups, g: Any, q: Any) -> None:
    """What `add_moments` has left of quantity q: into the window digit by digit where it fits, else into whole limbs."""
    for j in range(m):
        x = v[j]
        if abs(x) == INF:
            groups.infinite[g, q] += 1
        elif is_odd(x):
            if goes_far(x, 1.0, False):
                add_squared(x, groups.wide[far_row(groups, g, q)], np.int64(0))
            else:
                add_squared(x, groups.moments[g, q], groups.shift)


@part
def add_plain(v: Any, m: int, own: Any, groups: Groups, g: Any, q: Any, room: Scratch) -> None:
    """Adds the values of quantity q of m rows of group g, which have no weights."""
    moments, spread, at = groups.moments[g, q], groups.spread[q], groups.by_class[q]
    digits = CLASS_SUMS + FIXED_DIGITS * at
    if groups.indicator[q]:
        add_indicators(v, m, moments, groups.shift, groups.extremes[g, q])
        if at >= 0:
            add_hits_by_class(v, own, m, groups.classes[g], digits)
        return
    low, high, smallest, largest = value_range(v, m)
    add_range(low, high, groups.extremes[g, q])
    narrow = (smallest >= np.int64(NARROW_LOW)) & (largest < np.int64(NARROW_HIGH))
    if narrow:
        add_narrow(v, m, moments, groups.shift, room.buckets)
    elif add_moments(v, m, moments, groups.shift) > 0:
        add_odd(v, m, groups, g, q)
    if spread >= 0:
        if low <= 0 or not narrow:
            find_buckets(v, m, room.buckets)
        count_in_pages(room.buckets, m, groups.table[g], COUNTER_PAGES * spread, groups.pages, groups.taken)
    if at >= 0:
        small = largest < np.int64(FIXED_HIGH)
        add_by_class(v, own, m, small, at == 0, groups.classes[g], digits, room.parts)


@part
def add_with_weights(v: Any, w: Any, m: int, own: Any, groups: Groups, g: Any, q: Any, room: Scratch) -> None:
    """Adds the values of quantity q of m rows of group g, which have weights."""
    spread, at, count = groups.spread[q], groups.by_class[q], groups.slots.shape[0]
    for j in range(m):
        if abs(v[j]) == INF:
            groups.infinite[g, q] += 1
            if weight_fits(w[j]):
                add_weight(groups.infinite_weight[g, q], w[j], groups.shift)
            else:
                add_weight(groups.wide[far_row(groups, g, count + q)], w[j], np.int64(0))
        elif v[j] != 0.0:
            if goes_far(v[j], w[j], True):
                add_weighted(v[j], w[j], groups.wide[far_row(groups, g, q)], np.int64(0))
            else:
                add_weighted(v[j], w[j], groups.moments[g, q], groups.shift)
    low, high, _, _ = value_range(v, m)
    add_range(low, high, groups.extremes[g, q])
    if spread >= 0:
        find_buckets(v, m, room.buckets)
        share_in_pages(room.buckets, w, m, groups.table[g], COUNTER_PAGES * spread, groups.shares, groups.taken)
    if at >= 0:
        add_weighted_by_class(v, own, w, m, at == 0, groups.classes[g], CLASS_SUMS + FIXED_DIGITS * at)


@part
def choose_rows(columns: Columns, order: Any, ledger: Any, index: Any) -> Any:
    """Counts rows by code and flag, and lists those that are used; returns their number."""
    n, some = len(order), np.int64(0)
    for j in range(n):
        index[j] = order[j]
    if order[n - 1] - order[0] == n - 1:
        code, flags = columns.code[order[0] : order[n - 1] + 1], columns.flags[order[0] : order[n - 1] + 1]
        for j in range(n):
            some |= np.int64(code[j]) | np.int64(flags[j])
    else:
        for j in range(n):
            some |= np.int64(columns.code[order[j]]) | np.int64(columns.flags[order[j]])
    if some == 0:
        ledger[USED] += n
        return n
    m = 0
    for j in range(n):
        i = order[j]
        rule, flag = columns.code[i], columns.flags[i]
        ledger[rule] += 1
        if rule == USED:
            index[m] = i
            m += 1
            ledger[LEDGER_NORMALIZED] += np.int64((flag & NORMALIZED) != 0)
            ledger[LEDGER_CLIPPED] += np.int64((flag & CLIPPED) != 0)
    return m


@part
def count_own(own: Any, w: Any, m: int, weighted: bool, groups: Groups, g: Any) -> None:
    """Label frequencies of hard labels: among the sums by class, or in the pages behind those of the histograms."""
    if groups.classes.shape[1] > 0:
        count_labels(own, m, w, weighted, groups.classes[g])
        return
    if weighted:
        share_in_pages(own, w, m, groups.table[g], groups.labels_at, groups.shares, groups.taken)
    else:
        count_in_pages(own, m, groups.table[g], groups.labels_at, groups.pages, groups.taken)


@part
def fold_run(columns: Columns, order: Any, groups: Groups, g: Any, room: Scratch) -> None:
    """Adds rows of one group, TILE at most."""
    index, used, w, own = room.index, room.used, room.weight, room.own
    m = choose_rows(columns, order, groups.ledger[g], index)
    if m == 0:
        return
    together, first = index[m - 1] - index[0] == m - 1, index[0]
    if not together:
        for s in range(columns.values.shape[0]):
            load_numbers(columns.values[s], np.int64(0), index, m, together, used[s])
        first = np.int64(0)
    values, stop = (columns.values if together else used), first + m
    weighted = columns.weight.shape[0] > 0
    if weighted:
        for j in range(m):
            w[j] = columns.weight[index[j]]
            if weight_fits(w[j]):
                add_weight(groups.weight[g], w[j], groups.shift)
            else:
                groups.ledger[g, LEDGER_BEYOND] += 1
                add_weight(groups.wide[far_row(groups, g, 2 * groups.slots.shape[0])], w[j], np.int64(0))
    place = groups.place
    score, outcome = values[place[SCORE], first:stop], values[place[OUTCOME], first:stop]
    if groups.hard:
        load_numbers(columns.label, np.int64(0), index, m, together, own)
        count_own(own, w, m, weighted, groups, g)
    elif groups.classes.shape[1] > 0:
        share_labels(outcome, m, w, weighted, groups.classes[g])
    for q in range(groups.slots.shape[0]):
        v = values[place[groups.slots[q]], first:stop]
        if weighted:
            add_with_weights(v, w, m, own, groups, g, np.int64(q), room)
        else:
            add_plain(v, m, own, groups, g, np.int64(q), room)
    blocks = 2 * groups.slots.shape[0]
    if groups.crossed:
        whole = groups.wide[far_row(groups, g, blocks + 1)]
        loss, size = values[place[CROSS_ENTROPY], first:stop], values[place[BYTES], first:stop]
        fold_bytes(loss, size, w, weighted, m, whole[0])
    if groups.bins.shape[1] > 0:
        add_bins(score, outcome, m, groups.bins[g], room.buckets, room.parts)
    elif groups.reliability.shape[1] > 0:
        add_reliability(score, outcome, w, weighted, m, groups.reliability[g], room.buckets)


@decoder
def fold_groups(columns: Columns, order: Any, owners: Any, numbers: Any, begin: int, groups: Groups) -> Any:
    """Adds the rows order[begin:] to the groups numbers[owners[begin:]]; of one group they stand together.

    Returns the place in `order` of the first row for which there is no more room among the pages or the whole limbs, or n.
    """
    room = scratch()
    pages = max(groups.pages.shape[0] >> PAGE_BITS, groups.shares.shape[0])
    blocks, counters = groups.far.shape[1], groups.table.shape[1]
    n, first = len(order), begin
    while first < n:
        own, stop, last = owners[first], first + 1, min(n, first + TILE)
        while stop < last and owners[stop] == own:
            stop += 1
        most = min(counters, (stop - first) * (groups.slots.shape[0] + 1))
        if groups.taken[0] + blocks >= groups.wide.shape[0] or groups.taken[1] + most >= pages:
            return first
        fold_run(columns, order[first:stop], groups, np.int64(numbers[own]), room)
        first = stop
    return n


def kept_slots(plan: Plan) -> NDArray[np.int64]:
    """The slots of the row values that groups are made of."""
    slots = {q.slot for q in plan.moments if q.slot is not None}
    return np.array(sorted(slots | {SCORE, OUTCOME}), dtype=np.int64)


def sums_of_groups(slices: Slices) -> Groups:
    """The accumulators as the kernels take them; they may be others after every `make_room`."""
    task, plan = slices.task, slices.plan
    spread = {key: i for i, key in enumerate(plan.spread)}
    by_class = {key: i for i, key in enumerate(sums_by_class(task, plan))}
    keys = [q.key for q in plan.moments]
    weighted = task.weighted
    slots = kept_slots(plan)
    place = np.zeros(SLOTS, dtype=np.int64)
    place[slots] = np.arange(len(slots))
    return Groups(
        hard=plan.labels and task.label == "hard",
        crossed="bits_per_byte" in plan.table,
        labels_at=COUNTER_PAGES * len(plan.spread),
        shift=window_shift(weighted),
        place=place,
        slots=np.array([q.slot for q in plan.moments], dtype=np.int64),
        indicator=np.array([q.indicator for q in plan.moments], dtype=np.bool_),
        spread=np.array([spread.get(key, -1) for key in keys], dtype=np.int64),
        by_class=np.array([by_class.get(key, -1) for key in keys], dtype=np.int64),
        far=slices.far,
        wide=slices.wide,
        table=slices.table,
        pages=np.zeros(0, dtype=np.int32) if weighted else slices.pages.reshape(-1),
        shares=slices.pages if weighted else np.zeros((0, PAGE, FIXED_DIGITS), dtype=np.int64),
        taken=slices.taken,
        **slices.arrays,
    )


def sorted_places(ids: NDArray[np.int32], groups: int) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """Where rows go when they are put in the order of their groups, and the groups in this order (see `sort_rows`)."""
    place, owners = np.empty(len(ids), dtype=np.uint32), np.empty(len(ids), dtype=np.int32)
    sort_rows(ids, groups, place, owners)
    return place, owners


def moved(x: NDArray[Any], place: NDArray[np.uint32], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The rows of x in another order, each at its place; in `out` where that is given."""
    found = np.empty(x.shape, dtype=x.dtype) if out is None else out
    (move_rows if x.ndim == 1 else move_wide_rows)(x, place, found)
    return found


def add_to_groups(
    slices: Slices, columns: Columns, order: NDArray[np.int64], owners: NDArray[np.int32], numbers: NDArray[np.int32]
) -> None:
    """Adds the rows `order` (n,) to the groups numbers[owners]; those of one stand together. From one thread at a time."""
    slices.make_room(rows=len(order))
    done = 0
    while (done := fold_groups(columns, order, owners, numbers, done, sums_of_groups(slices))) < len(order):
        slices.make_room(wide=slices.far.shape[1] + 1, pages=(TILE + 1) * (len(slices.plan.moments) + 1))
