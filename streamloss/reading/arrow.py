"""The pyarrow reader of Parquet files: any layout, encoding and codec, in bounded memory.

`survey` looks at one footer, `read_part` yields the batches of one part. Every call opens its own handle and keeps
nothing, so threads and processes may call at the same time. Without pre-buffering and with a small buffer pyarrow holds
a page per column rather than a row group (9 MB where its dataset scanner held 358 MB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamloss.errors import DataError, Place
from streamloss.reading.batch import Batch
from streamloss.reading.columns import convert, first_length
from streamloss.reading.kept import keep
from streamloss.reading.paths import Stamp, first_line, open_file, stamp, unreadable
from streamloss.reading.roles import Plan

PEEK_ROWS = 16
MAGIC = b"PAR1"
TAIL = 1 << 16  # bytes of a file's end that are read at once: most footers are in them
_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError)  # what pyarrow raises over a damaged file
_OTHERS = {
    b"ARROW1": "an Arrow file; write it as Parquet, or stream it with '-' as an Arrow IPC stream",
    b"\x1f\x8b": "gzip; Parquet compresses inside",
    b"PK": "a zip archive",
    b"PARE": "encrypted Parquet, which cannot be read without its keys",
    b"\x93NUMPY": "a NumPy file; pass its arrays from Python as a dict",
    b"ORC": "ORC",
}


@dataclass(frozen=True)
class Part:
    """A run of row groups of one file, or what is left of it; `bytes` is what its decoded values take, `Plan.row_bytes` a row.

    before: rows of the first row group that stand before `first_row`.
    """

    path: str
    row_groups: tuple[int, ...]
    first_row: int
    rows: int
    bytes: int
    stamp: Stamp
    before: int = 0

    @property
    def whole(self) -> Part:
        """All rows of the row groups."""
        return replace(self, first_row=self.first_row - self.before, rows=self.rows + self.before, before=0)


@dataclass(frozen=True)
class Footer:
    """What one file says about itself; `hash` is the SHA-256 of the footer's bytes, in hexadecimal digits."""

    path: str
    stamp: Stamp
    schema: pa.Schema
    metadata: pq.FileMetaData
    hash: str

    @cached_property
    def group_rows(self) -> list[int]:
        """Rows of every row group."""
        return [self.metadata.row_group(g).num_rows for g in range(self.metadata.num_row_groups)]

    @cached_property
    def leaves(self) -> dict[str, list[int]]:
        """The Parquet columns that every column of the schema is stored in.

        Their chunks are not looked at: pyarrow ends the whole process over some that are damaged.
        """
        found: dict[str, list[int]] = {name: [] for name in self.schema.names}
        for leaf in range(self.metadata.num_columns):
            name = self.metadata.schema.column(leaf).path
            while name not in found and "." in name:
                name = name.rpartition(".")[0]
            found.setdefault(name, []).append(leaf)
        return found


def survey(path: str) -> Footer:
    """Open a file and read its footer; `DataError` when it is no Parquet file that can be read."""
    at = stamp(path)
    with _handle(path) as handle:
        try:
            tail, length = _tail(handle)
            file = pq.ParquetFile(pa.BufferReader(tail))
        except _ERRORS as error:
            raise _not_parquet(path, handle, error) from error
        raw = memoryview(tail)[len(tail) - 8 - length : len(tail) - 8]
        footer = Footer(path, at, file.schema_arrow, file.metadata, hashlib.sha256(raw).hexdigest())
    if min(footer.group_rows, default=0) < 0:
        raise DataError("damaged footer: a row group of fewer than no rows", place=Place(path))
    return footer


def _tail(handle: pa.NativeFile) -> tuple[bytes, int]:
    """The end of a file with its whole footer, as far as there is one, and the footer's length."""
    size = handle.size()
    tail = handle.read_at(min(size, TAIL), max(0, size - TAIL))
    length = int.from_bytes(tail[-8:-4], "little")
    if len(tail) < length + 8 <= size:
        tail = handle.read_at(length + 8, size - length - 8)
    return tail, length


def read_part(part: Part, plan: Plan) -> Iterator[Batch]:
    """The part's rows in order, `plan.batch_rows` or fewer at a time."""
    with unchanged(part), opened(part.path, plan.text_keys) as file:
        at, starts = part.first_row, group_starts(file)
        for batch in record_batches(file, part, plan, tuple(dict.fromkeys((*plan.needed, *plan.kept_names))), at):
            converted = convert(batch, plan, path=part.path, first_row=at, row_groups=starts)
            yield keep(converted, batch, plan)
            del converted
            at += batch.num_rows
            del batch


def group_starts(file: pq.ParquetFile) -> NDArray[np.int64]:
    """The first row of every row group."""
    rows = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
    return np.cumsum([0, *rows[:-1]], dtype=np.int64)


def record_batches(
    file: pq.ParquetFile, part: Part, plan: Plan, columns: Sequence[str], first_row: int
) -> Iterator[pa.RecordBatch]:
    """Some columns of the part's rows from `first_row` of the file on. Raises `DataError` where they cannot be read."""
    starts = group_starts(file)
    begin = max(part.row_groups[0], int(np.searchsorted(starts, first_row, side="right")) - 1)
    at, end = int(starts[begin]), part.first_row + part.rows
    batches = file.iter_batches(
        batch_size=plan.batch_rows,
        row_groups=[group for group in part.row_groups if group >= begin],
        columns=list(columns),
        use_threads=False,
    )
    while True:
        group = int(np.searchsorted(starts, at, side="right")) - 1
        try:
            batch = next(batches, None)
        except _ERRORS as error:
            raise unreadable(part.path, error, _broken_group(part, plan, columns, group)) from error
        if batch is None:
            break
        at += batch.num_rows
        if at > first_row:
            yield batch.slice(max(0, batch.num_rows - (at - first_row)))
        del batch
    if at != end:
        raise DataError(f"the file ends at row {at}; its footer promises {end}", place=Place(part.path, group))


def _broken_group(part: Part, plan: Plan, columns: Sequence[str], first: int) -> int:
    """The first row group from `first` on that cannot be read: a batch that fails may reach over several."""
    for group in part.row_groups:
        if group < first:
            continue
        with opened(part.path) as file:
            alone = file.iter_batches(batch_size=plan.batch_rows, row_groups=[group], columns=list(columns), use_threads=False)
            try:
                for _ in alone:
                    pass
            except _ERRORS:
                return group
    return first


def peek_length(path: str, column: str) -> int | None:
    """How many values the first row of a list column has that is not null; None when all are null."""
    with opened(path) as file, _arrow_errors(path):
        for batch in file.iter_batches(batch_size=PEEK_ROWS, columns=[column], use_threads=False):
            length = first_length(batch.column(column))
            if length is not None:
                return length
    return None


@contextmanager
def unchanged(part: Part) -> Iterator[None]:
    """Raises `DataError` when the part's file is not, before or after, the one it was planned with."""
    _compare(part)
    try:
        yield
    except DataError:
        # Whatever went wrong, that the file changed explains it better.
        _compare(part)
        raise
    _compare(part)


def _compare(part: Part) -> None:
    if stamp(part.path) != part.stamp:
        raise DataError("the file changed while it was read", place=Place(part.path))


@contextmanager
def opened(path: str, coded: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """The file, open, on a handle of its own; the text of the columns `coded` is read as dictionaries.

    Raises `DataError` when it is no Parquet file that can be read.
    """
    with _handle(path) as handle:
        try:
            file = pq.ParquetFile(
                handle, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True, read_dictionary=list(coded)
            )
        except _ERRORS as error:
            raise _not_parquet(path, handle, error) from error
        yield file


def _handle(path: str) -> pa.NativeFile:
    try:
        return open_file(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def _not_parquet(path: str, handle: pa.NativeFile, error: BaseException) -> DataError:
    """Say what the file is instead, or that its end is missing."""
    try:
        size = handle.size()
        handle.seek(0)
        head = handle.read(8)
        handle.seek(max(0, size - 4))
        tail = handle.read(4)
    except (pa.ArrowException, OSError) as worse:
        return unreadable(path, worse)
    place = Place(path)
    if size == 0:
        return DataError("the file is empty, not Parquet", place=place)
    if head.startswith(MAGIC) and tail not in (MAGIC, b"PARE"):
        return DataError(
            f"the file is truncated: it starts as Parquet and ends after {size} bytes without a footer", place=place
        )
    if head.startswith(MAGIC) and tail == MAGIC:
        return DataError(f"damaged footer: {first_line(error)}", place=place)
    what = next((text for start, text in _OTHERS.items() if head.startswith(start)), None)
    return DataError(f"not a Parquet file{f': it is {what}' if what else f' (it starts with {head!r})'}", place=place)


@contextmanager
def _arrow_errors(path: str) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        raise unreadable(path, error) from error
