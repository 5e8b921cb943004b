"""Work on every batch of an input by several threads, whose results come out in the order of the rows.

Whoever is free takes the next batch of the first part that nobody is reading at that moment, and works on it while others read
on. So the results that wait for an earlier one are few, and there is a bound of them: beyond it only the part whose turn it is
goes on. What fails is told where it stands in the input, after all that stands before it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from streamloss import jit
from streamloss.reading.batch import Batch
from streamloss.reading.source import Input, in_time, read_part
from streamloss.running.local import Watcher
from streamloss.running.progress import Progress
from streamloss.running.signals import Held

T = TypeVar("T")

WAITING = 2  # results a thread that may wait for their turn, those included that are being made
_LOOK = 0.1  # seconds between two looks, of the watcher and for signals


@dataclass(frozen=True)
class _Failure:
    """What came instead of a result."""

    error: BaseException


class _Run:
    """The batches of one part, and how many of them were taken; whoever reads it is the only one."""

    def __init__(self, begin: Callable[[], Iterator[Batch]]) -> None:
        self._begin = begin
        self._batches: Iterator[Batch] | None = None
        self.taken = 0
        self.busy = self.over = False

    def next(self) -> Batch | None:
        """The next batch, None at the end."""
        if self._batches is None:
            self._batches = self._begin()
        return next(self._batches, None)

    def close(self) -> None:
        """Reads no more of it."""
        if isinstance(self._batches, Generator):
            self._batches.close()
        self._batches = None


class _Line(Generic[T]):
    """The results in the order of the batches: threads `fill` it, one caller takes them out of it."""

    def __init__(self, runs: list[_Run], work: Callable[[Batch], T], most: int) -> None:
        self._runs, self._work, self._most = runs, work, most
        self._changed = threading.Condition()
        self._done: dict[tuple[int, int], tuple[int, T] | _Failure] = {}
        self._head = self._out = 0  # the run whose turn it is, and how many of its results were handed out
        self._held = 0  # batches that are read, or were, whose results were not handed out
        self._stopped = False

    def fill(self) -> None:
        """Works until there is nothing left to do."""
        while (number := self._choose()) is not None:
            run, place = self._runs[number], (number, self._runs[number].taken)
            try:
                batch = run.next()
            except BaseException as error:
                self._release(run, over=True, place=place)
                self._put(place, _Failure(error))
                continue
            self._release(run, over=batch is None, place=None if batch is None else place)
            if batch is None:
                continue
            try:
                self._put(place, (len(batch), self._work(batch)))
            except BaseException as error:
                self._put(place, _Failure(error))
            del batch

    def _choose(self) -> int | None:
        """The run to read from, which is busy then; waits while there is none, and is None when there will be none."""
        with self._changed:
            while not self._stopped:
                left = [n for n in range(self._head, len(self._runs)) if not self._runs[n].over]
                if not left:
                    return None
                free = next((n for n in left if not self._runs[n].busy), None)
                # Beyond the bound only a batch that the caller waits for, and that nobody has.
                due = free == self._head and self._runs[self._head].taken == self._out
                if free is not None and (self._held < self._most or due):
                    self._runs[free].busy = True
                    self._held += 1
                    return free
                self._changed.wait()
            return None

    def _release(self, run: _Run, over: bool, place: tuple[int, int] | None) -> None:
        if over:
            run.close()
        with self._changed:
            run.busy, run.over = False, over
            if place is None:
                self._held -= 1
            else:
                run.taken += 1
            self._changed.notify_all()

    def _put(self, place: tuple[int, int], result: tuple[int, T] | _Failure) -> None:
        with self._changed:
            self._done[place] = result
            self._changed.notify_all()

    def take(self, timeout: float) -> tuple[int, T] | _Failure | bool:
        """The next result with its rows; True where none came in time, False at the end."""
        with self._changed:
            while self._head < len(self._runs):
                found = self._done.pop((self._head, self._out), None)
                if found is not None:
                    self._out += 1
                    self._held -= 1
                    self._changed.notify_all()
                    return found
                run = self._runs[self._head]
                if run.over and run.taken == self._out:
                    self._head, self._out = self._head + 1, 0
                    self._changed.notify_all()
                elif not self._changed.wait(timeout):
                    return True
            return False

    def stop(self) -> None:
        """Has the threads end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def in_order(source: Input, work: Callable[[Batch], T], threads: int, watch: Watcher | None = None) -> Generator[T, None, None]:
    """work(batch) of every batch of an input, in the order of the rows; close it when no more of it is wanted.

    `work` may enter kernels, with `kernel_threads(threads)`, and is called by several threads at once. What it or the reader
    raises is raised at its place.
    """
    if source.is_stream:
        runs = [_Run(source.stream)]
    else:
        runs = [_Run(begin) for begin in in_time(read_part, source.parts(), source.plan)]
    workers = threads if kernel_threads(threads) == 1 else 1
    line = _Line(runs, work, WAITING * workers)
    started, rows = time.monotonic(), 0
    pool = ThreadPoolExecutor(workers)

    def begin() -> None:
        jit.use_threads(threads // workers)
        line.fill()

    try:
        with Held():
            for _ in range(workers):
                pool.submit(begin)
        seen = started
        while True:
            with Held():
                found = line.take(_LOOK)
            if found is False:
                break
            if isinstance(found, _Failure):
                raise found.error
            if not isinstance(found, bool):
                rows += found[0]
                yield found[1]
            if watch and time.monotonic() - seen >= _LOOK:
                seen = time.monotonic()
                watch(Progress.at(rows, source.rows, source.bytes, seen - started))
    finally:
        with ExitStack() as last:
            for run in runs:
                last.callback(run.close)
            last.callback(pool.shutdown)
            with Held():
                line.stop()


def kernel_threads(threads: int) -> int:
    """How many threads each of the kernels may have that `work` enters: 1 where several may be in kernels at once."""
    jit.use_threads(threads)
    return 1 if jit.many_may_enter() else threads
