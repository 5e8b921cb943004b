"""SPEC §5: the same rows have one digest, whatever the threads, chunks, order, files, layout or processor; sums are exact.

Run as a program this file prints the digest of every case: that is how the processors are compared, each in a process of its
own with Numba told to compile for it.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamloss
from streamloss.reading.memory import from_arrays
from streamloss.state import State

N = 130
Arrays = dict[str, np.ndarray]
Case = tuple[Arrays, dict[str, Any]]


def logits(n: int, k: int, dtype: Any, seed: int = 0) -> np.ndarray:
    """Every value in a range that matters, −inf too; rows 3, 5 and 7 break a rule."""
    r = np.random.default_rng(1000 * k + seed)
    z = (r.normal(size=(n, k)) * r.choice([0.01, 1, 30], size=(n, 1))).astype(dtype)
    z[r.random((n, k)) < 0.03] = -np.inf
    z[:, 0] = np.where(np.isneginf(z).all(axis=1), 0, z[:, 0])
    z[3, 1], z[5, 0], z[7] = np.nan, np.inf, -np.inf
    return z


def probs(n: int, k: int, dtype: Any, seed: int = 0) -> np.ndarray:
    """Shares of counts, zeros among them; row 4 sums to 2, row 6 holds a negative one."""
    counts = np.random.default_rng(2000 * k + seed).integers(0, 9, size=(n, k)).astype(np.float64)
    counts[:, -1] += 1
    p = (counts / counts.sum(axis=1, keepdims=True)).astype(dtype)
    p[4] *= 2
    p[6, :2] = -0.5, p[6, :2].sum() + 0.5
    return p


def logprobs(n: int, k: int, dtype: Any) -> np.ndarray:
    """ln of 1/2, 1/4, … and the rest, in any order."""
    halves = np.array([*range(1, k), k - 1])
    r = np.random.default_rng(k)
    return (-math.log(2) * np.stack([r.permutation(halves) for _ in range(n)])).astype(dtype)


def labels(n: int, k: int) -> np.ndarray:
    """Classes, the most of them the last; rows 8 and 9 are none."""
    y = np.minimum(np.random.default_rng(k).integers(0, 2 * k, size=n), k - 1)
    y[8:10] = k, -1
    return y


def chances(n: int, dtype: Any) -> np.ndarray:
    """Probabilities with the exact 0 and 1, and near them; rows 3 and 5 break a rule."""
    p = np.random.default_rng(5).integers(0, 1025, size=n) / 1024
    p[:3] = 1e-30, 2**-149, 1 - 2**-24
    p[3], p[5] = np.nan, 1.5
    return p.astype(dtype)


def weights(n: int) -> np.ndarray:
    """Weights of many sizes, and 0; rows 11 and 12 break the rule."""
    w = np.random.default_rng(6).integers(0, 1000, size=n) * 2.0 ** np.random.default_rng(7).integers(-60, 20, size=n)
    w[11:13] = -1, np.inf
    return w


def cases() -> dict[str, Case]:
    n, soft = N, np.random.default_rng(8).integers(0, 257, size=N) / 256
    hard = labels(n, 2)
    hard[8:10] = 1
    return {
        "binary prob hard": ({"prob": chances(n, np.float64), "label": hard}, {"focal_gamma": 2.0, "focal_alpha": 0.25}),
        "binary prob soft": ({"prob": chances(n, np.float64), "label": soft}, {"pos_weight": 3.0}),
        "binary logit hard": ({"logit": logits(n, 2, np.float64)[:, 1], "label": hard}, {"temperature": 1.7}),
        "binary logit soft": ({"logit": logits(n, 2, np.float64)[:, 1], "label": soft, "weight": weights(n)}, {}),
        "logits 10 float32": ({"logits": logits(n, 10, np.float32), "label": labels(n, 10)}, {}),
        "logits 10 float16": ({"logits": logits(n, 10, np.float16), "label": labels(n, 10)}, {"focal_gamma": 1.5}),
        "logits 10 float64": ({"logits": logits(n, 10, np.float64), "label": labels(n, 10)}, {"label_smoothing": 0.1}),
        "logits 100 float32": ({"logits": logits(n, 100, np.float32), "label": labels(n, 100)}, {"temperature": 0.3}),
        "logits 100 float16": ({"logits": logits(n, 100, np.float16), "label": labels(n, 100)}, {}),
        "logits 100 float64": ({"logits": logits(n, 100, np.float64), "label": labels(n, 100)}, {"top_k": (1, 2, 50)}),
        "probs 10": ({"probs": probs(n, 10, np.float64), "label": labels(n, 10)}, {"zero": "clip:1e-7"}),
        "probs 10 float16": ({"probs": probs(n, 10, np.float16), "label": labels(n, 10)}, {}),
        "probs 100 normalized": ({"probs": probs(n, 100, np.float32), "label": labels(n, 100)}, {"normalize": True}),
        "logprobs 10": (
            {"logprobs": logprobs(n, 10, np.float64), "label": labels(n, 10)},
            {"metrics": "cross_entropy,mutual_information,ece", "class_weights": tuple(range(10))},
        ),
        "weighted": ({"logits": logits(n, 10, np.float32), "label": labels(n, 10), "weight": weights(n)}, {}),
        "pair": (
            {"logits": logits(n, 10, np.float32), "target_probs": probs(n, 10, np.float64), "label": labels(n, 10)},
            {"focal_gamma": 2.0},
        ),
        "pair weighted": (
            {
                "logits": logits(n, 10, np.float32),
                "target_probs": probs(n, 10, np.float64),
                "label": labels(n, 10),
                "weight": weights(n),
                "mask": soft < 0.8,
            },
            {"metrics": "kl_divergence,reverse_kl_divergence,js_divergence,same_top,mutual_information"},
        ),
        "score": (
            {"logprob": np.log2(chances(n, np.float64), where=chances(n, np.float64) > 0, out=np.full(n, -np.inf)),
             "bytes": np.arange(n)},
            {},
        ),
        "score weighted": (
            {"logprob": -np.ldexp(1.0 + soft, np.random.default_rng(9).integers(-1000, 1000, size=n)), "bytes": np.arange(n),
             "weight": weights(n)},
            {},
        ),
    }  # fmt: skip


CASES = cases()


def digest(data: Any, options: dict[str, Any], **more: Any) -> str:
    return streamloss.evaluate(data, on_invalid="skip", **{**options, **more}).digest


@cache
def expected(name: str) -> str:
    return digest(*CASES[name], threads=1)


def taken(arrays: Arrays, rows: Any) -> Arrays:
    return {name: array[rows] for name, array in arrays.items()}


def in_pieces(arrays: Arrays, options: dict[str, Any]) -> tuple[list[Arrays], Callable[..., streamloss.Evaluator]]:
    """The rows in four pieces, and an evaluator of any of them by their numbers."""
    pieces = [taken(arrays, slice(a, b)) for a, b in itertools.pairwise((0, 1, 30, 77, N))]

    def one(*at: int) -> streamloss.Evaluator:
        evaluator = streamloss.Evaluator(threads=2, **options)
        for i in at:
            evaluator.update(pieces[i])
        return evaluator

    return pieces, one


def shuffled(arrays: Arrays, seed: int = 1) -> Arrays:
    return taken(arrays, np.random.default_rng(seed).permutation(N))


def table(arrays: Arrays) -> pa.Table:
    """The arrays with K-class columns as ordinary lists."""
    plain = pa.Table.from_batches([from_arrays(arrays)])
    fields = [
        field.with_type(pa.list_(field.type.value_type)) if pa.types.is_fixed_size_list(field.type) else field
        for field in plain.schema
    ]
    return plain.cast(pa.schema(fields))


each_case = pytest.mark.parametrize("name", CASES)


@each_case
def test_the_cases_say_something(name: str) -> None:
    """Rows are used, left out, infinite where they can be; another row is another digest."""
    arrays, options = CASES[name]
    report = streamloss.evaluate(arrays, on_invalid="skip", **options)
    assert report.rows["used"] > N / 2
    assert report.rows["invalid"] or name == "score"
    first = int(np.flatnonzero(report_codes(arrays, options))[0])
    fewer = taken(arrays, [i for i in range(N) if i != first])
    assert digest(fewer, options) != expected(name)


def report_codes(arrays: Arrays, options: dict[str, Any]) -> np.ndarray:
    """Which of the first rows are used, one at a time."""
    used = []
    for i in range(16):
        one = streamloss.evaluate(taken(arrays, [i]), on_invalid="skip", **options)
        used.append(one.rows["used"])
    return np.array(used)


@each_case
def test_threads_and_chunks(name: str) -> None:
    arrays, options = CASES[name]
    for threads, rows in itertools.product((1, 2, 4), (1, 7, 1000)):
        assert digest(arrays, options, threads=threads, batch_rows=rows) == expected(name), (threads, rows)


@each_case
def test_the_order_of_the_rows(name: str) -> None:
    arrays, options = CASES[name]
    for seed, threads in ((1, 1), (2, 2), (3, 4)):
        assert digest(shuffled(arrays, seed), options, threads=threads, batch_rows=50) == expected(name)


@each_case
def test_files_and_row_groups(name: str, tmp_path: Path) -> None:
    arrays, options = CASES[name]
    pq.write_table(table(arrays), tmp_path / "one.parquet")
    pq.write_table(table(shuffled(arrays)), tmp_path / "groups.parquet", row_group_size=10)
    many = tmp_path / "thirteen"
    many.mkdir()
    for i in range(13):
        part = taken(arrays, slice(10 * i, 10 * i + 10))
        pq.write_table(table(part), many / f"{i}.parquet", row_group_size=10 if i % 2 else 3)
    for path, threads, rows in itertools.product(("one.parquet", "groups.parquet", "thirteen"), (1, 4), (None, 7)):
        found = digest(tmp_path / path, options, threads=threads, batch_rows=rows)
        assert found == expected(name), (path, threads, rows)


WRITERS: tuple[dict[str, Any], ...] = (
    *({"compression": codec} for codec in ("snappy", "gzip", "brotli", "lz4", "zstd")),
    {"use_compliant_nested_type": False},
    {"use_dictionary": False, "compression": None},
    {"use_dictionary": True, "dictionary_pagesize_limit": 64},
    {"version": "1.0", "data_page_version": "1.0"},
    {"version": "2.6", "data_page_version": "2.0"},
    {"use_dictionary": False, "column_encoding": "BYTE_STREAM_SPLIT", "compression": "zstd"},
    {"data_page_size": 100, "write_batch_size": 3},
    {"store_schema": False},
    {"write_page_checksum": True, "write_statistics": False},
)


@pytest.mark.parametrize("writer", WRITERS, ids=str)
def test_encodings(writer: dict[str, Any], tmp_path: Path) -> None:
    if not pa.Codec.is_available(codec := writer.get("compression") or "snappy"):
        pytest.skip(f"this pyarrow has no {codec}")
    for name in ("logits 10 float32", "pair", "score weighted"):
        arrays, options = CASES[name]
        whole = table(arrays)
        how = dict(writer)
        if "column_encoding" in how:
            floats = {f.name: f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name
                      for f in whole.schema if not pa.types.is_integer(f.type)}  # fmt: skip
            how["column_encoding"] = dict.fromkeys(floats.values(), how["column_encoding"])
        pq.write_table(whole, tmp_path / "a.parquet", row_group_size=40, **how)
        assert digest(tmp_path / "a.parquet", options) == expected(name)


def layouts(z: np.ndarray) -> dict[str, dict[str, pa.Array]]:
    n, k = z.shape
    flat = pa.array(z.ravel())
    at = np.arange(0, n * k + 1, k)
    return {
        "list": {"logits": pa.ListArray.from_arrays(pa.array(at, pa.int32()), flat)},
        "large_list": {"logits": pa.LargeListArray.from_arrays(pa.array(at, pa.int64()), flat)},
        "fixed_size_list": {"logits": pa.FixedSizeListArray.from_arrays(flat, k)},
        "fixed_size_binary": {"logits": pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * k), n, [None, flat.buffers()[1]])},
        "wide": {f"z_{j}": pa.array(np.ascontiguousarray(z[:, j])) for j in range(k)},
    }  # fmt: skip


@pytest.mark.parametrize("layout", layouts(np.zeros((1, 2), np.float32)))
@pytest.mark.parametrize("name", ["logits 10 float32", "weighted"])
def test_layouts(name: str, layout: str, tmp_path: Path) -> None:
    arrays, options = CASES[name]
    more = {"dtype": "float32"} if layout == "fixed_size_binary" else {}
    more |= {"logits": "z_*"} if layout == "wide" else {}
    others = {column: pa.array(array) for column, array in arrays.items() if column != "logits"}
    whole = pa.table({**others, **layouts(arrays["logits"])[layout]})
    assert digest(whole, options, **more) == expected(name)
    pq.write_table(whole, tmp_path / "a.parquet", row_group_size=33)
    assert digest(tmp_path / "a.parquet", options, batch_rows=20, **more) == expected(name)


def stream(whole: pa.Table, rows: int) -> BytesIO:
    sink = BytesIO()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=rows)
    return BytesIO(sink.getvalue())


@each_case
def test_where_the_rows_come_from(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, options = CASES[name]
    whole = table(arrays)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream(whole, 17)))
    assert digest("-", options) == expected(name)
    for data in (whole, pa.concat_tables([whole[100:], whole[:100]]), from_arrays(arrays), whole.to_reader(11)):
        assert digest(data, options) == expected(name)


@each_case
def test_batches_and_evaluators_in_any_grouping(name: str) -> None:
    arrays, options = CASES[name]
    pieces, one = in_pieces(arrays, {**options, "on_invalid": "skip"})
    assert one(3, 0, 2, 1).report().digest == expected(name)
    left = one(0).merge(one(1)).merge(one(3, 2)).merge(one())
    right = one().merge(one(3).merge(one(2).merge(one().merge(one(1).merge(one(0))))))
    assert left.report().digest == right.report().digest == expected(name)
    # An evaluator goes on after a merge, after bytes, and when it begins with one.
    resumed = streamloss.Evaluator.from_bytes(one(0, 1).to_bytes()).update(pieces[3]).update(taken(arrays, slice(0)))
    late = one().merge(resumed).update(pieces[2])
    assert late.report().digest == expected(name)


@each_case
def test_a_refused_batch_leaves_nothing_behind(name: str) -> None:
    """What had been added of it before its bad row was met is taken away again, to the last bit."""
    arrays, options = CASES[name]
    good = taken(arrays, slice(13, N))
    plain, refusing = streamloss.Evaluator(threads=2, **options), streamloss.Evaluator(threads=2, **options)
    plain.update(good)
    refusing.update(good)
    with pytest.raises(streamloss.DataError):
        refusing.update(taken(arrays, slice(0, N)))
    assert refusing.report().digest == plain.report().digest
    assert refusing.update(good).report().digest == plain.update(good).report().digest


@each_case
def test_saved_states_in_any_order(name: str, tmp_path: Path) -> None:
    arrays, options = CASES[name]
    saved = []
    for i, (a, b) in enumerate(itertools.pairwise((0, 20, 55, N))):
        pq.write_table(table(taken(arrays, slice(a, b))), tmp_path / f"{i}.parquet")
        state = tmp_path / f"{i}.state"
        digest(tmp_path / f"{i}.parquet", options, save_state=state, threads=i + 1)
        saved.append(state)
    reports = [streamloss.merge(order) for order in itertools.permutations(saved)]
    assert {report.digest for report in reports} == {expected(name)}
    whole = streamloss.evaluate(arrays, on_invalid="skip", **options)
    for report in reports:
        assert report.metrics == whole.metrics
        assert report.rows == whole.rows


def test_labels_by_name_or_number() -> None:
    arrays, options = CASES["logits 10 float32"]
    names = [f"class {k}" for k in range(10)]
    text = [names[y] if 0 <= y < 10 else "elsewhere" for y in arrays["label"]]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        named = pa.table({"logits": table(arrays)["logits"], "label": pa.array(text).cast(kind)})
        assert digest(named, options, classes=names) == expected("logits 10 float32")
    for kind in (np.int8, np.int16, np.int32):
        numbered = {**arrays, "label": arrays["label"].astype(kind)}
        assert digest(numbered, options) == expected("logits 10 float32")


def test_how_it_is_shown_is_no_part_of_it() -> None:
    arrays, options = CASES["weighted"]
    for shown in ({"unit": "bit"}, {"unit": "ban"}, {"quantiles": (0.5,)}, {"confidence": 0.5}):
        assert digest(arrays, options, **shown) == expected("weighted")
    assert digest(arrays, options, temperature=1.5) != expected("weighted")
    assert digest(arrays, options, bins=10) != expected("weighted")


# ---- processors


def features() -> set[str]:
    from numba.core.codegen import get_host_cpu_features

    return {word[1:] for word in get_host_cpu_features().split(",") if word.startswith("+")}


# What Numba may be told to compile for, with which features (those of the host would be used otherwise), and what this machine
# must have to run it: 512-bit vectors (256 bits are preferred unless told), 256 bits with fused multiply-add, and neither.
PROCESSORS: dict[str, tuple[str, set[str]]] = {
    "skylake-avx512": ("-prefer-256-bit", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    "haswell": ("", {"avx2", "fma", "bmi2"}),
    "generic": ("", set()),
}
# Kernels of other processors have to be compiled, so that these are the cases of three of them.
COMPILED = ("binary logit soft", "logits 10 float16", "logits 100 float16", "probs 10 float16", "score weighted")


@pytest.fixture(scope="module")
def processors(request: pytest.FixtureRequest) -> dict[str, dict[str, str]]:
    """The digests of every case by processor; the compiled kernels stay in pytest's cache."""
    can, running = features(), {}
    for cpu, (tuned, needs) in PROCESSORS.items():
        if needs <= can:
            env = os.environ | {
                "NUMBA_CPU_NAME": cpu,
                "NUMBA_CPU_FEATURES": tuned,
                "STREAMLOSS_CACHE_DIR": str(request.config.cache.mkdir(f"streamloss-{cpu}")),
            }
            running[cpu] = subprocess.Popen(
                [sys.executable, __file__], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
    found = {}
    try:
        for cpu, process in running.items():
            out, complaints = process.communicate(timeout=600)
            assert process.returncode == 0, f"{cpu}: {complaints}"
            found[cpu] = json.loads(out)
    finally:
        for process in running.values():
            process.kill()
    return found


@pytest.mark.parametrize("cpu", PROCESSORS)
def test_processors(cpu: str, processors: dict[str, dict[str, str]]) -> None:
    if cpu not in processors:
        pytest.skip(f"this machine cannot run code for {cpu}")
    assert processors[cpu] == {name: expected(name) for name in COMPILED}


# ---- sums


def ulps(a: float, b: float) -> float:
    return abs(a - b) / math.ulp(b)


def exact_root(square: Fraction) -> float:
    """The square root of a rational, rounded once."""
    if square == 0:
        return 0.0
    shift = 2 * max(0, 120 - (square.numerator.bit_length() - square.denominator.bit_length()) // 2)
    return float(Fraction(math.isqrt((square.numerator << shift) // square.denominator), 1 << (shift // 2)))


def exact(values: list[float], weights: list[float] | None = None) -> tuple[float, float]:
    """Mean and standard error of finite values, from rationals."""
    x = [Fraction(v) for v in values]
    w = [Fraction(1)] * len(x) if weights is None else [Fraction(v) for v in weights]
    n, total = len(x), sum(w)
    mean = sum(a * b for a, b in zip(w, x, strict=True)) / total
    square = Fraction(n, n - 1) * sum((a * (b - mean)) ** 2 for a, b in zip(w, x, strict=True)) / total**2
    return float(mean), exact_root(square)


EXTREME = [1e-300, 1e300, 5e-324, 2.0**-1022, 1.7e308, 0.1, 1 / 3, 2.0**-39, 2.0**11, 0.0, 1e16, 1.0]
WEIGHTS = [1e300, 1e-300, 1.0, 5e-324, 1e-17, 3.0, 2.0**-1022, 1e15, 0.1, 7.0, 1e-300, 1e200]


def check_moments(values: list[float], weights: list[float] | None = None) -> None:
    arrays = {"logprob": -np.array(values)}
    if weights is not None:
        arrays["weight"] = np.array(weights)
    found = streamloss.evaluate(arrays).metrics["cross_entropy"]
    mean, stderr = exact(values, weights)
    assert found.mean == found.finite_mean == mean
    assert found.infinite == 0
    assert (found.min, found.max) == (min(values), max(values))
    assert found.stderr is not None
    assert ulps(found.stderr, stderr) <= 1, (found.stderr, stderr)


def test_the_mean_is_the_exact_mean_rounded_once() -> None:
    check_moments(EXTREME)
    check_moments([0.1] * 10)
    check_moments([1e16, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300, 1e-150], ids=str)
def test_the_weighted_mean_is_the_exact_mean_rounded_once(scale: float) -> None:
    check_moments([0.1, 1 / 3, 2.5, 7.0], [scale * w for w in (1.0, 2.0, 0.1, 3.0)])
    check_moments([1e-300, 1e300, 5e-324], [scale, scale / 3, scale / 7])


def test_weights_of_all_sizes_beside_values_of_all_sizes() -> None:
    check_moments(EXTREME, WEIGHTS)
    check_moments(EXTREME, WEIGHTS[::-1])
    check_moments([1e300, 2e300, 5e300], [1e300] * 3)
    check_moments([1e-300, 2e-300, 5e-300], [1e-300] * 3)


anything = st.floats(min_value=0, max_value=1.7e308, allow_subnormal=True)
mostly_usual = st.one_of(st.floats(0, 30), st.floats(2.0**-39, 2.0**11), anything)


@settings(max_examples=60, deadline=None)
@given(st.lists(mostly_usual, min_size=2, max_size=40))
def test_any_values(values: list[float]) -> None:
    check_moments(values)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(mostly_usual, anything.filter(lambda w: 0 < w < 1e300)), min_size=2, max_size=20))
def test_any_weighted_values(rows: list[tuple[float, float]]) -> None:
    check_moments([v for v, _ in rows], [w for _, w in rows])


def test_infinite_rows_are_counted_and_never_added() -> None:
    values = [*EXTREME, math.inf, math.inf]
    found = streamloss.evaluate({"logprob": -np.array(values)}).metrics["cross_entropy"]
    mean, stderr = exact(EXTREME)
    assert (found.mean, found.finite_mean, found.infinite, found.max) == (math.inf, mean, 2, math.inf)
    assert ulps(found.finite_stderr or 0.0, stderr) <= 1
    weights = [*WEIGHTS, 1e300, 3.0]
    found = streamloss.evaluate({"logprob": -np.array(values), "weight": np.array(weights)}).metrics["cross_entropy"]
    mean, stderr = exact(EXTREME, WEIGHTS)
    assert (found.mean, found.finite_mean, found.infinite, found.max) == (math.inf, mean, 2, math.inf)
    assert ulps(found.finite_stderr or 0.0, stderr) <= 1
    alone = streamloss.evaluate({"logprob": np.full(3, -math.inf)}).metrics["cross_entropy"]
    assert (alone.mean, alone.finite_mean, alone.finite_stderr, alone.infinite) == (math.inf, None, None, 3)


def test_a_sum_of_weights_beyond_float64_is_no_obstacle() -> None:
    """Σw overflows, the mean does not; the report is strict JSON all the same."""
    values = [0.25, 1.0, 3.5]
    report = streamloss.evaluate({"logprob": -np.array(values), "weight": np.full(3, 1.7e308)})
    assert report.metrics["cross_entropy"].mean == exact(values)[0]
    assert ulps(report.metrics["cross_entropy"].stderr or 0.0, exact(values)[1]) <= 1
    assert json.loads(report.to_json())["weight"] == "inf"


@pytest.mark.parametrize("power", [-1000, -100, -50, 50, 100, 900])
def test_the_scale_of_the_weights_changes_nothing(power: int) -> None:
    """Weights are relative: in other units every mean and error is the same. What is kept by bin or class takes weights from
    2^-60 to 2^53 and says so, rather than lose them, when there are others."""
    n = N - 20  # without the bad rows
    arrays = {"logits": logits(N, 10, np.float32)[20:], "label": labels(N, 10)[20:], "weight": 1.0 + np.arange(n) % 7}
    one = streamloss.evaluate(arrays, zero="clip:1e-9")
    other = streamloss.evaluate({**arrays, "weight": arrays["weight"] * 2.0**power}, zero="clip:1e-9")
    held = abs(power) <= 50
    binned = {"label_entropy", "normalized_cross_entropy", "d2", "ece", "mce", "rmsce", "adaptive_ece"}
    for key, metric in one.metrics.items():
        if key in binned and not held:
            assert other.metrics[key].mean is None, key
            assert "scale the weights" in str(other.metrics[key].reason), key
            continue
        assert other.metrics[key].mean == pytest.approx(metric.mean, rel=1e-9, abs=1e-15), key
        assert other.metrics[key].stderr == (None if metric.stderr is None else pytest.approx(metric.stderr, rel=1e-12)), key
        if key != "target_entropy":  # 0 in every row
            assert other.metrics[key].quantiles == (metric.quantiles if held else None), key
    assert bool(other.to_dict()["reliability"]) == held
    assert bool(other.to_dict()["per_class"]) == held


def test_cancellation_leaves_no_error() -> None:
    """The error of nearly equal rows is that of their differences, however large the rows are."""
    values = [1e9 + i * 2.0**-20 for i in range(50)]
    random.Random(1).shuffle(values)
    check_moments(values)
    check_moments([7.7] * 100)
    check_moments([7.7] * 100, [0.3] * 100)


def test_the_state_holds_the_sums_to_the_last_bit() -> None:
    from streamloss.digits import limbs_value

    state: State = streamloss.evaluate({"logprob": -np.array(EXTREME), "weight": np.array(WEIGHTS)}).state
    pairs = [(Fraction(w), Fraction(x)) for w, x in zip(WEIGHTS, EXTREME, strict=True)]
    sums = [limbs_value(limbs) for limbs in state.arrays["moments"][0]]
    assert sums == [sum(w * x for w, x in pairs), sum(w * w * x for w, x in pairs), sum((w * x) ** 2 for w, x in pairs)]
    assert [limbs_value(limbs) for limbs in state.arrays["weight"]] == [sum(w for w, _ in pairs), sum(w * w for w, _ in pairs)]


if __name__ == "__main__":
    print(json.dumps({name: expected(name) for name in COMPILED}))
