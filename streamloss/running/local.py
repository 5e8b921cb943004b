"""The local engine: reader threads decode the next chunks while the kernels run on this one.

pyarrow releases the GIL, so as many parts as there are threads decode at once; every kernel is entered from the calling
thread. Batches are taken as they come, for the state does not depend on their order. An error does: the one that stands
first in the input is raised, whichever thread met one first.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streamloss import jit
from streamloss.errors import DataError
from streamloss.options import Options
from streamloss.reading.batch import Batch
from streamloss.reading.source import Input, read_part
from streamloss.running.measure import Accumulator
from streamloss.running.progress import Progress
from streamloss.state import State

Watcher = Callable[[Progress], None]
_PATIENCE = 0.05  # seconds between looks at whether the run was stopped
_LOOK = 0.1  # seconds between two looks of the watcher
_END = object()


def default_threads() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Readers:
    """Threads that decode runs of batches into one bounded queue as (number of the run, batch, error or end)."""

    def __init__(self, runs: list[Callable[[], Iterator[Batch]]], threads: int) -> None:
        self._runs = runs
        self._next = 0
        self._limit = len(runs)  # runs from here on are not begun: one before them has failed
        self._lock = threading.Lock()
        self._stop = threading.Event()
        count = max(1, min(threads, len(runs)))
        self._queue: queue.Queue[tuple[int, Any]] = queue.Queue(maxsize=count + 1)
        self._alive = count
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _put(self, number: int, item: object) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put((number, item), timeout=_PATIENCE)
                return True
            except queue.Full:
                continue
        return False

    def _work(self) -> None:
        while True:
            with self._lock:
                number = self._next
                self._next += 1
                if number >= self._limit:
                    break
            try:
                for batch in self._runs[number]():
                    if number >= self._limit or not self._put(number, batch):
                        break
            except BaseException as error:
                self._put(number, error)
        self._put(-1, _END)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        while self._alive:
            number, item = self._queue.get()
            if item is _END:
                self._alive -= 1
            else:
                yield number, item

    def only_before(self, number: int) -> None:
        """Leaves out run `number` and all after it."""
        with self._lock:
            self._limit = min(self._limit, number)

    def close(self) -> None:
        """Stops the threads and waits for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def run(source: Input, options: Options, threads: int, watch: Watcher | None = None) -> State:
    """The state of all rows of an input. Raises `DataError` for the first bad row or unreadable place of the input."""
    jit.use_threads(threads)
    accumulator = Accumulator(source.task, options, threads)
    runs: list[Callable[[], Iterator[Batch]]]
    helpers: ThreadPoolExecutor | None = None  # threads that no part is left for
    if source.is_stream:
        runs = [source.stream]
    else:
        plan = source.plan
        parts = source.parts()
        if threads > len(parts):
            helpers = ThreadPoolExecutor(threads - len(parts))
        runs = [lambda part=part: read_part(part, plan, helpers) for part in parts]  # type: ignore[misc]
    readers = _Readers(runs, threads)
    failed: tuple[int, BaseException] | None = None
    started = looked = time.monotonic()
    rows = 0
    size = source.bytes
    try:
        for number, item in readers:
            if failed and number >= failed[0]:
                continue
            try:
                if isinstance(item, BaseException):
                    raise item
                accumulator.add(item)
            except DataError as error:
                failed = (number, error)
                readers.only_before(number)
                continue
            rows += len(item)
            del item
            now = time.monotonic()
            if watch and now - looked >= _LOOK:
                looked = now
                total = source.rows
                done = int(size * rows / total) if size and total else 0
                watch(Progress(rows, done, total, size, now - started, accumulator.cross_entropy()))
    finally:
        readers.close()
        if helpers is not None:
            helpers.shutdown(cancel_futures=True)
    if failed:
        raise failed[1]
    state = accumulator.state()
    state.columns = dict(source.roles)
    state.inputs = source.files
    return state
