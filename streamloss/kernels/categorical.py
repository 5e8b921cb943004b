"""K classes with a hard label or none: every row's losses from one pass over its classes.

For logits z with peak m and d_j = (z_j − m)/T: L = ln Σe^d = log1p(Σe − 1), −ln p_j = L − d_j, H = L − Σe·d / Σe, both terms
of one sign, so nothing cancels. Label smoothing replaces the label by q' = (1 − E)·onehot + E/K. Units: nats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from streamloss.errors import USED
from streamloss.ieee.bits import LANES, lane_from, lane_to, lanes, load, meet, numbered, select, store, widen
from streamloss.ieee.elementary import INF, exp_nonpositive, log
from streamloss.jit import kernel, loop, part, scalar
from streamloss.kernels.cursor import take
from streamloss.kernels.fold import STRIDE, Rows, Scratch, Sums, fold_tile, scratch
from streamloss.kernels.panel import (
    CLIPPED,
    LOGITS,
    PROBS,
    SMALL,
    Loss,
    Source,
    Stored,
    cost,
    load_rest,
    load_rows,
    mark_labels,
    power,
    short_labels,
    times,
    write_labelled,
)
from streamloss.kernels.sides import (
    CHUNK,
    ENTROPY_,
    OTHERS,
    PEAK,
    SHIFT,
    SIDE,
    SQUARES,
    TOP,
    TOTAL,
    broken_rule,
    finish_side,
    fold_lanes,
    fold_side,
    long_side,
    renormalized,
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
    KL,
    SLOTS,
    TARGET_ENTROPY,
)

# A labelled row's figures, one column a row; the last three are the label's stored value, the label itself and its rank.
COST, CHANCE, REST, BRIER_, FOCAL_, COSTS, FOCALS, OWN, LABEL_, RANK = range(10)
FIGURES = 10


class Room(NamedTuple):
    """What a thread works in: of 32 rows the classes (SMALL, 32), statistics and figures; of one row its sums and what
    `peak_and_rank` finds; and d and exp d of CHUNK steps.
    """

    panel: Any
    side: Any
    figures: Any
    sums: Any
    found: Any
    d: Any
    e: Any


@part
def label_figures(
    form: int, normalize: bool, scale: float, cap: float, gamma: float, alpha: float, side: Any, figures: Any
) -> None:
    """−ln p_y (at most `cap`), p_y, 1 − p_y, Brier score and focal loss of every row, from its label's stored value."""
    own, shift = load(figures, OWN, 0), load(side, SHIFT, 0)
    if form == LOGITS:
        d = (own - load(side, PEAK, 0)) * scale
        e, others, share = exp_nonpositive(d), load(side, OTHERS, 0), load(side, TOP, 0)
        store(figures, COST, 0, shift - d)
        store(figures, CHANCE, 0, e * share)
        store(figures, REST, 0, (others + (1.0 - e)) * share)
    else:
        if form == PROBS:
            p = own / load(side, TOTAL, 0) if normalize else own
            store(figures, COST, 0, shift - log(own))
        else:
            v = own - shift
            p = exp_nonpositive(select(v > 700.0, 700.0, v))
            store(figures, COST, 0, shift - own)
        rest = 1.0 - p
        store(figures, CHANCE, 0, p)
        store(figures, REST, 0, select(rest > 0.0, rest, 0.0))
    brier = load(side, SQUARES, 0) - 2.0 * load(figures, CHANCE, 0) + 1.0
    store(figures, BRIER_, 0, select(brier > 0.0, brier, 0.0))
    if gamma >= 0.0:
        paid = load(figures, COST, 0)
        paid = select(paid < cap, paid, cap)
        store(figures, FOCAL_, 0, times(alpha * power(load(figures, REST, 0), gamma), paid))


@loop
def add_costs(
    form: int,
    at: Source,
    steps: int,
    last: Any,
    scale: float,
    cap: float,
    least: float,
    gamma: float,
    alpha: float,
    side: Any,
    figures: Any,
) -> None:
    """Adds −ln p_j, kept between `least` and `cap`, and the focal loss of every class; the last step has `last` lanes (label
    smoothing).
    """
    peak, shift, costs, focals = load(side, PEAK, 0), load(side, SHIFT, 0), load(figures, COSTS, 0), load(figures, FOCALS, 0)
    for step in range(steps):
        there = numbered(peak) < np.float64(LANES if step < steps - 1 else last)
        plain = cost(form, load(at.x, at.row + at.down * step, at.across * step), peak, scale, shift)
        paid = select(plain < cap, plain, cap)
        paid = select(paid > least, paid, least)
        costs = costs + select(there, paid, 0.0)
        if gamma >= 0.0:
            rest = 1.0 - exp_nonpositive(select(plain > 0.0, -plain, 0.0))
            lost = times(alpha * power(select(rest > 0.0, rest, 0.0), gamma), paid)
            focals = focals + select(there, lost, 0.0)
    store(figures, COSTS, 0, costs)
    store(figures, FOCALS, 0, focals)


@scalar
def smoothed_entropy(k: int, smoothing: float) -> Any:
    """H(q') of a hard label smoothed over k classes, in every lane."""
    share = lanes(smoothing / k)
    top = 1.0 - smoothing + share
    h = select(top > 0.0, -top * log(top), 0.0)
    return select(share > 0.0, h - np.float64(k - 1) * share * log(share), h)


@loop
def smooth_figures(k: int, smoothing: float, normalize: bool, side: Any, figures: Any) -> Any:
    """Turns the label's figures into those of q'; returns H(q')."""
    share, kept = lanes(smoothing / k), lanes(1.0 - smoothing)
    hot = kept + share
    mixed = kept * load(figures, CHANCE, 0) + share * (lanes(1.0) if normalize else load(side, TOTAL, 0))
    brier = load(side, SQUARES, 0) - 2.0 * mixed + (hot * hot + np.float64(k - 1) * share * share)
    store(figures, COST, 0, times(kept, load(figures, COST, 0)) + share * load(figures, COSTS, 0))
    store(figures, BRIER_, 0, select(brier > 0.0, brier, 0.0))
    store(figures, FOCAL_, 0, times(kept, load(figures, FOCAL_, 0)) + share * load(figures, FOCALS, 0))
    return smoothed_entropy(k, smoothing)


@part
def write_rows(
    first: int,
    rows: Any,
    labelled: bool,
    k: int,
    stored: Stored,
    loss: Loss,
    side: Any,
    figures: Any,
    flags: Any,
    out: Any,
    at: Any,
) -> None:
    """The rows in the first lanes into their slots, also those whose code says that nobody will look."""
    top = load(side, TOP, 0)
    store(out, ENTROPY, at, load(side, ENTROPY_, 0))
    store(out, CONFIDENCE, at, top)
    if not labelled:
        return
    if loss.cap < INF:
        for lane in range(lane_from(), lane_to(rows)):
            paid = figures[COST, lane]
            flags[first + lane] |= CLIPPED if paid > loss.cap or paid < loss.least else 0
        paid = load(figures, COST, 0)
        paid = select(paid < loss.cap, paid, loss.cap)
        store(figures, COST, 0, select(paid > loss.least, paid, loss.least))
    if loss.smoothing > 0.0:
        floor = smooth_figures(k, loss.smoothing, stored.normalize, side, figures)
        proper = (stored.form == LOGITS or stored.normalize) and loss.cap == INF  # rows as they are may truly fall below 0
        kl = load(figures, COST, 0) - floor
        store(out, TARGET_ENTROPY, at, floor)
        store(out, KL, at, select(kl < 0.0, 0.0, kl) if proper else kl)
    store(out, CROSS_ENTROPY, at, load(figures, COST, 0))
    store(out, BRIER, at, load(figures, BRIER_, 0))
    if loss.gamma >= 0.0:
        store(out, FOCAL, at, load(figures, FOCAL_, 0))
    write_labelled(top, load(figures, RANK, 0), loss.top_k, out, at)


@loop
def smooth_long(x: Any, row: int, column: Any, stored: Stored, loss: Loss, room: Any) -> None:
    """Σ min(−ln p_j, cap) and Σ focal over one long row's classes, into its column of the figures."""
    form, scale, k = stored.form, stored.scale, x.shape[1]
    full = k // LANES
    sums, side = room.sums, room.side
    store(sums, PEAK, 0, lanes(side[PEAK, column]))
    store(sums, SHIFT, 0, lanes(side[SHIFT, column]))
    costs = room.d[:FIGURES]
    store(costs, COSTS, 0, lanes(0.0))
    store(costs, FOCALS, 0, lanes(0.0))
    nowhere, one, all_ = np.int64(0), np.int64(1), np.int64(LANES)
    add_costs(form, Source(x, row, nowhere, all_), full, all_, scale, loss.cap, loss.least, loss.gamma, loss.alpha, sums, costs)
    rest = load_rest(form, x, row, room.panel)
    at_rest = Source(room.panel, nowhere, one, nowhere)
    add_costs(form, at_rest, rest, k - full * LANES, scale, loss.cap, loss.least, loss.gamma, loss.alpha, sums, costs)
    fold_lanes(costs, np.int64(COSTS), np.int64(FOCALS + 1), room.figures, column)


@part
def sum_short(x: Any, first: int, count: int, rows: Rows, stored: Stored, room: Room) -> None:
    """The statistics of up to 32 rows of SMALL classes or fewer, one in every lane, and what their labels stand for."""
    k, panel = x.shape[1], room.panel
    load_rows(x, first, count, rows.code, panel)
    short_sides(stored.form, panel, k, stored.scale, room.side, room.d, room.e, np.int64(-1))
    if rows.label.shape[0] > 0:
        short_labels(panel, k, first, count, rows.label, rows.code, room.figures, np.int64(OWN))


@part
def sum_long(x: Any, first: int, count: int, rows: Rows, stored: Stored, room: Room) -> None:
    """The same of longer rows, one after the other, their classes in the lanes."""
    labelled = rows.label.shape[0] > 0
    side, figures, found = room.side, room.figures, room.found
    for lane in range(LANES):
        used = lane < count and rows.code[first + lane] == USED
        y = rows.label[first + lane] if used and labelled else np.int64(-1)
        if used:
            long_side(stored.form, x, first + lane, y, stored.scale, room.panel, room.sums, room.d, room.e, np.int64(-1), found)
            fold_side(stored.form, room.sums, side, lane)
        else:
            for row in range(SIDE):
                side[row, lane] = 1.0
        side[PEAK, lane], side[SHIFT, lane] = found[0] if used else 0.0, 0.0
        if labelled:
            figures[OWN, lane] = widen(x[first + lane, y]) if used else 0.0
            figures[RANK, lane] = found[1]


@part
def write_block(x: Any, first: int, count: int, rows: Rows, stored: Stored, loss: Loss, room: Room, out: Any, at: Any) -> None:
    """The values of up to 32 rows."""
    if rows.label.shape[0] > 0:
        mark_labels(rows.label, first, count, x.shape[1], rows.code)
    if x.shape[1] <= SMALL:
        sum_short(x, first, count, rows, stored, room)
    else:
        sum_long(x, first, count, rows, stored, room)
    finish_block(x, first, count, rows, stored, loss, room, out, at)


@part
def finish_block(x: Any, first: int, count: int, rows: Rows, stored: Stored, loss: Loss, room: Any, out: Any, at: Any) -> None:
    """The values of up to 32 rows whose sums are found."""
    form, scale, tolerance, normalize = stored
    k, code, labelled, side, figures = x.shape[1], rows.code, rows.label.shape[0] > 0, room.side, room.figures
    if side_suspects(form, tolerance, normalize, side, count) > 0:
        for lane in range(lane_from(), lane_to(count)):
            i = first + lane
            if code[i] == USED and not side_holds(form, tolerance, normalize, side, lane):
                code[i] = broken_rule(form, x, i)
        meet()
    if normalize:
        for lane in range(lane_from(), lane_to(count)):
            rows.flags[first + lane] |= renormalized(form, tolerance, side[TOTAL, lane])
    finish_side(form, normalize, side)
    if labelled:
        label_figures(form, normalize, scale, loss.cap, loss.gamma, loss.alpha, side, figures)
    if labelled and loss.smoothing > 0.0:
        store(figures, COSTS, 0, lanes(0.0))
        store(figures, FOCALS, 0, lanes(0.0))
        if k <= SMALL:
            at_rows = Source(room.panel, np.int64(0), np.int64(1), np.int64(0))
            add_costs(form, at_rows, k, np.int64(LANES), scale, loss.cap, loss.least, loss.gamma, loss.alpha, side, figures)
        else:
            for lane in range(count):
                if code[first + lane] == USED:
                    smooth_long(x, first + lane, lane, stored, loss, room)
    write_rows(first, count, labelled, k, stored, loss, side, figures, rows.flags, out, at)


@loop
def run_tiles(x: Any, rows: Rows, sums: Sums, stored: Stored, loss: Loss, t: Any, room: Room, tile: Scratch, out: Any) -> None:
    """Tile after tile of rows, as long as there are any, for thread t."""
    n = x.shape[0]
    first = take(rows.cursor, rows.step)
    while first < n:
        m = min(rows.step, n - first)
        for i in range(0, m, LANES):
            write_block(x, first + i, min(LANES, m - i), rows, stored, loss, room, out, np.int64(i))
        fold_tile(rows, first, m, out, sums, t, tile)
        first = take(rows.cursor, rows.step)


@kernel
def categorical(x: Any, rows: Rows, sums: Sums, stored: Stored, loss: Loss, threads: int) -> None:
    """Folds the rows of x (n, K); breaks of rules go into rows.code.

    rows.label is (n,) int64, or (0,) without labels. Only rows whose code is USED are looked at.
    """
    for t in prange(threads):
        tile = scratch()
        out = np.empty((SLOTS, STRIDE))
        room = Room(
            np.zeros((SMALL, LANES), x.dtype), np.zeros((SIDE, LANES)), np.zeros((FIGURES, LANES)), np.zeros((SIDE, LANES)),
            np.zeros(2), np.zeros((CHUNK, LANES)), np.zeros((CHUNK, LANES)),
        )  # fmt: skip
        run_tiles(x, rows, sums, stored, loss, np.int64(t), room, tile, out)
