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
from streamloss.options import Options
from streamloss.reading.source import Input, in_time, read_part
from streamloss.running.measure import Accumulator
from streamloss.running.progress import Progress
from streamloss.state import State

Watcher = Callable[[Progress], None]
Begin = Callable[[], Iterator[Sized]]  # begins to read a part
Place = tuple[int, int]  # the number of a part, and of a batch in it
_LOOK = 0.1  # seconds between two looks of the watcher
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
        self._begin = begin
        self._batches: Iterator[Sized] | None = None

    def next(self) -> Sized | None:
        """The next batch, None at the end."""
        if self._batches is None:
            self._batches = self._begin()
        batch = next(self._batches, None)
        self.place = (self.place[0], self.place[1] + 1)
        return batch

    def close(self) -> None:
        """Reads no more of it."""
        self.over = True
        if isinstance(self._batches, Generator):
            self._batches.close()
        self._batches = None


class _Worker:
    """A thread's sums and how many rows they have; `lock` is held while they change."""

    def __init__(self, accumulator: Adder) -> None:
        self.accumulator = accumulator
        self.lock = threading.Lock()
        self.rows = 0


class _Work:
    """All runs, shared out among workers."""

    def __init__(self, runs: list[_Run], turns: _Turns) -> None:
        self._runs, self._turns = runs, turns
        self._lock = threading.Lock()
        self._begun = 0
        self._limit = _END  # where something failed first: what stands behind is of no use any more
        self.failure: BaseException | None = None

    def do(self, worker: _Worker) -> None:
        """Takes batches until there are no more."""
        run: _Run | None = None
        while (run := self._choose(run)) is not None:
            place = run.place
            try:
                with self._turns.turn(run):
                    if run.over:
                        continue
                    place = run.place
                    batch = run.next() if place < self._limit else None
                    if batch is None:
                        run.close()
                        continue
                with worker.lock:
                    worker.accumulator.add(batch)
                worker.rows += len(batch)
                del batch
            except BaseException as error:
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


def _progress(source: Input, workers: list[_Worker], seconds: float) -> Progress:
    loss = weight = Fraction(0)
    for worker in workers:
        with worker.lock:
            its_loss, its_weight = worker.accumulator.loss_so_far()
        loss, weight = loss + its_loss, weight + its_weight
    mean = float(loss / weight) if weight else None
    return Progress.at(sum(worker.rows for worker in workers), source.rows, source.bytes, seconds, mean)


def run(source: Input, options: Options, threads: int, watch: Watcher | None = None) -> State:
    """The state of all rows of an input. Raises `DataError` for the first bad row or unreadable place of the input."""
    whole = Accumulator(source.task, options, threads)
    add_all(whole, readers(source, threads), source, threads, watch)
    state = whole.state()
    state.columns = dict(source.roles)
    state.inputs = source.files
    return state


def readers(source: Input, threads: int) -> Callable[[Executor], list[Begin]]:
    """How the parts of an input are read, for `add_all`."""

    def begins(helpers: Executor) -> list[Begin]:
        if source.is_stream:
            return [source.stream]
        parts = source.parts()
        idle = helpers if threads > len(parts) else None  # there are threads that no part is left for
        return list(in_time(read_part, parts, source.plan, idle))

    return begins


def add_all(
    whole: Adder, begins: Callable[[Executor], list[Begin]], source: Input, threads: int, watch: Watcher | None = None
) -> None:
    """Adds the batches of all parts; `begins` says how each of them is read, handed threads that may be idle.

    Raises `DataError` for the first bad row or unreadable place of the input.
    """
    turns = _Turns()
    runs = [_Run(number, begin) for number, begin in enumerate(begins(turns))]
    jit.use_threads(threads)
    workers = [_Worker(share) for share in (whole.shares() if jit.many_may_enter() else [whole])]
    work = _Work(runs, turns)
    started = time.monotonic()

    def begin(worker: _Worker) -> None:
        jit.use_threads(worker.accumulator.threads)
        work.do(worker)

    pool = ThreadPoolExecutor(len(workers))
    try:
        going = {pool.submit(begin, worker) for worker in workers}
        while going:
            going = wait(going, timeout=_LOOK if watch else None).not_done
            if going and watch:
                watch(_progress(source, workers, time.monotonic() - started))
    finally:
        work.stop()
        pool.shutdown()
    if work.failure:
        raise work.failure
    for worker in workers:
        worker.accumulator.settle()
