"""Arrays that grow, shrink and are put in order without a second copy of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CUT = 512  # rows that are moved at a time
_DOUBLED = 1 << 10  # rows up to which arrays double, and beyond which they grow by an eighth
_STRIPES = 8  # an array is put in another order so many columns at a time


def extended(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """The array with so many rows, zeros behind those it had; it is no more to be used. The system moves large ones by
    their page tables.
    """
    array.resize((rows, *array.shape[1:]), refcheck=False)
    return array


def moved_up(array: NDArray[Any], pick: NDArray[np.int64]) -> None:
    """Has the array begin with its rows `pick`, which ascend; all behind them are zeros then."""
    for cut in cuts(len(pick)):
        rows = pick[cut]
        array[cut.start : cut.start + len(rows)] = array[rows]  # what comes later stands further behind
    array[len(pick) :] = 0


def gathered(array: NDArray[Any], pick: NDArray[np.int64], last: bool) -> NDArray[Any]:
    """array[pick], of rows that are picked once each; with `last` in the array's own memory, which is no more to be used."""
    if not last:
        found: NDArray[Any] = array[pick]
        return found
    flat = array.reshape(len(array), -1)
    width = flat.shape[1]
    step = max(1, -(-width // _STRIPES))
    for first in range(0, width, step):
        flat[: len(pick), first : first + step] = flat[pick, first : first + step]
    del flat
    return extended(array, len(pick))


def more_rows(wanted: int, room: int) -> int:
    """How many rows an array of `room` rows is to have that has to have so many."""
    return max(wanted, room + (room if room < _DOUBLED else room // 8))


def cuts(rows: int) -> Iterator[slice]:
    """A few rows at a time, so that what is between two arrays is small and stays in the caches."""
    return (slice(first, first + _CUT) for first in range(0, rows, _CUT))


def pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """An array a few rows at a time."""
    return (array[cut] for cut in cuts(len(array)))


def listed(table: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, column and value of all that is not 0, in their order."""
    row, column = np.nonzero(table)
    return row, column, table[row, column].astype(np.int64)


def sum_up(array: NDArray[Any], pick: NDArray[np.int64], into: NDArray[Any]) -> None:
    """Adds some rows to one."""
    for cut in cuts(len(pick)):
        into += array[pick[cut]].sum(axis=0)


def add_at(rows: NDArray[Any], into: NDArray[np.int64], theirs: NDArray[Any], source: NDArray[np.int64]) -> None:
    """Adds rows to rows, of which one may get several."""
    for cut in cuts(len(into)):
        np.add.at(rows, into[cut], theirs[source[cut]])
