"""Arrays that lie on a device, as torch, CuPy and JAX hand them over: the report is the CPU's, and no row is fetched."""

from __future__ import annotations

import ctypes
from typing import Any

import device
import numpy as np
import pytest

import streamloss
from streamloss import DataError, Evaluator, UsageError
from streamloss.kernels.cuda import machine
from streamloss.options import Options
from streamloss.reading import resident
from streamloss.reading.source import convert, open_input
from streamloss.running import devices

N = 70


class Shown:
    """An array on a device that says so by `__cuda_array_interface__`."""

    def __init__(self, array: Any) -> None:
        strides = None if array.flags.c_contiguous else array.strides
        self.array = array  # keeps the memory
        where, kind = (array.ctypes.data, False), array.dtype.str
        told = {"shape": array.shape, "strides": strides, "typestr": kind, "data": where, "version": 3}
        self.__cuda_array_interface__ = told


class Lent:
    """An array on a device that is lent by DLPack; brain: the bits are those of bfloat16."""

    def __init__(self, array: Any, brain: bool = False) -> None:
        self.array, self.brain = array, brain

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int) -> Any:
        assert stream == 1  # the default one, for which ours wait
        capsule = self.array.__dlpack__()
        if self.brain:
            address = ctypes.pythonapi.PyCapsule_GetPointer
            address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
            resident._Tensor.from_address(address(capsule, b"dltensor")).code = 4
        return capsule


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_why_not", lambda: None)
    monkeypatch.setattr(machine, "Cuda", device.Emulated)


def given(k: int = 10, bad: bool = True) -> dict[str, Any]:
    r = np.random.default_rng(k)
    z, y = r.normal(size=(N, k)).astype(np.float32), r.integers(0, k, N)
    w, m = r.random(N), r.random(N) < 0.8
    w[5] = 0.0
    if bad:
        y[3], y[8], z[11, 1], z[12], w[6], w[7] = k, -100, np.nan, -np.inf, np.nan, -1.0
        m[[3, 6, 7, 11, 12]] = True
    return {"logits": z, "label": y, "weight": w, "mask": m}


def alike(arrays: dict[str, Any], lent: dict[str, Any], **options: Any) -> None:
    expected = Evaluator(on_invalid="skip", **options).update(arrays)
    found = Evaluator(on_invalid="skip", **options)
    device.Emulated.fetched = 0
    found.update(lent)
    assert device.Emulated.fetched == 16  # the first bad row, and the first bad mask
    assert found.state().digest == expected.state().digest
    assert found.report().to_dict()["rows"] == expected.report().to_dict()["rows"]


@pytest.mark.parametrize("lend", [Shown, Lent])
def test_rows_are_judged_where_they_lie(lend: Any) -> None:
    arrays = given()
    alike(arrays, {name: lend(array) for name, array in arrays.items()}, ignore_index=-100)


def test_the_hosts_arrays_beside_them() -> None:
    arrays = given()
    alike(arrays, arrays | {"logits": Lent(arrays["logits"])})
    alike(arrays, arrays | {"label": Lent(arrays["label"].astype(np.int32)), "weight": Shown(arrays["weight"])})


@pytest.mark.parametrize("kind", ["int8", "int16", "uint8", "uint64", "bool"])
def test_labels_of_every_type(kind: str) -> None:
    y = given(2, bad=False)["label"].astype(kind)
    if kind == "uint64":
        y[4] = 2**64 - 100  # −100, were it an int64
    alike({"logits": given(2)["logits"], "label": y}, {"logits": Lent(given(2)["logits"]), "label": Lent(y)}, ignore_index=-100)


@pytest.mark.parametrize("kind", ["float16", "float32", "int32"])
def test_weights_of_every_type(kind: str) -> None:
    arrays = given(bad=False)
    arrays["weight"] = (arrays["weight"] * 5).astype(kind)
    alike(arrays, {name: Lent(array) for name, array in arrays.items()})


def test_a_weight_for_every_class() -> None:
    arrays = given(3)
    lent = {name: Lent(array) for name, array in arrays.items()}
    alike(arrays, lent, class_weights="1,0,2.5")
    arrays.pop("weight"), lent.pop("weight")
    alike(arrays, lent, class_weights="1,0,2.5")


def test_soft_labels_and_scores() -> None:
    r = np.random.default_rng(1)
    z, y = r.normal(size=N), r.random(N).astype(np.float32)
    y[[2, 3, 4]] = np.nan, 1.5, -0.5
    alike({"logit": z, "label": y}, {"logit": Shown(z), "label": Shown(y)})
    size = r.integers(-1, 9, N)
    alike({"logprob": -abs(z), "bytes": size}, {"logprob": Lent(-abs(z)), "bytes": Lent(size)})
    alike({"logprob": -abs(z), "label": size}, {"logprob": Lent(-abs(z)), "label": Lent(size)}, ignore_index=8)


def test_narrow_logits() -> None:
    arrays = given()
    half = arrays["logits"].astype(np.float16)
    alike(arrays | {"logits": half}, arrays | {"logits": Lent(half)})
    bits = (arrays["logits"].view(np.uint32) >> 16).astype(np.uint16)
    expected = Evaluator(on_invalid="skip", dtype="bfloat16").update(arrays | {"logits": bits}).state()
    found = Evaluator(on_invalid="skip").update(arrays | {"logits": Lent(bits, brain=True)}).state()
    assert [k for k in expected.arrays if not np.array_equal(expected.arrays[k], found.arrays[k])] == []


def test_any_order_of_memory() -> None:
    arrays = given()
    z = np.asfortranarray(arrays["logits"])
    alike(arrays, arrays | {"logits": Lent(z)})
    wide = np.repeat(arrays["logits"], 2, axis=1)[:, ::2]
    alike(arrays, arrays | {"logits": Shown(wide), "label": Shown(np.repeat(arrays["label"], 2)[::2])})
    flat = {f"p_{j}": Lent(arrays["logits"][:, j]) for j in range(10)}
    expected = Evaluator(on_invalid="skip").update(arrays).state()
    rest = {name: arrays[name] for name in ("label", "weight", "mask")}
    assert Evaluator(on_invalid="skip", logits="p_*").update(flat | rest).state().arrays["ledger"].tolist() == (
        expected.arrays["ledger"].tolist()
    )


def test_names_of_classes() -> None:
    arrays = given(3) | {"label": np.array(["cat", "dog", "owl"])[given(3, bad=False)["label"]]}
    alike(arrays, arrays | {"logits": Lent(arrays["logits"])}, classes="cat,dog,owl")
    arrays["label"][0] = "cow"
    lent = {"logits": Lent(arrays["logits"]), "label": arrays["label"]}
    with pytest.raises(DataError, match="row 0, column 'label': label out of range: found 'cow', expected"):
        Evaluator(classes="cat,dog,owl").update(lent)


def test_what_cannot_say_where_it_lies_is_the_hosts() -> None:
    """As arrays of older pyarrow, where there are nulls or lists."""

    class Silent(np.ndarray[Any, Any]):
        def __dlpack_device__(self) -> Any:
            raise TypeError("can only use DLPack on arrays with no nulls")

    arrays = given()
    silent = {name: array.view(Silent) for name, array in arrays.items()}
    assert (
        Evaluator(on_invalid="skip").update(silent).state().digest == Evaluator(on_invalid="skip").update(arrays).state().digest
    )


def test_no_rows() -> None:
    lent = {name: Lent(array) for name, array in given().items()}
    none = {name: Lent(array[:0]) for name, array in given().items()}
    evaluator = Evaluator(on_invalid="skip").update(none)
    with pytest.raises(DataError, match="no rows yet"):
        evaluator.state()
    assert evaluator.update(lent).update(none).state().digest == Evaluator(on_invalid="skip").update(given()).state().digest


def test_targets() -> None:
    arrays = {"logits": given(4)["logits"].astype(float), "target_logits": given(4, bad=False)["logits"][::-1].astype(float)}
    alike(arrays, {name: Lent(array) for name, array in arrays.items()})


def test_slices() -> None:
    arrays = given() | {"g": np.arange(N) % 3}
    lent = {name: array if name == "g" else Lent(array) for name, array in arrays.items()}
    expected = Evaluator(on_invalid="skip", by="g").update(arrays).state().digest
    assert Evaluator(on_invalid="skip", by="g").update(lent).state().digest == expected
    with pytest.raises(UsageError, match="'g' is a column to group by: give it as an array of the host"):
        Evaluator(by="g").update(lent | {"g": Lent(arrays["g"])})


@pytest.mark.parametrize("where", ["label", "weight", "logits", "mask"])
def test_a_bad_row_is_named_as_on_the_cpu(where: str) -> None:
    arrays = given(bad=False)
    arrays["mask"] = np.ones(N, dtype=np.int8)
    good = {name: array[:40] for name, array in arrays.items()}
    ours, theirs = Evaluator(), Evaluator()
    ours.update(good), theirs.update({name: Lent(array) for name, array in good.items()})
    arrays[where] = arrays[where].copy()
    arrays[where][17] = {"label": 10, "weight": -0.5, "logits": np.nan, "mask": 2}[where]
    with pytest.raises(DataError) as expected:
        ours.update(arrays)
    with pytest.raises(DataError) as found:
        theirs.update({name: Lent(array) for name, array in arrays.items()})
    assert str(found.value) == str(expected.value) and "row 57" in str(found.value)
    assert theirs.state().digest == ours.state().digest


def test_from_the_host_and_from_the_device_in_turn() -> None:
    parts = [{name: array[i : i + 10] for name, array in given().items()} for i in range(0, N, 10)]
    expected, found = Evaluator(on_invalid="skip"), Evaluator(on_invalid="skip")
    for i, part in enumerate(parts):
        expected.update(part)
        found.update({name: Lent(array) for name, array in part.items()} if i % 2 else part)
    assert found.state().digest == expected.state().digest
    other = Evaluator(on_invalid="skip").update({name: Lent(array) for name, array in parts[0].items()})
    assert found.merge(other).state().digest == expected.merge(Evaluator(on_invalid="skip").update(parts[0])).state().digest


def test_the_host_computed_on_the_device() -> None:
    arrays = given()
    expected = Evaluator(on_invalid="skip").update(arrays).state().digest
    assert Evaluator(on_invalid="skip", device="cuda").update(arrays).state().digest == expected


def test_digits_are_carried_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """No digit grows without end, however many rows come before somebody asks."""
    for arrays in (given(), {name: array for name, array in given().items() if name != "weight"}):
        asked = Options.of(on_invalid="skip")
        plan = open_input(arrays, asked).plan
        accumulator = devices.accumulator("cuda", plan.task, asked, 1)
        accumulator.most_rows = 32
        batch = convert(arrays, plan)
        accumulator.add(batch)
        accumulator.add(batch)
        accumulator._carry()
        sums: Any = device.here(accumulator._device._sums)  # type: ignore[attr-defined]
        for limbs in (sums.moments, sums.weight, sums.infinite_weight):
            assert limbs.size == 0 or (limbs.min() >= 0 and limbs[..., :-1].max() < 1 << 32)
        assert sums.classes[..., 3:6].max() < 1 << 40 and sums.classes[..., 7:10].max() < 1 << 40
        assert sums.reliability[..., 6:9].max() < 1 << 40 and not sums.tally.any()
        twice = Evaluator(on_invalid="skip").update(arrays).update(arrays)
        assert accumulator.state().digest == twice.state().digest


def test_what_cannot_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = given(bad=False)
    lent = {name: Lent(array) for name, array in arrays.items()}
    with pytest.raises(UsageError, match=r"^logits: an array on a CUDA device; Evaluator\.update takes those"):
        streamloss.evaluate(lent)
    with pytest.raises(UsageError, match=r"^temperatures: the CPU works on predictions for it, and these are on a device"):
        Evaluator(temperatures="0.5,2").update(lent)
    with pytest.raises(DataError, match="arrays of different lengths: logits 70, label 69"):
        Evaluator().update({"logits": lent["logits"], "label": arrays["label"][1:]})
    with pytest.raises(DataError, match=r"expected one value or one row of classes a row, got the shape \(70, 5, 2\)"):
        Evaluator().update({"logits": Lent(arrays["logits"].reshape(N, 5, 2))})
    with pytest.raises(DataError, match=r"no array that can be read: values of complex64"):
        Evaluator().update({"logits": Shown(arrays["logits"].astype(np.complex64))})
    with pytest.raises(DataError, match="a null or a ragged row beside arrays on a device"):
        Evaluator().update({"logits": lent["logits"], "label": [None, *arrays["label"].tolist()[1:]]})
    with pytest.raises(DataError, match=r"column 'logits' is .*double.* here and .*float.* in the first batch"):
        Evaluator().update(lent).update(lent | {"logits": Lent(arrays["logits"].astype(np.float64))})
    monkeypatch.setattr(devices, "_why_not", lambda: "no CUDA device answers")
    with pytest.raises(UsageError, match=r"^arrays on a CUDA device, and it cannot be used: no CUDA device answers$"):
        Evaluator().update(lent)
