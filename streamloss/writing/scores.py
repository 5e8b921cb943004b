"""`score`: a row out for every row in, or the costliest alone, as a Parquet file, an Arrow stream or a table.

Rows are scored batch by batch by several threads and written in the order of the input, a row group at a time, so that memory
is bounded whatever the input; with --worst only the rows are held that are among the costliest so far. A file appears whole or
not at all. A stream that has to end early ends in the middle of a message, so that no reader takes it for the whole.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TypeVar, cast, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from streamloss.errors import DataError, Place, UsageError
from streamloss.files import check_target, replacing, unwritable
from streamloss.memory import budgeted
from streamloss.options import Options
from streamloss.reading.batch import Batch
from streamloss.reading.paths import first_line, is_uri
from streamloss.reading.roles import BATCH_BYTES, Plan
from streamloss.reading.source import STDIN, Reader, open_input
from streamloss.running.budget import fit
from streamloss.running.local import Watcher, thread_count
from streamloss.running.ordered import in_order, kernel_threads
from streamloss.running.scoring import Scorer, row_quantities
from streamloss.writing.sheet import Sheet
from streamloss.writing.worst import Candidates, Ranking
from streamloss.writing.writer import ROW_GROUP_BYTES, hold

Compression = Literal["zstd", "none"]
Add = Callable[[pa.RecordBatch], None]
T = TypeVar("T")

STDOUT = "-"
ROW_GROUP_ROWS = 1 << 20
# Options of `evaluate` that change no row: they say how the report of all rows together is made.
_OF_ALL_ROWS = (
    *("bins", "convention", "temperature_sweep", "temperatures"),
    *("cluster", "quantiles", "confidence", "min_slice_rows"),
)
_SMALL = 1 << 12  # batches of so many rows or fewer are held together
_GUESS = 512  # bytes of a kept value whose type does not tell
_WRITING = 6 * ROW_GROUP_BYTES  # what is held until it is a row group, put together and encoded
_BROKEN = b"\xff\xff\xff\xff\x08\x00\x00\x00"  # the beginning of a message of a stream that says there are 8 bytes to come


@budgeted
def score(
    paths: Any,
    output: str | Path | BinaryIO | None = None,
    *,
    keep: str | Sequence[str] = (),
    worst: int | None = None,
    worst_by: str | None = None,
    compression: Compression = "zstd",
    threads: int | None = None,
    batch_rows: int | None = None,
    max_memory: int | str | None = None,
    reader: Reader = "auto",
    progress: Watcher | None = None,
    **options: Any,
) -> Any:
    """The values of every row, in the order of the input: a `pyarrow.Table`, or None where they go into `output`.

    paths: what `evaluate` takes.
    output: a Parquet file to write, whole or not at all; '-' or a binary file object for an Arrow IPC stream.
    keep: columns that go through as they are.
    worst: only so many rows, the costliest; with `by` also of every slice. Infinite costs come first, of rows that cost the
        same the earlier one. worst_by: the quantity that is the cost (default: cross_entropy).
    compression: of the Parquet file, 'zstd' or 'none'.
    threads, batch_rows, max_memory, reader, progress: those of `evaluate`; no row depends on them.
    options: those of `evaluate` that make a difference to a row. `metrics` names the quantities (default: all that a single row
        has); columns of `by` are kept.

    The columns: `file`, `row` (from 0), `status` ('used', 'ignored', or the rule that the row broke), `label`, `prediction`,
    `weight`, those of `keep`, and a float64 a quantity, in `unit`, without the weight; null where a row is not used. With
    `worst` there is no status, and `by`, `other`, `rank` come first: the columns of the slice (null: all rows are ranked),
    whether its rows are those beyond `max_slices`, and the place in it. The table is sorted by slice and rank.

    Raises `DataError` for bad data, `UsageError` for wrong options.
    """
    _check(worst, worst_by, compression, options)
    asked = Options.of(**options)
    count = thread_count(threads)
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    target: Any = sys.stdout.buffer if output == STDOUT else output
    if isinstance(target, str | os.PathLike):
        target = os.fspath(target)
        _check_file(target, [p for p in (paths if isinstance(paths, list | tuple) else [paths]) if _is_path(p)])
    elif target is not None and target.isatty():
        raise UsageError("an Arrow stream is nothing for a terminal: pipe it, or name a Parquet file with -o")
    source = open_input(paths, asked, batch_rows, reader, kept=(*names, *(name for by in asked.groupings for name in by)))
    if isinstance(target, str):
        _check_file(target, [file["path"] for file in source.files if file["path"] not in (None, STDIN)])
    cost = None if worst is None else worst_by or "cross_entropy"
    quantities = row_quantities(source.task, asked, cost)
    if cost is not None and quantities[cost].indicator:
        raise UsageError(f"--worst-by {cost}: it is 0 or 1 in every row, which ranks nothing; take a loss")
    if batch_rows is None:
        source.plan = _narrowed(source.plan, len(quantities))
    count = fit([source], asked, count, chosen=batch_rows is not None, sums=False, besides=_WRITING)
    ranked = {} if cost is None else {"worst": str(worst), "worst_by": cost, "by": json.dumps(asked.groupings)}
    sheet = Sheet(source.plan, asked, quantities, _lead(asked) if cost else [], ranked)
    scorer = Scorer(source.task, asked, quantities, kernel_threads(count))

    def every(work: Callable[[Batch], T]) -> Generator[T, None, None]:
        return in_order(source, work, count, progress)

    with _opened(target, sheet.schema, compression) as (add, result):
        if worst is None or cost is None:
            _all(every, scorer, sheet, add)
        else:
            rankings = [Ranking(by, worst, asked.max_slices) for by in ((), *asked.groupings)]
            for batch in _costliest(every, scorer, sheet, rankings, cost):
                add(batch)
    return result()


class Every(Protocol):
    """What does work on every batch of the input, and has the results in the order of the rows."""

    def __call__(self, work: Callable[[Batch], T], /) -> Generator[T, None, None]: ...


def _all(every: Every, scorer: Scorer, sheet: Sheet, add: Add) -> None:
    """Adds every row."""

    def work(batch: Batch) -> pa.RecordBatch:
        return sheet.rows(scorer.score(batch))

    with closing(every(work)) as results:
        for rows in results:
            add(rows)
            del rows


def _costliest(every: Every, scorer: Scorer, sheet: Sheet, rankings: list[Ranking], cost: str) -> list[pa.RecordBatch]:
    """What is left of every row in the end: of each ranking its costliest rows."""

    def work(batch: Batch) -> tuple[int, list[tuple[Candidates, pa.RecordBatch]]]:
        scored = scorer.score(batch)
        found = [ranking.candidates(batch, scored.values[cost]) for ranking in rankings]
        return len(batch), [(each, sheet.rows(scored, each.rows)) for each in found]

    first = 0
    with closing(every(work)) as results:
        for n, found in results:
            for ranking, (candidates, rows) in zip(rankings, found, strict=True):
                ranking.add(candidates, rows, first)
            first += n
    batches: list[pa.RecordBatch] = []
    for ranking in rankings:
        rows, ranks, beyond = ranking.result(sheet.inner)
        n = rows.num_rows
        by = pa.repeat(pa.scalar(",".join(ranking.by) if ranking.by else None, pa.string()), n)
        lead = {"by": by.dictionary_encode(), "other": pa.array(beyond), "rank": pa.array(ranks)}
        columns = [lead[name] if name in lead else rows.column(name) for name in sheet.schema.names]
        batches += pa.Table.from_arrays(columns, schema=sheet.schema).combine_chunks().to_batches()
    return batches


def _lead(options: Options) -> list[pa.Field]:
    """What comes first of the costliest rows."""
    rank = pa.field("rank", pa.int64())
    if not options.by:
        return [rank]
    return [pa.field("by", pa.dictionary(pa.int32(), pa.string())), pa.field("other", pa.bool_()), rank]


def _narrowed(plan: Plan, quantities: int) -> Plan:
    """As many rows a batch as come with their scores to about 8 MiB."""
    width = plan.row_bytes + 8 * (quantities + 2)
    for field, _ in plan.kept:
        try:
            width += field.type.bit_width // 8
        except ValueError:
            width += _GUESS
    return replace(plan, batch_rows=min(plan.batch_rows, max(1, BATCH_BYTES // width)))


def _is_path(item: Any) -> bool:
    return isinstance(item, str | os.PathLike) and item != STDIN


def _check(worst: int | None, worst_by: str | None, compression: str, options: dict[str, Any]) -> None:
    if unused := [name for name in _OF_ALL_ROWS if options.get(name) not in (None, (), False)]:
        raise UsageError(f"--{unused[0].replace('_', '-')} is for the report of all rows together and changes none of them")
    if worst is not None and (isinstance(worst, bool) or not isinstance(worst, int) or worst < 1):
        raise UsageError(f"--worst must be an integer of 1 or more, not {worst!r}")
    if worst is None and worst_by is not None:
        raise UsageError("--worst-by says what the costliest rows are: give --worst too")
    if worst is None and options.get("max_slices") is not None:
        raise UsageError("--max-slices limits the slices whose costliest rows are kept: give --worst too")
    if compression not in get_args(Compression):
        raise UsageError(f"--compression is one of {', '.join(get_args(Compression))}, not {compression!r}")


def _check_file(target: str, inputs: Sequence[Any]) -> None:
    if is_uri(target):
        raise UsageError(f"cannot write {target}: scores are written to local files")
    check_target(target, inputs)


# ---- where the rows go


@contextmanager
def _opened(target: Any, schema: pa.Schema, compression: str) -> Iterator[tuple[Add, Callable[[], Any]]]:
    """What takes the batches, and what gives the result at the end."""
    if target is None:
        batches: list[pa.RecordBatch] = []
        yield batches.append, lambda: pa.Table.from_batches(batches, schema=schema).unify_dictionaries()
    elif isinstance(target, str):
        with _parquet(target, schema, compression) as add:
            yield add, lambda: None
    else:
        with _stream(cast(BinaryIO, target), schema) as add:
            yield add, lambda: None


@contextmanager
def _parquet(path: str, schema: pa.Schema, compression: str) -> Iterator[Add]:
    pieces: list[pa.RecordBatch] = []
    held = 0

    def flush() -> None:
        nonlocal held
        if pieces:
            whole = pa.Table.from_batches(pieces).unify_dictionaries().combine_chunks()
            with _saying_why(path):
                parquet.write_table(whole, row_group_size=ROW_GROUP_ROWS)
            pieces.clear()
            held = 0

    def add(batch: pa.RecordBatch) -> None:
        nonlocal held
        held += batch.nbytes
        hold(pieces, batch, _SMALL)
        if held >= ROW_GROUP_BYTES or sum(piece.num_rows for piece in pieces) >= ROW_GROUP_ROWS:
            flush()

    coded = [f.name for f in schema if not (pa.types.is_floating(f.type) or pa.types.is_boolean(f.type))]
    with _saying_why(path), replacing(path) as file:
        parquet = pq.ParquetWriter(file, schema, compression=compression, use_dictionary=coded)
        try:
            yield add
            flush()
            parquet.close()
        except BaseException:
            parquet.is_open = False  # or it would complete the file when it is collected
            raise


@contextmanager
def _stream(file: BinaryIO, schema: pa.Schema) -> Iterator[Add]:
    name = "standard output" if file is sys.stdout.buffer else getattr(file, "name", "the stream")
    with _saying_why(name):
        out = pa.ipc.new_stream(file, schema)

        def add(batch: pa.RecordBatch) -> None:
            with _saying_why(name):
                out.write_batch(batch)

        try:
            yield add
            out.close()
            file.flush()
        except BaseException:
            with suppress(OSError, ValueError):
                file.write(_BROKEN)
                file.flush()
            raise


@contextmanager
def _saying_why(name: Any) -> Iterator[None]:
    """Says of what cannot be written why."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(name, error) from error
    except pa.ArrowException as error:
        raise DataError(f"cannot be written: {first_line(error)}", place=Place(str(name))) from error


def described(table: pa.Table, most: int) -> dict[str, Any]:
    """The table that `score` gives with `worst` as plain values, as far as `most` rows go (see `reporting.costliest`)."""
    told = {f.name: f.metadata for f in table.schema if f.metadata and b"title" in f.metadata}
    titles = {name: (said[b"title"].decode(), said[b"unit"].decode()) for name, said in told.items()}
    key = table.schema.metadata[b"worst_by"].decode()
    by = [tuple(names) for names in json.loads(table.schema.metadata[b"by"])]
    ours = {"by", "other", "rank", "file", "row", "label", "prediction", "weight", *titles}
    tables: dict[str | None, list[dict[str, Any]]] = {None: [], **{",".join(names): [] for names in by}}
    for row in _records(table.slice(0, most)):
        tables[row.get("by")].append(row)
    return {
        "key": key,
        "title": titles[key][0],
        "titles": titles,
        "kept": [name for name in table.column_names if name not in ours],
        "more": max(0, table.num_rows - most),
        "tables": [{"by": names.split(",") if names else [], "rows": rows} for names, rows in tables.items()],
    }


def _records(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as plain dicts; a value that Python cannot show is '?'."""
    columns: list[list[Any]] = []
    for column in table.columns:
        values: list[Any] = []
        for value in column:
            try:
                values.append(value.as_py())
            except (pa.ArrowException, ValueError):
                values.append("?")
        columns.append(values)
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
