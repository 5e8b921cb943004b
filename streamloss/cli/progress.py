"""The progress of a run on standard error: one line that is redrawn, and is gone when the run is done.

Nothing is shown of runs under half a second, nor, unless asked for, where standard error is no terminal; there, one
line is written every few seconds, for the log.
"""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

import click

from streamloss.options import Unit
from streamloss.running.progress import Progress

if TYPE_CHECKING:
    from rich.live import Live

_QUIET_SECONDS = 0.5
_SECONDS_BETWEEN = 0.1
_SECONDS_BETWEEN_LINES = 5.0
_LONGEST_BAR, _SHORTEST_BAR = 20, 5
_LN_UNIT: dict[Unit, float] = {"nat": 1.0, "bit": math.log(2), "ban": math.log(10)}


class Meter:
    """A context that shows what `show` is told; `wanted` is False when nobody would see it."""

    def __init__(self, asked: bool | None, unit: Unit) -> None:
        self.on_terminal = sys.stderr.isatty()
        self.wanted = self.on_terminal if asked is None else asked
        self.unit = unit
        self._live: Live | None = None
        self._last = -math.inf

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show how far the run is, at most ten times a second."""
        between = _SECONDS_BETWEEN if self.on_terminal else _SECONDS_BETWEEN_LINES
        now = time.monotonic()
        if progress.seconds < _QUIET_SECONDS or now - self._last < between:
            return
        self._last = now
        if not self.on_terminal:
            click.echo(f"streamloss: {describe(progress, self.unit)}", err=True)
            return
        from rich.text import Text

        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        line = describe(progress, self.unit, self._live.console.width)
        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)


def describe(progress: Progress, unit: Unit, width: int = 100) -> str:
    """One line: the part that is done, rows/s, bytes/s, the time left, the cross-entropy so far; a bar if it fits."""
    from streamloss.reporting import units

    done = progress.fraction
    facts = [units.counted(progress.rows, "row") if done is None else f"{100 * done:3.0f} %"]
    if progress.resumed:
        facts.append(f"{100 * progress.resumed_fraction:.0f} % resumed")
    if progress.seconds > 0:
        facts.append(units.rate(progress.rows / progress.seconds))
        facts.append(units.throughput(progress.bytes / progress.seconds))
    left = progress.seconds_left
    if left is not None:
        facts.append(f"{units.clock(left)} left")
    if progress.cross_entropy is not None:
        facts.append(f"cross-entropy {units.number(progress.cross_entropy / _LN_UNIT[unit])} {unit}")
    line = " · ".join(facts)
    bar = min(_LONGEST_BAR, width - len(line) - 1)
    if done is None or bar < _SHORTEST_BAR:
        return line
    filled = int(done * bar)
    return f"{'━' * filled}{'─' * (bar - filled)} {line}"
