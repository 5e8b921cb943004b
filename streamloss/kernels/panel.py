"""Panels: 32 lanes of float64 that the K-class kernels work on, and the sums over a row's classes in a fixed order.

A panel is (steps, 32). Up to SMALL classes the lanes are 32 rows and the steps are their classes; above, the lanes are
the classes 32·step + lane of one row, and a fixed tree adds the lanes at the end. The arithmetic is the same text for both,
and the order of every sum follows from K alone, so a row's bits depend on the row and nothing else.

A side of a row (prediction or target) is described by (m, scale, L): −ln p_j = L − (x_j − m)·scale for logits, L − x_j for
log-probabilities and L − ln x_j for probabilities; L is the log-sum-exp, or ln Σp when rows are renormalised, or 0.
Lanes past the last class are padded with a class of probability 0, which adds nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from streamloss.errors import ALL_NEGATIVE_INFINITY, NAN, NEGATIVE_PROBABILITY, POSITIVE_INFINITY, ROW_SUM, USED
from streamloss.ieee.bits import fma, widen
from streamloss.ieee.elementary import INF, exp_inner, exp_nonpositive, log, log1p
from streamloss.jit import loop, scalar
from streamloss.quantities import ACCURACY, OUTCOME, OVERCONFIDENCE, SCORE, TOP_K

LANES = 32
SMALL = 64  # up to this many classes a panel holds 32 rows

LOGITS, PROBS, LOGPROBS = range(3)
FORMS = {"logits": LOGITS, "probs": PROBS, "logprobs": LOGPROBS}

NORMALIZED, CLIPPED = 1, 2  # flags of a row


class Stored(NamedTuple):
    """How the numbers of one side are read: one of FORMS, 1/T, how far from 1 a row may sum, whether sums are divided out."""

    form: int
    scale: float
    tolerance: float
    normalize: bool


class Loss(NamedTuple):
    """The options of the loss. cap is the most that a class of probability 0 costs (inf: no limit), gamma < 0 means no focal
    loss, soft that target entropy and KL are wanted of binary rows, top_k (…,) are the k of top-k accuracy.
    """

    smoothing: float
    cap: float
    pos_weight: float
    gamma: float
    alpha: float
    soft: bool
    top_k: Any


# Rows of a side's statistics, one column a lane.
PEAK, SHIFT, OTHERS, ENTROPY_, SQUARES, TOTAL, TOP, BAD = range(8)
SIDE = 8


@loop
def load_rows(x: Any, first: int, rows: int, code: Any, panel: Any) -> None:
    """panel[j, lane] = x[first + lane, j]; lanes past the last row and rows that are not used become zeros."""
    k = x.shape[1]
    for lane in range(LANES):
        if lane < rows and code[first + lane] == USED:
            for j in range(k):
                panel[j, lane] = widen(x[first + lane, j])
        else:
            for j in range(k):
                panel[j, lane] = 0.0


@loop
def load_rest(x: Any, row: int, pad: float, panel: Any) -> Any:
    """panel[0] = the classes of the row past the last full 32, padded; returns 1, or 0 where there are none."""
    k = x.shape[1]
    full = k - k % LANES
    for lane in range(LANES):
        panel[0, lane] = pad
    for lane in range(k - full):
        panel[0, lane] = widen(x[row, full + lane])
    return 1 if full < k else 0


@loop
def clear(side: Any) -> None:
    """Empties the statistics of a side."""
    for lane in range(LANES):
        side[PEAK, lane] = -INF
        side[SHIFT, lane] = 0.0
        side[OTHERS, lane] = 0.0
        side[ENTROPY_, lane] = 0.0
        side[SQUARES, lane] = 0.0
        side[TOTAL, lane] = 0.0
        side[TOP, lane] = 0.0
        side[BAD, lane] = 0.0


@loop
def find_peaks(x: Any, steps: int, side: Any) -> None:
    """The largest value of every lane; a NaN is passed over here and found in the sums."""
    for step in range(steps):
        for lane in range(LANES):
            v = widen(x[step, lane])
            best = side[PEAK, lane]
            side[PEAK, lane] = v if v > best else best


@loop
def join_peaks(side: Any) -> None:
    """One row in 32 lanes: gives every lane the row's peak."""
    peak = -INF
    for lane in range(LANES):
        peak = max(peak, side[PEAK, lane])
    for lane in range(LANES):
        side[PEAK, lane] = peak


@loop
def sum_logits(x: Any, steps: int, scale: float, side: Any) -> None:
    """With d = (x − peak)·scale and e = exp d: Σe over d < 0, the number of d = 0, Σe·d and Σe²; a NaN makes Σe·d NaN."""
    for step in range(steps):
        for lane in range(LANES):
            d = (widen(x[step, lane]) - side[PEAK, lane]) * scale
            d = -709.0 if d < -709.0 else d
            e = exp_inner(d) if d >= -708.0 else 0.0
            below = d < 0.0
            side[OTHERS, lane] += e if below else 0.0
            side[TOP, lane] += 0.0 if below else 1.0
            side[ENTROPY_, lane] = fma(e, d, side[ENTROPY_, lane])
            side[SQUARES, lane] = fma(e, e, side[SQUARES, lane])


@loop
def sum_probs(x: Any, steps: int, side: Any) -> None:
    """Σp, Σp·ln p, Σp², and the number of negative probabilities; a NaN makes Σp NaN."""
    for step in range(steps):
        for lane in range(LANES):
            p = widen(x[step, lane])
            side[TOTAL, lane] += p
            side[ENTROPY_, lane] = fma(p, log(p if p > 0.0 else 1.0), side[ENTROPY_, lane])
            side[SQUARES, lane] = fma(p, p, side[SQUARES, lane])
            side[BAD, lane] += 1.0 if p < 0.0 else 0.0


@loop
def sum_logprobs(x: Any, steps: int, side: Any) -> None:
    """Σp, Σp·ln p and Σp² with p = exp of the log-probability; a NaN makes Σp·ln p NaN."""
    for step in range(steps):
        for lane in range(LANES):
            v = widen(x[step, lane])
            v = -1000.0 if v < -1000.0 else v
            p = exp_nonpositive(min(v, 700.0))
            side[TOTAL, lane] += p
            side[ENTROPY_, lane] = fma(p, v, side[ENTROPY_, lane])
            side[SQUARES, lane] = fma(p, p, side[SQUARES, lane])


@loop
def fold_lanes(sums: Any) -> None:
    """Adds 32 lanes into lane 0 by a fixed tree: lane + 16, + 8, + 4, + 2, + 1."""
    width = LANES // 2
    while width > 0:
        for row in range(sums.shape[0]):
            for lane in range(width):
                sums[row, lane] += sums[row, lane + width]
        width //= 2


@loop
def finish_side(form: int, normalize: bool, side: Any) -> None:
    """From sums to the row's figures: SHIFT = L, OTHERS = Σe − 1 (logits), ENTROPY_, SQUARES = Σp², TOTAL = Σp, TOP = max p."""
    if form == LOGITS:
        for lane in range(LANES):
            others = side[OTHERS, lane] + (side[TOP, lane] - 1.0)
            total = 1.0 + others
            shift = log1p(others)
            side[OTHERS, lane] = others
            side[SHIFT, lane] = shift
            side[ENTROPY_, lane] = shift - side[ENTROPY_, lane] / total
            side[SQUARES, lane] = side[SQUARES, lane] / (total * total)
            side[TOP, lane] = 1.0 / total
            side[TOTAL, lane] = 1.0
        return
    for lane in range(LANES):
        total = side[TOTAL, lane] if normalize else 1.0
        shift = log(total) if normalize else 0.0
        top = side[PEAK, lane]
        if form == LOGPROBS:
            top = exp_nonpositive(min(max(top, -1000.0), 700.0))
        side[SHIFT, lane] = shift
        side[ENTROPY_, lane] = shift - side[ENTROPY_, lane] / total
        side[SQUARES, lane] = side[SQUARES, lane] / (total * total)
        side[TOP, lane] = top / total


@scalar
def side_holds(form: int, tolerance: float, normalize: bool, side: Any, lane: int) -> Any:
    """Whether the row's sums show that it keeps every rule; to be asked before `finish_side`."""
    total, peak, inner = side[TOTAL, lane], side[PEAK, lane], side[ENTROPY_, lane]
    plain = (peak < INF) & (inner == inner)
    if form == LOGITS:
        return plain & (peak > -INF)
    summed = (abs(total - 1.0) <= tolerance) | (normalize & (total > 0.0) & (total < INF))
    return plain & (side[BAD, lane] == 0.0) & summed


@loop
def side_suspects(form: int, tolerance: float, normalize: bool, side: Any) -> Any:
    """How many of the 32 rows break a rule."""
    suspects = np.int64(0)
    for lane in range(LANES):
        suspects += np.int64(not side_holds(form, tolerance, normalize, side, lane))
    return suspects


@loop
def broken_rule(form: int, x: Any, row: int) -> Any:
    """The rule that a row breaks, found value by value once its sums have shown that it breaks one."""
    k = x.shape[1]
    for j in range(k):
        v = widen(x[row, j])
        if v != v:
            return NAN
    peak = -INF
    for j in range(k):
        peak = max(peak, widen(x[row, j]))
    if form != PROBS and peak == INF:
        return POSITIVE_INFINITY
    if form != PROBS and peak == -INF:
        return ALL_NEGATIVE_INFINITY
    if form == PROBS:
        for j in range(k):
            if widen(x[row, j]) < 0.0:
                return NEGATIVE_PROBABILITY
    return ROW_SUM


@scalar
def renormalized(form: int, tolerance: float, total: float) -> Any:
    """NORMALIZED where renormalising made good a row that would have broken the rule."""
    return NORMALIZED if form != LOGITS and abs(total - 1.0) > tolerance else 0


@loop
def sum_side(form: int, x: Any, steps: int, scale: float, side: Any) -> None:
    """The sums of one form."""
    if form == LOGITS:
        sum_logits(x, steps, scale, side)
    elif form == PROBS:
        sum_probs(x, steps, side)
    else:
        sum_logprobs(x, steps, side)


@loop
def small_side(form: int, panel: Any, k: int, scale: float, side: Any) -> None:
    """The sums of 32 short rows whose classes are all in the panel."""
    clear(side)
    find_peaks(panel, k, side)
    sum_side(form, panel, k, scale, side)


@loop
def large_side(form: int, x: Any, row: int, scale: float, panel: Any, side: Any) -> None:
    """The sums of one long row; lane 0 has them."""
    full = x.shape[1] // LANES
    body = x[row, : full * LANES].reshape((full, LANES))
    rest = load_rest(x, row, 0.0 if form == PROBS else -INF, panel)
    clear(side)
    find_peaks(body, full, side)
    find_peaks(panel, rest, side)
    join_peaks(side)
    sum_side(form, body, full, scale, side)
    sum_side(form, panel, rest, scale, side)
    fold_lanes(side[OTHERS:])


@scalar
def cost(form: int, x: float, peak: float, scale: float, shift: float) -> Any:
    """−ln p of the class whose stored value is x."""
    if form == LOGITS:
        return shift - (x - peak) * scale
    if form == LOGPROBS:
        return shift - x
    return shift - log(x)


@scalar
def power(x: float, gamma: float) -> Any:
    """x^γ for x in [0, 1] and γ ≥ 0; 0^0 = 1."""
    if gamma == 0.0:
        return 1.0
    return exp_nonpositive(gamma * log(x)) if x > 0.0 else 0.0


@scalar
def times(weight: float, cost: float) -> Any:
    """weight·cost with 0·inf = 0."""
    return weight * cost if weight > 0.0 else 0.0


@loop
def small_ranks(panel: Any, k: int, own: Any, label: Any, rank: Any) -> None:
    """How many classes of a lane's row stand before its label: greater values, and equal ones of lower index."""
    for lane in range(LANES):
        rank[lane] = 0.0
    for j in range(k):
        for lane in range(LANES):
            v = panel[j, lane]
            before = (v > own[lane]) | ((v == own[lane]) & (j < label[lane]))
            rank[lane] += 1.0 if before else 0.0


@loop
def large_rank(x: Any, row: int, label: int) -> Any:
    """How many classes of the row stand before its label."""
    own = widen(x[row, label])
    before = np.int64(0)
    for j in range(label):
        before += np.int64(widen(x[row, j]) >= own)
    for j in range(label + 1, x.shape[1]):
        before += np.int64(widen(x[row, j]) > own)
    return np.float64(before)


@loop
def write_labelled(at: int, rows: int, top: Any, rank: Any, top_k: Any, out: Any) -> None:
    """What a hard label gives besides its loss: accuracy, top-k and the two sides of calibration, of the first lanes."""
    for lane in range(rows):
        i = at + lane
        right = 1.0 if rank[lane] == 0.0 else 0.0
        out[ACCURACY, i] = right
        out[OVERCONFIDENCE, i] = top[lane] - right
        out[SCORE, i] = top[lane]
        out[OUTCOME, i] = right
    for t in range(top_k.shape[0]):
        for lane in range(rows):
            out[TOP_K + t, at + lane] = 1.0 if rank[lane] < top_k[t] else 0.0
