"""What a CUDA device adds up: its memory, and the launches that a batch of rows takes.

A batch is taken a stretch of rows at a time, so that the values of its rows stay in the device's cache between the kernel that
finds them and those that add them up. Sums come back when somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streamloss.ieee.bits import LANES
from streamloss.kernels import limbs
from streamloss.kernels.bins import drain_tally
from streamloss.kernels.cuda import fold
from streamloss.kernels.cuda import rows as values
from streamloss.kernels.fold import Rows, Sums
from streamloss.kernels.panel import SMALL, Loss, Stored
from streamloss.quantities import BYTES, CROSS_ENTROPY, OUTCOME, SCORE

STRETCH = 1 << 17  # rows whose values stay in the cache: a few of them, 8 bytes each
_BLOCKS = 4096  # of a launch at most: enough for any device, few enough that each has several rows
_LEAST = 256  # rows of a thread of the fold at most, of MOST_ROWS that it may have


class Machine(Protocol):
    """Where kernels run: a device, or what stands in its place in tests."""

    def to_device(self, array: NDArray[Any]) -> Any:
        """The array in the device's memory; one that is there already as it is."""

    def to_host(self, array: Any) -> NDArray[Any]:
        """An array of the device's memory."""

    def launch(self, kernel: Callable[..., None], blocks: tuple[int, int], arguments: tuple[Any, ...]) -> None:
        """Runs a kernel in blocks of one warp, after what was launched before."""


class Given(NamedTuple):
    """A batch of n rows on the device, as `kernels.rows.add_rows` takes it; arrays that are not there are empty."""

    prediction: Any
    target: Any
    label: Any
    weight: Any
    bytes: Any
    code: Any
    flags: Any
    at_target: Any


def _nothing(dtype: Any) -> NDArray[Any]:
    return np.zeros(0, dtype=dtype)


class Device:
    """The sums of a run on a device, for batches of one task.

    sums: on the host, as `kernels.rows.sums_of` gives them for one thread; they are added to when `drain` is called.
    wanted (S,): slots whose values somebody asks for besides.
    """

    def __init__(self, machine: Machine, family: str, sums: Sums, wanted: NDArray[np.int64], gap: bool) -> None:
        self.machine, self._family, self._home, self._gap = machine, family, sums, gap
        judged = sums.tally.shape[1] > 0 or sums.reliability.shape[1] > 0
        shared = sums.classes.shape[1] > 0 and not sums.hard
        crossed = sums.cross.shape[1] > 0
        slots = [*wanted.tolist(), *sums.slots.tolist()]
        slots += [SCORE] * judged + [OUTCOME] * (judged or shared) + [CROSS_ENTROPY, BYTES] * crossed
        self._slots = list(dict.fromkeys(slots))
        place = {slot: i for i, slot in enumerate(self._slots)}
        self._score, self._outcome, self._loss, self._bytes = (
            np.int64(place[slot] if there else -1)
            for slot, there in ((SCORE, judged), (OUTCOME, judged or shared), (CROSS_ENTROPY, crossed), (BYTES, crossed))
        )
        send = machine.to_device
        self._at = send(np.array([place[slot] for slot in sums.slots.tolist()], dtype=np.int64))
        self._kept = send(np.array(self._slots, dtype=np.int64))
        self._wanted = len(wanted)
        self._parts = send(np.zeros((len(sums.slots), fold.PARTS, 2), dtype=np.int64))
        # Counts of 32 bits are for the caches of a CPU.
        self._empty = Sums(*(each.copy() if isinstance(each, np.ndarray) else each for each in sums))._replace(
            counts=np.zeros((1, 0, 0), dtype=np.int32)
        )
        self._sums = self._sent()
        self._out = send(np.empty((len(self._slots), STRETCH)))
        self._rooms: dict[str, Any] = {}

    def _sent(self) -> Sums:
        return Sums(*(self.machine.to_device(each.copy()) if isinstance(each, np.ndarray) else each for each in self._empty))

    def add(self, given: Given, stored: Stored, stored_q: Stored | None, loss: Loss, out: NDArray[np.float64] | None) -> None:
        """Adds rows whose code is USED. code, flags and at_target are written to, and out (S, n) gets the wanted values."""
        n = given.prediction.shape[0]
        for start in range(0, n, STRETCH):
            stop = min(start + STRETCH, n)
            piece = Given(*(each[start:stop] if each.shape[0] else each for each in given))
            rows = self._rows(piece, stop - start)
            self._find(piece, rows, stored, stored_q, loss, stop - start)
            self._fold(rows, np.int64(stop - start))
            if out is not None:
                out[:, start:stop] = self.machine.to_host(self._out)[: self._wanted, : stop - start]

    def _rows(self, piece: Given, n: int) -> Rows:
        step = LANES
        if self._family in ("categorical", "pair") and piece.prediction.shape[1] > SMALL:
            step = max(1, min(LANES, n // _BLOCKS))  # long rows: as many warps as there can be
        return Rows(
            cursor=0, step=np.int64(step), code=piece.code, flags=piece.flags, at_target=piece.at_target, label=piece.label,
            weight=piece.weight, bytes=piece.bytes, gap=self._gap, kept=self._kept, out=self._out,
        )  # fmt: skip

    def _find(self, piece: Given, rows: Rows, stored: Stored, stored_q: Stored | None, loss: Loss, n: int) -> None:
        blocks = min(-(-n // int(rows.step)), _BLOCKS)
        arguments: tuple[Any, ...] = (piece.prediction, rows, stored, loss)
        if self._family in ("categorical", "pair"):
            k = piece.prediction.shape[1]
            panel = (blocks if values.FEW < k <= SMALL else 0, k, LANES)
            if self._family == "pair":
                exponentials = (blocks, max(SMALL, k // LANES + 1), LANES)
                rooms = [self._room(name, exponentials, np.dtype(np.float64)) for name in ("eq", "ep")]
                rooms += [self._room("q", panel, piece.target.dtype), self._room("p", panel, piece.prediction.dtype)]
                arguments = (piece.target, piece.prediction, rows, stored_q, stored, loss, *rooms)
            else:
                arguments += (self._room("p", panel, piece.prediction.dtype),)
        self.machine.launch(getattr(values, self._family), (blocks, 1), arguments)

    def _room(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory that blocks work in; it is the same from launch to launch, as long as there is enough of it."""
        known = self._rooms.get(name)
        if known is None or known.shape[0] < shape[0] or known.shape[1:] != shape[1:]:
            self._rooms[name] = self.machine.to_device(np.zeros(shape, dtype=dtype))
        return self._rooms[name]

    def _fold(self, rows: Rows, n: np.int64) -> None:
        """Adds the values of n rows."""
        launch, quantities = self.machine.launch, len(self._home.slots)
        blocks = max(1, min(_BLOCKS, -(-int(n) // LANES)))
        blocks = max(-(-int(n) // (LANES * _LEAST)), min(blocks, 512))
        if quantities and rows.weight.shape[0]:
            launch(fold.add_weighted_moments, (blocks, quantities), (rows, n, self._at, self._sums))
        elif quantities:
            launch(fold.add_moments, (blocks, quantities), (rows, n, self._at, self._sums, self._parts))
        if quantities and (self._home.histogram.shape[1] or self._home.classes.shape[1]):
            launch(fold.add_places, (blocks, quantities), (rows, n, self._at, self._sums))
        rest = (rows, n, self._score, self._outcome, self._loss, self._bytes, self._sums)
        launch(fold.add_rest, (blocks, 1), rest)

    def drain(self) -> None:
        """Moves all that was added into the sums of the host."""
        home, host = self._home, self.machine.to_host
        for name, mine, theirs in zip(Sums._fields, home, self._sums, strict=True):
            if name in ("hard", "slots", "indicator", "spread", "by_class", "counts"):
                continue
            if name == "extremes":
                found = host(theirs)
                np.minimum(mine[..., 0], found[..., 0], out=mine[..., 0])
                np.maximum(mine[..., 1], found[..., 1], out=mine[..., 1])
            elif mine.size:
                mine += host(theirs)
        if home.tally.size:
            drain_tally(home.tally, home.reliability)
        units = [(0, unit) for unit in fold.UNITS_X] + [(1, unit) for unit in fold.UNITS_SQUARE]
        for moments, parts in zip(home.moments[0][: len(home.slots)], host(self._parts).tolist(), strict=True):
            for (which, unit), (low, high) in zip(units, parts, strict=True):
                limbs.add_int(moments[which], np.int64(low), np.int64(unit))
                limbs.add_int(moments[which], np.int64(high), np.int64(unit + 32))
        self._parts = self.machine.to_device(np.zeros((len(home.slots), fold.PARTS, 2), dtype=np.int64))
        self._sums = self._sent()
