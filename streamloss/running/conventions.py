"""Other tools' numbers beside ours, from a batch that has just been added up and is still in the caches.

Where a tool looks at rows as the report does, its costs are the report's own, clipped; where it divides them by their sums,
or clips every class of a soft target, the rows go through the kernel once more. Binary predictions that are clipped are looked
at as if every label were 1 and as if it were 0: the two costs that a label, soft or smoothed, is between.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.conventions import CUT_BY, Convention, View, lines
from streamloss.digits import CUT, IDLE, INDEXED
from streamloss.errors import IGNORED
from streamloss.kernels.conventions import add_costs
from streamloss.kernels.panel import CLIPPED
from streamloss.kernels.rows import NO_NUMBER
from streamloss.options import Options, Task
from streamloss.quantities import CROSS_ENTROPY
from streamloss.reading.batch import NAMES, Batch
from streamloss.running.rows import add_batch

SLOT = np.array([CROSS_ENTROPY])

Costs = NDArray[np.float64]
Codes = NDArray[np.int8]
Marks = NDArray[np.uint8]


class Beside:
    """Adds batches to the lines of the conventions that were asked for; arrays are those of `state.layout`, a row a thread."""

    def __init__(self, task: Task, options: Options, threads: int, arrays: dict[str, NDArray[np.int64]]) -> None:
        self.task, self.options, self.threads = task, options, threads
        self.lines = lines(task, options)
        self.arrays = arrays
        # A cost is clipped once it is known, but for sums over the classes, which are of clipped costs.
        self._inside = task.family == "pair" or (task.family == "categorical" and options.label_smoothing > 0)
        self._seen: dict[tuple[View, int | None], tuple[Costs, Codes, Marks]] = {}

    def add(self, batch: Batch, costs: Costs) -> None:
        """Adds a batch whose rows have been judged; costs (n,) are the cross-entropies that the report adds up."""
        dtype = NAMES[batch.prediction.dtype]
        kind = CUT_BY.index("float32" if dtype == "bfloat16" else dtype)
        none = np.zeros(len(batch), dtype=np.uint8)
        plain = costs, batch.code, none
        self._seen.clear()
        self._count_ignored(batch)
        for at, line in enumerate(self.lines):
            found, seen, cut = self._costs(line, batch, plain, dtype)
            factors, sums, rows = self._factors(line, batch), self.arrays["conventions"], self.arrays["convention_rows"]
            add_costs(found, factors, batch.code, seen, cut, CUT + kind, sums, rows, at, self.threads)

    def _costs(
        self, line: Convention, batch: Batch, plain: tuple[Costs, Codes, Marks], dtype: str
    ) -> tuple[Costs, Codes, Marks]:
        """Costs, codes and marks of clipping of the rows, as the convention has them."""
        clip = line.clip(dtype)
        if clip is not None and self.task.family == "binary":
            return self._between(line, batch, dtype)
        if clip is not None and self._inside:
            return self._look(View(line.normalize, clip.least, clip.most), batch)
        view = View(line.normalize)
        costs, seen, cut = plain if view.is_plain(self.task, self.options) else self._look(view, batch)
        if clip is None:
            return costs, seen, np.zeros_like(cut)
        return np.clip(costs, clip.least, clip.most), seen, _outside(costs, clip.least, clip.most)

    def _between(self, line: Convention, batch: Batch, dtype: str) -> tuple[Costs, Codes, Marks]:
        """y·cost of the positive class + (1 − y)·cost of the negative one, both clipped."""
        clip = line.clip(dtype)
        assert clip is not None and batch.label is not None
        smoothing = self.options.label_smoothing
        y = batch.label.astype(np.float64)
        if smoothing > 0:
            y = y * (1.0 - smoothing) + 0.5 * smoothing
        (one, seen, _), (zero, _, _) = (self._look(View(False), batch, label) for label in (1, 0))
        cut = (y > 0) & (_outside(one, clip.least, clip.most) > 0)
        cut |= (y < 1) & (_outside(zero, clip.other_least, clip.other_most) > 0)
        mixed = y * np.clip(one, clip.least, clip.most) + (1.0 - y) * np.clip(zero, clip.other_least, clip.other_most)
        return mixed, seen, cut.view(np.uint8)

    def _look(self, view: View, batch: Batch, label: int | None = None) -> tuple[Costs, Codes, Marks]:
        """The rows through the kernel, once for all that look at them alike; `label` stands for every row's own."""
        if (view, label) not in self._seen:
            n = len(batch)
            task, options, labels = self.task, self.options, batch.label
            if label is not None:
                task, options = replace(task, label="hard"), replace(options, label_smoothing=0.0, pos_weight=1.0)
                labels = np.full(n, label, dtype=np.int64)
                labels.flags.writeable = False  # one compiled kernel, as the reader's arrays are read-only
            code, marks = batch.code.copy(), np.zeros((2, n), dtype=np.uint8)
            out = np.empty((1, n))
            add_batch(
                task, options, replace(batch, code=code, label=labels), flags=marks[0], at_target=marks[1], kept=SLOT, out=out,
                view=view, threads=self.threads,
            )  # fmt: skip
            self._seen[view, label] = out[0], code, marks[0] & np.uint8(CLIPPED)
        costs, seen, cut = self._seen[view, label]
        return costs, seen, (cut > 0).view(np.uint8)

    def _factors(self, line: Convention, batch: Batch) -> Costs:
        """What rows are multiplied by, (n,) or, for 1, (0,)."""
        weights = self.options.class_weights
        if line.factor == "weight" and batch.weight is not None:
            factors = batch.weight
        elif line.factor == "class" and weights is not None and batch.label is not None:
            # Labels that are no class stand in rows that are not used.
            factors = np.array(weights)[np.clip(batch.label, 0, len(weights) - 1)]
        else:
            return NO_NUMBER
        factors = factors.view()
        factors.flags.writeable = False
        return factors

    def _count_ignored(self, batch: Batch) -> None:
        """Counts the rows that were ignored for their label or their weight, and not for the mask."""
        ignored = batch.code == IGNORED
        if not ignored.any():
            return
        rows = self.arrays["convention_rows"][0]
        if batch.masked is not None:
            ignored &= ~batch.masked
        if self.options.ignore_index is not None and batch.label is not None:
            indexed = ignored & (batch.label == self.options.ignore_index)
            rows[:, INDEXED] += np.count_nonzero(indexed)
            ignored &= ~indexed
        if batch.weight is not None:
            rows[:, IDLE] += np.count_nonzero(ignored & (batch.weight == 0))


def _outside(costs: Costs, least: float, most: float) -> Marks:
    marks: Any = (costs < least) | (costs > most)
    found: Marks = marks.view(np.uint8)
    return found
