"""What the classes of rows add up to, in the registers of a thread: the arithmetic of `sides` and `divergence`, with no array
between one step and the next. To compute an exponential again costs a device less than to keep it in memory.

A thread has one of 32 lanes. Values are loaded some steps ahead, so that as many are on their way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from streamloss.ieee.bits import LANES, fma, lanes, load, load_narrow, narrow, select, store, widen
from streamloss.ieee.elementary import INF, exp_inner, exp_nonpositive
from streamloss.jit import part
from streamloss.kernels.divergence import (
    BACK_GAP,
    BACKWARD,
    CROSS,
    CUT,
    FOCAL_,
    FORWARD,
    GAP,
    JENSEN,
    Q_ENTROPY,
    SQUARE,
    above_floor,
    above_floor_back,
    brackets,
    focal_term,
    is_cut,
    jensen,
    log_of,
    smoothed,
    sums_to_one,
    with_entropies,
    within,
)
from streamloss.kernels.panel import LOGITS, LOGPROBS, PROBS, Loss, Source, Stored
from streamloss.kernels.sides import (
    BAD,
    CHUNK,
    ENTROPY_,
    OTHERS,
    PEAK,
    SHIFT,
    SQUARES,
    TOP,
    TOTAL,
    add_to,
    clear,
    find_peaks,
    with_exponential,
    with_logprob,
    with_probability,
)

AHEAD = 8  # steps that `chunk` loads ahead


@part
def stored(at: Source, s: Any) -> Any:
    """The values of a step, as they are loaded."""
    return load_narrow(at.x, at.row + at.down * s, at.across * s)


@part
def with_class(form: Any, scaled: bool, v: Any, peak: Any, scale: Any, a: Any, b: Any, inner: Any, squares: Any) -> Any:
    """The four sums of a side with another class added; see `fill` for what they are. b is a number of classes, and narrow."""
    if form == LOGITS:
        d = (widen(v) - peak) * scale if scaled else widen(v) - peak
        d = select(d < -708.0, -708.0, d)
        a, b, inner, squares = with_exponential(d, exp_inner(d), a, b, inner, squares)
    elif form == PROBS:
        a, b, inner, squares = with_probability(widen(v), a, b, inner, squares)
    else:
        a, inner, squares = with_logprob(widen(v), a, inner, squares)
    return a, b, inner, squares


@part
def chunk(form: Any, scaled: bool, at: Source, start: Any, stop: Any, peak: Any, scale: Any) -> Any:
    """What steps start … stop come to, CHUNK at most."""
    a = inner = squares = lanes(0.0)
    b = narrow(at.x, 0.0)
    s = np.int64(start)
    while s + AHEAD <= stop:
        v0, v1, v2, v3 = stored(at, s), stored(at, s + 1), stored(at, s + 2), stored(at, s + 3)
        v4, v5, v6, v7 = stored(at, s + 4), stored(at, s + 5), stored(at, s + 6), stored(at, s + 7)
        a, b, inner, squares = with_class(form, scaled, v0, peak, scale, a, b, inner, squares)
        a, b, inner, squares = with_class(form, scaled, v1, peak, scale, a, b, inner, squares)
        a, b, inner, squares = with_class(form, scaled, v2, peak, scale, a, b, inner, squares)
        a, b, inner, squares = with_class(form, scaled, v3, peak, scale, a, b, inner, squares)
        a, b, inner, squares = with_class(form, scaled, v4, peak, scale, a, b, inner, squares)
        a, b, inner, squares = with_class(form, scaled, v5, peak, scale, a, b, inner, squares)
        a, b, inner, squares = with_class(form, scaled, v6, peak, scale, a, b, inner, squares)
        a, b, inner, squares = with_class(form, scaled, v7, peak, scale, a, b, inner, squares)
        s += AHEAD
    while s < stop:
        a, b, inner, squares = with_class(form, scaled, stored(at, s), peak, scale, a, b, inner, squares)
        s += 1
    return a, widen(b), inner, squares


@part
def chunk_of(form: Any, at: Source, start: Any, stop: Any, peak: Any, scale: Any) -> Any:
    """`chunk`, with a text of its own for each form: what is asked once is not asked for every class."""
    if form == LOGITS and scale == 1.0:
        found = chunk(np.int64(LOGITS), False, at, start, stop, peak, scale)
    elif form == LOGITS:
        found = chunk(np.int64(LOGITS), True, at, start, stop, peak, scale)
    elif form == PROBS:
        found = chunk(np.int64(PROBS), False, at, start, stop, peak, scale)
    else:
        found = chunk(np.int64(LOGPROBS), False, at, start, stop, peak, scale)
    return found


@part
def last_of(form: Any, v: Any, peak: Any, scale: Any) -> Any:
    """What the step with a row's last classes comes to."""
    none = lanes(0.0)
    return with_class(form, True, v, peak, scale, none, none, none, none)


@part
def side_sums(form: Any, at: Source, steps: Any, peak: Any, scale: Any) -> Any:
    """What all steps come to, CHUNK after CHUNK."""
    a = b = inner = squares = lanes(0.0)
    s = np.int64(0)
    while s < steps:
        more_a, more_b, more_inner, more_squares = chunk_of(form, at, s, min(s + CHUNK, steps), peak, scale)
        a, b, inner, squares = a + more_a, b + more_b, inner + more_inner, squares + more_squares
        s += CHUNK
    return a, b, inner, squares


@part
def fill(form: Any, peak: Any, a: Any, b: Any, inner: Any, squares: Any, side: Any) -> None:
    """The statistics of a side from its four sums, as `sides.sum_side` leaves them."""
    clear(side)
    store(side, PEAK, 0, peak)
    store(side, ENTROPY_, 0, inner)
    store(side, SQUARES, 0, squares)
    if form == LOGITS:
        store(side, OTHERS, 0, a)
        store(side, TOP, 0, b)
    else:
        store(side, TOTAL, 0, a)
        store(side, BAD, 0, b)


@part
def short_side(form: Any, panel: Any, k: Any, scale: Any, side: Any) -> None:
    """The statistics of up to 32 rows whose classes are all in the panel."""
    find_peaks(panel, k, side)
    peak, at = load(side, PEAK, 0), Source(panel, np.int64(0), np.int64(1), np.int64(0))
    a, b, inner, squares = side_sums(form, at, k, peak, scale)
    fill(form, peak, a, b, inner, squares, side)


class Known(NamedTuple):
    """What is known of one side, once its sums are finished, by which a class's value becomes its probability."""

    form: Any
    normalize: Any
    scale: Any
    peak: Any
    shift: Any
    share: Any
    total: Any


@part
def known(given: Stored, side: Any) -> Known:
    """Of a finished side."""
    return Known(
        given.form,
        given.normalize,
        given.scale,
        load(side, PEAK, 0),
        load(side, SHIFT, 0),
        load(side, TOP, 0),
        load(side, TOTAL, 0),
    )


@part
def log_and_chance(form: Any, v: Any, side: Known) -> Any:
    """ln p and p of a class."""
    x = widen(v)
    log_p = log_of(form, x, side.peak, side.scale, side.shift)
    if form == LOGITS:
        d = (x - side.peak) * side.scale
        d = select(d < -708.0, -708.0, d)
        p = select(d > -708.0, exp_inner(d), 0.0) * side.share
    elif form == LOGPROBS:
        p = exp_nonpositive(log_p)
    else:
        p = x / side.total if side.normalize else x
    return log_p, p


@part
def with_pair(
    vq: Any, vp: Any, q: Known, p: Known, entropy: Any, cross: Any, there: Any, back: Any, js: Any, square: Any
) -> Any:
    """The six sums of two sides of logits with another class added; see `pairs`."""
    la, a = log_and_chance(np.int64(LOGITS), vq, q)
    lb, b = log_and_chance(np.int64(LOGITS), vp, p)
    d = la - lb
    entropy, cross = with_entropies(a, la, lb, entropy, cross)
    forward, backward, _, _ = brackets(a, b, d)
    return entropy, cross, there + forward, back + backward, js + jensen(a, b, d), fma(b - a, b - a, square)


@part
def pairs(at_q: Source, at_p: Source, start: Any, stop: Any, q: Known, p: Known) -> Any:
    """What steps start … stop of two sides of logits come to, CHUNK at most: the sums Q_ENTROPY to SQUARE."""
    entropy = cross = there = back = js = square = lanes(0.0)
    s = np.int64(start)
    while s + 2 <= stop:  # two steps have work enough for the loads of the next
        a0, a1, b0, b1 = stored(at_q, s), stored(at_q, s + 1), stored(at_p, s), stored(at_p, s + 1)
        entropy, cross, there, back, js, square = with_pair(a0, b0, q, p, entropy, cross, there, back, js, square)
        entropy, cross, there, back, js, square = with_pair(a1, b1, q, p, entropy, cross, there, back, js, square)
        s += 2
    if s < stop:
        a0, b0 = stored(at_q, s), stored(at_p, s)
        entropy, cross, there, back, js, square = with_pair(a0, b0, q, p, entropy, cross, there, back, js, square)
    return entropy, cross, there, back, js, square


@part
def all_logits(stored_q: Stored, stored_p: Stored, loss: Loss) -> Any:
    """Whether `pairs` is all that a row's classes need."""
    plain = loss.cap == INF and loss.smoothing == 0.0 and loss.gamma < 0.0
    return plain and stored_q.form == LOGITS and stored_p.form == LOGITS


@part
def add_pairs_chunk(
    at_q: Source, at_p: Source, start: Any, stop: Any, steps: Any, last: Any, q: Known, p: Known, exact: Any, k: Any,
    loss: Loss, sums: Any,
) -> None:  # fmt: skip
    """Adds steps start … stop of `steps`, CHUNK at most, of sides of any form with any loss to the sums of their lanes; the
    last of all steps has `last` classes.
    """
    entropy = cross = js = square = lanes(0.0)
    there, back, gap, back_gap = load(sums, FORWARD, 0), load(sums, BACKWARD, 0), load(sums, GAP, 0), load(sums, BACK_GAP, 0)
    before_there, before_back = there, back
    if exact:
        there = back = lanes(0.0)
    cut, focal, floor = load(sums, CUT, 0), load(sums, FOCAL_, 0), exp_nonpositive(lanes(-loss.cap))
    by_log = q.form != PROBS and p.form != PROBS
    s = np.int64(start)
    while s < stop:
        la, a = log_and_chance(q.form, stored(at_q, s), q)
        lb, b = log_and_chance(p.form, stored(at_p, s), p)
        if loss.smoothing > 0.0:
            inside = np.float64(LANES if s < steps - 1 else last)
            a, la = smoothed(a, 1.0 - loss.smoothing, loss.smoothing / k, inside)
        paid = lb
        if loss.cap < INF:
            cut = cut + select(is_cut(a, lb, loss.cap, loss.least), lanes(1.0), 0.0)
            paid = within(lb, loss.cap, loss.least)
        entropy, cross = with_entropies(a, la, paid, entropy, cross)
        d = la - lb
        if exact:
            forward, backward, _, _ = brackets(a, b, d)
            there, back = there + forward, back + backward
        else:
            forward, less = above_floor(a, b, la, lb, loss.cap, floor, by_log)
            backward, more = above_floor_back(a, b, la, lb, loss.cap, floor, by_log)
            there, back, gap, back_gap = there + forward, back + backward, gap + less, back_gap + more
        js, square = js + jensen(a, b, d), fma(b - a, b - a, square)
        if loss.gamma >= 0.0:
            focal = focal + focal_term(a, b, lb, loss.cap, loss.gamma, loss.alpha)
        s += 1
    if exact:
        there, back = before_there + there, before_back + back
    add_to(sums, Q_ENTROPY, entropy)
    add_to(sums, CROSS, cross)
    store(sums, FORWARD, 0, there)
    store(sums, BACKWARD, 0, back)
    add_to(sums, JENSEN, js)
    add_to(sums, SQUARE, square)
    store(sums, FOCAL_, 0, focal)
    store(sums, GAP, 0, gap)
    store(sums, BACK_GAP, 0, back_gap)
    store(sums, CUT, 0, cut)


@part
def add_pairs(
    at_q: Source, at_p: Source, steps: Any, last: Any, stored_q: Stored, stored_p: Stored, k: Any, loss: Loss, q: Any, p: Any,
    sums: Any,
) -> None:  # fmt: skip
    """Adds all steps of two finished sides, CHUNK after CHUNK, to the sums of their lanes."""
    known_q, known_p = known(stored_q, q), known(stored_p, p)
    s = np.int64(0)
    if all_logits(stored_q, stored_p, loss):
        while s < steps:
            entropy, cross, there, back, js, square = pairs(at_q, at_p, s, min(s + CHUNK, steps), known_q, known_p)
            add_to(sums, Q_ENTROPY, entropy)
            add_to(sums, CROSS, cross)
            add_to(sums, FORWARD, there)
            add_to(sums, BACKWARD, back)
            add_to(sums, JENSEN, js)
            add_to(sums, SQUARE, square)
            s += CHUNK
        return
    exact = sums_to_one(stored_q) and sums_to_one(stored_p) and loss.cap == INF
    while s < steps:
        add_pairs_chunk(at_q, at_p, s, min(s + CHUNK, steps), steps, last, known_q, known_p, exact, k, loss, sums)
        s += CHUNK


@part
def add_rest(
    at_q: Source, at_p: Source, last: Any, stored_q: Stored, stored_p: Stored, k: Any, loss: Loss, q: Any, p: Any, sums: Any
) -> None:
    """Adds the step with a row's last classes, of which there are `last`."""
    exact, once = sums_to_one(stored_q) and sums_to_one(stored_p) and loss.cap == INF, np.int64(1)
    add_pairs_chunk(at_q, at_p, np.int64(0), once, once, last, known(stored_q, q), known(stored_p, p), exact, k, loss, sums)
