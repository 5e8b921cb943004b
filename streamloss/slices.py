"""The exact sums of many groups of rows at once: small, merged by adding like a `State`, and the same whatever the order.

Of every group there are dense arrays (see `layout`), and what most groups have little of stands elsewhere, found by a table:

- A sum is a *window* of W limbs (see `state`), lowest bit 2^LOW; its last limb is signed. What reaches beyond the window
  stands in *whole limbs*, rows of `wide`, which a group is given for a block of sums when it needs them.
- Histograms, and the label counts of many classes, are counters in *pages* of 128, there only where something was counted.
- Reliability is kept by 300 bins or a few more, not 10,000: the calibration errors of a slice are exact, its `adaptive_ece` is
  cut along these.

A group has a key, the values of the columns that it was made by. The groups kept are the `cap` first in the order of their keys
(null, false, true, numbers, text), whatever was seen first; the rows of all others are in group 0, `OTHER`. Whoever drops a key
drops all above it, and no key above the last one kept comes back: parts that were cut apart merge to what they are together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.digits import (
    BIAS,
    BUCKETS,
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_BITS,
    FIXED_DIGITS,
    HIGHEST,
    LEDGER,
    LIMB_BITS,
    LIMBS,
    LOWEST,
    RELIABILITY_WEIGHT,
    RELIABILITY_WIDTH,
    Array,
    carry,
    carry_fixed,
    carry_limbs,
    limbs_int,
)
from streamloss.options import Options, Task
from streamloss.quantities import Plan, plan

Value = str | int | bool | None
Key = tuple[Value, ...]

OTHER = 0  # the group of the rows whose own group is beyond the cap
PAGE = 128
COUNTER_PAGES = math.ceil(BUCKETS / PAGE)  # of one histogram
LEAST_BINS = 300
CLASSES = 64  # the cross-entropy is summed by class up to so many classes
FEW_CLASSES = 16  # and all that the whole sums by class up to so many
SUMS = 3  # of a block, at most
_WINDOWS = {False: (-192, 10), True: (-480, 22)}  # weighted: LOW, W; what the kernels put there stays inside
_SLACK = 1.25  # so many times the cap there may be before groups are dropped
_ADD, _WINDOW, _EXTREMES, _BINS, _FIXED = "add", "window", "extremes", "bins", "fixed"
_FIXED_FROM = {"reliability": RELIABILITY_WEIGHT, "classes": CLASS_WEIGHT}


def slice_bins(bins: int) -> int:
    """The number of confidence bins that a slice keeps: the smallest multiple of `bins` from 300 on."""
    return bins * math.ceil(LEAST_BINS / bins)


def window_shift(weighted: bool) -> int:
    """What moves an exponent of whole limbs into a window."""
    return -(_WINDOWS[weighted][0] + BIAS)


def blocks(p: Plan) -> int:
    """Blocks of sums: those of each quantity, of its infinite rows' weights, of all weights, of cross-entropy times bytes."""
    return 2 * len(p.moments) + 2


def sums_by_class(task: Task, p: Plan) -> tuple[str, ...]:
    """The quantities whose sums are kept by class."""
    if task.classes <= FEW_CLASSES:
        return p.per_class
    return tuple(key for key in p.per_class if key == "cross_entropy" and task.classes <= CLASSES)


def makes_whole(task: Task) -> bool:
    """Whether the groups together have all that a state has of all rows, but its ledger and its confidence bins."""
    return not task.weighted and task.classes <= FEW_CLASSES


def label_pages(task: Task, p: Plan) -> int:
    """Pages of label counts; none where they stand among the sums by class."""
    return math.ceil(task.classes / PAGE) if p.labels and task.label == "hard" and task.classes > CLASSES else 0


def layout(task: Task, options: Options) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Kind and shape of every dense array of one group."""
    p = plan(task, options)
    m, weighted, width = len(p.moments), task.weighted, _WINDOWS[task.weighted][1]
    bins = slice_bins(options.bins) if p.reliability else 0
    counted = task.label == "hard" and not weighted
    classes = task.classes if p.labels and task.classes <= CLASSES else 0
    return {
        "ledger": (_ADD, (LEDGER,)),
        "weight": (_WINDOW, (2 if weighted else 0, width)),
        "moments": (_WINDOW, (m, 3 if weighted else 2, width)),
        "infinite": (_ADD, (m,)),
        "infinite_weight": (_WINDOW, (m if weighted else 0, 2, width)),
        "extremes": (_EXTREMES, (m, 2)),
        "bins": (_BINS, (bins if counted else 0, 4)),
        "reliability": (_FIXED, (0 if counted else bins, RELIABILITY_WIDTH)),
        "classes": (_FIXED, (classes, CLASS_SUMS + FIXED_DIGITS * len(sums_by_class(task, p)))),
    }


def order(key: Key) -> tuple[tuple[int, Any], ...]:
    """What keys are sorted by."""
    return tuple((0, 0) if v is None else (2, v) if isinstance(v, str) else (1, v) for v in key)


class Slices:
    """The groups of the columns `by`. Their arrays are public, for the kernels to add to; `make_room` and `carry` go before."""

    def __init__(self, task: Task, options: Options, by: tuple[str, ...]) -> None:
        self.task, self.options, self.by, self.cap = task, options, by, options.max_slices
        self.plan = plan(task, options)
        self.shapes = layout(task, options)
        self.table_width = pages_width(task, self.plan)
        self.keys: list[Key] = [()]  # of the groups by number; OTHER has none
        self._numbers: dict[Key, int] = {}
        self._last: tuple[tuple[int, Any], ...] | None = None  # no key after it has a group of its own
        self.arrays = self._empty(1)
        self.far = np.zeros((1, blocks(self.plan)), dtype=np.int32)
        self.table = np.zeros((1, self.table_width), dtype=np.int32)
        self.wide = np.zeros((1, SUMS, LIMBS), dtype=np.int64)
        self.pages: NDArray[Any] = np.zeros((1, PAGE, *self._counter), dtype=np.int64 if task.weighted else np.int32)
        self.taken = np.zeros(2, dtype=np.int64)  # rows of wide and of pages in use; row 0 is not to be used
        self._rows = 0  # counted since the pages had room for 2^31

    @property
    def _counter(self) -> tuple[int, ...]:
        return (FIXED_DIGITS,) if self.task.weighted else ()

    def _empty(self, groups: int) -> dict[str, Array]:
        arrays = {name: np.zeros((groups, *shape), dtype=np.int64) for name, (_, shape) in self.shapes.items()}
        arrays["extremes"][..., 0] = HIGHEST
        arrays["extremes"][..., 1] = LOWEST
        return arrays

    def __len__(self) -> int:
        """The groups, OTHER among them."""
        return len(self.keys)

    # ---- keys

    def numbers(self, keys: Sequence[Key]) -> NDArray[np.int32]:
        """The number of each key's group; new keys get a group, as long as they are not beyond the cap.

        Numbers given out before are no longer right when groups had to be dropped: ask for all that are needed at once.
        """
        known = [self._numbers.get(key, -1) for key in keys]
        if -1 not in known:
            return np.array(known, dtype=np.int32)
        new = {key for key in keys if key not in self._numbers and not self._beyond(key)}
        if len(self._numbers) + len(new) > self.cap * _SLACK:
            self._drop(new)
            new = {key for key in new if not self._beyond(key)}
        self._admit(key for key in dict.fromkeys(keys) if key in new)
        return np.array([self._numbers.get(key, OTHER) for key in keys], dtype=np.int32)

    def _beyond(self, key: Key) -> bool:
        return self._last is not None and order(key) > self._last

    def _admit(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._numbers[key] = len(self.keys)
            self.keys.append(key)
        self._grow(len(self.keys))

    def _grow(self, groups: int) -> None:
        """Makes the arrays hold so many groups."""
        room = len(self.far)
        if groups <= room:
            return
        more = max(groups, 2 * room) - room
        for name, array in self._empty(more).items():
            self.arrays[name] = np.concatenate([self.arrays[name], array])
        self.far = np.concatenate([self.far, np.zeros((more, self.far.shape[1]), dtype=np.int32)])
        self.table = np.concatenate([self.table, np.zeros((more, self.table_width), dtype=np.int32)])

    def _drop(self, new: Iterable[Key] = ()) -> None:
        """Moves the groups beyond the cap into OTHER, `new` keys being counted among those that there are."""
        kept = sorted({*self._numbers, *new}, key=order)[: self.cap]
        if len(kept) == self.cap:
            self._last = order(kept[-1])
        if not any(self._beyond(key) for key in self._numbers):
            return
        rest = Slices(self.task, self.options, self.by)
        rest._last = self._last
        rest._absorb(self)
        vars(self).update(vars(rest))

    # ---- adding

    def make_room(self, rows: int = 0, wide: int = 0, pages: int = 0) -> None:
        """Before so many rows are counted, and where there is no room for so many more whole limbs or pages."""
        self._rows += rows
        if self._rows >= 1 << 31 and self.pages.dtype == np.int32:
            self.pages = self.pages.astype(np.int64)
        for name, more, at in (("wide", wide, 0), ("pages", pages, 1)):
            array = getattr(self, name)
            if int(self.taken[at]) + more >= len(array):
                grown = np.zeros((max(2 * len(array), int(self.taken[at]) + more + 1), *array.shape[1:]), dtype=array.dtype)
                grown[: len(array)] = array
                setattr(self, name, grown)

    def carry(self) -> None:
        """Makes the digits canonical, so that the next rows cannot overflow them."""
        for name, (kind, _) in self.shapes.items():
            array = self.arrays[name][: len(self)]
            if kind == _WINDOW:
                for i in range(array.shape[-1] - 1):
                    carry(array, i, i + 1, LIMB_BITS)
            elif kind == _BINS:
                carry(array, 3, 2, FIXED_BITS)
            elif kind == _FIXED:
                carry_fixed(array, _FIXED_FROM[name])
        carry_limbs(self.wide[: self.taken[0] + 1])
        if self.task.weighted:
            carry_fixed(self.pages[: self.taken[1] + 1])

    def absorb(self, other: Slices) -> None:
        """Adds what another one of the same task, options and columns has; it is left as it was but for its digits."""
        other.carry()
        self.carry()
        self._absorb(other)
        self._drop()
        self.carry()

    def _absorb(self, other: Slices) -> None:
        if other._last is not None and (self._last is None or other._last < self._last):
            self._last = other._last
        self._admit(key for key in other.keys[1:] if key not in self._numbers and not self._beyond(key))
        to = np.array([OTHER, *(self._numbers.get(key, OTHER) for key in other.keys[1:])])
        if self._last is not None:
            to[[i for i, key in enumerate(other.keys) if i and self._beyond(key)]] = OTHER
        n, own = len(other), to != OTHER
        for name, (kind, _) in self.shapes.items():
            mine, theirs = self.arrays[name], other.arrays[name][:n]
            if kind == _EXTREMES:
                np.minimum.at(mine[..., 0], to, theirs[..., 0])
                np.maximum.at(mine[..., 1], to, theirs[..., 1])
            else:
                mine[to[own]] += theirs[own]  # of these no two go to the same place
                mine[OTHER] += theirs[~own].sum(axis=0)
        self._rows += other._rows
        self._absorb_rows("wide", 0, self.far, other.far[:n], other.wide, to)
        self.make_room()
        self._absorb_rows("pages", 1, self.table, other.table[:n], other.pages, to)

    def _absorb_rows(
        self, name: str, at: int, table: NDArray[np.int32], other_table: NDArray[np.int32], theirs: NDArray[Any], to: Array
    ) -> None:
        """Adds the rows of whole limbs or pages that another's table points to."""
        group, place = np.nonzero(other_table)
        if not len(group):
            return
        flat = table.reshape(-1)
        target = to[group] * table.shape[1] + place
        missing = np.unique(target[flat[target] == 0])
        self.make_room(**{name: len(missing)})
        flat[missing] = int(self.taken[at]) + 1 + np.arange(len(missing))
        self.taken[at] += len(missing)
        np.add.at(getattr(self, name), flat[target], theirs[other_table[group, place]])

    def add_moments(self, arrays: dict[str, Array]) -> None:
        """Adds up the groups' sums into the moments and the infinite rows of a state's arrays."""
        n, m = len(self), len(self.plan.moments)
        low, width = _WINDOWS[self.task.weighted]
        offset = (low + BIAS) // LIMB_BITS
        arrays["moments"][..., offset : offset + width] += self.arrays["moments"][:n].sum(axis=0)
        for group, block in np.argwhere(self.far[:n, :m]):
            arrays["moments"][block] += self.wide[self.far[group, block], : arrays["moments"].shape[1]]
        arrays["infinite"] += self.arrays["infinite"][:n].sum(axis=0)

    def add_whole(self, arrays: dict[str, Array]) -> None:
        """Adds up the groups, where that `makes_whole`, into a state's arrays."""
        self.carry()
        self.add_moments(arrays)
        n = len(self)
        for row in self.far[:n, -1][self.far[:n, -1] > 0]:
            arrays["cross"][0] += self.wide[row, 0]
        arrays["classes"] += self.arrays["classes"][:n].sum(axis=0)
        ends = self.arrays["extremes"][:n]
        np.minimum(arrays["extremes"][..., 0], ends[..., 0].min(axis=0), out=arrays["extremes"][..., 0])
        np.maximum(arrays["extremes"][..., 1], ends[..., 1].max(axis=0), out=arrays["extremes"][..., 1])
        group, page = np.nonzero(self.table[:n])
        if len(page):
            first = np.argsort(page, kind="stable")
            found, starts = np.unique(page[first], return_index=True)
            counts = np.zeros((self.table_width, PAGE), dtype=np.int64)
            counts[found] = np.add.reduceat(self.pages[self.table[group, page][first]], starts, axis=0, dtype=np.int64)
            arrays["histogram"][..., 0] += counts.reshape(len(self.plan.spread), -1)[:, :BUCKETS]

    # ---- the canonical form

    def settled(self) -> Settled:
        """The canonical form: what equal rows give, to the bit, whatever way they were added."""
        self._drop()
        self.carry()
        self._settle_limbs()
        n = len(self)
        numbers = sorted(range(1, n), key=lambda i: order(self.keys[i]))
        if self.arrays["ledger"][OTHER].any():
            numbers = [OTHER, *numbers]
        pick = np.array(numbers, dtype=np.int64)
        far, table = self.far[pick], self.table[pick]
        arrays = {name: array[pick] for name, array in self.arrays.items()}
        arrays["wide_at"] = np.argwhere(far)
        arrays["wide"] = self.wide[far[far != 0]]
        arrays["pages_at"] = np.argwhere(table)
        arrays["pages"] = self.pages[table[table != 0]].astype(np.int64)
        return Settled(self.task, self.options, self.by, [self.keys[i] for i in numbers], arrays)

    def _settle_limbs(self) -> None:
        """Gathers window and whole limbs of every block in the window where they fit, else in the whole limbs."""
        low, width = _WINDOWS[self.task.weighted]
        offset = (low + BIAS) // LIMB_BITS
        m = len(self.plan.moments)
        for group, block in np.argwhere(self.far):
            row = self.far[group, block]
            whole = self.wide[row]
            window: Array | None = None
            if block < m:
                window = self.arrays["moments"][group, block]
            elif block < 2 * m and self.task.weighted:
                window = self.arrays["infinite_weight"][group, block - m]
            elif block == 2 * m and self.task.weighted:
                window = self.arrays["weight"][group]
            if window is None:
                continue
            totals = [limbs_int(whole[s]) + (limbs_int(window[s]) << LIMB_BITS * offset) for s in range(len(window))]
            inside = all(_fits(total, offset, width) for total in totals)
            window[...] = 0
            whole[...] = 0
            for s, total in enumerate(totals):
                if inside:
                    _put(total >> LIMB_BITS * offset, window[s])
                else:
                    _put(total, whole[s])
            if inside:
                self.far[group, block] = 0

    @classmethod
    def of(cls, settled: Settled) -> Slices:
        """What goes on from a canonical form."""
        slices = cls(settled.task, settled.options, settled.by)
        own = np.arange(len(settled.keys)) + (not settled.has_other)
        slices._admit(key for key in settled.keys if key)
        if settled.has_other and len(slices) > 1:
            slices._last = order(settled.keys[-1])
        for name in slices.shapes:
            slices.arrays[name][own] = settled.arrays[name]
        for name, at, table in (("wide", 0, slices.far), ("pages", 1, slices.table)):
            rows = settled.arrays[name]
            slices.make_room(**{name: len(rows)})
            getattr(slices, name)[1 : len(rows) + 1] = rows
            group, place = settled.arrays[f"{name}_at"].T
            table[own[group], place] = 1 + np.arange(len(rows))
            slices.taken[at] = len(rows)
        slices._rows = int(settled.arrays["ledger"].sum())
        return slices


class Settled:
    """The canonical form of `Slices`: groups in the order of their keys, OTHER first where it has rows, `()` for a key.

    wide and pages have the rows of whole limbs and counters that are there, wide_at and pages_at (n, 2) whose they are: the
    group and its block, or page.
    """

    def __init__(self, task: Task, options: Options, by: tuple[str, ...], keys: list[Key], arrays: dict[str, Array]) -> None:
        self.task, self.options, self.by, self.keys, self.arrays = task, options, by, keys, arrays

    @property
    def has_other(self) -> bool:
        """Whether there are rows beyond the cap; they are the first group's then."""
        return bool(self.keys) and self.keys[0] == ()

    def merged(self, other: Settled) -> Settled:
        """The groups of the rows of both; neither changes."""
        whole = Slices.of(self)
        whole.absorb(Slices.of(other))
        return whole.settled()

    def header(self) -> dict[str, Any]:
        """What it takes to tell what the arrays are, JSON-ready."""
        counts = {name: len(self.arrays[name]) for name in ("wide", "pages")}
        return {"by": list(self.by), "keys": [list(key) for key in self.keys], **counts}

    @classmethod
    def expected(cls, task: Task, options: Options, header: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays that a header speaks of. Raises `ValueError` for one that cannot be."""
        groups, wide, pages = len(header["keys"]), header["wide"], header["pages"]
        if not all(type(n) is int and 0 <= n < 1 << 40 for n in (wide, pages)):
            raise ValueError("slices of an impossible size")
        shapes = {name: (groups, *shape) for name, (_, shape) in layout(task, options).items()}
        counter = (PAGE, FIXED_DIGITS) if task.weighted else (PAGE,)
        return shapes | {"wide_at": (wide, 2), "wide": (wide, SUMS, LIMBS), "pages_at": (pages, 2), "pages": (pages, *counter)}

    @classmethod
    def read(cls, task: Task, options: Options, header: dict[str, Any], arrays: dict[str, Array]) -> Settled:
        """What a header and its arrays describe. Raises `ValueError` for what no rows can give."""
        keys = [tuple(key) for key in header["keys"]]
        by = tuple(header["by"])
        if any(len(key) != len(by) and (key or i) for i, key in enumerate(keys)):
            raise ValueError("slices whose keys are not those of their columns")
        if not all(v is None or type(v) in (bool, int, str) for key in keys for v in key):
            raise ValueError("slices whose keys are no values")
        settled = cls(task, options, by, keys, arrays)
        widths = {"wide_at": blocks(plan(task, options)), "pages_at": pages_width(task, plan(task, options))}
        for name, width in widths.items():
            at = arrays[name]
            if (at < 0).any() or (at >= [len(keys), width]).any() or len(np.unique(at, axis=0)) != len(at):
                raise ValueError(f"slices whose {name} cannot be")
        again = Slices.of(settled).settled()
        if again.keys != keys or any(not np.array_equal(array, again.arrays[name]) for name, array in arrays.items()):
            raise ValueError("slices that are not canonical")
        if any((arrays[name] < 0).any() for name in ("ledger", "infinite", "pages")):
            raise ValueError("slices with counts that cannot be")
        return settled

    # ---- sums of a group, exact

    def sums(self, name: str, index: tuple[int, ...], block: int) -> int:
        """A sum of a group in units of 2^-BIAS: index is (group, …, sum) in the array of windows."""
        low, _ = _WINDOWS[self.task.weighted]
        return (limbs_int(self.arrays[name][index]) << low + BIAS) + self.whole(index[0], block, index[-1])

    def whole(self, group: int, block: int, s: int) -> int:
        """What whole limbs have of a sum."""
        row = self._rows_of_wide.get((group, block))
        return 0 if row is None else limbs_int(self.arrays["wide"][row, s])

    @cached_property
    def _rows_of_wide(self) -> dict[tuple[int, int], int]:
        return {(group, block): i for i, (group, block) in enumerate(self.arrays["wide_at"].tolist())}

    def counters(self, group: int, first: int, count: int) -> tuple[Array, Array]:
        """Numbers and counts of a group's counters that are not 0, of those in `count` pages from page `first` on."""
        lines = self._lines_of_pages[group]
        at = self.arrays["pages_at"][lines[0] : lines[1], 1]
        begin, stop = lines[0] + np.searchsorted(at, [first, first + count])
        pages = self.arrays["pages"][begin:stop]
        there = pages.any(axis=2) if self.task.weighted else pages != 0
        line, place = np.nonzero(there)
        numbers = (self.arrays["pages_at"][begin:stop, 1][line] - first) * PAGE + place
        return numbers, pages[line, place]

    @cached_property
    def _lines_of_pages(self) -> list[tuple[int, int]]:
        edges = np.searchsorted(self.arrays["pages_at"][:, 0], np.arange(len(self.keys) + 1)).tolist()
        return list(pairwise(edges))


def pages_width(task: Task, p: Plan) -> int:
    """Pages that a group may have."""
    return COUNTER_PAGES * len(p.spread) + label_pages(task, p)


def _fits(total: int, offset: int, width: int) -> bool:
    """Whether a number stands in a window; the number alone decides, not the way in which it came about."""
    above = total >> LIMB_BITS * offset
    return above << LIMB_BITS * offset == total and above.bit_length() <= LIMB_BITS * (width - 1) + 62


def _put(total: int, limbs: Array) -> None:
    """Writes a number into limbs of which the last one is signed."""
    for i in range(len(limbs) - 1):
        limbs[i] = total & ((1 << LIMB_BITS) - 1)
        total >>= LIMB_BITS
    limbs[-1] = total
