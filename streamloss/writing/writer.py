"""Prediction files in the layout that reads fastest, written batch by batch and whole or not at all.

The layout, and what was measured (two cores, page cache, default report; K = 1,000 and K = 10 float32):

- K values a row are a list without nulls, which every tool reads; `layout="binary"`, fixed-size binary, spares pyarrow three
  quarters of its time and streamloss a twentieth to a tenth, but to other tools it is bytes.
- Predictions are PLAIN and uncompressed, without statistics: they look random. zstd saves 8 % of normal logits and
  makes evaluating twice as long, snappy saves nothing and costs a sixth.
- Labels and all else but floats have dictionaries: an int64 label then takes no more room than an int8, so labels keep their
  dtype.
- Row groups of about 16 MB of values: our threads take runs of some 64 MB, which then come out even, and pyarrow, whose memory
  grows with them, read 16 MB a third faster than 64 MB. Of 50 kB they take every reader about twice as long.
- Pages of 1 MB however many rows that is: pyarrow's limit of 20,000 rows makes pages of 80 kB of a binary prediction, half
  as slow again to decode. Larger pages than 1 MB gained nothing.
- Checksums of pages cost a tenth to a third, so they are only there when asked for.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from streamloss import __version__
from streamloss.errors import DataError, Place, StreamlossError, UsageError
from streamloss.files import check_target, replacing, unwritable
from streamloss.reading.paths import first_line, is_uri
from streamloss.writing.arrays import FLOATS, MOST_VALUES, VALUES, Column, Layout, columns_of

CODECS = ("none", "snappy", "gzip", "brotli", "lz4", "zstd")
ROW_GROUP_BYTES = 16 << 20
MOST_ROWS = 1 << 26  # of a row group; pyarrow splits larger ones
_LONGEST = 4  # so many times ROW_GROUP_BYTES text may make of a row group
_PAGE_BYTES = 1 << 20
_PIECES = 64  # about so many batches are held one by one, smaller ones together


def write_predictions(
    path: str | Path,
    logits: Any = None,
    label: Any = None,
    *,
    columns: Mapping[str, Any] | None = None,
    layout: Layout | None = None,
    compression: str = "none",
    row_group_rows: int | None = None,
    checksum: bool = False,
    **roles: Any,
) -> None:
    """Writes arrays as a Parquet file that `streamloss.evaluate(path)` reads without any option, and fast.

    The arrays are those of `PredictionWriter.write`, the settings those of `PredictionWriter`. The file is there whole or as
    it was before. Raises `DataError` for arrays that cannot be what they are given as, `UsageError` for wrong settings, and
    `StreamlossError` when the file cannot be written.
    """
    settings: dict[str, Any] = {"layout": layout, "compression": compression, "row_group_rows": row_group_rows}
    with PredictionWriter(path, **settings, checksum=checksum) as out:
        out.write(logits, label, columns=columns, **roles)


def hold(pieces: list[pa.RecordBatch], piece: pa.RecordBatch, small: int) -> None:
    """Adds a batch to those of a row group; few of them have `small` rows or fewer then."""
    pieces.append(piece)
    # As a binary counter carries: every row is moved a few times however small the batches are.
    while len(pieces) > 1 and pieces[-2].num_rows <= pieces[-1].num_rows <= small:
        pieces[-2:] = pa.Table.from_batches(pieces[-2:]).unify_dictionaries().combine_chunks().to_batches()


class PredictionWriter:
    """Writes a Parquet file of predictions batch by batch, in bounded memory.

        with streamloss.PredictionWriter("run.parquet") as out:
            for x, y in loader:
                out.write(logits=model(x), label=y)

    The file appears at the end of the block. After an exception in the block, `path` is as it was before.

    path: a local file; what stands there is replaced. `rows` is how many rows were taken so far.
    layout: how K values a row stand: 'list' (for every tool), or 'binary', fixed-size binary with the metadata `dtype`
        (fastest, for streamloss and pyarrow). Default: 'list', and 'binary' for bfloat16, which takes half the room then.
    compression: 'none' (default), 'snappy', 'gzip', 'brotli', 'lz4' or 'zstd'; of predictions it saves little.
    row_group_rows: rows of a row group (default: as many as hold 16 MiB of values). One row group is held in memory, and
        the batch at hand.
    checksum: whether every page carries a CRC, which reading then compares.

    Raises `UsageError` for wrong settings and where no file can be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        layout: Layout | None = None,
        compression: str = "none",
        row_group_rows: int | None = None,
        checksum: bool = False,
    ) -> None:
        self.path = os.fsdecode(path)
        self.rows = 0
        if layout not in (None, *get_args(Layout)):
            raise UsageError(f"layout is one of {', '.join(get_args(Layout))}, not {layout!r}")
        if compression not in CODECS:
            raise UsageError(f"compression is one of {', '.join(CODECS)}, not {compression!r}")
        if compression != "none" and not pa.Codec.is_available(compression):
            raise UsageError(f"this pyarrow was built without {compression}")
        if row_group_rows is not None and not (isinstance(row_group_rows, int) and 1 <= row_group_rows <= MOST_ROWS):
            raise UsageError(f"row_group_rows must be an integer between 1 and {MOST_ROWS}, not {row_group_rows!r}")
        if is_uri(self.path):
            raise UsageError(f"cannot write {self.path}: predictions are written to local files")
        check_target(self.path)
        self._layout, self._compression, self._checksum = layout, compression, checksum
        self._asked_rows = row_group_rows
        self._group = 0  # rows of a row group
        self._kinds: list[tuple[str, str, int | None]] = []
        self._schema: pa.Schema | None = None
        self._pieces: list[pa.RecordBatch] = []  # of the next row group
        self._held = self._held_bytes = 0
        self._parquet: pq.ParquetWriter | None = None
        self._files = ExitStack()
        self._closed = False

    def write(
        self,
        logits: Any = None,
        label: Any = None,
        *,
        columns: Mapping[str, Any] | None = None,
        **roles: Any,
    ) -> None:
        """Adds rows: one prediction, and what there is of the rest.

        logits, probs, logprobs: (…, K) floats; leading axes become rows in C order, so (batch, T, K) goes with a label of
            (batch, T). logit, prob, logprob: (…), one float a row.
        label: (…) integers or booleans; for logit and prob also floats.
        target_logits, target_probs, target_logprobs: (…, K) floats.
        weight: (…) numbers. mask: (…) booleans, or 0 and 1. bytes: (…) integers.
        columns: name -> one value a row of whatever else shall stand in the file (ids, slices); a dict, so that any name
            may be one and a misspelt role is none.

        Arrays are NumPy's, or anything that becomes one: tensors of torch on any device, arrays of JAX or TensorFlow, lists.
        Floats are float16, bfloat16, float32 or float64, and stay what they are. They may be changed afterwards.

        The first batch decides on columns, dtypes and K. Raises `UsageError` for other columns, or roles that do not go
        together, `DataError` for arrays that do not fit: the batch is then not written and the file may go on; and
        `StreamlossError` when the disk does not take it, which ends the file.
        """
        if self._closed:
            raise UsageError(f"{self.path}: the writer is closed")
        found = columns_of({"logits": logits, "label": label, **roles}, columns, self.path, self._schema)
        if self._schema is None:
            self._begin(found)
        else:
            self._check(found)
        n, at = len(found[0]), 0
        with self._guarded():
            while at < n:
                stop = min(n, at + self._group - self._held)
                self._hold(found, at, stop)
                at = stop
        self.rows += n

    def close(self) -> None:
        """Writes what is left and puts the file in its place; a second time does nothing.

        Raises `DataError` when no batch came, for there are no columns then, and `StreamlossError` when the disk is full.
        """
        if self._closed:
            return
        if self._schema is None:
            self.discard()
            raise DataError("no batch was written, so there are no columns; is the loop empty?", place=Place(self.path))
        with self._guarded():
            self._flush()
            assert self._parquet is not None
            self._parquet.close()
            self._files.close()
        self._closed = True

    def discard(self) -> None:
        """Gives the file up: `path` is as it was before."""
        self._closed = True
        self._pieces.clear()
        if self._parquet is not None:
            self._parquet.is_open = False  # or it would complete the file, now or when it is collected
            self._parquet = None
        error = StreamlossError("discarded")
        self._files.__exit__(type(error), error, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            self.discard()

    # ---- the first batch, and those after it

    def _begin(self, columns: list[Column]) -> None:
        row_bytes = max(1, sum(column.row_bytes for column in columns))
        group = self._asked_rows or min(max(1, ROW_GROUP_BYTES // row_bytes), MOST_ROWS)
        schema = pa.schema([column.field(self._layout) for column in columns], metadata={"streamloss": __version__})
        k = max((column.classes or 1 for column in columns), default=1)
        if group * k > MOST_VALUES:
            raise UsageError(f"row_group_rows must be {MOST_VALUES // k} or less with {k} classes, not {group}")
        with self._guarded():
            file = self._files.enter_context(replacing(self.path))
            self._parquet = pq.ParquetWriter(file, schema, **self._settings(columns))
        self._group, self._schema = group, schema
        self._kinds = [column.kind for column in columns]

    def _settings(self, columns: list[Column]) -> dict[str, Any]:
        """What pyarrow is told; names stand for flat columns, the only ones that have dictionaries and statistics."""
        flat = [column for column in columns if column.classes is None]
        settings: dict[str, Any] = {
            "compression": self._compression,
            # At most 65,536 bfloat16s differ, and plain ones would take 4 bytes each.
            "use_dictionary": [c.name for c in flat if c.dtype not in (*FLOATS, "bool") or c.dtype == "bfloat16"],
            "write_statistics": [c.name for c in flat if c.name not in VALUES],
            "data_page_size": _PAGE_BYTES,
            "write_page_checksum": self._checksum,
        }
        if "max_rows_per_page" in inspect.signature(pq.ParquetWriter.__init__).parameters:  # pyarrow 22 and before: no limit
            settings["max_rows_per_page"] = MOST_ROWS
        return settings

    def _check(self, columns: list[Column]) -> None:
        """Raises unless a batch is like the first one."""
        first = {name: (dtype, classes) for name, dtype, classes in self._kinds}
        now = {column.name: column for column in columns}
        if set(first) != set(now):
            more, fewer = sorted(set(now) - set(first)), sorted(set(first) - set(now))
            said = [f"{', '.join(more)} came anew"] * bool(more) + [f"{', '.join(fewer)} is missing"] * bool(fewer)
            raise UsageError(f"{self.path}: every batch has the columns of the first one: {'; '.join(said)}")
        for name, (dtype, classes) in first.items():
            place = Place(self.path, row=self.rows, column=name)
            if now[name].dtype != dtype:
                raise DataError(f"a batch of {now[name].dtype}; the first one was {dtype}", place=place)
            if now[name].classes != classes:
                raise DataError(f"a batch of {now[name].classes} classes; the first one had {classes}", place=place)

    # ---- row groups

    def _hold(self, columns: list[Column], start: int, stop: int) -> None:
        """Takes rows into the row group, and writes it when it is full. A whole one is written from the caller's memory."""
        copy = stop - start < self._group
        assert self._schema is not None
        named = {column.name: column for column in columns}
        arrays = [named[field.name].rows(start, stop, field.type, copy) for field in self._schema]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._held += stop - start
        self._held_bytes += batch.nbytes
        hold(self._pieces, batch, self._group // _PIECES)
        text = self._asked_rows is None and self._held_bytes >= _LONGEST * ROW_GROUP_BYTES
        if self._held == self._group or text:
            self._flush()

    def _flush(self) -> None:
        """Writes the rows that are held, as one row group."""
        if self._pieces:
            assert self._parquet is not None
            self._parquet.write_table(pa.Table.from_batches(self._pieces), row_group_size=self._group)
        self._pieces.clear()
        self._held = self._held_bytes = 0

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Gives the file up when it cannot be written, and says why."""
        try:
            yield
        except BaseException as error:
            with suppress(OSError):
                self.discard()
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise unwritable(self.path, error) from error
            if isinstance(error, pa.ArrowException):
                raise DataError(f"cannot be written: {first_line(error)}", place=Place(self.path)) from error
            raise
