"""Which rows of a batch belong together: the values of their key columns, put together and numbered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.reading.batch import Batch
from streamloss.slices import Key

_LISTED = 1 << 20  # combinations of values that are counted one by one; of more, those that occur are sorted


def group(by: tuple[str, ...], batch: Batch) -> tuple[NDArray[np.int32], list[Key]]:
    """The group of every row (n,), numbered from 0, and the key of each."""
    columns = [batch.keys[name] for name in by]
    sizes = [len(column.values) for column in columns]
    codes: NDArray[Any] = columns[0].codes
    total = sizes[0]
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        codes, total = codes.astype(np.int64) * size + column.codes, total * size
    if total <= max(_LISTED, len(codes)):
        present = np.flatnonzero(np.bincount(codes, minlength=total))
        if len(present) < total:
            place = np.empty(total, dtype=np.int32)
            place[present] = np.arange(len(present), dtype=np.int32)
            codes = place[codes]
    else:
        present, codes = np.unique(codes, return_inverse=True)
    parts = np.unravel_index(present, sizes)
    values = [[column.values[i] for i in part.tolist()] for column, part in zip(columns, parts, strict=True)]
    return codes.astype(np.int32, copy=False), list(zip(*values, strict=True))
