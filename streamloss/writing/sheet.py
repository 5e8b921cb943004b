"""The columns of a row that was scored: where it stands, what became of it, and what it cost.

`file` and `row` (its number in the file or stream, from 0), `status` ('used', 'ignored' or the rule of the ledger that it
broke), `label` and `prediction` (the likeliest class, of equal ones the lowest) where there are any, as names if --classes
gives them, `weight` where rows have one, the columns that are kept, and a float64 for every quantity, in the unit. A row that
is not used has nulls for all that was computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamloss import __version__
from streamloss.errors import RULE_KEYS, USED, UsageError
from streamloss.options import Options
from streamloss.quantities import Quantity
from streamloss.reading.paths import first_line, shown
from streamloss.reading.roles import Plan
from streamloss.reporting.metrics import UNITS
from streamloss.running.scoring import Scored, predicted

STATUS = ("used", "ignored", *RULE_KEYS)  # by the code of a row
_TEXT = pa.dictionary(pa.int32(), pa.string())
_STATUS = pa.dictionary(pa.int8(), pa.string())
_YIELDING = ("label", "weight")  # columns that a kept one of the same name stands for


class Sheet:
    """The schema of the rows that are written, and the rows of a batch in it."""

    def __init__(
        self, plan: Plan, options: Options, quantities: dict[str, Quantity], lead: list[pa.Field], more: dict[str, str]
    ) -> None:
        """lead: fields that come first, and whose columns are not made here; rows that are not used then do not occur.
        more: metadata besides version, unit and options.
        """
        self.task, self.classes = plan.task, options.classes
        self._scales = {key: UNITS[options.unit] if q.unit else 1.0 for key, q in quantities.items()}
        kept = [field for field, _ in plan.kept]
        named = {field.name for field in kept}
        truth = {"hard": self._class_type, "soft": pa.float64()}.get(self.task.label)
        ours = {
            "file": _TEXT,
            "row": pa.int64(),
            "status": None if lead else _STATUS,
            "label": truth,
            "prediction": None if self.task.family == "score" else self._class_type,
            "weight": pa.float64() if self.task.weighted else None,
        }
        fields = [
            pa.field(name, kind)
            for name, kind in ours.items()
            if kind is not None and not (name in _YIELDING and name in named)
        ]
        told = {key: {"title": q.title, "unit": options.unit if q.unit else ""} for key, q in quantities.items()}
        self._fields = [*fields, *kept, *(pa.field(key, pa.float64(), metadata=told[key]) for key in quantities)]
        for field in kept:
            if [f.name for f in (*lead, *self._fields)].count(field.name) > 1:
                raise UsageError(
                    f"the column {field.name!r} cannot be kept: the output has one of that name; rename it, or leave it out"
                )
        metadata = {"streamloss": __version__, "unit": options.unit, "options": json.dumps(options.to_dict())} | more
        self.inner = pa.schema(self._fields)
        self.schema = pa.schema([*lead, *self._fields], metadata=metadata)

    @property
    def _class_type(self) -> pa.DataType:
        return pa.int64() if self.classes is None else _TEXT

    def rows(self, scored: Scored, chosen: NDArray[np.int64] | slice = slice(None)) -> pa.RecordBatch:
        """All or some of the rows of a batch, without what leads."""
        batch = scored.batch
        code = batch.code[chosen]
        others = code != USED
        unused = others if others.any() else None
        columns: dict[str, Any] = {key: self._scaled(key, values[chosen], unused) for key, values in scored.values.items()}
        if batch.kept is not None:
            kept = batch.kept if isinstance(chosen, slice) else _picked(batch.kept, chosen)
            columns |= dict(zip(kept.schema.names, kept.columns, strict=True))
        made: dict[str, Callable[[], Any]] = {
            "file": lambda: _file(batch.path, len(code)),
            "row": lambda: pa.array(batch.first_row + np.arange(len(batch), dtype=np.int64)[chosen]),
            "status": lambda: pa.DictionaryArray.from_arrays(pa.array(code), pa.array(STATUS)),
            "label": lambda: self._classes(batch.label[chosen], unused) if batch.label is not None else None,
            "prediction": lambda: self._classes(predicted(self.task, batch.prediction[chosen]), unused),
            "weight": lambda: pa.array(batch.weight[chosen], mask=unused) if batch.weight is not None else None,
        }
        columns = {f.name: columns[f.name] if f.name in columns else made[f.name]() for f in self._fields}
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=self.inner)

    def _scaled(self, key: str, values: NDArray[np.float64], unused: NDArray[np.bool_] | None) -> pa.Array:
        scale = self._scales[key]
        return pa.array(values if scale == 1 else values * scale, mask=unused)

    def _classes(self, values: NDArray[Any], unused: NDArray[np.bool_] | None) -> pa.Array:
        if self.classes is None or values.dtype.kind == "f":
            return pa.array(values, mask=unused)
        numbers = values if unused is None else np.where(unused, 0, values)
        return pa.DictionaryArray.from_arrays(pa.array(numbers.astype(np.int32), mask=unused), pa.array(self.classes))


def _picked(kept: pa.RecordBatch, chosen: NDArray[np.int64]) -> pa.RecordBatch:
    """Some rows of the columns that are kept. Raises `UsageError` for types that pyarrow cannot pick rows of."""
    try:
        return kept.take(pa.array(chosen))
    except pa.ArrowNotImplementedError as error:
        types = ", ".join(f"{field.name!r} ({field.type})" for field in kept.schema)
        raise UsageError(f"--worst cannot pick rows of all that is to be kept, {types}: {first_line(error)}") from error


def _file(path: str | None, n: int) -> pa.Array:
    """The path in every row; null for what is no file."""
    numbers = pa.array(np.zeros(n, dtype=np.int32), mask=np.full(n, path is None))
    return pa.DictionaryArray.from_arrays(numbers, pa.array([shown(path or "")]))
