"""K classes against soft targets or a teacher: entropies, cross-entropy, KL both ways and JS of every row, in one pass.

With d = ln q − ln p, KL(q‖p) = Σ q·d is summed as Σ [q·d − q + p] + Σ (q − p): every bracket is ≥ 0, so rows that nearly
agree lose nothing to cancellation. For |d| ≤ 0.34 the bracket is q·(e^−d − 1 + d), which `expm1_tail` gives to a few ulps;
Σ (q − p) is 0 for softmaxes and summed where rows are taken as they are. JS = Σ m/2·[ln(1 − δ²) + δ·d] with m = (p + q)/2
and δ = (q − p)/(q + p), from tanh(d/2) = δ. A class with q > 0 and p = 0 costs `cap` = −ln EPS, or makes the row infinite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from streamloss.errors import LABEL, USED
from streamloss.ieee.bits import fma, widen
from streamloss.ieee.elementary import INF, LN2, exp_nonpositive, expm1_tail, log, log1p
from streamloss.jit import kernel, loop, scalar
from streamloss.kernels.cursor import take
from streamloss.kernels.fold import STRIDE, Rows, Sums, fold_tile, scratch
from streamloss.kernels.panel import (
    CLIPPED,
    ENTROPY_,
    LANES,
    LOGITS,
    LOGPROBS,
    PEAK,
    PROBS,
    SHIFT,
    SIDE,
    SMALL,
    TOP,
    TOTAL,
    Loss,
    Stored,
    broken_rule,
    finish_side,
    fold_lanes,
    large_rank,
    large_side,
    load_rest,
    load_rows,
    power,
    renormalized,
    side_holds,
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
    JS,
    KL,
    REVERSE_KL,
    SAME_TOP,
    SLOTS,
    TARGET_ENTROPY,
)

NEAR = 0.34  # below ln 2 / 2, where exp's own reduction leaves e^−d unscaled

# Sums over the classes of a pair, one column a lane; the last four rows are the two top classes (value, index).
Q_ENTROPY, CROSS, FORWARD, BACKWARD, JENSEN, SQUARE, FOCAL_, GAP, BACK_GAP, CUT = range(10)
P_BEST, P_INDEX, Q_BEST, Q_INDEX = range(10, 14)
SUMS = 14
Panels = tuple[Any, Any, Any, Any, Any, Any, Any, Any, Any]  # panels, sides, sums, terms, label's value, label and rank
CHUNK = 16  # steps looked at together: their logarithms and probabilities stay in the first-level cache


@scalar
def bracket(a: float, b: float, d: float, by_log: bool) -> Any:
    """a·d − a + b ≥ 0 for d = ln(a/b), and a − b, both without cancellation; a·d is 0 where a is.

    `by_log`: the logarithms are what is known exactly, so a − b follows from d; otherwise a and b are.
    """
    near = abs(d) <= NEAR
    tail = expm1_tail(-d if near else 0.0)
    far = (b - a) + a * (d if a > 0.0 else 0.0)
    return (a * tail if near else far), (a * (d - tail) if near & by_log else a - b)


@scalar
def jensen(q: float, p: float, d: float) -> Any:
    """½ [q ln(q/m) + p ln(p/m)], m = (p + q)/2."""
    near = abs(d) <= NEAR
    low, high, both = min(q, p), max(q, p), q + p
    some = both if both > 0.0 else 1.0
    delta = (q - p) / some
    ratio = low / (high if high > 0.0 else 1.0)
    inner = log1p(-(delta * delta) if near else ratio)
    far = both * (LN2 - inner) - (low * abs(d) if low > 0.0 else 0.0)
    return 0.25 * both * (inner + delta * d) if near else 0.5 * far


@loop
def expand(form: int, x: Any, start: int, steps: int, scale: float, side: Any, logs: Any, chances: Any) -> None:
    """ln p and p of the stored values x[start : start + steps]; −inf and 0 for probability 0."""
    if form == LOGITS:
        for step in range(steps):
            for lane in range(LANES):
                v = (widen(x[start + step, lane]) - side[PEAK, lane]) * scale - side[SHIFT, lane]
                logs[step, lane] = v
                chances[step, lane] = exp_nonpositive(v)
    elif form == LOGPROBS:
        for step in range(steps):
            for lane in range(LANES):
                v = widen(x[start + step, lane]) - side[SHIFT, lane]
                logs[step, lane] = v
                chances[step, lane] = exp_nonpositive(v)
    else:
        for step in range(steps):
            for lane in range(LANES):
                v = widen(x[start + step, lane])
                logs[step, lane] = log(v) - side[SHIFT, lane]
                chances[step, lane] = v / side[TOTAL, lane]


@loop
def smooth(steps: int, smoothing: float, k: int, logs: Any, chances: Any) -> None:
    """q' = (1 − E)·q + E/K."""
    for step in range(steps):
        for lane in range(LANES):
            q = (1.0 - smoothing) * chances[step, lane] + smoothing / k
            chances[step, lane] = q
            logs[step, lane] = log(q)


@loop
def find_best(x: Any, start: int, steps: int, last: int, first: int, stride: int, best: Any, index: Any) -> None:
    """The largest value of every lane and its class, the lowest of equals."""
    for step in range(steps):
        at = np.float64(first + stride * step)
        for lane in range(LANES if step < steps - 1 else last):
            v = widen(x[start + step, lane])
            above = v > best[lane]
            best[lane] = v if above else best[lane]
            index[lane] = at + (lane if stride > 1 else 0) if above else index[lane]


@loop
def add_terms(
    steps: int, by_log: bool, cap: float, gamma: float, alpha: float, lq: Any, q: Any, lp: Any, p: Any, sums: Any
) -> None:
    """Adds the terms of every class to the sums of its lane."""
    floor = exp_nonpositive(-cap)
    for step in range(steps):
        for lane in range(LANES):
            a, la = q[step, lane], lq[step, lane]
            cut = lp[step, lane] < -cap
            paid = cap if cut else -lp[step, lane]
            some = a > 0.0
            sums[CUT, lane] += 1.0 if cut & some else 0.0
            sums[Q_ENTROPY, lane] += a * (-la if some else 0.0)
            sums[CROSS, lane] += a * (paid if some else 0.0)
    for step in range(steps):
        for lane in range(LANES):
            cut = lp[step, lane] < -cap
            lb, b = (-cap if cut else lp[step, lane]), (floor if cut else p[step, lane])
            term, gap = bracket(q[step, lane], b, lq[step, lane] - lb, by_log)
            sums[FORWARD, lane] += term
            sums[GAP, lane] += gap
    for step in range(steps):
        for lane in range(LANES):
            cut = lq[step, lane] < -cap
            lb, b = (-cap if cut else lq[step, lane]), (floor if cut else q[step, lane])
            term, gap = bracket(p[step, lane], b, lp[step, lane] - lb, by_log)
            sums[BACKWARD, lane] += term
            sums[BACK_GAP, lane] += gap
    for step in range(steps):
        for lane in range(LANES):
            a, b = q[step, lane], p[step, lane]
            sums[JENSEN, lane] += jensen(a, b, lq[step, lane] - lp[step, lane])
            sums[SQUARE, lane] = fma(b - a, b - a, sums[SQUARE, lane])
    if gamma >= 0.0:
        for step in range(steps):
            for lane in range(LANES):
                rest = max(1.0 - p[step, lane], 0.0)
                paid = min(-lp[step, lane], cap)
                sums[FOCAL_, lane] += times(q[step, lane], times(alpha * power(rest, gamma), paid))


@loop
def add_pairs(
    xq: Any,
    xp: Any,
    steps: int,
    last: int,
    first: int,
    stride: int,
    form_q: int,
    form_p: int,
    scale_q: float,
    scale_p: float,
    smoothing: float,
    k: int,
    cap: float,
    gamma: float,
    alpha: float,
    side_q: Any,
    side_p: Any,
    sums: Any,
    room: Any,
) -> None:
    """Adds the classes of xq and xp (steps, 32); the last step has `last` lanes; class = first + stride·step (+ lane).

    room (4, CHUNK, 32) holds ln q, q, ln p and p of a few steps at a time.
    """
    lq, q, lp, p = room[0], room[1], room[2], room[3]
    by_log = form_q != PROBS and form_p != PROBS
    for start in range(0, steps, CHUNK):
        count = min(CHUNK, steps - start)
        lanes = last if start + count == steps else LANES
        at = first + stride * start
        find_best(xq, start, count, lanes, at, stride, sums[Q_BEST], sums[Q_INDEX])
        find_best(xp, start, count, lanes, at, stride, sums[P_BEST], sums[P_INDEX])
        expand(form_q, xq, start, count, scale_q, side_q, lq, q)
        expand(form_p, xp, start, count, scale_p, side_p, lp, p)
        if smoothing > 0.0:
            smooth(count, smoothing, k, lq, q)
        for lane in range(lanes, LANES):  # lanes past the last class add nothing
            room[:, count - 1, lane] = 0.0
        add_terms(count, by_log, cap, gamma, alpha, lq, q, lp, p, sums)


@loop
def clear_sums(sums: Any) -> None:
    """Empties the sums of a pair."""
    sums[:P_BEST] = 0.0
    sums[P_BEST:] = -INF


@loop
def best_of_lanes(sums: Any, best: int, index: int) -> None:
    """Into lane 0: the largest value's class, the lowest of equals."""
    for lane in range(1, LANES):
        v, at = sums[best, lane], sums[index, lane]
        if v > sums[best, 0] or (v == sums[best, 0] and at < sums[index, 0]):
            sums[best, 0] = v
            sums[index, 0] = at


@scalar
def write_pair(i: int, lane: int, exact: bool, gamma: float, side_p: Any, sums: Any, out: Any) -> None:
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
    out[SAME_TOP, i] = 1.0 if sums[P_INDEX, lane] == sums[Q_INDEX, lane] else 0.0
    if gamma >= 0.0:
        out[FOCAL, i] = sums[FOCAL_, lane]


@loop
def pair_rows(
    xq: Any,
    xp: Any,
    first: int,
    count: int,
    rows: Rows,
    stored_q: Stored,
    stored_p: Stored,
    loss: Loss,
    room: Panels,
    out: Any,
    at: int,
) -> None:
    """Up to 32 short rows, one in every lane, or one long row with its classes in the lanes."""
    k = xp.shape[1]
    form_q, scale_q, tolerance_q, normalize = stored_q
    form_p, scale_p, tolerance_p, _ = stored_p
    smoothing, cap, gamma, alpha = loss.smoothing, loss.cap, loss.gamma, loss.alpha
    label, code, flags = rows.label, rows.code, rows.flags
    labelled = label.shape[0] > 0
    exact = (form_q == LOGITS or normalize) and (form_p == LOGITS or normalize) and cap == INF
    panel_q, panel_p, side_q, side_p, sums, terms, own, lanes_label, rank = room
    if k <= SMALL:
        load_rows(xq, first, count, code, panel_q)
        load_rows(xp, first, count, code, panel_p)
        small_side(form_q, panel_q, k, scale_q, side_q)
        small_side(form_p, panel_p, k, scale_p, side_p)
    elif code[first] == USED:
        large_side(form_q, xq, first, scale_q, panel_q, side_q)
        large_side(form_p, xp, first, scale_p, panel_p, side_p)
    for lane in range(count):
        i = first + lane
        if code[i] != USED:
            continue
        if labelled and (label[i] < 0 or label[i] >= k):
            code[i] = LABEL
        elif not side_holds(form_q, tolerance_q, normalize, side_q, lane):
            code[i] = broken_rule(form_q, xq, i)
            rows.at_target[i] = 1
        elif not side_holds(form_p, tolerance_p, normalize, side_p, lane):
            code[i] = broken_rule(form_p, xp, i)
        if normalize:
            flags[i] |= renormalized(form_q, tolerance_q, side_q[TOTAL, lane])
            flags[i] |= renormalized(form_p, tolerance_p, side_p[TOTAL, lane])
    if k > SMALL and code[first] != USED:
        return
    finish_side(form_q, normalize, side_q)
    finish_side(form_p, normalize, side_p)
    if not normalize:
        side_q[TOTAL] = 1.0
        side_p[TOTAL] = 1.0
    clear_sums(sums)
    if k <= SMALL:
        add_pairs(
            panel_q, panel_p, k, LANES, 0, 1, form_q, form_p, scale_q, scale_p, smoothing, k, cap, gamma, alpha,
            side_q, side_p, sums, terms,
        )  # fmt: skip
    else:
        full = k // LANES
        for side in (side_q, side_p):
            for lane in range(1, LANES):
                side[SHIFT, lane] = side[SHIFT, 0]
                side[TOTAL, lane] = side[TOTAL, 0]
        add_pairs(
            xq[first, : full * LANES].reshape((full, LANES)), xp[first, : full * LANES].reshape((full, LANES)),
            full, LANES, 0, LANES, form_q, form_p, scale_q, scale_p, smoothing, k, cap, gamma, alpha,
            side_q, side_p, sums, terms,
        )  # fmt: skip
        rest = load_rest(xq, first, 0.0, panel_q)
        load_rest(xp, first, 0.0, panel_p)
        add_pairs(
            panel_q, panel_p, rest, k - full * LANES, full * LANES, LANES, form_q, form_p, scale_q, scale_p,
            smoothing, k, cap, gamma, alpha, side_q, side_p, sums, terms,
        )  # fmt: skip
        fold_lanes(sums[:P_BEST])
        best_of_lanes(sums, P_BEST, P_INDEX)
        best_of_lanes(sums, Q_BEST, Q_INDEX)
    if labelled:
        if k <= SMALL:
            for lane in range(LANES):
                y = label[first + lane] if lane < count and code[first + lane] == USED else 0
                lanes_label[lane] = y
                own[lane] = panel_p[y, lane]
            small_ranks(panel_p, k, own, lanes_label, rank)
        else:
            rank[0] = large_rank(xp, first, label[first])
    for lane in range(count):
        write_pair(at + lane, lane, exact, gamma, side_p, sums, out)
        if sums[CUT, lane] > 0.0:
            flags[first + lane] |= CLIPPED
    if labelled:
        write_labelled(at, count, side_p[TOP], rank, loss.top_k, out)


@kernel
def pair(xq: Any, xp: Any, rows: Rows, sums: Sums, stored_q: Stored, stored_p: Stored, loss: Loss, threads: int) -> None:
    """Folds the rows of targets xq and predictions xp, both (n, K); breaks of rules go into rows.code.

    rows.at_target (n,) tells whether a broken rule is the target's.
    """
    n, k = xp.shape
    kept = rows.out.shape[1] > 0
    lanes = LANES if k <= SMALL else 1
    for t in prange(threads):
        room = scratch()
        out = rows.out if kept else np.empty((SLOTS, STRIDE))
        panels = (
            np.zeros((SMALL, LANES)), np.zeros((SMALL, LANES)), np.zeros((SIDE, LANES)), np.zeros((SIDE, LANES)),
            np.zeros((SUMS, LANES)), np.zeros((4, CHUNK, LANES)), np.zeros(LANES), np.zeros(LANES, dtype=np.int64),
            np.zeros(LANES),
        )  # fmt: skip
        first = take(rows.cursor, rows.step)
        while first < n:
            m = min(rows.step, n - first)
            at = first if kept else 0
            for i in range(0, m, lanes):
                pair_rows(xq, xp, first + i, min(lanes, m - i), rows, stored_q, stored_p, loss, panels, out, at + i)
            fold_tile(rows, first, m, out, at, sums, np.int64(t), room)
            first = take(rows.cursor, rows.step)
