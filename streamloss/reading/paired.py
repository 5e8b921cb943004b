"""The rows of two models side by side: one input read twice, or two whose rows stand in the same order.

Where the files have the same row groups their parts are paired and may be read by several threads; where not, all rows are
one part. A key column proves that the rows belong together: it is compared row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from streamloss.errors import DataError
from streamloss.reading.batch import Batch, Coded, Value
from streamloss.reading.source import Input, in_time, read_part


@dataclass(frozen=True)
class Pair:
    """The same rows of two models. Of the old one only the prediction is looked at."""

    new: Batch
    old: Batch

    def __len__(self) -> int:
        return len(self.new)


def paired(new: Input, old: Input, key: str | None) -> list[Callable[[], Iterator[Pair]]]:
    """How each part of the rows of both is read. Raises `DataError` when they are not as many."""
    if new.rows is not None and old.rows is not None and new.rows != old.rows:
        raise DataError(f"the models have different rows: {new.rows} of the new one, {old.rows} of the old one")
    if not new.is_stream and not old.is_stream and new.groups == old.groups:
        cuts = new.cuts()
        both = zip(*(in_time(read_part, source.parts(cuts=cuts), source.plan) for source in (new, old)), strict=True)
        return [partial(_aligned, begin_new, begin_old, key) for begin_new, begin_old in both]
    return [partial(_aligned, partial(_all, new), partial(_all, old), key)]


def _all(source: Input) -> Iterator[Batch]:
    """All rows in order."""
    if source.is_stream:
        return source.stream()
    return chain.from_iterable(begin() for begin in in_time(read_part, source.parts(), source.plan))


def _aligned(
    begin_new: Callable[[], Iterator[Batch]], begin_old: Callable[[], Iterator[Batch]], key: str | None
) -> Iterator[Pair]:
    """Batches of both cut to the same rows."""
    news, olds = begin_new(), begin_old()
    new, old = next(news, None), next(olds, None)
    while new is not None and old is not None:
        n = min(len(new), len(old))
        pair = Pair(new.rows(0, n), old.rows(0, n))
        if key is not None:
            _check_keys(pair, key)
        yield pair
        new = new.rows(n, len(new)) if n < len(new) else next(news, None)
        old = old.rows(n, len(old)) if n < len(old) else next(olds, None)
    for rest, which, ended in ((new, "new", "old"), (old, "old", "new")):
        if rest is not None:
            raise DataError(f"the {which} model has rows beyond the end of the {ended} one", place=rest.place(0))


def _check_keys(pair: Pair, key: str) -> None:
    """Raises `DataError` at the first row whose keys are not the same."""
    mine, theirs = pair.new.keys[key], pair.old.keys[key]
    numbers: dict[tuple[bool, Value], int] = {}
    codes = [_numbered(coded, numbers) for coded in (mine, theirs)]
    other = codes[0] != codes[1]
    if other.any():
        row = int(other.argmax())
        found, expected = (coded.values[coded.codes[row]] for coded in (theirs, mine))
        place = pair.old.place(row, key)
        told = f"found the key {found!r}, expected {expected!r} as in {pair.new.place(row)}"
        raise DataError(f"the rows are not in the same order: {told}", place=place)


def _numbered(coded: Coded, numbers: dict[tuple[bool, Value], int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The rows' keys as numbers that are the same for equal ones; those of the values that occur."""
    place = np.full(len(coded.values), -1, dtype=np.int64)
    for i in np.unique(coded.codes).tolist():
        value = coded.values[i]
        place[i] = numbers.setdefault((isinstance(value, bool), value), len(numbers))
    return place[coded.codes]
