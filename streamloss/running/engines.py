"""Where an evaluation runs: in the threads of this process, or by workers; with a checkpoint or a cache, or without."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from streamloss.errors import UsageError
from streamloss.options import Options
from streamloss.reading.source import Input
from streamloss.running import local, parts
from streamloss.running.budget import fit
from streamloss.running.cache import Cache
from streamloss.running.checkpoint import EVERY, opened
from streamloss.running.devices import Device, chosen
from streamloss.running.local import Watcher
from streamloss.running.parts import Workers, work_bytes
from streamloss.state import State

Engine = Literal["local", "dask"]
_SLOTS = 16  # of an executor, which does not say how many it has


@dataclass(frozen=True, kw_only=True)
class Way:
    """How an evaluation is to run: nothing of this changes a number. See `api.evaluate`."""

    threads: int
    device: Device = "cpu"
    engine: Engine = "local"
    scheduler: str | None = None
    executor: Executor | None = None
    checkpoint: str | Path | None = None
    checkpoint_every: float | None = None
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise UsageError(f"--engine is one of {', '.join(get_args(Engine))}, not {self.engine!r}")
        if self.scheduler is not None and self.engine != "dask":
            raise UsageError("--scheduler is an address of --engine dask")
        if self.executor is not None and (self.engine != "local" or not isinstance(self.executor, Executor)):
            raise UsageError("executor is a concurrent.futures.Executor, and is an engine of its own")
        if self.checkpoint_every is not None and (self.checkpoint is None or not self.checkpoint_every >= 0):
            raise UsageError("--checkpoint-every is a number of seconds, 0 or more, between two writings of --checkpoint")

    def fitted(self, source: Input, options: Options, *, chosen: bool) -> Way:
        """The way that the budget of memory allows, with batches that fit; see `budget.fit`."""
        if self.engine != "local" or self.executor is not None:
            fit([source], options, 1, chosen=chosen)  # every worker's budget is its own
            return self
        return replace(self, threads=fit([source], options, self.threads, chosen=chosen))

    @property
    def name(self) -> str:
        """What the report calls the engine."""
        return self.engine if self.executor is None else type(self.executor).__name__


class Ran(NamedTuple):
    """The state of all rows, and how many of them were not read for it."""

    state: State
    known_rows: int


def run(source: Input, options: Options, way: Way, watch: Watcher | None = None) -> Ran:
    """Adds up all rows of an input.

    Raises `DataError` for the first bad row or unreadable place of the input, and for a checkpoint of another run.
    """
    every = EVERY if way.checkpoint_every is None else way.checkpoint_every
    with opened(way.checkpoint, source, options, every) as checkpoint:
        if way.engine == "local" and way.executor is None and way.cache is None:
            state = local.run(source, options, way.threads, watch, checkpoint, chosen(way.device))
            return Ran(state, 0 if checkpoint is None else checkpoint.rows)
        cache = None if way.cache is None else Cache(way.cache, source, options)
        with _workers(source, way) as workers:
            return Ran(*parts.run(source, options, replace(workers, device=way.device), watch, checkpoint, cache))


@contextmanager
def _workers(source: Input, way: Way) -> Iterator[Workers]:
    if way.executor is not None:
        yield Workers(way.executor, lambda: max(way.threads, _SLOTS))
    elif way.engine == "dask":
        from streamloss.running import dask

        with dask.workers(way.scheduler, way.threads) as workers:
            yield workers
    else:
        # A thread for every part, as long as that keeps all of them busy; else all threads for one after the other.
        alone = not source.is_stream and len(source.cuts(work_bytes(source.plan))) >= 2 * way.threads
        with ThreadPoolExecutor(way.threads if alone else 1) as pool:
            yield Workers(pool, lambda: way.threads if alone else 1, 1 if alone else way.threads)
