"""K classes with a hard label or none: every row's losses from one pass over its classes.

For logits z with peak m and d_j = (z_j − m)/T: L = ln Σe^d = log1p(Σe − 1), −ln p_j = L − d_j, H = L − Σe·d / Σe, both terms
of one sign, so nothing cancels. Label smoothing replaces the label by q' = (1 − E)·onehot + E/K. Units: nats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from streamloss.errors import LABEL, USED
from streamloss.ieee.bits import widen
from streamloss.ieee.elementary import INF, exp_nonpositive, log
from streamloss.jit import kernel, loop, scalar
from streamloss.kernels.cursor import take
from streamloss.kernels.fold import STRIDE, Rows, Sums, fold_tile, scratch
from streamloss.kernels.panel import (
    CLIPPED,
    ENTROPY_,
    LANES,
    LOGITS,
    OTHERS,
    PEAK,
    PROBS,
    SHIFT,
    SIDE,
    SMALL,
    SQUARES,
    TOP,
    TOTAL,
    Loss,
    Stored,
    broken_rule,
    cost,
    finish_side,
    fold_lanes,
    large_rank,
    large_side,
    load_rest,
    load_rows,
    power,
    renormalized,
    side_holds,
    side_suspects,
    small_ranks,
    small_side,
    times,
    write_labelled,
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

COST, CHANCE, REST, BRIER_, FOCAL_, COSTS, FOCALS = range(7)  # a labelled row's figures, one column a lane
Panels = tuple[Any, Any, Any, Any, Any, Any]  # panel, side, figures, the label's stored value, label and rank of every lane


@loop
def label_figures(
    form: int, normalize: bool, scale: float, cap: float, gamma: float, alpha: float, own: Any, side: Any, figures: Any
) -> None:
    """−ln p_y (at most `cap`), p_y, 1 − p_y, Brier score and focal loss of every lane; own = the label's stored value."""
    for lane in range(LANES):
        shift = side[SHIFT, lane]
        total = side[TOTAL, lane]
        if form == LOGITS:
            d = (own[lane] - side[PEAK, lane]) * scale
            e = exp_nonpositive(d)
            whole = 1.0 + side[OTHERS, lane]
            figures[COST, lane] = shift - d
            figures[CHANCE, lane] = e / whole
            figures[REST, lane] = (side[OTHERS, lane] + (1.0 - e)) / whole
        elif form == PROBS:
            p = own[lane] / (total if normalize else 1.0)
            figures[COST, lane] = shift - log(own[lane])
            figures[CHANCE, lane] = p
            figures[REST, lane] = max(1.0 - p, 0.0)
        else:
            p = exp_nonpositive(min(own[lane] - shift, 700.0))
            figures[COST, lane] = shift - own[lane]
            figures[CHANCE, lane] = p
            figures[REST, lane] = max(1.0 - p, 0.0)
    for lane in range(LANES):
        figures[BRIER_, lane] = max(side[SQUARES, lane] - 2.0 * figures[CHANCE, lane] + 1.0, 0.0)
    if gamma >= 0.0:
        for lane in range(LANES):
            paid = min(figures[COST, lane], cap)
            figures[FOCAL_, lane] = times(alpha * power(figures[REST, lane], gamma), paid)


@loop
def add_costs(
    form: int,
    x: Any,
    steps: int,
    last: Any,
    scale: float,
    cap: float,
    gamma: float,
    alpha: float,
    side: Any,
    figures: Any,
) -> None:
    """Adds min(−ln p_j, cap) and the focal loss of every class; the last step has `last` lanes (label smoothing)."""
    for step in range(steps):
        for lane in range(LANES if step < steps - 1 else last):
            plain = cost(form, widen(x[step, lane]), side[PEAK, lane], scale, side[SHIFT, lane])
            paid = min(plain, cap)
            figures[COSTS, lane] += paid
            if gamma >= 0.0:
                rest = max(1.0 - exp_nonpositive(-max(plain, 0.0)), 0.0)
                figures[FOCALS, lane] += times(alpha * power(rest, gamma), paid)


@scalar
def smoothed_entropy(k: int, smoothing: float) -> Any:
    """H(q') of a hard label smoothed over k classes."""
    share = smoothing / k
    top = 1.0 - smoothing + share
    h = -top * log(top) if top > 0.0 else 0.0
    return h - (k - 1) * share * log(share) if share > 0.0 else h


@loop
def smooth_figures(k: int, smoothing: float, normalize: bool, side: Any, figures: Any) -> Any:
    """Turns the label's figures into those of q'; returns H(q')."""
    share = smoothing / k
    hot = 1.0 - smoothing + share
    for lane in range(LANES):
        paid = figures[COST, lane]
        mixed = (1.0 - smoothing) * figures[CHANCE, lane] + share * (1.0 if normalize else side[TOTAL, lane])
        figures[COST, lane] = times(1.0 - smoothing, paid) + share * figures[COSTS, lane]
        figures[BRIER_, lane] = max(side[SQUARES, lane] - 2.0 * mixed + (hot * hot + (k - 1) * share * share), 0.0)
        figures[FOCAL_, lane] = times(1.0 - smoothing, figures[FOCAL_, lane]) + share * figures[FOCALS, lane]
    return smoothed_entropy(k, smoothing)


@loop
def write_rows(
    first: int,
    rows: Any,
    labelled: bool,
    k: int,
    stored: Stored,
    loss: Loss,
    rank: Any,
    side: Any,
    figures: Any,
    flags: Any,
    out: Any,
    at: int,
) -> None:
    """The rows in the first lanes into their slots, also those whose code says that nobody will look."""
    for lane in range(rows):
        out[ENTROPY, at + lane] = side[ENTROPY_, lane]
        out[CONFIDENCE, at + lane] = side[TOP, lane]
    if not labelled:
        return
    if loss.cap < INF:
        for lane in range(rows):
            flags[first + lane] |= CLIPPED if figures[COST, lane] > loss.cap else 0
            figures[COST, lane] = min(figures[COST, lane], loss.cap)
    if loss.smoothing > 0.0:
        floor = smooth_figures(k, loss.smoothing, stored.normalize, side, figures)
        proper = (stored.form == LOGITS or stored.normalize) and loss.cap == INF  # rows as they are may truly fall below 0
        for lane in range(rows):
            out[TARGET_ENTROPY, at + lane] = floor
            kl = figures[COST, lane] - floor
            out[KL, at + lane] = max(kl, 0.0) if proper else kl
    for lane in range(rows):
        out[CROSS_ENTROPY, at + lane] = figures[COST, lane]
        out[BRIER, at + lane] = figures[BRIER_, lane]
    write_labelled(at, rows, side[TOP], rank, loss.top_k, out)
    if loss.gamma >= 0.0:
        for lane in range(rows):
            out[FOCAL, at + lane] = figures[FOCAL_, lane]


@loop
def load_own(x: Any, row: int, label: int, own: Any) -> None:
    """own[:] = the label's stored value."""
    from_row = widen(x[row, label])
    for lane in range(LANES):
        own[lane] = from_row


@loop
def smooth_large(
    form: int,
    x: Any,
    row: int,
    scale: float,
    cap: float,
    gamma: float,
    alpha: float,
    panel: Any,
    side: Any,
    figures: Any,
) -> None:
    """Σ min(−ln p_j, cap) and Σ focal over one long row's classes, into lane 0."""
    k = x.shape[1]
    full = k // LANES
    for lane in range(LANES):
        side[PEAK, lane] = side[PEAK, 0]
        side[SHIFT, lane] = side[SHIFT, 0]
    figures[COSTS:] = 0.0
    body = x[row, : full * LANES].reshape((full, LANES))
    add_costs(form, body, full, np.int64(LANES), scale, cap, gamma, alpha, side, figures)
    rest = load_rest(x, row, 0.0, panel)
    add_costs(form, panel, rest, k - full * LANES, scale, cap, gamma, alpha, side, figures)
    fold_lanes(figures[COSTS:])


@loop
def short_rows(x: Any, first: int, count: int, rows: Rows, stored: Stored, loss: Loss, room: Panels, out: Any, at: int) -> None:
    """Up to 32 rows of SMALL classes or fewer, one in every lane."""
    form, scale, tolerance, normalize = stored
    k, label, code = x.shape[1], rows.label, rows.code
    labelled = label.shape[0] > 0
    panel, side, figures, own, lanes_label, rank = room
    load_rows(x, first, count, code, panel)
    small_side(form, panel, k, scale, side)
    if labelled:
        for lane in range(count):
            if code[first + lane] == USED and not 0 <= label[first + lane] < k:
                code[first + lane] = LABEL
    if side_suspects(form, tolerance, normalize, side) > 0:
        for lane in range(count):
            i = first + lane
            if code[i] == USED and not side_holds(form, tolerance, normalize, side, lane):
                code[i] = broken_rule(form, x, i)
    if normalize:
        for lane in range(count):
            rows.flags[first + lane] |= renormalized(form, tolerance, side[TOTAL, lane])
    finish_side(form, normalize, side)
    if labelled:
        for lane in range(LANES):
            y = label[first + lane] if lane < count and code[first + lane] == USED else 0
            lanes_label[lane] = y
            own[lane] = panel[y, lane]
        label_figures(form, normalize, scale, loss.cap, loss.gamma, loss.alpha, own, side, figures)
        small_ranks(panel, k, own, lanes_label, rank)
        if loss.smoothing > 0.0:
            figures[COSTS:] = 0.0
            add_costs(form, panel, k, np.int64(LANES), scale, loss.cap, loss.gamma, loss.alpha, side, figures)
    write_rows(first, count, labelled, k, stored, loss, rank, side, figures, rows.flags, out, at)


@loop
def long_row(x: Any, i: int, rows: Rows, stored: Stored, loss: Loss, room: Panels, out: Any, at: int) -> None:
    """A row of more than SMALL classes, its classes in the lanes."""
    form, scale, tolerance, normalize = stored
    k, label, code = x.shape[1], rows.label, rows.code
    labelled = label.shape[0] > 0
    panel, side, figures, own, _, rank = room
    if code[i] != USED:
        return
    if labelled and (label[i] < 0 or label[i] >= k):
        code[i] = LABEL
        return
    large_side(form, x, i, scale, panel, side)
    if not side_holds(form, tolerance, normalize, side, 0):
        code[i] = broken_rule(form, x, i)
        return
    if normalize:
        rows.flags[i] |= renormalized(form, tolerance, side[TOTAL, 0])
    finish_side(form, normalize, side)
    if labelled:
        y = label[i]
        load_own(x, i, y, own)
        label_figures(form, normalize, scale, loss.cap, loss.gamma, loss.alpha, own, side, figures)
        rank[0] = large_rank(x, i, y)
        if loss.smoothing > 0.0:
            smooth_large(form, x, i, scale, loss.cap, loss.gamma, loss.alpha, panel, side, figures)
    write_rows(i, np.int64(1), labelled, k, stored, loss, rank, side, figures, rows.flags, out, at)


@kernel
def categorical(x: Any, rows: Rows, sums: Sums, stored: Stored, loss: Loss, threads: int) -> None:
    """Folds the rows of x (n, K); breaks of rules go into rows.code.

    rows.label is (n,) int64, or (0,) without labels. Only rows whose code is USED are looked at.
    """
    n, k = x.shape
    kept = rows.out.shape[1] > 0
    for t in prange(threads):
        room = scratch()
        out = rows.out if kept else np.empty((SLOTS, STRIDE))
        panels = (
            np.zeros((SMALL, LANES)), np.zeros((SIDE, LANES)), np.zeros((7, LANES)), np.zeros(LANES),
            np.zeros(LANES, dtype=np.int64), np.zeros(LANES),
        )  # fmt: skip
        first = take(rows.cursor, rows.step)
        while first < n:
            m = min(rows.step, n - first)
            at = first if kept else 0
            if k <= SMALL:
                for i in range(0, m, LANES):
                    short_rows(x, first + i, min(LANES, m - i), rows, stored, loss, panels, out, at + i)
            else:
                for i in range(m):
                    long_row(x, first + i, rows, stored, loss, panels, out, at + i)
            fold_tile(rows, first, m, out, at, sums, np.int64(t), room)
            first = take(rows.cursor, rows.step)
