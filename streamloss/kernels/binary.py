"""Binary predictions and bare scores: one number a row.

From a logit z, CE = pos_weight·y·softplus(−z) + (1 − y)·softplus(z); from a probability, −y ln p − (1 − y) ln(1 − p) with
ln(1 − p) = log1p(−p). KL(y‖p) of soft labels is summed as brackets a·ln(a/b) − a + b, as in `divergence`. Units: nats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from streamloss.errors import LABEL, NAN, NEGATIVE_PROBABILITY, POSITIVE_INFINITY, PROBABILITY_ABOVE_ONE, USED
from streamloss.ieee.bits import mul, select, widen
from streamloss.ieee.elementary import INF, TINY, log, log1p, log_chance, log_rest, logistic
from streamloss.jit import kernel, loop, scalar
from streamloss.kernels.cursor import take
from streamloss.kernels.divergence import brackets
from streamloss.kernels.fold import STRIDE, Rows, Scratch, Sums, fold_tile, scratch
from streamloss.kernels.panel import CLIPPED, LOGITS, Loss, Stored, power, times
from streamloss.quantities import (
    ACCURACY,
    BRIER,
    CONFIDENCE,
    CROSS_ENTROPY,
    ENTROPY,
    FOCAL,
    KL,
    OUTCOME,
    OVERCONFIDENCE,
    SCORE,
    SLOTS,
    TARGET_ENTROPY,
)

# 1 − p, the costs of p and 1 − p, 1 where p > ½, and the label perhaps smoothed: one column a row of the tile.
REST, COST_1, COST_0, ABOVE, MIXED = range(5)


@scalar
def binary_rule(form: int, v: float) -> Any:
    """The rule that a stored logit or probability breaks, or USED."""
    if v != v:
        return NAN
    if form == LOGITS:
        return POSITIVE_INFINITY if v == INF else USED
    if v < 0.0:
        return NEGATIVE_PROBABILITY
    return PROBABILITY_ABOVE_ONE if v > 1.0 else USED


@loop
def load_figures(form: int, scale: float, x: Any, m: int, p: Any, figures: Any) -> Any:
    """p, 1 − p, −ln p and −ln(1 − p) of the tile's rows; returns how many rows may break a rule."""
    suspects = np.int64(0)
    if form == LOGITS:
        for j in range(m):
            v = widen(x[j])
            suspects += np.int64(not v < INF)
            chance, rest, cost_1, cost_0 = logistic(v * scale)
            p[j] = chance
            figures[REST, j] = rest
            figures[COST_1, j] = cost_1
            figures[COST_0, j] = cost_0
            figures[ABOVE, j] = 1.0 if v > 0.0 else 0.0
        return suspects
    tiny = np.int64(0)
    for j in range(m):
        v = widen(x[j])
        suspects += np.int64(not ((v >= 0.0) & (v <= 1.0)))
        tiny += np.int64((v > 0.0) & (v < TINY))
        p[j] = v
        figures[REST, j] = 1.0 - v
        figures[COST_1, j] = -log_chance(v)
        figures[COST_0, j] = -log_rest(v)
        figures[ABOVE, j] = 1.0 if v > 0.5 else 0.0
    if tiny > 0:
        for j in range(m):
            figures[COST_1, j] = -log(p[j])
    return suspects


@loop
def mark_rules(form: int, x: Any, m: int, code: Any) -> None:
    """Gives their rule to the rows that break one."""
    for j in range(m):
        if code[j] == USED:
            code[j] = binary_rule(form, widen(x[j]))


@loop
def load_labels(label: Any, m: int, code: Any, y: Any) -> None:
    """y of the tile's rows; outside [0, 1] it breaks a rule."""
    wrong = np.int64(0)
    for j in range(m):
        v = np.float64(label[j])
        wrong += np.int64(not ((v >= 0.0) & (v <= 1.0)))
        y[j] = v
    if wrong > 0:
        for j in range(m):
            if code[j] == USED and not 0.0 <= y[j] <= 1.0:
                code[j] = LABEL


@scalar
def certainty(p: float, rest: float, cost_1: float, cost_0: float) -> Any:
    """H(p) and the probability of the likelier class."""
    return times(p, cost_1) + times(rest, cost_0), select(p > rest, p, rest)


@scalar
def hit_of(above: float, y: float) -> Any:
    """1 where the likelier class is the label."""
    return select((above > 0.0) == (y > 0.5), 1.0, 0.0)


@scalar
def loss_of(q: float, cost_1: float, cost_0: float, cap: float, pos_weight: float) -> Any:
    """Cross-entropy against q."""
    paid_1, paid_0 = select(cost_1 < cap, cost_1, cap), select(cost_0 < cap, cost_0, cap)
    return times(pos_weight * q, paid_1) + times(1.0 - q, paid_0)


@scalar
def brier_of(q: float, p: float, rest: float) -> Any:
    """(p − q)²."""
    off = select(q > 0.5, rest - (1.0 - q), p - q)
    return off * off


@scalar
def sharp_losses(y: float, p: float, rest: float, cost_1: float, cost_0: float) -> Any:
    """Cross-entropy and Brier score against y of 0 or 1."""
    off = select(y > 0.5, rest, p)
    return select(y > 0.5, cost_1, cost_0), off * off


@scalar
def is_cut(q: float, cost_1: float, cost_0: float, cap: float) -> Any:
    """Whether the cap makes a difference to the cross-entropy against q."""
    return ((q > 0.0) & (cost_1 > cap)) | ((q < 1.0) & (cost_0 > cap))


@scalar
def soft_terms(q: float) -> Any:
    """ln q, ln(1 − q) and H(q)."""
    log_1, log_0 = log(q), log1p(-q)
    return log_1, log_0, times(q, -log_1) + times(1.0 - q, -log_0)


@scalar
def capped_kl(q: float, cost_1: float, cost_0: float, log_1: float, log_0: float, cap: float) -> Any:
    """KL(q‖p) where a cap is on a cost."""
    paid_1, paid_0 = select(cost_1 < cap, cost_1, cap), select(cost_0 < cap, cost_0, cap)
    return times(q, paid_1 + log_1) + times(1.0 - q, paid_0 + log_0)


@scalar
def plain_kl(q: float, p: float, rest: float, cost_1: float, cost_0: float, log_1: float, log_0: float) -> Any:
    """KL(q‖p)."""
    return brackets(q, p, log_1 + cost_1)[0] + brackets(1.0 - q, rest, log_0 + cost_0)[0]


@scalar
def focal_of(q: float, p: float, rest: float, cost_1: float, cost_0: float, cap: float, gamma: float, alpha: float) -> Any:
    """Focal loss; alpha < 0 means no class balance."""
    on_1 = alpha if alpha >= 0.0 else 1.0
    on_0 = 1.0 - alpha if alpha >= 0.0 else 1.0
    paid_1, paid_0 = select(cost_1 < cap, cost_1, cap), select(cost_0 < cap, cost_0, cap)
    return times(on_1 * q * power(rest, gamma), paid_1) + times(on_0 * (1.0 - q) * power(p, gamma), paid_0)


@scalar
def smoothed(y: float, smoothing: float) -> Any:
    """The label smoothed over both classes."""
    return y * (1.0 - smoothing) + mul(0.5, smoothing)


@loop
def write_plain(m: int, p: Any, figures: Any, out: Any) -> None:
    """What there is without a label."""
    entropy, confidence = out[ENTROPY, 0:m], out[CONFIDENCE, 0:m]
    for j in range(m):
        h, top = certainty(p[j], figures[REST, j], figures[COST_1, j], figures[COST_0, j])
        entropy[j] = h
        confidence[j] = top


@loop
def write_hits(m: int, p: Any, y: Any, figures: Any, out: Any) -> None:
    """The same with a label, and the accuracy, which goes by the label itself."""
    entropy, confidence = out[ENTROPY, 0:m], out[CONFIDENCE, 0:m]
    right, over = out[ACCURACY, 0:m], out[OVERCONFIDENCE, 0:m]
    for j in range(m):
        h, top = certainty(p[j], figures[REST, j], figures[COST_1, j], figures[COST_0, j])
        hit = hit_of(figures[ABOVE, j], y[j])
        entropy[j] = h
        confidence[j] = top
        right[j] = hit
        over[j] = top - hit


@loop
def write_losses(m: int, cap: float, pos_weight: float, p: Any, q: Any, figures: Any, flags: Any, out: Any) -> None:
    """Cross-entropy and Brier score against q, which may be soft."""
    loss, brier = out[CROSS_ENTROPY, 0:m], out[BRIER, 0:m]
    for j in range(m):
        loss[j] = loss_of(q[j], figures[COST_1, j], figures[COST_0, j], cap, pos_weight)
    for j in range(m):
        brier[j] = brier_of(q[j], p[j], figures[REST, j])
    if cap < INF:
        for j in range(m):
            flags[j] |= CLIPPED if is_cut(q[j], figures[COST_1, j], figures[COST_0, j], cap) else 0


@loop
def write_sharp_losses(m: int, p: Any, q: Any, figures: Any, out: Any) -> None:
    """The same for q of 0 or 1 without a cap or a weight of positives."""
    loss, brier = out[CROSS_ENTROPY, 0:m], out[BRIER, 0:m]
    for j in range(m):
        loss[j], brier[j] = sharp_losses(q[j], p[j], figures[REST, j], figures[COST_1, j], figures[COST_0, j])


@loop
def write_soft(m: int, cap: float, p: Any, q: Any, figures: Any, out: Any) -> None:
    """Target entropy and KL(q‖p) of soft labels."""
    for j in range(m):
        cost_1, cost_0 = figures[COST_1, j], figures[COST_0, j]
        log_1, log_0, out[TARGET_ENTROPY, j] = soft_terms(q[j])
        if cost_1 > cap or cost_0 > cap:
            out[KL, j] = capped_kl(q[j], cost_1, cost_0, log_1, log_0, cap)
        else:
            out[KL, j] = plain_kl(q[j], p[j], figures[REST, j], cost_1, cost_0, log_1, log_0)


@loop
def write_focal(m: int, cap: float, gamma: float, alpha: float, p: Any, q: Any, figures: Any, out: Any) -> None:
    """The focal loss of the tile's rows."""
    for j in range(m):
        out[FOCAL, j] = focal_of(q[j], p[j], figures[REST, j], figures[COST_1, j], figures[COST_0, j], cap, gamma, alpha)


@loop
def write_tile(x: Any, rows: Rows, first: int, m: int, stored: Stored, loss: Loss, room: Any, out: Any) -> None:
    """The values of m rows. Calibration compares p and y themselves; losses take q, which is y or y smoothed.

    room (5, STRIDE) has the figures and q.
    """
    # Slices, because an index from 0 spares the loops Numba's look for negative ones.
    last = first + m
    stored_x, label, code, flags = x[first:last], rows.label[first:last], rows.code[first:last], rows.flags[first:last]
    p, y, figures, q = out[SCORE, 0:m], out[OUTCOME, 0:m], room, room[MIXED, :m]
    if load_figures(stored.form, stored.scale, stored_x, m, p, figures) > 0:
        mark_rules(stored.form, stored_x, m, code)
    if label.shape[0] == 0:
        write_plain(m, p, figures, out)
        return
    load_labels(label, m, code, y)
    write_hits(m, p, y, figures, out)
    if not loss.soft and loss.pos_weight == 1.0 and loss.cap == INF and loss.gamma < 0.0:
        write_sharp_losses(m, p, y, figures, out)
        return
    for j in range(m):
        q[j] = smoothed(y[j], loss.smoothing) if loss.smoothing > 0.0 else y[j]
    write_losses(m, loss.cap, loss.pos_weight, p, q, figures, flags, out)
    if loss.soft:
        write_soft(m, loss.cap, p, q, figures, out)
    if loss.gamma >= 0.0:
        write_focal(m, loss.cap, loss.gamma, loss.alpha, p, q, figures, out)


@loop
def run_tiles(
    x: Any, rows: Rows, sums: Sums, stored: Stored, loss: Loss, t: Any, figures: Any, room: Scratch, out: Any
) -> None:
    """Tile after tile of rows, as long as there are any, for thread t."""
    n = x.shape[0]
    first = take(rows.cursor, rows.step)
    while first < n:
        m = min(rows.step, n - first)
        write_tile(x, rows, first, m, stored, loss, figures, out)
        fold_tile(rows, first, m, out, sums, t, room)
        first = take(rows.cursor, rows.step)


@kernel
def binary(x: Any, rows: Rows, sums: Sums, stored: Stored, loss: Loss, threads: int) -> None:
    """Folds the rows of logits or probabilities x (n,); breaks of rules go into rows.code.

    rows.label is (n,) int64 or float64, or (0,) without labels; loss.alpha < 0 means no class balance.
    """
    for t in prange(threads):
        room = scratch()
        out = np.empty((SLOTS, STRIDE))
        figures = np.empty((5, STRIDE))
        run_tiles(x, rows, sums, stored, loss, np.int64(t), figures, room, out)


@loop
def write_scores(x: Any, first: int, m: int, tolerance: float, cap: float, code: Any, flags: Any, out: Any) -> None:
    """Cross-entropy of bare log-probabilities; one above 0 breaks a rule unless it is within tolerance."""
    for j in range(m):
        i = first + j
        v = widen(x[i])
        out[CROSS_ENTROPY, j] = min(-v, cap)
        if code[i] == USED:
            if v != v:
                code[i] = NAN
            elif v > tolerance:
                code[i] = PROBABILITY_ABOVE_ONE
            elif -v > cap:
                flags[i] |= CLIPPED


@loop
def run_scores(x: Any, rows: Rows, sums: Sums, stored: Stored, loss: Loss, t: Any, room: Scratch, out: Any) -> None:
    """Tile after tile of rows, as long as there are any, for thread t."""
    n = x.shape[0]
    first = take(rows.cursor, rows.step)
    while first < n:
        m = min(rows.step, n - first)
        write_scores(x, first, m, stored.tolerance, loss.cap, rows.code, rows.flags, out)
        fold_tile(rows, first, m, out, sums, t, room)
        first = take(rows.cursor, rows.step)


@kernel
def score(x: Any, rows: Rows, sums: Sums, stored: Stored, loss: Loss, threads: int) -> None:
    """Folds cross-entropies −x of log-probabilities x (n,) given to what happened; above 0 only within tolerance."""
    for t in prange(threads):
        room = scratch()
        out = np.empty((SLOTS, STRIDE))
        run_scores(x, rows, sums, stored, loss, np.int64(t), room, out)
