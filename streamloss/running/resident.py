"""A batch of arrays that lie on a CUDA device: their rows are judged there, and nothing of a row comes to the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from streamloss.errors import BYTES, LABEL, NAN, WEIGHT, DataError, Place, UsageError
from streamloss.ieee.bits import LANES
from streamloss.kernels.cuda import columns as taking
from streamloss.kernels.cuda.device import MOST_BLOCKS, Machine
from streamloss.kernels.rows import NO_LABEL, NO_NUMBER
from streamloss.options import Options
from streamloss.reading.batch import ARRAY_DTYPES, Batch, Coded
from streamloss.reading.columns import column_of, dtype_of
from streamloss.reading.resident import Columns, Resident
from streamloss.reading.roles import Plan

_NONE = np.iinfo(np.int64).max  # in the place of a row, where there is none


def refuse_what_stays(options: Options, mean_probabilities: bool) -> None:
    """Raises `UsageError` for what is computed from predictions that the host has."""
    asked = [
        name
        for name, there in (
            ("temperatures", options.sweep),
            ("convention", options.convention),
            ("mutual_information", mean_probabilities),
        )
        if there
    ]
    if asked:
        raise UsageError(f"{', '.join(asked)}: the CPU works on predictions for it, and these are on a device; copy them first")


class Taker:
    """Takes columns as a plan reads them, to where the kernels of a device find them."""

    def __init__(self, machine: Machine, plan: Plan, columns: Columns) -> None:
        self._machine, self._plan, self._columns, self._n = machine, plan, columns, columns.n
        self._shown: dict[str, Callable[[int], object]] = {}  # how to say what stands in the host's columns

    def batch(self, first_row: int) -> Batch:
        """The rows, judged. Raises `DataError` for a mask that is neither true nor false."""
        machine, plan, n = self._machine, self._plan, self._n
        prediction = self._predictions(plan.prediction)
        target = self._predictions(plan.target) if plan.target and plan.target_dtype else None
        label = self._label() if "label" in plan.columns else None
        weight, size = (self._numbers(role) if role in plan.columns else None for role in ("weight", "bytes"))
        mask = self._wholes("mask") if "mask" in plan.columns else None
        soft = label is not None and label.dtype == np.float64
        table = NO_NUMBER
        if plan.options.class_weights is not None and label is not None:
            table = np.array([*plan.options.class_weights, 1.0])
        facts = taking.Facts(
            hard=self._there(None if soft else label, NO_LABEL), soft=self._there(label if soft else None, NO_NUMBER),
            weight=self._there(weight, NO_NUMBER), table=machine.to_device(table), bytes=self._there(size, NO_NUMBER),
            mask=self._there(mask, NO_LABEL), classes=np.int64(plan.task.classes if plan.task.label != "none" else 0),
            ignores=plan.options.ignore_index is not None, ignored=np.int64(plan.options.ignore_index or 0),
        )  # fmt: skip
        code, weights = machine.room((n,), np.dtype(np.int8)), weight
        if len(table):
            weights = machine.room((n,), np.dtype(np.float64))
        first_of = machine.to_device(np.full(2, _NONE))
        self._launch(taking.judge, (facts, code, self._there(weights, NO_NUMBER), first_of))
        broken, wrong = machine.to_host(first_of).tolist()
        if wrong != _NONE:
            place = Place(None, row=first_row + wrong, column=plan.columns["mask"][0])
            raise DataError(f"{facts.mask[wrong]} in a mask; expected true or false", place=place)
        found: dict[int, tuple[str, object]] = {}
        if broken != _NONE:
            rule = int(code[broken])
            role, array = {BYTES: ("bytes", size), WEIGHT: ("weight", weight)}.get(rule, ("label", label))
            assert array is not None and rule in (NAN, LABEL, BYTES, WEIGHT)
            show = self._shown.get(role)
            found[broken] = plan.columns[role][0], array[broken].item() if show is None else show(broken)
        return Batch(
            path=None, first_row=first_row, row_groups=None, columns=plan.roles, prediction=prediction, code=code,
            target=target, label=None if plan.task.label == "none" else label, weight=weights, bytes=size,
            keys={name: self._key(name) for name in plan.columns.get("by", ())}, found=found, resident=True,
        )  # fmt: skip

    def _there(self, array: Any, empty: Any) -> Any:
        return self._machine.to_device(empty) if array is None else array

    def _launch(self, kernel: Any, arguments: tuple[Any, ...]) -> None:
        self._machine.launch(kernel, (max(1, min(MOST_BLOCKS, -(-self._n // LANES))), 1), arguments)

    def _given(self, role: str, name: str) -> tuple[Any, str]:
        """A column on the device, and the type of its values where it was there before; '' where it was the host's."""
        known = self._columns.on_device.get(name)
        if known is not None:
            return self._machine.adopt(self._stored(role, known)), known.dtype
        column = column_of(self._columns.on_host, self._plan, role, name, path=None)
        if column.null is not None or column.wrong is not None:
            raise DataError("a null or a ragged row beside arrays on a device", place=Place(None, column=name))
        self._shown[role] = column.show
        values = column.values.astype(np.int64) if role == "mask" else column.values
        return self._machine.to_device(values), ""

    def _stored(self, role: str, array: Resident) -> Resident:
        """With the type that the plan reads a prediction's bits as."""
        if role not in (self._plan.prediction, self._plan.target):
            return array
        return replace(array, dtype=dtype_of(self._plan, role))

    def _predictions(self, role: str) -> Any:
        names = self._plan.columns[role]
        if len(names) == 1:
            return self._contiguous(self._given(role, names[0])[0])
        whole = self._machine.room((self._n, len(names)), ARRAY_DTYPES[dtype_of(self._plan, role)])
        for j, name in enumerate(names):
            self._launch(taking.copy, (self._given(role, name)[0], whole[:, j]))
        return whole

    def _contiguous(self, array: Any) -> Any:
        if array.flags["C_CONTIGUOUS"]:
            return array
        whole = self._machine.room(array.shape, array.dtype)
        self._launch(taking.copy if array.ndim == 1 else taking.copy_rows, (array, whole))
        return whole

    def _label(self) -> Any:
        array, dtype = self._given("label", self._plan.columns["label"][0])
        if not dtype:
            return array
        return self._floats(array) if "float" in dtype else self._integers(array, dtype)

    def _numbers(self, role: str) -> Any:
        array, dtype = self._given(role, self._plan.columns[role][0])
        if not dtype:
            return array
        return self._floats(array) if "float" in dtype else self._converted(taking.numbers, np.float64, array)

    def _wholes(self, role: str) -> Any:
        array, dtype = self._given(role, self._plan.columns[role][0])
        return self._integers(array, dtype) if dtype else array

    def _floats(self, array: Any) -> Any:
        return self._contiguous(array) if array.dtype == np.float64 else self._converted(taking.floats, np.float64, array)

    def _integers(self, array: Any, dtype: str) -> Any:
        if array.dtype == np.int64:
            return self._contiguous(array)
        return self._converted(taking.wholes, np.int64, array, dtype == "uint64")

    def _converted(self, kernel: Any, dtype: Any, array: Any, *how: Any) -> Any:
        out = self._machine.room((self._n,), np.dtype(dtype))
        self._launch(kernel, (array, *how, out))
        return out

    def _key(self, name: str) -> Coded:
        if name in self._columns.on_device:
            raise UsageError(f"{name!r} is a column to group by: give it as an array of the host")
        coded = column_of(self._columns.on_host, self._plan, "by", name, path=None).coded
        assert coded is not None
        return coded
