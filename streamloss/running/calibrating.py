"""A look at all rows at temperatures that were chosen, one for all rows together and one for every slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from streamloss import temperature
from streamloss.kernels.grouped import Columns, add_to_groups, moved, sorted_places
from streamloss.options import Options, Task
from streamloss.reading.batch import Batch
from streamloss.reading.source import Input
from streamloss.running.curve import add_all_rows, room_for, take_values
from streamloss.running.grouping import grouped_by
from streamloss.running.local import Watcher, add_all, looking, readers
from streamloss.running.rows import columns_of, widened
from streamloss.slices import CLUSTER, Key, Settled, clustered, most_rows
from streamloss.slicing import Slices

# The temperature of every slice by its columns and its key, `()` of what is beyond the cap; of all rows by no columns.
Temperatures = Mapping[tuple[str, ...], Mapping[Key, float]]
_PIECE = 1 << 23  # bytes of the logits of so many rows as float64


def look(
    source: Input, options: Options, temperatures: Temperatures, threads: int, watch: Watcher | None = None
) -> dict[tuple[str, ...], Settled]:
    """What all rows, every --by and their clusters add up to at these temperatures, by their columns."""
    whole = _Look(source.task, options, temperatures, threads)
    add_all(whole, readers(source, threads), threads, looking(source, watch))
    whole.settle()
    return {slices.by: slices.settled(last=True) for slices in whole.slices}


class _Look:
    """Adds batches to all rows and to the slices, each at a temperature of its own; `shares` are for several threads."""

    def __init__(self, task: Task, options: Options, temperatures: Temperatures, threads: int) -> None:
        self.task, self.options, self.temperatures, self.threads = task, options, temperatures, threads
        # Slices have their logits divided beforehand, for every row has a temperature of its own.
        self._whole, self._divided = (temperature.at(options, t) for t in (temperatures[()][()], 1.0))
        self._plan = temperature.point(task, self._whole)
        self._by = ((), *options.groupings)
        ends = ((), (CLUSTER,)) if options.cluster is not None else ((),)
        self.slices = [
            Slices(task, self._divided if by else self._whole, (*by, *end), clustered(self._plan) if end else self._plan)
            for by in self._by
            for end in ends
        ]
        self._shares: list[_Look] = []
        self._rows_since_carry = 0

    def shares(self) -> list[_Look]:
        """One for every thread; `settle` them before asking this one for anything."""
        self._shares = [_Look(self.task, self.options, self.temperatures, 1) for _ in range(self.threads)]
        return self._shares

    def settle(self) -> None:
        """Takes over what the shares have added."""
        for share in self._shares:
            for mine, theirs in zip(self.slices, share.slices, strict=True):
                mine.take_over(theirs)
        self._shares = []

    def loss_so_far(self) -> tuple[Fraction, Fraction]:
        """Nothing: losses at several temperatures have no common mean."""
        return Fraction(0), Fraction(0)

    def add(self, batch: Batch) -> None:
        """Adds a batch; a row that breaks a rule is left out, as it was when the report was made."""
        width = batch.prediction.size // max(len(batch), 1)
        step = max(1, min(1 << 16, _PIECE // (8 * width)))
        for start in range(0, len(batch), step):
            self._add(batch.rows(start, start + step))

    def _add(self, batch: Batch) -> None:
        n = len(batch)
        self._rows_since_carry += n
        if self._rows_since_carry > most_rows(self.task):
            for slices in self.slices:
                slices.carry()
            self._rows_since_carry = n
        marks = np.zeros((2, n), dtype=np.uint8)
        columns = columns_of(batch, room_for(self._plan, batch), marks[0])
        rest = iter(self.slices)
        for by in self._by:
            slices = next(rest)
            if not by:
                take_values(self.task, self._whole, batch, marks, self._plan, columns, self.threads)
                add_all_rows(slices, columns)
            else:
                ids, keys = grouped_by(by, batch, None)
                divided = replace(batch, prediction=self._divide(batch, self._of(by, keys)[ids]))
                take_values(self.task, self._divided, divided, marks, self._plan, columns, self.threads)
                _add_to(slices, columns, ids, keys)
            if self.options.cluster is not None:
                _add_to(next(rest), columns, *grouped_by((*by, CLUSTER), batch, self.options.cluster))

    def _of(self, by: tuple[str, ...], keys: list[Key]) -> NDArray[np.float64]:
        """The temperature of every key; those beyond the cap have one together."""
        known = self.temperatures[by]
        rest = known.get((), 1.0)
        return np.array([known.get(key, rest) for key in keys])

    def _divide(self, batch: Batch, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logits (n, K) or (n,) divided by t (n,), bit by bit as the kernels do it: of K logits less the peak, times 1/T."""
        z, scale = np.ascontiguousarray(widened(batch.prediction)), 1.0 / t
        with np.errstate(all="ignore"):  # rows that are not used hold anything
            if z.ndim > 1:
                z -= z.max(axis=1, keepdims=True)
                scale = scale[:, None]
            z *= scale
            np.minimum(z, np.finfo(np.float64).max, out=z)  # what was finite stays a valid logit
        z.flags.writeable = False
        return z


def _add_to(slices: Slices, columns: Columns, ids: NDArray[np.int32], keys: list[Key]) -> None:
    place, owners = sorted_places(ids, len(keys))
    add_to_groups(slices, columns, moved(np.arange(len(ids)), place), owners, slices.numbers(keys))
