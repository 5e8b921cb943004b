"""The kernels of a CUDA device where there is none: their PTX, run instruction by instruction, gives the CPU's bits."""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any

import device
import numba
import numpy as np
import pytest

import streamloss
from streamloss import jit
from streamloss.errors import DataError, UsageError
from streamloss.kernels.cuda import columns, groups, long, machine
from streamloss.kernels.cuda.rows import pair
from streamloss.options import Options
from streamloss.reading.batch import Batch
from streamloss.reading.source import convert, open_input
from streamloss.running import devices
from streamloss.running.device import OnDevice
from streamloss.running.measure import Accumulator
from streamloss.state import State

N = 70  # rows: two warps and some
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16}


def bfloat(z: Any) -> Any:
    return (z.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def rows(k: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Logits with bad rows among them, probabilities likewise, and labels."""
    r = np.random.default_rng([k, seed])
    z = r.normal(size=(N, k)) * 4
    z[3, 1], z[5], z[7, 1], z[8, 0] = -np.inf, -np.inf, np.nan, np.inf
    z[11] = 0.0
    z[12] *= 1000
    p = np.exp(np.where(np.isfinite(z), z, -30.0).clip(-700, 80))
    p /= p.sum(axis=1, keepdims=True)
    p[3, 0] += 0.3
    p[4, 1] = -1e-3
    p[6] = np.eye(k)[1]
    y = r.integers(0, k, N)
    y[9], y[10] = k, -1
    return z, p, y


def single() -> tuple[Any, Any, Any, Any]:
    """Logits, probabilities, labels and shares of one number a row."""
    r = np.random.default_rng(1)
    z = r.normal(size=N) * 5
    z[[3, 4, 5, 6, 7]] = np.nan, np.inf, -np.inf, 1e5, 1e-12
    p = r.random(N)
    p[[2, 3, 4, 5, 6]] = 0.0, 1.0, 1.5, -0.1, 1e-310
    y = r.integers(0, 2, N)
    y[8] = 3
    q = r.random(N)
    q[:3] = 0.0, 1.0, 2.0
    return z, p, y, q


def weights() -> Any:
    w = np.random.default_rng(2).random(N) * 3
    w[[2, 10, 11]] = 0.0, 1e-30, 1e30
    return w


def states(arrays: dict[str, Any], batch_rows: int = N, **options: Any) -> tuple[State, State]:
    """What the CPU and the device make of the same rows."""
    asked = Options.of(on_invalid="skip", **options)
    plan = open_input(arrays, asked).plan
    found = []
    for accumulator in (
        Accumulator(plan.task, asked, 1),
        OnDevice(plan.task, asked, 1, machine=device.Machine),
    ):
        batch: Batch = convert(arrays, plan)
        for start in range(0, N, batch_rows):
            accumulator.add(batch.rows(start, start + batch_rows))
        found.append(accumulator.state())
    return found[0], found[1]


def alike(arrays: dict[str, Any], batch_rows: int = N, **options: Any) -> None:
    ours, theirs = states(arrays, batch_rows, **options)
    assert [name for name in ours.arrays if not np.array_equal(ours.arrays[name], theirs.arrays[name])] == []
    assert ours.digest == theirs.digest


EVERY = ({}, {"label_smoothing": 0.1}, {"focal_gamma": 2.0, "focal_alpha": 0.3}, {"zero": 1e-7}, {"metrics": "entropy_gap"})


@pytest.mark.parametrize("options", EVERY, ids=str)
@pytest.mark.parametrize("what", ["logit", "prob", "logit, soft", "prob, soft"])
def test_binary(what: str, options: dict[str, Any]) -> None:
    z, p, y, q = single()
    name = what.split(",")[0]
    alike({name: z if name == "logit" else p, "label": q if "soft" in what else y}, **options)


@pytest.mark.parametrize(("what", "dtype"), [("logit", "float32"), ("prob", "float64"), ("logprob", "float16")])
def test_one_number_a_row(what: str, dtype: str) -> None:
    z, p, _, _ = single()
    with np.errstate(all="ignore"):
        values = {"logit": z, "prob": p, "logprob": np.log(np.where(p > 0, p, 0))}[what].astype(DTYPES[dtype])
    alike({what: values})


def test_scores_of_every_size() -> None:
    r = np.random.default_rng(3)
    scores = -r.random(N) * 10.0 ** r.integers(-300, 300, N)
    alike({"logprob": scores, "bytes": r.integers(0, 9, N)})
    alike({"logprob": scores, "bytes": r.integers(0, 9, N), "weight": weights()})


@pytest.mark.parametrize("form", ["logits", "probs", "logprobs"])
@pytest.mark.parametrize(("k", "options"), [(k, o) for k in (2, 10, 129) for o in EVERY[: 5 if k == 10 else 2]], ids=str)
def test_classes(form: str, k: int, options: dict[str, Any]) -> None:
    z, p, y = rows(k)
    with np.errstate(all="ignore"):
        x = {"logits": z, "probs": p, "logprobs": np.log(p)}[form].astype(np.float32)
    alike({form: x, "label": y}, **options)


@pytest.mark.parametrize("together", [1, 1 << 30], ids=["by four warps", "by one"])
@pytest.mark.parametrize("k", [130, 1100, 2100])
def test_long_rows(k: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's chunks of 512 classes are added up in their order, whoever has summed them."""
    monkeypatch.setattr(long, "TOGETHER", together)
    z, p, y = rows(k)
    z[20, [5, 600 % k, 1000 % k]] = 40.0  # a peak that several warps see
    y[20:23] = 600 % k, k - 1, 5
    z[21, k - 1] = z[22, 0] = 50.0
    with np.errstate(all="ignore"):
        for form, x in (("logits", z.astype(np.float32)), ("probs", p), ("logprobs", np.log(p))):
            alike({form: x, "label": y}, sum_tolerance=1e-3)
    t = z[::-1].copy()
    t[20:23] = z[20:23]
    t[23, -1] = z[23, 0] = 60.0
    alike({"logits": z, "target_logits": t, "label": y})


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_types_of_logits(dtype: str) -> None:
    for k in (3, 128, 300):
        logits_of_type(k, dtype)


def logits_of_type(k: int, dtype: str) -> None:
    z, _, y = rows(k)
    with np.errstate(over="ignore"):
        x = bfloat(z) if dtype == "bfloat16" else z.astype(DTYPES[dtype])
    alike({"logits": x, "label": y}, **({"dtype": "bfloat16"} if dtype == "bfloat16" else {}))


@pytest.mark.parametrize(
    ("form_q", "form_p"), [("logits", "logits"), ("probs", "logits"), ("logits", "probs"), ("logprobs", "probs")]
)
@pytest.mark.parametrize("k", [2, 10, 129])
def test_pairs(form_q: str, form_p: str, k: int) -> None:
    found = {}
    for form, seed in ((form_p, 0), (f"target_{form_q}", 1)):
        z, p, y = rows(k, seed)
        with np.errstate(all="ignore"):
            found[form] = {"logits": z, "probs": p, "logprobs": np.log(p)}[form.removeprefix("target_")]
    alike(found | {"label": y}, sum_tolerance=1e-3)
    alike(found, zero=1e-6, normalize=True, label_smoothing=0.05, focal_gamma=1.0)


@pytest.mark.parametrize("options", [{"temperatures": "0.5,2"}, {"metrics": "entropy,mutual_information"}], ids=str)
def test_what_is_added_up_by_the_cpu(options: dict[str, Any]) -> None:
    """Sweeps and mean probabilities take what they need from the host."""
    z, _, y = rows(10)
    alike({"logits": z, "label": y, "g": np.arange(N) % 3}, by=["g"], **options)


@pytest.mark.parametrize("by", [{"by": ["g"]}, {"by": ["g", "g,c"], "cluster": "c"}], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_slices(by: dict[str, Any], weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """New slices come with later batches, and there is less room on the device than they need."""
    monkeypatch.setattr(groups, "_PAGES", 1)
    z, _, y = rows(10)
    g = np.arange(N) % 3 + np.arange(N) // 30
    alike({"logits": z, "label": y, "g": g, "c": np.arange(N) % 9} | ({"weight": weights()} if weighted else {}), 17, **by)


def test_slices_of_every_kind() -> None:
    r = np.random.default_rng(3)
    g = np.array(["a", "b", None], dtype=object)[np.arange(N) % 3].tolist()
    scores = {"logprob": -r.random(N) * 10.0 ** r.integers(-300, 300, N), "bytes": r.integers(0, 9, N), "g": g}
    alike(scores, by=["g"])
    alike(scores | {"weight": weights()}, 33, by=["g"])
    logit, _, _, soft = single()
    alike({"logit": logit, "label": soft, "g": g}, by=["g"])
    z, _, y = rows(129)  # so many that labels are counted in pages
    alike({"logits": z, "label": y, "g": g}, by=["g"])
    alike({"logits": z, "label": y, "g": g, "weight": weights()}, by=["g"])


def test_more_slices_than_are_kept() -> None:
    z, _, y = rows(10)
    alike({"logits": z, "label": y, "g": np.arange(N)[::-1] // 4}, 20, by=["g"], max_slices=5)


def test_batches_and_weights() -> None:
    z, _, y = rows(10)
    alike({"logits": z, "label": y, "weight": weights()}, batch_rows=17)
    alike({"logits": z, "label": y}, batch_rows=33)


def test_a_bad_row_leaves_nothing_behind() -> None:
    z, _, y = rows(10)
    asked = Options.of()
    arrays = {"logits": z, "label": y}
    plan = open_input(arrays, asked).plan
    batch = convert(arrays, plan)
    expected, accumulator = Accumulator(plan.task, asked, 1), OnDevice(plan.task, asked, 1, machine=device.Machine)
    for each in (expected, accumulator):
        each.add(batch.rows(0, 3))
        with pytest.raises(DataError, match="all negative infinity"):
            each.add(batch.rows(3, N))
    assert accumulator.state().digest == expected.state().digest
    sliced = Options.of(by=["g"])
    again = open_input(arrays | {"g": y}, sliced).plan
    with pytest.raises(DataError, match="row 5, column 'logits': all negative infinity"):
        OnDevice(again.task, sliced, 1, machine=device.Machine).add(convert(arrays | {"g": y}, again))


# ---- asking for a device


DATA = Path(__file__).parents[1] / "data"


def test_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thread that reads has a stream of its own, and a sum."""
    monkeypatch.setattr(devices, "_why_not", lambda: None)
    monkeypatch.setattr(machine, "Cuda", device.Machine)
    for device_ in ("cuda", "auto"):
        given = {"prob": "prob", "label": "label", "weight": "weight", "threads": 2, "batch_rows": 64}
        report = streamloss.evaluate(DATA / "cancer.parquet", device=device_, **given)
        assert report.digest == streamloss.evaluate(DATA / "cancer.parquet", **given).digest
        assert (report.run["device"], report.run["threads"]) == ("cuda", 2)
    sliced = {"logits": "logits", "label": "label", "by": "group", "threads": 2, "batch_rows": 200}
    report = streamloss.evaluate(DATA / "digits.parquet", device="cuda", **sliced)
    assert report.digest == streamloss.evaluate(DATA / "digits.parquet", **sliced).digest


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_why_not", lambda: "it is lent")
    given = {"prob": "prob", "label": "label"}
    with pytest.warns(devices.NoDevice, match="^no CUDA device: it is lent; the CPU computes the same$"):
        report = streamloss.evaluate(DATA / "cancer.parquet", device="cuda", **given)
    assert report.run["device"] == "cpu" and report.digest == streamloss.evaluate(DATA / "cancer.parquet", **given).digest
    assert devices.chosen("auto") == devices.chosen("cpu") == "cpu"
    with pytest.raises(UsageError, match="--device is one of auto, cpu, cuda, not 'gpu'"):
        streamloss.evaluate(DATA / "cancer.parquet", device="gpu", **given)  # type: ignore[arg-type]


def test_an_older_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "version", lambda _: "0.61.2")
    with pytest.warns(devices.NoDevice, match=r"^no CUDA device: it needs numba 0\.68 or newer, and this is 0\.61\.2;"):
        assert devices.chosen("cuda") == "cpu"


def test_why_there_is_none() -> None:
    why = machine.why_not()
    assert why is None or (why and "\n" not in why)


# ---- what the kernels are compiled to, and where that is kept


@pytest.mark.skipif(device.REAL, reason="the driver is the device's own")
def test_compiled_kernels_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The next process loads what one has compiled, unless it is damaged or another compiler's."""
    there = types.SimpleNamespace(compute_capability=device.CAPABILITY)
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: there)
    monkeypatch.setattr("numba.cuda.codegen.devices.get_context", lambda: types.SimpleNamespace(device=there))
    monkeypatch.setattr("numba.cuda.dispatcher._Kernel.bind", lambda _: None)
    monkeypatch.setattr(jit, "cache_dir", lambda: str(tmp_path))
    kinds = (numba.typeof(np.zeros(1, np.uint8)),) * 2
    texts = []

    def compiled() -> bool:
        kernel: Any = jit.device_kernel(columns.clear)
        texts.append(kernel.compile(kinds)._codelibrary.get_asm_str())
        return bool(kernel.stats.cache_misses)

    assert [compiled(), compiled()] == [True, False] and texts[0] == texts[1] != ""
    (kept,) = tmp_path.glob("*.nbc")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert [compiled(), compiled()] == [True, False]
    monkeypatch.setattr(jit, "version", lambda _: "another")
    assert [compiled(), compiled()] == [True, False] and jit.not_kept() is None
    monkeypatch.setattr("numba.cuda.serialize.dumps", lambda _: 1 / 0)
    monkeypatch.setattr(jit, "version", lambda _: "a third")
    monkeypatch.setattr(jit, "_not_kept", [])
    assert [compiled(), compiled()] == [True, True]
    assert jit.not_kept() == "clear: division by zero"


def launched(**options: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """Every kernel that the device would run for the cases of this file, with its arguments."""
    found: list[tuple[Any, tuple[Any, ...]]] = []

    class Listed(device.Emulated):
        def launch(self, kernel: Any, blocks: tuple[int, int], arguments: tuple[Any, ...], warps: int = 1) -> None:
            found.append((kernel, arguments))

    r = np.random.default_rng(0)
    y, w = r.integers(0, 2, N), r.random(N)
    one, wide, long = r.random(N), r.random((N, 10)), r.random((N, 130))
    cases: list[dict[str, Any]] = [
        {"prob": one, "label": y}, {"logit": one.astype(np.float32), "label": one}, {"logprob": -one, "weight": w, "bytes": y},
        {"logits": wide.astype(np.float32), "label": y}, {"logits": long.astype(np.float16), "label": y},
        {"probs": long, "label": y, "weight": w}, {"logits": wide, "target_probs": wide, "label": y},
        {"logits": wide.astype(np.float32), "label": y, "g": y}, {"logits": r.random((N, 100), np.float32), "label": y},
        {"logits": long.astype(np.float32), "target_logits": long.astype(np.float16)},
    ]  # fmt: skip
    for arrays in cases:
        asked = Options.of(on_invalid="skip", by=["g"] if "g" in arrays else [])
        plan = open_input(arrays, asked).plan
        OnDevice(plan.task, asked, 1, machine=Listed).add(convert(arrays, plan))
    return found


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=str)
def test_every_operation_is_rounded_by_itself_and_nothing_is_spilled(capability: tuple[int, int]) -> None:
    seen = set()
    for kernel, arguments in launched():
        if capability < device.CAPABILITY and kernel in seen:
            continue  # one type is enough for the older one
        text = device.compiled(kernel, arguments, capability)
        if text in seen:
            continue
        seen |= {text, kernel}
        assert f".target sm_{capability[0]}{capability[1]}" in text
        assert not re.search(r"\.approx|\.ftz|\bsqrt|\bsin\.|\bex2\.|\blg2\.", text)
        assert not re.search(r"\b(mul|mad|fma|div|rcp)\.f(32|64)", text), kernel
        assert not re.search(r"\.local\b", text), kernel
        if capability == device.CAPABILITY or kernel is not pair:  # to assemble this one takes half a minute
            assert device.spilled(text, capability) == (0, 0), kernel
    assert len(seen) > 20
