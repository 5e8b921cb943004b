"""What is measured: data, the files that hold them, and the bars that streamloss has to clear.

A new case is a line of `CASES`, a new layout a branch of `Case.table`. All data are seeded and made block by block, the same
every time: the file and NumPy's float64 means (`Data.expected`) come from the same numbers.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20
BLOCK = 1 << 22  # values made, and checked with NumPy, at a time
ROW_GROUP = 1 << 20  # rows: pyarrow's default

Block = dict[str, np.ndarray]
Means = dict[str, float]


@dataclass(frozen=True)
class Data:
    """Rows of predictions. classes = 0: a probability and a label; pairs: a teacher's logits in place of the label."""

    rows: int
    classes: int = 0
    dtype: str = "float32"
    pairs: bool = False

    @property
    def name(self) -> str:
        kind = "pairs" if self.pairs else "classes" if self.classes else "binary"
        return f"{kind}-{self.classes}-{self.dtype}-{self.rows}-{SEED}"

    @property
    def row_bytes(self) -> int:
        """Decoded: the prediction, and the teacher's or an int64 label."""
        prediction = np.dtype(self.dtype).itemsize * max(1, self.classes)
        return 2 * prediction if self.pairs else prediction + 8

    def blocks(self) -> Iterator[Block]:
        """Columns by their role, a block of rows at a time."""
        rng = np.random.default_rng(SEED)
        size = max(1, BLOCK // max(1, self.classes))
        for first in range(0, self.rows, size):
            n = min(size, self.rows - first)
            if not self.classes:
                p = 1 / (1 + np.exp(-2 * rng.standard_normal(n, dtype=np.float32)))
                yield {"prob": p, "label": (rng.random(n) < p).astype(np.int64)}
                continue
            z = 2 * rng.standard_normal((n, self.classes), dtype=np.float32)
            if self.pairs:
                student = z + rng.standard_normal(z.shape, dtype=np.float32)
                yield {"logits": student.astype(self.dtype), "target_logits": z.astype(self.dtype)}
            else:
                yield {"logits": z.astype(self.dtype), "label": rng.integers(0, self.classes, n)}

    def expected(self) -> Means:
        """The means by NumPy in float64."""
        return _expected(self)


@functools.cache
def _expected(data: Data) -> Means:
    sums: dict[str, list[float]] = {}
    for block in data.blocks():
        for key, values in losses(block).items():
            sums.setdefault(key, []).append(float(values.sum()))
    return {key: math.fsum(parts) / data.rows for key, parts in sums.items()}


def losses(block: Block) -> dict[str, np.ndarray]:
    """The losses of every row in float64, called as streamloss calls them."""
    if "prob" in block:
        p = block["prob"].astype(np.float64)
        a, b = np.log(p), np.log1p(-p)
        return {"cross_entropy": -np.where(block["label"] == 1, a, b), "entropy": -(p * a + (1 - p) * b)}
    log_p = log_softmax(block["logits"])
    if "label" in block:
        return {"cross_entropy": -log_p[np.arange(len(log_p)), block["label"]]}
    log_q = log_softmax(block["target_logits"])
    p, q = np.exp(log_p), np.exp(log_q)
    log_m = np.log((p + q) / 2)
    return {
        "cross_entropy": -(q * log_p).sum(axis=1),
        "kl_divergence": (q * (log_q - log_p)).sum(axis=1),
        "reverse_kl_divergence": (p * (log_p - log_q)).sum(axis=1),
        "js_divergence": (q * (log_q - log_m) + p * (log_p - log_m)).sum(axis=1) / 2,
    }


def log_softmax(z: np.ndarray) -> np.ndarray:
    x = z.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


@dataclass(frozen=True)
class Bar:
    """What has to be reached: a peer's best time over streamloss's, or `GB/s` of decoded values."""

    measure: str
    least: float


@dataclass(frozen=True)
class Run:
    """One way to call streamloss, a line of the table."""

    bars: tuple[Bar, ...] = ()
    title: str = ""
    options: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Case:
    """Data in a file of some layout and codec, and the runs over it."""

    name: str
    data: Data
    layout: str  # flat, list, wide, bytes
    codec: str  # uncompressed, snappy, zstd
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        k = f"K = {self.data.classes:,}, "
        layout = {"flat": "", "list": "list, ", "wide": "wide, ", "bytes": "fixed-size binary, "}[self.layout]
        kind = f"pairs, {k}" if self.data.pairs else k if self.data.classes else "binary, "
        dtype = "float16, " if self.data.dtype == "float16" else ""
        return f"{kind}{layout}{dtype}{self.codec}"

    @property
    def file(self) -> str:
        return f"{self.data.name}-{self.layout}-{self.codec}.parquet"

    @property
    def decoded(self) -> int:
        return self.data.rows * self.data.row_bytes

    @property
    def wide(self) -> list[str]:
        """The columns of the classes in the layout that has one for each."""
        return [f"z_{k}" for k in range(self.data.classes)]

    def scaled(self, scale: float) -> Case:
        return replace(self, data=replace(self.data, rows=max(1, round(self.data.rows * scale))))

    def table(self, block: Block) -> pa.Table:
        """The block as the file's columns, nullable by type as pyarrow's are, without nulls."""
        columns, fields = [], []

        def add(name: str, column: pa.Array, **metadata: str) -> None:
            columns.append(column)
            fields.append(pa.field(name, column.type, metadata=metadata or None))

        for role, values in block.items():
            if values.ndim == 1:
                add(role, pa.array(values))
            elif self.layout == "wide":
                for k, name in enumerate(self.wide):
                    add(name, pa.array(np.ascontiguousarray(values[:, k])))
            elif self.layout == "bytes":
                kind = pa.binary(values.shape[1] * values.itemsize)
                add(role, pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)]), dtype=self.data.dtype)
            else:
                offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
                add(role, pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1))))
        return pa.table(columns, schema=pa.schema(fields))

    def write(self, path: Path) -> None:
        """Write the file as `pyarrow.parquet.write_table` does when it is told the codec alone, a row group in memory."""
        writer: pq.ParquetWriter | None = None
        waiting: list[pa.Table] = []
        partial = path.with_suffix(".partial")
        try:
            for block in self.data.blocks():
                waiting.append(self.table(block))
                if writer is None:
                    codec = "none" if self.codec == "uncompressed" else self.codec
                    writer = pq.ParquetWriter(partial, waiting[0].schema, compression=codec)
                while sum(map(len, waiting)) >= ROW_GROUP:
                    rows = pa.concat_tables(waiting)
                    writer.write_table(rows.slice(0, ROW_GROUP), row_group_size=ROW_GROUP)
                    waiting = [rows.slice(ROW_GROUP)]
            assert writer is not None
            if sum(map(len, waiting)):
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
            writer.close()
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # nothing is left to be written back while others are timed
        partial.rename(path)


BINARY = Data(50_000_000)
K10 = Data(4_000_000, 10)
K1000 = Data(100_000, 1000)
VOCABULARY = Data(2000, 128_256)
PAIRS = Data(4000, 32_000, pairs=True)
CODECS = ("uncompressed", "snappy", "zstd")


def bars(**least: float) -> tuple[Bar, ...]:
    return tuple(Bar(measure, value) for measure, value in least.items())


FAST = Run(bars(duckdb=10, polars=10, decode=3))
FAST_ZSTD = Run(bars(duckdb=4, polars=4, decode=1.5))

CASES = [
    Case(
        "binary",
        BINARY,
        "flat",
        "snappy",
        (
            Run(bars(duckdb=2)),
            Run(bars(duckdb=4, polars=4, decode=1 / 1.2), "two averages", {"metrics": "cross_entropy,entropy"}),
        ),
    ),
    *(Case(f"k10-list-{codec}", K10, "list", codec, (Run(bars(duckdb=6, polars=6, decode=2)),)) for codec in CODECS),
    *(Case(f"k10-wide-{codec}", K10, "wide", codec, (Run(bars(duckdb=4, polars=4)),)) for codec in CODECS),
    *(Case(f"k10-bytes-{codec}", K10, "bytes", codec, (Run(),)) for codec in CODECS),
    *(Case(f"k1000-{codec}", K1000, "list", codec, (FAST_ZSTD if codec == "zstd" else FAST,)) for codec in CODECS),
    *(
        Case(
            f"k128256-{dtype}-{codec}",
            replace(VOCABULARY, dtype=dtype),
            "list",
            codec,
            (FAST_ZSTD if codec == "zstd" else FAST,),
        )
        for dtype in ("float32", "float16")
        for codec in CODECS
    ),
    *(Case(f"pairs-{codec}", PAIRS, "list", codec, (Run((Bar("GB/s", 5),)),)) for codec in CODECS[:2]),
]
