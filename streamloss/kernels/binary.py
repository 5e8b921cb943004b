"""Binary predictions and bare scores: one number a row.

From a logit z, CE = pos_weight·y·softplus(−z) + (1 − y)·softplus(z); from a probability, −y ln p − (1 − y) ln(1 − p) with
ln(1 − p) = log1p(−p). KL(y‖p) of soft labels is summed as brackets a·ln(a/b) − a + b, as in `pair`. Units: nats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from streamloss.errors import LABEL, NAN, NEGATIVE_PROBABILITY, POSITIVE_INFINITY, PROBABILITY_ABOVE_ONE, USED
from streamloss.ieee.bits import widen
from streamloss.ieee.elementary import INF, log, log1p, logistic
from streamloss.jit import kernel, loop, scalar
from streamloss.kernels.pair import bracket
from streamloss.kernels.panel import CLIPPED, LOGITS, power, times
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
    TARGET_ENTROPY,
)

BLOCK = 512
CHANCE, REST, COST_1, COST_0, ABOVE = range(5)  # p, 1 − p, their costs, and whether p > ½: one column a row of the block


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
def load_figures(form: int, scale: float, x: Any, first: int, m: int, figures: Any) -> Any:
    """p, 1 − p, −ln p and −ln(1 − p) of the block's rows; returns how many rows may break a rule."""
    suspects = np.int64(0)
    if form == LOGITS:
        for j in range(m):
            v = widen(x[first + j])
            suspects += np.int64(not v < INF)
            p, rest, cost_1, cost_0 = logistic(v * scale)
            figures[CHANCE, j] = p
            figures[REST, j] = rest
            figures[COST_1, j] = cost_1
            figures[COST_0, j] = cost_0
            figures[ABOVE, j] = 1.0 if v > 0.0 else 0.0
    else:
        for j in range(m):
            v = widen(x[first + j])
            suspects += np.int64(not ((v >= 0.0) & (v <= 1.0)))
            figures[CHANCE, j] = v
            figures[REST, j] = 1.0 - v
            figures[COST_1, j] = -log(v)
            figures[COST_0, j] = -log1p(-v)
            figures[ABOVE, j] = 1.0 if v > 0.5 else 0.0
    return suspects


@loop
def mark_rules(form: int, x: Any, first: int, m: int, code: Any) -> None:
    """Gives their rule to the rows that break one."""
    for i in range(first, first + m):
        if code[i] == USED:
            code[i] = binary_rule(form, widen(x[i]))


@loop
def load_labels(label: Any, first: int, m: int, code: Any, y: Any) -> None:
    """y of the block's rows; outside [0, 1] it breaks a rule."""
    wrong = np.int64(0)
    for j in range(m):
        v = np.float64(label[first + j])
        wrong += np.int64(not ((v >= 0.0) & (v <= 1.0)))
        y[j] = v
    if wrong > 0:
        for j in range(m):
            if code[first + j] == USED and not 0.0 <= np.float64(label[first + j]) <= 1.0:
                code[first + j] = LABEL


@loop
def write_plain(first: int, m: int, figures: Any, out: Any) -> None:
    """What needs no label."""
    entropy, confidence = out[ENTROPY, first : first + m], out[CONFIDENCE, first : first + m]
    for j in range(m):
        p, rest = figures[CHANCE, j], figures[REST, j]
        entropy[j] = times(p, figures[COST_1, j]) + times(rest, figures[COST_0, j])
    for j in range(m):
        confidence[j] = max(figures[CHANCE, j], figures[REST, j])


@loop
def write_losses(first: int, m: int, cap: float, pos_weight: float, figures: Any, y: Any, flags: Any, out: Any) -> None:
    """Cross-entropy and Brier score against y, which may be smoothed."""
    loss, brier = out[CROSS_ENTROPY, first : first + m], out[BRIER, first : first + m]
    for j in range(m):
        paid_1, paid_0 = min(figures[COST_1, j], cap), min(figures[COST_0, j], cap)
        loss[j] = times(pos_weight * y[j], paid_1) + times(1.0 - y[j], paid_0)
    for j in range(m):
        off = figures[REST, j] - (1.0 - y[j]) if y[j] > 0.5 else figures[CHANCE, j] - y[j]
        brier[j] = off * off
    if cap < INF:
        for j in range(m):
            cut = (y[j] > 0.0 and figures[COST_1, j] > cap) or (y[j] < 1.0 and figures[COST_0, j] > cap)
            flags[first + j] |= CLIPPED if cut else 0


@loop
def write_hits(first: int, m: int, figures: Any, y: Any, out: Any) -> None:
    """Accuracy and the two sides of calibration, against the label itself."""
    last = first + m
    right, over, top = out[ACCURACY, first:last], out[OVERCONFIDENCE, first:last], out[CONFIDENCE, first:last]
    score, outcome = out[SCORE, first:last], out[OUTCOME, first:last]
    for j in range(m):
        hit = (figures[ABOVE, j] > 0.0) == (y[j] > 0.5)
        right[j] = 1.0 if hit else 0.0
    for j in range(m):
        over[j] = top[j] - right[j]
    for j in range(m):
        score[j] = figures[CHANCE, j]
    for j in range(m):
        outcome[j] = y[j]


@loop
def write_soft(first: int, m: int, cap: float, figures: Any, y: Any, out: Any) -> None:
    """Target entropy and KL(y‖p) of soft labels."""
    for j in range(m):
        other = 1.0 - y[j]
        log_1, log_0 = log(y[j]), log1p(-y[j])
        cost_1, cost_0 = figures[COST_1, j], figures[COST_0, j]
        out[TARGET_ENTROPY, first + j] = times(y[j], -log_1) + times(other, -log_0)
        if cost_1 > cap or cost_0 > cap:
            kl = times(y[j], min(cost_1, cap) + log_1) + times(other, min(cost_0, cap) + log_0)
        else:
            kl = (
                bracket(y[j], figures[CHANCE, j], log_1 + cost_1, False)[0]
                + bracket(other, figures[REST, j], log_0 + cost_0, False)[0]
            )
        out[KL, first + j] = kl


@loop
def write_focal(first: int, m: int, cap: float, gamma: float, alpha: float, figures: Any, y: Any, out: Any) -> None:
    """Focal loss; alpha < 0 means no class balance."""
    on_1 = alpha if alpha >= 0.0 else 1.0
    on_0 = 1.0 - alpha if alpha >= 0.0 else 1.0
    for j in range(m):
        part_1 = times(on_1 * y[j] * power(figures[REST, j], gamma), min(figures[COST_1, j], cap))
        part_0 = times(on_0 * (1.0 - y[j]) * power(figures[CHANCE, j], gamma), min(figures[COST_0, j], cap))
        out[FOCAL, first + j] = part_1 + part_0


@kernel
def binary(
    x: Any,
    label: Any,
    code: Any,
    flags: Any,
    out: Any,
    form: int,
    scale: float,
    soft: bool,
    smoothing: float,
    cap: float,
    pos_weight: float,
    gamma: float,
    alpha: float,
    threads: int,
) -> None:
    """Row values of the logits or probabilities x (n,) into out (SLOTS, n); breaks of rules into code (n,).

    label is (n,) int64 or float64, or (0,) without labels; `soft` asks for the target entropy and KL of every row.
    """
    n = x.shape[0]
    labelled = label.shape[0] > 0
    for t in prange(threads):
        start, stop = n * t // threads, n * (t + 1) // threads
        figures = np.empty((5, BLOCK))
        y = np.empty(BLOCK)
        for first in range(start, stop, BLOCK):
            m = min(BLOCK, stop - first)
            if load_figures(form, scale, x, first, m, figures) > 0:
                mark_rules(form, x, first, m, code)
            write_plain(first, m, figures, out)
            if labelled:
                load_labels(label, first, m, code, y)
                write_hits(first, m, figures, y, out)
                if smoothing > 0.0:
                    for j in range(m):
                        y[j] = y[j] * (1.0 - smoothing) + 0.5 * smoothing
                write_losses(first, m, cap, pos_weight, figures, y, flags, out)
                if soft:
                    write_soft(first, m, cap, figures, y, out)
                if gamma >= 0.0:
                    write_focal(first, m, cap, gamma, alpha, figures, y, out)


@kernel
def score(x: Any, code: Any, flags: Any, out: Any, tolerance: float, cap: float, threads: int) -> None:
    """Cross-entropy −x of the log-probability x (n,) that was given to what happened; above 0 only within tolerance."""
    n = x.shape[0]
    for t in prange(threads):
        for i in range(n * t // threads, n * (t + 1) // threads):
            if code[i] != USED:
                continue
            v = widen(x[i])
            if v != v:
                code[i] = NAN
            elif v > tolerance:
                code[i] = PROBABILITY_ABOVE_ONE
            else:
                if -v > cap:
                    flags[i] |= CLIPPED
                out[CROSS_ENTROPY, i] = min(-v, cap)
