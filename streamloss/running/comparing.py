"""Two models on the same rows: a comparator takes pairs of batches in and gives a Comparison out, or names the first bad row.

A row that is bad or ignored for one model counts for neither: the values of both and those between them are kept first, and
added up when it is known which rows are good.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamloss.comparison import Comparison, Sides
from streamloss.digits import LIMBS, limbs_value
from streamloss.errors import IGNORED, USED, UsageError
from streamloss.kernels.between import write_differences, write_gains
from streamloss.kernels.grouped import add_to_groups, kept_slots, moved, sorted_places
from streamloss.kernels.rows import NO_LABEL
from streamloss.options import Options, Task
from streamloss.quantities import CROSS_ENTROPY, DELTA_P, DELTA_P_SQUARED, JS, KL, REVERSE_KL, SAME_TOP, between, plan
from streamloss.reading.batch import Batch
from streamloss.reading.paired import Pair, paired
from streamloss.reading.source import Input
from streamloss.running.grouping import grouped_by
from streamloss.running.local import Begin, Watcher, add_all, looking
from streamloss.running.rows import add_batch, columns_of, refusal, widened
from streamloss.slices import CLUSTER, clustered, kept, most_rows
from streamloss.slicing import Slices

_PIECE = 1 << 16  # rows whose values are kept at a time
_OF_MODELS = (KL, REVERSE_KL, JS, SAME_TOP)


def compare(
    new: Input, old: Input, options: Options, old_options: Options, key: str | None, threads: int, watch: Watcher | None = None
) -> Comparison:
    """The comparison of all rows. Raises `DataError` for the first bad row, and where the rows are not the same."""
    check_models(new.task, old.task)
    whole = Comparator(new.task, old.task, options, old_options, threads)

    def begins(_: Executor) -> list[Begin]:
        return list(paired(new, old, key))

    add_all(whole, begins, threads, looking(new, watch))
    found = whole.comparison()
    found.columns = dict(new.roles) | {f"baseline_{role}": name for role, name in old.roles.items()}
    found.inputs = new.files + [entry for entry in old.files if entry not in new.files]
    return found


def check_models(new: Task, old: Task) -> None:
    """Raises `UsageError` when predictions of these kinds cannot be compared."""
    family = "categorical" if new.family == "pair" else new.family
    if family != old.family:
        raise UsageError(f"the models predict different things: the new one is {family}, the old one {old.family}")
    if new.classes != old.classes:
        raise UsageError(f"the models have different classes: {new.classes} of the new one, {old.classes} of the old one")


@dataclass
class _Kept:
    """The values of a piece of rows by one kernel, with its marks."""

    values: NDArray[np.float64]
    flags: NDArray[np.uint8]
    at_target: NDArray[np.uint8]


class Comparator:
    """Adds pairs of batches to a comparison, one thread at a time; `shares` are for several."""

    def __init__(self, new: Task, old: Task, options: Options, old_options: Options, threads: int) -> None:
        self.threads = threads
        self.task, self.options = new, options
        # The old model is judged by the same truth.
        self.old_task, self.old_options = replace(new, form=old.form), old_options
        self.pair_task = Task(family="pair", form=new.form, classes=max(new.classes, 2), target_form=old.form)
        self.pair_options = Options(
            temperature=options.temperature, target_temperature=old_options.temperature, normalize=options.normalize,
            sum_tolerance=options.sum_tolerance,
        )  # fmt: skip
        self.plan, self.between = plan(new, options), between(new, options)
        self.kept, self.kept_between = kept_slots(self.plan), kept_slots(self.between)
        self.groupings: list[tuple[Slices, Slices, Slices]] = [self._slices((), False)]
        self.groupings += [self._slices(by, by[-1] == CLUSTER) for by, _, _ in kept(new, options, self.plan)]
        self._shares: list[Comparator] = []
        self._rows_since_carry = 0

    def _slices(self, by: tuple[str, ...], clusters: bool) -> tuple[Slices, Slices, Slices]:
        own, between = (clustered(p) if clusters else p for p in (self.plan, self.between))
        return (
            Slices(self.task, self.options, by, own),
            Slices(self.old_task, self.old_options, by, own),
            Slices(replace(self.task, label="none"), self.options, by, between),
        )

    def shares(self) -> list[Comparator]:
        """One for every thread; `settle` them before asking this one for anything."""
        self._shares = [Comparator(self.task, self.old_task, self.options, self.old_options, 1) for _ in range(self.threads)]
        return self._shares

    def settle(self) -> None:
        """Takes over what the shares have added."""
        for share in self._shares:
            for mine, theirs in zip(self.groupings, share.groupings, strict=True):
                for slices, other in zip(mine, theirs, strict=True):
                    slices.take_over(other)
        self._shares = []

    def add(self, pair: Pair) -> None:
        """Adds a pair of batches. Raises `DataError` at a bad row unless invalid rows are to be skipped."""
        for start in range(0, len(pair), _PIECE):
            self._add(pair.new.rows(start, start + _PIECE), pair.old.rows(start, start + _PIECE))

    def _add(self, new: Batch, prediction: Batch) -> None:
        columns = new.columns | prediction.columns
        old = replace(new, prediction=prediction.prediction, columns=columns, found=prediction.found, keys={})
        if prediction.path != new.path or prediction.first_row != new.first_row:
            old = replace(old, path=prediction.path, first_row=prediction.first_row, row_groups=prediction.row_groups)
        code = new.code
        bad_before = code > IGNORED
        code[(code == USED) & (prediction.code != USED)] = prediction.code[(code == USED) & (prediction.code != USED)]
        old.code = code
        of_new = self._values(self.task, self.options, new, self.kept)
        bad_new = bad_before | ((code > IGNORED) & (prediction.code <= IGNORED))
        of_old = self._values(self.old_task, self.old_options, old, self.kept)
        if self.options.on_invalid == "error" and (bad := code > IGNORED).any():
            row = int(bad.argmax())
            if bad_new[row]:
                raise refusal(new, row, bool(of_new.at_target[row]), self.options)
            raise refusal(old, row, bool(of_old.at_target[row]), self.old_options)
        values = self._between(new, old, of_new, of_old)
        self._add_to_groups(new, of_new, of_old, values)

    def _values(self, task: Task, options: Options, batch: Batch, kept: NDArray[np.int64]) -> _Kept:
        """The values of the rows whose code is USED, by the kernel of a task."""
        n = len(batch)
        found = _Kept(np.empty((len(kept), n)), np.zeros(n, dtype=np.uint8), np.zeros(n, dtype=np.uint8))
        add_batch(task, options, batch, flags=found.flags, at_target=found.at_target, kept=kept, out=found.values, threads=1)
        return found

    def _between(self, new: Batch, old: Batch, of_new: _Kept, of_old: _Kept) -> NDArray[np.float64]:
        """The values between the models, of the slots `kept_between`."""
        n, own = len(new), {slot: i for i, slot in enumerate(self.kept.tolist())}
        place = {slot: i for i, slot in enumerate(self.kept_between.tolist())}
        values = np.zeros((len(place), n))
        wanted = {q.key: q.slot for q in self.between.moments if q.slot is not None}
        differences = [slot for slot in wanted.values() if slot in own and slot not in (*_OF_MODELS, DELTA_P, DELTA_P_SQUARED)]
        rows = [own[slot] for slot in differences]
        out = np.empty((len(rows), n))
        write_differences(of_new.values[rows], of_old.values[rows], out)
        for slot, row in zip(differences, out, strict=True):
            values[place[slot]] = row
        if DELTA_P in place:
            at = own[CROSS_ENTROPY]
            write_gains(of_new.values[at], of_old.values[at], values[place[DELTA_P]], values[place[DELTA_P_SQUARED]])
        if KL in wanted.values():
            prediction, target = (_classes(batch.prediction, task) for batch, task in ((new, self.task), (old, self.old_task)))
            both = replace(new, prediction=prediction, target=target, label=None, weight=None, bytes=None)
            slots = np.array([slot for slot in _OF_MODELS if slot in place], dtype=np.int64)
            kept = self._values(self.pair_task, self.pair_options, both, slots)
            for slot, row in zip(slots.tolist(), kept.values, strict=True):
                values[place[slot]] = row
        return values

    def _add_to_groups(self, batch: Batch, of_new: _Kept, of_old: _Kept, values: NDArray[np.float64]) -> None:
        n = len(batch)
        columns = (
            columns_of(batch, of_new.values, of_new.flags),
            columns_of(batch, of_old.values, of_old.flags),
            columns_of(batch, values, of_new.flags)._replace(label=NO_LABEL),
        )
        self._carry(n)
        here = np.arange(n)
        for sides in self.groupings:
            if sides[0].by:
                ids, keys = grouped_by(sides[0].by, batch, self.options.cluster)
                place, owners = sorted_places(ids, len(keys))
                order = moved(here, place)
                numbers = [slices.numbers(keys) for slices in sides]
            else:
                order, owners = here, np.zeros(n, dtype=np.int32)
                numbers = [np.zeros(1, dtype=np.int32)] * 3
            for slices, of_rows, number in zip(sides, columns, numbers, strict=True):
                add_to_groups(slices, of_rows, order, owners, number)

    def _carry(self, rows: int) -> None:
        """Makes room for as many rows, as `Accumulator` does."""
        self._rows_since_carry += rows
        if self._rows_since_carry > most_rows(self.task):
            for slices in self._every():
                slices.carry()
            self._rows_since_carry = rows

    def _every(self) -> Iterator[Slices]:
        for sides in self.groupings:
            yield from sides

    def loss_so_far(self) -> tuple[Fraction, Fraction]:
        """The sum of the new model's cross-entropies, in nats, and the number of rows; nothing of weighted rows."""
        slices = self.groupings[0][0]
        if self.task.weighted or "cross_entropy" not in [q.key for q in self.plan.moments]:
            return Fraction(0), Fraction(0)
        m, at = len(self.plan.moments), self.plan.index("cross_entropy")
        arrays = {"moments": np.zeros((m, 2, LIMBS), dtype=np.int64), "infinite": np.zeros(m, dtype=np.int64)}
        slices.add_moments(arrays)
        used = int(slices.arrays["ledger"][0, USED])
        return limbs_value(arrays["moments"][at, 0]), Fraction(used - int(arrays["infinite"][at]))

    def comparison(self) -> Comparison:
        """All rows; no more may be added afterwards."""
        self.settle()
        groupings = [Sides(*(slices.settled(last=True) for slices in sides)) for sides in self.groupings]
        return Comparison(self.task, self.old_task, self.options, self.old_options, groupings)


def _classes(prediction: NDArray[Any], task: Task) -> NDArray[Any]:
    """K numbers a row; of a binary prediction those of its two classes."""
    if task.family != "binary":
        return prediction
    one = widened(prediction)
    both = np.stack([np.zeros(len(one)) if task.form == "logits" else 1.0 - one, one], axis=1)
    both.flags.writeable = False
    return both
