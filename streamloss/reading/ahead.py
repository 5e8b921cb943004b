"""Large compressed pages are decompressed before their turn by threads that have nothing else to do.

Of a file of a single row group one thread decodes at a time, and zstd takes it more time than all the rest of reading. So it
looks a few pages ahead: who is free first, a thread that waits for its turn or the reader while it would wait, takes the next
one. What comes out, and in which order it is used, does not change. (K = 1,000 in one row group, two cores: 0.30 s instead of
0.54. Snappy is as fast as memory and gains nothing.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from streamloss.memory import Claim
from streamloss.reading.window import Bytes

PAGES = 3  # looked ahead
LARGEST = 1 << 22  # bytes that a page becomes which is worth it: as many are held at most, each


@dataclass
class Page:
    """A data page whose body is in memory of its own: `at` is where its header begins, `begin` its body."""

    at: int
    begin: int
    header: list[int]
    body: Bytes
    unpack: Callable[[], Bytes]
    work: Future[Bytes]
    claim: Claim


class Ahead:
    """The next pages of a column, in order."""

    def __init__(self, helpers: Executor) -> None:
        self._helpers = helpers
        self._pages: deque[Page] = deque()

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def end(self) -> int | None:
        """Where the page after the last one begins; None where there is none."""
        return self._pages[-1].begin + len(self._pages[-1].body) if self._pages else None

    def add(self, at: int, begin: int, header: list[int], body: Bytes, unpack: Callable[[], Bytes], claim: Claim) -> None:
        """Has a page decompressed, whose memory was claimed."""
        self._pages.append(Page(at, begin, header, body, unpack, self._helpers.submit(unpack), claim))

    def take(self, at: int) -> Page | None:
        """The page whose header begins there; None, and nothing is left, when it was not looked at."""
        if self._pages and self._pages[0].at == at:
            return self._pages.popleft()
        self.close()
        return None

    def result(self, page: Page) -> Bytes:
        """What a page that was taken becomes. Raises what `unpack` raises."""
        if page.work.cancel():
            return page.unpack()
        while not page.work.done():
            later = next((other for other in self._pages if other.work.cancel()), None)
            if later is None:
                break
            later.work = Future()
            try:
                later.work.set_result(later.unpack())
            except BaseException as error:
                later.work.set_exception(error)
        return page.work.result()

    def close(self) -> None:
        """Forgets all pages."""
        while self._pages:
            self._pages.popleft().work.cancel()
