"""What rows are grouped by, and what is refused: keys of every kind, columns of the path, bad rows, hostile state files."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_jit import python
from test_state import edited, opened, sealed, state_of

import streamloss
from streamloss.errors import DataError, StreamlossError, UsageError
from streamloss.running import measure
from streamloss.state import State

READERS = ("pages", "arrow", "auto")


def counts(data: Any, by: Any = "g", **options: Any) -> dict[Any, int]:
    """Rows of every slice, by its key; the rows' loss tells that they are the right ones."""
    report = streamloss.evaluate(data, by=by, **options)
    found: dict[Any, int] = {}
    for each in report.slices:
        key = tuple(each.by.values())
        found[key if len(key) > 1 else key[0]] = each.rows["used"]
    return found


def scores(n: int) -> np.ndarray:
    return -np.arange(1.0, n + 1)


def check(values: list[Any], kind: pa.DataType, tmp_path: Path, readers: tuple[str, ...] = READERS) -> None:
    """Every value has the rows that it stands in, from memory and from files by every reader, with one digest."""
    column = pa.array(values, kind)
    whole = pa.table({"logprob": scores(len(values)), "g": column})
    wanted: dict[Any, list[float]] = {}
    for value, loss in zip(values, -scores(len(values)), strict=True):
        wanted.setdefault(value, []).append(float(loss))
    report = streamloss.evaluate(whole, by="g")
    assert {each.by["g"]: each.rows["used"] for each in report.slices} == {v: len(rows) for v, rows in wanted.items()}
    for each in report.slices:
        rows = wanted[each.by["g"]]
        assert type(each.by["g"]) is type(next(v for v in values if v == each.by["g"]))
        assert each.metrics["cross_entropy"].mean == sum(rows) / len(rows)
    nulls = None in values
    for n, more in enumerate(({}, {"row_group_size": 3}, {"use_dictionary": False, "compression": None})):
        pq.write_table(whole, tmp_path / f"{n}.parquet", **more)
        for reader in readers:
            if reader != "pages" or not nulls:
                assert streamloss.evaluate(tmp_path / f"{n}.parquet", by="g", reader=reader).digest == report.digest


# ---- kinds of keys


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers(kind: str, tmp_path: Path) -> None:
    limits = np.iinfo(kind)
    values = [int(limits.min), int(limits.max), 0, 1, 1, int(limits.max) - 1, 5]
    readers = READERS if kind != "uint64" else ("arrow", "auto")  # which may be beyond int64
    check(values, pa.type_for_alias(kind), tmp_path, readers)
    check([*values, None, None], pa.type_for_alias(kind), tmp_path)
    check([3, 3, 4, 9], pa.type_for_alias(kind), tmp_path, readers)


def test_many_integers(tmp_path: Path) -> None:
    """Close together, far apart, and both at once: listed, or sorted out."""
    r = np.random.default_rng(0)
    for values in (r.integers(-200, 200, 5000), r.integers(-(2**62), 2**62, 300), np.array([-(2**63), 2**63 - 1] * 9)):
        check(values.tolist(), pa.int64(), tmp_path)


def test_booleans(tmp_path: Path) -> None:
    check([True, False, True, True], pa.bool_(), tmp_path)
    check([True, None, True, False], pa.bool_(), tmp_path)
    check([True, True], pa.bool_(), tmp_path)


TEXT = ["", "a", "ä", "a ", "A", "日本", "\x00", "(other)", "null", "a", "", "x" * 3000, '"\\\n', "\u202e"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_text(kind: pa.DataType, tmp_path: Path) -> None:
    check(TEXT, kind, tmp_path, ("arrow", "auto"))
    check([*TEXT, None], kind, tmp_path, ("arrow", "auto"))
    check([None, None], kind, tmp_path, ("arrow", "auto"))


def test_nothing_but_nulls(tmp_path: Path) -> None:
    """One slice and one digest, whatever the type of the column."""
    kinds = (pa.null(), pa.string(), pa.int32(), pa.bool_(), pa.dictionary(pa.int8(), pa.string()))
    for kind in kinds:
        check([None] * 7, kind, tmp_path, ("arrow", "auto"))
    tables = [pa.table({"logprob": scores(7), "g": pa.nulls(7, kind)}) for kind in kinds]
    of_nulls = pa.DictionaryArray.from_arrays(pa.array([0, None] * 3 + [0], pa.int8()), pa.nulls(1))
    tables.append(tables[0].set_column(1, "g", of_nulls))
    assert len({streamloss.evaluate(table, by="g").digest for table in tables}) == 1
    same = [streamloss.compare(table, logprob="logprob", baseline_logprob="logprob", by="g").slices for table in tables]
    assert all([each.by for each in slices] == [{"g": None}] for slices in same)
    assert streamloss.evaluate(tables[0], cluster="g").metrics["cross_entropy"].stderr is None  # of one cluster
    shown = streamloss.score(tables[0], by="g", worst=1, keep="g").to_pylist()
    assert [(row["by"], row["g"]) for row in shown] == [(None, None), ("g", None)]


@pytest.mark.parametrize("values", [["a", None, "b"], [1, None, -2], [True, None, False]], ids=str)
def test_a_file_of_nothing_but_nulls_goes_with_any_other(values: list[Any], tmp_path: Path) -> None:
    nulls = pa.table({"logprob": scores(2), "g": pa.nulls(2)})
    others = pa.table({"logprob": scores(3), "g": values})
    for names in ("abc", "acb", "bca"):
        for name, table in zip(names, (nulls, nulls, others), strict=True):
            pq.write_table(table, tmp_path / f"{name}.parquet")
        for reader in ("arrow", "auto"):
            assert counts(tmp_path, reader=reader) == {None: 5, values[0]: 1, values[2]: 1}
            report = streamloss.evaluate(tmp_path, by="g", reader=reader)
            assert {type(each.by["g"]) for each in report.slices} == {type(None), type(values[0])}
    evaluator = streamloss.Evaluator(by="g").update(others).update(nulls)
    assert len(evaluator.report().slices) == 3
    with pytest.raises(DataError, match="'g'"):
        streamloss.Evaluator(by="g").update(nulls).update(others)
    # What is between is no bridge.
    other = ["text"] if values[0] != "a" else [7]
    pq.write_table(pa.table({"logprob": scores(1), "g": other}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"the schemas of the files differ: column 'g' is \w+ here and \w+ in "):
        streamloss.evaluate(tmp_path, by="g")


@pytest.mark.parametrize("index", [pa.int8(), pa.uint16(), pa.int64()], ids=str)
def test_dictionaries(index: pa.DataType, tmp_path: Path) -> None:
    """With values that no row has, with one twice, with null among the values and among the rows."""
    words = pa.array(["unused", "b", None, "a", "b"])
    column = pa.DictionaryArray.from_arrays(pa.array([1, 3, 4, None, 2, 1], index), words)
    whole = pa.table({"logprob": scores(6), "g": column})
    plain = streamloss.evaluate(pa.table({"logprob": scores(6), "g": ["b", "a", "b", None, None, "b"]}), by="g")
    assert streamloss.evaluate(whole, by="g").digest == plain.digest
    assert streamloss.evaluate(whole.slice(1, 4), by="g").slices[0].by == {"g": None}
    pq.write_table(pa.table({"logprob": scores(6), "g": ["b", "a", "b", None, None, "b"]}), tmp_path / "a.parquet",
                   row_group_size=2)  # fmt: skip
    for rows in (1, 4, None):
        assert streamloss.evaluate(tmp_path / "a.parquet", by="g", batch_rows=rows).digest == plain.digest
    numbers = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1], index), pa.array([7, -7]))
    assert counts(pa.table({"logprob": scores(3), "g": numbers})) == {-7: 2, 7: 1}
    flags = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1], index), pa.array([True, False]))
    assert counts(pa.table({"logprob": scores(3), "g": flags})) == {False: 2, True: 1}


def test_the_order_of_keys() -> None:
    """Null, numbers as numbers, text by its code points."""
    whole = pa.table({"logprob": scores(5), "g": pa.array([10, None, 9, -1, 2])})
    assert list(counts(whole)) == [None, -1, 2, 9, 10]
    whole = pa.table({"logprob": scores(5), "g": ["b", None, "B", "", "10"]})
    assert list(counts(whole)) == [None, "", "10", "B", "b"]


def test_a_column_that_is_used_for_something_else_too() -> None:
    data = {"prob": np.array([0.5, 0.25, 1.0]), "label": np.array([True, False, True]), "weight": np.array([1, 2, 0]),
            "mask": np.array([True, True, False])}  # fmt: skip
    assert counts(data, "label") == {False: 1, True: 1}
    assert counts(data, "weight,mask") == {(1, True): 1, (2, True): 1}
    names = {"prob": np.array([0.5, 0.25, 1.0]), "label": ["no", "yes", "yes"]}
    assert counts(names, "label", classes="no,yes") == {"no": 1, "yes": 2}


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    column = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")])
    whole = pa.table({"logprob": scores(2), "g": column})
    pq.write_table(whole, tmp_path / "a.parquet")
    for data in (whole, tmp_path / "a.parquet"):
        with pytest.raises(DataError, match=r"'g'.*not UTF-8"):
            streamloss.evaluate(data, by="g")


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.float16(), pa.binary(), pa.date32(), pa.list_(pa.int64()), pa.decimal128(5), pa.timestamp("s")],
    ids=str,
)  # fmt: skip
def test_what_rows_are_not_grouped_by(kind: pa.DataType) -> None:
    whole = pa.table({"logprob": scores(2), "g": pa.nulls(2, kind)})
    with pytest.raises(DataError, match=r"column 'g'.*integers, booleans or strings"):
        streamloss.evaluate(whole, by="g")


def test_a_missing_column(tmp_path: Path) -> None:
    whole = pa.table({"logprob": scores(2), "group": [1, 2]})
    folder = tmp_path / "region=north"
    folder.mkdir()
    pq.write_table(whole, folder / "a.parquet")
    for data in (whole, tmp_path):
        with pytest.raises(DataError, match="did you mean 'group'"):
            streamloss.evaluate(data, by="grop")
        with pytest.raises(DataError, match="no column 'x'"):
            streamloss.evaluate(data, by="group,x")
    with pytest.raises(DataError, match="did you mean 'region'"):
        streamloss.evaluate(tmp_path, by="regoin")
    for by in ("group,group", ["group", "group"], "group,", ""):
        if by:
            with pytest.raises(UsageError, match="--by"):
                streamloss.evaluate(whole, by=by)


def test_files_whose_keys_are_of_different_kinds(tmp_path: Path) -> None:
    pq.write_table(pa.table({"logprob": scores(2), "g": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"logprob": scores(2), "g": ["1", "2"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet.*'g' is string here and int64"):
        streamloss.evaluate(tmp_path, by="g")
    # integers of another width are the same numbers
    pq.write_table(pa.table({"logprob": scores(2), "g": pa.array([1, 3], pa.int8())}), tmp_path / "b.parquet")
    assert counts(tmp_path) == {1: 2, 2: 1, 3: 1}


@pytest.mark.parametrize("other", [["1", "2"], [1.0, 2.0], [True, False]])
def test_a_later_batch_whose_keys_are_of_another_kind(other: list[Any]) -> None:
    evaluator = streamloss.Evaluator(by="g").update({"logprob": scores(2), "g": [1, 2]})
    before = evaluator.to_bytes()
    with pytest.raises(DataError, match="'g'"):
        evaluator.update({"logprob": scores(2), "g": other})
    assert evaluator.to_bytes() == before


def test_states_whose_keys_are_of_different_kinds(tmp_path: Path) -> None:
    """The partitions 1 and x are numbers and text for themselves and both text together: they do not mix in silence."""
    for value in ("1", "x"):
        (tmp_path / f"part={value}").mkdir()
        pq.write_table(pa.table({"logprob": scores(2)}), tmp_path / f"part={value}" / "a.parquet")
        streamloss.evaluate(tmp_path / f"part={value}" / "a.parquet", by="part", save_state=tmp_path / f"{value}.state")
    assert counts(tmp_path, "part") == {"1": 2, "x": 2}
    with pytest.raises(StreamlossError, match="'part' do not merge: there are numbers and text"):
        streamloss.merge([tmp_path / "1.state", tmp_path / "x.state"])
    one = streamloss.Evaluator(by="g").update({"logprob": scores(2), "g": [1, 0]})
    with pytest.raises(StreamlossError, match="booleans and numbers"):
        one.merge(streamloss.Evaluator(by="g").update({"logprob": scores(2), "g": [True, False]}))
    only_null = pa.table({"logprob": scores(1), "g": pa.array([None], pa.string())})
    assert len(one.merge(streamloss.Evaluator(by="g").update(only_null)).report().slices) == 3


# ---- columns of the path


def write(path: Path, n: int = 1, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"logprob": scores(n), **columns}), path)


@pytest.mark.parametrize("reader", READERS)
def test_partitions(reader: str, tmp_path: Path) -> None:
    write(tmp_path / "year=2025" / "where=a%20b%2Fc" / "0.parquet", 1, g=["x"])
    write(tmp_path / "year=2026" / "where=__HIVE_DEFAULT_PARTITION__" / "0.parquet", 2, g=["x", "y"])
    write(tmp_path / "year=-3" / "where=" / "0.parquet", 3, g=["x", "y", "y"])
    write(tmp_path / "year=__HIVE_DEFAULT_PARTITION__" / "where=7" / "0.parquet", 4, g=list("xxxy"))
    found = partial(counts, tmp_path, reader="arrow" if reader == "pages" else reader)
    assert found("year") == {None: 4, -3: 3, 2025: 1, 2026: 2}
    assert found("where") == {None: 2, "": 3, "7": 4, "a b/c": 1}
    assert found("g,year") == {
        ("x", None): 3, ("x", -3): 1, ("x", 2025): 1, ("x", 2026): 1, ("y", None): 1, ("y", -3): 2, ("y", 2026): 1,
    }  # fmt: skip
    assert sum(found("file").values()) == 10 and len(found("file,g")) == 7
    assert counts(tmp_path, "year", reader=reader, threads=3) == found("year")


def test_partitions_that_are_no_numbers_together(tmp_path: Path) -> None:
    for value in ("1", "02", "x"):
        write(tmp_path / f"part={value}" / "0.parquet")
    assert counts(tmp_path, "part") == {"02": 1, "1": 1, "x": 1}
    assert counts([str(tmp_path / "part=1"), str(tmp_path / "part=02")], "part") == {1: 1, 2: 1}
    write(tmp_path / "0.parquet")
    assert counts(tmp_path, "part") == {None: 1, "02": 1, "1": 1, "x": 1}


def test_a_partition_that_is_a_column_too(tmp_path: Path) -> None:
    """What stands in the file goes before what its path says."""
    write(tmp_path / "g=1" / "0.parquet", 2, g=["x", "y"])
    assert counts(tmp_path) == {"x": 1, "y": 1}


def test_files(tmp_path: Path) -> None:
    paths = [tmp_path / "b.parquet", tmp_path / "a.parquet"]
    for n, path in enumerate(paths, 1):
        write(path, n)
    assert counts([str(path) for path in paths], "file") == {str(paths[1]): 2, str(paths[0]): 1}
    write(tmp_path / "own" / "c.parquet", 3, file=[1, 2, 1])
    assert counts(tmp_path / "own", "file") == {1: 2, 2: 1}
    assert counts({"logprob": scores(2)}, "file") == {None: 2}


# ---- several columns


def test_crossed_columns() -> None:
    r = np.random.default_rng(3)
    n = 500
    columns = {"a": r.integers(-3, 3, n), "b": [("x", "y", None)[i] for i in r.integers(0, 3, n)], "c": r.random(n) < 0.5}
    wanted: dict[Any, int] = {}
    for key in zip(columns["a"].tolist(), columns["b"], columns["c"].tolist(), strict=True):
        wanted[key] = wanted.get(key, 0) + 1
    assert counts({"logprob": scores(n), **columns}, "a,b,c") == wanted
    assert counts({"logprob": scores(n), **columns}, " c , b ,a") == {(c, b, a): m for (a, b, c), m in wanted.items()}


@pytest.mark.parametrize(("columns", "size"), [(2, 1500), (2, 4000), (6, 4000), (12, 4000)])
def test_more_combinations_than_can_be_listed(columns: int, size: int, tmp_path: Path) -> None:
    """The product of the columns' values is beyond 2^20, 2^64 and 2^128; the page reader lists all between two integers."""
    r = np.random.default_rng(columns)
    n = 300
    keys = {f"k{i}": r.integers(0, size, n) for i in range(columns)}
    for values in keys.values():
        values[0], values[1], values[100:] = 0, size - 1, values[:200]  # every key but few thrice
    whole = pa.table({"logprob": scores(n), **keys})
    pq.write_table(whole, tmp_path / "a.parquet")
    wanted: dict[Any, int] = {}
    for key in zip(*(values.tolist() for values in keys.values()), strict=True):
        wanted[key] = wanted.get(key, 0) + 1
    for data in (whole, tmp_path / "a.parquet"):
        assert counts(data, ",".join(keys)) == wanted


def test_no_rows_in_a_batch() -> None:
    evaluator = streamloss.Evaluator(by=["g", "g,h"])
    batch = {"logprob": scores(2), "g": np.array([1, 2]), "h": np.array([True, False])}
    evaluator.update(batch)
    digest = evaluator.report().digest
    evaluator.update({name: values[:0] for name, values in batch.items()})
    assert evaluator.report().digest == digest


@pytest.mark.parametrize("form", ["table", "reader", "chunks", "stream"])
def test_where_the_rows_come_from(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_exactness import SimpleNamespace, stream, sys

    whole = pa.table({"logprob": scores(40), "g": [f"g{i % 7}" for i in range(40)], "h": np.arange(40) % 3})
    wanted = streamloss.evaluate({name: whole[name].to_pylist() for name in whole.schema.names}, by="g,h").digest
    data: Any = {
        "table": whole,
        "reader": whole.to_reader(7),
        "chunks": pa.concat_tables([whole[20:], whole[:20]]),
        "stream": "-",
    }[form]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream(whole, 9)))
    assert streamloss.evaluate(data, by="g,h").digest == wanted


# ---- bad rows


def bad(n: int, k: int, where: dict[int, str]) -> dict[str, Any]:
    r = np.random.default_rng(1)
    z, q, y = r.normal(size=(n, k)), r.dirichlet(np.ones(k), n), r.integers(0, k, n)
    for row, what in where.items():
        if what == "logit":
            z[row, 1] = np.nan
        elif what == "target":
            q[row, 0] = 9.0
        else:
            y[row] = k
    # keys that go down: the first bad row in the order of the file is the last in that of the slices
    return {"logits": z, "target_probs": q, "label": y, "g": (n - np.arange(n)) // 10}


@pytest.mark.parametrize("k", [3, 40])
@pytest.mark.parametrize("what", ["logit", "target", "label"])
@pytest.mark.parametrize("batch_rows", [None, 7])
def test_the_first_bad_row_is_named(
    k: int, what: str, batch_rows: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the file, though rows are put in that of their slices, in long rows and short, in pieces or not."""
    others = {"logit": "target", "target": "label", "label": "logit"}
    arrays = bad(100, k, {23: what, 24: others[what], 61: others[what], 99: what})
    column = {"logit": "logits", "target": "target_probs", "label": "label"}[what]
    tables = pa.table({n: pa.array(list(a)) if a.ndim == 2 else a for n, a in arrays.items()})
    pq.write_table(tables, tmp_path / "a.parquet", row_group_size=20)
    for chunk in (measure._CHUNK, 16):
        monkeypatch.setattr(measure, "_CHUNK", chunk)
        for data in (arrays, tmp_path / "a.parquet"):
            with pytest.raises(DataError) as found:
                streamloss.evaluate(data, by="g", batch_rows=batch_rows, threads=2)
            place = found.value.place
            assert place is not None and (place.row, place.column) == (23, column)
            with pytest.raises(DataError) as plain:
                streamloss.evaluate(data, batch_rows=batch_rows)
            assert str(found.value) == str(plain.value)


def test_a_null_key_is_no_bad_row_and_a_null_score_is() -> None:
    whole = pa.table({"logprob": pa.array([-1.0, None, -2.0]), "g": pa.array([None, 1, 1])})
    with pytest.raises(DataError, match=r"row 1.*null"):
        streamloss.evaluate(whole, by="g")
    report = streamloss.evaluate(whole, by="g", on_invalid="skip")
    assert [(each.by["g"], each.rows["used"], each.rows["invalid"]) for each in report.slices] == [(None, 1, 0), (1, 1, 1)]


# ---- hostile state files


@cache
def sample(weighted: bool = False) -> State:
    """Three slices and what is beyond the cap; values beyond the windows."""
    n = 30
    r = np.random.default_rng(5)
    arrays: dict[str, Any] = {"logits": r.normal(size=(n, 3)) * 10.0 ** r.integers(-200, 200, (n, 1)), "bytes": np.arange(n)}
    more = {"weight": r.random(n)} if weighted else {}
    g = [("x", "y", "z", "q", None)[i % 5] for i in range(n)]
    return state_of({**arrays, **more, "label": r.integers(0, 3, n), "g": g}, by="g", max_slices=3)


def slices_header(header: dict[str, Any], name: str, value: Any) -> None:
    header["slices"][0][name] = value


def keyed(*keys: Any) -> Callable[[dict[str, Any]], None]:
    return partial(slices_header, name="keys", value=list(keys))


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "no slices": edited("slices", value=[]),
    "slices that are no list": edited("slices", value=3),
    "slices of nothing": edited("slices", value=[{}]),
    "slices twice": lambda header: header["slices"].append(header["slices"][0]),
    "another column": partial(slices_header, name="by", value=["h"]),
    "two columns": partial(slices_header, name="by", value=["g", "h"]),
    "a column of no name": partial(slices_header, name="by", value=[None]),
    "not asked for": edited("options", "by", value=["h"]),
    "a larger cap": edited("options", "max_slices", value=1000),
    "a smaller cap": edited("options", "max_slices", value=2),
    **{f"{name} {n!r}": partial(slices_header, name=name, value=n)
       for name in ("wide", "pages") for n in (-1, 0, 1, 2**30, 2**62, 10**30, 1.5, "1", None, True, [1])},
    "no keys": keyed(),
    "fewer keys": keyed([], [None], ["q"]),
    "more keys": keyed([], [None], ["q"], ["x"], ["y"]),
    "keys that are no lists": keyed(1, 2, 3, 4),
    "keys of two values": keyed([], [None], ["q", 1], ["x"]),
    "a number that is no integer": keyed([], [None], [1.5], ["x"]),
    "a nested key": keyed([], [None], [["q"]], ["x"]),
    "a key that is no text": keyed([], [None], ["q"], ["\ud800"]),
    "keys out of order": keyed([], [None], ["x"], ["q"]),
    "keys twice": keyed([], [None], ["q"], ["q"]),
    "the rest last": keyed([None], ["q"], ["x"], []),
    "no rest": keyed([None], ["p"], ["q"], ["x"]),
    "keys of two kinds": keyed([], [None], [1], ["x"]),
    "true and 1": keyed([], [None], [True], [2]),
}  # fmt: skip


def refused(data: bytes) -> None:
    """At once and without much memory."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(DataError, match="here"):
            State.from_bytes(data, "here")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < 5


def test_taking_apart_and_putting_together() -> None:
    for weighted in (False, True):
        state = sample(weighted)
        assert State.from_bytes(sealed(*opened(state))).digest == state.digest
        assert state.slices[0].keys == [(), (None,), ("q",), ("x",)] and len(state.slices[0].arrays["wide"])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(name: str) -> None:
    header, packed = opened(sample())
    HOSTILE[name](header)
    refused(sealed(header, packed))


@pytest.mark.parametrize("groups", [1, 10**4])
def test_a_deflate_bomb_fills_no_memory(groups: int) -> None:
    header, _ = opened(sample())
    header["options"]["max_slices"] = 10**6
    header["slices"][0]["keys"] = [[i] for i in range(groups)]
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(16)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            State.from_bytes(sealed(header, packed))
        assert tracemalloc.get_traced_memory()[1] < 500e6
    finally:
        tracemalloc.stop()


def changed(name: str, where: tuple[Any, ...], value: int | tuple[int, int]) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name][where] = value

    return change


def doubled(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[name][1] = arrays[name][0]

    return change


def swapped(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        for each in (name, f"{name}_at"):
            arrays[each][:2] = arrays[each][1::-1].copy()

    return change


DAMAGED: dict[str, Callable[[dict[str, np.ndarray]], None]] = {
    **{f"{name} at {group}, {place}": changed(name, (0,), (group, place))
       for name in ("wide_at", "pages_at") for group, place in ((-1, 0), (4, 0), (2**62, 0), (0, -1), (0, 2**31), (3, 10**6))},
    **{f"{name} twice": doubled(name) for name in ("wide_at", "pages_at")},
    **{f"{name} swapped": swapped(name) for name in ("wide", "pages")},
    **{f"{name} of {value}": changed(name, (1, 0), value) for name in ("ledger", "infinite") for value in (-1, -(2**63))},
    "more infinite rows than rows": changed("infinite", (1, 0), 1000),
    "pages of -1": changed("pages", (0, 0), -1),
    "pages of 2^40 in few rows": changed("pages", (0, 0), 1 << 40),
    "bins of -1": changed("bins", (1, 0, 0), -1),
    "bins of more rows than rows": changed("bins", (1, 0, 0), 1000),
    "classes of -1": changed("classes", (1, 0, 0), -1),
    "classes of more rows than rows": changed("classes", (1, 0, 0), 1000),
    "limbs that are not canonical": changed("moments", (1, 0, 0, 0), 1 << 32),
    "negative limbs": changed("moments", (1, 0, 0, 0), -1),
    "whole limbs that are not canonical": changed("wide", (0, 0, 3), 1 << 32),
    "whole limbs of nothing": changed("wide", (0,), 0),
    "nobody beyond the cap": changed("ledger", (0,), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_numbers_that_no_run_can_leave(name: str) -> None:
    """Under a digest and a checksum that are right."""
    state = State.from_bytes(sample().to_bytes())
    DAMAGED[name](state.slices[0].arrays)
    refused(state.to_bytes())


# ---- the kernels are their source

BATTERY = """
import json, os, warnings
import numpy as np
import streamloss

warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's of infinities, when Numba is switched off
r = np.random.default_rng(3)
n = 60
z, y = r.normal(size=(n, 3)) * 10.0 ** r.integers(-9, 9, (n, 1)), r.integers(0, 3, n)
w = r.random(n) * 2.0 ** r.integers(-70, 60, n)
wide, q = r.normal(size=(n, 90)), r.dirichlet(np.ones(3), n)
g = {"g": np.arange(n) % 4, "h": np.arange(n) // 40}
runs = {
    "logits": {"logits": z, "label": y, "bytes": y},
    "weighted": {"logits": z, "label": y, "weight": w, "bytes": y},
    "many classes": {"logits": wide, "label": r.integers(0, 90, n)},
    "many classes, weighted": {"logits": wide, "label": r.integers(0, 90, n), "weight": w},
    "pair": {"logits": z, "target_probs": q},
    "soft": {"prob": r.random(n), "label": r.random(n)},
    "score": {"logprob": -np.ldexp(r.random(n), r.integers(-900, 900, n))},
}
every = {"by": ["g", "g,h"], "max_slices": 5, "threads": 1}
found = {name: streamloss.evaluate({**runs[name], **g}, **every) for name in runs}
print(json.dumps({name: report.digest for name, report in found.items()}))
"""


def test_plain_python_gives_the_same_digests() -> None:
    """tests/test_jit.py has Numba's checks of every index."""
    compiled = python(BATTERY)
    assert len(set(compiled.values())) == len(compiled)
    assert python(BATTERY, NUMBA_DISABLE_JIT=1) == compiled
