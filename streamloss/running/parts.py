"""Parts measured on their own, by threads, processes or machines: a part goes out as what to read, and its state comes back.

Any `concurrent.futures.Executor` serves. A state is counted once for its part, however often that was measured, for it is
taken by what was asked for. Parts are bundled to about a second of work, so that what a task costs besides is nothing beside
it. What fails is tried three times, the last two times part by part, and the others go on where a checkpoint keeps them.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from streamloss import jit
from streamloss.errors import DataError, Place, StreamlossError, UsageError
from streamloss.extents import Extents
from streamloss.memory import Exceeded, holding
from streamloss.options import Options
from streamloss.reading.paths import first_line
from streamloss.reading.source import Input, Part, Plan
from streamloss.running.cache import Cache
from streamloss.running.checkpoint import Checkpoint, maker
from streamloss.running.devices import Device, accumulator, chosen
from streamloss.running.local import Watcher, add_all, looking, reading
from streamloss.running.signals import Held
from streamloss.state import State, Total

# What a thread needs for a row, and how many of its bytes it works on in a second: measured 58 ns at 48 bytes, 2 µs at 4 kB.
_ROW_SECONDS, _BYTES_A_SECOND = 40e-9, 2.2e9
FILE_BYTES = 1 << 20  # to open a file takes as long as so many of them
_BUNDLES = 4  # for every worker at least, so that none waits long for the last one
_LEAST_BYTES = 1 << 22
_COMING = 16  # workers that are made ready for where none is there yet
_SERVED = 100  # workers whose states are taken in as they come, at a second for each; of more each has longer work
TRIES = 3
_LOOK = 0.1
_SLOTS_LOOK = 1.0  # seconds between two looks at how many workers there are
_PATIENCE = 10.0  # seconds without any worker after which it is said
_ALONE = threading.Lock()  # where only one thread may be in a parallel kernel

Parts = tuple[Part, ...]


class Measured(NamedTuple):
    """The states of parts, as bytes, and whose kernels made them (see `checkpoint.maker`)."""

    states: list[bytes]
    maker: str


def measure(
    parts: Parts,
    plan: Plan,
    options: Options,
    threads: int = 1,
    inputs: Sequence[dict[str, Any]] | None = None,
    device: Device = "cpu",
) -> Measured:
    """What the rows of some parts add up to, all together, or of each part by itself where there are `inputs` for each.

    Raises `DataError` for the first bad row or unreadable place of them.
    """
    jit.use_threads(threads)
    states = []
    with holding(plan.memory):
        for number, group in enumerate([parts] if inputs is None else [(part,) for part in parts]):
            with nullcontext() if jit.many_may_enter() else _ALONE:
                whole = accumulator(chosen(device), plan.task, options, threads)
                add_all(whole, reading(group, plan, threads), threads)
                state = whole.state(last=True)
            state.columns, state.made = dict(plan.roles), maker()
            state.inputs = [] if inputs is None else [inputs[number]]
            states.append(state.to_bytes())
    return Measured(states, maker())


def work_bytes(plan: Plan) -> int:
    """Decoded values that are about a second of work."""
    return int(plan.row_bytes / (_ROW_SECONDS + plan.row_bytes / _BYTES_A_SECOND))


def bundled(parts: Iterable[Part], most: int) -> Iterator[Parts]:
    """Parts in order, as many together as are `most` bytes of work."""
    bundle: list[Part] = []
    work = 0
    for part in parts:
        bundle.append(part)
        work += part.bytes + FILE_BYTES
        if work >= most:
            yield tuple(bundle)
            bundle, work = [], 0
    if bundle:
        yield tuple(bundle)


class NoWorkers(UserWarning):
    """There is nobody to measure parts."""


class Lost(StreamlossError):
    """Nobody measures parts any more."""


@dataclass(frozen=True)
class Workers:
    """Who measures parts. `slots` says how many may be measured at a time, `threads` by how many threads each, `device` on
    what.

    deadly: exceptions of parts that were with a worker when it ended, once too often. One of them may be the reason, so they
        are tried again one by one, with nothing else in work.
    """

    executor: Executor
    slots: Callable[[], int]
    threads: int = 1
    device: Device = "cpu"
    deadly: tuple[type[BaseException], ...] = ()


class _Task(NamedTuple):
    place: int  # of its first part, in the order of the input
    parts: Parts
    tries: int


def _went_wrong(future: Future[Measured]) -> bool:
    return future.cancelled() or future.exception() is not None


class _Run:
    """All parts of an input, sent out and taken back."""

    def __init__(
        self, source: Input, options: Options, workers: Workers, checkpoint: Checkpoint | None, cache: Cache | None
    ) -> None:
        self.total = Total(replace(State.empty(source.task, options), columns=dict(source.roles)))
        self.rows = 0  # that were measured
        self.known = 0  # rows that a checkpoint or the cache had
        self._source, self._options, self._workers = source, options, workers
        self._checkpoint, self._cache = checkpoint, cache
        self._numbers = {entry["path"]: number for number, entry in enumerate(source.files)}
        self._done = [Extents(() if checkpoint is None else checkpoint.done[i]) for i in range(len(source.files))]
        self._torn = False  # whether a state was added in part, so that the total is of no more use
        self._failures: list[tuple[_Task, BaseException]] = []
        self._limit = 1 << 62  # what stands behind is of no use any more
        self._todo: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()
        self._sent: dict[Future[Measured], _Task] = {}
        self._slots, self._slots_seen, self._slots_missed = 0, -_SLOTS_LOOK, time.monotonic()

    def begin(self) -> None:
        """Takes what is known, and plans what is not."""
        if self._checkpoint is not None and self._checkpoint.resumed is not None:
            self.total.add(self._checkpoint.resumed)
            self.known = self._checkpoint.rows
        unknown = []
        files = self._source.files
        work = self._source.plan.row_bytes * sum(entry["rows"] for entry in files) + FILE_BYTES * len(files)
        slots = self._workers.slots() or _COMING
        second = work_bytes(self._source.plan)
        most = min(max(work // (_BUNDLES * slots), _LEAST_BYTES), second * max(1, slots // _SERVED))
        # In a cache a part has the same name whoever the workers are and however much else there is.
        for part in self._source.parts(min(most, second) if self._cache is None else second, done=self._done):
            state = None if self._cache is None else self._cache.get(part)
            if state is None:
                unknown.append(part)
            else:
                self._add((part,), state)
                self.known += part.rows
        place = 0
        for parts in bundled(unknown, most):
            self._todo.append(_Task(place, parts, 0))
            place += len(parts)

    def go(self, watch: Watcher | None) -> State:
        """The state of all rows."""
        look, started = looking(self._source, watch, self.known), time.monotonic()
        try:
            while self._todo or self._sent or self._suspects:
                self._send()
                with Held():
                    done = wait(self._sent, timeout=_LOOK, return_when=FIRST_COMPLETED).done
                for future in sorted(done, key=_went_wrong):  # what was measured counts, also when the workers are lost
                    self._take(future)
                if look is not None:
                    loss, weight = self.total.loss_so_far()
                    look(self.rows, time.monotonic() - started, float(loss / weight) if weight else None)
                if self._checkpoint is not None and self._checkpoint.due():
                    self._checkpoint.write(self.total.state(), self._done)
            if self._failures:
                raise self._told()
        except BaseException:
            for future in self._sent:
                future.cancel()
            if self._checkpoint is not None and not self._torn:
                self._checkpoint.write(self.total.state(), self._done)
            raise
        state = self.total.state(last=True)
        if self._checkpoint is not None:
            self._checkpoint.write(state, self._done)
        state.inputs = self._source.files
        return state

    def _send(self) -> None:
        """Has as much in work as there are workers for, and as much again, so that none of them waits."""
        try:
            self._look_for_workers()
            if self._suspects and not self._todo and not self._sent:
                self._todo.append(self._suspects.popleft())
            while self._todo and len(self._sent) < 2 * self._slots:
                task = self._todo[0]
                if task.place < self._limit:
                    inputs = None if self._cache is None else [self._cache.input(part) for part in task.parts]
                    with Held():
                        future = self._workers.executor.submit(
                            measure,
                            task.parts,
                            self._source.plan,
                            self._options,
                            self._workers.threads,
                            inputs,
                            self._workers.device,
                        )
                        self._sent[future] = task
                self._todo.popleft()
            if not self._slots and not self._sent:
                time.sleep(_LOOK)
        except Exception as error:  # whatever kind of workers they are
            raise Lost(f"the workers are lost ({first_line(error)})") from error

    def _look_for_workers(self) -> None:
        now = time.monotonic()
        if now - self._slots_seen < _SLOTS_LOOK:
            return
        self._slots_seen, self._slots = now, self._workers.slots()
        if self._slots:
            self._slots_missed = now
        elif now - self._slots_missed >= _PATIENCE:
            warnings.warn("there are no workers; waiting for some to come", NoWorkers, stacklevel=2)
            self._slots_missed = now

    def _take(self, future: Future[Measured]) -> None:
        """Takes back what was sent out."""
        task = self._sent.pop(future)
        try:
            measured = future.result()
        except (BrokenExecutor, CancelledError) as error:
            raise Lost(f"the workers are lost ({first_line(error)})") from error
        except Exceeded:  # again it would be no less
            raise
        except Exception as error:
            self._fail(task, error)
            return
        if measured.maker != maker():
            raise Lost(f"a worker has another streamloss than we ({measured.maker} and {maker()})")
        states = [State.from_bytes(data, "the state of a part") for data in measured.states]
        if self._cache is None:
            self._add(task.parts, states[0])
        else:
            for part, data, state in zip(task.parts, measured.states, states, strict=True):
                self._cache.put(part, data)
                self._add((part,), state)
        self.rows += sum(part.rows for part in task.parts)

    def _add(self, parts: Parts, state: State) -> None:
        self._torn = True  # if we are interrupted
        self.total.add(state)
        for part in parts:
            self._done[self._numbers[part.path]].add(part.first_row, part.first_row + part.rows)
        self._torn = False

    def _fail(self, task: _Task, error: Exception) -> None:
        """Tries it again, part by part, unless that is of no use."""
        bad = isinstance(error, DataError) and error.rule is not None
        deadly = isinstance(error, self._workers.deadly)
        tries = TRIES if bad else TRIES - 1 if deadly and task.tries < TRIES - 1 else task.tries + 1
        if tries < TRIES:
            again = [_Task(task.place + i, (part,), tries) for i, part in enumerate(task.parts)]
            if deadly:
                self._suspects.extend(again)
            else:
                self._todo.extendleft(reversed(again))
            return
        self._failures.append((task, RuntimeError("it ended every worker that tried it") if deadly else error))
        if bad or self._checkpoint is None:
            self._limit = min(self._limit, task.place)

    def _told(self) -> BaseException:
        """What stands first in the input, and how much else."""
        self._failures.sort(key=lambda failure: failure[0].place)
        (task, error), *others = self._failures
        if isinstance(error, DataError) and error.rule is not None:
            return error
        first = task.parts[0]
        if not isinstance(error, DataError):
            place = Place(first.path, first.row_groups[0], first.first_row)
            kind = "" if type(error) is RuntimeError else f"{type(error).__name__}: "
            error = DataError(f"could not be measured, {TRIES} times: {kind}{first_line(error)}", place=place)
        more = f"; {len(others)} more parts failed" if others else ""
        kept = f"; all others are kept in {self._checkpoint.path}" if self._checkpoint is not None else ""
        return DataError(f"{error}{more}{kept}") if more or kept else error


def run(
    source: Input,
    options: Options,
    workers: Workers,
    watch: Watcher | None = None,
    checkpoint: Checkpoint | None = None,
    cache: Cache | None = None,
) -> tuple[State, int]:
    """The state of all rows of an input, and how many of them a checkpoint or the cache had.

    Raises `DataError` for the first bad row or unreadable place of the input, `Lost` when there are no workers any more.
    """
    if source.is_stream:
        raise UsageError("workers and a cache need files: standard input and data from memory cannot be read in parts")
    whole = _Run(source, options, workers, checkpoint, cache)
    whole.begin()
    return whole.go(watch), whole.known
