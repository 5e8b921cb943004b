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

from streamloss.errors import ALL_NEGATIVE_INFINITY, LABEL, NAN, NEGATIVE_PROBABILITY, POSITIVE_INFINITY, ROW_SUM, USED
from streamloss.ieee.bits import (
    LANES,
    by_column,
    count_of,
    fma,
    lanes,
    load,
    load_narrow,
    lowest,
    max_of,
    narrow,
    numbered,
    select,
    store,
    sum_of,
    widen,
)
from streamloss.ieee.elementary import INF, exp_inner, exp_nonpositive, log, log1p
from streamloss.jit import loop, scalar
from streamloss.quantities import ACCURACY, OUTCOME, OVERCONFIDENCE, SCORE, TOP_K

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


# Rows of a side's statistics, one column a row of predictions.
PEAK, SHIFT, OTHERS, ENTROPY_, SQUARES, TOTAL, TOP, BAD = range(8)
SIDE = 8

CHUNK = 16  # steps looked at together: their exponentials stay in the first-level cache


class Source(NamedTuple):
    """Where the classes stand: step s has the 32 values x[row + down·s, across·s : across·s + 32]."""

    x: Any
    row: Any
    down: Any
    across: Any


@loop
def load_rows(x: Any, first: Any, rows: int, code: Any, panel: Any) -> None:
    """panel[j, lane] = x[first + lane, j], as stored; lanes past the last row and rows that are not used become zeros."""
    k = x.shape[1]
    if by_column(x):
        for j in range(k):
            column = x[first : first + rows, j]
            for lane in range(rows):
                panel[j, lane] = column[lane]
        for lane in range(LANES):
            if lane >= rows or code[first + lane] != USED:
                for j in range(k):
                    panel[j, lane] = 0
        return
    for lane in range(LANES):
        if lane < rows and code[first + lane] == USED:
            for j in range(k):
                panel[j, lane] = x[first + lane, j]
        else:
            for j in range(k):
                panel[j, lane] = 0


@loop
def load_rest(form: int, x: Any, row: int, panel: Any) -> Any:
    """panel[0] = the classes of the row past the last full 32, as stored, and others of probability 0; returns 1, or 0 where
    there are none.
    """
    k = x.shape[1]
    full = k - k % LANES
    for lane in range(LANES):
        panel[0, lane] = 0 if form == PROBS else lowest(panel)
    for lane in range(k - full):
        panel[0, lane] = x[row, full + lane]
    return np.int64(full < k)


@loop
def clear(side: Any) -> None:
    """Empties the statistics of a side."""
    for row in range(SIDE):
        store(side, row, 0, lanes(0.0))
    store(side, PEAK, 0, lanes(-INF))


@loop
def find_peaks(panel: Any, k: int, side: Any) -> None:
    """The largest value of every lane; a NaN is passed over here and found in the sums."""
    best = load(side, PEAK, 0)
    for step in range(k):
        v = load(panel, step, 0)
        best = select(v > best, v, best)
    store(side, PEAK, 0, best)


@loop
def peak_and_rank(x: Any, row: int, label: Any, rest: int, panel: Any, found: Any) -> None:
    """found[0], found[1] = the largest value of a long row, and how many classes stand before its label: greater values, and
    equal ones of lower index. A label of −1 is none; the row's last classes are in the panel where rest is 1.
    """
    full = x.shape[1] // LANES
    own = widen(x[row, label]) if label >= 0 else INF
    mine, best = narrow(x, own), narrow(x, -INF)
    split = label // LANES if label >= 0 else np.int64(0)  # the step that has the label
    before = np.int64(0)
    for step in range(min(split, full)):
        v = load_narrow(x, row, LANES * step)
        best = select(v > best, v, best)
        before += count_of(v >= mine)
    if split < full:
        v = load_narrow(x, row, LANES * split)
        best = select(v > best, v, best)
        before += count_of((v > mine) | ((v == mine) & (numbered(v) < np.float64(label - LANES * split))))
    for step in range(split + 1, full):
        v = load_narrow(x, row, LANES * step)
        best = select(v > best, v, best)
        before += count_of(v > mine)
    peak = np.float64(max_of(best))
    if rest > 0:
        last = load(panel, 0, 0)
        top = max_of(select(last > peak, last, peak))
        peak = top if top > peak else peak
        before += count_of((last > own) | ((last == own) & (numbered(last) < np.float64(label - LANES * full))))
    found[0], found[1] = peak, np.float64(before)


@loop
def sum_logits(at: Source, steps: int, scale: float, side: Any, room: Any, kept: Any, keep: Any) -> None:
    """With d = (x − peak)·scale and e = exp d: Σe over d < 0, the number of d = 0, Σe·d and Σe²; a NaN makes Σe·d NaN.

    kept (…, 32) gets the e of every step from row `keep` on; where keep is −1, those of the last CHUNK from row 0 on.
    """
    peak = load(side, PEAK, 0)
    for start in range(0, steps, CHUNK):
        count, base = min(CHUNK, steps - start), keep + start if keep >= 0 else np.int64(0)
        for step in range(count):
            s = start + step
            d = (load(at.x, at.row + at.down * s, at.across * s) - peak) * scale
            d = select(d < -709.0, -709.0, d)
            store(room, step, 0, d)
            store(kept, base + step, 0, select(d >= -708.0, exp_inner(d), 0.0))
        others, top = load(side, OTHERS, 0), load(side, TOP, 0)
        inner, squares = load(side, ENTROPY_, 0), load(side, SQUARES, 0)
        for step in range(count):
            d, e = load(room, step, 0), load(kept, base + step, 0)
            below = d < 0.0
            others = select(below, others + e, others)
            top = select(below, top, top + 1.0)
            inner = fma(e, d, inner)
            squares = fma(e, e, squares)
        store(side, OTHERS, 0, others)
        store(side, TOP, 0, top)
        store(side, ENTROPY_, 0, inner)
        store(side, SQUARES, 0, squares)


@loop
def sum_probs(at: Source, steps: int, side: Any) -> None:
    """Σp, Σp·ln p, Σp², and the number of negative probabilities; a NaN makes Σp NaN."""
    total, inner, squares, bad = load(side, TOTAL, 0), load(side, ENTROPY_, 0), load(side, SQUARES, 0), load(side, BAD, 0)
    for step in range(steps):
        p = load(at.x, at.row + at.down * step, at.across * step)
        total = total + p
        inner = fma(p, log(select(p > 0.0, p, 1.0)), inner)
        squares = fma(p, p, squares)
        bad = select(p < 0.0, bad + 1.0, bad)
    store(side, TOTAL, 0, total)
    store(side, ENTROPY_, 0, inner)
    store(side, SQUARES, 0, squares)
    store(side, BAD, 0, bad)


@loop
def sum_logprobs(at: Source, steps: int, side: Any) -> None:
    """Σp, Σp·ln p and Σp² with p = exp of the log-probability; a NaN makes Σp·ln p NaN."""
    total, inner, squares = load(side, TOTAL, 0), load(side, ENTROPY_, 0), load(side, SQUARES, 0)
    for step in range(steps):
        v = load(at.x, at.row + at.down * step, at.across * step)
        v = select(v < -1000.0, -1000.0, v)
        p = exp_nonpositive(select(v > 700.0, 700.0, v))
        total = total + p
        inner = fma(p, v, inner)
        squares = fma(p, p, squares)
    store(side, TOTAL, 0, total)
    store(side, ENTROPY_, 0, inner)
    store(side, SQUARES, 0, squares)


@loop
def fold_lanes(sums: Any, first: Any, stop: Any, into: Any, column: Any) -> None:
    """into[row, column] = Σ of the 32 lanes of sums[row], by a fixed tree, for rows first … stop."""
    for row in range(first, stop):
        into[row, column] = sum_of(load(sums, row, 0))


@loop
def finish_side(form: int, normalize: bool, side: Any) -> None:
    """From sums to the row's figures: SHIFT = L, OTHERS = Σe − 1 (logits), ENTROPY_, SQUARES = Σp², TOTAL = Σp, TOP = max p."""
    inner, squares = load(side, ENTROPY_, 0), load(side, SQUARES, 0)
    if form == LOGITS:
        others = load(side, OTHERS, 0) + (load(side, TOP, 0) - 1.0)
        share = 1.0 / (1.0 + others)
        shift = log1p(others)
        store(side, OTHERS, 0, others)
        store(side, SHIFT, 0, shift)
        store(side, ENTROPY_, 0, shift - inner * share)
        store(side, SQUARES, 0, squares * (share * share))
        store(side, TOP, 0, share)
        store(side, TOTAL, 0, lanes(1.0))
        return
    top = load(side, PEAK, 0)
    if form == LOGPROBS:
        top = select(top < -1000.0, -1000.0, top)
        top = exp_nonpositive(select(top > 700.0, 700.0, top))
    if normalize:
        total = load(side, TOTAL, 0)
        shift = log(total)
        store(side, SHIFT, 0, shift)
        inner, squares, top = inner / total - shift, squares / (total * total), top / total
    store(side, ENTROPY_, 0, 0.0 - inner)
    store(side, SQUARES, 0, squares)
    store(side, TOP, 0, top)


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
def side_suspects(form: int, tolerance: float, normalize: bool, side: Any, count: Any) -> Any:
    """How many of the first `count` rows break a rule, as `side_holds` says it."""
    total, peak, inner = load(side, TOTAL, 0), load(side, PEAK, 0), load(side, ENTROPY_, 0)
    good = (peak < INF) & (inner == inner) & (numbered(peak) < np.float64(count))
    if form == LOGITS:
        good = good & (peak > -INF)
    else:
        summed = abs(total - 1.0) <= tolerance
        if normalize:
            summed = summed | ((total > 0.0) & (total < INF))
        good = good & (load(side, BAD, 0) == 0.0) & summed
    return count - count_of(good)


@loop
def mark_labels(label: Any, first: int, count: int, k: int, code: Any) -> None:
    """Gives their rule to rows of a label that is no class."""
    wrong = np.int64(0)
    for y in label[first : first + count]:
        wrong += np.int64((y < 0) | (y >= k))
    if wrong > 0:
        for i in range(first, first + count):
            if code[i] == USED and not 0 <= label[i] < k:
                code[i] = LABEL


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
def sum_side(form: int, at: Source, steps: int, scale: float, side: Any, room: Any, kept: Any, keep: Any) -> None:
    """The sums of one form."""
    if form == LOGITS:
        sum_logits(at, steps, scale, side, room, kept, keep)
    elif form == PROBS:
        sum_probs(at, steps, side)
    else:
        sum_logprobs(at, steps, side)


@loop
def short_sides(form: int, panel: Any, k: int, scale: float, side: Any, room: Any, kept: Any, keep: Any) -> None:
    """The sums of 32 short rows whose classes are all in the panel."""
    clear(side)
    find_peaks(panel, k, side)
    sum_side(form, Source(panel, np.int64(0), np.int64(1), np.int64(0)), k, scale, side, room, kept, keep)


@loop
def long_side(
    form: int, x: Any, row: int, label: Any, scale: float, panel: Any, side: Any, room: Any, kept: Any, keep: Any, found: Any
) -> None:
    """The sums of one long row, apart in 32 lanes, and its peak and the label's rank in found (2,)."""
    full = x.shape[1] // LANES
    rest = load_rest(form, x, row, panel)
    clear(side)
    peak_and_rank(x, row, label, rest, panel, found)
    store(side, PEAK, 0, lanes(found[0]))
    sum_side(form, Source(x, row, np.int64(0), np.int64(LANES)), full, scale, side, room, kept, keep)
    last = np.int64(-1) if keep < 0 else keep + full
    sum_side(form, Source(panel, np.int64(0), np.int64(1), np.int64(0)), rest, scale, side, room, kept, last)


@loop
def row_side(
    form: int,
    x: Any,
    row: int,
    label: Any,
    scale: float,
    panel: Any,
    sums: Any,
    room: Any,
    kept: Any,
    keep: Any,
    found: Any,
    side: Any,
) -> None:
    """The statistics of one row of any length in every lane of the side; sums (SIDE, 32) is room for them apart."""
    long_side(form, x, row, label, scale, panel, sums, room, kept, keep, found)
    fold_lanes(sums, np.int64(OTHERS), np.int64(SIDE), side, np.int64(0))
    for statistic in range(OTHERS, SIDE):
        store(side, statistic, 0, lanes(side[statistic, 0]))
    store(side, PEAK, 0, lanes(found[0]))
    store(side, SHIFT, 0, lanes(0.0))


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
def short_ranks(panel: Any, k: int, own: Any, label: Any) -> Any:
    """How many classes of a lane's row stand before its label: greater values, and equal ones of lower index."""
    rank = lanes(0.0)
    for j in range(k):
        v = load(panel, j, 0)
        rank = select((v > own) | ((v == own) & (np.float64(j) < label)), rank + 1.0, rank)
    return rank


@loop
def write_labelled(top: Any, rank: Any, top_k: Any, out: Any, at: Any) -> None:
    """What a hard label gives besides its loss, of 32 rows: accuracy, top-k and the two sides of calibration."""
    right = select(rank == 0.0, lanes(1.0), 0.0)
    store(out, ACCURACY, at, right)
    store(out, OVERCONFIDENCE, at, top - right)
    store(out, SCORE, at, top)
    store(out, OUTCOME, at, right)
    for t in range(top_k.shape[0]):
        store(out, TOP_K + t, at, select(rank < np.float64(top_k[t]), lanes(1.0), 0.0))
