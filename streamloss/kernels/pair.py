"""K classes against soft targets or a teacher: the values of every row, in two passes over its classes.

The first finds what the softmax of each side needs and keeps its exponentials, the second adds the terms of `divergence`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from streamloss.errors import LABEL, USED
from streamloss.ieee.bits import LANES, count_of, lanes, load, load_narrow, narrow, select, store, widen
from streamloss.ieee.elementary import INF
from streamloss.jit import allocating, kernel, loop, scalar
from streamloss.kernels.cursor import take
from streamloss.kernels.divergence import (
    BACK_GAP,
    BACKWARD,
    CROSS,
    CUT,
    FOCAL_,
    FORWARD,
    GAP,
    JENSEN,
    Q_ENTROPY,
    SQUARE,
    SUMS,
    Room,
    Side,
    add_pairs,
    sums_to_one,
)
from streamloss.kernels.fold import STRIDE, Rows, Sums, fold_tile, scratch
from streamloss.kernels.panel import (
    CHUNK,
    CLIPPED,
    ENTROPY_,
    PEAK,
    PROBS,
    SIDE,
    SMALL,
    TOP,
    TOTAL,
    Loss,
    Source,
    Stored,
    broken_rule,
    finish_side,
    fold_lanes,
    load_rest,
    load_rows,
    renormalized,
    row_side,
    short_ranks,
    short_sides,
    side_holds,
    write_labelled,
)
from streamloss.quantities import (
    BRIER,
    CONFIDENCE,
    CROSS_ENTROPY,
    ENTROPY,
    FOCAL,
    JS,
    KL,
    REVERSE_KL,
    SAME_TOP,
    SLOTS,
    TARGET_ENTROPY,
)

OWN, LABEL_, RANK, AGREE = range(4)  # of a row: its label's stored value, the label, its rank, whether the two tops agree


@scalar
def write_pair(i: int, lane: int, exact: bool, gamma: float, side_p: Any, sums: Any, own: Any, out: Any) -> None:
    """One row's values into column i of their slots; `exact` when both sides sum to 1 by construction."""
    kl, back = sums[FORWARD, lane], sums[BACKWARD, lane]
    out[ENTROPY, i] = side_p[ENTROPY_, lane]
    out[CONFIDENCE, i] = side_p[TOP, lane]
    out[TARGET_ENTROPY, i] = sums[Q_ENTROPY, lane]
    out[CROSS_ENTROPY, i] = sums[CROSS, lane]
    out[KL, i] = kl if exact else kl + sums[GAP, lane]
    out[REVERSE_KL, i] = back if exact else back + sums[BACK_GAP, lane]
    out[JS, i] = sums[JENSEN, lane]
    out[BRIER, i] = sums[SQUARE, lane]
    out[SAME_TOP, i] = own[AGREE, lane]
    if gamma >= 0.0:
        out[FOCAL, i] = sums[FOCAL_, lane]


@loop
def first_at(x: Any, row: int, value: float) -> Any:
    """The first class of a long row that has the value."""
    k = x.shape[1]
    full = k // LANES
    wanted = narrow(x, value)
    for step in range(full):
        if count_of(load_narrow(x, row, LANES * step) == wanted) > 0:
            for j in range(LANES * step, LANES * step + LANES):
                if widen(x[row, j]) == value:
                    return j
    for j in range(LANES * full, k):
        if widen(x[row, j]) == value:
            return j
    return np.int64(-1)


@loop
def short_tops(side: Side, k: int) -> Any:
    """The first of each lane's classes that has its peak."""
    peak, top = load(side.side, PEAK, 0), lanes(-1.0)
    for j in range(k):
        top = select((load(side.panel, j, 0) == peak) & (top < 0.0), np.float64(j), top)
    return top


@loop
def sum_short(xq: Any, xp: Any, first: int, count: int, rows: Rows, stored_q: Stored, stored_p: Stored, room: Room) -> None:
    """The statistics of both sides of up to 32 rows of SMALL classes or fewer, one in every lane, and of their labels."""
    k, own, nowhere = xp.shape[1], room.own, np.int64(0)
    load_rows(xq, first, count, rows.code, room.q.panel)
    load_rows(xp, first, count, rows.code, room.p.panel)
    short_sides(stored_q.form, room.q.panel, k, stored_q.scale, room.q.side, room.d, room.q.e, nowhere)
    short_sides(stored_p.form, room.p.panel, k, stored_p.scale, room.p.side, room.d, room.p.e, nowhere)
    store(own, AGREE, 0, select(short_tops(room.q, k) == short_tops(room.p, k), lanes(1.0), 0.0))
    if rows.label.shape[0] > 0:
        for lane in range(LANES):
            y = rows.label[first + lane] if lane < count and rows.code[first + lane] == USED else 0
            own[LABEL_, lane] = y
            own[OWN, lane] = room.p.panel[y, lane]
        store(own, RANK, 0, short_ranks(room.p.panel, k, load(own, OWN, 0), load(own, LABEL_, 0)))


@loop
def sum_long(x: Any, row: int, label: Any, stored: Stored, side: Side, d: Any) -> None:
    """The statistics of one side of a long row, in every lane."""
    row_side(
        stored.form, x, row, label, stored.scale, side.panel, side.sums, d, side.e, np.int64(0), side.found, side.side
    )  # fmt: skip


@loop
def write_pairs(
    xq: Any,
    xp: Any,
    first: int,
    count: int,
    rows: Rows,
    stored_q: Stored,
    stored_p: Stored,
    loss: Loss,
    room: Room,
    out: Any,
    at: int,
) -> None:
    """The values of up to 32 short rows, one in every lane, or of one long row with its classes in the lanes."""
    k = xp.shape[1]
    normalize = stored_p.normalize
    label, code, flags = rows.label, rows.code, rows.flags
    labelled = label.shape[0] > 0
    q, p, own = room.q, room.p, room.own
    for i in range(first, first + count if labelled else first):
        if code[i] == USED and not 0 <= label[i] < k:
            code[i] = LABEL
    if k <= SMALL:
        sum_short(xq, xp, first, count, rows, stored_q, stored_p, room)
    else:
        if code[first] != USED:
            return
        sum_long(xq, first, np.int64(-1), stored_q, q, room.d)
        sum_long(xp, first, label[first] if labelled else np.int64(-1), stored_p, p, room.d)
        own[RANK, 0] = p.found[1]
        own[AGREE, 0] = np.float64(first_at(xq, first, q.found[0]) == first_at(xp, first, p.found[0]))
    for lane in range(count):
        i = first + lane
        if code[i] != USED:
            continue
        if not side_holds(stored_q.form, stored_q.tolerance, normalize, q.side, lane):
            code[i] = broken_rule(stored_q.form, xq, i)
            rows.at_target[i] = 1
        elif not side_holds(stored_p.form, stored_p.tolerance, normalize, p.side, lane):
            code[i] = broken_rule(stored_p.form, xp, i)
        if normalize:
            flags[i] |= renormalized(stored_q.form, stored_q.tolerance, q.side[TOTAL, lane])
            flags[i] |= renormalized(stored_p.form, stored_p.tolerance, p.side[TOTAL, lane])
    finish_side(stored_q.form, normalize, q.side)
    finish_side(stored_p.form, normalize, p.side)
    sums = room.lanes
    sums[:] = 0.0
    nowhere, one, all_ = np.int64(0), np.int64(1), np.int64(LANES)
    if k <= SMALL:
        at_q, at_p = Source(q.panel, nowhere, one, nowhere), Source(p.panel, nowhere, one, nowhere)
        add_pairs(at_q, at_p, k, all_, nowhere, stored_q, stored_p, k, loss, room)
    else:
        full = k // LANES
        row_q, row_p = Source(xq, first, nowhere, all_), Source(xp, first, nowhere, all_)
        add_pairs(row_q, row_p, full, all_, nowhere, stored_q, stored_p, k, loss, room)
        rest = load_rest(xq, first, 0.0 if stored_q.form == PROBS else -INF, q.panel)
        load_rest(xp, first, 0.0 if stored_p.form == PROBS else -INF, p.panel)
        at_q, at_p = Source(q.panel, nowhere, one, nowhere), Source(p.panel, nowhere, one, nowhere)
        add_pairs(at_q, at_p, rest, k - full * LANES, full, stored_q, stored_p, k, loss, room)
        fold_lanes(sums, nowhere, np.int64(SUMS), room.sums, nowhere)
        sums = room.sums
    exact = sums_to_one(stored_q) and sums_to_one(stored_p) and loss.cap == INF
    for lane in range(count):
        write_pair(at + lane, lane, exact, loss.gamma, p.side, sums, own, out)
        if sums[CUT, lane] > 0.0:
            flags[first + lane] |= CLIPPED
    if labelled:
        write_labelled(at, count, p.side[TOP], own[RANK], loss.top_k, out)


@allocating
def side_room(k: int) -> Side:
    """Room for one side of rows of k classes."""
    return Side(
        np.zeros((SMALL, LANES)),
        np.zeros((SIDE, LANES)),
        np.zeros((max(SMALL, k // LANES + 1), LANES)),
        np.zeros((SIDE, LANES)),
        np.zeros(2),
        np.zeros((CHUNK, LANES)),
        np.zeros((CHUNK, LANES)),
    )


@kernel
def pair(xq: Any, xp: Any, rows: Rows, sums: Sums, stored_q: Stored, stored_p: Stored, loss: Loss, threads: int) -> None:
    """Folds the rows of targets xq and predictions xp, both (n, K); breaks of rules go into rows.code.

    rows.at_target (n,) tells whether a broken rule is the target's.
    """
    n, k = xp.shape
    kept = rows.out.shape[1] > 0
    together = LANES if k <= SMALL else 1
    for t in prange(threads):
        tile = scratch()
        out = rows.out if kept else np.empty((SLOTS, STRIDE))
        room = Room(
            side_room(k), side_room(k), np.zeros((SUMS, LANES)), np.zeros((SUMS, LANES)), np.zeros((4, LANES)),
            np.zeros((CHUNK, LANES)),
        )  # fmt: skip
        first = take(rows.cursor, rows.step)
        while first < n:
            m = min(rows.step, n - first)
            at = first if kept else 0
            for i in range(0, m, together):
                write_pairs(xq, xp, first + i, min(together, m - i), rows, stored_q, stored_p, loss, room, out, at + i)
            fold_tile(rows, first, m, out, at, sums, np.int64(t), tile)
            first = take(rows.cursor, rows.step)
