"""The values of rows on a CUDA device. A warp takes up to 32 rows at a time, and works on them by the CPU's own text.

Nothing is added up here: the values that somebody wants go to rows.out, from where `cuda.fold` takes them. A block is one warp;
under the simulator a warp is one thread that has all 32 lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from streamloss.errors import LABEL, NAN, PROBABILITY_ABOVE_ONE, USED
from streamloss.ieee.bits import LANES, lane_from, lane_of, lane_to, lanes, load, meet, select, store, widen
from streamloss.ieee.elementary import INF, log, log_rest, logistic
from streamloss.jit import part
from streamloss.kernels import categorical as of_classes
from streamloss.kernels import pair as of_pairs
from streamloss.kernels.binary import (
    binary_rule,
    brier_of,
    capped_kl,
    certainty,
    focal_of,
    hit_of,
    is_cut,
    loss_of,
    plain_kl,
    sharp_losses,
    smoothed,
    soft_terms,
)
from streamloss.kernels.categorical import FIGURES
from streamloss.kernels.cuda import long
from streamloss.kernels.cuda.classes import add_pairs, short_side
from streamloss.kernels.cuda.warps import BESIDE, WIDTH
from streamloss.kernels.divergence import SUMS, no_sums, sums_to_one
from streamloss.kernels.fold import Rows
from streamloss.kernels.panel import CLIPPED, LOGITS, SMALL, Loss, Source, Stored, mark_labels, short_labels
from streamloss.kernels.sides import PEAK, SHIFT, SIDE
from streamloss.quantities import (
    ACCURACY,
    BRIER,
    BYTES,
    CONFIDENCE,
    CROSS_ENTROPY,
    ENTROPY,
    ENTROPY_GAP,
    FOCAL,
    KL,
    OUTCOME,
    OVERCONFIDENCE,
    SCORE,
    SLOTS,
    TARGET_ENTROPY,
)


@part
def keep(rows: Rows, first: Any, count: Any, tile: Any) -> None:
    """Puts the values that are wanted of up to 32 rows, which stand in the tile (SLOTS, 32), into rows.out."""
    if rows.gap:
        store(tile, ENTROPY_GAP, 0, load(tile, CROSS_ENTROPY, 0) - load(tile, ENTROPY, 0))
    for lane in range(lane_from(), lane_to(count)):
        if rows.bytes.shape[0] > 0:
            tile[BYTES, lane] = rows.bytes[first + lane]
        for s in range(rows.kept.shape[0]):
            rows.out[s, first + lane] = tile[rows.kept[s], lane]
    meet()


FEW = 32  # classes of rows that stand in shared memory by the dozens


@part
def onward(row: Any, j: Any, k: Any) -> Any:
    """The place in rows of k classes that is WIDTH values further."""
    row, j = row + WIDTH // k, j + WIDTH % k
    return (row + 1, j - k) if j >= k else (row, j)


@part
def load_panel(x: Any, first: Any, count: Any, code: Any, panel: Any) -> None:
    """panel[j, lane] = x[first + lane, j], as stored; lanes past the last row and rows that are not used become zeros. Threads
    that are side by side load values that are.
    """
    k: Any = np.int64(x.shape[1])
    each, every = np.int64(lane_from()), count * k
    row, j = each // k, each % k
    while each + 3 * WIDTH < every:
        row_1, j_1 = onward(row, j, k)
        row_2, j_2 = onward(row_1, j_1, k)
        row_3, j_3 = onward(row_2, j_2, k)
        v_0, v_1, v_2, v_3 = x[first + row, j], x[first + row_1, j_1], x[first + row_2, j_2], x[first + row_3, j_3]
        panel[j, row], panel[j_1, row_1], panel[j_2, row_2], panel[j_3, row_3] = v_0, v_1, v_2, v_3
        row, j = onward(row_3, j_3, k)
        each += 4 * WIDTH
    while each < every:
        panel[j, row] = x[first + row, j]
        row, j = onward(row, j, k)
        each += WIDTH
    meet()
    for lane in range(lane_from(), lane_to(np.int64(LANES))):
        if lane >= count or code[first + lane] != USED:
            for j in range(k):
                panel[j, lane] = 0
    meet()


@part
def of_record(rows: Rows, first: Any, count: Any, records: Any, record: Any, unused: Any, into: Any, at: Any) -> None:
    """into[at] = what a column of the records has of up to 32 rows."""
    for lane in range(lane_from(), lane_to(np.int64(LANES))):
        used = lane < count and rows.code[first + lane] == USED
        into[at, lane] = records[first + lane, record] if used else unused


class Room(NamedTuple):
    """What a warp works in, as `kernels.categorical` does. sums and d are where long rows' smoothing works, before there are
    values in the tile.
    """

    panel: Any
    side: Any
    figures: Any
    sums: Any
    d: Any


@part
def run_categorical(x: Any, rows: Rows, stored: Stored, loss: Loss, records: Any, room: Room, tile: Any) -> None:
    """A block's rows."""
    n, every = np.int64(x.shape[0]), np.int64(cuda.gridDim.x) * rows.step
    first, k, labelled = np.int64(cuda.blockIdx.x) * rows.step, x.shape[1], rows.label.shape[0] > 0
    side, figures = room.side, room.figures
    while first < n:
        count = min(rows.step, n - first)
        if labelled:
            mark_labels(rows.label, first, count, k, rows.code)
        if k <= SMALL:
            load_panel(x, first, count, rows.code, room.panel)
            short_side(stored.form, room.panel, k, stored.scale, side)
            if labelled:
                short_labels(room.panel, k, first, count, rows.label, rows.code, figures, np.int64(of_classes.OWN))
        else:
            for j in range(SIDE):
                unused = 0.0 if j in (PEAK, SHIFT) else 1.0
                of_record(rows, first, count, records, j, unused, side, j)
            of_record(rows, first, count, records, long.OWN, 0.0, figures, of_classes.OWN)
            of_record(rows, first, count, records, long.RANK, 0.0, figures, of_classes.RANK)
            meet()
        of_classes.finish_block(x, first, count, rows, stored, loss, room, tile, np.int64(0))
        keep(rows, first, count, tile)
        first += every


def categorical(x: Any, rows: Rows, stored: Stored, loss: Loss, records: Any) -> None:
    """The rows of x (n, K), of up to FEW classes or of more than SMALL, `rows.step` of them a block at a time; breaks of rules
    go into rows.code. Of more than SMALL classes the records (n, long.SINGLE) are known.
    """
    # The simulator tells shared arrays apart by their lines.
    tile = cuda.shared.array((SLOTS, LANES), np.float64)
    side = cuda.shared.array((SIDE, LANES), np.float64)
    figures = cuda.shared.array((FIGURES, LANES), np.float64)
    panel = cuda.shared.array((FEW, BESIDE), x.dtype)
    run_categorical(x, rows, stored, loss, records, Room(panel, side, figures, tile[:SIDE], tile[SIDE:]), tile)


def categorical_small(x: Any, rows: Rows, stored: Stored, loss: Loss, records: Any) -> None:
    """The same of more than FEW classes and up to SMALL; records is empty."""
    tile = cuda.shared.array((SLOTS, LANES), np.float64)
    side = cuda.shared.array((SIDE, LANES), np.float64)
    figures = cuda.shared.array((FIGURES, LANES), np.float64)
    panel = cuda.shared.array((SMALL, BESIDE), x.dtype)
    run_categorical(x, rows, stored, loss, records, Room(panel, side, figures, tile[:SIDE], tile[SIDE:]), tile)


class Half(NamedTuple):
    """One side of 32 rows: their classes and their statistics."""

    panel: Any
    side: Any


class Both(NamedTuple):
    """What a warp works in of pairs, as `kernels.pair` does."""

    q: Half
    p: Half
    sums: Any
    own: Any


@part
def sum_pairs(
    xq: Any, xp: Any, first: Any, count: Any, rows: Rows, stored_q: Stored, stored_p: Stored, loss: Loss, room: Both
) -> None:
    """The columns of up to 32 rows of SMALL classes or fewer, one in every lane."""
    k, q, p, own = xp.shape[1], room.q, room.p, room.own
    load_panel(xq, first, count, rows.code, q.panel)
    load_panel(xp, first, count, rows.code, p.panel)
    short_side(stored_q.form, q.panel, k, stored_q.scale, q.side)
    short_side(stored_p.form, p.panel, k, stored_p.scale, p.side)
    store(own, of_pairs.AGREE, 0, select(of_pairs.short_tops(q, k) == of_pairs.short_tops(p, k), lanes(1.0), 0.0))
    if rows.label.shape[0] > 0:
        short_labels(p.panel, k, first, count, rows.label, rows.code, own, np.int64(of_pairs.OWN))
    of_pairs.finish_sides(xq, xp, first, count, rows, stored_q, stored_p, q.side, p.side, own)
    no_sums(room.sums)
    at_q = Source(q.panel, np.int64(0), np.int64(1), np.int64(0))
    at_p = Source(p.panel, np.int64(0), np.int64(1), np.int64(0))
    add_pairs(at_q, at_p, k, np.int64(LANES), stored_q, stored_p, k, loss, q.side, p.side, room.sums)


@part
def run_pair(
    xq: Any, xp: Any, rows: Rows, stored_q: Stored, stored_p: Stored, loss: Loss, records: Any, room: Both, tile: Any
) -> None:
    """A block's rows."""
    n, every = np.int64(xp.shape[0]), np.int64(cuda.gridDim.x) * rows.step
    first, k, labelled = np.int64(cuda.blockIdx.x) * rows.step, xp.shape[1], rows.label.shape[0] > 0
    exact = sums_to_one(stored_q) and sums_to_one(stored_p) and loss.cap == INF
    while first < n:
        count = min(rows.step, n - first)
        if labelled:
            mark_labels(rows.label, first, count, k, rows.code)
        if k <= SMALL:
            sum_pairs(xq, xp, first, count, rows, stored_q, stored_p, loss, room)
        else:
            for j in range(SUMS):
                of_record(rows, first, count, records, j, 0.0, room.sums, j)
            of_record(rows, first, count, records, long.PAIR_RANK, 0.0, room.own, of_pairs.RANK)
            of_record(rows, first, count, records, long.AGREE, 0.0, room.own, of_pairs.AGREE)
            of_record(rows, first, count, records, long.INNER, 0.0, room.own, of_pairs.INNER)
            of_record(rows, first, count, records, long.TOPS, 0.0, room.own, of_pairs.TOPS)
            meet()
        of_pairs.write_rows(first, count, labelled, exact, loss, room, rows.flags, tile, np.int64(0))
        keep(rows, first, count, tile)
        first += every


def pair(
    xq: Any, xp: Any, rows: Rows, stored_q: Stored, stored_p: Stored, loss: Loss, records: Any, panels_q: Any, panels_p: Any
) -> None:
    """The rows of targets xq and predictions xp, both (n, K), as for `categorical`; the records are (n, long.PAIR).

    panels (blocks, K, 33), of the types of xq and xp, are room for more than FEW classes and up to SMALL; else there are none.
    """
    tile = cuda.shared.array((SLOTS, LANES), np.float64)
    side_q = cuda.shared.array((SIDE, LANES), np.float64)
    side_p = cuda.shared.array((SIDE, LANES), np.float64)
    sums = cuda.shared.array((SUMS, LANES), np.float64)
    own = cuda.shared.array((6, LANES), np.float64)
    panel_q = cuda.shared.array((FEW, BESIDE), xq.dtype)
    panel_p = cuda.shared.array((FEW, BESIDE), xp.dtype)
    if panels_q.shape[0] > 0:
        block = cuda.blockIdx.x
        room = Both(Half(panels_q[block], side_q), Half(panels_p[block], side_p), sums, own)
        run_pair(xq, xp, rows, stored_q, stored_p, loss, records, room, tile)
    else:
        few = Both(Half(panel_q, side_q), Half(panel_p, side_p), sums, own)
        run_pair(xq, xp, rows, stored_q, stored_p, loss, records, few, tile)


@part
def label_of(rows: Rows, i: Any) -> Any:
    """The label of a row, 0 to 1; outside it breaks a rule."""
    y = np.float64(rows.label[i])
    if rows.code[i] == USED and not 0.0 <= y <= 1.0:
        rows.code[i] = LABEL
    return y


@part
def write_labelled(v: Any, y: Any, p: Any, rest: Any, cost_1: Any, cost_0: Any, above: Any, loss: Loss, tile: Any) -> None:
    """What a label gives, of 32 rows."""
    _, top = certainty(p, rest, cost_1, cost_0)
    hit = hit_of(above, y)
    store(tile, SCORE, 0, p)
    store(tile, OUTCOME, 0, y)
    store(tile, ACCURACY, 0, hit)
    store(tile, OVERCONFIDENCE, 0, top - hit)
    if not loss.soft and loss.pos_weight == 1.0 and loss.cap == INF and loss.gamma < 0.0:
        paid, brier = sharp_losses(y, p, rest, cost_1, cost_0)
        store(tile, CROSS_ENTROPY, 0, paid)
        store(tile, BRIER, 0, brier)
        return
    q = smoothed(y, loss.smoothing) if loss.smoothing > 0.0 else y
    store(tile, CROSS_ENTROPY, 0, loss_of(q, cost_1, cost_0, loss.cap, loss.pos_weight))
    store(tile, BRIER, 0, brier_of(q, p, rest))
    if loss.soft:
        log_1, log_0, own = soft_terms(q)
        store(tile, TARGET_ENTROPY, 0, own)
        plain = plain_kl(q, p, rest, cost_1, cost_0, log_1, log_0)
        cut = (cost_1 > loss.cap) | (cost_0 > loss.cap)
        store(tile, KL, 0, select(cut, capped_kl(q, cost_1, cost_0, log_1, log_0, loss.cap), plain))
    if loss.gamma >= 0.0:
        store(tile, FOCAL, 0, focal_of(q, p, rest, cost_1, cost_0, loss.cap, loss.gamma, loss.alpha))


@part
def mark_cut(rows: Rows, i: Any, lane: Any, q: Any, cost_1: Any, cost_0: Any, cap: Any) -> None:
    """Notes that the cap has made a row's loss less."""
    if lane_of(is_cut(q, cost_1, cost_0, cap), lane):
        rows.flags[i] |= CLIPPED


def binary(x: Any, rows: Rows, stored: Stored, loss: Loss) -> None:
    """The rows of logits or probabilities x (n,); breaks of rules go into rows.code."""
    tile = cuda.shared.array((SLOTS, LANES), np.float64)
    given = cuda.shared.array((2, LANES), np.float64)  # the stored value and the label
    n, every = np.int64(x.shape[0]), np.int64(cuda.gridDim.x) * LANES
    first = np.int64(cuda.blockIdx.x) * LANES
    labelled = rows.label.shape[0] > 0
    while first < n:
        count = min(np.int64(LANES), n - first)
        for lane in range(lane_from(), lane_to(count)):
            i = first + lane
            v = widen(x[i])
            given[0, lane] = v
            if rows.code[i] == USED:
                rows.code[i] = binary_rule(stored.form, v)
            if labelled:
                given[1, lane] = label_of(rows, i)
        meet()
        v, y = load(given, 0, 0), load(given, 1, 0)
        if stored.form == LOGITS:
            p, rest, cost_1, cost_0 = logistic(v * stored.scale)
            above = select(v > 0.0, lanes(1.0), 0.0)
        else:
            p, rest, cost_1, cost_0 = v, 1.0 - v, -log(v), -log_rest(v)
            above = select(v > 0.5, lanes(1.0), 0.0)
        h, top = certainty(p, rest, cost_1, cost_0)
        store(tile, ENTROPY, 0, h)
        store(tile, CONFIDENCE, 0, top)
        if labelled:
            write_labelled(v, y, p, rest, cost_1, cost_0, above, loss, tile)
            if loss.cap < INF:
                q = smoothed(y, loss.smoothing) if loss.smoothing > 0.0 else y
                for lane in range(lane_from(), lane_to(count)):
                    mark_cut(rows, first + lane, lane, q, cost_1, cost_0, loss.cap)
        else:
            store(tile, SCORE, 0, p)
        keep(rows, first, count, tile)
        first += every


def score(x: Any, rows: Rows, stored: Stored, loss: Loss) -> None:
    """Cross-entropies −x of log-probabilities x (n,); above 0 only within tolerance."""
    tile = cuda.shared.array((SLOTS, LANES), np.float64)
    n, every = np.int64(x.shape[0]), np.int64(cuda.gridDim.x) * LANES
    first = np.int64(cuda.blockIdx.x) * LANES
    while first < n:
        count = min(np.int64(LANES), n - first)
        for lane in range(lane_from(), lane_to(count)):
            i = first + lane
            v = widen(x[i])
            tile[CROSS_ENTROPY, lane] = min(-v, loss.cap)
            if rows.code[i] == USED:
                if v != v:
                    rows.code[i] = NAN
                elif v > stored.tolerance:
                    rows.code[i] = PROBABILITY_ABOVE_ONE
                elif -v > loss.cap:
                    rows.flags[i] |= CLIPPED
        meet()
        keep(rows, first, count, tile)
        first += every
