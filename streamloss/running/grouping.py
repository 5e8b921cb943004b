"""Which rows of a batch belong together: the values of their key columns, put together and numbered."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.reading.batch import Batch, Coded, Value
from streamloss.slices import CLUSTER, CLUSTERS, SLICE_CLUSTERS, Key

_LISTED = 1 << 20  # combinations of values that are counted one by one; of more, those that occur are sorted


def _with_clusters(batch: Batch, cluster: str | None, sliced: bool) -> Batch:
    """The batch with one more key: the group that each row's cluster is thrown to, of those of a slice or of all rows."""
    if cluster is None:
        return batch
    column = batch.keys[cluster]
    groups = SLICE_CLUSTERS if sliced else CLUSTERS
    numbers = np.zeros(len(column.values), dtype=np.int32)
    for i in np.unique(column.codes).tolist():
        numbers[i] = _hash(column.values[i]) % groups
    return replace(batch, keys=batch.keys | {CLUSTER: Coded(numbers[column.codes], list(range(groups)))})


def grouped_by(by: tuple[str, ...], batch: Batch, cluster: str | None) -> tuple[NDArray[np.int32], list[Key]]:
    """The group of every row (n,) by these columns, of which the last may be `CLUSTER`, and the key of each group."""
    if by[-1] == CLUSTER:
        batch = _with_clusters(batch, cluster, sliced=len(by) > 1)
    return group(by, batch)


def _hash(value: Value) -> int:
    """A number that is the same in every process; 7 and "7" have their own."""
    return int.from_bytes(blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def group(by: tuple[str, ...], batch: Batch) -> tuple[NDArray[np.int32], list[Key]]:
    """The group of every row (n,), numbered from 0, and the key of each."""
    first, *others = (batch.keys[name] for name in by)
    present, codes = _numbered(first.codes, len(first.values))
    values = [[first.values[i] for i in present.tolist()]]
    for column in others:  # numbered anew with every column: there are no more groups than rows, so no product overflows
        size = len(column.values)
        present, codes = _numbered(codes.astype(np.int64) * size + column.codes, len(present) * size)
        before, here = (part.tolist() for part in np.divmod(present, max(size, 1)))
        values = [[known[i] for i in before] for known in values]
        values.append([column.values[i] for i in here])
    return codes.astype(np.int32, copy=False), list(zip(*values, strict=True))


def _numbered(codes: NDArray[Any], total: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The codes that occur, ascending, and of every row the number of its code among them; all are below `total`."""
    if total > max(_LISTED, len(codes)):
        return np.unique(codes, return_inverse=True)
    present = np.flatnonzero(np.bincount(codes, minlength=total))
    if len(present) < total:
        place = np.empty(total, dtype=np.int32)
        place[present] = np.arange(len(present), dtype=np.int32)
        codes = place[codes]
    return present, codes
