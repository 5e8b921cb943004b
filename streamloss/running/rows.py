"""A batch through the kernels, and the error that names a row of it that breaks a rule."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import IGNORED, RULES, DataError
from streamloss.kernels.grouped import Columns
from streamloss.kernels.rows import NO_LABEL, NO_NUMBER, add_rows, tolerance
from streamloss.options import Options, Task
from streamloss.reading.batch import NAMES, Batch


def add_batch(task: Task, options: Options, batch: Batch, **into: Any) -> None:
    """The rows of a batch through the kernels; `into` says what becomes of them (see `kernels.rows.add_rows`)."""
    add_rows(
        task, options, batch.prediction, batch.code, dtype=NAMES[batch.prediction.dtype], target=batch.target,
        target_dtype="float64" if batch.target is None else NAMES[batch.target.dtype], label=batch.label,
        weight=batch.weight, bytes_=batch.bytes, **into,
    )  # fmt: skip


def check_rules(batch: Batch, at_target: NDArray[np.uint8], options: Options) -> None:
    """Raises `DataError` for the first row of a batch that breaks a rule, unless such rows are to be skipped.

    at_target (n,) tells whether the rule is the target's.
    """
    if options.on_invalid == "error" and (bad := batch.code > IGNORED).any():
        row = int(bad.argmax())
        raise refusal(batch, row, bool(at_target[row]), options)


def columns_of(batch: Batch, values: NDArray[np.float64], flags: NDArray[np.uint8]) -> Columns:
    """A batch as groups take it: with the values (S, n) of the kept slots, and flags (n,)."""
    return Columns(
        values=values,
        code=batch.code,
        flags=flags,
        label=NO_LABEL if batch.label is None else batch.label,
        weight=NO_NUMBER if batch.weight is None else batch.weight,
    )


def refusal(batch: Batch, row: int, at_target: bool, options: Options) -> DataError:
    """The error that names the first bad row: its place, what stands there and what was expected."""
    code = int(batch.code[row])
    key, expected = RULES[code]
    if row in batch.found:
        column, value = batch.found[row]
    else:
        array = batch.target if at_target else batch.prediction
        assert array is not None
        role = next((r for r in batch.columns if r.startswith("target_") == at_target and r in _VALUE_ROLES), "")
        if key == "label_out_of_range" and batch.label is not None:
            role, value = "label", batch.label[row].item()
        else:
            value = offending(key, widened(array[row]))
        column = batch.columns.get(role, role)
    hint = ""
    if key == "row_sum":
        array = batch.target if at_target else batch.prediction
        assert array is not None
        allowed = tolerance(options, NAMES[array.dtype])
        hint = f" within {allowed:g} (--normalize rescales rows; logits go in --logits)"
    elif key in ("negative_probability", "probability_above_one"):
        hint = " (are these logits?)"
    told = key in ("row_sum", "ragged_row", "class_count")  # the value is words of ours, not the file's text
    said = "null" if value is None else f"{value!r}" if isinstance(value, str) and not told else f"{value}"
    return DataError(
        f"{key.replace('_', ' ')}: found {said}, expected {expected}{hint}; --on-invalid skip leaves such rows out",
        place=batch.place(row, column),
        rule=key,
        value=value,
    )


_VALUE_ROLES = (
    "logits", "probs", "logprobs", "logit", "prob", "logprob", "target_logits", "target_probs", "target_logprobs",
)  # fmt: skip


def widened(values: Any) -> NDArray[np.float64]:
    """Stored values of a dtype of `reading.batch` as float64."""
    array = np.atleast_1d(np.asarray(values))
    if array.dtype == np.uint16:
        return array.view(np.float16).astype(np.float64)
    if array.dtype == np.int16:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def offending(key: str, row: NDArray[np.float64]) -> object:
    """What to show of a row that breaks a rule: the first bad value, or the sum."""
    with np.errstate(all="ignore"):
        if key == "row_sum":
            total = row.sum() if (row >= 0).all() else np.exp(row).sum()
            return f"a sum of {total:.9g}"
        bad = {
            "nan": np.isnan(row),
            "positive_infinity": np.isposinf(row),
            "all_negative_infinity": np.isneginf(row),
            "negative_probability": row < 0,
            "probability_above_one": row > (0 if (row > 1).sum() == 0 else 1),
        }.get(key)
    if bad is None or not bad.any():
        return float(row[0])
    return float(row[bad.argmax()])
