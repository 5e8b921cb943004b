"""The exact sums of many groups of rows: what they are, and the canonical form that a `State` keeps of them.

Of every group there are dense arrays (see `layout`), and what most groups have little of stands elsewhere, found by a table:

- A sum is a *window* of W limbs (see `digits`), lowest bit 2^LOW; its last limb is signed. What reaches beyond the window
  stands in *whole limbs*, rows of `wide`, which a group is given for a block of sums when it needs them.
- Histograms, and the label counts of many classes, are counters in *pages* of 128, there only where something was counted.
- Reliability is kept by 300 bins or a few more, not 10,000: the calibration errors of a slice are exact, its `adaptive_ece` is
  cut along these.

A group has a key, the values of the columns that it was made by. `slicing` adds rows to groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from streamloss import temperature
from streamloss.digits import (
    BIAS,
    BUCKETS,
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_DIGITS,
    LEDGER,
    LIMBS,
    RELIABILITY_WEIGHT,
    RELIABILITY_WIDTH,
    Array,
    limbs_int,
    limbs_ints,
)
from streamloss.memory import Claim
from streamloss.options import Options, Task
from streamloss.quantities import Plan

Value = str | int | bool | None
Key = tuple[Value, ...]

CLUSTER = "(cluster)"  # the last of a group's columns where groups are clusters of rows
CLUSTERS, SLICE_CLUSTERS = 1000, 64  # groups that clusters are thrown together to, of all rows and of a slice
OTHER = 0  # the group of the rows whose own group is beyond the cap
PAGE = 128
COUNTER_PAGES = math.ceil(BUCKETS / PAGE)  # of one histogram
LEAST_BINS, FINE_BINS = 300, 10_000
CLASSES = 64  # the cross-entropy is summed by class up to so many classes
FEW_CLASSES = 16  # and all that the whole sums by class up to so many
_METRIC, _QUANTILE = 700, 800  # bytes of a metric and of a quantile of a slice: measured of an evaluation and of a comparison
SUMS = 3  # of a block, at most
WINDOWS = {False: (-192, 10), True: (-480, 22)}  # weighted: LOW, W; what the kernels put there stays inside
ADD, WINDOW, EXTREMES, BINS, FIXED = "add", "window", "extremes", "bins", "fixed"
FIXED_FROM = {"reliability": RELIABILITY_WEIGHT, "classes": CLASS_WEIGHT}


def bins_kept(bins: int, least: int) -> int:
    """The number of confidence bins that are kept: the smallest multiple of `bins` from `least` on."""
    return bins * math.ceil(least / bins)


def window_shift(weighted: bool) -> int:
    """What moves an exponent of whole limbs into a window."""
    return -(WINDOWS[weighted][0] + BIAS)


def blocks(p: Plan) -> int:
    """Blocks of sums: those of each quantity, of its infinite rows' weights, of all weights, of cross-entropy times bytes."""
    return 2 * len(p.moments) + 2


def sums_by_class(task: Task, p: Plan) -> tuple[str, ...]:
    """The quantities whose sums are kept by class."""
    if task.classes <= FEW_CLASSES:
        return p.per_class
    return tuple(key for key in p.per_class if key == "cross_entropy" and task.classes <= CLASSES)


def most_rows(task: Task) -> int:
    """How many rows may be added before digits are carried: one without a weight adds less than 2^40 to any digit, one with a
    weight up to 2^42.
    """
    return 1 << (20 if task.weighted else 22)


def makes_whole(task: Task) -> bool:
    """Whether the groups together have all that a state has of all rows, but its ledger and its confidence bins."""
    return not task.weighted and task.classes <= FEW_CLASSES


def label_pages(task: Task, p: Plan) -> int:
    """Pages of label counts; none where they stand among the sums by class."""
    return math.ceil(task.classes / PAGE) if p.labels and task.label == "hard" and task.classes > CLASSES else 0


def clustered(p: Plan) -> Plan:
    """What is added up of clusters: the moments alone."""
    return replace(p, spread=(), per_class=(), labels=False, reliability=False, mean_probabilities=False)


def bytes_reported(options: Options, p: Plan) -> int:
    """What a slice takes of a report: its metrics as objects, as a dict and as JSON, and what they are worked out from."""
    return len(p.table) * _METRIC + len(p.spread) * len(options.quantiles) * _QUANTILE


class Kept(NamedTuple):
    """Groups that are kept beside the whole: by what, and what is added up of them, under which options."""

    by: tuple[str, ...]
    plan: Plan
    options: Options


def kept(task: Task, options: Options, p: Plan) -> list[Kept]:
    """Every --by, the clusters of all rows and of each, and at every temperature of a sweep all rows and every --by.

    Raises `UsageError` for a sweep of what has no temperature.
    """
    found = [Kept(by, p, options) for by in options.groupings]
    if options.cluster is not None:
        found += [Kept((*by, CLUSTER), clustered(p), options) for by in ((), *options.groupings)]
    if options.sweep:
        temperature.check(task, options)
    for t in options.sweep:
        there = temperature.at(options, t)
        found += [Kept(by, temperature.point(task, there), there) for by in ((), *options.groupings)]
    return found


def beside(options: Options) -> int:
    """How many of `kept`, the first ones, are of the report's own temperature."""
    return len(options.groupings) + (1 + len(options.groupings) if options.cluster is not None else 0)


def most_groups(options: Options, by: tuple[str, ...]) -> int:
    """How many groups are told apart. Those of a slice stand together in the order of keys, so all are kept of a kept slice."""
    if not by or by[-1] != CLUSTER:
        return options.max_slices
    return options.max_slices * SLICE_CLUSTERS if len(by) > 1 else CLUSTERS


def layout(task: Task, options: Options, p: Plan, by: tuple[str, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Kind and shape of every dense array of one group; the confidence bins of all rows, without a `by`, are the fine ones."""
    m, weighted, width = len(p.moments), task.weighted, WINDOWS[task.weighted][1]
    least = options.bins if p.coarse else LEAST_BINS if by else FINE_BINS
    bins = bins_kept(options.bins, least) if p.reliability else 0
    counted = task.label == "hard" and not weighted
    classes = task.classes if p.labels and task.classes <= CLASSES else 0
    return {
        "ledger": (ADD, (LEDGER,)),
        "weight": (WINDOW, (2 if weighted else 0, width)),
        "moments": (WINDOW, (m, 3 if weighted else 2, width)),
        "infinite": (ADD, (m,)),
        "infinite_weight": (WINDOW, (m if weighted else 0, 2, width)),
        "extremes": (EXTREMES, (m, 2)),
        "bins": (BINS, (bins if counted else 0, 4)),
        "reliability": (FIXED, (0 if counted else bins, RELIABILITY_WIDTH)),
        "classes": (FIXED, (classes, CLASS_SUMS + FIXED_DIGITS * len(sums_by_class(task, p)))),
    }


def order(key: Key) -> tuple[tuple[int, Any], ...]:
    """What keys are sorted by."""
    return tuple((0, 0) if v is None else (2, v) if isinstance(v, str) else (1, v) for v in key)


def kinds(by: tuple[str, ...], keys: Sequence[Key]) -> list[set[type]]:
    """The types of the values of every column of some keys, null apart."""
    return [{type(key[i]) for key in keys if key and key[i] is not None} for i in range(len(by))]


def pages_width(task: Task, p: Plan) -> int:
    """Pages that a group may have."""
    return COUNTER_PAGES * len(p.spread) + label_pages(task, p)


class Settled:
    """The canonical form of `Slices`: groups in the order of their keys, OTHER first where it has rows, `()` for a key.

    Of no columns `by` all rows are OTHER's. wide and pages have the rows of whole limbs and counters that are there, wide_at
    and pages_at (n, 2) whose they are: the group and its block, or page. pages may be of int32, all else is of int64.
    """

    def __init__(
        self, task: Task, options: Options, p: Plan, by: tuple[str, ...], keys: list[Key], arrays: dict[str, Array]
    ) -> None:
        self.task, self.options, self.plan, self.by, self.keys, self.arrays = task, options, p, by, keys, arrays
        self.claim: Claim | None = None  # of the memory for them
        self._shared: dict[str, list[Any]] = {}
        self._quantiles: dict[tuple[tuple[int, int], ...], list[list[list[int]]]] = {}

    @property
    def has_other(self) -> bool:
        """Whether there are rows of no slice of their own; they are the first group's then."""
        return bool(self.keys) and self.keys[0] == ()

    def header(self) -> dict[str, Any]:
        """What it takes to tell what the arrays are, JSON-ready."""
        counts = {name: len(self.arrays[name]) for name in ("wide", "pages")}
        return {"by": list(self.by), "keys": [list(key) for key in self.keys], **counts}

    @classmethod
    def expected(cls, task: Task, options: Options, p: Plan, header: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays that a header speaks of. Raises `ValueError` for one that cannot be."""
        groups, wide, pages = len(header["keys"]), header["wide"], header["pages"]
        if not all(type(n) is int and 0 <= n < 1 << 40 for n in (wide, pages)):
            raise ValueError("slices of an impossible size")
        shapes = {name: (groups, *shape) for name, (_, shape) in layout(task, options, p, tuple(header["by"])).items()}
        counter = (PAGE, FIXED_DIGITS) if task.weighted else (PAGE,)
        return shapes | {"wide_at": (wide, 2), "wide": (wide, SUMS, LIMBS), "pages_at": (pages, 2), "pages": (pages, *counter)}

    # ---- what a group adds up to, exact

    def unit(self, group: int) -> int:
        """The sums of a group are whole numbers of 2^-unit."""
        return BIAS if group in self._beyond_windows else -WINDOWS[self.task.weighted][0]

    def sums(self, name: str, group: int, block: int, at: int = 0) -> list[int]:
        """The sums of a block of a group, in its unit: those at place `at` of the group's array of windows."""
        windows, shape = self._windows[name], self.arrays[name].shape
        count, places = shape[-2], math.prod(shape[1:-2])
        first = (group * places + at) * count
        found = windows[first : first + count]
        if group in self._beyond_windows:
            shift = BIAS + WINDOWS[self.task.weighted][0]
            found = [(inside << shift) + self.whole(group, block, s) for s, inside in enumerate(found)]
        return found

    def whole(self, group: int, block: int, s: int) -> int:
        """What whole limbs have of a sum, in units of 2^-BIAS."""
        row = self._rows_of_wide.get((group, block))
        return 0 if row is None else limbs_int(self.arrays["wide"][row, s])

    def listed(self, name: str) -> list[Any]:
        """An array as lists: of many groups these are much quicker to read numbers off."""
        return self.shared(f"list of {name}", lambda settled: settled.arrays[name].tolist())

    def shared(self, name: str, make: Callable[[Settled], list[Any]]) -> list[Any]:
        """What is made of all groups when it is first asked for, and kept by this name."""
        if name not in self._shared:
            self._shared[name] = make(self)
        return self._shared[name]

    @cached_property
    def _windows(self) -> dict[str, list[int]]:
        """What all windows hold, in units of their lowest bit."""
        names = [name for name, (kind, _) in layout(self.task, self.options, self.plan, self.by).items() if kind == WINDOW]
        return {name: limbs_ints(self.arrays[name]) for name in names}

    @cached_property
    def _rows_of_wide(self) -> dict[tuple[int, int], int]:
        return {(group, block): i for i, (group, block) in enumerate(self.arrays["wide_at"].tolist())}

    @cached_property
    def _beyond_windows(self) -> set[int]:
        """The groups that have whole limbs."""
        return {group for group, _ in self._rows_of_wide}

    def counters(self, group: int, run: int) -> tuple[Array, Array]:
        """Numbers and counts of a group's counters that are not 0: those of the run-th histogram, behind them the labels'."""
        first = group * (len(self.plan.spread) + 1) + run
        cut = slice(*self.edges[first : first + 2])
        pages = self.arrays["pages"][cut]
        line, place = np.nonzero(pages.any(axis=2) if self.task.weighted else pages)
        numbers: Array = (self.arrays["pages_at"][cut, 1][line] - run * COUNTER_PAGES) * PAGE + place
        return numbers, pages[line, place]

    @cached_property
    def edges(self) -> Array:
        """Where the pages of every run of every group begin, and the end; a run is a histogram, the last the labels'."""
        runs = len(self.plan.spread) + 1
        group, page = self.arrays["pages_at"].T
        return np.searchsorted(group * runs + np.minimum(page // COUNTER_PAGES, runs - 1), np.arange(len(self.keys) * runs + 1))

    def quantile_buckets(self, shares: tuple[tuple[int, int], ...]) -> list[list[list[int]]]:
        """By group, histogram and share: the first counter up to which there is at least this share of the rows. Shares are
        ratios; rows have no weights. All groups at once: one by one they take longer than all else that is said of them.
        """
        if shares not in self._quantiles:
            pages, groups, runs = self.arrays["pages"], len(self.keys), len(self.plan.spread)
            below = np.concatenate([[0], np.cumsum(pages.sum(axis=1))])
            ends = below[self.edges[:-1].reshape(groups, runs + 1)]
            first, counted = ends[:, :-1], np.diff(ends)
            found = np.zeros((groups, runs, len(shares)), dtype=np.int64)
            for i, (above, under) in enumerate(shares if len(pages) else ()):
                wanted = np.maximum(-(-above * counted.astype(object) // under), 1).astype(np.int64)  # a share is reached there
                line = np.minimum(np.searchsorted(below, first + wanted) - 1, len(pages) - 1)
                sums = np.cumsum(pages[line], axis=-1)
                place = (sums < (first + wanted - below[line])[..., None]).sum(axis=-1)
                found[..., i] = (self.arrays["pages_at"][line, 1] - np.arange(runs) * COUNTER_PAGES) * PAGE + place
            self._quantiles[shares] = found.tolist()
        return self._quantiles[shares]
