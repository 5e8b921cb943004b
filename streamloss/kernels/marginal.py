"""Probabilities themselves: the softmax of rows, and Σ w·p_k over the rows, which mutual information needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from streamloss.errors import USED
from streamloss.ieee.bits import LANES, widen
from streamloss.ieee.elementary import exp_nonpositive
from streamloss.jit import allocating, kernel, loop
from streamloss.kernels.bins import add_fixed
from streamloss.kernels.panel import LOGITS, LOGPROBS
from streamloss.kernels.sides import CHUNK, OTHERS, PEAK, SIDE, TOTAL, broken_rule, finish_side, row_side, side_holds


class Room(NamedTuple):
    """What a thread works in; see `row_side`."""

    panel: Any
    side: Any
    sums: Any
    found: Any
    d: Any
    e: Any


@allocating
def make_room(x: Any) -> Room:
    """Room for a row of x."""
    return Room(
        np.zeros((1, LANES), x.dtype), np.zeros((SIDE, LANES)), np.zeros((SIDE, LANES)), np.zeros(2),
        np.zeros((CHUNK, LANES)), np.zeros((CHUNK, LANES)),
    )  # fmt: skip


@loop
def sum_row(form: int, x: Any, row: int, scale: float, room: Room) -> None:
    """The statistics of a row."""
    none = np.int64(-1)
    row_side(form, x, row, none, scale, room.panel, room.sums, room.d, room.e, none, room.found, room.side)


@loop
def row_probabilities(form: int, x: Any, row: int, scale: float, normalize: bool, room: Room, p: Any) -> None:
    """p[:] = the probabilities of one row that keeps the rules."""
    side = room.side
    sum_row(form, x, row, scale, room)
    finish_side(form, normalize, side)
    total = side[TOTAL, 0] if normalize else 1.0
    if form == LOGITS:
        total = 1.0 + side[OTHERS, 0]
    for j in range(p.shape[0]):
        v = widen(x[row, j])
        if form == LOGITS:
            v = exp_nonpositive((v - side[PEAK, 0]) * scale)
        elif form == LOGPROBS:
            v = exp_nonpositive(v)
        p[j] = v / total


@kernel
def add_probabilities(
    x: Any, code: Any, weight: Any, form: int, scale: float, normalize: bool, sums: Any, threads: int
) -> None:
    """Adds every USED row's probabilities to sums (threads, K, 4), Fixed digits; x is (n, K)."""
    n, k = x.shape
    weighted = weight.shape[0] > 0
    for t in prange(threads):
        room = make_room(x)
        p = np.zeros(k)
        for i in range(n * t // threads, n * (t + 1) // threads):
            if code[i] == USED:
                row_probabilities(form, x, i, scale, normalize, room, p)
                w = weight[i] if weighted else 1.0
                for j in range(k):
                    add_fixed(sums[t, j], np.int64(0), w * p[j])


@kernel
def softmax_rows(x: Any, code: Any, out: Any, scale: float, threads: int) -> None:
    """out (n, K) = the softmax of the rows of x; a row that breaks a rule gets the rule's number in code."""
    n = x.shape[0]
    for t in prange(threads):
        room = make_room(x)
        for i in range(n * t // threads, n * (t + 1) // threads):
            sum_row(LOGITS, x, i, scale, room)
            if side_holds(LOGITS, 0.0, False, room.side, 0):
                row_probabilities(LOGITS, x, i, scale, False, room, out[i])
            else:
                code[i] = broken_rule(LOGITS, x, i)
