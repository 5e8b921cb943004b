"""Dask's workers: those of a local cluster, one process for every thread asked for, or of a scheduler that is there already.

Dask gives the parts of a worker that is lost to others and takes up workers that join. What it cannot mend is told in a
line, not in its log: a scheduler that is not there or has gone, a part that took several workers with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from streamloss.errors import StreamlossError, UsageError
from streamloss.running.parts import Workers

try:
    from distributed import Client, LocalCluster
    from distributed.scheduler import KilledWorker
except ImportError as error:
    raise UsageError("--engine dask needs the extra: pip install 'streamloss[dask]'") from error

_CONNECT = "10s"


@contextmanager
def workers(scheduler: str | None, threads: int) -> Iterator[Workers]:
    """The workers of the scheduler at this address, or of a cluster of so many processes that ends with the block.

    Raises `StreamlossError` when there is no scheduler, or no cluster can be started.
    """
    with ExitStack() as stack:
        stack.enter_context(_silence())
        try:
            address = stack.enter_context(_cluster(threads)) if scheduler is None else scheduler
        except (OSError, RuntimeError) as error:
            raise StreamlossError(f"no Dask cluster can be started here: {error}") from error
        try:
            client = stack.enter_context(Client(address, timeout=_CONNECT))
        except (OSError, ValueError, TypeError) as error:
            raise StreamlossError(f"no Dask scheduler answers at {scheduler}") from error
        yield Workers(client.get_executor(pure=False), lambda: sum(client.nthreads().values()), deadly=(KilledWorker,))


def _cluster(threads: int) -> LocalCluster:
    # Workers hold a few batches whatever the files are, so Dask need not watch their memory.
    cluster = LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        processes=True,
        memory_limit=None,
        dashboard_address="127.0.0.1:0",  # a server is there without a dashboard too, and two could not have one port
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.CRITICAL,
    )
    # As many as there should be, also when one could not be started: Dask mends only those that were there once.
    cluster.adapt(minimum=threads, maximum=threads, interval="1s")
    return cluster


@contextmanager
def _silence() -> Iterator[None]:
    """Has Dask and what it stands on log nothing in this process."""
    names = ("distributed", "tornado", "asyncio")
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.partition(".")[0] in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
