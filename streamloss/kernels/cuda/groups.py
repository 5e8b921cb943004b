"""The fold of a CUDA device for rows that belong to groups: what `kernels.grouped` does, in the device's copy of their sums.

Rows come in pieces of one group each, a warp takes a piece. Rows of whole limbs and pages of counters are claimed first, by one
thread each, so that those who add find them; how many there are now is all that the host has to know.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from streamloss.digits import (
    CLASS_SUMS,
    CLASS_WEIGHT,
    FIXED_DIGITS,
    HIGHEST,
    LEDGER_BEYOND,
    LEDGER_CLIPPED,
    LEDGER_NORMALIZED,
    LOWEST,
)
from streamloss.errors import USED
from streamloss.ieee.bits import LANES, lane_from, lane_to, to_bits
from streamloss.ieee.elementary import INF
from streamloss.jit import part
from streamloss.kernels.atoms import add_at
from streamloss.kernels.bins import add_fixed, add_judged, add_of_class, add_share, fine_bin, fixed_parts
from streamloss.kernels.cuda.fold import NO_PARTS, UNITS, gathered, is_gathered
from streamloss.kernels.fold import Rows, add_crossed
from streamloss.kernels.grouped import PAGE_BITS, Groups, goes_far, moved, sorted_places, sums_of_groups, weight_fits
from streamloss.kernels.limbs import add_int, add_weight
from streamloss.kernels.moments import MAGNITUDE, add_squared, add_weighted, bucket_of
from streamloss.kernels.panel import CLIPPED, NORMALIZED
from streamloss.quantities import BYTES, CROSS_ENTROPY, OUTCOME, SCORE
from streamloss.slices import COUNTER_PAGES, PAGE, Key
from streamloss.slicing import Slices

_PIECE = 64 * LANES  # rows of a piece at most
_PAGES = 1024  # that there is room for from the beginning
MINE, WHOSE, BEGIN, END = 0, 0, 1, 2  # columns of the pieces


class Pieces(NamedTuple):
    """Rows in the order of their groups: order[j] is the j-th, and the piece (group, begin, end) has rows order[begin:end]."""

    order: Any
    cuts: Any


def pieces_of(ids: NDArray[np.int32], numbers: NDArray[np.int32]) -> Pieces:
    """The pieces of rows of which row i belongs to the group numbers[ids[i]]."""
    place, owners = sorted_places(ids, len(numbers))
    begins = np.flatnonzero(np.diff(owners, prepend=-1))
    counts = np.diff(begins, append=len(ids))
    parts = -(-counts // _PIECE)
    whose = np.repeat(np.arange(len(begins)), parts)
    first = begins[whose] + _PIECE * (np.arange(len(whose)) - np.repeat(np.cumsum(parts) - parts, parts))
    end = np.minimum(first + _PIECE, (begins + counts)[whose])
    cuts = np.stack([numbers[owners[first]], first, end], axis=1, dtype=np.int64)
    return Pieces(moved(np.arange(len(ids)), place), cuts)


@part
def claim_row(table: Any, at: Any, taken: Any, which: Any) -> None:
    """Gives table[at] a row of its own where it has none; taken[which] is the last one that is given."""
    if table[at] == 0 and cuda.atomic.cas(table, at, 0, -1) == 0:
        table[at] = cuda.atomic.add(taken, which, 1) + 1


def claim(rows: Rows, pieces: Pieces, groups: Groups) -> None:
    """Gives rows of whole limbs and pages of counters to all that will need one; a block's second index is the quantity, and
    the last one is what rows have besides.
    """
    q, p, count = np.int64(cuda.blockIdx.y), np.int64(cuda.blockIdx.x), groups.slots.shape[0]
    values = rows.out[groups.place[groups.slots[q] if q < count else SCORE]]
    weighted = rows.weight.shape[0] > 0
    while p < pieces.cuts.shape[0]:
        g, end = pieces.cuts[p, WHOSE], pieces.cuts[p, END]
        far, table = groups.far[g], groups.table[g]
        for first in range(pieces.cuts[p, BEGIN], end, LANES):
            for j in range(first + lane_from(), first + lane_to(min(np.int64(LANES), end - first))):
                i = pieces.order[j]
                if rows.code[i] == USED:
                    w = rows.weight[i] if weighted else 1.0
                    if q < count:
                        v = values[i]
                        if abs(v) == INF:
                            if not weight_fits(w):
                                claim_row(far, count + q, groups.taken, 0)
                        elif goes_far(v, w, weighted):
                            claim_row(far, q, groups.taken, 0)
                        if groups.spread[q] >= 0:
                            page = bucket_of(to_bits(v)) >> np.int64(PAGE_BITS)
                            claim_row(table, COUNTER_PAGES * groups.spread[q] + page, groups.taken, 1)
                    else:
                        if not weight_fits(w):
                            claim_row(far, 2 * count, groups.taken, 0)
                        if groups.crossed:
                            claim_row(far, 2 * count + 1, groups.taken, 0)
                        if groups.hard and groups.classes.shape[1] == 0:
                            page = np.int64(rows.label[i]) >> np.int64(PAGE_BITS)
                            claim_row(table, groups.labels_at + page, groups.taken, 1)
        p += np.int64(cuda.gridDim.x)


@part
def count_rows(ledger: Any, used: Any, normalized: Any, clipped: Any, beyond: Any) -> None:
    """Adds a thread's used rows to the ledger, and how many of them have a flag, or a weight beyond the Fixed digits."""
    add_at(ledger, USED, used)
    add_at(ledger, LEDGER_NORMALIZED, normalized)
    add_at(ledger, LEDGER_CLIPPED, clipped)
    add_at(ledger, LEDGER_BEYOND, beyond)


@part
def count_one(number: Any, w: Any, weighted: bool, table: Any, first: Any, groups: Groups) -> None:
    """A row more for a counter; the counters' pages begin at `first` of the table."""
    row = np.int64(table[first + (number >> np.int64(PAGE_BITS))])
    if weighted:
        add_fixed(groups.shares[row, number & np.int64(PAGE - 1)], np.int64(0), w)
    else:
        add_at(groups.pages, (row << np.int64(PAGE_BITS)) + (number & np.int64(PAGE - 1)), 1)


@part
def add_with_weight(v: Any, w: Any, groups: Groups, g: Any, q: Any) -> None:
    """A value and its weight into the moments of group g."""
    count = groups.slots.shape[0]
    if abs(v) == INF:
        add_at(groups.infinite[g], q, 1)
        if weight_fits(w):
            add_weight(groups.infinite_weight[g, q], w, groups.shift)
        else:
            add_weight(groups.wide[groups.far[g, count + q]], w, np.int64(0))
    elif v != 0.0:
        if goes_far(v, w, True):
            add_weighted(v, w, groups.wide[groups.far[g, q]], np.int64(0))
        else:
            add_weighted(v, w, groups.moments[g, q], groups.shift)


def add_values(rows: Rows, pieces: Pieces, groups: Groups) -> None:
    """Moments, extremes, histograms and means by class; a block's second index is the quantity."""
    q, p = np.int64(cuda.blockIdx.y), np.int64(cuda.blockIdx.x)
    values, weighted = rows.out[groups.place[groups.slots[q]]], rows.weight.shape[0] > 0
    spread, by_class, shift = groups.spread[q], groups.by_class[q], groups.shift
    while p < pieces.cuts.shape[0]:
        g, end = pieces.cuts[p, WHOSE], pieces.cuts[p, END]
        moments = groups.moments[g, q]
        low, high, infinite, parts = np.int64(HIGHEST), np.int64(LOWEST), np.int64(0), NO_PARTS
        for first in range(pieces.cuts[p, BEGIN], end, LANES):
            for j in range(first + lane_from(), first + lane_to(min(np.int64(LANES), end - first))):
                i = pieces.order[j]
                if rows.code[i] == USED:
                    v, w = values[i], rows.weight[i] if weighted else 1.0
                    b = to_bits(v)
                    key = b ^ ((b >> np.int64(63)) & np.int64(MAGNITUDE))
                    low, high = min(low, key), max(high, key)
                    if weighted:
                        add_with_weight(v, w, groups, g, q)
                    elif is_gathered(b):
                        parts = gathered(v, parts)
                    elif abs(v) == INF:
                        infinite += 1
                    elif goes_far(v, w, weighted):
                        add_squared(v, groups.wide[groups.far[g, q]], np.int64(0))
                    elif v != 0.0:
                        add_squared(v, moments, shift)
                    if spread >= 0:
                        count_one(bucket_of(b), w, weighted, groups.table[g], COUNTER_PAGES * spread, groups)
                    if by_class >= 0:
                        record = groups.classes[g, np.int64(rows.label[i])]
                        add_of_class(v, w, weighted, by_class == 0, record, CLASS_SUMS + FIXED_DIGITS * by_class)
        if low <= high:
            cuda.atomic.min(groups.extremes, (g, q, 0), low)
            cuda.atomic.max(groups.extremes, (g, q, 1), high)
            for place, value in enumerate(parts):
                which, unit = UNITS[place]
                if value != 0:
                    add_int(moments[which], value, shift + unit)
        if infinite > 0:
            add_at(groups.infinite[g], q, infinite)
        p += np.int64(cuda.gridDim.x)


def add_besides(rows: Rows, pieces: Pieces, groups: Groups) -> None:
    """The ledger, weights, labels, confidence bins, losses times bytes."""
    p, count, weighted = np.int64(cuda.blockIdx.x), groups.slots.shape[0], rows.weight.shape[0] > 0
    place = groups.place
    while p < pieces.cuts.shape[0]:
        g, end = pieces.cuts[p, WHOSE], pieces.cuts[p, END]
        ledger, far, classes = groups.ledger[g], groups.far[g], groups.classes[g]
        used: Any
        used = normalized = clipped = beyond = np.int64(0)
        for first in range(pieces.cuts[p, BEGIN], end, LANES):
            for j in range(first + lane_from(), first + lane_to(min(np.int64(LANES), end - first))):
                i = pieces.order[j]
                if rows.code[i] != USED:
                    add_at(ledger, np.int64(rows.code[i]), 1)
                    continue
                used += 1
                normalized += np.int64((rows.flags[i] & NORMALIZED) != 0)
                clipped += np.int64((rows.flags[i] & CLIPPED) != 0)
                w = rows.weight[i] if weighted else 1.0
                if weighted:
                    if weight_fits(w):
                        add_weight(groups.weight[g], w, groups.shift)
                    else:
                        beyond += 1
                        add_weight(groups.wide[far[2 * count]], w, np.int64(0))
                score, outcome = rows.out[place[SCORE], i], rows.out[place[OUTCOME], i]
                if groups.hard:
                    own = np.int64(rows.label[i])
                    if classes.shape[0] == 0:
                        count_one(own, w, weighted, groups.table[g], groups.labels_at, groups)
                    else:
                        add_at(classes[own], 0, 1)
                        if weighted:
                            add_fixed(classes[own], np.int64(CLASS_WEIGHT), w)
                elif classes.shape[0] > 0:
                    add_share(outcome, w, classes)
                if groups.crossed:
                    whole = groups.wide[far[2 * count + 1]]
                    add_crossed(rows.out[place[CROSS_ENTROPY], i], rows.out[place[BYTES], i], w, whole[0])
                if groups.bins.shape[1] > 0:
                    record = groups.bins[g, np.int64(fine_bin(score, np.float64(groups.bins.shape[1])))]
                    high, low = fixed_parts(score)
                    add_at(record, 0, 1)
                    add_at(record, 1, np.int64(outcome))
                    add_at(record, 2, high)
                    add_at(record, 3, low)
                elif groups.reliability.shape[1] > 0:
                    at = np.int64(fine_bin(score, np.float64(groups.reliability.shape[1])))
                    add_judged(score, outcome, w, weighted, groups.reliability[g, at])
        if used > 0:
            count_rows(ledger, used, normalized, clipped, beyond)
        p += np.int64(cuda.gridDim.x)


class GroupsThere:
    """The sums of the groups of some `Slices`, on a device from the first rows on until `fetch`. Nobody else may give these
    groups' numbers to other keys meanwhile.

    place (SLOTS,) says where the values of a slot stand among those of the device.
    """

    def __init__(self, machine: Any, slices: Slices, place: NDArray[np.int64]) -> None:
        self._machine, self._slices, self._place = machine, slices, place
        self._there: Groups | None = None
        self._known: dict[Key, int] = {}

    def numbers(self, keys: list[Key]) -> NDArray[np.int32]:
        """As `Slices.numbers`; the sums come to the host first where there are keys that were not known."""
        if not all(key in self._known for key in keys):
            self.fetch()
            every = list(dict.fromkeys([*self._known, *keys]))
            self._known = dict(zip(every, self._slices.numbers(every).tolist(), strict=True))
        return np.array([self._known[key] for key in keys], dtype=np.int32)

    def add(self, rows: Rows, pieces: Pieces) -> None:
        """Adds rows whose values the device has."""
        launch, quantities = self._machine.launch, len(self._slices.plan.moments)
        self._slices.make_room(rows=len(pieces.order))
        there, blocks = self._send(), len(pieces.cuts)
        pieces = Pieces(*map(self._machine.to_device, pieces))
        launch(claim, (blocks, quantities + 1), (rows, pieces, there))
        wide, pages = self._machine.to_host(there.taken).tolist()
        if wide >= there.wide.shape[0] or pages >= max(there.pages.shape[0] >> PAGE_BITS, there.shares.shape[0]):
            self.fetch()
            there = self._send()
        if quantities:
            launch(add_values, (blocks, quantities), (rows, pieces, there))
        launch(add_besides, (blocks, 1), (rows, pieces, there))

    def _send(self) -> Groups:
        weighted, counter = self._slices.task.weighted, self._slices.pages.dtype
        if self._there is not None and not weighted and self._there.pages.dtype != counter:
            self.fetch()  # there are more rows than counters had room for
        if self._there is None:
            self._slices.make_room(wide=self._slices.far.shape[1] + 1, pages=_PAGES)
            sums = sums_of_groups(self._slices)._replace(place=self._place)
            self._there = Groups(*(self._machine.to_device(each) if isinstance(each, np.ndarray) else each for each in sums))
        return self._there

    def fetch(self) -> None:
        """Has the host know what was added."""
        there, slices, host = self._there, self._slices, self._machine.to_host
        if there is None:
            return
        self._there = None
        slices.taken[...] = host(there.taken)
        slices.make_room()
        pages = host(there.shares if slices.task.weighted else there.pages).reshape(-1, *slices.pages.shape[1:])
        slices.pages[: len(pages)] = pages
        others: dict[str, NDArray[Any]] = {"far": slices.far, "table": slices.table, "wide": slices.wide}
        for name, array in (slices.arrays | others).items():
            found = host(getattr(there, name))
            array[: len(found)] = found
