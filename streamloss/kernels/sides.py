"""The statistics of a side, prediction or target, from one pass over its classes: peaks, sums in a fixed order, and the rules
that they show to be kept.

A side is described by (m, scale, L): −ln p_j = L − (x_j − m)·scale for logits, L − x_j for log-probabilities and L − ln x_j
for probabilities; L is the log-sum-exp, or ln Σp when rows are renormalised, or 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamloss.errors import ALL_NEGATIVE_INFINITY, NAN, NEGATIVE_PROBABILITY, POSITIVE_INFINITY, ROW_SUM
from streamloss.ieee.bits import (
    LANES,
    count_of,
    fma,
    lanes,
    load,
    load_narrow,
    max_of,
    narrow,
    numbered,
    select,
    store,
    sum_of,
    widen,
)
from streamloss.ieee.elementary import INF, exp_inner, exp_nonpositive, log, log1p
from streamloss.jit import loop, part, scalar
from streamloss.kernels.panel import LOGITS, LOGPROBS, NORMALIZED, PROBS, Source, load_rest

# Rows of a side's statistics, one column a row of predictions; of logits OTHERS to SQUARES are sums, of others ENTROPY_ to BAD.
PEAK, SHIFT, OTHERS, TOP, ENTROPY_, SQUARES, TOTAL, BAD = range(8)
SIDE = 8

AHEAD = 8  # steps whose values are loaded before any is looked at
CHUNK = 16  # steps looked at together: their exponentials stay in the first-level cache
NOTHING = 2.0**-940  # a sum of exponentials below it is 0: what two million classes of −inf add is under 2^-1000


@part
def clear(side: Any) -> None:
    """Empties the statistics of a side."""
    for row in range(SIDE):
        store(side, row, 0, lanes(0.0))
    store(side, PEAK, 0, lanes(-INF))


@part
def find_peaks(panel: Any, k: int, side: Any) -> None:
    """The largest value of every lane; a NaN is passed over here and found in the sums."""
    best = narrow(panel, -INF)
    for step in range(k):
        v = load_narrow(panel, step, 0)
        best = select(v > best, v, best)
    store(side, PEAK, 0, widen(best))


@part
def pass_over(x: Any, row: int, first: Any, stop: Any, mine: Any, or_equal: bool, best: Any, count: Any, at: Any) -> Any:
    """`stand_before` of steps that are all before the label's (`or_equal`), or all behind it."""
    s, whole, now = np.int64(first), stop - max(stop - first, np.int64(0)) % AHEAD, narrow(x, np.float64(first))
    while s < whole:
        i = np.int64(0)
        while i < AHEAD:
            v = load_narrow(x, row, LANES * (s + i))
            best, at = select(v > best, v, best), select(v > best, now, at)
            count = select(v >= mine if or_equal else v > mine, count + 1.0, count)
            now = now + 1.0
            i += 1
        s += AHEAD
    while s < stop:
        v = load_narrow(x, row, LANES * s)
        best, at = select(v > best, v, best), select(v > best, now, at)
        count = select(v >= mine if or_equal else v > mine, count + 1.0, count)
        now = now + 1.0
        s += 1
    return best, count, at


@part
def stand_before(x: Any, row: int, label: Any, own: Any, first: Any, stop: Any) -> Any:
    """Of every lane in steps first … stop of a long row: the largest value, how many classes stand before the label, which is a
    greater value or an equal one of lower index, and the step that the largest is first seen in, −1 where there is none above
    −inf. A label of −1, whose value is inf, is none. AHEAD steps at a time, so that as many loads are on their way.
    """
    mine, best, count, at = narrow(x, own), narrow(x, -INF), narrow(x, 0.0), narrow(x, -1.0)
    split = label // LANES if label >= 0 else np.int64(0)  # the step that has the label
    best, count, at = pass_over(x, row, first, min(split, stop), mine, True, best, count, at)
    if first <= split < stop:
        v = load_narrow(x, row, LANES * split)
        best, at = select(v > best, v, best), select(v > best, narrow(x, np.float64(split)), at)
        earlier = (v == mine) & (numbered(v) < np.float64(label - LANES * split))
        count = select((v > mine) | earlier, count + 1.0, count)
    return pass_over(x, row, max(first, split + 1), stop, mine, False, best, count, at)


@loop
def peak_and_rank(x: Any, row: int, label: Any, rest: int, panel: Any, found: Any) -> None:
    """found[0], found[1] = the largest value of a long row, and how many classes stand before its label. A label of −1 is none;
    the row's last classes are in the panel where rest is 1.
    """
    full = x.shape[1] // LANES
    own = widen(x[row, label]) if label >= 0 else INF
    best, count, _ = stand_before(x, row, label, own, np.int64(0), full)
    before = np.int64(sum_of(widen(count)))
    peak = np.float64(max_of(best))
    if rest > 0:
        last = load(panel, 0, 0)
        top = max_of(select(last > peak, last, peak))
        peak = top if top > peak else peak
        before += count_of((last > own) | ((last == own) & (numbered(last) < np.float64(label - LANES * full))))
    found[0], found[1] = peak, np.float64(before)


@loop
def add_to(side: Any, row: Any, v: Any) -> None:
    """side[row] += v: sums of CHUNK steps are added up, so that errors grow with the number of chunks, not of steps."""
    store(side, row, 0, load(side, row, 0) + v)


@part
def take_exponentials(at: Source, start: int, count: int, peak: Any, scale: float, room: Any, kept: Any, base: Any) -> None:
    """d of `count` steps, −708 at least, into room and their exponentials into kept from row `base` on."""
    for step in range(count):
        s = start + step
        d = (load(at.x, at.row + at.down * s, at.across * s) - peak) * scale
        d = select(d < -708.0, -708.0, d)
        store(room, step, 0, d)
        store(kept, base + step, 0, exp_inner(d))


@scalar
def with_exponential(d: float, e: float, others: float, top: float, inner: float, squares: float) -> Any:
    """The sums with another class added: Σe over d < 0, the number of d = 0, Σe·d and Σe². top may be narrow."""
    below = d < 0.0
    return select(below, others + e, others), select(below, top, top + 1.0), fma(e, d, inner), fma(e, e, squares)


@scalar
def with_probability(p: float, total: float, bad: float, inner: float, squares: float) -> Any:
    """The sums with another class added: Σp, the number of p < 0, Σp·ln p and Σp². bad may be narrow."""
    inner = fma(p, log(select(p > 0.0, p, 1.0)), inner)
    return total + p, select(p < 0.0, bad + 1.0, bad), inner, fma(p, p, squares)


@scalar
def with_logprob(v: float, total: float, inner: float, squares: float) -> Any:
    """The sums with another class added: Σp, Σp·ln p and Σp² with p = exp of the log-probability."""
    v = select(v < -1000.0, -1000.0, v)
    p = exp_nonpositive(select(v > 700.0, 700.0, v))
    return total + p, fma(p, v, inner), fma(p, p, squares)


@loop
def sum_logits(at: Source, steps: int, scale: float, side: Any, room: Any, kept: Any, keep: Any) -> None:
    """With d = (x − peak)·scale and e = exp d: Σe over d < 0, the number of d = 0, Σe·d and Σe²; a NaN makes Σe·d NaN.

    kept (…, 32) gets the e of every step from row `keep` on; where keep is −1, those of the last CHUNK from row 0 on. Below
    −708, d counts as −708, so that −inf adds 2^-1021 where it should add 0: see NOTHING. What is kept is 0 there.
    """
    peak = load(side, PEAK, 0)
    for start in range(0, steps, CHUNK):
        count = min(CHUNK, steps - start)
        base = keep + start if keep >= 0 else np.int64(0)
        if scale == 1.0:
            take_exponentials(at, start, count, peak, np.float64(1.0), room, kept, base)
        else:
            take_exponentials(at, start, count, peak, scale, room, kept, base)
        others = top = inner = squares = lanes(0.0)
        for step in range(count):
            d, e = load(room, step, 0), load(kept, base + step, 0)
            others, top, inner, squares = with_exponential(d, e, others, top, inner, squares)
        add_to(side, OTHERS, others)
        add_to(side, TOP, top)
        add_to(side, ENTROPY_, inner)
        add_to(side, SQUARES, squares)
        if keep >= 0:
            for step in range(count):
                e = load(kept, base + step, 0)
                store(kept, base + step, 0, select(load(room, step, 0) > -708.0, e, 0.0))


@loop
def sum_probs(at: Source, steps: int, side: Any) -> None:
    """Σp, Σp·ln p, Σp², and the number of negative probabilities; a NaN makes Σp NaN."""
    for start in range(0, steps, CHUNK):
        total = inner = squares = bad = lanes(0.0)
        for step in range(start, min(start + CHUNK, steps)):
            p = load(at.x, at.row + at.down * step, at.across * step)
            total, bad, inner, squares = with_probability(p, total, bad, inner, squares)
        add_to(side, TOTAL, total)
        add_to(side, ENTROPY_, inner)
        add_to(side, SQUARES, squares)
        add_to(side, BAD, bad)


@loop
def sum_logprobs(at: Source, steps: int, side: Any) -> None:
    """Σp, Σp·ln p and Σp² with p = exp of the log-probability; a NaN makes Σp·ln p NaN."""
    for start in range(0, steps, CHUNK):
        total = inner = squares = lanes(0.0)
        for step in range(start, min(start + CHUNK, steps)):
            v = load(at.x, at.row + at.down * step, at.across * step)
            total, inner, squares = with_logprob(v, total, inner, squares)
        add_to(side, TOTAL, total)
        add_to(side, ENTROPY_, inner)
        add_to(side, SQUARES, squares)


@loop
def fold_lanes(sums: Any, first: Any, stop: Any, into: Any, column: Any) -> None:
    """into[row, column] = Σ of the 32 lanes of sums[row], by a fixed tree, for rows first … stop."""
    for row in range(first, stop):
        into[row, column] = sum_of(load(sums, row, 0))


@part
def fold_side(form: int, sums: Any, side: Any, column: Any) -> None:
    """What was summed of one row in 32 lanes into its column of the side."""
    if form == LOGITS:
        fold_lanes(sums, np.int64(OTHERS), np.int64(TOTAL), side, column)
    else:
        fold_lanes(sums, np.int64(ENTROPY_), np.int64(SIDE), side, column)


@part
def finish_side(form: int, normalize: bool, side: Any) -> None:
    """From sums to the row's figures: SHIFT = L, OTHERS = Σe − 1 (logits), ENTROPY_, SQUARES = Σp², TOTAL = Σp, TOP = max p."""
    inner, squares = load(side, ENTROPY_, 0), load(side, SQUARES, 0)
    if form == LOGITS:
        others = load(side, OTHERS, 0)
        inner = select(others < NOTHING, 0.0, inner)
        others = select(others < NOTHING, 0.0, others) + (load(side, TOP, 0) - 1.0)
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


@part
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


@part
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
    fold_side(form, sums, side, np.int64(0))
    for statistic in range(OTHERS, SIDE):
        store(side, statistic, 0, lanes(side[statistic, 0]))
    store(side, PEAK, 0, lanes(found[0]))
    store(side, SHIFT, 0, lanes(0.0))
