"""SPEC §4: whatever is wrong with the input ends in one line that helps, and never in half a report or in NaN."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import streamloss
from streamloss.cli.main import cli
from streamloss.errors import RULE_KEYS

ROWS, BAD, GROUP = 10, 6, 4  # the bad row stands in row group 1
NAN, INF = math.nan, math.inf
F16, F32, F64 = pa.float16(), pa.float32(), pa.float64()


def lists(of: pa.DataType) -> pa.DataType:
    return pa.list_(of)


def run(words: list[str], code: int) -> str:
    """Everything that must hold of any failure; returns the one line."""
    result = CliRunner().invoke(cli, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    # That kernels had to be compiled is said once and is no complaint.
    lines = [line for line in result.stderr.splitlines() if not line.startswith("streamloss: compiling")]
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert len(lines) == 1, lines
    assert lines[0].startswith("streamloss: error: ")
    return lines[0]


def refused(words: list[str], code: int, folder: Path) -> str:
    """The same with a report to write, where none was and where one stands already."""
    target = folder / "out" / "report.json"
    target.parent.mkdir()
    line = run(["evaluate", *words, "-o", str(target)], code)
    assert list(target.parent.iterdir()) == []
    target.write_text("old")
    state = target.with_name("rows.state")
    assert run(["evaluate", *words, "-o", str(target), "--save-state", str(state)], code) == line
    assert [file.name for file in target.parent.iterdir()] == ["report.json"]
    assert target.read_text() == "old"
    return line


# ---- rows that break a rule

TYPES: dict[str, pa.DataType] = {
    "prob": F64, "logit": F64, "logprob": F64, "label": pa.int64(), "weight": F64, "bytes": pa.int64(), "mask": pa.bool_(),
    **{name: lists(F64) for name in ("probs", "logits", "logprobs", "target_probs", "target_logits", "target_logprobs")},
}  # fmt: skip
P = [[0.25, 0.25, 0.5], [0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]
GOOD: dict[str, list[Any]] = {
    "prob": [0.25, 0.5, 0.875],
    "logit": [-1.0, 0.5, 3.0],
    "logprob": [-1.0, -0.5, -3.0],
    "label": [0, 1, 1],
    "weight": [1.0, 0.5, 2.0],
    "bytes": [1, 2, 3],
    "mask": [True, True, False],
    "probs": P,
    "target_probs": P[::-1],
    **{name: [[math.log(p) for p in row] for row in P] for name in ("logits", "logprobs", "target_logits", "target_logprobs")},
}


@dataclass
class Spoiled:
    """Good columns, and what stands in the bad row of the first of them; `says` is what the line must hold besides."""

    columns: str
    value: Any
    rule: str
    says: str = ""
    types: dict[str, pa.DataType] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def column(self) -> str:
        return self.columns.split()[0]

    def table(self, rows: list[int]) -> pa.Table:
        whole = {}
        for name in self.columns.split():
            values = [GOOD[name][i % 3] for i in range(ROWS)]
            if name == self.column:
                values[BAD] = self.value
            kind = {**TYPES, **self.types}[name]
            if pa.types.is_list(kind) and pa.types.is_float16(kind.value_type):
                values = [None if row is None else np.array(row, np.float16) for row in values]
            if pa.types.is_string(kind):
                values = [value if isinstance(value, str) else "abc"[value] for value in values]
            if pa.types.is_fixed_size_list(kind) or not pa.types.is_nested(kind) or isinstance(values[0], np.ndarray):
                whole[name] = pa.array(values, kind)
            else:
                whole[name] = pa.array(values, kind)
        return pa.table(whole).take(pa.array(rows))

    def words(self) -> list[str]:
        words = []
        for name, value in self.options.items():
            flag = "--" + name.replace("_", "-")
            words += [flag] if value is True else [flag, str(value)]
        return words


def off(by: float) -> list[float]:
    return [0.25, 0.25, 0.5 + by]


SPOILED: dict[str, Spoiled] = {
    "null row of lists": Spoiled("probs label", None, "null", "found null"),
    "null in a row": Spoiled("probs label", [0.5, None, 0.5], "null", "found null"),
    "null in a fixed-size list": Spoiled("logits label", [0.5, None, 0.5], "null", types={"logits": pa.list_(F64, 3)}),
    "null prob": Spoiled("prob label", None, "null"),
    "null logit": Spoiled("logit label", None, "null"),
    "null logprob": Spoiled("logprob", None, "null"),
    "null label": Spoiled("label probs", None, "null"),
    "null soft label": Spoiled("label prob", None, "null", types={"label": F64}),
    "null target": Spoiled("target_probs probs", None, "null"),
    "null weight": Spoiled("weight probs label", None, "null"),
    "null bytes": Spoiled("bytes logprob", None, "null"),
    "null mask": Spoiled("mask probs label", None, "null"),
    "NaN logits float16": Spoiled("logits label", [0.5, NAN, 0.5], "nan", "found nan", {"logits": lists(F16)}),
    "NaN logits float32": Spoiled("logits label", [NAN, NAN, NAN], "nan", "not NaN", {"logits": lists(F32)}),
    "NaN logits": Spoiled("logits label", [0.5, 0.5, NAN], "nan"),
    "NaN beside +inf": Spoiled("logits label", [INF, NAN, 0.0], "nan"),
    "NaN probs": Spoiled("probs label", [0.5, NAN, 0.5], "nan"),
    "NaN logprobs": Spoiled("logprobs label", [-1.0, NAN, -1.0], "nan"),
    "NaN prob": Spoiled("prob label", NAN, "nan"),
    "NaN logit": Spoiled("logit label", NAN, "nan"),
    "NaN logprob": Spoiled("logprob", NAN, "nan"),
    "NaN target": Spoiled("target_probs logits", [0.5, NAN, 0.5], "nan"),
    "NaN target logits": Spoiled("target_logits logits", [0.5, NAN, 0.5], "nan"),
    "NaN soft label": Spoiled("label prob", NAN, "nan", types={"label": F64}),
    "+inf logit": Spoiled("logits label", [0.5, INF, 0.5], "positive_infinity", "found inf, expected logits below"),
    "+inf logit float16": Spoiled("logits label", [0.5, INF, 0.5], "positive_infinity", types={"logits": lists(F16)}),
    "+inf and -inf": Spoiled("logits label", [-INF, INF, -INF], "positive_infinity"),
    "+inf binary logit": Spoiled("logit label", INF, "positive_infinity"),
    "+inf target logit": Spoiled("target_logits logits", [0.5, INF, 0.5], "positive_infinity"),
    "all -inf": Spoiled("logits label", [-INF] * 3, "all_negative_infinity", "found -inf"),
    "all -inf float32": Spoiled("logits label", [-INF] * 3, "all_negative_infinity", types={"logits": lists(F32)}),
    "all -inf target": Spoiled("target_logits logits", [-INF] * 3, "all_negative_infinity"),
    "negative probability": Spoiled("probs label", [0.75, -0.25, 0.5], "negative_probability", "found -0.25"),
    "tiny negative probability": Spoiled("probs label", [0.5, -1e-300, 0.5], "negative_probability"),
    "negative prob": Spoiled("prob label", -0.125, "negative_probability", "found -0.125"),
    "negative target": Spoiled("target_probs probs", [1.5, -0.5, 0.0], "negative_probability", "found -0.5"),
    "logits given as probs": Spoiled("probs label", [3.0, -1.0, 0.5], "negative_probability", "are these logits"),
    "prob above 1": Spoiled("prob label", 1.5, "probability_above_one", "found 1.5"),
    "prob just above 1": Spoiled("prob label", 1.0000000000000002, "probability_above_one"),
    "logprob above 0": Spoiled("logprob", 0.5, "probability_above_one", "found 0.5"),
    "+inf logprob": Spoiled("logprob", INF, "probability_above_one", "found inf"),
    "sum float64": Spoiled("probs label", off(2e-6), "row_sum", "a sum of 1.000002"),
    "sum float64 below": Spoiled("probs label", off(-2e-6), "row_sum", "within 1e-06"),
    "sum float32": Spoiled("probs label", off(2e-4), "row_sum", "within 0.0001", {"probs": lists(F32)}),
    "sum float16": Spoiled("probs label", off(0.02), "row_sum", "within 0.01", {"probs": lists(F16)}),
    "sum with a tolerance": Spoiled("probs label", off(0.125), "row_sum", "--normalize", options={"sum_tolerance": 0.1}),
    "sum of zeros": Spoiled("probs label", [0.0, 0.0, 0.0], "row_sum", "a sum of 0"),
    "sum of zeros normalized": Spoiled("probs label", [0.0, 0.0, 0.0], "row_sum", options={"normalize": True}),
    "sum +inf": Spoiled("probs label", [INF, 0.0, 0.0], "row_sum", "a sum of inf"),
    "sum of logprobs": Spoiled("logprobs label", [-1.0, -1.0, -2.0], "row_sum", "a sum of 0.871"),
    "all -inf logprobs": Spoiled("logprobs label", [-INF] * 3, "all_negative_infinity"),
    "sum of a target": Spoiled("target_probs probs", off(0.25), "row_sum", "a sum of 1.25"),
    "label K": Spoiled("label probs", 3, "label_out_of_range", "found 3,"),
    "label negative": Spoiled("label probs", -1, "label_out_of_range", "found -1,"),
    "label -100": Spoiled("label logits", -100, "label_out_of_range", "found -100,"),
    "label int64 least": Spoiled("label probs", -(2**63), "label_out_of_range", str(-(2**63))),
    "label 2^63": Spoiled("label probs", 2**63, "label_out_of_range", str(2**63), {"label": pa.uint64()}),
    "label 2^64 - 1": Spoiled("label probs", 2**64 - 1, "label_out_of_range", str(2**64 - 1), {"label": pa.uint64()}),
    "label int8": Spoiled("label probs", 127, "label_out_of_range", "found 127,", {"label": pa.int8()}),
    "label of a pair": Spoiled("label probs target_probs", 3, "label_out_of_range"),
    "binary label 2": Spoiled("label prob", 2, "label_out_of_range", "found 2,"),
    "soft label above 1": Spoiled("label prob", 1.25, "label_out_of_range", "found 1.25,", {"label": F64}),
    "soft label below 0": Spoiled("label logit", -0.5, "label_out_of_range", "found -0.5,", {"label": F32}),
    "unknown class": Spoiled(
        "label probs", "cow", "label_out_of_range", "'cow'", {"label": pa.string()}, {"classes": "a,b,c"}
    ),
    "weight negative": Spoiled("weight probs label", -0.5, "bad_weight", "found -0.5,"),
    "weight NaN": Spoiled("weight probs label", NAN, "bad_weight", "found nan,"),
    "weight +inf": Spoiled("weight prob label", INF, "bad_weight", "found inf,"),
    "weight of a score": Spoiled("weight logprob", -1.0, "bad_weight"),
    "weight integer": Spoiled("weight probs label", -2, "bad_weight", "found -2,", {"weight": pa.int32()}),
    "ragged short": Spoiled("probs label", [0.5, 0.5], "ragged_row", "2 values"),
    "ragged long": Spoiled("logits label", [0.5] * 4, "ragged_row", "4 values"),
    "ragged empty": Spoiled("logits label", [], "ragged_row", "0 values"),
    "ragged target": Spoiled("target_probs probs", [1.0], "ragged_row", "1 value"),
    "class count": Spoiled("probs label", [0.5, 0.5], "class_count", "2 values", options={"classes": "a,b,c"}),
    "bytes negative": Spoiled("bytes logprob", -1, "bad_bytes", "found -1,"),
}  # fmt: skip

each_spoiled = pytest.mark.parametrize("name", SPOILED)


def test_every_rule_is_broken_somewhere() -> None:
    assert {spoiled.rule for spoiled in SPOILED.values()} == set(RULE_KEYS)


@each_spoiled
def test_a_bad_row_stops_the_run(name: str, tmp_path: Path) -> None:
    spoiled = SPOILED[name]
    file = tmp_path / "rows.parquet"
    pq.write_table(spoiled.table(list(range(ROWS))), file, row_group_size=GROUP)
    line = refused([str(file), *spoiled.words()], 3, tmp_path)
    assert f"{file}, row group {BAD // GROUP}, row {BAD}, column '{spoiled.column}': " in line
    assert spoiled.rule.replace("_", " ") in line
    assert ", expected " in line
    assert spoiled.says in line
    assert "--on-invalid skip" in line


@each_spoiled
def test_a_bad_row_is_counted_and_left_out(name: str, tmp_path: Path) -> None:
    spoiled = SPOILED[name]
    good = [row for row in range(ROWS) if row != BAD]
    file = tmp_path / "rows.parquet"
    pq.write_table(spoiled.table(list(range(ROWS))), file, row_group_size=GROUP)
    clean = streamloss.evaluate(spoiled.table(good), **spoiled.options)
    found = streamloss.evaluate(file, on_invalid="skip", **spoiled.options)
    assert found.metrics == clean.metrics
    for key in ("weight", "per_class", "reliability"):
        assert found.to_dict()[key] == clean.to_dict()[key]
    assert found.rows == {**clean.rows, "read": ROWS, "invalid": 1}
    zero = dict.fromkeys(RULE_KEYS, 0)
    assert found.to_dict()["ledger"] == {**clean.to_dict()["ledger"], **zero, spoiled.rule: 1}


@each_spoiled
def test_nothing_but_bad_rows(name: str, tmp_path: Path) -> None:
    """Null with a reason and strict JSON, and no failure: that is what was asked for."""
    spoiled = SPOILED[name]
    pq.write_table(spoiled.table([BAD] * 3), tmp_path / "rows.parquet")
    # The columns are still to be understood: K needs a row that is not null, and of the right length here.
    more = ["--classes", "a,b,c"] if set(spoiled.columns.split()) & {"probs", "logits", "logprobs"} else []
    words = [] if "--classes" in spoiled.words() else more
    result = CliRunner().invoke(
        cli, ["evaluate", str(tmp_path / "rows.parquet"), *spoiled.words(), *words, "--on-invalid", "skip", "--format", "json"]
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout, parse_constant=lambda text: pytest.fail(f"{text} in JSON"))
    assert record["rows"] == {"read": 3, "used": 0, "ignored": 0, "invalid": 3}
    assert sum(record["ledger"].values()) == 3
    for metric in record["metrics"].values():
        assert metric["mean"] is None and metric["reason"] == "every row was invalid"


def test_the_first_bad_row_is_named(tmp_path: Path) -> None:
    """Of many bad rows in many files the first of the input, whatever the threads and chunks."""
    for i in range(4):
        p = np.full(40, 0.5)
        if i:
            p[[7, 8, 30]] = 1.5 + i
        pq.write_table(pa.table({"prob": p, "label": [1] * 40}), tmp_path / f"{i}.parquet", row_group_size=5)
    for threads in ("1", "4"):
        for rows in ("1", "3", "1000"):
            line = run(["evaluate", str(tmp_path), "--threads", threads, "--batch-rows", rows], 3)
            assert f"{tmp_path / '1.parquet'}, row group 1, row 7, column 'prob': " in line
            assert "found 2.5" in line


def test_rules_are_counted_apart(tmp_path: Path) -> None:
    logits = [[0.0, NAN], [INF, 0.0], [-INF, -INF], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 2.0], [1.0], None, [-INF, 0.0]]
    labels = [0, 0, 0, 5, None, 0, 1, 0, 0, 1]
    weight = [1.0, 1, 1, 1, 1, -1, 1, 1, 1, 0.5]
    whole = pa.table({"logits": logits, "label": labels, "weight": weight})
    found = streamloss.evaluate(whole, on_invalid="skip")
    ledger = {key: count for key, count in found.to_dict()["ledger"].items() if count}
    assert ledger == {
        "nan": 1, "positive_infinity": 1, "all_negative_infinity": 1, "label_out_of_range": 1, "null": 2, "bad_weight": 1,
        "ragged_row": 1,
    }  # fmt: skip
    assert found.rows == {"read": 10, "used": 2, "ignored": 0, "invalid": 8}
    assert found.metrics == streamloss.evaluate(whole.take([6, 9])).metrics


def test_probability_zero_is_no_bad_row() -> None:
    """A −inf logit is a probability of exactly 0; it costs infinity only where it is the truth."""
    z = np.array([[-INF, 0.0, 0.0], [0.0, -INF, -INF], [0.0, -INF, 0.0]])
    found = streamloss.evaluate({"logits": z, "label": np.array([1, 0, 0])})
    assert found.rows["used"] == 3
    ce = found.metrics["cross_entropy"]
    assert (ce.infinite, ce.min, ce.max) == (0, 0.0, pytest.approx(math.log(2)))
    same = streamloss.evaluate({"probs": np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]), "label": [1, 0, 0]})
    for key, metric in found.metrics.items():
        assert metric.mean == pytest.approx(same.metrics[key].mean, abs=1e-14), key
    lost = streamloss.evaluate({"logits": z, "label": np.array([0, 0, 0])}).metrics["cross_entropy"]
    assert (lost.mean, lost.infinite) == (INF, 1)
    binary = streamloss.evaluate({"logit": np.array([-INF, -INF]), "label": np.array([0, 1])}).metrics["cross_entropy"]
    assert (binary.min, binary.max, binary.infinite) == (0.0, INF, 1)
    assert streamloss.evaluate({"logprob": np.array([-INF, 0.0])}).metrics["cross_entropy"].infinite == 1


def test_a_sum_within_the_tolerance_is_no_bad_row() -> None:
    for kind, by in ((np.float64, 0.9e-6), (np.float32, 0.9e-4), (np.float16, 0.9e-2)):
        rows = np.array([off(by), off(-by)], dtype=kind)
        assert streamloss.evaluate({"probs": rows, "label": [0, 1]}).rows["used"] == 2
    wide = {"probs": np.array([off(1.0), off(0.0)]), "label": [0, 1]}
    found = streamloss.evaluate(wide, normalize=True)
    assert found.to_dict()["ledger"]["normalized"] >= 1
    assert streamloss.evaluate(wide, sum_tolerance=1.0).rows["used"] == 2


NOTHING: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "weight 0": ({"probs": P, "label": [0, 1, 2], "weight": [0.0] * 3}, {}, "total weight is 0"),
    "class weights 0": ({"probs": P, "label": [0, 1, 1]}, {"class_weights": (0.0, 0.0, 1.0)}, "total weight is 0"),
    "ignore index": ({"probs": P, "label": [-100] * 3}, {"ignore_index": -100}, "total weight is 0"),
    "mask": ({"prob": [0.5] * 3, "label": [1] * 3, "mask": [False] * 3}, {}, "total weight is 0"),
    "score": ({"logprob": [-1.0] * 3, "weight": [0.0] * 3, "bytes": [1] * 3}, {}, "total weight is 0"),
    "pair": ({"probs": P, "target_probs": P, "mask": [False] * 3}, {}, "total weight is 0"),
    "both": ({"prob": [0.5, NAN, 2.0], "label": [1] * 3, "mask": [False, True, True]}, {}, "ignored or invalid"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_that_counts_is_null_with_its_reason(name: str) -> None:
    columns, options, reason = NOTHING[name]
    report = streamloss.evaluate(pa.table(columns), on_invalid="skip", **options)
    record = json.loads(report.to_json(), parse_constant=lambda text: pytest.fail(f"{text} in JSON"))
    assert record["rows"]["used"] == 0
    assert record["metrics"]
    for key, metric in record["metrics"].items():
        assert metric["mean"] is None, key
        assert reason in metric["reason"], key


# ---- everything else

Build = Callable[[Path], list[str]]
OTHERS: dict[str, tuple[Build, int, str]] = {}


def bad(name: str, code: int, says: str) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        OTHERS[name] = (build, code, says)
        return build

    return add


def good_file(folder: Path, name: str = "good.parquet", **columns: Any) -> str:
    given = columns or {"probs": pa.array(P, lists(F64)), "label": [0, 1, 2]}
    pq.write_table(pa.table(given), folder / name)
    return str(folder / name)


def raw(name: str, content: Callable[[bytes], bytes], code: int, says: str) -> None:
    """A file that is made of a good one's bytes."""

    def build(folder: Path) -> list[str]:
        file = folder / "raw.parquet"
        file.write_bytes(content(Path(good_file(folder)).read_bytes()))
        return [str(file)]

    bad(name, code, says)(build)


def option(name: str, words: str, code: int, says: str) -> None:
    """A good file and options that it cannot be evaluated with."""
    bad(name, code, says)(lambda folder: [good_file(folder), *words.split(" ")])


def columns(name: str, given: dict[str, Any], words: str, code: int, says: str) -> None:
    bad(name, code, says)(lambda folder: [good_file(folder, "given.parquet", **given), *words.split()])


raw("empty file", lambda data: b"", 3, "raw.parquet: the file is empty")
raw("one byte", lambda data: b"P", 3, "not a Parquet file")
raw("only the magic", lambda data: b"PAR1", 3, "raw.parquet: ")
raw("truncated in the footer", lambda data: data[:-20], 3, "truncated")
raw("truncated by half", lambda data: data[: len(data) // 2], 3, "truncated")
raw("no last byte", lambda data: data[:-1], 3, "truncated")
raw("no head", lambda data: data[100:], 3, "raw.parquet, row group 0, column 'probs': the file is damaged")
raw("damaged footer", lambda data: data[:-60] + bytes(52) + data[-8:], 3, "damaged footer")
raw("footer length", lambda data: data[:-8] + b"\xff\xff\xff\x7f" + b"PAR1", 3, "damaged footer")
raw("csv", lambda data: b"prob,label\n0.5,1\n0.25,0\n", 3, "not a Parquet file")
raw("json", lambda data: b'{"prob": 0.5, "label": 1}\n' * 9, 3, "not a Parquet file")
raw("zeros", lambda data: bytes(4096), 3, "not a Parquet file")
raw("numpy", lambda data: b"\x93NUMPY\x01\x00" + bytes(200), 3, "it is a NumPy file")
raw("gzip", lambda data: b"\x1f\x8b\x08" + bytes(200), 3, "it is gzip")
raw("arrow file", lambda data: b"ARROW1\0\0" + bytes(200), 3, "it is an Arrow file")


@bad("damaged page", 3, "row group 1")
def _(folder: Path) -> list[str]:
    file = folder / "page.parquet"
    rows = pa.table({"logprob": -np.arange(4000.0)})
    pq.write_table(rows, file, row_group_size=2000, compression="zstd", use_dictionary=False)
    data = bytearray(file.read_bytes())
    at = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    data[at + 60 : at + 160] = b"\xfe" * 100
    file.write_bytes(data)
    return [str(file)]


@bad("no file", 3, "no-such.parquet: no such file")
def _(folder: Path) -> list[str]:
    return [str(folder / "no-such.parquet")]


@bad("a file's name misspelt", 3, "did you mean")
def _(folder: Path) -> list[str]:
    return [good_file(folder).replace("good", "goood")]


@bad("one of two missing", 3, "gone.parquet: no such file")
def _(folder: Path) -> list[str]:
    return [good_file(folder), str(folder / "gone.parquet")]


@bad("a file as a folder", 3, "no such file")
def _(folder: Path) -> list[str]:
    return [good_file(folder) + "/more.parquet"]


@bad("empty folder", 3, "no *.parquet or *.pq files")
def _(folder: Path) -> list[str]:
    (folder / "empty").mkdir()
    return [str(folder / "empty")]


@bad("folder of other files", 3, "no *.parquet or *.pq files")
def _(folder: Path) -> list[str]:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("a")
    (folder / "texts" / "_SUCCESS").write_text("")
    (folder / "texts" / ".hidden.parquet").write_text("")
    return [str(folder / "texts")]


@bad("glob without match", 3, "*.parquet: no file matches")
def _(folder: Path) -> list[str]:
    return [str(folder / "none-*.parquet")]


@bad("empty path", 2, "an empty path")
def _(folder: Path) -> list[str]:
    return [""]


@bad("a long path", 3, "cannot be read")
def _(folder: Path) -> list[str]:
    return [str(folder / ("x" * 5000))]


@bad("a pipe", 3, "not a regular file")
def _(folder: Path) -> list[str]:
    os.mkfifo(folder / "pipe")
    return [str(folder / "pipe")]


@bad("strange URI", 3, "no filesystem opens this address")
def _(folder: Path) -> list[str]:
    return ["nonsense://bucket/file.parquet"]


@bad("URI of no file", 3, "no such file")
def _(folder: Path) -> list[str]:
    return [f"file://{folder}/no-such.parquet"]


@bad("standard input among files", 2, "stands alone")
def _(folder: Path) -> list[str]:
    return [good_file(folder), "-"]


@bad("zero rows", 3, "no rows")
def _(folder: Path) -> list[str]:
    return [good_file(folder, probs=pa.array([], lists(F64)), label=pa.array([], pa.int64()))]


@bad("zero rows in all files", 3, "no rows: the input is empty")
def _(folder: Path) -> list[str]:
    return [good_file(folder, f"{i}.parquet", prob=pa.array([], F64)) for i in range(3)]


@bad("no row groups", 3, "no rows")
def _(folder: Path) -> list[str]:
    pq.ParquetWriter(folder / "none.parquet", pa.schema({"prob": F64})).close()
    return [str(folder / "none.parquet")]


@bad("schemas that differ in type", 3, "b.parquet: the schemas of the files differ: column 'prob'")
def _(folder: Path) -> list[str]:
    good_file(folder, "a.parquet", prob=pa.array([0.5], F64), label=[1])
    good_file(folder, "b.parquet", prob=pa.array([0.5], F32), label=[1])
    return [str(folder)]


@bad("schemas that differ in classes", 3, "b.parquet: the schemas of the files differ: column 'logits'")
def _(folder: Path) -> list[str]:
    good_file(folder, "a.parquet", logits=pa.array([[0.5, 1, 2]], pa.list_(F64, 3)), label=[1])
    good_file(folder, "b.parquet", logits=pa.array([[0.5, 1]], pa.list_(F64, 2)), label=[1])
    return [str(folder)]


@bad("a later file without the label", 3, "b.parquet: no column 'label'")
def _(folder: Path) -> list[str]:
    good_file(folder, "a.parquet", prob=[0.5], label=[1])
    good_file(folder, "b.parquet", prob=[0.5])
    return [str(folder)]


@bad("a later file with lists of other lengths", 3, "b.parquet, row group 0, row 0, column 'logits': ragged row")
def _(folder: Path) -> list[str]:
    good_file(folder, "a.parquet", logits=[[0.5, 1.0, 2.0]], label=[1])
    good_file(folder, "b.parquet", logits=[[0.5, 1.0]], label=[1])
    return [str(folder)]


@bad("a later file is none", 3, "b.parquet: not a Parquet file")
def _(folder: Path) -> list[str]:
    good_file(folder, "a.parquet")
    (folder / "b.parquet").write_text("prob,label\n0.5,1\n")
    return [str(folder)]


ONE: dict[str, Any] = {"prob": [0.5], "label": [1]}
option("missing column", "--probs prbs", 3, "did you mean 'probs'")
option("missing column, nothing near", "--probs zzz", 3, "there are 'probs', 'label'")
option("missing label", "--label lable", 3, "did you mean 'label'")
option("missing weight", "--weight w", 3, "no column 'w'")
option("missing target", "--target-probs t", 3, "no column 't'")
option("pattern without match", "--probs p_*", 3, "no column matches 'p_*'")
option("unknown metric", "--metrics cros_entropy", 2, "no metric 'cros_entropy'; there are cross_entropy")
option("metric that does not apply", "--metrics js_divergence", 2, "does not apply")
option("two predictions", "--probs probs --logits probs", 2, "one prediction at a time")
option("two targets", "--target-probs probs --target-logits probs", 2, "one target at a time")
option("target of a binary", "--prob label --target-probs probs", 2, "K-class")
option("temperature of probabilities", "--temperature 2", 2, "--temperature divides logits")
option("temperature 0", "--temperature 0", 2, "--temperature must be a positive number")
option("temperature NaN", "--temperature nan", 2, "--temperature must be a positive number")
option("zero nonsense", "--zero nothing", 2, "--zero must be 'inf' or 'clip:EPS'")
option("zero clip 0", "--zero clip:0", 2, "--zero must be")
option("zero clip 2", "--zero clip:2", 2, "--zero must be")
option("zero clip NaN", "--zero clip:nan", 2, "--zero must be")
option("classes: one", "--classes only", 2, "at least two names")
option("classes: twice", "--classes a,b,a", 2, "names 'a' twice")
option("classes: too many", "--classes a,b,c,d", 3, "row 0, column 'probs': class count")
option("class weights: too few", "--class-weights 1,2", 2, "2 weights for 3 classes")
option("class weights: negative", "--class-weights 1,-2,3", 2, "finite weights of 0 or more")
option("class weights: text", "--class-weights a,b,c", 2, "must be numbers")
option("class weights: NaN", "--class-weights 1,nan,3", 2, "finite weights of 0 or more")
option("focal alpha alone", "--focal-alpha 0.5", 2, "give --focal-gamma too")
option("focal gamma", "--focal-gamma -1", 2, "--focal-gamma must be 0 or more")
option("smoothing", "--label-smoothing 1.5", 2, "--label-smoothing must be between 0 and 1")
option("bins", "--bins 0", 2, "--bins must be between 1 and 10000")
option("top-k 0", "--top-k 0", 2, "--top-k must be 1 or more")
option("quantiles", "--quantiles 0.5,2", 2, "--quantiles must be between 0 and 1")
option("quantiles: text", "--quantiles median", 2, "must be numbers")
option("confidence", "--confidence 95", 2, "--confidence must be between 0 and 1")
option("sum tolerance", "--sum-tolerance -1", 2, "--sum-tolerance must be 0 or more")
option("ignore index without label", "--ignore-index 0 --label ", 2, "--ignore-index needs a label column")
columns("no prediction", {"a": [0.5], "b": [1]}, "", 2, "no column is called logits")
columns("strings for a prediction", {"prob": ["0.5"], "label": [1]}, "", 3, "column 'prob': wrong type string")
columns("lists for one number", {"prob": [[0.5]], "label": [1]}, "", 3, "use --probs")
columns("one number for lists", {"probs": [0.5], "label": [1]}, "", 3, "use --prob")
columns("lists of strings", {"logits": [["a", "b"]], "label": [1]}, "", 3, "column 'logits': wrong type list<")
columns("lists of lists", {"logits": [[[0.5, 1.0]]], "label": [1]}, "", 3, "column 'logits': wrong type list<")
columns("booleans for a prediction", {"prob": [True], "label": [1]}, "", 3, "column 'prob': wrong type bool")
columns("nothing but nulls", {"logits": pa.array([None], lists(F64)), "label": [1]}, "", 3, "'logits': every row is null")
columns("one class", {"logits": [[0.5]], "label": [0]}, "", 3, "expected two classes or more")
columns("float labels of K classes", {"logits": [[0.5, 1.0]], "label": [1.0]}, "", 3, "soft labels go in --target-probs")
columns("lists for a label", {"prob": [0.5], "label": [[1]]}, "", 3, "column 'label': wrong type list<")
columns("dates for a label", {"prob": [0.5], "label": pa.array([1], pa.date32())}, "", 3, "column 'label': wrong type date32")
columns("names without --classes", {"prob": [0.5], "label": ["yes"]}, "", 2, "--classes no,yes")
columns("three names for two classes", ONE, "--classes a,b,c", 2, "two classes")
columns("strings for weights", {**ONE, "weight": ["1"]}, "", 3, "column 'weight': wrong type string")
columns("floats for a mask", {**ONE, "mask": [1.0]}, "", 3, "column 'mask': wrong type double")
columns("2 in a mask", {**ONE, "mask": [2]}, "", 3, "row 0, column 'mask': 2 in a mask")
columns("floats for bytes", {"logprob": [-1.0], "bytes": [1.5]}, "", 3, "column 'bytes': wrong type double")
columns("other classes for the target", {"probs": [[0.5, 0.5]], "target_probs": [P[0]]}, "", 3, "the same classes")
columns("binary bytes of no type", {"logits": pa.array([b"12345678"], pa.binary(8)), "label": [0]}, "", 2, "--dtype")
columns(
    "binary bytes that do not fit",
    {"logits": pa.array([b"1234567"], pa.binary(7)), "label": [0]},
    "--dtype float32",
    3,
    "logits",
)
columns("flat columns of two types", {"p_0": pa.array([0.5], F32), "p_1": [0.5], "label": [0]}, "--probs p_*", 3, "one type")


@bad("a column called twice", 3, "2 columns called 'prob'")
def _(folder: Path) -> list[str]:
    whole = pa.Table.from_arrays([pa.array([0.5]), pa.array([0.5]), pa.array([1])], names=["prob", "prob", "label"])
    pq.write_table(whole, folder / "twice.parquet")
    return [str(folder / "twice.parquet")]


@pytest.mark.parametrize("name", OTHERS)
def test_it_ends_in_one_line(name: str, tmp_path: Path) -> None:
    build, code, says = OTHERS[name]
    folder = tmp_path / "in"
    folder.mkdir()
    assert says in refused(build(folder), code, tmp_path)


@pytest.mark.parametrize("name", [name for name, (_, code, _) in OTHERS.items() if code == 3])
def test_the_line_names_the_file(name: str, tmp_path: Path) -> None:
    build, code, _ = OTHERS[name]
    words = build(tmp_path)
    line = run(["evaluate", *words], code)
    assert str(tmp_path) in line or "all 3 files" in line or "://" in words[0]


def test_kinds_of_bad_input() -> None:
    assert len(OTHERS) + len(SPOILED) > 150


# ---- standard input

STREAM = pa.table({"logits": pa.array([[0.5, 1.0]] * 100, lists(F64)), "label": [1] * 100})


def streamed() -> bytes:
    sink = BytesIO()
    with pa.ipc.new_stream(sink, STREAM.schema) as writer:
        writer.write_table(STREAM, max_chunksize=10)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "-: no Arrow IPC stream"),
        (b"prob,label\n0.5,1\n", "-: no Arrow IPC stream"),
        (b"PAR1" + bytes(100), "Parquet goes in by its path"),
        (streamed()[:40], "-: no Arrow IPC stream"),
        (streamed()[: len(streamed()) // 2], "-: cannot be read"),
        (streamed()[:-200], "-: cannot be read"),
        (streamed()[:1000] + bytes(300) + streamed()[1300:], "-"),
    ],
    ids=["nothing", "csv", "parquet", "half a schema", "half", "cut", "zeros"],
)
def test_standard_input_that_is_no_whole_stream(
    data: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import streamloss.reading.source as source

    monkeypatch.setattr(source, "sys", SimpleNamespace(stdin=SimpleNamespace(buffer=BytesIO(data))))
    assert says in run(["evaluate", "-", "-o", str(tmp_path / "report.json")], 3)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_end(tmp_path: Path) -> None:
    """The same through real processes: exit code, streams, no warning, no traceback."""
    words = [sys.executable, "-W", "error", "-m", "streamloss", "evaluate"]
    file = tmp_path / "rows.parquet"
    pq.write_table(SPOILED["NaN prob"].table(list(range(ROWS))), file)
    for given, code, says in (
        ([str(file)], 3, f"{file}, row group 0, row {BAD}, column 'prob': nan: found nan"),
        ([str(tmp_path / "gone.parquet")], 3, "gone.parquet: no such file"),
        ([str(file), "--bins", "0"], 2, "--bins"),
    ):
        ended = subprocess.run(
            [*words, *given, "-o", str(tmp_path / "report.json")], text=True, capture_output=True, timeout=120
        )
        lines = [line for line in ended.stderr.splitlines() if not line.startswith("streamloss: compiling")]
        assert (ended.returncode, ended.stdout, len(lines)) == (code, "", 1), ended.stderr
        assert says in lines[0]
    ended = subprocess.run([*words, "-"], input=streamed()[:-200], capture_output=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (3, b"")
    assert b"cannot be read" in ended.stderr and b"Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_more_top_k_than_there_is_room_for(tmp_path: Path) -> None:
    """In a process of its own: the kernels would write beyond their buffer."""
    file = tmp_path / "rows.parquet"
    z = np.random.default_rng(0).normal(size=(100, 20))
    pq.write_table(pa.table({"logits": pa.array(list(z)), "label": [0] * 100}), file)
    words = [word for k in range(1, 17) for word in ("--top-k", str(k))]
    ended = subprocess.run(
        [sys.executable, "-m", "streamloss", "evaluate", str(file), *words], text=True, capture_output=True, timeout=120
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended.stderr
    assert "--top-k" in ended.stderr


# ---- files that change, and files that may not be read


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(good_file(tmp_path))
    file.chmod(0)
    if os.access(file, os.R_OK):  # root may read everything: let the opening fail instead
        import streamloss.reading.files as files

        def refuse(path: str, flags: int) -> None:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(files.os, "open", refuse)
    assert f"{file}: permission denied" in refused([str(file)], 3, tmp_path)


def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    good_file(folder)
    folder.chmod(0)
    try:
        if os.access(folder, os.R_OK):
            pytest.skip("root may read everything")
        assert "permission denied" in run(["evaluate", str(folder)], 3)
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("change", ["replaced", "grown", "removed", "truncated"])
def test_a_file_that_changes_while_it_is_read(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamloss.running import local

    file = Path(good_file(tmp_path))
    before = file.stat()
    read_part = local.read_part

    def late(part: Any, plan: Any, helpers: Any) -> Any:
        data = file.read_bytes()
        if change == "removed":
            file.unlink(missing_ok=True)
        elif change == "replaced":
            good_file(tmp_path, probs=pa.array(P[::-1], lists(F64)), label=[0, 1, 2])
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        else:
            file.write_bytes(data + b"more" if change == "grown" else data[: len(data) // 2])
        yield from read_part(part, plan, helpers)

    monkeypatch.setattr(local, "read_part", late)
    line = run(["evaluate", str(file), "-o", str(tmp_path / "report.json")], 3)
    assert f"{file}: " in line
    assert ("no such file" if change == "removed" else "changed while it was read") in line
    assert not (tmp_path / "report.json").exists()


def test_a_file_that_is_replaced_after_its_rows_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamloss.running import local

    file = Path(good_file(tmp_path))
    read_part = local.read_part

    def slow(part: Any, plan: Any, helpers: Any) -> Any:
        for batch in read_part(part, plan, helpers):
            stamp = file.stat()
            os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 10**9))
            yield batch

    monkeypatch.setattr(local, "read_part", slow)
    assert "changed while it was read" in run(["evaluate", str(file)], 3)


# ---- states


@pytest.mark.parametrize("content", [b"", b"PAR1", b"streamloss state 2\n", b"streamloss state 9\n" + bytes(99)], ids=range(4))
def test_a_state_that_is_none(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "rows.state"
    file.write_bytes(content)
    target = tmp_path / "report.json"
    line = run(["report", str(file), "-o", str(target)], 3)
    assert f"{file}: " in line
    assert not target.exists()


def test_states_that_cannot_be_found(tmp_path: Path) -> None:
    assert "gone.state: cannot read the state" in run(["report", str(tmp_path / "gone.state")], 3)
    assert f"{tmp_path}: cannot read the state" in run(["report", str(tmp_path)], 3)
