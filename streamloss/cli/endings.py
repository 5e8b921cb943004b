"""How anything that goes wrong ends: one line on standard error, and an exit code.

An exception that is none of these is a bug, and its traceback is shown.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from streamloss.errors import StreamlossError

INTERRUPTED = 130
OUT_OF_MEMORY = 3
PIPE_CLOSED = 141  # 128 + SIGPIPE, what a shell shows for any filter whose reader has left
OF_GATES = (1, 4)
CODES = {
    0: "done",
    1: "a rule of --fail-if holds: a gate has failed",
    2: "wrong usage",
    3: "bad data or input; a file that cannot be written; out of memory",
    4: "a rule of --fail-if is undecided: its number is missing",
    INTERRUPTED: "interrupted",
    PIPE_CLOSED: "whoever read the output has left, as for any filter",
}

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
        """Remembers every interrupt of the block, which raises KeyboardInterrupt as ever; others' handlers are left alone.

        Whoever asks us to end (SIGTERM: a scheduler of jobs, before it takes the machine away) interrupts too.
        """
        from streamloss.reading.retries import hurry

        self.seen = False
        hurry.clear()
        interrupt = signal.default_int_handler

        def handler(number: int, frame: FrameType | None) -> None:
            self.seen = True
            hurry.set()
            interrupt(number, frame)

        usual: dict[int, Any] = {signal.SIGINT: interrupt, signal.SIGTERM: signal.SIG_DFL}
        ours = [number for number, before in usual.items() if signal.getsignal(number) is before]
        if threading.current_thread() is not threading.main_thread():
            ours = []
        for number in ours:
            signal.signal(number, handler)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, usual[number])


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
