"""The local engine: every thread decodes rows and adds them up itself, while they are still in its core's cache.

A worker takes a part of the input, and where none is left the next batch of a part that others read: of one part one worker
decodes at a time, while the others add up, or decompress the pages that it will come to. Each has sums of its own, put
together at the end; who took which rows changes no bit of them. An error is not so: the one that stands first in the input is
raised, whichever was met first.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from typing import Any, Protocol

from streamloss import jit
from streamloss.errors import UsageError
from streamloss.extents import Extents
from streamloss.options import Options
from streamloss.reading.source import Input, Part, Plan, in_time, read_part
from streamloss.running.checkpoint import Checkpoint
from streamloss.running.devices import Chosen, accumulator
from streamloss.running.measure import Accumulator
from streamloss.running.progress import Progress
from streamloss.running.signals import Held
from streamloss.state import State

Watcher = Callable[[Progress], None]
Look = Callable[[int, float, float | None], None]  # told the rows so far, the seconds, and the mean of the losses
Begin = Callable[[], Iterator[Sized]]  # begins to read a part
Begins = Callable[[Executor], list[Begin]]
Place = tuple[int, int]  # the number of a part, and of a batch in it
_LOOK = 0.1  # seconds between two looks, of the watcher and for signals
_NOWHERE: Place = (-1, 0)
_END: Place = (1 << 62, 0)


def default_threads() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """How many threads to use. Raises `UsageError` below 1."""
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be 1 or more, not {threads}")
    return threads or default_threads()


class Keeper(Protocol):
    """What keeps a run's sums now and then, so that they are not lost with it."""

    def due(self) -> bool:
        """Whether it is time to."""

    def take(self, taken: list[int]) -> Callable[[], None]:
        """Takes the sums, in which so many rows of every part are, while nobody adds to them; what it returns keeps them."""


class Adder(Protocol):
    """What batches are added to, by several threads when it is asked for shares."""

    threads: int

    def shares(self) -> Sequence[Adder]:
        """One for every thread, each to be entered by one; they have to `settle` before this one is asked for anything."""

    def add(self, batch: Any) -> None:
        """Adds a batch."""

    def settle(self) -> None:
        """Ends adding."""

    def loss_so_far(self) -> tuple[Fraction, Fraction]:
        """The sum of the cross-entropies so far, and of their weights."""


class _Turns(Executor):
    """Who may ask a run for its next batch, and what whoever waits for that does meanwhile: the tasks that were submitted."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Leaves a task to whoever has nothing else to do; perhaps nobody has, so it may be cancelled and done otherwise."""
        future: Future[Any] = Future()
        with self._changed:
            while self._tasks and self._tasks[0][0].cancelled():  # and what they hold with them
                self._tasks.popleft()
            self._tasks.append((future, partial(fn, *args, **kwargs)))
            self._changed.notify()
        return future

    @contextmanager
    def turn(self, run: _Run) -> Iterator[None]:
        """Waits until nobody else has the run."""
        with self._changed:
            while run.busy:
                if self._tasks:
                    task = self._tasks.popleft()
                    self._changed.release()
                    try:
                        self._do(*task)
                    finally:
                        self._changed.acquire()
                else:
                    self._changed.wait()
            run.busy = True
        try:
            yield
        finally:
            with self._changed:
                run.busy = False
                self._changed.notify_all()

    @staticmethod
    def _do(future: Future[Any], task: Callable[[], Any]) -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)


class _Run:
    """The batches of one part, in order. Whoever has the turn may ask for the next one."""

    def __init__(self, number: int, begin: Begin) -> None:
        self.place: Place = (number, 0)  # of the next batch
        self.busy = False  # whether somebody has the turn
        self.over = False
        self.taken = 0  # rows that somebody has
        self._begin = begin
        self._batches: Iterator[Sized] | None = None

    def next(self) -> Sized | None:
        """The next batch, None at the end."""
        if self._batches is None:
            self._batches = self._begin()
        batch = next(self._batches, None)
        self.place = (self.place[0], self.place[1] + 1)
        self.taken += 0 if batch is None else len(batch)
        return batch

    def close(self) -> None:
        """Reads no more of it."""
        self.over = True
        if isinstance(self._batches, Generator):
            self._batches.close()
        self._batches = None


class _Gate:
    """Where workers wait between two batches while somebody needs all of their sums."""

    def __init__(self, workers: int) -> None:
        self._changed = threading.Condition()
        self._going = workers  # who is not at the gate
        self.shut = threading.Event()

    def go_through(self) -> None:
        """Goes on at once, or as soon as it is open."""
        if not self.shut.is_set():
            return
        with self._changed:
            self._going -= 1
            self._changed.notify_all()
            while self.shut.is_set():
                self._changed.wait()
            self._going += 1

    def leave(self) -> None:
        """Ends the work of a worker."""
        with self._changed:
            self._going -= 1
            self._changed.notify_all()

    @contextmanager
    def nobody_inside(self, meanwhile: Callable[[], None]) -> Iterator[None]:
        """Waits until nobody has a batch; `meanwhile` is called again and again."""
        with self._changed:
            self.shut.set()
            try:
                while self._going:
                    self._changed.wait(_LOOK)
                    meanwhile()
                yield
            finally:
                self.shut.clear()
                self._changed.notify_all()


class _Worker:
    """A thread's sums and how many rows they have; `lock` is held while they change."""

    def __init__(self, accumulator: Adder) -> None:
        self.accumulator = accumulator
        self.lock = threading.Lock()
        self.rows = 0


class _Work:
    """All runs, shared out among workers."""

    def __init__(self, runs: list[_Run], turns: _Turns, workers: int) -> None:
        self._runs, self._turns = runs, turns
        self.gate = _Gate(workers)
        self.torn = False  # whether a batch was added in part, so that the sums are of no more use
        self._lock = threading.Lock()
        self._begun = 0
        self._limit = _END  # where something failed first: what stands behind is of no use any more
        self.failure: BaseException | None = None

    def do(self, worker: _Worker) -> None:
        """Takes batches until there are no more."""
        run: _Run | None = None
        while (run := self._choose(run)) is not None:
            self.gate.go_through()
            place = run.place
            try:
                with self._turns.turn(run):
                    if run.over or self.gate.shut.is_set():
                        continue
                    place = run.place
                    batch = run.next() if place < self._limit else None
                    if batch is None:
                        run.close()
                        continue
            except BaseException as error:
                self._fail(place, error)
                continue
            try:
                with worker.lock:
                    worker.accumulator.add(batch)
                worker.rows += len(batch)
                del batch
            except BaseException as error:
                self.torn = True
                self._fail(place, error)

    def _choose(self, run: _Run | None) -> _Run | None:
        """What a worker goes on with: its run, else a new one, else the newest that is not over."""
        if run is not None and not run.over:
            return run
        with self._lock:
            if self._begun < len(self._runs):
                self._begun += 1
                return self._runs[self._begun - 1]
            return next((each for each in reversed(self._runs) if not each.over), None)

    def _fail(self, place: Place, error: BaseException) -> None:
        with self._lock:
            if place < self._limit:
                self._limit, self.failure = place, error

    def stop(self) -> None:
        """Has the workers end."""
        with self._lock:
            self._limit = _NOWHERE


def looking(source: Input, watch: Watcher | None, resumed: int = 0) -> Look | None:
    """Tells whoever watches a run over an input how far it is; `resumed` rows were counted before."""
    if watch is None:
        return None
    return lambda rows, seconds, mean: watch(Progress.at(rows, source.rows, source.bytes, seconds, mean, resumed))


def _look(look: Look, workers: list[_Worker], seconds: float) -> None:
    loss = weight = Fraction(0)
    with Held():
        for worker in workers:
            with worker.lock:
                its_loss, its_weight = worker.accumulator.loss_so_far()
            loss, weight = loss + its_loss, weight + its_weight
    look(sum(worker.rows for worker in workers), seconds, float(loss / weight) if weight else None)


class _Kept:
    """Keeps the state in a checkpoint, together with what that had at the beginning."""

    def __init__(self, whole: Accumulator, source: Input, parts: list[Part], checkpoint: Checkpoint) -> None:
        self._whole, self._parts, self._checkpoint = whole, parts, checkpoint
        self._columns = dict(source.roles)
        self._numbers = {entry["path"]: number for number, entry in enumerate(source.files)}
        self.due = checkpoint.due

    def take(self, taken: list[int]) -> Callable[[], None]:
        """As in `Keeper`."""
        state = self._whole.state()
        state.columns = self._columns
        done = [Extents(done) for done in self._checkpoint.done]
        for part, rows in zip(self._parts, taken, strict=True):
            done[self._numbers[part.path]].add(part.first_row, part.first_row + rows)
        return lambda: self._checkpoint.write(self._checkpoint.together(state), done)


def run(
    source: Input,
    options: Options,
    threads: int,
    watch: Watcher | None = None,
    checkpoint: Checkpoint | None = None,
    device: Chosen = "cpu",
) -> State:
    """The state of all rows of an input, those of the checkpoint among them, which is written now and then.

    Raises `DataError` for the first bad row or unreadable place of the input.
    """
    whole = accumulator(device, source.task, options, threads)
    done = None if checkpoint is None else checkpoint.done
    parts = [] if source.is_stream else source.parts(done=done)
    keeper = None if checkpoint is None else _Kept(whole, source, parts, checkpoint)
    resumed = 0 if checkpoint is None else checkpoint.rows
    add_all(whole, readers(source, threads, parts), threads, looking(source, watch, resumed), keeper)
    state = whole.state(last=True)
    state.columns = dict(source.roles)
    state.inputs = source.files
    return state if checkpoint is None else checkpoint.conclude(state)


def readers(source: Input, threads: int, parts: Sequence[Part] | None = None) -> Begins:
    """How an input is read, for `add_all`; `parts` are what is to be read of it, if not all."""
    if source.is_stream:
        return lambda helpers: [source.stream]
    return reading(source.parts() if parts is None else parts, source.plan, threads)


def reading(parts: Sequence[Part], plan: Plan, threads: int) -> Begins:
    """How parts are read; where there are threads that no part is left for, they decompress pages."""
    return lambda helpers: list(in_time(read_part, parts, plan, helpers if threads > len(parts) else None))


def add_all(whole: Adder, begins: Begins, threads: int, look: Look | None = None, keeper: Keeper | None = None) -> None:
    """Adds the batches of all parts; `begins` says how each of them is read, handed threads that may be idle.

    look: called about ten times a second.
    keeper: asked as often, and when the run is stopped.

    Raises `DataError` for the first bad row or unreadable place of the input.
    """
    turns = _Turns()
    runs = [_Run(number, begin) for number, begin in enumerate(begins(turns))]
    jit.use_threads(threads)
    workers = [_Worker(share) for share in (whole.shares() if jit.many_may_enter() else [whole])]
    work = _Work(runs, turns, len(workers))
    started = time.monotonic()

    def begin(worker: _Worker) -> None:
        try:
            jit.use_threads(worker.accumulator.threads)
            work.do(worker)
        finally:
            work.gate.leave()

    def keep(keeper: Keeper) -> Callable[[], None]:
        work.torn = True  # if we are interrupted
        for worker in workers:
            worker.accumulator.settle()
        write = keeper.take([run.taken for run in runs])
        work.torn = False
        return write

    pool = ThreadPoolExecutor(len(workers))
    going: set[Future[None]] = set()
    try:
        try:
            with Held():
                going = {pool.submit(begin, worker) for worker in workers}
            while going:
                with Held():
                    going = wait(going, timeout=_LOOK).not_done
                if going and look:
                    _look(look, workers, time.monotonic() - started)
                if going and keeper and keeper.due():
                    with Held() as signals, work.gate.nobody_inside(signals.check):
                        write = None if work.torn else keep(keeper)
                    if write:
                        write()
        finally:
            with Held() as signals:
                work.stop()
                pool.shutdown(wait=False)
                try:
                    while going:
                        going = wait(going, timeout=_LOOK).not_done
                        signals.check()
                except BaseException:
                    work.torn = True  # somebody is adding still
                    raise
        if work.failure:
            raise work.failure
    except BaseException:
        if keeper and not work.torn:
            keep(keeper)()
        raise
    for worker in workers:
        worker.accumulator.settle()
