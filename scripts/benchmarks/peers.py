"""Who is measured: streamloss, and every peer in the formulations that were fastest and right.

A way goes through a file and returns its means by streamloss's names; streamloss makes its report, a peer one cross-entropy
(binary: cross-entropy and entropy; pairs: KL(teacher‖student)), pyarrow's bare decode nothing. All subtract the maximum before
exp, all use `threads` threads, and each adds and rounds as its users do: `single` marks float32 arithmetic, which agrees to
1e-5 and not to 1e-9. What else was tried stands at each peer, with seconds on two cores (snappy; 2 M rows of K = 10, 20,000 of
K = 1000, 200 of K = 128,256).
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import streamloss
from benchmarks.cases import Case, Means

TOLERANCE = {"streamloss": 1e-12, "double": 1e-9, "single": 1e-5}  # relative
SMALL = 64  # classes up to which a row is too short to be worth a call
CHUNK = 1 << 20  # values of a batch: what stays in the caches


@dataclass(frozen=True)
class Way:
    """A way through the file; `precision` says how near its means have to be."""

    name: str
    work: Callable[[Path], Means]
    precision: str = "double"


Ways = list[Way] | str  # or why there is none


def rows_at_once(case: Case) -> int:
    return max(1, CHUNK // max(1, case.data.classes))


# streamloss and pyarrow


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


# DuckDB


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
            batches = pa.RecordBatchReader.from_batches(schema, with_numbers(file.iter_batches(rows_at_once(case)), schema))
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


# Polars


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
    Everywhere the in-memory engine was as slow or slower over scan_parquet.
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

    return [
        Way("scan_parquet", lambda path: collect(pl.scan_parquet(path), "streaming"), "single"),
        Way("pyarrow's table, streaming", lambda path: collect(table(path), "streaming"), "single"),
        Way("pyarrow's table, in memory", lambda path: collect(table(path), "in-memory"), "single"),
    ]


# NumPy, torch, scikit-learn: arrays of batches that pyarrow reads


def matrix(batch: pa.RecordBatch, case: Case, role: str = "logits") -> np.ndarray:
    """The role as (n, K), a view."""
    column = batch.column(role)
    if case.layout == "bytes":
        k = case.data.classes
        values = np.frombuffer(column.buffers()[1], case.data.dtype)[column.offset * k :]
        return values[: len(column) * k].reshape(-1, k)
    return column.flatten().to_numpy().reshape(-1, case.data.classes)


def batches(path: Path, case: Case, threads: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
    """Batches of about `chunk` values: slices of the table for short rows, streamed for long ones, as is faster."""
    size = max(1, chunk // max(1, case.data.classes))
    if case.data.classes <= SMALL:
        yield from pq.read_table(path, use_threads=threads > 1).to_batches(size)
        return
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(size, use_threads=threads > 1)


def added(parts: Iterable[dict[str, float]], rows: int) -> Means:
    sums: Means = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums.get(key, 0.0) + float(value)
    return {key: value / rows for key, value in sums.items()}


def numpy_ways(case: Case, threads: int) -> Ways:
    """float32 arrays, sums in float64, batches shared out among threads.

    K = 10: classes first, rows along the memory, 0.15 to 0.18 s; rows as they stand 0.27 to 0.31, in float64 0.20 and 0.28; a
    product with ones or einsum for the sum no faster. K = 1000: 0.14 with iter_batches, 0.17 with read_table, 0.20 in float64.
    """

    def binary(batch: pa.RecordBatch) -> Means:
        p, label = batch.column("prob").to_numpy(), batch.column("label").to_numpy()
        a, b = np.log(p), np.log(1 - p)
        loss = np.where(label == 1, a, b)
        return {
            "cross_entropy": -loss.sum(dtype=np.float64),
            "entropy": -(b + p * (a - b)).sum(dtype=np.float64),
        }

    def columns(batch: pa.RecordBatch) -> Means:
        if case.layout == "wide":
            z = np.stack([batch.column(name).to_numpy() for name in case.wide])
        else:
            z = np.ascontiguousarray(matrix(batch, case).T)
        y = z[batch.column("label").to_numpy(), np.arange(z.shape[1])]
        m = z.max(axis=0)
        z -= m
        np.exp(z, out=z)
        return {"cross_entropy": (np.log(z.sum(axis=0)) + m - y).sum(dtype=np.float64)}

    def rows(batch: pa.RecordBatch) -> Means:
        z = matrix(batch, case)
        y = z[np.arange(len(z)), batch.column("label").to_numpy()]
        m = z.max(axis=1)
        e = np.subtract(z, m[:, None], dtype=np.float32)
        np.exp(e, out=e)
        return {"cross_entropy": (np.log(e.sum(axis=1)) + m - y).sum(dtype=np.float64)}

    def pairs(batch: pa.RecordBatch) -> Means:
        z, t = matrix(batch, case), matrix(batch, case, "target_logits")
        m, n = z.max(axis=1, keepdims=True), t.max(axis=1, keepdims=True)
        e = np.exp(t - n)
        s = e.sum(axis=1)
        d = np.einsum("ij,ij->i", e, t - z)
        r = np.exp(z - m).sum(axis=1)
        loss = d / s + (m - n)[:, 0].astype(np.float64) + np.log(r / s)
        return {"kl_divergence": loss.sum(dtype=np.float64)}

    if case.data.pairs:
        each = pairs
    elif case.data.classes:
        each = rows if case.data.classes > SMALL else columns
    else:
        each = binary

    def work(path: Path) -> Means:
        parts = batches(path, case, threads)
        with ThreadPoolExecutor(threads) as pool:
            return added((map if threads == 1 else pool.map)(each, parts), case.data.rows)

    return [Way("batches", work, "single")]


def torch_ways(case: Case, threads: int) -> Ways:
    """F.cross_entropy of batches from iter_batches for long rows; logsumexp less the label's logit, of far larger ones, for
    short rows.

    K = 10: 0.15 s by logsumexp, 0.25 by F.cross_entropy, whatever the batch. K = 1000: 0.12 by either from iter_batches, 0.15
    from read_table. float16 becomes float32 first.
    """
    torch = load("torch")
    if torch is None:
        return MISSING
    torch.set_num_threads(threads)
    F = torch.nn.functional

    def tensor(values: np.ndarray) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it must not be written to
            return torch.from_numpy(values).float() if values.dtype == np.float16 else torch.from_numpy(values)

    def column(batch: pa.RecordBatch, name: str) -> Any:
        return tensor(batch.column(name).to_numpy())

    def total(values: Any) -> float:
        return values.sum(dtype=torch.float64).item()

    def binary(batch: pa.RecordBatch) -> Means:
        p = column(batch, "prob")
        a, b = p.log(), (1 - p).log()
        loss = torch.where(column(batch, "label") == 1, a, b)
        return {"cross_entropy": -total(loss), "entropy": -total(b + p * (a - b))}

    def short(batch: pa.RecordBatch) -> Means:
        if case.layout == "wide":
            z, axis = torch.stack([column(batch, name) for name in case.wide]), 0
        else:
            z, axis = tensor(matrix(batch, case)), 1
        y = z.gather(axis, column(batch, "label").unsqueeze(axis)).squeeze(axis)
        return {"cross_entropy": total(z.logsumexp(axis) - y)}

    def long(batch: pa.RecordBatch) -> Means:
        return {"cross_entropy": total(F.cross_entropy(tensor(matrix(batch, case)), column(batch, "label"), reduction="none"))}

    def pairs(batch: pa.RecordBatch) -> Means:
        log_p = F.log_softmax(tensor(matrix(batch, case)), 1)
        log_q = F.log_softmax(tensor(matrix(batch, case, "target_logits")), 1)
        return {"kl_divergence": F.kl_div(log_p, log_q, reduction="sum", log_target=True).item()}

    if case.data.pairs:
        each = pairs
    elif case.data.classes:
        each = long if case.data.classes > SMALL else short
    else:
        each = binary
    chunk = CHUNK if case.data.classes > SMALL else 4 * CHUNK

    def work(path: Path) -> Means:
        with torch.inference_mode():
            return added(map(each, batches(path, case, threads, chunk)), case.data.rows)

    return [Way("batches", work, "single")]


def sklearn_ways(case: Case, threads: int) -> Ways:
    """`log_loss` of the whole table; softmax is SciPy's, which comes with scikit-learn. It uses one thread."""
    metrics = load("sklearn.metrics")
    if metrics is None:
        return MISSING
    if case.data.pairs:
        return "has no KL divergence"
    if case.data.classes > SMALL or case.layout == "bytes":
        return "wants probabilities of whole tables and a matrix of labels as large"

    def work(path: Path) -> Means:
        table = pq.read_table(path, use_threads=threads > 1)
        label = table.column("label").to_numpy()
        if not case.data.classes:
            return {"cross_entropy": metrics.log_loss(label, table.column("prob").to_numpy(), labels=[0, 1])}
        if case.layout == "wide":
            z = np.stack([table.column(name).to_numpy() for name in case.wide], axis=1)
        else:
            z = np.concatenate([matrix(batch, case) for batch in table.to_batches()])
        p = load("scipy.special").softmax(z, axis=1)
        return {"cross_entropy": metrics.log_loss(label, p, labels=range(case.data.classes))}

    return [Way("log_loss", work, "single")]


MISSING = "is not installed"
absent: set[str] = set()


def load(module: str) -> Any:
    """The module, or None, said once, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = {"sklearn": "scikit-learn"}.get(module.partition(".")[0], module)
        if package not in absent:
            absent.add(package)
            print(f"bench: {package} is not installed; `scripts/setup bench` installs it", file=sys.stderr)
        return None


PEERS: dict[str, tuple[str, Callable[[Case, int], Ways]]] = {
    "duckdb": ("DuckDB", duckdb_ways),
    "polars": ("Polars", polars_ways),
    "sklearn": ("scikit-learn", sklearn_ways),
    "numpy": ("NumPy", numpy_ways),
    "torch": ("torch", torch_ways),
    "decode": ("bare decode", decode_ways),
}
