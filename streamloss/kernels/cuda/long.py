"""Long rows on a CUDA device, their classes in the lanes: a warp takes a row, or all warps of a block take one together.

What a row's classes add up to goes to memory, one record a row; `cuda.rows` makes the values of rows from it. Chunks of steps
are added up in their order whoever has summed them, so a row's bits are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from streamloss.errors import USED
from streamloss.ieee.bits import (
    LANES,
    count_of,
    lane_from,
    lane_of,
    lane_to,
    lanes,
    load,
    load_narrow,
    max_of,
    meet,
    numbered,
    select,
    store,
    sum_of,
    widen,
)
from streamloss.ieee.elementary import INF
from streamloss.jit import part
from streamloss.kernels.cuda.classes import (
    add_pairs,
    add_rest,
    chunk_of,
    fill,
    known,
    last_of,
    pairs,
    side_sums,
    with_pair,
)
from streamloss.kernels.cuda.warps import WIDTH
from streamloss.kernels.divergence import BACKWARD, CROSS, FORWARD, JENSEN, Q_ENTROPY, SQUARE, SUMS, no_sums
from streamloss.kernels.fold import Rows
from streamloss.kernels.pair import judge
from streamloss.kernels.panel import LOGITS, Loss, Source, Stored, load_rest
from streamloss.kernels.sides import BAD, CHUNK, ENTROPY_, OTHERS, PEAK, SIDE, SQUARES, TOP, TOTAL, finish_side, stand_before

WARPS = 4  # of a block
TOGETHER = 4096  # classes from which on all warps of a block take a row together: 8 chunks

# A record of a single side's row: its statistics, the label's stored value and rank; of a pair's: its sums, then these.
OWN, RANK = SIDE, SIDE + 1
PAIR_RANK, AGREE, INNER, TOPS = range(SUMS, SUMS + 4)
SINGLE, PAIR = SIDE + 2, SUMS + 4
PLAIN = 6  # sums of a pair of logits, the first ones


@part
def together(team: Any) -> None:
    """All warps that share a row see what the others have written."""
    if team > 1:
        cuda.syncthreads()


@part
def put(records: Any, row: Any, column: Any, value: Any) -> None:
    """records[row, column] = value, by one thread."""
    for _ in range(lane_from(), lane_to(np.int64(1))):
        records[row, column] = value


@part
def peak_of(x: Any, row: Any, label: Any, rest: Any, panel: Any, team: Any, me: Any, parts: Any) -> Any:
    """The largest value of a row, how many classes stand before its label (see `stand_before`), and the first class that has
    the largest. Where a team shares the row, each warp looks at a share of its steps.
    """
    full = np.int64(x.shape[1]) // LANES
    own = widen(x[row, label]) if label >= 0 else INF
    share = -(-full // team)
    found, ahead, seen = stand_before(x, row, label, own, min(me * share, full), min(me * share + share, full))
    best, count, at = widen(found), widen(ahead), widen(seen)
    if team > 1:
        store(parts[0, 0], me, 0, best)
        store(parts[0, 1], me, 0, count)
        store(parts[0, 2], me, 0, at)
        cuda.syncthreads()
        best, count, at = load(parts[0, 0], 0, 0), load(parts[0, 1], 0, 0), load(parts[0, 2], 0, 0)
        w = np.int64(1)
        while w < team:
            other = load(parts[0, 0], w, 0)
            more = other > best
            best, at = select(more, other, best), select(more, load(parts[0, 2], w, 0), at)
            count = count + load(parts[0, 1], w, 0)
            w += 1
        cuda.syncthreads()
    peak, before = np.float64(max_of(best)), np.int64(sum_of(count))
    first = -max_of(select(best == peak, -(np.float64(LANES) * at + numbered(at)), -INF))
    if rest > 0:
        last = load(panel, 0, 0)
        top = max_of(select(last > peak, last, peak))
        if top > peak:
            peak = np.float64(top)
            first = np.float64(LANES * full) - max_of(select(last == peak, -numbered(last), -INF))
        before += count_of((last > own) | ((last == own) & (numbered(last) < np.float64(label - LANES * full))))
    return peak, before, first


@part
def sums_of_row(
    form: Any, x: Any, row: Any, rest: Any, panel: Any, peak: Any, scale: Any, team: Any, me: Any, parts: Any, shared: Any
) -> Any:
    """The four sums of a row (see `fill`), in every warp that shares it."""
    full, top, zero = np.int64(x.shape[1]) // LANES, lanes(peak), lanes(0.0)
    at = Source(x, row, np.int64(0), np.int64(LANES))
    if team == 1:
        a, b, inner, squares = side_sums(form, at, full, top, scale)
        if rest > 0:
            last_a, last_b, last_inner, last_squares = last_of(form, load(panel, 0, 0), top, scale)
            a, b, inner, squares = a + last_a, b + last_b, inner + last_inner, squares + last_squares
        return sum_of(a), sum_of(b), sum_of(inner), sum_of(squares)
    whole, first, turn = -(-full // CHUNK), np.int64(0), np.int64(0)
    mine = zero  # the sum that this warp adds up, of chunks in their order
    while first < whole + rest:
        c = first + me
        if c < whole + rest:
            if c < whole:
                a, b, inner, squares = chunk_of(form, at, CHUNK * c, min(CHUNK * c + CHUNK, full), top, scale)
            else:
                a, b, inner, squares = last_of(form, load(panel, 0, 0), top, scale)
            store(parts[turn, 0], me, 0, a)
            store(parts[turn, 1], me, 0, b)
            store(parts[turn, 2], me, 0, inner)
            store(parts[turn, 3], me, 0, squares)
        cuda.syncthreads()
        w = np.int64(0)
        while w < min(team, whole + rest - first):
            mine = mine + load(parts[turn, me], w, 0)
            w += 1
        first, turn = first + team, 1 - turn
    put(shared, np.int64(0), me, sum_of(mine))
    cuda.syncthreads()
    found = shared[0, 0], shared[0, 1], shared[0, 2], shared[0, 3]
    cuda.syncthreads()
    return found


@part
def keeps(rows: Rows, row: Any, k: Any) -> Any:
    """Whether a row is used as far as its label says."""
    if rows.label.shape[0] > 0 and not 0 <= rows.label[row] < k:
        return False
    return rows.code[row] == USED


def one(x: Any, rows: Rows, stored: Stored, team: Any, records: Any) -> None:
    """The records (n, SINGLE) of the rows of x (n, K), by `team` warps a row: 1 or WARPS."""
    parts = cuda.shared.array((2, 4, WARPS, LANES), np.float64)
    panels = cuda.shared.array((WARPS, 1, LANES), x.dtype)
    shared = cuda.shared.array((1, WARPS), np.float64)
    warp = np.int64(cuda.threadIdx.x) // WIDTH
    me, panel, at_once = warp % team, panels[warp], WARPS // team
    row, n, k = np.int64(cuda.blockIdx.x) * at_once + warp // team, np.int64(x.shape[0]), np.int64(x.shape[1])
    form, labelled = stored.form, rows.label.shape[0] > 0
    while row < n:
        if keeps(rows, row, k):
            label = rows.label[row] if labelled else np.int64(-1)
            rest = load_rest(form, x, row, panel)
            meet()
            peak, before, _ = peak_of(x, row, label, rest, panel, team, me, parts)
            a, b, inner, squares = sums_of_row(form, x, row, rest, panel, peak, stored.scale, team, me, parts, shared)
            if me == 0:
                logits = form == LOGITS
                for j in range(lane_from(), lane_to(np.int64(SIDE))):
                    records[row, j] = 0.0
                meet()
                put(records, row, np.int64(PEAK), peak)
                put(records, row, np.int64(OTHERS) if logits else np.int64(TOTAL), a)
                put(records, row, np.int64(TOP) if logits else np.int64(BAD), b)
                put(records, row, np.int64(ENTROPY_), inner)
                put(records, row, np.int64(SQUARES), squares)
                put(records, row, np.int64(OWN), widen(x[row, label]) if labelled else 0.0)
                put(records, row, np.int64(RANK), np.float64(before))
        row += np.int64(cuda.gridDim.x) * at_once


@part
def pairs_together(
    at_q: Source, at_p: Source, full: Any, rest: Any, vq: Any, vp: Any, q: Any, p: Any, me: Any, parts: Any
) -> Any:
    """Of the sums of a row's two sides of logits those two that this warp of a team adds up: `me`, and `me` + WARPS where there
    is one. vq and vp are the values of the rest.
    """
    whole, first, turn, zero = -(-full // CHUNK), np.int64(0), np.int64(0), lanes(0.0)
    mine = also = zero
    while first < whole + rest:
        c = first + me
        if c < whole + rest:
            if c < whole:
                entropy, cross, there, back, js, square = pairs(at_q, at_p, CHUNK * c, min(CHUNK * c + CHUNK, full), q, p)
            else:
                entropy, cross, there, back, js, square = with_pair(vq, vp, q, p, zero, zero, zero, zero, zero, zero)
            store(parts[turn, Q_ENTROPY], me, 0, entropy)
            store(parts[turn, CROSS], me, 0, cross)
            store(parts[turn, FORWARD], me, 0, there)
            store(parts[turn, BACKWARD], me, 0, back)
            store(parts[turn, JENSEN], me, 0, js)
            store(parts[turn, SQUARE], me, 0, square)
        cuda.syncthreads()
        w = np.int64(0)
        while w < min(WARPS, whole + rest - first):
            mine = mine + load(parts[turn, me], w, 0)
            if me + WARPS < PLAIN:
                also = also + load(parts[turn, me + WARPS], w, 0)
            w += 1
        first, turn = first + WARPS, 1 - turn
    return sum_of(mine), sum_of(also)


@part
def side_of(
    stored: Stored, x: Any, row: Any, label: Any, panel: Any, team: Any, me: Any, parts: Any, shared: Any, side: Any
) -> Any:
    """The statistics of a row into every lane of the side; returns whether it has a rest, which the panel then has, how many
    classes stand before its label, and the first of the largest.
    """
    rest = load_rest(stored.form, x, row, panel)
    meet()
    peak, before, first = peak_of(x, row, label, rest, panel, team, me, parts)
    a, b, inner, squares = sums_of_row(stored.form, x, row, rest, panel, peak, stored.scale, team, me, parts, shared)
    fill(stored.form, lanes(peak), lanes(a), lanes(b), lanes(inner), lanes(squares), side)
    return rest, before, first


def both(xq: Any, xp: Any, rows: Rows, stored_q: Stored, stored_p: Stored, loss: Loss, team: Any, records: Any) -> None:
    """The records (n, PAIR) of the rows of targets xq and predictions xp, both (n, K), by `team` warps a row. A team of more
    than one is for losses that `all_logits` holds for. Rows that break a rule get it.
    """
    parts = cuda.shared.array((2, PLAIN, WARPS, LANES), np.float64)
    panels_q = cuda.shared.array((WARPS, 1, LANES), xq.dtype)
    panels_p = cuda.shared.array((WARPS, 1, LANES), xp.dtype)
    shared = cuda.shared.array((1, WARPS), np.float64)
    sides_q = cuda.shared.array((WARPS, SIDE, LANES), np.float64)
    sides_p = cuda.shared.array((WARPS, SIDE, LANES), np.float64)
    sums_of_warps = cuda.shared.array((WARPS, SUMS, LANES), np.float64)
    warp = np.int64(cuda.threadIdx.x) // WIDTH
    me, at_once, n, k = warp % team, WARPS // team, np.int64(xp.shape[0]), np.int64(xp.shape[1])
    panel_q, panel_p, q, p, sums = panels_q[warp], panels_p[warp], sides_q[warp], sides_p[warp], sums_of_warps[warp]
    row, full, labelled = np.int64(cuda.blockIdx.x) * at_once + warp // team, k // LANES, rows.label.shape[0] > 0
    nowhere, once = np.int64(0), np.int64(1)
    while row < n:
        if keeps(rows, row, k):
            label = rows.label[row] if labelled else np.int64(-1)
            rest, _, first_q = side_of(stored_q, xq, row, np.int64(-1), panel_q, team, me, parts, shared, q)
            rest, before, first_p = side_of(stored_p, xp, row, label, panel_p, team, me, parts, shared, p)
            if me == 0:
                judge(xq, xp, row, once, rows, stored_q, stored_p, q, p)
            finish_side(stored_q.form, stored_q.normalize, q)
            finish_side(stored_p.form, stored_p.normalize, p)
            if me == 0:
                put(records, row, np.int64(PAIR_RANK), np.float64(before))
                put(records, row, np.int64(AGREE), 1.0 if first_q == first_p else 0.0)
                put(records, row, np.int64(INNER), p[ENTROPY_, 0])
                put(records, row, np.int64(TOPS), p[TOP, 0])
            at_q, at_p = Source(xq, row, nowhere, np.int64(LANES)), Source(xp, row, nowhere, np.int64(LANES))
            if team > 1:
                known_q, known_p = known(stored_q, q), known(stored_p, p)
                vq, vp = load_narrow(panel_q, 0, 0), load_narrow(panel_p, 0, 0)
                mine, also = pairs_together(at_q, at_p, full, rest, vq, vp, known_q, known_p, me, parts)
                put(records, row, me, mine)
                if me + WARPS < SUMS:
                    put(records, row, me + WARPS, also)
                if me + 2 * WARPS < SUMS:
                    put(records, row, me + 2 * WARPS, 0.0)
            else:
                no_sums(sums)
                add_pairs(at_q, at_p, full, np.int64(LANES), stored_q, stored_p, k, loss, q, p, sums)
                if rest > 0:
                    at_q, at_p = Source(panel_q, nowhere, once, nowhere), Source(panel_p, nowhere, once, nowhere)
                    add_rest(at_q, at_p, k - full * LANES, stored_q, stored_p, k, loss, q, p, sums)
                whole = lanes(0.0)  # in lane j the j-th: what one thread alone did in this loop would part it from the others
                for j in range(SUMS):
                    whole = select(numbered(whole) == np.float64(j), lanes(sum_of(load(sums, j, 0))), whole)
                for j in range(lane_from(), lane_to(np.int64(SUMS))):
                    records[row, j] = lane_of(whole, j)
            together(team)
        row += np.int64(cuda.gridDim.x) * at_once
