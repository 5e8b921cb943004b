"""What a group of rows adds up to, all of them or one slice: the same exact figures, whatever form they are kept in.

Sums are whole numbers in units of 2^-unit, Fixed sums in units of 2^-FIXED_UNIT (see `digits`). What is read off many slices is
read off all of them at once.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamloss.digits import (
    BIAS,
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_BITS,
    FIXED_DIGITS,
    FIXED_UNIT,
    RELIABILITY_OUTCOME,
    RELIABILITY_SCORE,
    RELIABILITY_WEIGHT,
    RELIABILITY_WIDTH,
    Array,
    fixed_units,
    keyed,
    limbs_int,
)
from streamloss.options import Options, Task
from streamloss.quantities import Plan, plan
from streamloss.slices import Settled, label_pages, sums_by_class
from streamloss.state import State

Shares = tuple[tuple[int, int], ...]  # as ratios
Bin = tuple[int, int, int, int]  # rows, weight, Σ confidence, Σ outcome, the last three in Fixed units


class Figures(Protocol):
    """What a report is made of. `at` is the place of a quantity in `Plan.moments`."""

    task: Task
    options: Options
    plan: Plan

    @property
    def unit(self) -> int:
        """Of weights and moments."""

    @property
    def ledger(self) -> list[int]:
        """Rows by code and flag."""

    @property
    def weights(self) -> list[int]:
        """Σw and Σw² of weighted rows."""

    def moments(self, at: int) -> list[int]:
        """Σx and Σx², weighted Σwx, Σw²x and Σw²x², of the finite rows."""

    def infinite(self, at: int) -> int:
        """The number of infinite rows."""

    def lost(self, at: int) -> list[int]:
        """Σw and Σw² of the infinite ones among weighted rows."""

    def extremes(self, at: int) -> list[float]:
        """The least and the greatest value."""

    def histogram(self, key: str) -> tuple[Array, list[int]]:
        """The buckets that hold rows, ascending, and what they hold."""

    def quantile_buckets(self, key: str, shares: Shares) -> list[int]:
        """Of every share: the first bucket up to which there is at least so much of the weight."""

    @property
    def cross(self) -> int:
        """Σw²·cross-entropy·bytes, in units of 2^-BIAS."""

    @property
    def reliability(self) -> Array:
        """The records of the confidence bins that are kept, (bins, RELIABILITY_WIDTH)."""

    @property
    def bins(self) -> list[Bin]:
        """The confidence bins that were asked for."""

    @property
    def adaptive_error(self) -> int:
        """Σ |Σ confidence − Σ outcome| over bins of equal weight, in Fixed units."""

    @property
    def labels(self) -> dict[int, int]:
        """The weight of every label that occurs, in one unit."""

    @property
    def mean_probabilities(self) -> list[int] | None:
        """The Fixed sum of every class's probability; None where they are not kept."""

    @property
    def costs(self) -> dict[int, tuple[int, int]] | None:
        """Rows and Fixed sum of cross-entropy of every label that occurs; None where they are not kept."""


class Whole:
    """The figures of all rows of a state."""

    def __init__(self, state: State) -> None:
        self.task, self.options, self.plan = state.task, state.options, plan(state.task, state.options)
        self._arrays, self.unit = state.arrays, BIAS

    @property
    def ledger(self) -> list[int]:
        """See `Figures`."""
        return [int(count) for count in self._arrays["ledger"]]

    @property
    def weights(self) -> list[int]:
        """See `Figures`."""
        return [limbs_int(limbs) for limbs in self._arrays["weight"]]

    def moments(self, at: int) -> list[int]:
        """See `Figures`."""
        return [limbs_int(limbs) for limbs in self._arrays["moments"][at]]

    def infinite(self, at: int) -> int:
        """See `Figures`."""
        return int(self._arrays["infinite"][at])

    def lost(self, at: int) -> list[int]:
        """See `Figures`."""
        return [limbs_int(limbs) for limbs in self._arrays["infinite_weight"][at]]

    def extremes(self, at: int) -> list[float]:
        """See `Figures`."""
        found: list[float] = keyed(self._arrays["extremes"][at]).tolist()
        return found

    def histogram(self, key: str) -> tuple[Array, list[int]]:
        """See `Figures`."""
        buckets = self._arrays["histogram"][self.plan.spread.index(key)]
        filled = np.flatnonzero(buckets.any(axis=1))
        counts = buckets[filled]
        return filled, fixed_units(counts) if self.task.weighted else counts[:, 0].tolist()

    def quantile_buckets(self, key: str, shares: Shares) -> list[int]:
        """See `Figures`."""
        return _quantile_buckets(*self.histogram(key), shares)

    @property
    def cross(self) -> int:
        """See `Figures`."""
        return limbs_int(self._arrays["cross"][0])

    @property
    def reliability(self) -> Array:
        """See `Figures`."""
        return self._arrays["reliability"]

    @property
    def bins(self) -> list[Bin]:
        """See `Figures`."""
        return _bin_sums(_coarse(self.reliability, self.options.bins), self.task.weighted)

    @property
    def adaptive_error(self) -> int:
        """See `Figures`."""
        return _adaptive_error(self.reliability, self.options.bins, self.task.weighted)

    @property
    def labels(self) -> dict[int, int]:
        """See `Figures`."""
        return _labels(self._arrays["classes"], self.task)

    @property
    def costs(self) -> dict[int, tuple[int, int]] | None:
        """See `Figures`."""
        if "cross_entropy" not in self.plan.per_class:
            return None
        return _costs(self._arrays["classes"], self.labels, self.plan.per_class.index("cross_entropy"))

    @property
    def mean_probabilities(self) -> list[int] | None:
        """See `Figures`."""
        return fixed_units(self._arrays["mean_probabilities"])


class Slice:
    """The figures of one group of a state's slices."""

    def __init__(self, settled: Settled, group: int) -> None:
        self.task, self.options, self.plan = settled.task, settled.options, settled.plan
        self._settled, self._group = settled, group
        self.unit = settled.unit(group)
        self.ledger: list[int] = settled.listed("ledger")[group]
        self._infinite: list[int] = settled.listed("infinite")[group]
        self._extremes: list[list[float]] = settled.shared("extremes", _extremes)[group]

    def _array(self, name: str) -> Array:
        """The group's part of an array."""
        array: Array = self._settled.arrays[name][self._group]
        return array

    @property
    def weights(self) -> list[int]:
        """See `Figures`."""
        return self._settled.sums("weight", self._group, 2 * len(self.plan.moments))

    def moments(self, at: int) -> list[int]:
        """See `Figures`."""
        return self._settled.sums("moments", self._group, at, at)

    def infinite(self, at: int) -> int:
        """See `Figures`."""
        return self._infinite[at]

    def lost(self, at: int) -> list[int]:
        """See `Figures`."""
        return self._settled.sums("infinite_weight", self._group, len(self.plan.moments) + at, at)

    def extremes(self, at: int) -> list[float]:
        """See `Figures`."""
        return self._extremes[at]

    def histogram(self, key: str) -> tuple[Array, list[int]]:
        """See `Figures`."""
        return self._counters(self.plan.spread.index(key))

    def quantile_buckets(self, key: str, shares: Shares) -> list[int]:
        """See `Figures`."""
        if self.task.weighted:
            return _quantile_buckets(*self.histogram(key), shares)
        return self._settled.quantile_buckets(shares)[self._group][self.plan.spread.index(key)]

    def _counters(self, run: int) -> tuple[Array, list[int]]:
        numbers, counts = self._settled.counters(self._group, run)
        return numbers, fixed_units(counts) if self.task.weighted else counts.tolist()

    @property
    def cross(self) -> int:
        """See `Figures`."""
        return self._settled.whole(self._group, 2 * len(self.plan.moments) + 1, 0)

    @cached_property
    def reliability(self) -> Array:
        """See `Figures`."""
        bins = self._array("bins")
        if not len(bins):
            return self._array("reliability")
        records: Array = np.zeros((len(bins), RELIABILITY_WIDTH), dtype=np.int64)
        records[:, 0] = bins[:, 0]
        records[:, RELIABILITY_OUTCOME + 1] = bins[:, 1] << 20
        records[:, RELIABILITY_SCORE + 1 : RELIABILITY_SCORE + 3] = bins[:, 2:]
        return records

    @property
    def bins(self) -> list[Bin]:
        """See `Figures`."""
        if not self._settled.arrays["bins"].shape[1]:
            return _bin_sums(_coarse(self.reliability, self.options.bins), self.task.weighted)
        found: list[Bin] = self._settled.shared("bins", _coarse_bins)[self._group]
        return found

    @property
    def adaptive_error(self) -> int:
        """See `Figures`."""
        if not self._settled.arrays["bins"].shape[1]:
            return _adaptive_error(self.reliability, self.options.bins, self.task.weighted)
        found: int = self._settled.shared("adaptive", _adaptive_errors_counted)[self._group]
        return found

    @cached_property
    def labels(self) -> dict[int, int]:
        """See `Figures`."""
        if label_pages(self.task, self.plan):
            numbers, counts = self._counters(len(self.plan.spread))
            return dict(zip(numbers.tolist(), counts, strict=True))
        return _labels(self._array("classes"), self.task)

    @property
    def costs(self) -> dict[int, tuple[int, int]] | None:
        """See `Figures`."""
        if "cross_entropy" not in sums_by_class(self.task, self.plan):
            return None
        return _costs(self._array("classes"), self.labels, 0)

    @property
    def mean_probabilities(self) -> list[int] | None:
        """See `Figures`."""
        return None


def _extremes(settled: Settled) -> list[Any]:
    """The extremes of all groups."""
    found: list[Any] = keyed(settled.arrays["extremes"]).tolist()
    return found


def _quantile_buckets(filled: Array, counts: list[int], shares: Shares) -> list[int]:
    """See `Figures.quantile_buckets`."""
    below = list(accumulate(counts))
    found = (bisect_left(below, -(-above * below[-1] // under)) for above, under in shares)  # a whole share is reached there
    return [int(filled[at]) for at in found]


def _coarse(fine: Array, bins: int) -> Array:
    """Records of so many bins from those of more, (…, bins, fields)."""
    found: Array = fine.reshape(*fine.shape[:-2], bins, -1, fine.shape[-1]).sum(axis=-2)
    return found


def _coarse_bins(settled: Settled) -> list[list[Bin]]:
    """The confidence bins of all groups that count them."""
    spare = FIXED_UNIT - 60  # what the digits `high` and `low` count in, 2^-20 and 2^-60, is more than a Fixed unit
    return [
        [
            (rows, rows << FIXED_UNIT, (high << FIXED_BITS) + low << spare, outcome << FIXED_UNIT)
            for rows, outcome, high, low in records
        ]
        for records in _coarse(settled.arrays["bins"], settled.options.bins).tolist()
    ]


def _adaptive_errors_counted(settled: Settled) -> list[int]:
    """The adaptive errors of all groups that count confidence bins."""
    rows, outcome, high, low = np.moveaxis(settled.arrays["bins"], -1, 0)
    errors = _adaptive_errors(rows, [high - (outcome << 20), low], settled.options.bins)
    return [error << FIXED_BITS for error in errors]


def _adaptive_error(records: Array, bins: int, weighted: bool) -> int:
    """The adaptive error of records of confidence bins."""
    filled = records[records[:, 0] > 0]
    score, outcome = (filled[:, at : at + FIXED_DIGITS] for at in (RELIABILITY_SCORE, RELIABILITY_OUTCOME))
    weight: NDArray[Any] = filled[:, 0]
    if weighted:
        weight = np.array(fixed_units(filled[:, RELIABILITY_WEIGHT : RELIABILITY_WEIGHT + FIXED_DIGITS]), dtype=object)
    return _adaptive_errors(weight[None], list((score - outcome).T[:, None]), bins)[0]


def _adaptive_errors(weight: NDArray[Any], digits: list[Array], bins: int) -> list[int]:
    """Of many groups, Σ |difference| over so many bins of equal weight, cut along finer ones: weight (groups, fine) and digits,
    (groups, fine) each, of what confidence and outcome differ by. It counts what the last digit does.
    """
    cuts = []
    for below in np.cumsum(weight, axis=1).tolist():
        own = [0]
        for i in range(1, bins):
            edge = below[-1] * i  # in units of 1/bins
            after = bisect_left(below, -(-edge // bins))
            before = below[after - 1] if after else 0
            # the edge moves to the nearer end of the fine bin that it falls into
            nearer = before and edge - before * bins < below[after] * bins - edge
            own.append(after if nearer else after + 1)
        cuts.append([*own, len(below)])
    sums = []
    for digit in digits:
        below = np.concatenate([np.zeros((len(digit), 1), dtype=np.int64), np.cumsum(digit, axis=1)], axis=1)
        sums.append(np.diff(np.take_along_axis(below, np.array(cuts), axis=1)).tolist())
    errors = []
    for parts in zip(*sums, strict=True):
        total = 0
        for part in zip(*parts, strict=True):
            difference = 0
            for digit in part:
                difference = (difference << FIXED_BITS) + digit
            total += abs(difference)
        errors.append(total)
    return errors


def _bin_sums(records: Array, weighted: bool) -> list[Bin]:
    """What records of confidence bins hold."""
    rows = records[:, 0].tolist()
    at = (RELIABILITY_WEIGHT, RELIABILITY_SCORE, RELIABILITY_OUTCOME)
    w, score, outcome = (fixed_units(records[:, i : i + FIXED_DIGITS]) for i in at)
    return list(zip(rows, w if weighted else [n << FIXED_UNIT for n in rows], score, outcome, strict=True))


def _labels(records: Array, task: Task) -> dict[int, int]:
    """The weight of every class that occurs among the labels."""
    if task.weighted or task.label == "soft":
        digits = records[:, CLASS_WEIGHT:CLASS_SUMS]
        present = np.flatnonzero(digits.any(axis=1))
        return dict(zip(present.tolist(), fixed_units(digits[present]), strict=True))
    present = np.flatnonzero(records[:, 0])
    return dict(zip(present.tolist(), records[present, 0].tolist(), strict=True))


def _costs(records: Array, labels: dict[int, int], place: int) -> dict[int, tuple[int, int]]:
    """Rows and Fixed sums by label, from the records of the classes."""
    at = CLASS_SUMS + FIXED_DIGITS * place
    found = records[list(labels)]
    return dict(zip(labels, zip(found[:, 0].tolist(), fixed_units(found[:, at : at + FIXED_DIGITS]), strict=True), strict=True))
