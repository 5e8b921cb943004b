"""What fails for a moment is tried again, after waits that double, with chance in them: who failed together comes back apart.

The first wait is a quarter of a second, the fourth and last two: five tries within four seconds, and what the requests
themselves take. Whoever wants to end at once, for an interrupt, sets `hurry`: who waits then gives up.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TRIES = 5
FIRST_WAIT = 0.25  # seconds
hurry = threading.Event()


def again(request: Callable[[], T], passing: Callable[[Exception], bool], over: Callable[[], bool] = bool) -> T:
    """request(), several times where that helps; `passing` says of what it raised whether it may have passed the next time.

    over: whether nobody wants to know any more.

    Raises what the last try raised, with a note of how often it was tried, and KeyboardInterrupt when there is no time.
    """
    started = time.monotonic()
    for attempt in range(1, TRIES + 1):
        if hurry.is_set():
            raise KeyboardInterrupt
        try:
            return request()
        except Exception as error:
            if attempt == TRIES or not passing(error) or over():
                if attempt > 1:
                    error.add_note(f"tried {attempt} times in {time.monotonic() - started:.1f} s")
                raise
        hurry.wait(FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
    raise AssertionError("the last try returns or raises")
