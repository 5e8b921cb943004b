"""What does the work everywhere: an accumulator takes batches in and gives a State out, or names the first bad row."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.errors import IGNORED, DataError
from streamloss.kernels.fold import Sums, drain
from streamloss.kernels.grouped import add_to_groups, kept_slots, moved, sorted_places
from streamloss.kernels.marginal import add_probabilities
from streamloss.kernels.panel import FORMS
from streamloss.kernels.rows import NO_NUMBER, row_buffer, sums_of
from streamloss.options import Options, Task
from streamloss.quantities import CROSS_ENTROPY, plan
from streamloss.reading.batch import Batch
from streamloss.running.conventions import SLOT, Beside
from streamloss.running.curve import Curve, Way
from streamloss.running.grouping import grouped_by
from streamloss.running.rows import add_batch, check_rules, columns_of, widened
from streamloss.slices import beside, kept, makes_whole, most_rows
from streamloss.slicing import Slices
from streamloss.state import State, absorb, empty_arrays, layout, loss_of, normalize

_SHORT_ROW = 128  # bytes up to which moving a row costs less than fetching its values from all over a batch
_CHUNK = 65_536  # rows whose values stay in the caches, and that make what Python does for them cost nothing


class Accumulator:
    """Adds batches to a state, with `threads` partial sums so that threads never meet. Enter it from one thread."""

    def __init__(self, task: Task, options: Options, threads: int, arrays: dict[str, NDArray[np.int64]] | None = None) -> None:
        self.task, self.options, self.threads = task, options, threads
        self.plan = plan(task, options)
        self.shapes = layout(task, options)
        self.arrays = empty_arrays(self.shapes, lead=(threads,)) if arrays is None else arrays
        self.most_rows = most_rows(task)
        self._rows_since_carry = 0
        self._marks = np.empty((2, 0), dtype=np.uint8)
        self.slices = self._empty_slices()
        # So many of them are of the report's own temperature; behind them stand those of a sweep.
        self._own = beside(options)
        others = Beside(task, options, threads, self.arrays) if options.convention else None
        self._beside = others if others is not None and others.lines else None
        # The row values that somebody looks at after the fold.
        self._kept = kept_slots(self.plan) if self._own else SLOT[: 1 if self._beside else 0]
        self._room = np.empty(0)
        self._moving: dict[str, NDArray[Any]] = {}
        self._shares: list[Accumulator] = []
        self._gone: dict[str, NDArray[np.int64]] = {}

    def another(self, threads: int, arrays: dict[str, NDArray[np.int64]] | None = None) -> Accumulator:
        """One of the same kind, for the same task."""
        return Accumulator(self.task, self.options, threads, arrays)

    def _empty_slices(self) -> list[Slices]:
        return [Slices(self.task, own, by, p) for by, p, own in kept(self.task, self.options, self.plan)]

    @property
    def _curve(self) -> Curve | None:
        """Those of a sweep, if one was asked for."""
        if not self.options.sweep:
            return None
        return Curve(self.task, self.options, self.slices[self._own :], self.threads)

    @property
    def _makes_whole(self) -> bool:
        """Whether the first slices have all that the whole adds up, so that it need not be added up besides."""
        return bool(self.options.by) and makes_whole(self.task)

    @cached_property
    def _sums(self) -> Sums:
        """What the kernels add to; where the slices make up the whole, only what they have not."""
        if not self._makes_whole:
            return sums_of(self.task, self.plan, self.arrays)
        rest = replace(self.plan, moments=(), spread=(), per_class=())
        empty = {name: self.arrays[name][:, :0] for name in ("histogram", "classes", "cross")}
        return sums_of(self.task, rest, self.arrays | empty)

    def shares(self) -> list[Accumulator]:
        """An accumulator of one thread for each partial sum, to be entered by as many threads; `settle` them before asking
        this one for anything.
        """
        parts = ({name: array[t : t + 1] for name, array in self.arrays.items()} for t in range(self.threads))
        self._shares = [self.another(1, arrays) for arrays in parts]
        return self._shares

    def settle(self) -> None:
        """Moves all that was added into `arrays`, and what the shares have of slices into `slices`."""
        if "_sums" in vars(self):
            drain(self._sums)
        for share in self._shares:
            share._let_go()
            for mine, theirs in zip(self.slices, share.slices, strict=True):
                mine.take_over(theirs)
            share.slices = share._empty_slices()

    def _let_go(self) -> None:
        """Remembers, for `loss_so_far`, what is in slices that are taken away."""
        if self._makes_whole:
            names = ("moments", "infinite")
            gone = {name: self._gone.get(name, np.zeros_like(self.arrays[name][0])) for name in names}
            self.slices[0].add_moments(gone)
            self._gone = gone

    def add(self, batch: Batch) -> None:
        """Adds a batch. Raises `DataError` at a bad row unless invalid rows are to be skipped, and then adds nothing of it.

        More than `most_rows` rows are added in pieces: what stands before the bad row's piece then stays. With slices the sums
        are of no more use after a bad row.
        """
        if len(batch) > self.most_rows:
            for start in range(0, len(batch), self.most_rows):
                self.add(batch.rows(start, start + self.most_rows))
            return
        if self._rows_since_carry + len(batch) > self.most_rows:
            self._carry()
        self._rows_since_carry += len(batch)
        if self._own:
            self._add_sliced(batch)
            return
        extremes = self._extremes()
        at_target = self._fold(batch)
        try:
            self._check(batch, at_target)
        except DataError:
            self._take_back(batch, extremes)
            raise
        if self.plan.mean_probabilities:
            self._add_probabilities(batch)
        if (curve := self._curve) is not None:
            for start in range(0, len(batch), _CHUNK):
                piece = batch.rows(start, start + _CHUNK)
                curve.add(piece, self._marks[:, start : start + len(piece)])

    def _add_sliced(self, batch: Batch) -> None:
        """Adds a batch to the slices too. After a bad row the sums are of no more use.

        Where rows are short they are first put in the order of their slices, and then added up a few at a time, while their
        values are in the second-level cache.
        """
        n, own, curve = len(batch), self.slices[: self._own], self._curve
        code = batch.code.copy()
        grouped = [grouped_by(slices.by, batch, self.options.cluster) for slices in own]
        by = [keys for _, keys in grouped[: len(self.options.groupings)]]
        place, owners = sorted_places(grouped[0][0], len(grouped[0][1]))
        sorts = batch.row_bytes <= _SHORT_ROW
        rows, step = (self._moved(batch, place), _CHUNK) if sorts else (batch, n)
        others = [(moved(ids, place) if sorts else ids, keys) for ids, keys in grouped[1:]]
        numbers: list[NDArray[np.int32]] = []
        elsewhere: list[list[NDArray[np.int32]]] = []
        for start in range(0, n, step):
            piece = rows.rows(start, start + step)
            self._fold(piece)
            if self.options.on_invalid == "error" and piece.code.max() > IGNORED:
                self._refuse(replace(batch, code=code), step)
            if self.plan.mean_probabilities:
                self._add_probabilities(piece)
            if not numbers:
                numbers = [slices.numbers(keys) for slices, (_, keys) in zip(own, grouped, strict=True)]
                elsewhere = [] if curve is None else curve.numbers(by)
            columns = columns_of(piece, self._values(len(piece)), self._marks[0, : len(piece)])
            here = np.arange(len(piece))
            ways: list[Way] = [(here if sorts else moved(here, place), owners[start : start + step])]
            for ids, keys in others:
                way, whose = sorted_places(ids[start : start + step], len(keys))
                ways.append((moved(here, way), whose))
            for slices, (order, whose), number in zip(own, ways, numbers, strict=True):
                add_to_groups(slices, columns, order, whose, number)
            if curve is not None:
                curve.add(piece, self._marks[:, : len(piece)], ways[: len(by)], elsewhere)

    def _moved(self, batch: Batch, place: NDArray[np.uint32]) -> Batch:
        """The rows of a batch in another order, in memory that is used again for the next one."""
        n = len(batch)
        new: dict[str, Any] = {"code": np.zeros(n, dtype=np.int8)}
        for name in ("prediction", "target", "label", "weight", "bytes", "masked", "code"):
            array = getattr(batch, name)
            if array is None or (name == "code" and not array.any()):
                continue
            room = self._moving.get(name)
            if room is None or len(room) < n:
                room = self._moving[name] = np.empty(array.shape, dtype=array.dtype)
            new[name] = moved(array, place, room[:n])
            new[name].flags.writeable = name == "code"
        return replace(batch, keys={}, found={}, **new)

    def _refuse(self, batch: Batch, step: int) -> None:
        """Raises the error of the first bad row of a batch that has one, in the order in which its rows came."""
        for start in range(0, len(batch), step):
            piece = batch.rows(start, start + step)
            check_rules(piece, self._fold(piece), self.options)

    def _extremes(self) -> NDArray[np.int64]:
        """The least and the greatest so far."""
        return self.arrays["extremes"].copy()

    def _check(self, batch: Batch, at_target: NDArray[np.uint8]) -> None:
        """Raises the error of the first bad row of a batch that has just been added."""
        check_rules(batch, at_target, self.options)

    def _fold(self, batch: Batch) -> NDArray[np.uint8]:
        """Adds the rows whose code is USED; returns whose rule a bad row breaks, the prediction's (0) or the target's (1)."""
        n = len(batch)
        if self._marks.shape[1] < n:
            self._marks = np.empty((2, n), dtype=np.uint8)
            self._room = row_buffer(n, len(self._kept)).reshape(-1)
        flags, at_target = self._marks[0, :n], self._marks[1, :n]
        flags[:] = 0
        at_target[:] = 0
        self._compute(batch, flags, at_target)
        if self._beside is not None:
            self._beside.add(batch, self._values(n)[self._kept.tolist().index(CROSS_ENTROPY)])
        return at_target

    def _compute(self, batch: Batch, flags: NDArray[np.uint8], at_target: NDArray[np.uint8]) -> None:
        """Finds the values of a batch's rows and adds them up."""
        add_batch(
            self.task, self.options, batch, flags=flags, at_target=at_target, kept=self._kept,
            out=self._values(len(batch)) if len(self._kept) else None, sums=self._sums, threads=self.threads,
        )  # fmt: skip

    def _values(self, n: int) -> NDArray[np.float64]:
        """The kept values (S, n) of the last n rows, one quantity's behind the other's."""
        return self._room[: len(self._kept) * n].reshape(len(self._kept), n)

    def _take_back(self, batch: Batch, extremes: NDArray[np.int64]) -> None:
        """Subtracts a batch that has just been added. Sums are exact, so what is left is what was there before."""
        again = self.another(self.threads)
        again._fold(batch)
        again.settle()
        self.settle()
        for name, array in self.arrays.items():
            if name == "extremes":
                array[...] = extremes
            else:
                array -= again.arrays[name]

    def _carry(self) -> None:
        """Makes room for as many rows: they add less than 2^62 to any digit."""
        drain(self._sums, above=self.most_rows // 2)
        normalize(self.arrays, self.shapes, above=1 << 61)
        for slices in self.slices:
            slices.carry()
        self._rows_since_carry = 0

    def _add_probabilities(self, batch: Batch) -> None:
        weight = NO_NUMBER if batch.weight is None else batch.weight
        x, form, scale = batch.prediction, self.task.form, 1.0 / self.options.temperature
        if self.task.family == "binary":
            one = widened(x)
            x = np.stack([np.zeros(len(x)) if form == "logits" else 1.0 - one, one], axis=1)
        sums = self.arrays["mean_probabilities"]
        add_probabilities(x, batch.code, weight, FORMS[form], scale, self.options.normalize, sums, self.threads)

    def absorb(self, other: Accumulator) -> None:
        """Takes over what another accumulator of the same task and threads has added."""
        for each in (self, other):
            each.settle()
            normalize(each.arrays, each.shapes)
        absorb(self.arrays, other.arrays, self.shapes)
        for mine, theirs in zip(self.slices, other.slices, strict=True):
            mine.absorb(theirs)

    def loss_so_far(self) -> tuple[Fraction, Fraction]:
        """As `state.loss_of`."""
        arrays = {name: self.arrays[name].sum(axis=0) for name in ("ledger", "moments", "infinite", "weight")}
        if self._makes_whole:
            self.slices[0].add_moments(arrays)
            for name, array in self._gone.items():
                arrays[name] += array
        return loss_of(self.task, self.plan, arrays)

    def state(self, last: bool = False) -> State:
        """The state of all rows so far; more may be added afterwards, unless it is the `last`, which takes less memory."""
        self.settle()
        normalize(self.arrays, self.shapes, above=(1 << 62) // self.threads)
        whole = {name: array.sum(axis=0) for name, array in self.arrays.items()}
        whole["extremes"][..., 0] = self.arrays["extremes"][..., 0].min(axis=0)
        whole["extremes"][..., 1] = self.arrays["extremes"][..., 1].max(axis=0)
        if self._makes_whole:
            self.slices[0].add_whole(whole)
        normalize(whole, self.shapes)
        return State(self.task, self.options, whole, [slices.settled(last) for slices in self.slices])
