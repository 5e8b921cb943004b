"""Whatever a person hands over becomes an `Input`: planned files that are read part by part, or a stream of batches.

Files (paths, folders, globs, URIs) give `parts`, runs of row groups that threads or a cluster read on their own with
`read_part`. Everything else (`-` for an Arrow IPC stream on standard input, Arrow tables, batches and readers, anything
with `__arrow_c_stream__`, a dict of NumPy arrays) gives `stream`, batches in order.
"""

from __future__ import annotations

import os
import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, BinaryIO, get_args

import pyarrow as pa

from streamloss import memory
from streamloss.errors import DataError, Place, StreamlossError, UsageError
from streamloss.extents import Extents
from streamloss.options import Options, Task
from streamloss.reading import arrow, pages
from streamloss.reading.arrow import Footer, Part, survey
from streamloss.reading.batch import Batch
from streamloss.reading.columns import convert, first_length
from streamloss.reading.coming import in_time
from streamloss.reading.files import expand
from streamloss.reading.footer import File
from streamloss.reading.inspection import facts
from streamloss.reading.kept import check_kept, find_kept, keep
from streamloss.reading.memory import from_arrays
from streamloss.reading.pages import peek_length, why_not
from streamloss.reading.paths import Stamp, first_line, identity, local, partitions, unreadable
from streamloss.reading.roles import PathKey, Plan, Reader, check_schema, make_plan, past_nulls

__all__ = ["Input", "Part", "Plan", "Reader", "convert", "describe", "in_time", "open_input", "read_part"]

PART_BYTES = 64 << 20
Cut = tuple[int, int, int]  # the number of a file, and its row groups from one up to another
STDIN = "-"
_FOOTER_THREADS, _REMOTE_FOOTER_THREADS = 8, 24
_LENGTH = 4  # bytes of the length of a message in a stream
_MOST_METADATA = 256 << 20  # those of a million columns
_INTEGER = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True)
class _Planned:
    """One file, the rows of each of its row groups, and the hash of its footer."""

    path: str
    stamp: Stamp
    rows: list[int]
    hash: str

    @cached_property
    def starts(self) -> list[int]:
        """Where every row group begins, and the end."""
        return [0, *accumulate(self.rows)]


@dataclass
class Input:
    """What will be read, and how.

    `files` are {"path", "bytes", "rows", "identity", "footer"}; a stream knows its rows at its end, and no identity.
    """

    plan: Plan
    files: list[dict[str, Any]]
    is_stream: bool
    _planned: list[_Planned] = field(default_factory=list)
    _batches: Iterator[pa.RecordBatch] | None = None

    @property
    def task(self) -> Task:
        """What the columns turned out to be."""
        return self.plan.task

    @property
    def roles(self) -> dict[str, str]:
        """Role -> column or pattern."""
        return self.plan.roles

    @property
    def prediction_dtype(self) -> str:
        """'float16', 'bfloat16', 'float32' or 'float64'."""
        return self.plan.prediction_dtype

    @property
    def target_dtype(self) -> str | None:
        """The same of the target; None without one."""
        return self.plan.target_dtype

    @property
    def rows(self) -> int | None:
        """All rows; None while a stream has not ended."""
        return _total(self.files, "rows")

    @property
    def bytes(self) -> int | None:
        """All bytes of the files (of the values that are needed from memory); None for a stream."""
        return _total(self.files, "bytes")

    def cuts(self, target_bytes: int = PART_BYTES) -> list[Cut]:
        """The files cut into runs of row groups of about `target_bytes`; none holds rows of two files."""
        found = []
        for number, file in enumerate(self._planned):
            begin, size = 0, 0
            for group, rows in enumerate(file.rows):
                size += rows * self.plan.row_bytes
                if size >= target_bytes or group + 1 == len(file.rows):
                    found.append((number, begin, group + 1))
                    begin, size = group + 1, 0
        return found

    def parts(
        self, target_bytes: int = PART_BYTES, *, cuts: list[Cut] | None = None, done: Sequence[Extents] | None = None
    ) -> list[Part]:
        """What is read on its own, cut to about `target_bytes` or at the `cuts` of another input; without what has no rows.

        done: the rows of every file that need not be read. They begin with row groups, so what is left ends with some.
        """
        parts = []
        for number, begin, end in self.cuts(target_bytes) if cuts is None else cuts:
            file = self._planned[number]
            starts = file.starts
            known = Extents() if done is None else done[number]
            for first, last in known.missing(starts[begin], starts[end]):
                groups = range(bisect_right(starts, first, begin, end) - 1, bisect_left(starts, last, begin, end))
                size, before = (last - first) * self.plan.row_bytes, first - starts[groups[0]]
                parts.append(Part(file.path, tuple(groups), first, last - first, size, file.stamp, before))
        return parts

    @property
    def groups(self) -> list[list[int]]:
        """The rows of every row group of every file."""
        return [file.rows for file in self._planned]

    def stream(self) -> Iterator[Batch]:
        """The rows of a stream, in order, once."""
        if self._batches is None:
            raise UsageError("this input has been read, or is read by its parts")
        batches, self._batches = self._batches, None
        path, at = self.files[0]["path"], 0
        for whole in batches:
            for start in range(0, whole.num_rows, self.plan.batch_rows):
                piece = whole.slice(start, self.plan.batch_rows)
                yield keep(convert(piece, self.plan, path=path, first_row=at), piece, self.plan)
                at += piece.num_rows
        self.files[0]["rows"] = at


def read_part(part: Part, plan: Plan, helpers: Executor | None = None, file: File | None = None) -> Iterator[Batch]:
    """The part's rows in order, `plan.batch_rows` or fewer at a time, by the reader that the plan asks for.

    helpers: threads that may decompress pages ahead.
    file: the part's file, if it is open already.
    """
    at = -part.before
    for batch in pages.read_part(part.whole, plan, helpers, file):
        at += len(batch)
        if at > 0:
            yield batch.rows(len(batch) - at, len(batch)) if at < len(batch) else batch
        del batch


def open_input(
    data: Any,
    options: Options,
    batch_rows: int | None = None,
    reader: Reader = "auto",
    *,
    keys: tuple[str, ...] = (),
    kept: Sequence[str] = (),
) -> Input:
    """Find the files, read their footers, decide what the columns are; `reader` says who is to decode Parquet.

    keys: columns that batches have in `Batch.keys` besides those of --by.
    kept: columns that go through as they are (see `Batch.kept`), in whatever type.

    Raises `DataError` for what is missing, unreadable, of the wrong type or differs between files, and `UsageError` for
    what the options leave open.
    """
    if batch_rows is not None and batch_rows < 1:
        raise UsageError(f"batch_rows must be 1 or more, not {batch_rows}")
    if reader not in get_args(Reader):
        raise UsageError(f"--reader is one of {', '.join(get_args(Reader))}, not {reader!r}")
    paths = _paths(data)
    if paths is None or paths == [STDIN]:
        if reader == "pages":
            raise UsageError("--reader pages reads the pages of Parquet files, and this is none")
        return _open_stream(data, options, batch_rows, keys, kept)
    files = expand(paths)
    # The first file with rows decides what the columns are; of the others' footers only the numbers are kept.
    empty = []
    for path in files:
        first = survey(path)
        if first.metadata.num_rows:
            break
        empty.append(_plan_file(first))
    else:
        what = files[0] if len(files) == 1 else f"all {len(files)} files"
        raise DataError("no rows: the input is empty", place=Place(what))
    rest = files[len(empty) + 1 :]
    peek = arrow.peek_length if reader == "arrow" else peek_length
    told = _partitions(files) if options.by or options.cluster or kept else {}
    plan = make_plan(
        first.schema,
        options,
        lambda column: next((k for f in [path, *rest] if (k := peek(f, column)) is not None), None),
        path=path,
        batch_rows=batch_rows,
        reader=reader,
        partitions=told if options.by or options.cluster else None,
        keys=keys,
    )
    plan = past_nulls(plan, ((f, footer.schema) for f in rest if (footer := survey(f)).metadata.num_rows))
    plan = replace(plan, kept=find_kept(first.schema, kept, told, path))

    def planned(path: str) -> _Planned:
        footer = survey(path)
        if footer.metadata.num_rows:
            check_schema(plan, footer.schema, path)
            check_kept(plan, footer.schema, path)
        return _plan_file(footer)

    with _footer_threads(files) as pool:
        all_planned = [*empty, _plan_file(first), *pool.map(planned, rest)]
    entries = [_entry(file.path, file.stamp, sum(file.rows), file.hash) for file in all_planned]
    return Input(plan, entries, is_stream=False, _planned=all_planned)


def _footer_threads(files: list[str]) -> ThreadPoolExecutor:
    if memory.limit() is not None:
        return ThreadPoolExecutor(1)  # a footer becomes many times as large
    return ThreadPoolExecutor(_FOOTER_THREADS if all(local(file) for file in files) else _REMOTE_FOOTER_THREADS)


def _partitions(files: list[str]) -> dict[str, PathKey]:
    """The hive partition columns of the paths; one is of numbers where all its values are."""
    values: dict[str, set[str | None]] = {}
    for path in files:
        for name, value in partitions(path).items():
            values.setdefault(name, set()).add(value)
    kinds: dict[str, PathKey] = {}
    for name, found in values.items():
        kinds[name] = "number" if all(value is None or _INTEGER.fullmatch(value) for value in found) else "text"
    return kinds


def _entry(path: str, stamp: Stamp, rows: int, footer: str) -> dict[str, Any]:
    """A file of the input; `identity` tells it from every other, and from itself after a change, as the footer's hash does."""
    return {"path": path, "bytes": stamp.size, "rows": rows, "identity": identity(path, stamp), "footer": footer}


def describe(data: Any, options: Options) -> dict[str, Any]:
    """What is there and what would be used, JSON-ready; `problem` says what keeps it from being evaluated, if anything.

    Raises `DataError` or `UsageError` only when there is nothing to describe: no file, not Parquet, no stream.
    """
    paths = _paths(data)
    footers: list[Footer] = []
    if paths is None or paths == [STDIN]:
        entry, schema, batches = _open_batches(data)
        entries = [entry]
        data = pa.RecordBatchReader.from_batches(schema, batches)
    else:
        files = expand(paths)
        with _footer_threads(files) as pool:
            footers = list(pool.map(survey, files))
        schema = next((f.schema for f in footers if f.metadata.num_rows), footers[0].schema)
        entries = [_entry(f.path, f.stamp, f.metadata.num_rows, f.hash) for f in footers]
    plan: Plan | None = None
    problem: str | None = None
    try:
        plan = open_input(data, options).plan
    except StreamlossError as error:
        problem = str(error)
    left: dict[str, str] = {}
    if plan is not None and not footers:
        left = dict.fromkeys(plan.needed, "it is no file")
    elif plan is not None:
        with _footer_threads([footer.path for footer in footers]) as pool:
            for reasons in pool.map(why_not, [f.path for f in footers], [plan] * len(footers)):
                left = reasons | left
    return facts(paths or [STDIN], entries, schema, footers, options, plan, problem, left)


def _paths(data: Any) -> list[str] | None:
    """The paths as text; None when the data is in memory."""
    if isinstance(data, str | os.PathLike):
        return [os.fspath(data)]
    if not isinstance(data, list | tuple):
        return None
    if not data:
        raise UsageError("no input: give one path or more")
    for item in data:
        if not isinstance(item, str | os.PathLike):
            raise UsageError(f"a list of inputs holds paths, not {type(item).__name__}")
    paths = [os.fspath(item) for item in data]
    if STDIN in paths and len(paths) > 1:
        raise UsageError("'-' (standard input) stands alone, not among other paths")
    return paths


def _open_batches(data: Any) -> tuple[dict[str, Any], pa.Schema, Iterator[pa.RecordBatch]]:
    """A stream's entry for `files`, its schema and its batches."""
    if isinstance(data, str | list | tuple):
        entry: dict[str, Any] = {"path": STDIN, "bytes": None, "rows": None}
        reader = _stdin()
        return entry, reader.schema, _guarded(reader, STDIN, check=True)
    entry = {"path": None, "bytes": None, "rows": None}
    if isinstance(data, Mapping):
        data = from_arrays(data)
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        entry["rows"] = data.num_rows
        return entry, data.schema, iter(data.to_batches())
    if not isinstance(data, pa.RecordBatchReader):
        if not hasattr(data, "__arrow_c_stream__"):
            raise UsageError(
                f"cannot read {type(data).__name__}: give paths, an Arrow table, batch or reader, or a dict of arrays"
            )
        data = pa.RecordBatchReader.from_stream(data)
    return entry, data.schema, _guarded(data, None)


def _plan_file(footer: Footer) -> _Planned:
    return _Planned(footer.path, footer.stamp, footer.group_rows, footer.hash)


def _open_stream(data: Any, options: Options, batch_rows: int | None, keys: tuple[str, ...], kept: Sequence[str]) -> Input:
    entry, schema, batches = _open_batches(data)
    path = entry["path"]
    seen: list[pa.RecordBatch] = []

    def first(column: str) -> int | None:
        for batch in chain(seen, _kept(batches, seen)):
            length = first_length(batch.column(column)) if column in batch.schema.names else None
            if length is not None:
                return length
        return None

    if not any(batch.num_rows for batch in _kept(batches, seen)):
        raise DataError("no rows: the input is empty", place=Place(path))
    plan = make_plan(schema, options, first, path=path, batch_rows=batch_rows, keys=keys)
    plan = replace(plan, kept=find_kept(schema, kept, {}, path))
    if entry["rows"] is not None:
        entry["bytes"] = entry["rows"] * plan.row_bytes
    return Input(plan, [entry], is_stream=True, _batches=chain(seen, batches))


def _kept(batches: Iterator[pa.RecordBatch], seen: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        seen.append(batch)
        yield batch


class _Framed:
    """A stream in which no message has more metadata than any needs: Arrow takes the memory that one asks for, before it looks
    at what it reads.

    Arrow reads four bytes at a time only where the length of a message's metadata stands.
    """

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """The next bytes. Raises `ValueError` where they are a length that cannot be."""
        data = self._stream.read(size)
        if size == _LENGTH and int.from_bytes(data, "little", signed=True) > _MOST_METADATA:
            raise ValueError(f"a message of {int.from_bytes(data, 'little') >> 20} MiB of metadata")
        return data


def _stdin() -> pa.RecordBatchReader:
    source = getattr(sys.stdin, "buffer", None)
    if source is None:
        raise DataError("there is no standard input", place=Place(STDIN))
    if source.isatty():
        raise UsageError("'-' reads an Arrow IPC stream from standard input, and nothing is piped into it")
    try:
        reader = pa.ipc.open_stream(_Framed(source))
        fields = list(reader.schema)
        for field in fields:
            _ = field.name  # raises where it is no UTF-8
            fields += [field.type.field(i) for i in range(field.type.num_fields)]
        return reader
    except pa.ArrowCancelled as error:
        raise KeyboardInterrupt from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(
            f"no Arrow IPC stream ({first_line(error)}); Parquet goes in by its path",
            place=Place(STDIN),
        ) from error


def _guarded(reader: pa.RecordBatchReader, path: str | None, check: bool = False) -> Iterator[pa.RecordBatch]:
    """The reader's batches; `check` looks at every offset, which bytes from elsewhere may have wrong."""
    while True:
        try:
            batch = reader.read_next_batch()
            if check:
                batch.validate(full=True)
        except StopIteration:
            return
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise unreadable(path, error) from error
        yield batch


def _total(files: list[dict[str, Any]], key: str) -> int | None:
    values = [file[key] for file in files]
    return None if None in values else sum(values)
