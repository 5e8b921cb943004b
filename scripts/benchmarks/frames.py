"""DuckDB and Polars: queries over the file, or over what pyarrow decodes of it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cases import Case, Means
from benchmarks.ways import MISSING, SMALL, Way, Ways, added, load, rows_at_once


def duckdb_ways(case: Case, threads: int) -> Ways:
    """SQL in DOUBLE where exp and ln are, which is all DuckDB has.

    K = 10 lists: elements by number 0.17 s; list_sum(list_transform(…)) 0.19, with a list comprehension 0.18, as inner or dot
    product 0.18; elements cast to FLOAT[10] 0.31, with greatest() for list_max 0.28; unnest and GROUP BY 0.43; list_reduce for
    the maximum 0.47; a correlated subquery 1.03; over pyarrow's table 0.25, its dataset 0.23.
    K = 10 wide: list_max([…]) and [label + 1] 0.13; CASE label 0.14; list_sum of the exps 0.16; list_transform 0.19;
    greatest() 0.22, nested 0.36.
    K = 1000 and 128,256: unnest and GROUP BY 0.35 and 0.39; list_sum(list_transform(…)) 0.39 and 0.60; dot product 0.34 and
    0.52; a subquery 0.69 and 1.18. DuckDB shares out row groups, and pyarrow's default is a single one here: with batches that
    pyarrow decodes both cores are busy, 0.22 and 0.22 (its table 0.71 and 0.37; a materialized CTE 0.29 and 0.53; a union of
    the file's halves 0.22 and 0.52).
    Binary, 4 M rows: ln of p and of 1 - p once each 0.034 to 0.044, whatever is made of them; cast to DOUBLE first 0.041.
    """
    duckdb = load("duckdb")
    if duckdb is None:
        return MISSING
    if case.layout == "bytes":
        return "makes no numbers of fixed-size binary"
    database = duckdb.connect()
    database.execute(f"SET threads = {threads}")
    classes = range(case.data.classes)
    numbered = case.data.classes > SMALL  # rows are unnested, and put together again by their number
    if not case.data.classes:
        inner = "SELECT label, prob AS p, ln(prob) AS a, ln(1 - prob) AS b FROM {rows}"
        query = f"SELECT -avg(if(label = 1, a, b)), -avg(b + p * (a - b)) FROM ({inner})"
    elif case.data.pairs:
        inner = "SELECT *, list_max(logits) AS m, list_max(target_logits) AS n FROM {rows}"
        inner = f"SELECT unnest(logits) AS z, unnest(target_logits) AS t, m, n, row FROM ({inner})"
        inner = f"SELECT *, exp(t::DOUBLE - n) AS e FROM ({inner})"
        sums = "sum(e) AS s, sum(e * (t::DOUBLE - z)) AS d, sum(exp(z::DOUBLE - m)) AS r, any_value(m) AS m, any_value(n) AS n"
        query = f"SELECT avg(d / s - n - ln(s) + m + ln(r)) FROM (SELECT {sums} FROM ({inner}) GROUP BY row)"
    elif numbered:
        inner = "SELECT logits, list_max(logits) AS m, logits[label + 1] AS y, row FROM {rows}"
        inner = f"SELECT unnest(logits) AS z, m, y, row FROM ({inner})"
        sums = "sum(exp(z - m)) AS s, any_value(m) AS m, any_value(y) AS y"
        query = f"SELECT avg(ln(s) + m - y) FROM (SELECT {sums} FROM ({inner}) GROUP BY row)"
    elif case.layout == "wide":
        total = " + ".join(f"exp({name} - m)" for name in case.wide)
        inner = f"SELECT *, list_max(z) AS m FROM (SELECT *, [{', '.join(case.wide)}] AS z FROM {{rows}})"
        query = f"SELECT avg(ln({total}) + m - z[label + 1]) FROM ({inner})"
    else:
        total = " + ".join(f"exp(logits[{k + 1}] - m)" for k in classes)
        inner = "SELECT logits, label, list_max(logits) AS m FROM {rows}"
        query = f"SELECT avg(ln({total}) + m - logits[label + 1]) FROM ({inner})"
    keys = ("kl_divergence",) if case.data.pairs else ("cross_entropy", "entropy")

    def ask(rows: str, values: list[str]) -> Means:
        (found,) = database.execute(query.format(rows=rows), values).fetchall()
        return dict(zip(keys, found, strict=False))

    def own(path: Path) -> Means:
        rows = "read_parquet(?, file_row_number = true)" if numbered else "read_parquet(?)"
        if numbered:
            rows = f"(SELECT *, file_row_number AS row FROM {rows})"
        return ask(rows, [str(path)])

    def fed(path: Path) -> Means:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow.append(pa.field("row", pa.int64()))
            parts = file.iter_batches(rows_at_once(case), use_threads=threads > 1)
            batches = pa.RecordBatchReader.from_batches(schema, with_numbers(parts, schema))
            database.register("batches", batches)
            try:
                return ask("batches", [])
            finally:
                database.unregister("batches")

    ways = [Way("read_parquet", own)]
    if numbered and case.data.dtype != "float16":  # DuckDB knows no float16 of Arrow's
        ways.append(Way("batches of pyarrow", fed))
    return ways


def with_numbers(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches with their rows numbered."""
    first = 0
    for batch in batches:
        numbers = pa.array(np.arange(first, first + len(batch)))
        yield pa.RecordBatch.from_arrays([*batch.columns, numbers], schema=schema)
        first += len(batch)


def polars_ways(case: Case, threads: int) -> Ways:
    """Expressions over the rows as arrays of K, or over columns, in float32.

    K = 10 lists, from scan_parquet: arrays 0.31 s; list.get or to_struct 0.31; lists less their maximum, exp in list.eval
    0.32; all of it in list.eval 1.40 or list.agg 1.37; explode and group_by 0.53. From pyarrow's table: arrays 0.21, in the
    streaming engine 0.25; lists 0.22; to_struct 0.23; explode 0.40.
    K = 10 wide: when-then chain, sums of columns and sum_horizontal 0.10 each; label == k times column 0.12; concat_list 2.3;
    float64 0.14.
    K = 1000 and 128,256: arrays 0.22 and 0.31, lists 0.26 and 0.28, list.eval 0.35 and 0.31, explode and group_by 0.35 and
    0.46; from pyarrow's table arrays 0.20 and 0.24, lists 0.21 and 0.23.
    Binary, 4 M rows: ln of p and 1 - p as columns 0.025, in float64 0.033, within one expression 0.041, log1p 0.08.
    Over scan_parquet the in-memory engine was slower for all that is kept.
    """
    pl = load("polars")
    if pl is None:
        return MISSING
    if pl.thread_pool_size() != threads:
        return f"its pool has {pl.thread_pool_size()} threads, not {threads}"
    c = pl.col

    def rows(role: str) -> Any:
        """The role as an array of K float32 a row."""
        k = case.data.classes
        if case.layout == "bytes":
            return c(role).bin.reinterpret(dtype=pl.Array(pl.Float32, k), endianness="little")
        lists = c(role).cast(pl.List(pl.Float32)) if case.data.dtype == "float16" else c(role)
        return lists.list.to_array(k)

    def exp(array: Any) -> Any:
        return array.arr.eval(pl.element().exp())

    def mean(values: Any) -> Any:
        return values.cast(pl.Float64).mean()

    def binary(frame: Any) -> Any:
        frame = frame.select("label", "prob", c("prob").log().alias("a"), (1 - c("prob")).log().alias("b"))
        loss = pl.when(c("label") == 1).then("a").otherwise("b")
        entropy = c("b") + c("prob") * (c("a") - c("b"))
        return frame.select((-mean(loss)).alias("cross_entropy"), (-mean(entropy)).alias("entropy"))

    def wide(frame: Any) -> Any:
        frame = frame.with_columns(pl.max_horizontal(case.wide).alias("m"))
        total = functools.reduce(lambda s, e: s + e, ((c(name) - c("m")).exp() for name in case.wide))
        chosen = pl
        for k, name in enumerate(case.wide):
            chosen = chosen.when(c("label") == k).then(c(name))
        return frame.select(mean(total.log() + c("m") - chosen.otherwise(None)).alias("cross_entropy"))

    def arrays(frame: Any) -> Any:
        frame = frame.select("label", rows("logits").alias("z")).with_columns(c("z").arr.max().alias("m"))
        loss = exp(c("z") - c("m")).arr.sum().log() + c("m") - c("z").arr.get(c("label"))
        return frame.select(mean(loss).alias("cross_entropy"))

    def pairs(frame: Any) -> Any:
        frame = frame.select(rows("logits").alias("z"), rows("target_logits").alias("t"))
        frame = frame.with_columns(c("z").arr.max().alias("m"), c("t").arr.max().alias("n"))
        frame = frame.with_columns(exp(c("t") - c("n")).alias("e"))
        s, d = c("e").arr.sum(), (c("e") * (c("t") - c("z"))).arr.sum()
        loss = d / s - c("n") - s.log() + c("m") + exp(c("z") - c("m")).arr.sum().log()
        return frame.select(mean(loss).alias("kl_divergence"))

    if case.data.pairs:
        build = pairs
    elif case.data.classes:
        build = wide if case.layout == "wide" else arrays
    else:
        build = binary

    def collect(frame: Any, engine: str) -> Means:
        return build(frame).collect(engine=engine).row(0, named=True)

    def table(path: Path) -> Any:
        return pl.from_arrow(pq.read_table(path, use_threads=threads > 1)).lazy()

    def sums(batch: pa.RecordBatch) -> Means:
        means = collect(pl.from_arrow(pa.Table.from_batches([batch])).lazy(), "in-memory")
        return {key: mean * len(batch) for key, mean in means.items()}

    def fed(path: Path) -> Means:
        with pq.ParquetFile(path) as file:
            parts = file.iter_batches(rows_at_once(case), use_threads=threads > 1)
            return added(map(sums, parts), case.data.rows)

    ways = [
        Way("scan_parquet", lambda path: collect(pl.scan_parquet(path), "streaming"), "single"),
        Way("pyarrow's table, streaming", lambda path: collect(table(path), "streaming"), "single"),
        Way("pyarrow's table, in memory", lambda path: collect(table(path), "in-memory"), "single"),
    ]
    if case.data.classes > SMALL:  # as fast for few rows, and no memory to be had from the system for many
        ways.append(Way("batches of pyarrow", fed, "single"))
    return ways
