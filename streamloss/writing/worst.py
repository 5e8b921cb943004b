"""The N costliest rows of all, and of every slice: few rows at any time, whatever the number that goes by.

Rows are ordered by their cost, the highest first, rows of equal cost by their place in the input. That order is total, so what
is left at the end does not depend on batches and threads. A batch first gives up its own N costliest (several threads may do
that at once), of those that are not cheaper than the N that are known already; now and then all that were gathered are put
together. Slices are those of `slicing`: of the first `cap` keys, and one of all rows beyond.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamloss.errors import USED
from streamloss.reading.batch import Batch
from streamloss.running.grouping import group
from streamloss.slices import Key, order

_LEAST = 1024  # rows that are gathered at least before they are put together, if N is not smaller
_SLACK = 1.25  # so many times the cap there may be before slices are dropped
_BEYOND: Key = ()  # the key of the rows beyond the cap; and of all rows, where they are no slices


class Candidates(NamedTuple):
    """Rows of a batch that may be among the costliest of their slice: their numbers, slices, costs; all keys."""

    rows: NDArray[np.int64]
    slices: NDArray[np.int32]
    costs: NDArray[np.float64]
    keys: list[Key]


class Ranking:
    """The `most` costliest rows of every slice of the columns `by`; of all rows where there are none."""

    def __init__(self, by: tuple[str, ...], most: int, cap: int) -> None:
        self.by, self.most, self.cap = by, most, cap
        self._keys: list[Key] = [_BEYOND]
        self._numbers: dict[Key, int] = {_BEYOND: 0}
        self._last: tuple[tuple[int, object], ...] | None = None  # no key after it has a slice of its own
        self._floors: dict[Key, float] = {}  # the cost of the last row of the slices that are full
        self._table: pa.Table | None = None  # what is left, in its order
        self._costs = np.empty(0)
        self._places = np.empty(0, dtype=np.int64)
        self._slices = np.empty(0, dtype=np.int64)
        self._gathered: list[tuple[pa.RecordBatch, NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]] = []
        self._waiting = 0

    def candidates(self, batch: Batch, costs: NDArray[np.float64]) -> Candidates:
        """The rows of a batch that may be among the costliest; for any number of threads, while another one adds."""
        used = np.flatnonzero(batch.code == USED)
        if self.by:
            slices, keys = group(self.by, batch)
        else:
            slices, keys = np.zeros(len(batch), dtype=np.int32), [_BEYOND]
        # The floors may be those of a moment ago: they only rise. Of rows that cost the same the earlier ones win.
        floors, last = self._floors, self._last
        floor = np.array([floors.get(_own(key, last), -np.inf) for key in keys])
        rows = used[costs[used] > floor[slices[used]]]
        rows = rows[first_of_each(slices[rows], costs[rows], rows, self.most)]
        return Candidates(rows, slices[rows], costs[rows], keys)

    def add(self, found: Candidates, rows: pa.RecordBatch, first: int) -> None:
        """Takes in the candidates of a batch whose first row has the number `first` in the whole input, with what is told of
        each.
        """
        own = [_own(key, self._last) for key in found.keys]
        for key in own:
            if key not in self._numbers:
                self._numbers[key] = len(self._keys)
                self._keys.append(key)
        numbers = np.array([self._numbers[key] for key in own], dtype=np.int64)
        self._gathered.append((rows, found.costs, first + found.rows, numbers[found.slices]))
        self._waiting += len(found.rows)
        if self._waiting >= max(len(self._costs), min(self.most, _LEAST)) or len(self._keys) > self.cap * _SLACK + 1:
            self._settle()

    def _settle(self) -> None:
        """Puts together what was gathered and what was left, and leaves the costliest of it."""
        if not self._gathered:
            return
        pieces, costs, places, slices = zip(*self._gathered, strict=True)
        self._gathered, self._waiting = [], 0
        whole = pa.Table.from_batches(pieces)
        if self._table is not None:
            whole = pa.concat_tables([self._table, whole])
        all_costs = np.concatenate([self._costs, *costs])
        all_places = np.concatenate([self._places, *places])
        ranks = self._order()[np.concatenate([self._slices, *slices])]
        chosen = first_of_each(ranks, all_costs, all_places, self.most)
        self._costs, self._places, self._slices = all_costs[chosen], all_places[chosen], ranks[chosen]
        self._table = whole.unify_dictionaries().combine_chunks().take(pa.array(chosen))
        full = np.flatnonzero(positions(self._slices) == self.most - 1)
        self._floors = {self._keys[s]: c for s, c in zip(self._slices[full].tolist(), self._costs[full].tolist(), strict=True)}

    def _order(self) -> NDArray[np.int64]:
        """Numbers the slices anew, in the order of their keys, those beyond the cap last and as one; the new number of each."""
        old, kept = self._numbers, sorted(self._keys[1:], key=order)
        if len(kept) > self.cap:
            kept = kept[: self.cap]
            self._last = order(kept[-1])
        self._keys = [*kept, _BEYOND]
        new = {key: i for i, key in enumerate(self._keys)}
        ranks = np.full(len(old), len(kept), dtype=np.int64)
        for key, number in old.items():
            ranks[number] = new.get(key, len(kept))
        # The rows beyond keep number 0, so that new keys can follow.
        self._keys = [_BEYOND, *kept]
        self._numbers = {key: i for i, key in enumerate(self._keys)}
        return np.where(ranks == len(kept), 0, ranks + 1)

    def result(self, schema: pa.Schema) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.bool_]]:
        """The rows, slice by slice in the order of the keys and those beyond the cap last; the rank of each in its slice, from
        1; and whether it is beyond.
        """
        self._settle()
        if self._table is None:
            return schema.empty_table(), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.bool_)
        beyond = (self._slices == 0) & bool(self.by)
        at = np.argsort(beyond, kind="stable")
        return self._table.take(pa.array(at)), positions(self._slices)[at] + 1, beyond[at]


def _own(key: Key, last: tuple[tuple[int, object], ...] | None) -> Key:
    return _BEYOND if last is not None and order(key) > last else key


def positions(groups: NDArray[np.integer]) -> NDArray[np.int64]:
    """The place of every row in its group, from 0, where groups stand together."""
    n = len(groups)
    begins = np.flatnonzero(np.concatenate([np.ones(min(n, 1), dtype=np.bool_), groups[1:] != groups[:-1]]))
    starts = np.repeat(begins, np.diff(np.append(begins, n)))
    return np.arange(n) - starts


def first_of_each(
    groups: NDArray[np.integer], costs: NDArray[np.float64], places: NDArray[np.int64], most: int
) -> NDArray[np.int64]:
    """Which rows are the `most` costliest of their group, group by group, the costliest first, then by their places."""
    ordered = np.lexsort((places, -costs, groups))
    return ordered[positions(groups[ordered]) < most]
