"""`score`: a row out for every row in, in their order whatever the threads, with the very values whose means evaluate reports;
and a file is there whole or not at all. The worst rows are in test_worst.py.
"""

from __future__ import annotations

import gc
import io
import itertools
import json
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st

import streamloss
from streamloss.cli.main import cli
from streamloss.digits import LIMBS
from streamloss.errors import DataError, StreamlossError, UsageError
from streamloss.kernels import rows as kernel_rows
from streamloss.options import Options
from streamloss.reading.batch import Batch
from streamloss.reading.source import open_input
from streamloss.running import ordered
from streamloss.writing import scores

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"
DIGITS, CANCER, DISTILL = (str(DATA / f"{name}.parquet") for name in ("digits", "cancer", "distill"))
N, K = 600, 4


def table(n: int = N, seed: int = 0) -> pa.Table:
    """Logits of few values, so that many rows cost the same, and columns to group by."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (n, K)).astype(np.float32)
    return pa.table(
        {
            "id": np.arange(n),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), K),
            "label": rng.integers(0, K, n),
            "group": pa.array([None if v == 0 else f"g{v}" for v in rng.integers(0, 7, n)]),
            "part": rng.integers(-3, 3, n),
        }
    )


def write(path: Path, data: pa.Table, rows: int = 100) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path, row_group_size=rows)
    return str(path)


def plain(data: pa.Table, *names: str) -> list[dict[str, Any]]:
    return data.select(list(names) or data.column_names).to_pylist()


# ---- values


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (DIGITS, {}),
        (DIGITS, {"unit": "bit", "label_smoothing": 0.1, "focal_gamma": 2.0, "temperature": 1.5, "top_k": (1, 3)}),
        (DIGITS, {"probs": "mlp_probs", "zero": 1e-7}),
        (CANCER, {"weight": "", "unit": "ban"}),
        (CANCER, {}),
        (CANCER, {"logit": "score_logit", "pos_weight": 2.0}),
        (DISTILL, {}),
    ],
    ids=str,
)
def test_the_mean_of_every_column_is_the_report_s(path: str, options: dict[str, Any]) -> None:
    rows = streamloss.score(path, **options)
    report = streamloss.evaluate(path, **options)
    assert rows.num_rows == report.rows["read"]
    scale = {"nat": 1.0, "bit": 1 / math.log(2), "ban": 1 / math.log(10)}[options.get("unit", "nat")]
    weights = [Fraction(w) for w in rows.column("weight").to_pylist()] if "weight" in rows.column_names else [1] * rows.num_rows
    scored = [f.name for f in rows.schema if f.metadata and b"title" in f.metadata]
    assert {"cross_entropy", "entropy", "kl_divergence", "target_entropy", "accuracy"} <= set(scored)
    for key in scored:
        values, metric = [Fraction(v) for v in rows.column(key).to_pylist()], report.metrics[key]
        mean = float(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
        if scale == 1 or not metric.unit:
            assert mean == metric.mean, key  # both are the exact sum, rounded once
        else:
            assert mean == pytest.approx(metric.mean, rel=1e-15), key
        told = rows.schema.field(key).metadata
        assert (told[b"title"].decode(), told[b"unit"].decode()) == (metric.title, metric.unit)
    assert {key for key, m in report.metrics.items() if m.quantiles} <= set(scored)


def test_values_are_those_of_the_plain_functions() -> None:
    data = pq.read_table(DISTILL)
    q, p = (np.array(data.column(name).to_pylist(), dtype=np.float32) for name in ("target_probs", "probs"))
    rows = streamloss.score(DISTILL)
    for key, values in {
        "cross_entropy": streamloss.cross_entropy(q, p),
        "kl_divergence": streamloss.kl_divergence(q, p),
        "entropy": streamloss.entropy(p),
    }.items():
        assert rows.column(key).to_numpy().tobytes() == values.tobytes()
    assert rows.column("prediction").to_pylist() == p.argmax(axis=1).tolist()


def test_only_what_is_asked_for() -> None:
    assert streamloss.score(DIGITS, metrics="entropy,kl_divergence").column_names == [
        *("file", "row", "status", "label", "prediction"),
        *("kl_divergence", "entropy"),
    ]
    alone = streamloss.score(DIGITS, metrics="target_entropy")
    assert set(alone.column("target_entropy").to_pylist()) == {0.0}  # of a hard label
    assert streamloss.score({"logprob": np.log([0.5, 0.25])}).select(["cross_entropy"]).to_pylist() == [
        {"cross_entropy": math.log(2)},
        {"cross_entropy": 2 * math.log(2)},
    ]
    bare = streamloss.score({"probs": np.array([[0.5, 0.5], [0.25, 0.75]])})
    assert bare.column_names == ["file", "row", "status", "prediction", "entropy", "mean_confidence"]
    assert plain(bare, "file", "row", "prediction") == [
        {"file": None, "row": 0, "prediction": 0},
        {"file": None, "row": 1, "prediction": 1},
    ]


NEAR = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0])


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(["float16", "float32", "float64"]), st.integers(2, 40))
def test_the_prediction_is_the_class_that_accuracy_means(data: st.DataObject, dtype: str, k: int) -> None:
    flat = data.draw(st.lists(NEAR, min_size=8 * k, max_size=8 * k))
    label = data.draw(st.lists(st.integers(0, k - 1), min_size=8, max_size=8))
    z = np.array(flat, dtype=dtype).reshape(8, k)
    rows = streamloss.score({"logits": z, "label": np.array(label)}, metrics="accuracy", threads=1)
    assert [float(r["label"] == r["prediction"]) for r in rows.to_pylist()] == rows.column("accuracy").to_pylist()
    flat_columns = {f"z{j}": np.ascontiguousarray(z[:, j]) for j in range(k)}
    wide = streamloss.score(flat_columns | {"label": np.array(label)}, logits="z*", metrics="accuracy", threads=1)
    assert wide.column("prediction").equals(rows.column("prediction"))


@pytest.mark.parametrize(
    ("role", "values"), [("prob", [0.0, 0.5, np.nextafter(0.5, 1), 1.0]), ("logit", [-1.0, -0.0, 5e-324, 1.0])]
)
def test_the_prediction_of_two_classes(role: str, values: list[float]) -> None:
    data = {role: np.array(values), "label": np.array([0, 1, 1, 1])}
    rows = streamloss.score(data, metrics="accuracy", classes="no,yes")
    assert plain(rows, "label", "prediction", "accuracy") == [
        {"label": "no", "prediction": "no", "accuracy": 1.0},
        {"label": "yes", "prediction": "no", "accuracy": 0.0},
        {"label": "yes", "prediction": "yes", "accuracy": 1.0},
        {"label": "yes", "prediction": "yes", "accuracy": 1.0},
    ]
    soft = streamloss.score({role: np.array(values), "label": np.array([0, 0.5, 0.75, 1])}, metrics="cross_entropy")
    assert soft.column("label").to_pylist() == [0, 0.5, 0.75, 1]


def test_weights_are_added_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are only kept have no sums: what the kernels added to one would be somebody else's memory."""
    room: list[np.ndarray] = []
    no_sums = kernel_rows._no_sums

    def watched(threads: int) -> Any:
        room.append(np.zeros((threads, 2, LIMBS), dtype=np.int64))
        return no_sums(threads)._replace(weight=room[-1])

    monkeypatch.setattr(kernel_rows, "_no_sums", watched)
    expected = streamloss.score(CANCER, weight="")
    rows = streamloss.score(CANCER, keep="weight")
    assert rows.column("cross_entropy").equals(expected.column("cross_entropy"))
    assert room
    assert not any(array.any() for array in room)


def test_what_became_of_every_row() -> None:
    rows = streamloss.score(
        {
            "prob": [0.5, 0.5, math.nan, None, 2.0, 0.0, 0.5],
            "label": [1, -100, 1, 1, 1, 1, 7],
            "weight": [2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 1.0],
        },
        ignore_index=-100,
        on_invalid="skip",
        metrics="cross_entropy,kl_divergence",
    )
    assert plain(rows, "status", "label", "prediction", "weight", "cross_entropy") == [
        {"status": "used", "label": 1, "prediction": 0, "weight": 2.0, "cross_entropy": math.log(2)},
        *(
            {"status": status, "label": None, "prediction": None, "weight": None, "cross_entropy": None}
            for status in ("ignored", "nan", "null", "probability_above_one")
        ),
        {"status": "used", "label": 1, "prediction": 0, "weight": 0.5, "cross_entropy": math.inf},
        {"status": "label_out_of_range", "label": None, "prediction": None, "weight": None, "cross_entropy": None},
    ]


# ---- order


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_rows", [1, 37, None])
@pytest.mark.parametrize("reader", ["auto", "arrow"])
def test_the_order_is_that_of_the_input(
    threads: int, batch_rows: int | None, reader: Any, tmp_path: Path, small_parts: None
) -> None:
    rows = 60 if batch_rows == 1 else N
    whole = table(rows)
    cut = rows // 3
    for name, start in (("c", 0), ("a", cut), ("b", 2 * cut)):  # read in the order of their names
        write(tmp_path / f"{name}.parquet", whole.slice(start, cut), rows=cut // 3)
    options: Any = {"keep": ["id", "group", "part"], "threads": threads, "batch_rows": batch_rows, "reader": reader}
    out = streamloss.score(tmp_path, **options)
    expected = streamloss.score(pa.concat_tables([whole.slice(cut), whole.slice(0, cut)]), keep=options["keep"], threads=1)
    for name in set(out.column_names) - {"file", "row"}:
        assert out.column(name).to_pylist() == expected.column(name).to_pylist(), name
    assert out.column("row").to_pylist() == [*range(cut)] * 3
    assert [Path(file).name for file, _ in itertools.groupby(out.column("file").to_pylist())] == [f"{n}.parquet" for n in "abc"]


def test_a_late_part_does_not_overtake(tmp_path: Path, small_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", table())
    second, read_part = threading.Event(), ordered.read_part

    def late(part: Any, plan: Any) -> Iterator[Batch]:
        if part.first_row == 0:
            assert second.wait(30)  # until the second part was scored
        yield from read_part(part, plan)

    monkeypatch.setattr(ordered, "read_part", late)
    source = open_input(path, Options())

    def work(batch: Batch) -> int:
        if batch.first_row > 0:
            second.set()
        return batch.first_row

    assert list(ordered.in_order(source, work, 2)) == [0, 100, 200, 300, 400, 500]


@pytest.mark.parametrize("threads", [1, 3])
def test_few_results_wait(threads: int, tmp_path: Path, small_parts: None) -> None:
    """However slow the one who takes them: what threads do beyond the bound is nothing."""
    source = open_input(write(tmp_path / "a.parquet", table(), rows=50), Options(), batch_rows=10)
    made = itertools.count()
    begun: list[int] = []

    def work(batch: Batch) -> int:
        begun.append(next(made))
        return batch.first_row

    taken = 0
    for first in ordered.in_order(source, work, threads):
        assert first == 10 * taken
        taken += 1
        if taken in (1, 20):
            time.sleep(0.2)
        assert len(begun) <= taken + ordered.WAITING * threads + 1
    assert taken == N // 10


def test_what_is_being_read_counts_as_waiting() -> None:
    """Threads that begin to read at the same time do not go beyond the bound together."""
    line: ordered._Line[int] = ordered._Line([ordered._Run(lambda: iter(())) for _ in range(5)], len, 2)
    assert [line._choose(), line._choose()] == [0, 1]
    stop = threading.Timer(0.1, line.stop)
    stop.start()
    assert line._choose() is None  # not 2
    stop.join()


def test_batches_are_let_go(tmp_path: Path) -> None:
    source = open_input(write(tmp_path / "a.parquet", table(), rows=50), Options(), batch_rows=10)
    alive: list[weakref.ref[Batch]] = []
    most = 0
    gc.freeze()  # what other tests have left behind is not looked through again and again

    def work(batch: Batch) -> int:
        alive.append(weakref.ref(batch))
        return 0

    for _ in ordered.in_order(source, work, 2):
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
    gc.unfreeze()
    assert len(alive) == N // 10
    assert most <= 2 * ordered.WAITING + 1


def test_whoever_stops_ends_the_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    source = open_input(write(tmp_path / "a.parquet", table()), Options(), batch_rows=1)
    results = ordered.in_order(source, len, 3)
    assert [next(results), next(results)] == [1, 1]
    results.close()
    assert threading.active_count() == before


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "_LOOK", 0.0)
    seen: list[Any] = []
    path = write(tmp_path / "a.parquet", table())
    streamloss.score(path, batch_rows=100, progress=seen.append)
    assert {look.total_rows for look in seen} == {N}
    assert seen[-1].rows == N
    assert [look.rows for look in seen] == sorted(look.rows for look in seen)
    assert seen[-1].bytes == seen[-1].total_bytes > 0


def test_wide_rows_come_in_smaller_batches() -> None:
    plan = open_input({"prob": np.full(10, 0.5), "label": np.zeros(10, int), "t": ["x"] * 10}, Options(), kept=["t"]).plan
    assert scores._narrowed(plan, 12).batch_rows == (8 << 20) // (16 + 8 * 14 + 512) < plan.batch_rows


# ---- errors, files, streams


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("worst", [None, 3])
def test_the_first_bad_row_is_told_and_nothing_is_left(
    threads: int, worst: int | None, tmp_path: Path, small_parts: None
) -> None:
    label = table().column("label").to_numpy().copy()
    label[[230, 330, 599]] = 9
    path = write(tmp_path / "in" / "bad.parquet", table().set_column(2, "label", pa.array(label)))
    out = tmp_path / "out"
    out.mkdir()
    target = out / "rows.parquet"
    for old in (None, b"old"):
        if old:
            target.write_bytes(old)
        with pytest.raises(DataError, match=r"bad\.parquet, row group 2, row 230, column 'label': label out of range"):
            streamloss.score(path, target, threads=threads, batch_rows=30, worst=worst)
        assert [file.read_bytes() for file in out.iterdir()] == ([old] if old else [])
    rows = streamloss.score(path, on_invalid="skip", threads=threads)
    assert [i for i, status in enumerate(rows.column("status").to_pylist()) if status != "used"] == [230, 330, 599]


def test_a_file_that_breaks_off_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", table())
    read_part = ordered.read_part

    def broken(part: Any, plan: Any) -> Iterator[Batch]:
        yield from itertools.islice(read_part(part, plan), 2)
        raise DataError("it breaks off")

    monkeypatch.setattr(ordered, "read_part", broken)
    with pytest.raises(DataError, match="it breaks off"):
        streamloss.score(path, tmp_path / "rows.parquet", batch_rows=10, threads=3)
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def test_killed_midway_leaves_no_file(tmp_path: Path) -> None:
    """Whatever ends the process, `path` is as it was: the rows stand beside it until they are whole."""
    path = write(tmp_path / "in" / "a.parquet", table())
    (tmp_path / "out").mkdir()
    code = (
        "import sys, os, itertools, streamloss\n"
        "from streamloss.running import ordered\n"
        "read = ordered.read_part\n"
        "def dies(part, plan):\n"
        "    yield from itertools.islice(read(part, plan), 3)\n"
        "    os.kill(os.getpid(), 9)\n"
        "ordered.read_part = dies\n"
        "streamloss.score(sys.argv[1], sys.argv[2], batch_rows=50, threads=1)\n"
    )
    target = tmp_path / "out" / "rows.parquet"
    ended = subprocess.run([sys.executable, "-c", code, path, str(target)], cwd=ROOT, timeout=120)
    assert ended.returncode == -9
    assert not target.exists()
    assert all(file.name.startswith(".") for file in target.parent.iterdir())


def test_the_file_is_the_table(tmp_path: Path) -> None:
    target = tmp_path / "rows.parquet"
    assert streamloss.score([DIGITS], target, keep="group", unit="bit", compression="none") is None
    read = pq.read_table(target)
    assert read.equals(streamloss.score(DIGITS, keep="group", unit="bit"))
    told = read.schema.metadata
    assert told[b"streamloss"].decode() == streamloss.__version__
    assert told[b"unit"] == b"bit"
    assert json.loads(told[b"options"]) == {"unit": "bit"}
    chunk = pq.ParquetFile(target).metadata.row_group(0).column(0)
    assert (chunk.path_in_schema, chunk.compression) == ("file", "UNCOMPRESSED")
    assert any("DICTIONARY" in encoding for encoding in chunk.encodings)
    streamloss.score(DIGITS, str(target))
    assert pq.ParquetFile(target).metadata.row_group(0).column(8).compression == "ZSTD"


def test_row_groups_are_of_a_reasonable_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, n = tmp_path / "rows.parquet", 3000
    stream = pa.RecordBatchReader.from_batches(table().schema, itertools.chain(*(table().to_batches(10) for _ in range(5))))
    monkeypatch.setattr(scores, "ROW_GROUP_ROWS", 1000)
    streamloss.score(stream, target, keep=["group"])
    meta = pq.ParquetFile(target).metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [1000] * (n // 1000)
    monkeypatch.setattr(scores, "ROW_GROUP_BYTES", 1)
    streamloss.score(table(), target, batch_rows=200)
    assert pq.ParquetFile(target).metadata.num_row_groups == N // 200


def test_small_batches_of_many_files_make_one_dictionary(tmp_path: Path) -> None:
    for i in range(40):
        write(tmp_path / "in" / f"{i:02d}.parquet", table(5, i))
    target = tmp_path / "rows.parquet"
    streamloss.score(tmp_path / "in", target)
    assert pq.read_table(target).column("file").to_pylist()[::5] == [
        str(tmp_path / "in" / f"{i:02d}.parquet") for i in range(40)
    ]
    assert pq.ParquetFile(target).metadata.num_row_groups == 1


def test_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_in = io.BytesIO()
    with pa.ipc.new_stream(bytes_in, table().schema) as out:
        out.write_table(table(), max_chunksize=70)
    command = [sys.executable, "-m", "streamloss", "score", "-", "-o", "-", "--keep", "id", "--threads", "2"]
    ended = subprocess.run(command, cwd=ROOT, input=bytes_in.getvalue(), capture_output=True, timeout=120, check=True)
    rows = pa.ipc.open_stream(ended.stdout).read_all()
    assert rows.column("id").to_pylist() == rows.column("row").to_pylist() == [*range(N)]
    assert set(rows.column("file").to_pylist()) == {"-"}
    expected = streamloss.score(table())
    assert rows.column("cross_entropy").to_pylist() == expected.column("cross_entropy").to_pylist()
    buffer = io.BytesIO()
    streamloss.score([DIGITS], buffer, keep="group")
    assert pa.ipc.open_stream(buffer.getvalue()).read_all().equals(streamloss.score(DIGITS, keep="group"))


def test_a_stream_that_ends_early_is_not_taken_for_the_whole() -> None:
    data = table()
    label = data.column("label").to_numpy().copy()
    label[500] = -1
    buffer = io.BytesIO()
    with pytest.raises(DataError, match="row 500"):
        streamloss.score(data.set_column(2, "label", pa.array(label)), buffer, batch_rows=100)
    reader = pa.ipc.open_stream(buffer.getvalue())
    for _ in range(5):
        assert reader.read_next_batch().num_rows == 100
    with pytest.raises(pa.ArrowInvalid):
        reader.read_next_batch()


def test_what_the_output_does_not_take(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "streamloss", "score", DIGITS, "-o", "-"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert (ended.returncode, ended.stderr) == (
        3,
        b"streamloss: error: cannot write standard output: No space left on device\n",
    )
    read, end = os.pipe()
    os.close(read)
    ended = subprocess.run(words, cwd=ROOT, stdout=end, stderr=subprocess.PIPE, timeout=120)
    os.close(end)
    assert (ended.returncode, ended.stderr) == (141, b"")
    parent, child = os.openpty()
    ended = subprocess.run(words, cwd=ROOT, stdout=child, stderr=subprocess.PIPE, timeout=120)
    os.close(child)
    os.close(parent)
    assert ended.returncode == 2
    assert b"nothing for a terminal" in ended.stderr
    # Arrow has types that Parquet has not.
    odd = table(3).append_column("odd", pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval()))
    assert streamloss.score(odd, keep="odd").column("odd").equals(odd.column("odd"))
    with pytest.raises(StreamlossError, match=r"rows\.parquet: cannot be written"):
        streamloss.score(odd, tmp_path / "rows.parquet", keep="odd")
    assert not list(tmp_path.iterdir())


# ---- columns that are kept


def kinds(n: int) -> dict[str, pa.Array]:
    return {
        "text": pa.array(["a", None, "ü\n"] * (n // 3)),
        "large": pa.array(["a", None, "b"] * (n // 3), pa.large_string()),
        "raw": pa.array([b"\xff", None, b""] * (n // 3)),
        "lists": pa.array([[1, 2], None, []] * (n // 3), pa.list_(pa.int16())),
        "struct": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}] * (n // 3)),
        "map": pa.array([[("a", 1)], None, []] * (n // 3), pa.map_(pa.string(), pa.int64())),
        "when": pa.array([0, None, 1] * (n // 3), pa.timestamp("us", "UTC")),
        "money": pa.array([Decimal("1.10"), None, Decimal("2.00")] * (n // 3)),
        "flag": pa.array([True, None, False] * (n // 3)),
        "big": pa.array([2**64 - 1, None, 0] * (n // 3), pa.uint64()),
        "null": pa.nulls(n),
        "half": pa.array(np.arange(n, dtype=np.float16)),
        "a.b": pa.array([1, None, 3] * (n // 3)),
    }


@pytest.mark.parametrize("reader", ["auto", "arrow", "pages"])
def test_columns_of_any_type_go_through(reader: Any, tmp_path: Path, small_parts: None) -> None:
    data = table(300)
    for name, values in kinds(300).items():
        data = data.append_column(name, values)
    path = write(tmp_path / "a.parquet", data, rows=90)
    for source in (path, data) if reader == "auto" else (path,):
        out = streamloss.score(source, keep=[*kinds(3), "logits", "label"], reader=reader, batch_rows=50, threads=2)
        for name in (*kinds(3), "logits", "label"):
            assert out.column(name).to_pylist() == data.column(name).to_pylist(), name
            assert out.schema.field(name).type == data.schema.field(name).type, name
    target = tmp_path / "rows.parquet"
    streamloss.score(path, target, keep=[*kinds(3)], reader=reader)
    assert pq.read_table(target, columns=[*kinds(3)]).to_pylist() == plain(data, *kinds(3))


def test_dictionaries_are_kept_as_what_they_stand_for(tmp_path: Path) -> None:
    for i, words in enumerate((["a", "b"], ["c", None])):
        coded = pa.array(words).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))
        write(tmp_path / f"{i}.parquet", table(2).append_column("word", coded))
    rows = streamloss.score(tmp_path, keep="word")
    assert rows.schema.field("word").type == pa.string()
    assert rows.column("word").to_pylist() == ["a", "b", "c", None]
    sliced = streamloss.score(tmp_path, keep="word", by="word", worst=1)
    assert [r["word"] for r in sliced.to_pylist() if r["by"]] == [None, "a", "b", "c"]


@pytest.mark.parametrize("more", [{}, {"worst": 2}, {"worst": 3, "by": "word"}], ids=str)
def test_views_are_kept_as_what_they_show(more: dict[str, Any], tmp_path: Path) -> None:
    text = pa.array(["a", None, "b" * 30, ""], pa.string_view())
    coded = pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 1], pa.int8()), pa.array(["x", "y"], pa.string_view()))
    for column, kind in (
        (text, pa.large_string()),
        (text.cast(pa.binary_view()), pa.large_binary()),
        (coded, pa.large_string()),
    ):
        data = table(4).append_column("word", text).append_column("kept", column)
        # pyarrow cannot write dictionaries of views
        for source in (data,) if column is coded else (data, write(tmp_path / "a.parquet", data)):
            rows = streamloss.score(source, keep=["kept", "id"], **more)
            assert rows.schema.field("kept").type == kind
            assert rows["kept"].to_pylist() == [column[i].as_py() for i in rows["id"].to_pylist()]
    nested = table(4).append_column("word", text).append_column("kept", pa.array([["a"]] * 4, pa.list_(pa.string_view())))
    if "worst" in more:
        with pytest.raises(UsageError, match=r"--worst cannot pick rows of .*'kept' \(list<"):
            streamloss.score(nested, keep="kept", **more)
    else:
        assert streamloss.score(nested, keep="kept")["kept"].to_pylist() == [["a"]] * 4


def test_what_the_path_tells_can_be_kept(tmp_path: Path) -> None:
    for year, site in ((2025, "x"), (2026, "y z")):
        write(tmp_path / f"year={year}" / f"site={site.replace(' ', '%20')}" / "0.parquet", table(2))
    rows = streamloss.score(tmp_path, keep=["year"], by=["site", "file"])
    assert plain(rows, "year", "site") == [{"year": y, "site": s} for y, s in ((2025, "x"), (2026, "y z")) for _ in "ab"]
    assert rows.schema.field("year").type == pa.int64()
    assert rows.column_names.count("file") == 1


def test_files_must_agree_on_what_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table(2))
    write(tmp_path / "b.parquet", table(2).set_column(0, "id", pa.array(["x", "y"])))
    assert streamloss.score(tmp_path).num_rows == 4
    with pytest.raises(DataError, match=r"b\.parquet: the schemas of the files differ: column 'id' is string here and int64"):
        streamloss.score(tmp_path, keep="id")
    with pytest.raises(DataError, match=r"no column 'grup'.*did you mean 'group'\?"):
        streamloss.score(tmp_path, keep="grup")
    write(tmp_path / "b.parquet", table(2).drop_columns("id"))
    with pytest.raises(DataError, match="no column 'id'"):
        streamloss.score(tmp_path, keep="id")


@pytest.mark.parametrize("name", ["file", "row", "status", "prediction", "entropy", "rank", "by", "other"])
def test_names_that_are_taken(name: str) -> None:
    data = table(3).append_column(name, pa.array([1, 2, 3]))
    ranked = name in ("rank", "by", "other")
    more: dict[str, Any] = {"worst": 1, "by": "group"} if ranked else {}
    with pytest.raises(UsageError, match=f"column '{name}' cannot be kept"):
        streamloss.score(data, keep=name, **more)
    if ranked:  # elsewhere it is no name of ours
        assert streamloss.score(data, keep=name).column(name).to_pylist() == [1, 2, 3]
    else:
        assert streamloss.score(data, metrics="brier").num_rows == 3


def test_a_kept_label_or_weight_stands_for_ours() -> None:
    data = {"prob": [0.5, 0.5], "label": ["no", "maybe"], "weight": [1, 2]}
    rows = streamloss.score(data, keep=["label", "weight", "label"], classes="no,yes", on_invalid="skip")
    assert plain(rows, "label", "weight") == [{"label": "no", "weight": 1}, {"label": "maybe", "weight": 2}]


def test_bytes_can_be_kept() -> None:
    rows = streamloss.score({"logprob": [-1.0, -2.0], "bytes": [3, 4]}, keep="bytes")
    bits = sum(rows.column("cross_entropy").to_pylist()) / math.log(2) / sum(rows.column("bytes").to_pylist())
    report = streamloss.evaluate({"logprob": [-1.0, -2.0], "bytes": [3, 4]})
    assert bits == pytest.approx(report.metrics["bits_per_byte"].mean, rel=1e-15)


# ---- usage


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((DIGITS,), "-o says where the rows go"),
        ((DIGITS, "-o", "rows.csv"), "scores are Parquet, not csv"),
        ((DIGITS, "-o", "rows.HTML"), "scores are Parquet, not html"),
        ((DIGITS, "-o", DIGITS), "it is an input of this run"),
        ((str(DATA), "-o", DIGITS, "--metrics", "entropy"), "it is an input of this run"),
        ((DIGITS, "-o", "s3://bucket/rows.parquet"), "scores are written to local files"),
        ((DIGITS, "-o", "/no/such/folder/rows.parquet"), "there is no folder"),
        ((DIGITS, "-o", "x", "--metrics", "perplexity"), "only all rows together have a 'perplexity'"),
        ((DIGITS, "-o", "x", "--metrics", "js_divergence"), "does not apply"),
        ((DIGITS, "-o", "x", "--worst-by", "entropy"), "give --worst too"),
        ((DIGITS, "--worst", "3", "--worst-by", "accuracy"), "0 or 1 in every row"),
        ((DIGITS, "--worst", "3", "--worst-by", "ece"), "only all rows together"),
        ((DIGITS, "--worst", "3", "--label", ""), "it needs truth"),
        ((DIGITS, "--worst", "0"), "--worst"),
        ((DIGITS, "--worst", "3", "--by", "group,group"), "the same column twice"),
        ((DIGITS, "-o", "x", "--by", "group", "--max-slices", "3"), "--max-slices limits the slices whose costliest rows"),
        ((DIGITS, "-o", "x", "--bins", "10"), "No such option"),
        ((DIGITS, "-o", "x", "--convention", "torch"), "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage(words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] == str(DATA):  # a folder of one file, which -o names
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "digits.parquet").symlink_to(DIGITS)
        words = (str(tmp_path / "in"), *words[1:])
    before = Path(DIGITS).read_bytes()
    result = run("score", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert not (tmp_path / "x").exists()
    assert Path(DIGITS).read_bytes() == before


@pytest.mark.parametrize(
    "settings_", [{"worst": 0}, {"worst": True}, {"worst": 1.5}, {"compression": "gzip"}, {"threads": 0}], ids=str
)
def test_wrong_settings(settings_: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        streamloss.score(DIGITS, **settings_)


@pytest.mark.parametrize("field", [field.name for field in fields(Options)])
def test_no_option_is_ignored(field: str) -> None:
    """What the command does not offer is refused from Python, by name, and nothing else is."""
    try:
        streamloss.score(DIGITS, **{field: "1"})
        said = ""
    except StreamlossError as error:
        said = str(error)
    refused = f"--{field.replace('_', '-')} is for the report of all rows together" in said
    assert refused == (field not in {param.name for param in cli.commands["score"].params})
    if refused:
        assert streamloss.score(DIGITS, **{field: None}).num_rows == 900


def test_the_command(tmp_path: Path) -> None:
    target = tmp_path / "rows.parquet"
    result = run("score", DIGITS, "-o", str(target), "--keep", "id", "--keep", "group", "--metrics", "entropy", "--unit", "bit")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"streamloss: wrote {target}\n")
    assert pq.read_table(target).equals(streamloss.score(DIGITS, keep=["id", "group"], metrics="entropy", unit="bit"))
    result = run("score", DIGITS, "-o", str(target), "--worst", "2", "--by", "group")
    assert (result.exit_code, result.stdout) == (0, "")
    assert pq.read_table(target).equals(streamloss.score(DIGITS, worst=2, by="group"))


def test_one_thread_where_kernels_take_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = streamloss.score(table())
    monkeypatch.setattr(ordered, "jit", SimpleNamespace(use_threads=ordered.jit.use_threads, many_may_enter=lambda: False))
    assert ordered.kernel_threads(2) == 2
    assert streamloss.score(table(), threads=2, batch_rows=50).equals(expected)
