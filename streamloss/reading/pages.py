"""The page reader of Parquet files: needed columns straight from their pages, and pyarrow for what it leaves.

pyarrow rebuilds the levels of every list element; here they are only verified (`levels`), values are decoded once, into the
arrays that the kernels take (`chunks`, `encodings`), and `columns.batch_of` judges rows as it does for pyarrow's. Read here
are numbers and booleans, lists of K numbers and fixed-size binary of K numbers, without nulls, in whatever codec and page
version. Text, nulls, rows of other lengths, encryption, unknown encodings and damage go to pyarrow, column by column, from
the row where they are met; the state that comes of it is the same to the bit. With `--reader pages` that is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamloss import memory
from streamloss.errors import DataError, Place
from streamloss.reading import arrow
from streamloss.reading.arrow import Part, opened, record_batches, unchanged
from streamloss.reading.batch import ARRAY_DTYPES, Batch
from streamloss.reading.bounds import LEAST_WINDOW, check_first, named, room_for_pages
from streamloss.reading.chunks import STRETCH
from streamloss.reading.chunks import Column as Pages
from streamloss.reading.columns import Column, batch_of, column_of, dtype_of
from streamloss.reading.files import open_file
from streamloss.reading.footer import (
    BOOLEAN,
    DOUBLE,
    FIXED,
    FLOAT,
    Chunk,
    Declined,
    File,
    Footer,
    Piece,
)
from streamloss.reading.kept import keep
from streamloss.reading.pool import empty
from streamloss.reading.roles import CLASS_ROLES, Plan
from streamloss.reading.specs import Spec, problem_of, spec_of
from streamloss.reading.values import Room

_WINDOWS = 16 << 20  # bytes that the columns of a part read ahead, together

Key = tuple[str, str]  # role, column


@dataclass(frozen=True)
class _Found:
    """What the footer says of the needed columns: where row groups begin, what is read here, why the rest is not."""

    footer: Footer | None  # where it is understood
    starts: NDArray[np.int64]
    end: int  # of the pages of all columns
    columns: dict[Key, tuple[Spec, list[Chunk]]]
    declined: dict[str, Declined]


def read_part(part: Part, plan: Plan, helpers: Executor | None = None, file: File | None = None) -> Iterator[Batch]:
    """The part's rows in order, `plan.batch_rows` or fewer at a time, by the reader that the plan asks for.

    helpers: threads that may decompress pages ahead. file: as `arrow.part_file` gave it, when that was called before.
    """
    if plan.reader == "arrow":
        yield from arrow.read_part(part, plan, file)
        return
    with unchanged(part, plan, file) as opening:
        yield from _batches(opening, part, plan, helpers)


def why_not(path: str, plan: Plan) -> dict[str, str]:
    """The needed columns that the page reader would leave to pyarrow, and why, as far as the footer tells."""
    try:
        with open_file(path) as file:
            footer = Footer(file)
            found = _look_up(footer, plan, 0, footer.row_groups)
    except (Declined, DataError, OSError, ValueError, MemoryError) as error:
        return dict.fromkeys(plan.needed, str(error))
    return {name: str(declined) for name, declined in found.declined.items()}


def peek_length(path: str, column: str) -> int | None:
    """How many values the first row of a list column has that is not null; None when all are null.

    pyarrow says it, of pages that were looked at first: it would take the memory that a damaged one asks for.
    """
    with open_file(path) as file:
        check_first(file, path, column)
        return arrow.peek_length(path, column, file)


def _batches(file: File, part: Part, plan: Plan, helpers: Executor | None) -> Iterator[Batch]:
    found = _search(file, part, plan)
    windows = _WINDOWS if (allotted := memory.allotted()) is None else min(_WINDOWS, allotted.windows)
    window = min(max(windows // max(1, len(found.columns)), LEAST_WINDOW), STRETCH)
    room = Room()
    readers = {
        key: Pages(file, spec, chunks, found.end, window, helpers, room) for key, (spec, chunks) in found.columns.items()
    }
    rest = _Rest(file, part, plan)
    try:
        for name, declined in found.declined.items():
            _refuse(part, plan, name, declined)
        if found.declined or plan.kept_names:
            rest.begin(list(found.declined), part.first_row)
        at, end = part.first_row, part.first_row + part.rows
        while at < end:
            n = min(plan.batch_rows, end - at, rest.rows)
            columns: dict[Key, Column] = {}
            left: list[str] = []
            stacks = _stacks(plan, n)
            for (role, name), pages in readers.items():
                try:
                    with named(part.path, name, pages):
                        columns[role, name] = _read(plan, role, pages, found.columns[role, name][0], name, n, stacks.get(role))
                except Declined as declined:
                    _refuse(part, plan, name, declined)
                    left.append(name)
            if left:
                # Columns tend to be left together. Where more follow, one reader for all is better than many.
                again = list(plan.needed) if rest.declined else list(dict.fromkeys(left))
                readers = {key: pages for key, pages in readers.items() if key[1] not in again}
                columns = {key: column for key, column in columns.items() if key[1] not in again}
                rest.begin(again, at)
                file.expect(partial(_ahead, found, readers, part, rest.columns, at))
            batch = rest.take(n)
            read = partial(_either, columns, batch, plan, part.path)
            made = batch_of(read, plan, n, path=part.path, first_row=at, row_groups=found.starts)
            yield keep(made, batch, plan)
            at += n
            del batch, columns, read, stacks, made
    finally:
        rest.close()


def _ahead(found: _Found, readers: dict[Key, Pages], part: Part, columns: list[str], row: int) -> list[Piece]:
    """What will be needed from a row on: what readers have not come to, and other columns from its row group on."""
    assert found.footer is not None
    begin, end = int(np.searchsorted(found.starts, row, side="right")) - 1, part.row_groups[-1] + 1
    pieces = found.footer.pieces(columns, begin, end - begin)
    return [piece for pages in readers.values() for piece in pages.rest] + pieces


def _refuse(part: Part, plan: Plan, name: str, declined: Declined) -> None:
    if plan.reader == "pages":
        place = Place(part.path, declined.row_group, column=name)
        raise DataError(f"the page reader cannot read it: {declined}; --reader auto leaves it to pyarrow", place=place)


def _either(columns: dict[Key, Column], batch: pa.RecordBatch | None, plan: Plan, path: str, role: str, name: str) -> Column:
    return columns[role, name] if (role, name) in columns else column_of(batch, plan, role, name, path=path)


def _stacks(plan: Plan, n: int) -> dict[str, NDArray[Any]]:
    """An array (K, n) for every role of K flat columns."""
    found: dict[str, NDArray[Any]] = {}
    for role, names in plan.columns.items():
        if role in CLASS_ROLES and len(names) > 1:
            with suppress(MemoryError):  # then each column has its own
                found[role] = empty((len(names), n), ARRAY_DTYPES[dtype_of(plan, role)])
    return found


def _read(plan: Plan, role: str, pages: Pages, spec: Spec, name: str, n: int, stack: NDArray[Any] | None) -> Column:
    """The next n rows of a column in its role; as its row of the stack, where there is one."""
    try:
        if role in CLASS_ROLES and len(plan.columns[role]) == 1:
            rows = empty((n, plan.task.classes), ARRAY_DTYPES[dtype_of(plan, role)])
            pages.fill(rows.reshape(-1).view(spec.wanted))
            return Column(name, rows)
        if stack is not None and stack.dtype == spec.wanted:
            values = stack[plan.columns[role].index(name)]
        else:
            values, stack = empty((n,), spec.wanted), None
        pages.fill(values)
    except MemoryError as error:
        raise Declined("its rows are too large for the memory there is", pages.row_group) from error
    bound = pages.bound(values) if role == "label" and values.dtype.kind == "i" else None
    kind: Any = bool if spec.physical == BOOLEAN else float if spec.physical in (FLOAT, DOUBLE, FIXED) else int
    return Column(name, values, bound=bound, show=lambda row: kind(values[row]), stack=stack)


class _Rest:
    """What pyarrow reads of a part: some columns from some row on, in pieces of the size that is asked for.

    Columns that are kept are always among them, for their values are Arrow's.
    """

    def __init__(self, file: File, part: Part, plan: Plan) -> None:
        self._file, self._part, self._plan = file, part, plan
        self.declined = False  # whether there are any that the page reader has left
        self.columns: list[str] = []
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._piece: pa.RecordBatch | None = None

    def begin(self, columns: list[str], first_row: int) -> None:
        """From now on these columns, from this row on."""
        self.close()
        self.declined = bool(columns)
        self.columns = list(dict.fromkeys((*columns, *self._plan.kept_names)))
        self._batches = self._open(first_row)
        self._piece = None

    def _open(self, first_row: int) -> Iterator[pa.RecordBatch]:
        groups = self._part.row_groups
        with (
            room_for_pages(self._file, self._part.path, self.columns, groups[0], len(groups)),
            opened(self._part.path, self._plan.text_keys, self._file) as file,
        ):
            yield from record_batches(file, self._part, self._plan, self.columns, first_row)

    @property
    def rows(self) -> int:
        """How many rows are at hand in one piece; as many as there may be where nothing is read here."""
        if not self.columns:
            return 1 << 62
        while not self._piece:
            self._piece = self._more()
        return int(self._piece.num_rows)

    def _more(self) -> pa.RecordBatch:
        batch = next(self._batches, None)
        if batch is None:
            raise DataError("the file holds fewer rows than its footer promises", place=Place(self._part.path))
        return batch

    def take(self, n: int) -> pa.RecordBatch | None:
        """The next n rows; None where nothing is read here."""
        if not self.columns:
            return None
        pieces: list[pa.RecordBatch] = []
        while n:
            size = min(n, self.rows)
            assert self._piece is not None
            pieces.append(self._piece.slice(0, size))
            self._piece = self._piece.slice(size) if size < self._piece.num_rows else None
            n -= size
        if len(pieces) == 1:
            return pieces[0]
        return pa.Table.from_batches(pieces).unify_dictionaries().combine_chunks().to_batches()[0]

    def close(self) -> None:
        """Closes the file."""
        if hasattr(self._batches, "close"):
            self._batches.close()


# ---- what can be read


def _search(opening: File, part: Part, plan: Plan) -> _Found:
    """Everything about the needed columns of a part; where the footer itself is left to pyarrow, no column is read here."""
    first, count = part.row_groups[0], len(part.row_groups)
    try:
        footer = Footer(opening)
        if part.row_groups != tuple(range(first, first + count)) or first + count > footer.row_groups:
            raise Declined("its row groups are not those of the plan")
        found = _look_up(footer, plan, first, count)
        stop = found.starts[first + count] if first + count < len(found.starts) else None
        if found.starts[first] != part.first_row or stop not in (None, part.first_row + part.rows):
            raise Declined("its rows are not those of the plan")
        return found
    except (Declined, OSError, ValueError, MemoryError) as error:
        declined = error if isinstance(error, Declined) else Declined(str(error))
        with opened(part.path, file=opening) as file:
            return _Found(None, arrow.group_starts(file), 0, {}, dict.fromkeys(plan.needed, declined))


def _look_up(footer: Footer, plan: Plan, first: int, count: int) -> _Found:
    specs: dict[Key, tuple[Spec, int]] = {}
    declined: dict[str, Declined] = {}
    for role, names in plan.columns.items():
        for name in names:
            try:
                leaf = footer.leaf(name)
                specs[role, name] = spec_of(plan, role, name, leaf), leaf.index
            except Declined as error:
                declined[name] = error
    rows, chunks = footer.chunks([index for _, index in specs.values()], first, count)
    columns: dict[Key, tuple[Spec, list[Chunk]]] = {}
    for (role, name), (spec, index) in specs.items():
        readable: list[Chunk] = []
        for group, chunk in enumerate(chunks[index], first):
            problem = chunk if isinstance(chunk, str) else problem_of(spec, chunk)
            if problem:
                declined.setdefault(name, Declined(problem, group))
            elif not isinstance(chunk, str) and chunk.rows:
                readable.append(chunk)
        if readable:
            columns[role, name] = spec, readable
    columns = {key: found for key, found in columns.items() if key[1] not in declined}
    starts = np.zeros(len(rows), dtype=np.int64)
    np.cumsum(rows[:-1], out=starts[1:])
    return _Found(footer, starts, footer.end_of_data, columns, declined)
