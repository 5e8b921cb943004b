"""What does the work everywhere: an accumulator takes batches in and gives a State out, or names the first bad row."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import IGNORED, RULES, USED, DataError
from streamloss.kernels.fold import ROWS_BETWEEN_CARRIES, fold
from streamloss.kernels.marginal import add_probabilities
from streamloss.kernels.panel import FORMS
from streamloss.kernels.rows import row_buffer, row_values, tolerance
from streamloss.options import Options, Task
from streamloss.quantities import QUANTITIES, plan
from streamloss.reading.batch import NAMES, Batch
from streamloss.state import State, absorb, empty_arrays, layout, limbs_value, normalize

_EMPTY = np.zeros(0)
_EMPTY.flags.writeable = False
_NO_LABEL = np.zeros(0, dtype=np.int64)
_NO_LABEL.flags.writeable = False  # as the reader's arrays are: one compiled kernel for both


class Accumulator:
    """Adds batches to a state, with `threads` partial sums so that threads never meet. Enter it from one thread."""

    def __init__(self, task: Task, options: Options, threads: int) -> None:
        self.task, self.options, self.threads = task, options, threads
        self.plan = plan(task, options)
        self.shapes = layout(task, options)
        self.arrays = empty_arrays(self.shapes, lead=(threads,))
        self.rows_since_carry = 0
        self._room = 0
        spread = {key: i for i, key in enumerate(self.plan.spread)}
        self._slots = np.array([q.slot for q in self.plan.moments], dtype=np.int64)
        self._indicator = np.array([q.indicator for q in self.plan.moments], dtype=np.bool_)
        self._spread = np.array([spread.get(q.key, -1) for q in self.plan.moments], dtype=np.int64)
        self._per_class = np.array([QUANTITIES[key].slot for key in self.plan.per_class], dtype=np.int64)

    def _buffers(self, rows: int) -> None:
        if rows > self._room:
            self._room = rows
            self._out = row_buffer(rows)
            self._flags = np.empty(rows, dtype=np.uint8)
            self._at_target = np.empty(rows, dtype=np.uint8)

    def add(self, batch: Batch) -> None:
        """Adds a batch. Raises `DataError` at its first bad row unless invalid rows are to be skipped."""
        n = len(batch)
        self._buffers(n)
        out, flags, at_target = self._out, self._flags[:n], self._at_target[:n]
        flags[:] = 0
        at_target[:] = 0
        code = batch.code
        dtype = NAMES[batch.prediction.dtype]
        target_dtype = "float64" if batch.target is None else NAMES[batch.target.dtype]
        row_values(
            self.task, self.options, batch.prediction, code, dtype=dtype, target=batch.target,
            target_dtype=target_dtype, label=batch.label, bytes_=batch.bytes, flags=flags, at_target=at_target,
            out=out, threads=self.threads,
        )  # fmt: skip
        if self.options.on_invalid == "error":
            bad = code > IGNORED
            if bad.any():
                row = int(bad.argmax())
                raise refusal(batch, row, bool(at_target[row]), self.options)
        a = self.arrays
        weight = _EMPTY if batch.weight is None else batch.weight
        label = _NO_LABEL if batch.label is None or self.task.label == "soft" else batch.label
        fold(
            out, code, flags, weight, label, self._slots, self._indicator, self._spread, self._per_class, a["ledger"],
            a["weight"],
            a["moments"], a["infinite"], a["infinite_weight"], a["extremes"], a["cross"], a["histogram"],
            a["reliability"], a["classes"], self.threads,
        )  # fmt: skip
        if self.plan.mean_probabilities:
            self._add_probabilities(batch, weight)
        self.rows_since_carry += n
        if self.rows_since_carry > ROWS_BETWEEN_CARRIES:
            normalize(self.arrays, self.shapes)
            self.rows_since_carry = 0

    def _add_probabilities(self, batch: Batch, weight: NDArray[np.float64]) -> None:
        x, form, scale = batch.prediction, self.task.form, 1.0 / self.options.temperature
        if self.task.family == "binary":
            one = widened(x)
            x = np.stack([np.zeros(len(x)) if form == "logits" else 1.0 - one, one], axis=1)
        sums = self.arrays["mean_probabilities"]
        add_probabilities(x, batch.code, weight, FORMS[form], scale, self.options.normalize, sums, self.threads)

    def absorb(self, other: Accumulator) -> None:
        """Takes over what another accumulator of the same task and threads has added."""
        absorb(self.arrays, other.arrays, self.shapes)
        self.rows_since_carry += other.rows_since_carry

    def cross_entropy(self) -> float | None:
        """The mean over the finite rows so far, in nats; None where there is none."""
        if "cross_entropy" not in [q.key for q in self.plan.moments]:
            return None
        at = self.plan.index("cross_entropy")
        total = limbs_value(self.arrays["moments"][:, at, 0].sum(axis=0))
        rows = int(self.arrays["ledger"][:, USED].sum() - self.arrays["infinite"][:, at].sum())
        weight = limbs_value(self.arrays["weight"][:, 0].sum(axis=0)) if self.task.weighted else Fraction(rows)
        return float(total / weight) if weight else None

    def state(self) -> State:
        """The state of all rows so far; more may be added afterwards."""
        normalize(self.arrays, self.shapes)
        self.rows_since_carry = 0
        whole = {name: array.sum(axis=0) for name, array in self.arrays.items()}
        whole["extremes"][..., 0] = self.arrays["extremes"][..., 0].min(axis=0)
        whole["extremes"][..., 1] = self.arrays["extremes"][..., 1].max(axis=0)
        normalize(whole, self.shapes)
        return State(self.task, self.options, whole)


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
