"""Columns that lie on a CUDA device: taken as the kernels take them, and their rows judged as reading judges those of a file.

A row is ignored when its mask is false, its label is the ignore index or its weight is 0; others may break a rule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from streamloss.errors import BYTES, IGNORED, LABEL, NAN, USED, WEIGHT
from streamloss.ieee.bits import LANES, lane_from, lane_to, mul, widen
from streamloss.ieee.elementary import INF


class Facts(NamedTuple):
    """What a batch says of its rows besides predictions; arrays that are not there are empty.

    The label is hard, one of `classes`, or soft; where `classes` is 0 it may be anything. table has a factor of the weight for
    every class, and 1.0 behind them.
    """

    hard: Any
    soft: Any
    weight: Any
    table: Any
    bytes: Any
    mask: Any
    classes: Any
    ignores: bool
    ignored: Any


def copy(x: Any, out: Any) -> None:
    """out = x, values (n,) as they are stored."""
    for i in range(np.int64(cuda.grid(1)), x.shape[0], cuda.gridsize(1)):
        out[i] = x[i]


def copy_rows(x: Any, out: Any) -> None:
    """The same of rows (n, K)."""
    row, k = np.int64(cuda.blockIdx.x), np.int64(x.shape[1])
    while row < x.shape[0]:
        for first in range(0, k, LANES):
            for j in range(first + lane_from(), first + lane_to(min(np.int64(LANES), k - first))):
                out[row, j] = x[row, j]
        row += np.int64(cuda.gridDim.x)


def wholes(x: Any, unsigned: bool, out: Any) -> None:
    """out = x, integers or booleans, as int64; beyond it they are the least there is, which is no class."""
    for i in range(np.int64(cuda.grid(1)), x.shape[0], cuda.gridsize(1)):
        y = np.int64(x[i])
        out[i] = np.int64(-0x8000000000000000) if unsigned and y < 0 else y


def numbers(x: Any, out: Any) -> None:
    """out = x, integers or booleans, as float64."""
    for i in range(np.int64(cuda.grid(1)), x.shape[0], cuda.gridsize(1)):
        out[i] = np.float64(x[i])


def floats(x: Any, out: Any) -> None:
    """out = x, floats as they are stored, as float64."""
    for i in range(np.int64(cuda.grid(1)), x.shape[0], cuda.gridsize(1)):
        out[i] = widen(x[i])


def judge(facts: Facts, code: Any, weight: Any, first_of: Any) -> None:
    """The code of every row, and its weight where facts.table has factors.

    first_of (2,) gets the first row that breaks a rule, and the first whose mask is neither 0 nor 1, where they are less.
    """
    for i in range(np.int64(cuda.grid(1)), code.shape[0], cuda.gridsize(1)):
        rule = np.int64(USED)
        if facts.hard.shape[0] > 0:
            y = facts.hard[i]
            inside = facts.classes == 0 or 0 <= y < facts.classes
            if not inside:
                rule = np.int64(LABEL)
            if facts.table.shape[0] > 0:
                factor = facts.table[y if inside else facts.classes]
                weight[i] = mul(facts.weight[i], factor) if facts.weight.shape[0] > 0 else factor
                if weight[i] == 0.0:
                    rule = np.int64(IGNORED)
            if facts.ignores and y == facts.ignored:
                rule = np.int64(IGNORED)
        if facts.soft.shape[0] > 0:
            share = facts.soft[i]
            if facts.classes > 0 and not 0.0 <= share <= 1.0:
                rule = np.int64(NAN) if share != share else np.int64(LABEL)
            if facts.ignores and share == np.float64(facts.ignored):
                rule = np.int64(IGNORED)
        if facts.bytes.shape[0] > 0 and facts.bytes[i] < 0.0 and rule == USED:
            rule = np.int64(BYTES)
        if facts.weight.shape[0] > 0:
            w = facts.weight[i]
            if not 0.0 <= w < INF and rule in (USED, BYTES):
                rule = np.int64(WEIGHT)
            if w == 0.0:
                rule = np.int64(IGNORED)
        if facts.mask.shape[0] > 0:
            if facts.mask[i] == 0:
                rule = np.int64(IGNORED)
            elif facts.mask[i] != 1:
                cuda.atomic.min(first_of, 1, i)
        code[i] = rule
        if rule > IGNORED:
            cuda.atomic.min(first_of, 0, i)


def clear(flags: Any, at_target: Any) -> None:
    """Has rows no marks."""
    for i in range(np.int64(cuda.grid(1)), flags.shape[0], cuda.gridsize(1)):
        flags[i] = 0
        at_target[i] = 0


def find_broken(code: Any, first_of: Any) -> None:
    """first_of (1,) gets the first row that breaks a rule, if it is less."""
    for i in range(np.int64(cuda.grid(1)), code.shape[0], cuda.gridsize(1)):
        if code[i] > IGNORED:
            cuda.atomic.min(first_of, 0, i)
