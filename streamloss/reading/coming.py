"""Parts of files that are far away are asked for before their turn: a thread that comes to one finds its first bytes there.

Without it every part would begin with the time that a store takes to answer, and thousands of small files be nothing else.
Asked for are the parts behind the last one that was begun, as many as fit into `remote.BUDGET`, one at least.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial

from streamloss.reading import remote
from streamloss.reading.arrow import Part, part_file
from streamloss.reading.batch import Batch
from streamloss.reading.footer import File
from streamloss.reading.paths import local
from streamloss.reading.roles import Plan

MOST = 16  # parts
Read = Callable[..., Iterator[Batch]]


def in_time(read: Read, parts: Sequence[Part], plan: Plan, *helpers: Executor | None) -> list[Callable[[], Iterator[Batch]]]:
    """read(part, plan, *helpers) of each of the parts, to be called once and from any thread; `read` is `pages.read_part`.

    Begun in their order, they find what comes next on its way.
    """
    coming = _Coming(parts, plan)
    found: list[Callable[[], Iterator[Batch]]] = []
    for number, part in enumerate(parts):
        if local(part.path) is not None:
            found.append(partial(read, part, plan, *helpers))
        else:
            found.append(partial(_read, coming, number, read, *helpers))
    return found


def _read(coming: _Coming, number: int, read: Read, *helpers: Executor | None) -> Iterator[Batch]:
    try:
        yield from read(coming.parts[number], coming.plan, *helpers, file=coming.take(number))
    except BaseException:  # nobody will come to the others, or it does not matter when
        coming.stop()
        raise


class _Coming:
    """The files of parts whose turn has not come."""

    def __init__(self, parts: Sequence[Part], plan: Plan) -> None:
        self.parts, self.plan = parts, plan
        self._lock = threading.Lock()
        self._opened: dict[int, Future[File]] = {}
        self._next = 0  # nothing before was not asked for

    def take(self, number: int) -> File | None:
        """The file of a part, where it was asked for already. Raises what opening it raised."""
        with self._lock:
            mine = self._opened.pop(number, None)
            self._next = max(self._next, number + 1)
            held = sum(self.parts[other].bytes for other in self._opened)
            while self._next < len(self.parts) and len(self._opened) < MOST:
                part = self.parts[self._next]
                held += part.bytes
                if self._opened and held > remote.BUDGET:
                    break
                if local(part.path) is None:
                    self._opened[self._next] = remote.fetchers().submit(part_file, part, self.plan)
                self._next += 1
        return None if mine is None else mine.result()

    def stop(self) -> None:
        """Nothing more is asked for, and what was is closed."""
        with self._lock:
            self._next = len(self.parts)
            while self._opened:
                self._opened.popitem()[1].add_done_callback(_close)


def _close(opened: Future[File]) -> None:
    if not opened.exception():
        opened.result().__exit__()
