"""What a group of rows adds up to, all of them or one slice: the same exact figures, whatever form they are kept in.

Sums are whole numbers in units of 2^-BIAS, Fixed sums in units of 2^-FIXED_UNIT (see `digits`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np

from streamloss.digits import (
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_DIGITS,
    RELIABILITY_OUTCOME,
    RELIABILITY_SCORE,
    RELIABILITY_WIDTH,
    Array,
    fixed_units,
    limbs_int,
)
from streamloss.options import Options, Task
from streamloss.quantities import Plan, plan
from streamloss.slices import Settled, label_pages, sums_by_class
from streamloss.state import State


class Figures(Protocol):
    """What a report is made of. `at` is the place of a quantity in `Plan.moments`."""

    task: Task
    options: Options
    plan: Plan

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

    def extremes(self, at: int) -> tuple[int, int]:
        """The keys of the least and the greatest value (see `kernels.moments.value_range`)."""

    def histogram(self, key: str) -> tuple[Array, list[int]]:
        """The buckets that hold rows, ascending, and what they hold."""

    @property
    def cross(self) -> int:
        """Σw²·cross-entropy·bytes."""

    @property
    def reliability(self) -> Array:
        """The records of the confidence bins that are kept, (bins, RELIABILITY_WIDTH)."""

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
        self._arrays = state.arrays

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

    def extremes(self, at: int) -> tuple[int, int]:
        """See `Figures`."""
        low, high = self._arrays["extremes"][at].tolist()
        return low, high

    def histogram(self, key: str) -> tuple[Array, list[int]]:
        """See `Figures`."""
        buckets = self._arrays["histogram"][self.plan.spread.index(key)]
        filled = np.flatnonzero(buckets.any(axis=1))
        counts = buckets[filled]
        return filled, fixed_units(counts) if self.task.weighted else counts[:, 0].tolist()

    @property
    def cross(self) -> int:
        """See `Figures`."""
        return limbs_int(self._arrays["cross"][0])

    @property
    def reliability(self) -> Array:
        """See `Figures`."""
        return self._arrays["reliability"]

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

    def _array(self, name: str) -> Array:
        """The group's part of an array."""
        array: Array = self._settled.arrays[name][self._group]
        return array

    @property
    def ledger(self) -> list[int]:
        """See `Figures`."""
        found: list[int] = self._array("ledger").tolist()
        return found

    @property
    def weights(self) -> list[int]:
        """See `Figures`."""
        return self._settled.sums("weight", self._group, 2 * len(self.plan.moments))

    def moments(self, at: int) -> list[int]:
        """See `Figures`."""
        return self._settled.sums("moments", self._group, at, at)

    def infinite(self, at: int) -> int:
        """See `Figures`."""
        return int(self._array("infinite")[at])

    def lost(self, at: int) -> list[int]:
        """See `Figures`."""
        return self._settled.sums("infinite_weight", self._group, len(self.plan.moments) + at, at)

    def extremes(self, at: int) -> tuple[int, int]:
        """See `Figures`."""
        low, high = self._array("extremes")[at].tolist()
        return low, high

    def histogram(self, key: str) -> tuple[Array, list[int]]:
        """See `Figures`."""
        return self._counters(self.plan.spread.index(key))

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
