"""Rows at other temperatures than the report's own, while they are still in the caches from being added up at that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamloss.kernels.grouped import Columns, add_to_groups, kept_slots
from streamloss.kernels.rows import row_buffer
from streamloss.options import Options, Task
from streamloss.quantities import Plan
from streamloss.reading.batch import Batch
from streamloss.running.rows import add_batch, columns_of
from streamloss.slices import Key
from streamloss.slicing import Slices

Way = tuple[NDArray[np.int64], NDArray[np.int32]]  # rows in the order of their groups, and the groups


class Curve:
    """Adds rows to a point for every temperature of a sweep: the groups of all rows, then those of every --by."""

    def __init__(self, task: Task, options: Options, slices: Sequence[Slices], threads: int) -> None:
        self.task, self.threads = task, threads
        step = 1 + len(options.groupings)
        self.points = [slices[i : i + step] for i in range(0, len(slices), step)]

    def numbers(self, keys: Sequence[list[Key]]) -> list[list[NDArray[np.int32]]]:
        """The numbers that the groups of every --by have at each temperature."""
        return [[slices.numbers(own) for slices, own in zip(point[1:], keys, strict=True)] for point in self.points]

    def add(
        self,
        batch: Batch,
        marks: NDArray[np.uint8],
        ways: Sequence[Way] = (),
        numbers: Sequence[Sequence[NDArray[np.int32]]] | None = None,
    ) -> None:
        """Adds a batch whose rows have been judged: marks (2, n) are their flags and `at_target`, ways how every --by groups
        them.
        """
        columns = columns_of(batch, room_for(self.points[0][0].plan, batch), marks[0])
        for point, own in zip(self.points, numbers or [()] * len(self.points), strict=True):
            take_values(self.task, point[0].options, batch, marks, point[0].plan, columns, self.threads)
            add_all_rows(point[0], columns)
            for slices, way, number in zip(point[1:], ways, own, strict=True):
                add_to_groups(slices, columns, *way, number)


def room_for(plan: Plan, batch: Batch) -> NDArray[np.float64]:
    """Room for the values that groups are made of."""
    return row_buffer(len(batch), len(kept_slots(plan)))


def take_values(
    task: Task, options: Options, batch: Batch, marks: NDArray[np.uint8], plan: Plan, columns: Columns, threads: int
) -> None:
    """Fills in the values of a batch's rows under these options."""
    add_batch(
        task, options, batch, flags=marks[0], at_target=marks[1], kept=kept_slots(plan), out=columns.values, threads=threads
    )


def add_all_rows(slices: Slices, columns: Columns) -> None:
    """Adds all rows to the one group of slices by no columns."""
    n = columns.values.shape[1]
    add_to_groups(slices, columns, np.arange(n), np.zeros(n, dtype=np.int32), np.zeros(1, dtype=np.int32))
