"""Signals that come while other threads are at work.

Python runs a signal's handler between any two instructions of the main thread, also between taking a lock and the block that
gives it back. An exception raised there leaves the lock taken, and whoever waits for it waits for ever.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Held:
    """Has Ctrl-C and the wish that we end (SIGTERM) wait for the next `check`, or the end of the block.

    Handlers that are not Python's are left alone, and so is a thread that is not the main one: no signal comes there. A signal
    that comes while handlers change is handled at once; what it leaves in the place of a handler hands on.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._come: list[tuple[int, FrameType | None]] = []
        self._holds = False

    def __enter__(self) -> Held:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    signal.signal(number, self._take)
        self._holds = True
        return self

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._holds:
            self._come.append((number, frame))
        else:
            self._handlers[number](number, frame)

    def check(self) -> None:
        """Handles what has come. Raises what its handler raises, as a rule KeyboardInterrupt."""
        while self._come:
            number, frame = self._come.pop(0)
            self._handlers[number](number, frame)

    def __exit__(self, *_: object) -> None:
        self._holds = False
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.check()
