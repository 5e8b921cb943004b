"""Panels: the 32 lanes that the K-class kernels work on, and the options and rows that they share.

A panel is (steps, 32). Up to SMALL classes the lanes are 32 rows and the steps are their classes; above, the lanes are
the classes 32·step + lane of one row, and a fixed tree adds the lanes at the end. The arithmetic is the same text for both,
and the order of every sum follows from K alone, so a row's bits depend on the row and nothing else.

Lanes past the last class are padded with a class of probability 0, which adds nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from streamloss.errors import LABEL, USED
from streamloss.ieee.bits import (
    LANES,
    SQUARE,
    by_column,
    lane_from,
    lane_to,
    lanes,
    load,
    load_narrow,
    lowest,
    max_of,
    meet,
    narrow,
    select,
    store,
    turn,
    widen,
)
from streamloss.ieee.elementary import exp_nonpositive, log
from streamloss.jit import loop, part, scalar
from streamloss.quantities import ACCURACY, OUTCOME, OVERCONFIDENCE, SCORE, TOP_K

SMALL = 128  # up to this many classes a panel holds 32 rows

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
    """The options of the loss. cap is the most that a class of probability 0 costs (inf: no limit) and, where there is such a
    limit, least the least that a class of K costs; gamma < 0 means no focal loss, soft that target entropy and KL are wanted of
    binary rows, top_k (…,) are the k of top-k accuracy.
    """

    smoothing: float
    cap: float
    least: float
    pos_weight: float
    gamma: float
    alpha: float
    soft: bool
    top_k: Any


class Source(NamedTuple):
    """Where the classes stand: step s has the 32 values x[row + down·s, across·s : across·s + 32]."""

    x: Any
    row: Any
    down: Any
    across: Any


@part
def turns(x: Any, first: Any, rows: int, code: Any) -> Any:
    """Whether 32 rows may be taken in squares: all are used, and so many values follow that a square ends in the array."""
    n, k = x.shape
    if rows < LANES or (first + LANES) * k + SQUARE > n * k:
        return False
    some = np.int64(0)
    for lane in range(LANES):
        some |= np.int64(code[first + lane])
    return some == USED


@part
def load_rows(x: Any, first: Any, rows: int, code: Any, panel: Any) -> None:
    """panel[j, lane] = x[first + lane, j], as stored; lanes past the last row and rows that are not used become zeros."""
    k = x.shape[1]
    if by_column(x):
        for j in range(k):
            column = x[first : first + rows, j]
            for lane in range(lane_from(), lane_to(np.int64(rows))):
                panel[j, lane] = column[lane]
        for lane in range(lane_from(), lane_to(np.int64(LANES))):
            if lane >= rows or code[first + lane] != USED:
                for j in range(k):
                    panel[j, lane] = 0
        return
    if turns(x, first, rows, code):
        for lane in range(0, LANES, SQUARE):
            for j in range(0, k, SQUARE):
                turn(x, first + lane, np.int64(j), panel, np.int64(lane))
        return
    for lane in range(lane_from(), lane_to(np.int64(LANES))):
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
    for lane in range(lane_from(), lane_to(np.int64(LANES))):
        panel[0, lane] = 0 if form == PROBS else lowest(panel)
    for lane in range(lane_from(), lane_to(k - full)):
        panel[0, lane] = x[row, full + lane]
    return np.int64(full < k)


@part
def mark_labels(label: Any, first: int, count: int, k: int, code: Any) -> None:
    """Gives their rule to rows of a label that is no class."""
    wrong = np.int64(0)
    for y in label[first + lane_from() : first + lane_to(count)]:
        wrong += np.int64(np.uint64(y) >= np.uint64(k))  # negative ones are huge
    if wrong > 0:
        for i in range(first + lane_from(), first + lane_to(count)):
            if code[i] == USED and not 0 <= label[i] < k:
                code[i] = LABEL
    meet()


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
    return select(x > 0.0, exp_nonpositive(gamma * log(x)), 0.0) if gamma > 0.0 else select(x > 0.0, 1.0, 1.0)


@scalar
def times(weight: float, cost: float) -> Any:
    """weight·cost with 0·inf = 0."""
    return select(weight > 0.0, weight * cost, 0.0)


@part
def short_ranks(panel: Any, k: int, own: Any, label: Any) -> Any:
    """How many classes of a lane's row stand before its label: greater values, and equal ones of lower index."""
    mine = narrow(panel, own)
    greater = equal = narrow(panel, 0.0)
    for j in range(k):
        v = load_narrow(panel, j, 0)
        greater = select(v > mine, greater + 1.0, greater)
        equal = select(v == mine, equal + 1.0, equal)
    rank = widen(greater)
    if max_of(equal) > 1.0:
        for j in range(k):
            rank = select((load(panel, j, 0) == own) & (np.float64(j) < label), rank + 1.0, rank)
    return rank


@part
def short_labels(panel: Any, k: int, first: int, count: int, label: Any, code: Any, into: Any, at: Any) -> None:
    """What the labels stand for of up to 32 rows in a panel: the label's stored value, the label itself and its rank become
    rows at, at + 1 and at + 2 of `into`.
    """
    for lane in range(lane_from(), lane_to(np.int64(LANES))):
        y = label[first + lane] if lane < count and code[first + lane] == USED else 0
        into[at + 1, lane] = y
        into[at, lane] = widen(panel[y, lane])
    store(into, at + 2, 0, short_ranks(panel, k, load(into, at, 0), load(into, at + 1, 0)))


@part
def write_labelled(top: Any, rank: Any, top_k: Any, out: Any, at: Any) -> None:
    """What a hard label gives besides its loss, of 32 rows: accuracy, top-k and the two sides of calibration."""
    right = select(rank == 0.0, lanes(1.0), 0.0)
    store(out, ACCURACY, at, right)
    store(out, OVERCONFIDENCE, at, top - right)
    store(out, SCORE, at, top)
    store(out, OUTCOME, at, right)
    for t in range(top_k.shape[0]):
        store(out, TOP_K + t, at, select(rank < np.float64(top_k[t]), lanes(1.0), 0.0))
