"""Which rows of a file are done: what a run that was stopped need not read again."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

Extent = tuple[int, int]  # rows, from one up to another


class Extents:
    """Runs of rows, ascending; no two of them touch."""

    def __init__(self, runs: Iterable[Extent] = ()) -> None:
        """Raises `ValueError` for runs that are no such thing."""
        self._runs = [(begin, end) for begin, end in runs]
        bounds = list(chain.from_iterable(self._runs))
        if any(type(bound) is not int for bound in bounds) or any(a >= b for a, b in pairwise([-1, *bounds])):
            raise ValueError(f"runs of rows that are none: {self._runs[:4]}")

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._runs)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(end - begin for begin, end in self._runs)

    def add(self, begin: int, end: int) -> None:
        """Adds the rows from `begin` up to `end`; those that are there already stay."""
        if begin >= end:
            return
        first = bisect_left(self._runs, begin, key=lambda run: run[1])
        last = bisect_right(self._runs, end, key=lambda run: run[0])
        touched = self._runs[first:last]
        self._runs[first:last] = [(min([begin, *(a for a, _ in touched)]), max([end, *(b for _, b in touched)]))]

    def missing(self, begin: int, end: int) -> Iterator[Extent]:
        """The runs of rows from `begin` up to `end` that are not there."""
        at = begin
        for a, b in self._runs[bisect_right(self._runs, begin, key=lambda run: run[1]) :]:
            if a >= end:
                break
            if at < a:
                yield at, a
            at = b
        if at < end:
            yield at, end
