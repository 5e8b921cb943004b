"""K classes against soft targets or a teacher: the values of every row, in two passes over its classes.

The first finds what the softmax of each side needs and keeps its exponentials, the second adds the terms of `divergence`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from streamloss.errors import USED
from streamloss.ieee.bits import LANES, count_of, lane_from, lane_to, lanes, load, load_narrow, narrow, select, store, widen
from streamloss.ieee.elementary import INF
from streamloss.jit import allocating, kernel, loop, part
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
    no_sums,
    sums_to_one,
)
from streamloss.kernels.fold import STRIDE, Rows, Scratch, Sums, fold_tile, scratch
from streamloss.kernels.panel import (
    CLIPPED,
    SMALL,
    Loss,
    Source,
    Stored,
    load_rest,
    load_rows,
    mark_labels,
    short_labels,
    write_labelled,
)
from streamloss.kernels.sides import (
    CHUNK,
    ENTROPY_,
    PEAK,
    SIDE,
    TOP,
    TOTAL,
    broken_rule,
    finish_side,
    fold_lanes,
    renormalized,
    row_side,
    short_sides,
    side_holds,
    side_suspects,
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

# Of a row: its label's stored value, the label, its rank, whether the two tops agree, and the prediction's entropy and top.
OWN, LABEL_, RANK, AGREE, INNER, TOPS = range(6)


@part
def write_rows(
    first: int, count: int, labelled: bool, exact: bool, loss: Loss, room: Any, flags: Any, out: Any, at: Any
) -> None:
    """The columns of up to 32 rows into their slots; `exact` when both sides sum to 1 by construction."""
    sums, own = room.sums, room.own
    forward, backward, top = load(sums, FORWARD, 0), load(sums, BACKWARD, 0), load(own, TOPS, 0)
    if not exact:
        forward, backward = forward + load(sums, GAP, 0), backward + load(sums, BACK_GAP, 0)
    store(out, ENTROPY, at, load(own, INNER, 0))
    store(out, CONFIDENCE, at, top)
    store(out, TARGET_ENTROPY, at, load(sums, Q_ENTROPY, 0))
    store(out, CROSS_ENTROPY, at, load(sums, CROSS, 0))
    store(out, KL, at, forward)
    store(out, REVERSE_KL, at, backward)
    store(out, JS, at, load(sums, JENSEN, 0))
    store(out, BRIER, at, load(sums, SQUARE, 0))
    store(out, SAME_TOP, at, load(own, AGREE, 0))
    if loss.gamma >= 0.0:
        store(out, FOCAL, at, load(sums, FOCAL_, 0))
    if loss.cap < INF:
        for lane in range(lane_from(), lane_to(count)):
            flags[first + lane] |= CLIPPED if sums[CUT, lane] > 0.0 else 0
    if labelled:
        write_labelled(top, load(own, RANK, 0), loss.top_k, out, at)


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
def short_tops(side: Any, k: int) -> Any:
    """The first of each lane's classes that has its peak."""
    peak, top = load(side.side, PEAK, 0), lanes(-1.0)
    for j in range(k):
        top = select((load(side.panel, j, 0) == peak) & (top < 0.0), np.float64(j), top)
    return top


@part
def sum_short(xq: Any, xp: Any, first: int, count: int, rows: Rows, stored_q: Stored, stored_p: Stored, room: Room) -> None:
    """The statistics of both sides of up to 32 rows of SMALL classes or fewer, one in every lane, and of their labels."""
    k, own, nowhere = xp.shape[1], room.own, np.int64(0)
    load_rows(xq, first, count, rows.code, room.q.panel)
    load_rows(xp, first, count, rows.code, room.p.panel)
    short_sides(stored_q.form, room.q.panel, k, stored_q.scale, room.q.side, room.d, room.q.e, nowhere)
    short_sides(stored_p.form, room.p.panel, k, stored_p.scale, room.p.side, room.d, room.p.e, nowhere)
    store(own, AGREE, 0, select(short_tops(room.q, k) == short_tops(room.p, k), lanes(1.0), 0.0))
    if rows.label.shape[0] > 0:
        short_labels(room.p.panel, k, first, count, rows.label, rows.code, own, np.int64(OWN))


@part
def judge(xq: Any, xp: Any, first: int, count: Any, rows: Rows, stored_q: Stored, stored_p: Stored, q: Any, p: Any) -> None:
    """Gives their rule to rows that break one, by the statistics of both sides, whose first column is the first row's."""
    normalize, code, flags = stored_p.normalize, rows.code, rows.flags
    if side_suspects(stored_q.form, stored_q.tolerance, normalize, q, count) > 0:
        for lane in range(lane_from(), lane_to(count)):
            i = first + lane
            if code[i] == USED and not side_holds(stored_q.form, stored_q.tolerance, normalize, q, lane):
                code[i] = broken_rule(stored_q.form, xq, i)
                rows.at_target[i] = 1
    if side_suspects(stored_p.form, stored_p.tolerance, normalize, p, count) > 0:
        for lane in range(lane_from(), lane_to(count)):
            i = first + lane
            if code[i] == USED and not side_holds(stored_p.form, stored_p.tolerance, normalize, p, lane):
                code[i] = broken_rule(stored_p.form, xp, i)
    if normalize:
        for lane in range(lane_from(), lane_to(count)):
            flags[first + lane] |= renormalized(stored_q.form, stored_q.tolerance, q[TOTAL, lane])
            flags[first + lane] |= renormalized(stored_p.form, stored_p.tolerance, p[TOTAL, lane])


@part
def finish_sides(
    xq: Any, xp: Any, first: int, count: int, rows: Rows, stored_q: Stored, stored_p: Stored, q: Any, p: Any, own: Any
) -> None:
    """From the sums of up to 32 rows to their figures, once the rows are judged."""
    judge(xq, xp, first, count, rows, stored_q, stored_p, q, p)
    finish_side(stored_q.form, stored_q.normalize, q)
    finish_side(stored_p.form, stored_p.normalize, p)
    store(own, INNER, 0, load(p, ENTROPY_, 0))
    store(own, TOPS, 0, load(p, TOP, 0))


@part
def add_short(
    xq: Any, xp: Any, first: int, count: int, rows: Rows, stored_q: Stored, stored_p: Stored, loss: Loss, room: Room
) -> None:
    """The columns of up to 32 rows of SMALL classes or fewer, one in every lane."""
    k, q, p, sums, own = xp.shape[1], room.q, room.p, room.sums, room.own
    nowhere, one = np.int64(0), np.int64(1)
    sum_short(xq, xp, first, count, rows, stored_q, stored_p, room)
    finish_sides(xq, xp, first, count, rows, stored_q, stored_p, q.side, p.side, own)
    no_sums(sums)
    at_q, at_p = Source(q.panel, nowhere, one, nowhere), Source(p.panel, nowhere, one, nowhere)
    add_pairs(at_q, at_p, k, np.int64(LANES), nowhere, stored_q, stored_p, k, loss, q, p, sums)


@part
def add_long(
    xq: Any, xp: Any, row: int, label: Any, rows: Rows, stored_q: Stored, stored_p: Stored, loss: Loss, room: Room, column: Any
) -> None:
    """The column of one longer row, whose classes stand in the lanes."""
    k, q, p, own = xp.shape[1], room.q, room.p, room.own
    nowhere, one, all_ = np.int64(0), np.int64(1), np.int64(LANES)
    row_side(stored_q.form, xq, row, np.int64(-1), stored_q.scale, q.panel, q.sums, room.d, q.e, nowhere, q.found, q.side)
    row_side(stored_p.form, xp, row, label, stored_p.scale, p.panel, p.sums, room.d, p.e, nowhere, p.found, p.side)
    judge(xq, xp, row, one, rows, stored_q, stored_p, q.side, p.side)
    finish_side(stored_q.form, stored_q.normalize, q.side)
    finish_side(stored_p.form, stored_p.normalize, p.side)
    own[RANK, column] = p.found[1]
    own[AGREE, column] = np.float64(first_at(xq, row, q.found[0]) == first_at(xp, row, p.found[0]))
    own[INNER, column], own[TOPS, column] = p.side[ENTROPY_, 0], p.side[TOP, 0]
    sums, full = room.lanes, k // LANES
    no_sums(sums)
    row_q, row_p = Source(xq, row, nowhere, all_), Source(xp, row, nowhere, all_)
    add_pairs(row_q, row_p, full, all_, nowhere, stored_q, stored_p, k, loss, q, p, sums)
    rest = load_rest(stored_q.form, xq, row, q.panel)
    load_rest(stored_p.form, xp, row, p.panel)
    at_q, at_p = Source(q.panel, nowhere, one, nowhere), Source(p.panel, nowhere, one, nowhere)
    add_pairs(at_q, at_p, rest, k - full * LANES, full, stored_q, stored_p, k, loss, q, p, sums)
    fold_lanes(sums, nowhere, np.int64(SUMS), room.sums, column)


@part
def write_block(
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
    at: Any,
) -> None:
    """The values of up to 32 rows."""
    k, label, code = xp.shape[1], rows.label, rows.code
    labelled = label.shape[0] > 0
    if labelled:
        mark_labels(label, first, count, k, code)
    if k <= SMALL:
        add_short(xq, xp, first, count, rows, stored_q, stored_p, loss, room)
    else:
        for lane in range(count):
            i = first + lane
            if code[i] == USED:
                y = label[i] if labelled else np.int64(-1)
                add_long(xq, xp, i, y, rows, stored_q, stored_p, loss, room, lane)
    exact = sums_to_one(stored_q) and sums_to_one(stored_p) and loss.cap == INF
    write_rows(first, count, labelled, exact, loss, room, rows.flags, out, at)


@allocating
def side_room(x: Any) -> Side:
    """Room for one side of the rows of x."""
    k = x.shape[1]
    return Side(
        np.zeros((SMALL, LANES), x.dtype),
        np.zeros((SIDE, LANES)),
        np.zeros((max(SMALL, k // LANES + 1), LANES)),
        np.zeros((SIDE, LANES)),
        np.zeros(2),
        np.zeros((CHUNK, LANES)),
        np.zeros((CHUNK, LANES)),
    )


@loop
def run_tiles(
    xq: Any, xp: Any, rows: Rows, sums: Sums, stored_q: Stored, stored_p: Stored, loss: Loss, t: Any, room: Room, tile: Scratch,
    out: Any,
) -> None:  # fmt: skip
    """Tile after tile of rows, as long as there are any, for thread t."""
    n = xp.shape[0]
    first = take(rows.cursor, rows.step)
    while first < n:
        m = min(rows.step, n - first)
        for i in range(0, m, LANES):
            write_block(xq, xp, first + i, min(LANES, m - i), rows, stored_q, stored_p, loss, room, out, np.int64(i))
        fold_tile(rows, first, m, out, sums, t, tile)
        first = take(rows.cursor, rows.step)


@kernel
def pair(xq: Any, xp: Any, rows: Rows, sums: Sums, stored_q: Stored, stored_p: Stored, loss: Loss, threads: int) -> None:
    """Folds the rows of targets xq and predictions xp, both (n, K); breaks of rules go into rows.code.

    rows.at_target (n,) tells whether a broken rule is the target's.
    """
    for t in prange(threads):
        tile = scratch()
        out = np.empty((SLOTS, STRIDE))
        room = Room(
            side_room(xq), side_room(xp), np.zeros((SUMS, LANES)), np.zeros((SUMS, LANES)), np.zeros((6, LANES)),
            np.zeros((CHUNK, LANES)),
        )  # fmt: skip
        run_tiles(xq, xp, rows, sums, stored_q, stored_p, loss, np.int64(t), room, tile, out)
