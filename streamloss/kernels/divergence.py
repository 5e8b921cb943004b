"""The terms of two distributions, class by class: cross-entropy, KL both ways, JS, Brier score and focal loss.

With d = ln q − ln p, KL(q‖p) = Σ q·d is summed as Σ [q·d − q + p] + Σ (q − p): every bracket is ≥ 0, so rows that nearly
agree lose nothing to cancellation. For |d| ≤ 0.34 the bracket is q·(e^−d − 1 + d), which `expm1_tails` gives to a few ulps;
Σ (q − p) is 0 for softmaxes and summed where rows are taken as they are. JS = Σ m/2·[ln(1 − δ²) + δ·d] with m = (p + q)/2
and δ = (q − p)/(q + p), from tanh(d/2) = δ. A class with q > 0 and p = 0 costs `cap` = −ln EPS, or makes the row infinite.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from streamloss.ieee.bits import LANES, fma, lanes, load, numbered, select, store
from streamloss.ieee.elementary import INF, LN2, exp_nonpositive, expm1_tails, log, log1p_ratio
from streamloss.jit import loop, part, scalar
from streamloss.kernels.panel import LOGITS, LOGPROBS, PROBS, Loss, Source, Stored, power, times
from streamloss.kernels.sides import CHUNK, PEAK, SHIFT, TOP, TOTAL, add_to

NEAR = 0.34  # below ln 2 / 2, where exp's own reduction leaves e^−d unscaled

# [ln(1 − δ²) + δ·d] / (4d²) with δ = tanh(d/2), in powers of d² for |d| ≤ NEAR: Chebyshev interpolant of degree 6
# (truncation 0.05 · 2^-53).
_J0, _J1, _J2, _J3 = 0.25 * 0.25, 0.25 * -0.03124999999999886, 0.25 * 0.003472222222064077, 0.25 * -0.0003689236028935955
_J4, _J5, _J6 = 0.25 * 3.844225679567923e-05, 0.25 * -3.9645137033795565e-06, 0.25 * 3.907317656077574e-07

# Sums over the classes of a pair, one column a lane.
Q_ENTROPY, CROSS, FORWARD, BACKWARD, JENSEN, SQUARE, FOCAL_, GAP, BACK_GAP, CUT = range(10)
SUMS = 10


class Side(NamedTuple):
    """What a thread keeps of one side: of 32 rows the classes (SMALL, 32) and statistics; exp d of every class, 32 a row;
    of one row its sums and what `peak_and_rank` finds; ln p and p of CHUNK steps.
    """

    panel: Any
    side: Any
    e: Any
    sums: Any
    found: Any
    logs: Any
    chances: Any


class Room(NamedTuple):
    """What a thread works in: the two sides, the pair's sums over its classes, those of the rows, and d of CHUNK steps."""

    q: Side
    p: Side
    lanes: Any
    sums: Any
    own: Any
    d: Any


@scalar
def brackets(q: float, p: float, d: float) -> Any:
    """q·d − q + p ≥ 0 for d = ln(q/p), p·(−d) − p + q ≥ 0, and e^−d − 1 + d and e^d − 1 − d, all without cancellation.

    q·d is 0 where q is, p·d where p is; the last two mean something for |d| ≤ NEAR.
    """
    near = abs(d) <= NEAR
    up, down = expm1_tails(d)
    gap = q - p
    forward = select(near, q * down, fma(q, select(q > 0.0, d, 0.0), -gap))
    backward = select(near, p * up, fma(-p, select(p > 0.0, d, 0.0), gap))
    return forward, backward, down, up


@scalar
def jensen(q: float, p: float, d: float) -> Any:
    """½ [q ln(q/m) + p ln(p/m)], m = (p + q)/2, for d = ln(q/p)."""
    size, both = abs(d), q + p
    s = d * d
    inner = fma(fma(fma(fma(fma(fma(_J6, s, _J5), s, _J4), s, _J3), s, _J2), s, _J1), s, _J0)
    larger = q > p
    low, high = select(larger, p, q), select(larger, q, p)
    far = fma(both, LN2 - log1p_ratio(low, high), -(low * select(low > 0.0, size, 0.0)))
    return select(size <= NEAR, both * (s * inner), 0.5 * far)


@part
def no_sums(sums: Any) -> None:
    """Empties the sums of a pair."""
    for each in range(SUMS):
        store(sums, each, 0, lanes(0.0))


@scalar
def log_of(form: int, v: float, peak: float, scale: float, shift: float) -> Any:
    """ln p of a stored value."""
    if form == LOGITS:
        return (v - peak) * scale - shift
    return (log(v) if form == PROBS else v) - shift


@scalar
def smoothed(q: float, kept: float, share: float, there: float) -> Any:
    """q' = (1 − E)·q + E/K and its logarithm; 0 and −inf past the first `there` lanes."""
    q = kept * q + share
    inside = numbered(q) < there
    return select(inside, q, 0.0), select(inside, log(q), -INF)


@scalar
def with_entropies(a: float, la: float, lb: float, entropy: float, cross: float) -> Any:
    """Σ q·ln(1/q) and Σ q·ln(1/p) with another class added."""
    some = a > 0.0
    return fma(-a, select(some, la, 0.0), entropy), fma(-a, select(some, lb, 0.0), cross)


@scalar
def is_cut(a: float, lb: float, cap: float, least: float) -> Any:
    """Whether the class counts and its ln(1/p) is not between `least` and `cap`."""
    return (a > 0.0) & ((lb < -cap) | (lb > -least))


@scalar
def within(lb: float, cap: float, least: float) -> Any:
    """ln p such that ln(1/p) is between `least` and `cap`."""
    lb = select(lb < -cap, -cap, lb)
    return select(lb > -least, -least, lb)


@scalar
def above_floor(a: float, b: float, la: float, lb: float, cap: float, floor: float, by_log: bool) -> Any:
    """q·d − q + p and q − p with no p below the floor e^−cap; `by_log`: see `add_capped`."""
    cut = lb < -cap
    under, d = select(cut, floor, b), la - select(cut, -cap, lb)
    term, _, tail, _ = brackets(a, under, d)
    return term, select(abs(d) <= NEAR, a * (d - tail), a - under) if by_log else a - under


@scalar
def above_floor_back(a: float, b: float, la: float, lb: float, cap: float, floor: float, by_log: bool) -> Any:
    """The same of the other direction."""
    cut = la < -cap
    under, d = select(cut, floor, a), select(cut, -cap, la) - lb
    _, term, _, tail = brackets(under, b, d)
    return term, select(abs(d) <= NEAR, -b * (d + tail), b - under) if by_log else b - under


@scalar
def focal_term(a: float, b: float, lb: float, cap: float, gamma: float, alpha: float) -> Any:
    """What a class adds to the focal loss."""
    rest, paid = 1.0 - b, -lb
    lost = times(alpha * power(select(rest > 0.0, rest, 0.0), gamma), select(paid < cap, paid, cap))
    return times(a, lost)


@loop
def expand(form: int, normalize: bool, at: Source, start: int, steps: Any, scale: float, keep: Any, side: Side) -> None:
    """ln p and p of the stored values of steps start … start + steps; −inf and 0 for probability 0.

    keep + start is the row of side.e that has the first step's exp d.
    """
    shift = load(side.side, SHIFT, 0)
    if form == LOGITS:
        peak, share = load(side.side, PEAK, 0), load(side.side, TOP, 0)
        for step in range(steps):
            s = start + step
            v = load(at.x, at.row + at.down * s, at.across * s)
            store(side.logs, step, 0, log_of(LOGITS, v, peak, scale, shift))
            store(side.chances, step, 0, load(side.e, keep + s, 0) * share)
    elif form == LOGPROBS:
        for step in range(steps):
            s = start + step
            v = load(at.x, at.row + at.down * s, at.across * s) - shift
            store(side.logs, step, 0, v)
            store(side.chances, step, 0, exp_nonpositive(v))
    else:
        for step in range(steps):
            s = start + step
            v = load(at.x, at.row + at.down * s, at.across * s)
            store(side.logs, step, 0, log(v) - shift)
            store(side.chances, step, 0, v / load(side.side, TOTAL, 0) if normalize else v)


@loop
def smooth(steps: Any, last: Any, smoothing: float, k: int, side: Side) -> None:
    """q' = (1 − E)·q + E/K; the last step has `last` classes, and the lanes past them stay 0."""
    kept, share = 1.0 - smoothing, smoothing / k
    for step in range(steps):
        a, la = smoothed(load(side.chances, step, 0), kept, share, np.float64(LANES if step < steps - 1 else last))
        store(side.chances, step, 0, a)
        store(side.logs, step, 0, la)


@loop
def add_entropies(steps: Any, cap: float, least: float, q: Side, p: Side, sums: Any) -> None:
    """Adds q·ln(1/q), q·ln(1/p) with ln(1/p) kept between `least` and `cap`, and the number of classes that this cuts."""
    entropy = cross = lanes(0.0)
    for step in range(steps):
        a, la, lb = load(q.chances, step, 0), load(q.logs, step, 0), load(p.logs, step, 0)
        if cap < INF:
            add_to(sums, CUT, select(is_cut(a, lb, cap, least), lanes(1.0), 0.0))
            lb = within(lb, cap, least)
        entropy, cross = with_entropies(a, la, lb, entropy, cross)
    add_to(sums, Q_ENTROPY, entropy)
    add_to(sums, CROSS, cross)


@loop
def add_brackets(steps: Any, q: Side, p: Side, sums: Any) -> None:
    """Adds the brackets of both directions, of sides that sum to 1."""
    forward = backward = lanes(0.0)
    for step in range(steps):
        d = load(q.logs, step, 0) - load(p.logs, step, 0)
        there, back, _, _ = brackets(load(q.chances, step, 0), load(p.chances, step, 0), d)
        forward = forward + there
        backward = backward + back
    add_to(sums, FORWARD, forward)
    add_to(sums, BACKWARD, backward)


@loop
def add_capped(steps: Any, by_log: bool, cap: float, q: Side, p: Side, sums: Any) -> None:
    """Adds the brackets and Σ (q − p) of both directions, no probability below e^−cap standing under the other.

    `by_log`: the logarithms are what is known exactly, so q − p follows from d; otherwise q and p are.
    """
    floor = exp_nonpositive(lanes(-cap))
    for step in range(steps):
        a, b, la, lb = load(q.chances, step, 0), load(p.chances, step, 0), load(q.logs, step, 0), load(p.logs, step, 0)
        term, gap = above_floor(a, b, la, lb, cap, floor, by_log)
        add_to(sums, FORWARD, term)
        add_to(sums, GAP, gap)
        term, gap = above_floor_back(a, b, la, lb, cap, floor, by_log)
        add_to(sums, BACKWARD, term)
        add_to(sums, BACK_GAP, gap)


@loop
def add_middles(steps: Any, q: Side, p: Side, sums: Any) -> None:
    """Adds the terms of JS and of the Brier score."""
    js = square = lanes(0.0)
    for step in range(steps):
        a, b = load(q.chances, step, 0), load(p.chances, step, 0)
        js = js + jensen(a, b, load(q.logs, step, 0) - load(p.logs, step, 0))
        square = fma(b - a, b - a, square)
    add_to(sums, JENSEN, js)
    add_to(sums, SQUARE, square)


@loop
def add_focal(steps: Any, cap: float, gamma: float, alpha: float, q: Side, p: Side, sums: Any) -> None:
    """Adds the focal loss."""
    focal = load(sums, FOCAL_, 0)
    for step in range(steps):
        a, b, lb = load(q.chances, step, 0), load(p.chances, step, 0), load(p.logs, step, 0)
        focal = focal + focal_term(a, b, lb, cap, gamma, alpha)
    store(sums, FOCAL_, 0, focal)


@loop
def add_pairs(
    at_q: Source,
    at_p: Source,
    steps: Any,
    last: Any,
    keep: Any,
    stored_q: Stored,
    stored_p: Stored,
    k: int,
    loss: Loss,
    q: Side,
    p: Side,
    sums: Any,
) -> None:
    """Adds the classes of both sides to the sums of their lanes; the last step has `last` classes, and keep is the row of the
    sides' e that has the first step.
    """
    by_log = stored_q.form != PROBS and stored_p.form != PROBS
    exact = sums_to_one(stored_q) and sums_to_one(stored_p) and loss.cap == INF
    for start in range(0, steps, CHUNK):
        count = min(CHUNK, steps - start)
        expand(stored_q.form, stored_q.normalize, at_q, start, count, stored_q.scale, keep, q)
        expand(stored_p.form, stored_p.normalize, at_p, start, count, stored_p.scale, keep, p)
        if loss.smoothing > 0.0:
            smooth(count, last if start + count == steps else np.int64(LANES), loss.smoothing, k, q)
        add_entropies(count, loss.cap, loss.least, q, p, sums)
        if exact:
            add_brackets(count, q, p, sums)
        else:
            add_capped(count, by_log, loss.cap, q, p, sums)
        add_middles(count, q, p, sums)
        if loss.gamma >= 0.0:
            add_focal(count, loss.cap, loss.gamma, loss.alpha, q, p, sums)


@scalar
def sums_to_one(stored: Stored) -> Any:
    """Whether the probabilities of a side sum to 1 by construction."""
    return (stored.form == LOGITS) | stored.normalize
