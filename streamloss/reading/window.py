"""A stretch of a file in memory, moved forward as it is asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamloss.memory import Claim, told
from streamloss.reading.footer import Declined, File
from streamloss.reading.pool import empty

Bytes = NDArray[np.uint8]

SLACK = 1 << 12  # bytes behind a page that are read with it: the next one's header


class Window:
    """Some bytes of the file, read-only; at most `size` of them, or one page."""

    def __init__(self, file: File, size: int) -> None:
        self._file, self.size = file, size
        self._buffer: Bytes = empty((size,), np.dtype(np.uint8))
        self._held = self._buffer
        self._start = self._stop = 0
        self._claim = Claim("pages")

    def view(self, at: int, least: int, limit: int, ahead: int) -> Bytes:
        """`least` bytes from `at`, and those behind them that are at hand; none from `limit` on.

        ahead: bytes to read when there must be read. What is at hand already is kept, no byte is read twice.
        """
        start, stop = self._start, self._stop
        if not (start <= at and at + least <= stop):
            if least > limit - at:
                raise Declined("a page reaches beyond its column chunk")
            size = min(limit - at, max(least + SLACK, min(ahead, len(self._buffer))))
            kept = self._held[at - start : stop - start] if start <= at < stop else self._held[:0]
            held = self._buffer
            if size > len(held):
                self._claim.to(size, lambda: f"a page of {told(least)} does not fit")
                held = empty((size,), np.dtype(np.uint8))
            held[: len(kept)] = kept
            self._file.fill(held[len(kept) : size], at + len(kept))
            self._held, self._start, self._stop = held, at, at + size
            start, stop = at, at + size
        found = self._held[at - start : min(stop, limit) - start]
        found.flags.writeable = False
        return found

    def trim(self) -> None:
        """Gives back what a page larger than the window took, when nothing points to it any more."""
        if self._held is not self._buffer:
            tail = self._held[-SLACK:]
            if len(tail) <= len(self._buffer):
                self._buffer[: len(tail)] = tail
                self._start = self._stop - len(tail)
            else:
                self._start = self._stop = 0
            self._held = self._buffer
            self._claim.let_go()
