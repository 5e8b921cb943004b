"""Who is measured: streamloss, and every peer in the formulations that were fastest and right.

A way goes through a file and returns its means by streamloss's names; streamloss makes its report, a peer one cross-entropy
(binary: cross-entropy and entropy; pairs: KL(teacher‖student)), pyarrow's bare decode nothing. All subtract the maximum before
exp, all use `threads` threads, and each adds and rounds as its users do: `single` marks float32 arithmetic, which agrees to
1e-5 and not to 1e-9. What else was tried stands at each peer, with seconds on two cores (snappy; 2 M rows of K = 10, 20,000 of
K = 1000, 200 of K = 128,256).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import streamloss
from benchmarks.arrays import numpy_ways, sklearn_ways, torch_ways
from benchmarks.cases import Case, Means
from benchmarks.frames import duckdb_ways, polars_ways
from benchmarks.ways import Way, Ways, rows_at_once


def streamloss_ways(case: Case, threads: int) -> list[Way]:
    """A way for each of the case's runs, in their order."""

    def evaluate(path: Path, options: dict[str, Any]) -> Means:
        columns = {"logits": "z_*"} if case.layout == "wide" else {}
        metrics = streamloss.evaluate(path, threads=threads, **columns, **options).metrics
        return {key: metric.mean for key, metric in metrics.items() if metric.mean is not None}

    def way(options: dict[str, Any]) -> Callable[[Path], Means]:
        return lambda path: evaluate(path, options)

    return [Way(run.title or "default report", way(run.options), "streamloss") for run in case.runs]


def decode_ways(case: Case, threads: int) -> Ways:
    """pyarrow that only decodes the columns."""
    many = threads > 1

    def whole(path: Path) -> Means:
        pq.read_table(path, use_threads=many)
        return {}

    def stream(path: Path, **size: int) -> Means:
        with pq.ParquetFile(path) as file:
            for _ in file.iter_batches(use_threads=many, **size):
                pass
        return {}

    return [
        Way("read_table", whole),
        Way("iter_batches", stream),
        Way("iter_batches, small", lambda path: stream(path, batch_size=rows_at_once(case))),
    ]


PEERS: dict[str, tuple[str, Callable[[Case, int], Ways]]] = {
    "duckdb": ("DuckDB", duckdb_ways),
    "polars": ("Polars", polars_ways),
    "sklearn": ("scikit-learn", sklearn_ways),
    "numpy": ("NumPy", numpy_ways),
    "torch": ("torch", torch_ways),
    "decode": ("bare decode", decode_ways),
}
