"""NumPy, torch and scikit-learn: arrays of what pyarrow reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cases import Case, Means
from benchmarks.ways import CHUNK, MISSING, SMALL, Way, Ways, added, load


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
    if case.data.classes > SMALL:
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
