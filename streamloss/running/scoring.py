"""Row by row: what the kernels find of every row of a batch, in nats, and the class that is predicted.

A row that is ignored or, with --on-invalid skip, breaks a rule has no values; its code says why. Values are those of before the
weight: Σ w x / Σ w over the rows that are used is the report's mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import UsageError
from streamloss.kernels.rows import row_buffer
from streamloss.options import Options, Task
from streamloss.quantities import Quantity, constant_key, table
from streamloss.reading.batch import Batch
from streamloss.running.rows import add_batch, check_rules, widened


@dataclass(frozen=True)
class Scored:
    """A batch, whose codes are final, and its rows' values by quantity, in nats; rows that are not used hold anything."""

    batch: Batch
    values: dict[str, NDArray[np.float64]]


def row_quantities(task: Task, options: Options, besides: str | None = None) -> dict[str, Quantity]:
    """The quantities that every row has a value of: those that --metrics asks for, else all that apply; and `besides`.

    Raises `UsageError` for a quantity that does not apply, or that only all rows together have.
    """
    asked = options.metrics
    if besides is not None:
        of_rows(task, options, (besides,))
        asked = None if asked is None else (*asked, besides)
    found = of_rows(task, options, asked)
    if not found:
        raise UsageError("no quantity of a single row applies to these columns; is there a label?")
    return found


def of_rows(task: Task, options: Options, asked: tuple[str, ...] | None) -> dict[str, Quantity]:
    """Those quantities, or all. Raises `UsageError` for one that only all rows together have."""
    found = table(task, replace(options, metrics=asked))
    rows = {key: q for key, q in found.items() if q.slot is not None}
    if asked is not None and (others := [key for key in found if key not in rows]):
        known = ", ".join(of_rows(task, options, None))
        raise UsageError(f"only all rows together have a {others[0]!r}; a single one has {known}")
    return rows


class Scorer:
    """What turns batches into values; any number of threads may be in it."""

    def __init__(self, task: Task, options: Options, quantities: dict[str, Quantity], threads: int) -> None:
        self.task, self.options, self.threads = task, options, threads
        stand_ins = {key: constant_key(key, task, options) for key in quantities}
        sources = {key: key if stand_in is None else stand_in for key, stand_in in stand_ins.items()}
        slots = {key: q.slot or 0 for key, q in of_rows(task, options, None).items()}
        self._slots = np.array(sorted({slots[source] for source in sources.values() if source}), dtype=np.int64)
        # Where each quantity's values stand; None where they are 0.
        self._places = {
            key: int(np.searchsorted(self._slots, slots[source])) if source else None for key, source in sources.items()
        }

    def score(self, batch: Batch) -> Scored:
        """The values of a batch. Raises `DataError` at a bad row unless invalid rows are to be skipped."""
        n = len(batch)
        flags, at_target = np.zeros(n, dtype=np.uint8), np.zeros(n, dtype=np.uint8)
        values = row_buffer(n, len(self._slots))
        add_batch(
            self.task, self.options, batch, flags=flags, at_target=at_target, kept=self._slots, out=values, threads=self.threads
        )
        check_rules(batch, at_target, self.options)
        found = {key: np.zeros(n) if place is None else values[place] for key, place in self._places.items()}
        return Scored(batch, found)


def predicted(task: Task, prediction: NDArray[Any]) -> NDArray[np.int64]:
    """The most likely class of every row (n,), of equal ones the lowest; what it says of a row that is not used is nothing."""
    if task.family == "binary":
        return np.asarray(widened(prediction) > (0.0 if task.form == "logits" else 0.5)).astype(np.int64)
    values = widened(prediction) if prediction.dtype.kind in "iu" else prediction
    return np.asarray(values.argmax(axis=1), dtype=np.int64)
