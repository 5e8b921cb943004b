"""How anything that goes wrong ends: one line on standard error, and an exit code.

An exception that is none of these is a bug, and its traceback is shown.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from streamloss.errors import StreamlossError

INTERRUPTED = 130
OUT_OF_MEMORY = 3

EXPECTED = (StreamlossError, KeyboardInterrupt, MemoryError)


class Interrupts:
    """Whether somebody has asked us to stop.

    KeyboardInterrupt does not tell: libraries swallow it here and there, while they are imported above all. What goes wrong
    afterwards (the input ends, for whoever wrote it was interrupted too) is then taken for the reason.
    """

    def __init__(self) -> None:
        self.seen = False

    @contextmanager
    def remembered(self) -> Iterator[None]:
        """Remembers every interrupt of the block, which raises KeyboardInterrupt as ever; others' handlers are left alone."""
        from streamloss.reading.retries import hurry

        self.seen = False
        hurry.clear()
        usual = signal.default_int_handler
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
            yield
            return

        def handler(number: int, frame: FrameType | None) -> None:
            self.seen = True
            hurry.set()
            usual(number, frame)

        signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)


interrupts = Interrupts()


def told(error: BaseException) -> tuple[int, str]:
    """The exit code of one of the expected exceptions, and its line, which is written to standard error."""
    from streamloss.reporting.units import printable

    if interrupts.seen:
        code, text = INTERRUPTED, "interrupted"
    elif isinstance(error, StreamlossError):
        code, text = error.exit_code, str(error)
    elif isinstance(error, KeyboardInterrupt):
        code, text = INTERRUPTED, "interrupted"
    else:
        code, text = OUT_OF_MEMORY, f"out of memory {error}".rstrip()
    line = printable(" ".join(text.splitlines()))
    click.echo(f"streamloss: error: {line}", err=True)
    return code, line
