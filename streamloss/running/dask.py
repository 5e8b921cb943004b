"""Dask's workers: those of a local cluster, one process for every thread asked for, or of a scheduler that is there already.

Dask starts a lost worker's parts again on others and takes up workers that join. What it cannot mend is told in a line: a
scheduler that is not there or has gone, a part that took several workers with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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

    Raises `StreamlossError` when there is no scheduler.
    """
    if scheduler is None:
        # Workers hold a few batches whatever the files are, so Dask need not watch their memory.
        with (
            LocalCluster(
                n_workers=threads,
                threads_per_worker=1,
                processes=True,
                memory_limit=None,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield _of(client)
        return
    try:
        client = Client(scheduler, timeout=_CONNECT)
    except (OSError, ValueError, TypeError) as error:
        raise StreamlossError(f"no Dask scheduler answers at {scheduler}") from error
    with client:
        yield _of(client)


def _of(client: Client) -> Workers:
    return Workers(client.get_executor(pure=False), lambda: sum(client.nthreads().values()), fatal=(KilledWorker,))
