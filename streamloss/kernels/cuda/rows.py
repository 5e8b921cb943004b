"""The values of rows on a CUDA device. A warp takes up to 32 rows at a time, and works on them by the CPU's own text.

Nothing is added up here: the values that somebody wants go to rows.out, from where `cuda.fold` takes them. A block is one warp;
under the simulator a warp is one thread that has all 32 lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from streamloss.errors import LABEL, NAN, PROBABILITY_ABOVE_ONE, USED
from streamloss.ieee.bits import LANES, lane_from, lane_of, lane_to, lanes, load, meet, select, store, widen
from streamloss.ieee.elementary import INF, log, log_rest, logistic
from streamloss.jit import SIMULATED, part
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
from streamloss.kernels.divergence import SUMS, Side
from streamloss.kernels.divergence import Room as Pair
from streamloss.kernels.fold import Rows
from streamloss.kernels.panel import CLIPPED, LOGITS, Loss, Stored
from streamloss.kernels.sides import CHUNK, SIDE
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

WIDTH = 1 if SIMULATED else LANES  # threads of a warp


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


TWO_CHUNKS, FOUR_CHUNKS = 2 * CHUNK, 4 * CHUNK
FEW = 32  # classes up to which the panel of 32 rows stands in shared memory; one row of it is all that long rows need


@part
def run_categorical(x: Any, rows: Rows, stored: Stored, loss: Loss, room: Any, tile: Any) -> None:
    """A block's rows."""
    n, every = np.int64(x.shape[0]), np.int64(cuda.gridDim.x) * rows.step
    first = np.int64(cuda.blockIdx.x) * rows.step
    while first < n:
        count = min(rows.step, n - first)
        of_classes.write_block(x, first, count, rows, stored, loss, room, tile, np.int64(0))
        keep(rows, first, count, tile)
        first += every


def categorical(x: Any, rows: Rows, stored: Stored, loss: Loss, panels: Any) -> None:
    """The rows of x (n, K), `rows.step` of them a block at a time; breaks of rules go into rows.code.

    panels (blocks, K, 32), of the type of x, is room for more than FEW classes and up to SMALL; else it has no blocks.
    """
    work = cuda.shared.array((TWO_CHUNKS, LANES), np.float64)  # d and exp d, and when these are done with the rows' values
    # The simulator tells shared arrays apart by their lines.
    side = cuda.shared.array((SIDE, LANES), np.float64)
    figures = cuda.shared.array((FIGURES, LANES), np.float64)
    sums = cuda.shared.array((SIDE, LANES), np.float64)
    found = cuda.shared.array(2, np.float64)
    d, e, tile = work[:CHUNK], work[CHUNK:], work[:SLOTS]
    if panels.shape[0] > 0:
        room = of_classes.Room(panels[cuda.blockIdx.x], side, figures, sums, found, d, e)
        run_categorical(x, rows, stored, loss, room, tile)
    else:
        few = of_classes.Room(cuda.shared.array((FEW, LANES), x.dtype), side, figures, sums, found, d, e)
        run_categorical(x, rows, stored, loss, few, tile)


@part
def run_pair(xq: Any, xp: Any, rows: Rows, stored_q: Stored, stored_p: Stored, loss: Loss, room: Any, tile: Any) -> None:
    """A block's rows."""
    n, every = np.int64(xp.shape[0]), np.int64(cuda.gridDim.x) * rows.step
    first = np.int64(cuda.blockIdx.x) * rows.step
    while first < n:
        count = min(rows.step, n - first)
        of_pairs.write_block(xq, xp, first, count, rows, stored_q, stored_p, loss, room, tile, np.int64(0))
        keep(rows, first, count, tile)
        first += every


def pair(
    xq: Any, xp: Any, rows: Rows, stored_q: Stored, stored_p: Stored, loss: Loss, eq: Any, ep: Any, panels_q: Any, panels_p: Any
) -> None:
    """The rows of targets xq and predictions xp, both (n, K).

    eq and ep (blocks, steps, 32) are room for exponentials, panels as for `categorical`.
    """
    block = cuda.blockIdx.x
    work = cuda.shared.array(
        (FOUR_CHUNKS, LANES), np.float64
    )  # ln p and p of both sides, and when they are done with the rows'
    side_q = cuda.shared.array((SIDE, LANES), np.float64)
    side_p = cuda.shared.array((SIDE, LANES), np.float64)
    sums_q = cuda.shared.array((SIDE, LANES), np.float64)
    sums_p = cuda.shared.array((SIDE, LANES), np.float64)
    found_q = cuda.shared.array(2, np.float64)
    found_p = cuda.shared.array(2, np.float64)
    by_lane = cuda.shared.array((SUMS, LANES), np.float64)
    by_row = cuda.shared.array((SUMS, LANES), np.float64)
    own = cuda.shared.array((6, LANES), np.float64)
    logs_q, chances_q, logs_p, chances_p = work[:CHUNK], work[CHUNK : 2 * CHUNK], work[2 * CHUNK : 3 * CHUNK], work[3 * CHUNK :]
    tile = work[:SLOTS]
    if panels_q.shape[0] > 0:
        q = Side(panels_q[block], side_q, eq[block], sums_q, found_q, logs_q, chances_q)
        p = Side(panels_p[block], side_p, ep[block], sums_p, found_p, logs_p, chances_p)
        run_pair(xq, xp, rows, stored_q, stored_p, loss, Pair(q, p, by_lane, by_row, own, logs_p), tile)
    else:
        few_q = Side(cuda.shared.array((FEW, LANES), xq.dtype), side_q, eq[block], sums_q, found_q, logs_q, chances_q)
        few_p = Side(cuda.shared.array((FEW, LANES), xp.dtype), side_p, ep[block], sums_p, found_p, logs_p, chances_p)
        run_pair(xq, xp, rows, stored_q, stored_p, loss, Pair(few_q, few_p, by_lane, by_row, own, logs_p), tile)


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
