"""Which slice every row of a batch belongs to: the values of its key columns, put together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamloss.reading.batch import Batch
from streamloss.slices import Slices

_LISTED = 1 << 20  # combinations of values that are counted one by one; of more, those that occur are sorted


def numbers_of(slices: Slices, batch: Batch) -> NDArray[np.int32]:
    """The number of the group of every row."""
    columns = [batch.keys[name] for name in slices.by]
    sizes = [len(column.values) for column in columns]
    codes, total = columns[0].codes.astype(np.int64), sizes[0]
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        codes, total = codes * size + column.codes, total * size
    if total <= max(_LISTED, len(codes)):
        present = np.flatnonzero(np.bincount(codes, minlength=total))
        place = np.empty(total, dtype=np.int32)
    else:
        present, codes = np.unique(codes, return_inverse=True)
        place = np.empty(len(present), dtype=np.int32)
    parts = np.unravel_index(present, sizes)
    values = [[column.values[i] for i in part.tolist()] for column, part in zip(columns, parts, strict=True)]
    numbers = slices.numbers(list(zip(*values, strict=True)))
    place[present if len(place) == total else slice(None)] = numbers
    return place[codes]
