"""Rows computed and added up on a CUDA device: the same values and sums, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.kernels.cuda.device import Device, Given, Machine
from streamloss.kernels.rows import NO_LABEL, NO_NUMBER, settings
from streamloss.options import Options, Task
from streamloss.quantities import ENTROPY_GAP
from streamloss.reading.batch import NAMES, Batch
from streamloss.running.measure import Accumulator


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

    def _another(self, threads: int, arrays: dict[str, NDArray[np.int64]] | None = None) -> Accumulator:
        return OnDevice(self.task, self.options, threads, arrays, machine=self._machine)

    @cached_property
    def _device(self) -> Device:
        gap = bool((self._kept == ENTROPY_GAP).any() or (self._sums.slots == ENTROPY_GAP).any())
        return Device(self._machine(), self.task.family, self._sums, self._kept, gap)

    def settle(self) -> None:
        if "_device" in vars(self):
            self._device.drain()
        super().settle()

    def _compute(self, batch: Batch, flags: NDArray[np.uint8], at_target: NDArray[np.uint8]) -> None:
        device, n = self._device, len(batch)
        send = device.machine.to_device
        given = Given(
            prediction=send(batch.prediction),
            target=send(_or(batch.target, NO_NUMBER)),
            label=send(_or(batch.label, NO_LABEL)),
            weight=send(_or(batch.weight, NO_NUMBER)),
            bytes=send(_or(batch.bytes, NO_NUMBER)),
            code=send(batch.code),
            flags=send(flags),
            at_target=send(at_target),
        )
        how = settings(
            self.task, self.options, NAMES[batch.prediction.dtype],
            "float64" if batch.target is None else NAMES[batch.target.dtype],
        )  # fmt: skip
        device.add(given, how.stored, how.stored_q, how.loss, self._values(n) if len(self._kept) else None)
        for mine, theirs in ((batch.code, given.code), (flags, given.flags), (at_target, given.at_target)):
            mine[...] = device.machine.to_host(theirs)


def _or(array: NDArray[Any] | None, empty: NDArray[Any]) -> NDArray[Any]:
    return empty if array is None else array
