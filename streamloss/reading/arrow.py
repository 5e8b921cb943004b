"""The pyarrow reader of Parquet files: any layout, encoding and codec, in bounded memory.

`survey` looks at one footer, `read_part` yields the batches of one part. Every call opens its own handle and keeps
nothing, so threads and processes may call at the same time. Without pre-buffering and with a small buffer pyarrow holds
a page per column rather than a row group (9 MB where its dataset scanner held 358 MB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamloss import memory
from streamloss.errors import DataError, Place
from streamloss.reading.batch import Batch
from streamloss.reading.bounds import room_for_pages
from streamloss.reading.columns import convert, first_length
from streamloss.reading.files import open_file
from streamloss.reading.footer import Declined, File, Piece, tail_length
from streamloss.reading.footer import Footer as Places
from streamloss.reading.kept import keep
from streamloss.reading.paths import Stamp, first_line, unreadable
from streamloss.reading.roles import Plan

PEEK_ROWS = 16
MAGIC = b"PAR1"
_BUFFER = 1 << 20  # bytes that pyarrow reads at a time of every column
_ERRORS = (pa.ArrowException, OSError, ValueError, MemoryError, Declined)  # what is raised over a damaged file
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
    with open_file(path, anew=True) as bytes_:
        try:
            tail = bytes_.tail()
            file = pq.ParquetFile(pa.BufferReader(tail))
        except _ERRORS as error:
            raise _not_parquet(path, bytes_, error) from error
        digest = hashlib.sha256(tail[-tail_length(tail) : -8].tobytes()).hexdigest()
        footer = Footer(path, bytes_.stamp, file.schema_arrow, file.metadata, digest)
    if min(footer.group_rows, default=0) < 0:
        raise DataError("damaged footer: a row group of fewer than no rows", place=Place(path))
    return footer


def read_part(part: Part, plan: Plan, file: File | None = None) -> Iterator[Batch]:
    """The part's rows in order, `plan.batch_rows` or fewer at a time. file: as `part_file` gave it."""
    columns, groups = tuple(dict.fromkeys((*plan.needed, *plan.kept_names))), part.row_groups
    with (
        unchanged(part, plan, file) as bytes_,
        room_for_pages(bytes_, part.path, columns, groups[0], len(groups)),
        opened(part.path, plan.text_keys, bytes_) as parquet,
    ):
        at, starts = part.first_row, group_starts(parquet)
        for batch in record_batches(parquet, part, plan, columns, at):
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


def peek_length(path: str, column: str, file: File | None = None) -> int | None:
    """How many values the first row of a list column has that is not null; None when all are null.

    file: the file, where it is open.
    """
    with opened(path, file=file) as parquet, _arrow_errors(path):
        rows = PEEK_ROWS if memory.limit() is None else 1
        for batch in parquet.iter_batches(batch_size=rows, columns=[column], use_threads=False):
            length = first_length(batch.column(column))
            if length is not None:
                return length
    return None


def part_file(part: Part, plan: Plan) -> File:
    """The part's file, which knows what will be needed. Raises `DataError` when it is not the one it was planned with."""
    file = open_file(part.path, part.stamp)
    file.expect(partial(_needed, file, part, plan))
    return file


@contextmanager
def unchanged(part: Part, plan: Plan, file: File | None) -> Iterator[File]:
    """The part's file, or the one that is open; `DataError` when it is not, before or after, the one it was planned with."""
    with part_file(part, plan) if file is None else file as file:
        try:
            yield file
        except DataError:
            # Whatever went wrong, that the file changed explains it better.
            file.check()
            raise
        file.check()


def _needed(file: File, part: Part, plan: Plan) -> list[Piece]:
    """Where the needed columns of the part lie; nothing where its footer is not understood here."""
    first, count = part.row_groups[0], len(part.row_groups)
    try:
        return Places(file).pieces((*plan.needed, *plan.kept_names), first, count)
    except (Declined, ValueError, MemoryError):
        return []


@contextmanager
def opened(path: str, coded: Sequence[str] = (), file: File | None = None) -> Iterator[pq.ParquetFile]:
    """The file, for pyarrow; the text of the columns `coded` is read as dictionaries.

    file: its bytes, where they are open. Raises `DataError` when it is no Parquet file that can be read.
    """
    with open_file(path) if file is None else nullcontext(file) as bytes_:
        try:
            native = bytes_.native()
            metadata = pq.read_metadata(pa.BufferReader(bytes_.tail()))
            parquet = pq.ParquetFile(
                native,
                metadata=metadata,
                pre_buffer=False,
                buffer_size=_BUFFER if memory.limit() is None else _BUFFER >> 4,
                page_checksum_verification=True,
                read_dictionary=list(coded),
            )
        except _ERRORS as error:
            raise _not_parquet(path, bytes_, error) from error
        with native:
            yield parquet


def _not_parquet(path: str, file: File, error: BaseException) -> DataError:
    """Say what the file is instead, or that its end is missing."""
    size = file.size
    ends = np.zeros(8, dtype=np.uint8), np.zeros(4, dtype=np.uint8)
    try:
        for end, at in zip(ends, (0, max(0, size - 4)), strict=True):
            file.fill(end[: size - at], at)
    except (OSError, Declined) as worse:
        return unreadable(path, worse)
    head, tail = (end[:size].tobytes() for end in ends)
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
