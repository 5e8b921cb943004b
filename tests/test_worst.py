"""`score --worst`: the costliest rows, of all and of every slice, are those of a naive sort; and the table that shows them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import run
from test_score import DIGITS, N, table, write

import streamloss
from streamloss.options import Options
from streamloss.reading.columns import convert
from streamloss.reading.source import open_input
from streamloss.reporting.costliest import render
from streamloss.reporting.tables import to_text
from streamloss.slices import order
from streamloss.writing import scores
from streamloss.writing.worst import Ranking


def naive(rows: list[dict[str, Any]], n: int, by: tuple[str, ...], key: str, cap: int = 10_000) -> list[dict[str, Any]]:
    """The n costliest of every slice by sorting everything; `rows` in the order of the input, all of them."""
    found = {tuple(row[name] for name in by) for row in rows}
    first = sorted(found, key=order)[:cap]
    slices: dict[Any, list[dict[str, Any]]] = {k: [] for k in (*first, "other")}
    for row in sorted((row for row in rows if row["status"] == "used"), key=lambda row: -row[key]):  # stable
        own = tuple(row[name] for name in by)
        slices[own if own in first else "other"].append(row)
    return [
        {k: v for k, v in row.items() if k != "status"} | {"rank": i, "by": ",".join(by) or None, "other": name == "other"}
        for name, members in slices.items()
        for i, row in enumerate(members[:n], 1)
    ]


def wide(rows: int) -> pa.Table:
    """Many slices, ignored rows and infinite ones, and far more rows than are kept."""
    rng = np.random.default_rng(3)
    p = rng.choice([0.0, 0.25, 0.5, 1.0], rows)
    label = rng.choice([0, 1, -100], rows, p=[0.5, 0.4, 0.1])
    text = pa.array([None if v % 11 == 0 else f"s{v}" for v in rng.integers(0, 60, rows)])
    return pa.table({"prob": p, "label": label, "text": text, "number": rng.integers(-20, 20, rows), "flag": p > 0.3})


@pytest.mark.parametrize(("threads", "batch_rows"), [(1, None), (1, 7), (3, 50), (2, 1000)])
@pytest.mark.parametrize(("worst", "cap"), [(1, 10), (4, 25), (3000, 10_000)])
def test_the_worst_rows_are_those_of_a_naive_sort(
    threads: int, batch_rows: int | None, worst: int, cap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamloss.writing.worst._LEAST", 20)  # so that much is put together and dropped
    data = wide(2000)
    options: Any = {"keep": ["text", "number", "flag"], "ignore_index": -100, "threads": threads, "batch_rows": batch_rows}
    every = streamloss.score(data, **options).to_pylist()
    assert sum(row["cross_entropy"] == math.inf for row in every if row["status"] == "used") > 100
    by = [("text",), ("number", "flag"), ("flag",)]
    out = streamloss.score(data, worst=worst, by=[",".join(names) for names in by], max_slices=cap, **options)
    expected = [row for names in ((), *by) for row in naive(every, worst, names, "cross_entropy", cap if names else 1)]
    assert out.to_pylist() == [{name: row[name] for name in out.column_names} for row in expected]
    assert out.column_names[:5] == ["by", "other", "rank", "file", "row"]
    assert "status" not in out.column_names


def test_the_worst_rows_do_not_depend_on_how_the_rows_are_split(tmp_path: Path, small_parts: None) -> None:
    whole, results = table(), []
    for pieces in (1, 2, 5):
        folder, size = tmp_path / str(pieces), N // pieces
        for i in range(pieces):
            write(folder / f"{i}.parquet", whole.slice(i * size, size), rows=70)
        paths = [str(folder / f"{i}.parquet") for i in reversed(range(pieces))]
        for threads, batch_rows in ((1, 1000), (3, 11)):
            results.append(streamloss.score(paths, worst=9, by="group", keep="id", threads=threads, batch_rows=batch_rows))
    ids = [[(r["by"], r["group"], r["rank"], r["id"], r["cross_entropy"]) for r in out.to_pylist()] for out in results]
    assert all(each == ids[0] for each in ids)
    shuffled = whole.take(pa.array(np.random.default_rng(1).permutation(N)))
    costs = []
    for data in (whole, shuffled):
        rows = streamloss.score(data, worst=9, by="group").to_pylist()
        costs.append([(r["by"], r["group"] if r["by"] else None, r["rank"], r["cross_entropy"]) for r in rows])
    assert costs[0] == costs[1]


def test_ties_are_broken_by_file_and_row(tmp_path: Path, small_parts: None) -> None:
    same = pa.table({"prob": [0.5] * 6, "label": [1] * 6})
    for name in "ba":
        write(tmp_path / f"{name}.parquet", same, rows=2)
    out = streamloss.score(tmp_path, worst=8, threads=3, batch_rows=1)
    assert [(Path(r["file"]).stem, r["row"]) for r in out.to_pylist()] == [*(("a", i) for i in range(6)), ("b", 0), ("b", 1)]
    assert out.column_names[:3] == ["rank", "file", "row"]


def test_the_worst_by_another_quantity() -> None:
    every = streamloss.score(DIGITS).to_pylist()
    out = streamloss.score(DIGITS, worst=5, worst_by="brier", metrics="entropy")
    assert [name for name in ("entropy", "brier", "cross_entropy") if name in out.column_names] == ["entropy", "brier"]
    assert out.column("row").to_pylist() == [r["row"] for r in naive(every, 5, (), "brier")]
    alone = streamloss.score({"probs": np.array([[0.5, 0.5], [0.9, 0.1]])}, worst=1, worst_by="entropy")
    assert alone.column("row").to_pylist() == [0]


def test_memory_of_the_worst_is_bounded() -> None:
    """Of a hundred thousand slices a hundred and a few are held, and no more rows than they have."""
    n, cap, most = 100_000, 100, 2
    ids = np.random.default_rng(0).permutation(n)
    data = {"prob": np.full(n, 0.5), "label": np.ones(n, int), "id": ids}
    plan = open_input(data, Options(by=("id",))).plan
    ranking = Ranking(("id",), most, cap)
    one = pa.record_batch({"x": pa.array([0])})
    for start in range(0, n, 1000):
        batch = convert({name: values[start : start + 1000] for name, values in data.items()}, plan, first_row=start)
        found = ranking.candidates(batch, np.random.default_rng(start).random(1000))
        ranking.add(found, one.take(pa.array(np.zeros(len(found.rows), dtype=np.int64))), start)
        assert len(ranking._keys) <= cap + 1 + 1000
        assert len(ranking._costs) <= most * (cap + 1)
        assert ranking._waiting <= max(most * (cap + 1), 1024) + 1000
    table_, ranks, beyond = ranking.result(one.schema)
    assert table_.num_rows == cap + most
    assert ranks.tolist() == [1] * cap + [1, 2]
    assert beyond.tolist() == [False] * cap + [True] * most


def test_no_row_is_used() -> None:
    data = {"prob": [0.5], "label": [-1]}
    empty = streamloss.score(data, ignore_index=-1, worst=3, by="label", metrics="brier")
    assert empty.num_rows == 0
    assert empty.schema.field("brier").type == pa.float64()
    assert "no row is used" in to_text(lambda console: render(scores.described(empty, 10), console))


# ---- shown


def test_the_table_of_the_worst() -> None:
    shown = run("score", DIGITS, "--worst", "2", "--keep", "label_name", "--metrics", "entropy,kl_divergence", "--by", "group")
    lines = shown.stdout.splitlines()
    assert lines[0] == f"  worst rows by cross-entropy, {DIGITS}"
    assert lines[1].split("  ")[1:3] == ["row", "cross-entropy, nat"]
    assert "KL" not in lines[1]  # of a hard label it is the cross-entropy
    assert [line.split()[:5] for line in lines[3:5]] == [["3", "3.916", "5", "9", "five"], ["771", "3.706", "8", "1", "eight"]]
    assert "worst rows of every group by cross-entropy" in shown.stdout
    many = run("score", DIGITS, "--worst", "150")
    assert "50 more rows: -o writes all" in many.stdout


def test_hostile_text_in_the_table(tmp_path: Path) -> None:
    data = table(40).append_column("[red]k\x1b", pa.array(["\x1b[2J[bold]" + "w" * 60] * 40))
    nanoseconds = pa.array([1] * 40, pa.timestamp("ns"))
    data = data.append_column("when", nanoseconds).append_column("b", pa.array([b"\xff"] * 40))
    folder = tmp_path / "\x1b[31m[link]"
    for name in ("a" * 60, "b"):
        write(folder / f"{name}.parquet", data)
    words = ("--keep", "[red]k\x1b", "--keep", "when", "--keep", "b", "--by", "[red]k\x1b", "--max-slices", "1")
    shown = run("score", str(folder), "--worst", "3", "--metrics", "cross_entropy", *words).stdout
    assert "\x1b" not in shown
    assert "[red]k\\x1b" in shown
    assert "\\x1b[2J[bold]ww" in shown
    assert f"…{'a' * 23}.parquet" in shown
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_what_python_cannot_show_is_a_question_mark() -> None:
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
    assert scores._records(pa.table({"a": broken, "b": [1]})) == [{"a": "?", "b": 1}]


def test_infinite_costs_in_the_table() -> None:
    out = streamloss.score({"prob": [0.0, 0.5], "label": [1, 1]}, worst=1)
    text = to_text(lambda console: render(scores.described(out, 10), console))
    assert "∞" in text
    assert "worst rows by cross-entropy\n" in text
