"""Slices: each is its rows alone, together they are the whole, and neither depends on the way in which the rows came.

The keys by which rows are grouped, and what is refused, are in test_slicing.py.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_exactness import CASES as PLAIN
from test_exactness import N, in_pieces, labels, logits, probs, table, taken, weights

import streamloss
from streamloss.errors import USED
from streamloss.options import Options
from streamloss.reading.source import open_input
from streamloss.reporting.report import Metric, SliceReport
from streamloss.reporting.summary import slices_of
from streamloss.running import measure
from streamloss.running.measure import Accumulator
from streamloss.slices import CLASSES, OTHER, order
from streamloss.state import State, merge

Arrays = dict[str, Any]
Case = tuple[Arrays, dict[str, Any]]
PATH = Path(__file__).parents[1] / "data" / "digits.parquet"


def more_cases() -> dict[str, Case]:
    """What reaches beyond the compact sums of a group: other numbers of classes, values and weights of any size."""
    r = np.random.default_rng(30)
    n, mask = N, np.random.default_rng(31).random(N) < 0.7
    huge = np.where(r.random(n) < 0.5, 1e300, 1e-300) * r.random(n)
    far = 2.0 ** r.integers(-400, 300, n)
    every = {"label_smoothing": 0.1, "focal_gamma": 2.0, "focal_alpha": 0.3, "zero": "clip:1e-9", "top_k": (1, 2)}
    known = labels(n, 3).clip(0, 2)
    return {
        "logits 3": ({"logits": logits(n, 3, np.float64), "label": labels(n, 3), "bytes": np.arange(n)}, {}),
        "logits 3 of everything": ({"logits": logits(n, 3, np.float32), "label": labels(n, 3), "mask": mask}, every),
        "logits 20": ({"logits": logits(n, 20, np.float32), "label": labels(n, 20)}, {"ignore_index": 19}),
        "logits 20 weighted": ({"logits": logits(n, 20, np.float32), "label": labels(n, 20), "weight": weights(n)}, every),
        "logits 300": ({"logits": logits(n, 300, np.float32), "label": labels(n, 300), "bytes": np.arange(n)}, {}),
        "logits 300 weighted": ({"logits": logits(n, 300, np.float16), "label": labels(n, 300), "weight": weights(n)}, {}),
        "no label": ({"probs": probs(n, 3, np.float64)}, {}),
        "pair without a label": ({"logits": logits(n, 3, np.float32), "target_probs": probs(n, 3, np.float64)}, every),
        "pair of 20": ({"logits": logits(n, 20, np.float32), "target_logits": logits(n, 20, np.float32, 1)}, {}),
        "huge logits": ({"logits": np.stack([huge, -huge, huge * 0.5], axis=1), "label": known}, {}),
        "huge logits weighted": ({"logits": np.stack([huge, -huge, huge / 3], axis=1), "label": known, "weight": far}, {}),
        "huge scores": ({"logprob": -huge}, {}),
        "huge scores weighted": ({"logprob": -huge, "weight": 2.0 ** r.integers(-900, 800, n)}, {}),
        "binary far weights": ({"prob": r.random(n).round(2), "label": r.integers(0, 2, n), "weight": far}, {}),
        "infinite weighted": ({"prob": r.integers(0, 3, n) / 2, "label": r.integers(0, 2, n), "weight": far}, {}),
    }  # fmt: skip


def grouped(case: Case) -> Case:
    """With a column of groups: of a few dozen rows, of one row (-1), and of the first rows, the most of which are bad (5)."""
    g = np.random.default_rng(9).integers(0, 4, N)
    g[20], g[3:9] = -1, 5
    return {**case[0], "g": g}, {**case[1], "by": "g", "on_invalid": "skip"}


CASES = {name: grouped(case) for name, case in (PLAIN | more_cases()).items()}
each_case = pytest.mark.parametrize("name", CASES)


def evaluate(data: Any, options: dict[str, Any], **more: Any) -> streamloss.Report:
    return streamloss.evaluate(data, **{**options, **more})


@cache
def expected(name: str) -> streamloss.Report:
    arrays, options = CASES[name]
    return evaluate(arrays, options, threads=1)


def without(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "by"}


def every_slice(report: streamloss.Report, at: int = 0) -> list[SliceReport]:
    """Also those without used rows, which a report leaves out."""
    return slices_of(report.state.slices[at], report.state.options)


# ---- the law: a slice is its rows alone


def assert_alike(found: dict[str, Metric], alone: dict[str, Metric], classes: int, place: object) -> None:
    """All metrics equal to the bit, but what a slice keeps less of: see `streamloss.slices`."""
    assert found.keys() == alone.keys(), place
    for key, theirs in alone.items():
        ours = found[key]
        if key == "mutual_information" and theirs.mean is not None:
            assert ours.mean is None and "slice" in (ours.reason or ""), place
        elif key == "adaptive_ece" and theirs.mean is not None:
            assert ours.mean is not None and math.isfinite(ours.mean) and 0 <= ours.mean <= 1, place
        elif key in ("normalized_cross_entropy", "d2") and classes > CLASSES:
            assert (ours.mean, ours.reason) == (theirs.mean, theirs.reason) and ours.stderr is None, place
        else:
            assert ours == theirs, (place, key)


@each_case
def test_a_slice_is_its_rows_alone(name: str) -> None:
    arrays, options = CASES[name]
    report = expected(name)
    slices = every_slice(report)
    assert [each.by["g"] for each in slices] == [-1, 0, 1, 2, 3, 5]
    for each in slices:
        rows = np.flatnonzero(arrays["g"] == each.by["g"])
        alone = evaluate(taken(arrays, rows), without(options))
        assert each.rows == alone.rows and each.rows["read"] == len(rows)
        assert each.weight == alone.body["weight"]
        assert_alike(each.metrics, alone.metrics, report.state.task.classes, (name, each.by))
    assert sum(each.rows["used"] for each in slices) == report.rows["used"] > N / 3


def test_the_cases_reach_everything() -> None:
    """Whole limbs beyond the windows, label counts in pages, a slice without used rows, infinite rows, weights out of range."""
    states = {name: expected(name).state for name in CASES}
    assert {name for name, state in states.items() if len(state.slices[0].arrays["wide"])} >= {
        "huge logits", "huge scores", "huge scores weighted", "binary far weights", "infinite weighted", "score weighted",
        "logits 300", "logits 3",
    }  # fmt: skip
    unused = {name for name, state in states.items() if (state.slices[0].arrays["ledger"][:, USED] == 0).any()}
    assert len(unused) >= 3
    assert sum(state.slices[0].arrays["infinite"].any() for state in states.values()) >= 8
    assert {state.task.classes for state in states.values()} == {0, 2, 3, 10, 20, 100, 300}
    assert {state.task.family for state in states.values()} == {"score", "binary", "categorical", "pair"}


# ---- together they are the whole


@each_case
def test_the_whole_is_what_it_is_without_slices(name: str) -> None:
    arrays, options = CASES[name]
    report, plain = expected(name), evaluate(arrays, without(options))
    for key, array in plain.state.arrays.items():
        assert np.array_equal(report.state.arrays[key], array), key
    assert (report.metrics, report.rows) == (plain.metrics, plain.rows)
    ours, theirs = report.to_dict(histograms=True), plain.to_dict(histograms=True)
    for key in ("rows", "weight", "ledger", "metrics", "reliability", "per_class", "histograms"):
        assert ours[key] == theirs[key], key
    assert plain.slices == [] and theirs["slices"] == theirs["slicing"] == []


def test_several_ways_to_slice_are_each_as_alone() -> None:
    arrays, options = CASES["logits 10 float32"]
    arrays = arrays | {"h": np.arange(N) // 50, "name": [f"n{i % 3}" for i in range(N)]}
    ways = ["name", "g", "h,name", "name,g,h"]
    report = evaluate(arrays, options, by=ways, threads=2, batch_rows=40)
    for at, way in enumerate(ways):
        alone = evaluate(arrays, options, by=way)
        (settled,) = alone.state.slices
        assert report.state.slices[at].keys == settled.keys
        for key, array in settled.arrays.items():
            assert np.array_equal(report.state.slices[at].arrays[key], array)
        assert every_slice(report, at) == every_slice(alone)
        for key, array in alone.state.arrays.items():
            assert np.array_equal(report.state.arrays[key], array)
    assert [entry["by"] for entry in report.to_dict()["slicing"]] == [way.split(",") for way in ways]


@pytest.mark.parametrize("kind", ["binary", "binary weighted", "categorical"])
def test_adaptive_ece_is_cut_along_fewer_bins(kind: str) -> None:
    """Equal to the bit where scores are far enough apart for 300 bins to tell them, near it where they are anywhere."""
    r = np.random.default_rng(4)
    n = 6000
    apart, y, g = (r.integers(0, 300, n) + 0.5) / 300, r.integers(0, 2, n), r.integers(0, 3, n)
    more = {"weight": r.random(n)} if "weighted" in kind else {}
    for scores, tolerance in ((apart, 0.0), (r.random(n), 0.01)):
        arrays: Arrays = {"prob": scores, "label": y, "g": g, **more}
        if kind == "categorical":
            top = 0.5 + scores / 2 if tolerance else np.where(scores > 0.5, scores, 1 - scores)
            arrays = {"probs": np.stack([top, 1 - top], axis=1), "label": y, "g": g}
        for each in streamloss.evaluate(arrays, by="g").slices:
            alone = streamloss.evaluate(taken(arrays, g == each.by["g"])).metrics["adaptive_ece"].mean
            ours = each.metrics["adaptive_ece"].mean
            assert ours is not None and alone is not None and alone > 0.1
            assert abs(ours - alone) <= tolerance


# ---- however the rows came


@each_case
def test_order_threads_and_batches(name: str) -> None:
    arrays, options = CASES[name]
    wanted = expected(name).digest
    for threads, rows in ((1, 1), (1, 50), (2, 7), (3, 17), (2, 1000)):
        assert evaluate(arrays, options, threads=threads, batch_rows=rows).digest == wanted, (threads, rows)
    for seed in (1, 2):
        shuffled = taken(arrays, np.random.default_rng(seed).permutation(N))
        assert evaluate(shuffled, options, threads=seed, batch_rows=50).digest == wanted
    other = arrays | {"g": arrays["g"] + 1}
    assert evaluate(other, options).digest != wanted


@each_case
def test_sorted_or_not_and_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are put in order before or after their values are known, and added up in pieces, by their length alone."""
    arrays, options = CASES[name]
    for short, chunk in ((1 << 20, 16), (1 << 20, 1000), (0, 16)):
        monkeypatch.setattr(measure, "_SHORT_ROW", short)
        monkeypatch.setattr(measure, "_CHUNK", chunk)
        found = evaluate(arrays, options, by=["g"], threads=2)
        assert found.digest == expected(name).digest, (short, chunk)


@each_case
def test_digits_are_carried_on_the_way(name: str) -> None:
    arrays, options = CASES[name]
    asked = Options.of(**options)
    source = open_input(arrays, asked)
    accumulator = Accumulator(source.task, asked, 1)
    accumulator.most_rows = 33
    for batch in source.stream():
        accumulator.add(batch)
    assert accumulator.state().digest == accumulator.state().digest == expected(name).digest


@each_case
def test_files_and_readers(name: str, tmp_path: Path) -> None:
    arrays, options = CASES[name]
    wanted = expected(name).digest
    pq.write_table(table(arrays), tmp_path / "one.parquet", row_group_size=60)
    many = tmp_path / "many"
    many.mkdir()
    for i, (a, b) in enumerate(itertools.pairwise((0, 1, 40, N))):
        pq.write_table(table(taken(arrays, slice(a, b))), many / f"{i}.parquet", row_group_size=13)
    ways = [
        ("one.parquet", "pages", 1, None),
        ("one.parquet", "arrow", 3, 29),
        ("many", "auto", 3, None),
        ("many", "pages", 2, 29),
    ]
    for path, reader, threads, rows in ways:
        found = evaluate(tmp_path / path, options, reader=reader, threads=threads, batch_rows=rows)
        assert found.digest == wanted, (path, reader, threads)
    states = []
    for i in range(3):
        states.append(tmp_path / f"{i}.state")
        evaluate(many / f"{i}.parquet", options, save_state=states[-1])
    for some in (states, states[::-1]):
        merged = streamloss.merge(some)
        assert merged.digest == wanted and merged.slices == expected(name).slices and merged.metrics == expected(name).metrics


@each_case
def test_evaluators(name: str) -> None:
    arrays, options = CASES[name]
    pieces, one = in_pieces(arrays, options)
    wanted = expected(name).digest
    assert one(3, 0, 2, 1).report().digest == wanted
    assert one(0).merge(one(1)).merge(one(3, 2)).merge(one()).report().digest == wanted
    resumed = streamloss.Evaluator.from_bytes(one(0, 1).to_bytes()).update(pieces[3]).update(taken(arrays, slice(0)))
    late = one().merge(resumed).update(pieces[2])
    assert late.report().digest == wanted
    assert late.report().slices == expected(name).slices


def test_a_bad_row_leaves_an_evaluator_as_it_was() -> None:
    for name in ("logits 10 float32", "weighted", "pair", "logits 300"):
        arrays, options = CASES[name]
        evaluator = streamloss.Evaluator(**{**options, "on_invalid": "error"})
        evaluator.update(taken(arrays, slice(13, N)))
        before = evaluator.to_bytes()
        with pytest.raises(streamloss.DataError):
            evaluator.update(arrays | {"g": arrays["g"] + 100})
        assert evaluator.to_bytes() == before


# ---- the laws of merging, with slices beyond the cap on the way


KINDS = ("score", "binary weighted", "categorical", "pair")


@cache
def small(seed: int, n: int, kind: str, cap: int) -> State:
    """A few rows of many keys, as far as they reach under a cap of a few."""
    r = np.random.default_rng(seed)
    z = r.normal(size=(n, 3)) * 9
    z[r.random((n, 3)) < 0.05] = -np.inf
    far = np.ldexp(r.random(n) + 0.5, r.integers(-900, 900, n))
    arrays: Arrays = {
        "score": {"logprob": -far, "weight": far[::-1].copy(), "bytes": r.integers(0, 9, n)},
        "binary weighted": {"prob": r.integers(-1, 9, n) / 8, "label": r.integers(0, 2, n), "weight": r.random(n)},
        "categorical": {"logits": z, "label": r.integers(-1, 3, n), "bytes": r.integers(0, 9, n)},
        "pair": {"logits": z, "target_logits": r.normal(size=(n, 3))},
    }[kind]
    keys = {
        "a": pa.array(r.integers(-3, 4, n)),
        "b": pa.array([("", "x", "é", None)[i] for i in r.integers(0, 4, n)], pa.string()),
    }
    asked = {"by": ("a", "a,b"), "max_slices": cap, "on_invalid": "skip"}
    evaluator = streamloss.Evaluator(threads=1, **asked)
    return evaluator.update(arrays | keys).state()


def same(a: State, b: State) -> bool:
    equal = a.digest == b.digest
    for mine, theirs in zip(a.slices, b.slices, strict=True):
        every = all(np.array_equal(array, theirs.arrays[name]) for name, array in mine.arrays.items())
        assert not equal or (every and mine.keys == theirs.keys)
    return equal


three_of_a_kind = st.tuples(st.sampled_from(KINDS), st.sampled_from([1, 2, 3, 5, 100])).flatmap(
    lambda kind: st.lists(
        st.builds(small, st.integers(0, 5), st.integers(1, 12), st.just(kind[0]), st.just(kind[1])), min_size=3, max_size=3
    )
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a first time, kernels are compiled
@given(three_of_a_kind)
def test_merging_is_adding(three: list[State]) -> None:
    a, b, c = three
    before = [state.to_bytes() for state in three]
    assert same(a.merged(b), b.merged(a))
    assert same(a.merged(b).merged(c), a.merged(b.merged(c)))
    assert same(merge(three), merge(three[::-1]))
    empty = State.empty(a.task, a.options)
    assert same(a.merged(empty), a) and same(empty.merged(a), a) and same(empty.merged(empty), empty)
    assert same(State.from_bytes(merge(three).to_bytes()), merge(three))
    assert [state.to_bytes() for state in three] == before


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_first_keys_are_kept_whatever_came_first(data: st.DataObject) -> None:
    """Rows in any order, in batches of any size, by way of any number of states: the kept slices are as without a cap."""
    n, cap = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 6))
    keys = data.draw(st.lists(st.one_of(st.none(), st.integers(-5, 12)), min_size=n, max_size=n))
    size, parts = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    losses = np.arange(1.0, n + 1)
    evaluators = [streamloss.Evaluator(threads=1, by="g", max_slices=cap) for _ in range(parts)]
    for i, start in enumerate(range(0, n, size)):
        cut = slice(start, start + size)
        evaluators[i % parts].update({"logprob": -losses[cut], "g": pa.array(keys[cut], pa.int64())})
    whole = evaluators[0]
    for other in evaluators[1:]:
        whole.merge(other)
    report = whole.report()
    ordered = sorted(set(keys), key=lambda key: order((key,)))
    kept = ordered[:cap]
    found = {None if each.other else each.by["g"]: each for each in report.slices if not each.other}
    assert list(found) == kept
    for key, each in found.items():
        values = [loss for loss, own in zip(losses.tolist(), keys, strict=True) if own == key]
        assert each.rows["used"] == len(values) and each.metrics["cross_entropy"].mean == math.fsum(values) / len(values)
    rest = [loss for loss, own in zip(losses.tolist(), keys, strict=True) if own not in kept]
    others = [each for each in report.slices if each.other]
    assert sum(each.rows["used"] for each in others) == len(rest) and len(others) == bool(rest)
    for each in others:
        assert each.by == {"g": "(other)"} and each.metrics["cross_entropy"].mean == math.fsum(rest) / len(rest)
        assert report.slices[OTHER] is each
    facts = report.to_dict()["slicing"][0]
    assert facts["slices"] == len(kept) and facts["other"] == {"rows": len(rest)}
    alone = streamloss.evaluate({"logprob": -losses, "g": pa.array(keys, pa.int64())}, by="g", max_slices=cap)
    assert alone.digest == report.digest


@pytest.mark.parametrize("kind", KINDS)
def test_two_to_the_33_rows(kind: str) -> None:
    """Doubling a state 33 times: counters beyond 2^31 take the wider form, and come back from their bytes."""
    state = first = small(1, 12, kind, 3)
    for _ in range(33):
        state = state.merged(state)
    state = State.from_bytes(state.to_bytes())
    for mine, one in zip(state.slices, first.slices, strict=True):
        assert mine.keys == one.keys
        assert (mine.arrays["ledger"] == one.arrays["ledger"] << 33).all()
        if not state.task.weighted:
            assert (mine.arrays["pages"] == one.arrays["pages"].astype(np.int64) << 33).all()
        for large, little in zip(slices_of(mine, state.options), slices_of(one, first.options), strict=True):
            for key, metric in little.metrics.items():
                assert large.metrics[key].mean == metric.mean
                assert large.metrics[key].quantiles == metric.quantiles


# ---- what a report says of them


def test_the_reports_shape() -> None:
    data = {"prob": np.array([0.5, 0.25, 0.5, 1.0, 0.5]), "label": np.array([1, 1, 0, 0, 1]), "weight": [1, 2, 1, 1, 0],
            "a": ["x", "x", "y", None, "z"], "b": np.array([True, True, False, True, False])}  # fmt: skip
    report = streamloss.evaluate(data, by=["a", "b,a"]).to_dict()
    assert [entry["by"] for entry in report["slices"]] == [
        {"a": None}, {"a": "x"}, {"a": "y"}, {"b": False, "a": "y"}, {"b": True, "a": None}, {"b": True, "a": "x"},
    ]  # fmt: skip
    for entry in report["slices"]:
        assert list(entry) == ["by", "rows", "weight", "metrics"]
        assert list(entry["metrics"]) == list(report["metrics"])
        assert list(entry["rows"]) == list(report["rows"])
        for key, metric in entry["metrics"].items():
            assert {"mean", "title", "unit"} <= metric.keys(), key
            assert (metric["title"], metric["unit"]) == (report["metrics"][key]["title"], report["metrics"][key]["unit"])
    x = report["slices"][1]
    assert x["rows"] == {"read": 2, "used": 2, "ignored": 0, "invalid": 0} and x["weight"] == 3.0
    assert x["metrics"]["cross_entropy"]["mean"] == pytest.approx(math.log(2) * 5 / 3)
    assert report["slices"][0]["metrics"]["cross_entropy"]["mean"] == "inf"  # strict JSON
    one, two = report["slicing"]
    assert list(one) == list(two) == ["by", "slices", "shown", "small", "other", "macro"]
    assert one["by"] == ["a"] and two["by"] == ["b", "a"]
    # z has a row of weight 0, and so is there but not shown
    assert (one["slices"], one["shown"], one["small"], one["other"]) == (4, 3, {"slices": 1, "rows": 0}, {"rows": 0})


def test_macro_means_count_every_shown_slice_once() -> None:
    p = np.array([0.5] * 6 + [0.25] * 3 + [0.125])
    data = {"prob": p, "label": np.ones(10, dtype=int), "g": [0] * 6 + [1] * 3 + [2]}
    for least, slices in ((1, 3), (2, 2), (4, 1)):
        report = streamloss.evaluate(data, by="g", min_slice_rows=least)
        facts = report.to_dict()["slicing"][0]
        means = [report.slices[i].metrics["cross_entropy"].mean or 0 for i in range(slices)]
        assert facts["macro"]["cross_entropy"] == {
            "mean": math.fsum(means) / slices, "slices": slices, "title": "cross-entropy", "unit": "nat",
        }  # fmt: skip
        assert facts["shown"] == len(report.slices) == slices and facts["slices"] == 3
        assert facts["small"] == {"slices": 3 - slices, "rows": {3: 0, 2: 1, 1: 4}[slices]}
    assert "normalized_cross_entropy" not in facts["macro"]  # which no slice has: its labels are all the same
    none = streamloss.evaluate(data, by="g", min_slice_rows=7)
    assert none.slices == [] and none.to_dict()["slicing"][0]["macro"] == {}


def test_macro_means_leave_out_the_rows_beyond_the_cap() -> None:
    data = {"logprob": -np.arange(1.0, 7.0), "g": np.arange(6)}
    report = streamloss.evaluate(data, by="g", max_slices=2)
    facts = report.to_dict()["slicing"][0]
    assert [each.by["g"] for each in report.slices] == ["(other)", 0, 1]
    assert (facts["slices"], facts["shown"], facts["small"]) == (2, 2, {"slices": 0, "rows": 0})
    assert facts["macro"]["cross_entropy"]["mean"] == 1.5 and facts["macro"]["cross_entropy"]["slices"] == 2
    assert facts["other"] == {"rows": 4} and facts["slices"] == 2


def test_infinite_slices_make_an_infinite_macro_mean() -> None:
    data = {"prob": np.array([0.0, 0.5]), "label": np.array([1, 1]), "g": np.array([0, 1])}
    macro = streamloss.evaluate(data, by="g").to_dict()["slicing"][0]["macro"]
    assert macro["cross_entropy"]["mean"] == macro["perplexity"]["mean"] == "inf"


def test_how_slices_are_shown_is_no_part_of_them() -> None:
    data = {"logprob": -np.arange(1.0, 7.0), "g": np.arange(6) // 2}
    wanted = streamloss.evaluate(data, by="g").digest
    assert streamloss.evaluate(data, by="g", min_slice_rows=2, unit="bit", quantiles=(0.5,)).digest == wanted
    assert streamloss.evaluate(data, by="g", max_slices=2).digest != wanted
    assert streamloss.evaluate(data).digest != wanted
    in_bits = streamloss.evaluate(data, by="g", unit="bit").slices[0].metrics["cross_entropy"]
    assert in_bits.unit == "bit" and in_bits.mean == pytest.approx(1.5 / math.log(2))


@pytest.mark.parametrize("by", ["group", "label_name,group"])
def test_the_sample_by_slice(by: str) -> None:
    """All slices of a real file against its rows alone, by the table."""
    whole = pq.read_table(PATH)
    names = by.split(",")
    slices = streamloss.evaluate(PATH, by=by).slices
    keys = list(zip(*(whole[name].to_pylist() for name in names), strict=True))
    assert [tuple(each.by.values()) for each in slices] == sorted(set(keys), key=order)
    for each in slices[:: 1 if len(names) == 1 else 7]:
        alone = streamloss.evaluate(whole.filter([key == tuple(each.by.values()) for key in keys]))
        assert_alike(each.metrics, alone.metrics, 10, each.by)
