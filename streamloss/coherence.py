"""Whether the exact numbers of a state can be those of any rows: what has been edited is refused before it is reported.

A state file says in a checksum that it is whole, but anyone can work one out. So its numbers are held against one another: of
n rows with weights w and values x between the extremes a and b, a·Σw ≤ Σwx ≤ b·Σw and (Σwx)² ≤ n·Σw²x², there are as many
in histograms, bins and classes as there are rows, and in all slices together as in the whole. All is exact, and a sum by bin
or by class may be off by as much as its addends were rounded. What is left to be made up is a state that some rows could have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from streamloss.digits import (
    BIAS,
    CLASS_INFINITE,
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_DIGITS,
    FIXED_UNIT,
    HIGHEST,
    INFINITE,
    LEDGER_BEYOND,
    LEDGER_NORMALIZED,
    LOWEST,
    RELIABILITY_OUTCOME,
    RELIABILITY_SCORE,
    RELIABILITY_WEIGHT,
    Array,
    carry_fixed,
    fixed_units,
    keyed,
    limbs_int,
)
from streamloss.errors import USED
from streamloss.options import Options, Task
from streamloss.quantities import Plan
from streamloss.slices import COUNTER_PAGES, Settled, label_pages

MOST_ROWS = 1 << 42  # of a state: Fixed digits of a count have room for as many
_LARGEST = float(np.finfo(np.float64).max)


class _Group(NamedTuple):
    """The sums of a group of rows, whole numbers of 2^-unit; `at` is the place of a quantity in `Plan.moments`."""

    used: int
    unit: int
    weights: Sequence[int]  # Σw and Σw² of weighted rows
    moments: Callable[[int], Sequence[int]]
    infinite: Sequence[int]
    lost: Callable[[int], Sequence[int]]  # Σw and Σw² of the infinite ones
    keys: Sequence[Sequence[int]]  # the extremes as they are kept
    extremes: Sequence[Sequence[float]]


def check_whole(task: Task, options: Options, p: Plan, arrays: dict[str, Array]) -> None:
    """Raises `ValueError` unless the canonical arrays of all rows can be those of some."""
    _counts(arrays["ledger"][None], arrays["infinite"][None])
    used, beyond = (arrays["ledger"][i : i + 1] for i in (USED, LEDGER_BEYOND))
    group = _Group(
        int(used[0]), BIAS, _ints(arrays["weight"]), lambda at: _ints(arrays["moments"][at]), arrays["infinite"].tolist(),
        lambda at: _ints(arrays["infinite_weight"][at]), arrays["extremes"].tolist(), keyed(arrays["extremes"]).tolist(),
    )  # fmt: skip
    _check_group(group, p, task.weighted)
    histogram = arrays["histogram"]
    if (histogram[..., 0] < 0).any():
        raise ValueError("a histogram of fewer than no rows")
    for counts in histogram:
        filled = counts[counts.any(axis=1)]
        total = sum(fixed_units(filled)) if task.weighted else sum(filled[:, 0].tolist()) << FIXED_UNIT
        if not beyond[0]:
            _same_weight("a histogram", total, group.used, group.weights[0] if task.weighted else group.used << BIAS, BIAS)
    if p.reliability:
        _check_bins(arrays["reliability"][None], used, beyond, task.weighted)
    if p.labels:
        _check_classes(arrays["classes"][None], used, beyond, task)
    if p.mean_probabilities:
        shares = arrays["mean_probabilities"]
        if (shares[:, 0] < 0).any() or shares.any() != (group.used > 0):
            raise ValueError("mean probabilities that cannot be")
    if options.convention:
        _check_conventions(arrays["conventions"], arrays["convention_rows"], group.used)


def check_groups(settled: Settled, ledger: Array) -> None:
    """Raises `ValueError` unless canonical groups can be those of the rows that a ledger counts."""
    arrays, p, weighted = settled.arrays, settled.plan, settled.task.weighted
    _counts(arrays["ledger"], arrays["infinite"])
    if (arrays["ledger"].sum(axis=0) != ledger)[:LEDGER_NORMALIZED].any():
        raise ValueError("slices of other rows than those that were read")
    used, beyond = arrays["ledger"][:, USED], arrays["ledger"][:, LEDGER_BEYOND]
    m = len(p.moments)
    infinite, keys, extremes = arrays["infinite"].tolist(), arrays["extremes"].tolist(), keyed(arrays["extremes"]).tolist()
    for g, n in enumerate(used.tolist()):
        weights, moments, lost = (
            settled.sums("weight", g, 2 * m) if weighted else (),
            partial(_sums_of, settled, "moments", g, 0),
            partial(_sums_of, settled, "infinite_weight", g, m),
        )
        group = _Group(n, settled.unit(g), weights, moments, infinite[g], lost, keys[g], extremes[g])
        _check_group(group, p, weighted)
    _check_pages(settled, used, beyond)
    if p.reliability:
        if arrays["bins"].size:
            _check_counted_bins(arrays["bins"], used)
        else:
            _check_bins(arrays["reliability"], used, beyond, weighted)
    if arrays["classes"].size:
        _check_classes(arrays["classes"], used, beyond, settled.task)


def _ints(limbs: Array) -> list[int]:
    return [limbs_int(each) for each in limbs]


def _sums_of(settled: Settled, name: str, group: int, first: int, at: int) -> list[int]:
    return settled.sums(name, group, first + at, at)


def _counts(ledger: Array, infinite: Array) -> None:
    """The ledgers (groups, LEDGER) and the infinite rows (groups, quantities)."""
    used = ledger[:, USED, None]
    if (ledger < 0).any() or float(ledger.sum(dtype=np.float64)) > MOST_ROWS or (ledger[:, LEDGER_NORMALIZED:] > used).any():
        raise ValueError("counts of rows that cannot be")
    if (infinite < 0).any() or (infinite > used).any():
        raise ValueError("counts of infinite rows that cannot be")


def _check_group(group: _Group, p: Plan, weighted: bool) -> None:
    n, unit = group.used, group.unit
    if weighted:
        _check_weights(n, group.weights, unit)
    for at, quantity in enumerate(p.moments):
        lost, low, high = group.infinite[at], *group.extremes[at]
        finite = n - lost
        w = ww = finite << unit
        sums = group.moments(at)
        x, wx, xx = sums if weighted else (sums[0], *sums)
        if weighted:
            gone = group.lost(at)
            _check_weights(lost, gone, unit)
            w, ww = (whole - part for whole, part in zip(group.weights, gone, strict=True))
            _check_weights(finite, (w, ww), unit)
        if n == 0 and group.keys[at] != [HIGHEST, LOWEST]:
            raise ValueError("extremes of no rows")
        if n and not (low <= high and (math.isinf(low) or math.isinf(high)) == (lost > 0)):
            raise ValueError("extremes that cannot be")
        if n and quantity.indicator and not (low >= 0 and high <= 1):
            raise ValueError("values that are neither 0 nor 1")
        if finite == 0:
            if x or wx or xx:
                raise ValueError("sums of no rows")
            continue
        least, below = max(low, -_LARGEST).as_integer_ratio()
        most, under = min(high, _LARGEST).as_integer_ratio()
        inside = least * w <= x * below and x * under <= most * w and least * ww <= wx * below and wx * under <= most * ww
        largest, over = min(max(abs(low), abs(high)), _LARGEST).as_integer_ratio()
        if not inside or x * x > (finite * xx) << unit or xx * over * over > ww * largest * largest:
            raise ValueError("sums that are not between the extremes")


def _check_weights(n: int, sums: Sequence[int], unit: int) -> None:
    """Σw and Σw² of n rows, whose weights are above 0."""
    w, ww = sums
    if not (w > 0) == (ww > 0) == (n > 0) or w * w > (n * ww) << unit or ww << unit > w * w or w < 0:
        raise ValueError("sums of weights that cannot be")


def _same_weight(what: str, total: int, n: int, weight: int, unit: int) -> None:
    """A Fixed sum of the weights of n rows, each of which was rounded once."""
    if abs((total << unit) - (weight << FIXED_UNIT)) > n << unit:
        raise ValueError(f"{what} of other rows than there are")


def _check_pages(settled: Settled, used: Array, beyond: Array) -> None:
    """The histograms of every group, and the label counts that stand in pages."""
    arrays, p, weighted = settled.arrays, settled.plan, settled.task.weighted
    pages = arrays["pages"]
    tops = pages[..., 0] if weighted else pages
    if (tops < 0).any() or float(tops.sum(dtype=np.float64)) > 2.0**62:
        raise ValueError("counters that cannot be")
    runs = len(p.spread) + (label_pages(settled.task, p) > 0)
    group, page = arrays["pages_at"].T
    run = np.minimum(page // COUNTER_PAGES, len(p.spread))
    if weighted:
        digits = np.zeros((len(used), runs, FIXED_DIGITS), dtype=np.int64)
        np.add.at(digits, (group, run), pages.sum(axis=1))
        totals = zip(np.ndindex(len(used), runs), fixed_units(digits.reshape(-1, FIXED_DIGITS)), strict=True)
        for (g, _), total in totals:
            if not beyond[g]:
                weight = settled.sums("weight", g, 2 * len(p.moments))[0]
                _same_weight("counters", total, int(used[g]), weight, settled.unit(g))
        return
    counted = np.zeros((len(used), runs), dtype=np.int64)
    np.add.at(counted, (group, run), pages.sum(axis=1, dtype=np.int64))
    if (counted != used[:, None]).any():
        raise ValueError("counters of other rows than there are")


def _check_counted_bins(bins: Array, used: Array) -> None:
    """Confidence bins that count, (groups, bins, 4): rows, those of outcome 1, digits `high` and `low` of the confidence."""
    rows, outcome, high, low = np.moveaxis(bins, -1, 0)
    _check_rows("confidence bins", rows, used)
    most = rows << 20
    if ((outcome < 0) | (outcome > rows) | (high < 0) | (high > most) | ((high == most) & (low > rows))).any():
        raise ValueError("confidence bins that cannot be")


def _check_bins(records: Array, used: Array, beyond: Array, weighted: bool) -> None:
    """Records of confidence bins, (groups, bins, RELIABILITY_WIDTH): neither confidence nor outcome is above the weight."""
    rows = records[..., 0]
    _check_rows("confidence bins", rows, used)
    if records[rows == 0].any():
        raise ValueError("confidence bins of no rows")
    kept = records[(rows > 0) & (beyond[:, None] == 0)]
    n = kept[:, 0]
    weight, *sums = (kept[:, i : i + FIXED_DIGITS] for i in (RELIABILITY_WEIGHT, RELIABILITY_SCORE, RELIABILITY_OUTCOME))
    if (weight.any(axis=1) != weighted).any() or (weight[:, 0] < 0).any():
        raise ValueError("weights of confidence bins that cannot be")
    for each in sums:
        rest = -each  # of the weight
        if weighted:
            rest += weight
        else:
            rest[:, 0] += n >> 20
            rest[:, 1] += (n & (1 << 20) - 1) << 20
        rest[:, -1] += n  # every row was rounded
        carry_fixed(rest)
        if (each[:, 0] < 0).any() or (rest[:, 0] < 0).any():
            raise ValueError("confidence bins that cannot be")


def _check_rows(what: str, rows: Array, used: Array) -> None:
    """Counts (groups, …) that are as many together as there are rows."""
    if (rows < 0).any() or (rows > used[:, None]).any() or (rows.sum(axis=1) != used).any():
        raise ValueError(f"{what} of other rows than there are")


def _check_classes(records: Array, used: Array, beyond: Array, task: Task) -> None:
    """Records of classes, (groups, classes, …)."""
    rows, infinite, tops = records[..., 0], records[..., CLASS_INFINITE], records[..., CLASS_WEIGHT::FIXED_DIGITS]
    if (tops < 0).any() or (infinite < 0).any() or (infinite > rows).any():
        raise ValueError("classes that cannot be")
    weights = records[..., CLASS_WEIGHT:CLASS_SUMS].any(axis=-1)
    if task.label == "hard":
        _check_rows("classes", rows, used)
        if records[rows == 0].any():
            raise ValueError("classes of no rows")
        wrong = weights != ((rows > 0) & task.weighted)
    else:
        wrong = np.any(weights, axis=1) != (used > 0)
        if rows.any():
            raise ValueError("rows of classes where labels are shares")
    if wrong[beyond == 0].any():
        raise ValueError("weights of classes that cannot be")


def _check_conventions(sums: Array, rows: Array, used: int) -> None:
    """Σ factor·cost and Σ factor of other tools, and the rows they count."""
    if (rows < 0).any() or (rows > MOST_ROWS).any() or (rows[:, INFINITE:] > used).any():
        raise ValueError("counts of conventions that cannot be")
    if (sums[..., -1] < 0).any() or (used == 0 and (sums.any() or rows[:, INFINITE:].any())):
        raise ValueError("sums of conventions that cannot be")
