"""Rows computed and added up on a CUDA device: the same values and sums, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.kernels.cuda.device import Device, Given, Machine, stretch_of
from streamloss.kernels.cuda.groups import GroupsThere
from streamloss.kernels.rows import NO_LABEL, NO_NUMBER, settings
from streamloss.options import Options, Task
from streamloss.quantities import ENTROPY_GAP
from streamloss.reading.batch import NAMES, Batch
from streamloss.reading.resident import Columns
from streamloss.reading.roles import Plan
from streamloss.running.grouping import grouped_by
from streamloss.running.measure import Accumulator
from streamloss.running.resident import Taker, refuse_what_stays
from streamloss.running.rows import refusal


class OnDevice(Accumulator):
    """An accumulator whose sums are on a device until somebody asks for them; each of its shares has a stream of its own."""

    def __init__(
        self,
        task: Task,
        options: Options,
        threads: int,
        arrays: dict[str, NDArray[np.int64]] | None = None,
        *,
        machine: Callable[[], Machine],
    ) -> None:
        super().__init__(task, options, threads, arrays)
        self._machine = machine
        self._groups: list[GroupsThere] = []

    def another(self, threads: int, arrays: dict[str, NDArray[np.int64]] | None = None) -> Accumulator:
        return OnDevice(self.task, self.options, threads, arrays, machine=self._machine)

    def take(self, columns: Columns, plan: Plan, first_row: int) -> Batch:
        """A batch of arrays that lie on the device, where they lie."""
        refuse_what_stays(self.options, self.plan.mean_probabilities)
        return Taker(self._device.machine, plan, columns).batch(first_row)

    @cached_property
    def _device(self) -> Device:
        gap = bool((self._kept == ENTROPY_GAP).any() or (self._sums.slots == ENTROPY_GAP).any())
        return Device(self._machine(), self.task.family, self._sums, self._kept, gap)

    def settle(self) -> None:
        if "_device" in vars(self):
            self._device.drain()
        for each in (self, *self._shares):
            if isinstance(each, OnDevice):
                each._fetch()
        super().settle()

    def _fetch(self) -> None:
        """Has `slices` hold what was added to them."""
        groups, self._groups = self._groups, []
        for each in groups:
            each.fetch()

    def _carry(self) -> None:
        self._device.carry()
        self._fetch()
        super()._carry()

    @property
    def _stays(self) -> bool:
        """Whether all that is made of rows' values is made on the device."""
        return not self.options.sweep and self._beside is None and not self.plan.mean_probabilities

    def _add_sliced(self, batch: Batch) -> None:
        if not self._stays:
            super()._add_sliced(batch)
            return
        own = self.slices[: self._own]
        if not self._groups:
            self._groups = [self._device.groups(slices) for slices in own]
        grouped = [grouped_by(slices.by, batch, self.options.cluster) for slices in own]
        numbers = [groups.numbers(keys) for groups, (_, keys) in zip(self._groups, grouped, strict=True)]
        stretch = stretch_of(batch.prediction)
        for start in range(0, len(batch), stretch):
            piece = batch.rows(start, start + stretch)
            self._check(piece, self._fold(piece))
            for groups, (ids, _), number in zip(self._groups, grouped, numbers, strict=True):
                self._device.add_groups(groups, ids[start : start + stretch], number)

    def _extremes(self) -> NDArray[np.int64]:
        found = super()._extremes()
        if self.options.on_invalid == "error" and "_device" in vars(self):
            self._device.widen(found)
        return found

    def _fold(self, batch: Batch) -> NDArray[np.uint8]:
        if not batch.resident:
            return super()._fold(batch)
        flags, at_target = self._device.marks(len(batch))
        self._compute(batch, flags, at_target)
        return at_target  # type: ignore[no-any-return]

    def _check(self, batch: Batch, at_target: NDArray[np.uint8]) -> None:
        if not batch.resident:
            super()._check(batch, at_target)
        elif self.options.on_invalid == "error" and (row := self._device.first_broken(batch.code)) is not None:
            raise refusal(batch, row, bool(at_target[row]), self.options)

    def _compute(self, batch: Batch, flags: NDArray[np.uint8], at_target: NDArray[np.uint8]) -> None:
        device, n = self._device, len(batch)
        given = Given(
            prediction=batch.prediction, target=_or(batch.target, NO_NUMBER), label=_or(batch.label, NO_LABEL),
            weight=_or(batch.weight, NO_NUMBER), bytes=_or(batch.bytes, NO_NUMBER), code=batch.code, flags=flags,
            at_target=at_target,
        )  # fmt: skip
        given = Given(*(device.machine.send(name, each) for name, each in given._asdict().items()))
        how = settings(
            self.task, self.options, NAMES[batch.prediction.dtype],
            "float64" if batch.target is None else NAMES[batch.target.dtype],
        )  # fmt: skip
        loss = how.loss._replace(top_k=device.machine.send("top_k", how.loss.top_k))
        out = None if self._stays else self._values(n)
        device.add(given, how.stored, how.stored_q, loss, out if len(self._kept) else None)
        if batch.resident:
            return
        for mine, theirs in ((batch.code, given.code), (flags, given.flags), (at_target, given.at_target)):
            mine[...] = device.machine.to_host(theirs)


def _or(array: NDArray[Any] | None, empty: NDArray[Any]) -> NDArray[Any]:
    return empty if array is None else array
