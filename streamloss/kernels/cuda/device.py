"""What a CUDA device adds up: its memory, and the launches that a batch of rows takes.

A batch is taken a stretch of rows at a time: a kernel finds the values of its rows, others add them up. To launch one takes the
host as long as a million short rows take the device, so stretches are long. Sums come back when somebody asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streamloss.digits import CLASS_WEIGHT, HIGHEST, LOWEST, RELIABILITY_WEIGHT
from streamloss.ieee.bits import LANES
from streamloss.kernels import limbs
from streamloss.kernels.bins import drain_tally
from streamloss.kernels.cuda import columns, fold, long
from streamloss.kernels.cuda import rows as values
from streamloss.kernels.cuda.classes import all_logits
from streamloss.kernels.cuda.groups import GroupsThere, pieces_of
from streamloss.kernels.cuda.warps import BESIDE
from streamloss.kernels.fold import Rows, Sums
from streamloss.kernels.panel import SMALL, Loss, Stored
from streamloss.quantities import BYTES, CROSS_ENTROPY, OUTCOME, SCORE, SLOTS
from streamloss.slicing import Slices

STRETCH = 1 << 22  # rows whose values the device has room for: some twenty of them, 8 bytes each
LONG_STRETCH = 1 << 20  # of long rows, which have records besides
MOST_BLOCKS = 4096  # of a launch at most: enough for any device, few enough that each has several rows
MOST_ROWS = 1 << 30  # that the registers of threads may be emptied of, before what they are emptied into is
_OF_THREAD = 256  # rows of a thread of the fold at most, of 2^11 that its registers take


_LAID_OUT = ("hard", "slots", "indicator", "spread", "by_class")  # what sums say of themselves


class Machine(Protocol):
    """Where kernels run: a device, or what stands in its place in tests."""

    def to_device(self, array: NDArray[Any]) -> Any:
        """The array in the device's memory; one that is there already as it is."""

    def send(self, name: str, array: NDArray[Any]) -> Any:
        """`to_device` of what there is one of at a time: the next array of the same name takes its place."""

    def to_host(self, array: Any) -> NDArray[Any]:
        """An array of the device's memory."""

    def adopt(self, array: Any) -> Any:
        """An array that lies in the device's memory and says so by `__cuda_array_interface__`, where it lies."""

    def room(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array in the device's memory; it holds anything."""

    def launch(self, kernel: Callable[..., None], blocks: tuple[int, int], arguments: tuple[Any, ...], warps: int = 1) -> None:
        """Runs a kernel in blocks of some warps, after what was launched before."""


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


def stretch_of(prediction: Any) -> int:
    """How many rows of these predictions are taken at a time."""
    return LONG_STRETCH if prediction.ndim == 2 and prediction.shape[1] > SMALL else STRETCH


def _warps(n: int) -> int:
    """Blocks that n things are shared out to, one a thread."""
    return max(1, min(MOST_BLOCKS, -(-n // LANES)))


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
        same = {name: getattr(sums, name) for name in _LAID_OUT}
        empty = {name: np.zeros_like(each) for name, each in sums._asdict().items() if name not in _LAID_OUT}
        empty["extremes"][...] = HIGHEST, LOWEST
        empty["counts"] = np.zeros((1, 0, 0), dtype=np.int32)  # 32 bits are for the caches of a CPU
        self._empty = Sums(**same, **empty)
        self._sums = self._sent()
        self._out = machine.room((len(self._slots), 1), np.dtype(np.float64))
        self._rooms: dict[str, Any] = {}
        self._rows_since_drain = 0
        self._last: Rows | None = None

    def _sent(self) -> Sums:
        return Sums(*(self.machine.to_device(each.copy()) if isinstance(each, np.ndarray) else each for each in self._empty))

    def add(self, given: Given, stored: Stored, stored_q: Stored | None, loss: Loss, out: NDArray[np.float64] | None) -> None:
        """Adds rows whose code is USED. code, flags and at_target are written to, and out (S, n) gets the wanted values."""
        n = given.prediction.shape[0]
        self._rows_since_drain += n
        most = stretch_of(given.prediction)
        if self._out.shape[1] < min(n, most):
            self._out = self.machine.room((len(self._slots), min(n, most)), np.dtype(np.float64))
        for start in range(0, n, most):
            stop = min(start + most, n)
            piece = Given(*(each[start:stop] if each.shape[0] else each for each in given))
            rows = self._rows(piece, loss, stop - start)
            self._find(piece, rows, stored, stored_q, loss, stop - start)
            self._fold(rows, np.int64(stop - start))
            self._last = rows
            if out is not None:
                out[:, start:stop] = self.machine.to_host(self._out)[: self._wanted, : stop - start]

    def _rows(self, piece: Given, loss: Loss, n: int) -> Rows:
        step = LANES
        if self._family == "categorical" and piece.prediction.shape[1] > SMALL and loss.smoothing > 0.0:
            step = max(1, min(LANES, n // MOST_BLOCKS))  # a warp goes over all classes again: as many warps as there can be
        return Rows(
            cursor=0, step=np.int64(step), code=piece.code, flags=piece.flags, at_target=piece.at_target, label=piece.label,
            weight=piece.weight, bytes=piece.bytes, gap=self._gap, kept=self._kept, out=self._out,
        )  # fmt: skip

    def _find(self, piece: Given, rows: Rows, stored: Stored, stored_q: Stored | None, loss: Loss, n: int) -> None:
        blocks = min(-(-n // int(rows.step)), MOST_BLOCKS)
        x, kernel = piece.prediction, getattr(values, self._family)
        arguments: tuple[Any, ...] = (x, rows, stored, loss)
        if self._family == "categorical":
            arguments += (self._records(n, x.shape[1], long.SINGLE),)
            kernel = values.categorical_small if values.FEW < x.shape[1] <= SMALL else kernel
            if x.shape[1] > SMALL:
                self._launch_long(long.one, n, x.shape[1], True, (x, rows, stored), arguments[-1])
        elif self._family == "pair":
            arguments = (piece.target, x, rows, stored_q, stored, loss, self._records(n, x.shape[1], long.PAIR))
            if x.shape[1] > SMALL:
                assert stored_q is not None
                plain = all_logits(stored_q, stored, loss)
                self._launch_long(long.both, n, x.shape[1], plain, arguments[:-1], arguments[-1])
            panel = (blocks if values.FEW < x.shape[1] <= SMALL else 0, x.shape[1], BESIDE)
            arguments += (self._room("q", panel, piece.target.dtype), self._room("p", panel, x.dtype))
        self.machine.launch(kernel, (blocks, 1), arguments)

    def _records(self, n: int, k: int, columns: int) -> Any:
        """Room for what the classes of n rows add up to, where rows are long."""
        return self._room("records", (n if k > SMALL else 0, columns), np.dtype(np.float64))

    def _launch_long(
        self, kernel: Callable[..., None], n: int, k: int, shared: bool, arguments: tuple[Any, ...], records: Any
    ) -> None:
        """Fills the records; `shared` says that the warps of a block may take a row together."""
        team = long.WARPS if shared and k >= long.TOGETHER else 1
        blocks = min(-(-n * team // long.WARPS), MOST_BLOCKS)
        self.machine.launch(kernel, (blocks, 1), (*arguments, np.int64(team), records), long.WARPS)

    def groups(self, slices: Slices) -> GroupsThere:
        """The groups of rows that this device has the values of, to be given to `add_groups`."""
        place = np.zeros(SLOTS, dtype=np.int64)
        place[self._slots] = np.arange(len(self._slots))
        return GroupsThere(self.machine, slices, place)

    def add_groups(self, groups: GroupsThere, ids: NDArray[np.int32], numbers: NDArray[np.int32]) -> None:
        """Adds the rows of the last `add`, at most as many as `stretch_of` says, to the groups numbers[ids]."""
        assert self._last is not None
        groups.add(self._last, pieces_of(ids, numbers))

    def marks(self, n: int) -> tuple[Any, Any]:
        """Flags and at_target (n,) of rows that have none yet; the next call gives the same memory."""
        flags, at_target = (self._room(name, (n,), np.dtype(np.uint8))[:n] for name in ("flags", "at_target"))
        self.machine.launch(columns.clear, (_warps(n), 1), (flags, at_target))
        return flags, at_target

    def first_broken(self, code: Any) -> int | None:
        """The first row of code (n,), on the device, that breaks a rule."""
        n = code.shape[0]
        found = self.machine.to_device(np.full(1, n))
        self.machine.launch(columns.find_broken, (_warps(n), 1), (code, found))
        row = int(self.machine.to_host(found)[0])
        return row if row < n else None

    def _room(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory that blocks work in; it is the same from launch to launch, as long as there is enough of it."""
        known = self._rooms.get(name)
        if known is None or known.shape[0] < shape[0] or known.shape[1:] != shape[1:]:
            self._rooms[name] = self.machine.room(shape, dtype)
        return self._rooms[name]

    def _fold(self, rows: Rows, n: np.int64) -> None:
        """Adds the values of n rows."""
        launch, quantities = self.machine.launch, len(self._home.slots)
        found = fold.Found(rows.code, rows.flags, rows.label, rows.weight, rows.out)
        blocks = max(1, min(MOST_BLOCKS, -(-int(n) // LANES)))
        blocks = max(-(-int(n) // (LANES * _OF_THREAD)), min(blocks, 512))
        if quantities and rows.weight.shape[0]:
            launch(fold.add_weighted_values, (blocks, quantities), (found, n, self._at, self._part(fold.OfValues)))
        elif quantities:
            launch(fold.add_values, (blocks, quantities), (found, n, self._at, self._part(fold.OfValues), self._parts))
        rest = (found, n, self._score, self._outcome, self._loss, self._bytes, self._part(fold.OfRows))
        launch(fold.add_rest, (blocks, 1), rest)

    def _part(self, kind: type[Any]) -> Any:
        """Those of the sums that a kernel adds to."""
        return kind(*(getattr(self._sums, name) for name in kind._fields))

    def widen(self, extremes: NDArray[np.int64]) -> None:
        """Has extremes (threads, M, 2) take in those that are still on the device."""
        found = self.machine.to_host(self._sums.extremes)
        np.minimum(extremes[..., 0], found[..., 0], out=extremes[..., 0])
        np.maximum(extremes[..., 1], found[..., 1], out=extremes[..., 1])

    def carry(self) -> None:
        """Makes digits canonical where they are, so that the next rows cannot overflow them."""
        if self._rows_since_drain >= MOST_ROWS:
            self.drain()
            return
        sums, launch = self._sums, self.machine.launch
        if sums.tally.shape[1]:
            launch(fold.carry_tally, (_warps(sums.reliability.shape[1]), 1), (sums.tally[0], sums.reliability[0]))
        for limbs_ in (sums.moments, sums.weight, sums.infinite_weight, sums.cross):
            if count := math.prod(limbs_.shape[:-1]):
                launch(fold.carry_limbs, (_warps(count), 1), (limbs_.reshape(count, limbs_.shape[-1]),))
        weighted = sums.weight.shape[1] > 0
        begin = {"classes": CLASS_WEIGHT, "reliability": RELIABILITY_WEIGHT} | ({"histogram": 0} if weighted else {})
        for name, at in begin.items():
            digits = getattr(sums, name)
            if count := math.prod(digits.shape[:-1]):
                launch(fold.carry_fixed, (_warps(count), 1), (digits.reshape(count, digits.shape[-1]), np.int64(at)))

    def drain(self) -> None:
        """Moves all that was added into the sums of the host."""
        home, host = self._home, self.machine.to_host
        for name, mine, theirs in zip(Sums._fields, home, self._sums, strict=True):
            if name in _LAID_OUT or name == "counts":
                continue
            if name == "extremes":
                self.widen(mine)
            elif mine.size:
                mine += host(theirs)
        if home.tally.size:
            drain_tally(home.tally, home.reliability)
        for moments, parts in zip(home.moments[0][: len(home.slots)], host(self._parts).tolist(), strict=True):
            for (which, unit), (low, high) in zip(fold.UNITS, parts, strict=True):
                limbs.add_int(moments[which], np.int64(low), np.int64(unit))
                limbs.add_int(moments[which], np.int64(high), np.int64(unit + 32))
        self._parts = self.machine.to_device(np.zeros((len(home.slots), fold.PARTS, 2), dtype=np.int64))
        self._sums = self._sent()
        self._rows_since_drain = 0
