"""The state: it merges like a sum, comes back from its bytes as it was, refuses what is not one, and holds exact numbers."""

from __future__ import annotations

import hashlib
import json
import math
import time
import tracemalloc
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamloss
from streamloss.digits import BUCKETS, FIXED_BITS, LIMB_BITS, LIMBS, fixed_units, fixed_value, limbs_value
from streamloss.errors import DataError, StreamlossError, UsageError
from streamloss.options import Options, Task
from streamloss.quantities import QUANTITIES
from streamloss.reading.source import open_input
from streamloss.running.measure import Accumulator
from streamloss.state import MAGIC, State, empty_arrays, fine_bins, layout, merge, normalize

HEADER = len(MAGIC) + 8


def state_of(arrays: dict[str, Any], **options: Any) -> State:
    asked = Options.of(on_invalid="skip", **options)
    source = open_input(arrays, asked)
    accumulator = Accumulator(source.task, asked, 2)
    for batch in source.stream():
        accumulator.add(batch)
    return accumulator.state()


@cache
def rows(seed: int, n: int, kind: str) -> State:
    """A small state of each family; some rows are bad, ignored or infinite."""
    r = np.random.default_rng(seed)
    if kind == "score":
        return state_of({"logprob": -np.ldexp(r.random(n) + 0.5, r.integers(-900, 900, n)), "weight": r.random(n) * 5})
    if kind == "binary":
        p = r.integers(-1, 9, n) / 8
        return state_of({"prob": p, "label": r.integers(0, 2, n)}, metrics="cross_entropy,ece,mutual_information")
    z = r.normal(size=(n, 3)) * 9
    z[r.random((n, 3)) < 0.1] = -np.inf
    if kind == "pair":
        return state_of({"logits": z, "target_logits": r.normal(size=(n, 3))}, metrics="kl_divergence,same_top")
    return state_of({"logits": z, "label": r.integers(-1, 3, n), "weight": r.random(n)}, ignore_index=-1)


KINDS = ("score", "binary", "categorical", "pair")


@cache
def sample(kind: str = "categorical") -> State:
    return rows(0, 20, kind)


def same(a: State, b: State) -> bool:
    assert a.arrays.keys() == b.arrays.keys()
    equal = all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)
    assert equal == (a.digest == b.digest)
    return equal


# ---- the laws of merging


of_a_kind = st.sampled_from(KINDS).flatmap(
    lambda kind: st.lists(st.builds(rows, st.integers(0, 5), st.integers(1, 12), st.just(kind)), min_size=3, max_size=3)
)


@settings(max_examples=25, deadline=None)
@given(of_a_kind)
def test_merging_is_adding(three: list[State]) -> None:
    a, b, c = three
    before = [s.digest for s in three]
    assert same(a.merged(b), b.merged(a))
    assert same(a.merged(b).merged(c), a.merged(b.merged(c)))
    assert same(merge(three), merge(three[::-1]))
    empty = State.empty(a.task, a.options)
    assert same(a.merged(empty), a) and same(empty.merged(a), a)
    assert same(empty.merged(empty), empty)
    assert same(merge([a]), a)
    assert [s.digest for s in three] == before


@settings(max_examples=10, deadline=None)
@given(of_a_kind)
def test_bytes_and_back(three: list[State]) -> None:
    for state in (three[0], merge(three), State.empty(three[0].task, three[0].options)):
        again = State.from_bytes(state.to_bytes())
        assert same(again, state)
        assert (again.task, again.options) == (state.task, state.options)
        assert (again.columns, again.inputs) == (state.columns, state.inputs)
        assert again.to_bytes() == state.to_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_merging_is_evaluating_all(kind: str) -> None:
    """Two halves make the whole, to the last bit of every array."""
    r = np.random.default_rng(3)
    z, y, w = r.normal(size=(40, 3)) * 9, r.integers(0, 3, 40), r.random(40)
    arrays: dict[str, dict[str, Any]] = {
        "score": {"logprob": -np.abs(z[:, 0]), "bytes": y},
        "binary": {"logit": z[:, 0], "label": y > 0, "weight": w},
        "categorical": {"logits": z, "label": y, "weight": w},
        "pair": {"logits": z, "target_logits": z[::-1], "label": y},
    }

    def part(rows: slice) -> State:
        return state_of({name: np.ascontiguousarray(array[rows]) for name, array in arrays[kind].items()})

    assert same(part(slice(0, 13)).merged(part(slice(13, 40))), part(slice(0, 40)))


def test_computing_twice_changes_nothing() -> None:
    arrays = {"logits": np.random.default_rng(0).normal(size=(9, 3)), "label": np.arange(9) % 3}
    options = Options()
    source = open_input(arrays, options)
    accumulator = Accumulator(source.task, options, threads=3)
    (batch,) = source.stream()
    accumulator.add(batch)
    first = accumulator.state()
    assert same(first, accumulator.state())
    accumulator.add(batch)
    assert same(accumulator.state(), first.merged(first))
    assert same(first, state_of(arrays))  # what was given away does not change afterwards


# ---- what does not merge


@pytest.mark.parametrize(
    "options",
    [{"temperature": 2.0}, {"label_smoothing": 0.1}, {"bins": 10}, {"zero": 1e-7}, {"focal_gamma": 2.0}, {"top_k": 1}],
)
def test_other_definitions_do_not_merge(options: dict[str, Any]) -> None:
    arrays = {"logits": np.random.default_rng(0).normal(size=(9, 3)), "label": np.arange(9) % 3}
    a, b = state_of(arrays), state_of(arrays, **options)
    assert a.digest != b.digest
    for first, second in ((a, b), (b, a)):
        with pytest.raises(StreamlossError):
            first.merged(second)


def test_other_tasks_do_not_merge() -> None:
    for kind in ("score", "binary", "pair"):
        with pytest.raises(StreamlossError):
            sample().merged(sample(kind))


def write(path: Path, arrays: dict[str, Any], **options: Any) -> Path:
    streamloss.evaluate(arrays, save_state=path, **options)
    return path


def test_saved_states_that_overlap_or_differ(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    z, y = np.random.default_rng(0).normal(size=(9, 3)), np.arange(9) % 3
    a = write(tmp_path / "a", {"logits": z, "label": y})
    with pytest.raises(DataError, match="overlap"):
        streamloss.merge([a, a])
    (tmp_path / "copy").write_bytes(a.read_bytes())
    with pytest.raises(DataError, match="overlap"):
        streamloss.merge([a, tmp_path / "copy"])
    for name, options in (("T", {"temperature": 2.0}), ("K", {"classes": "a,b,c"}), ("M", {"metrics": "entropy"})):
        b = write(tmp_path / name, {"logits": -z, "label": y}, **options)
        with pytest.raises(DataError, match="states differ in"):
            streamloss.merge([a, b])
    with pytest.raises(UsageError):
        streamloss.merge([])
    with pytest.raises(DataError, match="missing"):
        streamloss.merge([tmp_path / "missing"])
    # One file, by whatever name and among whatever others, counts once.
    files = [tmp_path / f"{i}.parquet" for i in range(3)]
    for i, file in enumerate(files):
        pq.write_table(pa.table({"logprob": -np.arange(1.0 + i)}), file)
    one = write(tmp_path / "one", [str(files[0]), str(files[1])])  # type: ignore[arg-type]
    two = write(tmp_path / "two", [str(files[1]), str(files[2])])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"overlap.*1\.parquet"):
        streamloss.merge([one, two])
    three = write(tmp_path / "three", [str(tmp_path / "." / "2.parquet")])  # type: ignore[arg-type]
    assert streamloss.merge([one, three]).digest == streamloss.evaluate([str(file) for file in files]).digest


def test_a_different_display_merges(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"logprob": -np.arange(3.0)}, unit="bit", quantiles=(0.5,))
    b = write(tmp_path / "b", {"logprob": -np.arange(4.0)}, unit="ban")
    assert streamloss.merge([a, b]).digest == streamloss.merge([b, a], unit="nat").digest


# ---- bytes that are no state


def sealed(header: Any, packed: bytes) -> bytes:
    """A state file with a checksum that is right, so that only the content can be refused."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = MAGIC + len(text).to_bytes(8, "little") + text + packed
    return body + hashlib.sha256(body).digest()


def opened(state: State) -> tuple[dict[str, Any], bytes]:
    data = state.to_bytes()
    stop = HEADER + int.from_bytes(data[len(MAGIC) : HEADER], "little")
    return json.loads(data[HEADER:stop]), data[stop:-32]


def test_taking_apart_and_putting_together() -> None:
    assert same(State.from_bytes(sealed(*opened(sample()))), sample())


def test_any_damage_is_noticed() -> None:
    data = sample().to_bytes()
    positions = {*range(0, len(data), max(1, len(data) // 150)), *range(HEADER + 4), *range(len(data) - 34, len(data))}
    for at in positions:
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(DataError, match=r"here\.state"):
            State.from_bytes(bytes(damaged), "here.state")
    for size in {*range(0, len(data), max(1, len(data) // 100)), len(data) - 1}:
        with pytest.raises(DataError):
            State.from_bytes(data[:size])
    for extra in (b"\0", data, data[-32:]):
        with pytest.raises(DataError):
            State.from_bytes(data + extra)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a streamloss state"),
        (b"PAR1" * 100, "not a streamloss state"),
        (MAGIC, "damaged"),
        (MAGIC[:-1], "version|not a streamloss state"),
        (MAGIC.replace(b"2", b"1") + b"rest", "another version"),
        (sealed(b"", b""), "cannot be read"),
        (sealed(b"[" * 100_000, b""), "cannot be read"),
        (sealed(b"\xff\xfe", b""), "cannot be read"),
        (sealed([], b""), "cannot be read"),
        (sealed({}, b""), "cannot be read"),
        (sealed(None, b""), "cannot be read"),
    ],
    ids=range(11),
)
def test_what_is_no_state(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        State.from_bytes(data)


def test_a_header_longer_than_the_file() -> None:
    for length in (2**64 - 1, 2**63, 2**31, 0):
        body = MAGIC + length.to_bytes(8, "little") + b"{}"
        with pytest.raises(DataError):
            State.from_bytes(body + hashlib.sha256(body).digest())


def bomb(size: int) -> bytes:
    """Zeros of `size` bytes in a deflate stream, a thousandth as large."""
    packer = zlib.compressobj(9)
    chunk = bytes(1 << 20)
    return b"".join([*(packer.compress(chunk) for _ in range(size >> 20)), packer.flush()])


def edited(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(header: dict[str, Any]) -> None:
        for name in path[:-1]:
            header = header[name]
        header[path[-1]] = value

    return edit


HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"classes {k}": edited("task", "classes", value=k)
       for k in (-1, 0, 1, 4, 2**31, 10**9, 2**61, 2**62, 2**63, 10**30, 3.0, "3", None, True, [3], 1e308)},
    **{f"family {f!r}": edited("task", "family", value=f) for f in ("nonsense", "score", "pair", None, 3, [])},
    **{f"form {f!r}": edited("task", "form", value=f) for f in ("nonsense", None)},
    **{f"label {f!r}": edited("task", "label", value=f) for f in ("none", "soft", "nonsense", None, 1)},
    **{f"weighted {f!r}": edited("task", "weighted", value=f) for f in (False, "yes", None)},
    "a strange task": edited("task", "more", value=1),
    "no task": edited("task", value={}),
    "a task that is text": edited("task", value="task"),
    **{f"bins {b!r}": edited("options", "bins", value=b) for b in (0, -1, 10_001, 2**40, 2.5, "15", True, 7777)},
    "metrics": edited("options", "metrics", value=["nonsense"]),
    "fewer metrics": edited("options", "metrics", value=["entropy"]),
    "many top-k": edited("options", "top_k", value=list(range(1, 1000))),
    "a large k": edited("options", "top_k", value=[10**30]),
    "an option": edited("options", "nonsense", value=1),
    "options that are a list": edited("options", value=[]),
    "a nested option": edited("options", "quantiles", value=[[0.5]]),
    "columns": edited("columns", value=3),
    "columns of numbers": edited("columns", value={"logits": 3}),
    "inputs": edited("inputs", value=3),
    "inputs of numbers": edited("inputs", value=[3]),
    "inputs without paths": edited("inputs", value=[{}]),
    "inputs of strange paths": edited("inputs", value=[{"path": 3, "bytes": "x", "rows": None}]),
    "digest": edited("digest", value="0" * 64),
    "no digest": edited("digest", value=None),
    "schema": edited("schema", value="streamloss.state/3"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(name: str, tmp_path: Path) -> None:
    """The checksum is right; what is refused is the content, at once and without much memory."""
    header, packed = opened(sample())
    HOSTILE[name](header)
    file = tmp_path / "hostile.state"
    file.write_bytes(sealed(header, packed))
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(DataError, match=r"hostile\.state"):
            streamloss.merge([file])
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("classes", [4, 10**6, 10**9])
def test_a_deflate_bomb_fills_no_memory(classes: int) -> None:
    header, _ = opened(sample())
    header["task"]["classes"] = classes
    data = sealed(header, bomb(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            State.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_arrays_of_another_size() -> None:
    header, packed = opened(sample())
    raw = zlib.decompress(packed)
    for other in (b"", raw[:-8], raw[:-1], raw + b"\0", raw + bytes(8), raw + bytes(1 << 20), raw[8:]):
        with pytest.raises(DataError):
            State.from_bytes(sealed(header, zlib.compress(other)))
    for other in (b"", packed[:-20], packed[: len(packed) // 2], b"\0" * 50):
        with pytest.raises(DataError):
            State.from_bytes(sealed(header, other))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ledger", -1),
        ("infinite", -1),
        ("infinite", 1000),
        ("classes", -1),
        ("reliability", -1),
        ("histogram", -1),
        ("histogram", 1 << FIXED_BITS),
        ("moments", -1),
        ("moments", 1 << LIMB_BITS),
        ("weight", 1 << 62),
    ],
)
def test_numbers_that_no_run_can_leave(name: str, value: int) -> None:
    """Counts below 0 and digits that are not canonical, under a digest and a checksum that are right."""
    state = State.from_bytes(sample().to_bytes())
    where = [0] * state.arrays[name].ndim
    if name == "histogram":
        where[-1] = 1 if value > 0 else 0
    state.arrays[name][tuple(where)] = value
    with pytest.raises(DataError):
        State.from_bytes(state.to_bytes())


# ---- numbers


def folded(values: list[float], weights: list[float] | None = None) -> State:
    arrays = {"logprob": -np.array(values)}
    return state_of(arrays if weights is None else arrays | {"weight": np.array(weights)})


losses = st.one_of(
    st.floats(0, 50),
    st.floats(0, 1.7976931348623157e308, allow_subnormal=True),
    st.sampled_from([0.0, 5e-324, 2.2250738585072014e-308, 1e308, 2.0**-39, math.nextafter(2.0**-39, 0), 2.0**11, 2047.999]),
)
amounts = st.one_of(
    st.floats(0.001, 100), st.floats(5e-324, 1.7976931348623157e308), st.sampled_from([5e-324, 1.0, 1e308, 2.0**-1022])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(losses, min_size=1, max_size=700))
def test_limbs_hold_the_sums(values: list[float]) -> None:
    (sums,) = folded(values).arrays["moments"]
    exact = [Fraction(v) for v in values]
    assert limbs_value(sums[0]) == sum(exact)
    assert limbs_value(sums[1]) == sum(v * v for v in exact)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(2.0**-21, 8.0, exclude_max=True), min_size=1, max_size=700), st.lists(losses, max_size=3))
def test_limbs_hold_the_sums_of_a_narrow_tile(values: list[float], others: list[float]) -> None:
    """Values of the fast way alone, and in one tile with values that are not."""
    (sums,) = folded(values + others).arrays["moments"]
    exact = [Fraction(v) for v in values + others]
    assert limbs_value(sums[0]) == sum(exact)
    assert limbs_value(sums[1]) == sum(v * v for v in exact)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(losses, amounts), min_size=1, max_size=30))
def test_limbs_hold_the_weighted_sums(pairs: list[tuple[float, float]]) -> None:
    state = folded([v for v, _ in pairs], [w for _, w in pairs])
    exact = [(Fraction(v), Fraction(w)) for v, w in pairs]
    (sums,) = state.arrays["moments"]
    assert limbs_value(sums[0]) == sum(w * v for v, w in exact)
    assert limbs_value(sums[1]) == sum(w * w * v for v, w in exact)
    assert limbs_value(sums[2]) == sum((w * v) ** 2 for v, w in exact)
    assert [limbs_value(limbs) for limbs in state.arrays["weight"]] == [sum(w for _, w in exact), sum(w * w for _, w in exact)]


def test_many_rows_of_the_largest_kind() -> None:
    """Addends at the edges of the fast path, and beyond it, in numbers that fill its blocks."""
    edges = [2.0**11, 2.0**-39, 2.0**-21, 8.0]
    for value in (*edges, *(math.nextafter(edge, 0) for edge in edges), 1.7976931348623157e308, 5e-324):
        (sums,) = folded([value] * 5000).arrays["moments"]
        assert limbs_value(sums[0]) == 5000 * Fraction(value)
        assert limbs_value(sums[1]) == 5000 * Fraction(value) ** 2


def test_extremes_and_counts() -> None:
    state = folded([3.0, 5e-324, math.inf, 0.0, 1e308])
    assert state.arrays["infinite"].tolist() == [1]
    assert state.arrays["histogram"].sum() == 5
    assert state.arrays["histogram"][0, BUCKETS - 1, 0] == 2  # infinity, and all from 2^128
    low, high = state.arrays["extremes"][0].tolist()
    assert (low, high) == (0, int(np.float64(math.inf).view(np.int64)))


integers = st.integers(-(2**62), 2**62)


@settings(max_examples=100, deadline=None)
@given(st.lists(integers, min_size=1, max_size=20))
def test_equal_sums_have_equal_limbs(digits: list[int]) -> None:
    """However the digits came about: canonical ones are alike, and as large as the sum that they stand for."""
    total = sum(d << (LIMB_BITS * i) for i, d in enumerate(digits))
    other, rest = [], total
    for _ in digits:
        other.append(rest & ((1 << LIMB_BITS) - 1))
        rest >>= LIMB_BITS
    task, options = Task(family="score", form="logprobs", classes=0), Options()
    found = []
    for given_digits in (digits, [*other, rest] if -(2**62) < rest < 2**62 else digits):
        arrays = empty_arrays(layout(task, options))
        arrays["moments"][0, 0, 3 : 3 + len(given_digits)] = given_digits
        normalize(arrays, layout(task, options))
        limbs = arrays["moments"][0, 0]
        assert ((limbs[:-1] >= 0) & (limbs[:-1] < 2**LIMB_BITS)).all()
        assert limbs_value(limbs) == Fraction(total << (3 * LIMB_BITS), 1 << 4320)
        once = limbs.copy()
        normalize(arrays, layout(task, options))
        assert np.array_equal(arrays["moments"][0, 0], once)
        found.append(once)
    assert np.array_equal(*found)


@settings(max_examples=100, deadline=None)
@given(integers.map(lambda i: i >> 8), integers, integers, integers)
def test_equal_sums_have_equal_fixed_digits(whole: int, high: int, low: int, least: int) -> None:
    task, options = Task(family="binary", form="probs", classes=2, label="hard", weighted=True), Options()
    shapes = layout(task, options)
    arrays = empty_arrays(shapes)
    exact = Fraction(whole * 2**20) + Fraction(high, 2**20) + Fraction(low, 2**60) + Fraction(least, 2**100)
    places = [arrays["histogram"][1, 7], arrays["reliability"][3, 5:9], arrays["classes"][1, 6:10]]
    for digits in places:
        digits[:] = whole, high, low, least
    counts = arrays["reliability"][:, 0].copy()
    normalize(arrays, shapes)
    for digits in places:
        assert fixed_value(digits) == exact
        assert all(0 <= digit < 2**FIXED_BITS for digit in digits[1:].tolist())
    assert np.array_equal(arrays["reliability"][:, 0], counts)


def test_fixed_sums_are_those_of_the_rows() -> None:
    """Binary scores are multiples of 2^-60 here, so their sums by bin and by class are exact."""
    r = np.random.default_rng(2)
    p, y, w = r.integers(0, 2**20, 200) / 2**20, r.integers(0, 2, 200), r.integers(0, 2**20, 200) / 2**20
    state = state_of({"prob": p, "label": y, "weight": w})
    reliability = state.arrays["reliability"]
    used = w > 0
    assert int(reliability[:, 0].sum()) == used.sum()
    sums = [sum((fixed_value(record[at : at + 4]) for record in reliability), Fraction(0)) for at in (1, 5, 9)]
    exact = [(Fraction(a), Fraction(b), int(c)) for a, b, c in zip(w.tolist(), p.tolist(), y.tolist(), strict=True)]
    assert sums == [sum(a for a, _, _ in exact), sum(a * b for a, b, _ in exact), sum(a * c for a, _, c in exact)]
    for k in (0, 1):
        record = state.arrays["classes"][k]
        assert fixed_value(record[2:6]) == sum(a for a, _, c in exact if c == k)
        assert record[0] == (used & (y == k)).sum()


@pytest.mark.parametrize("bins", [1, 7, 15, 4096, 10_000])
def test_reliability_without_weights(bins: int) -> None:
    """Every fine bin, with its edges exact: scores on an edge, next to one, and anywhere; sums to the last bit."""
    r = np.random.default_rng(bins)
    fine = fine_bins(bins)
    edges = r.integers(0, fine + 1, 3000) / fine
    p = np.concatenate([edges, np.nextafter(edges, 2), np.nextafter(edges, -1), r.random(3000), [0.0, 1.0]]).clip(0, 1)
    p = np.round(p * 2.0**53) / 2.0**53  # neighbours stay apart, and twice as many digits as the bins keep are left
    y = r.integers(0, 2, len(p))
    records = state_of({"prob": p, "label": y}, bins=bins).arrays["reliability"]
    rows, scores, outcomes = [0] * fine, [0] * fine, [0] * fine
    for score, outcome in zip(p.tolist(), y.tolist(), strict=True):
        exact = Fraction(score)
        i = max(math.ceil(exact * fine) - 1, 0)
        rows[i] += 1
        scores[i] += round(exact * 2**60)
        outcomes[i] += outcome
    assert records[:, 0].tolist() == rows
    assert fixed_units(records[:, 5:9]) == [score << 40 for score in scores]
    assert fixed_units(records[:, 9:13]) == [outcome << 100 for outcome in outcomes]


def test_the_layout_has_room() -> None:
    """The limbs reach from the product of four least float64s to 2^63 rows of four greatest."""
    assert Fraction(5e-324) ** 4 >= Fraction(1, 1 << 4320)
    assert Fraction(1.7976931348623157e308) ** 4 * 2**63 < Fraction(2) ** (LIMB_BITS * LIMBS + 31 - 4320)


def test_the_empty_state_of_every_family_reports_nothing() -> None:
    for kind in KINDS:
        empty = State.empty(sample(kind).task, sample(kind).options)
        evaluator = streamloss.Evaluator.from_bytes(empty.to_bytes())
        report = evaluator.report()
        json.loads(report.to_json())
        for key, metric in report.metrics.items():
            assert key in QUANTITIES or key.startswith("top")
            assert metric.mean is None and metric.reason
