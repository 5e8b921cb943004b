"""A run that a command line asked for: its report, where that goes and as what, and how it is watched.

What makes a run impossible is found before the work begins.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamloss.cli import shared
from streamloss.errors import UsageError
from streamloss.options import Unit

if TYPE_CHECKING:
    from rich.console import Console

    from streamloss.reporting.report import Report
    from streamloss.running.local import Watcher


@contextmanager
def watching(progress: bool | None, unit: Unit) -> Iterator[Watcher | None]:
    """Whoever is told about a run, if anybody; and one line when kernels have to be compiled."""
    from streamloss import jit
    from streamloss.cli.progress import Meter

    jit.on_compile(lambda: shared.note("compiling kernels for this machine, once…"))
    with Meter(progress, unit) as meter:
        yield meter.show if meter.wanted else None
    if reason := jit.not_kept():
        shared.note(f"compiled kernels could not be kept: {reason}: STREAMLOSS_CACHE_DIR chooses a folder")


class Destination:
    """Where a report goes and in which format; what makes it impossible is found before the work begins."""

    def __init__(
        self, form: str | None, file: str | None, inputs: Iterable[str] = (), formats: Iterable[str] = tuple(shared.FORMATS)
    ) -> None:
        self.file = None if file == "-" else file
        name = (self.file or "").lower()
        self.form = form or next((form for form in formats if name.endswith(shared.FORMATS[form].endings)), shared.TERMINAL)
        if self.file is not None:
            _check(self.file, inputs)
        # A library that is not installed is found here, before the work begins.
        module = shared.FORMATS[self.form].module
        self._encode = import_module(f"streamloss.reporting.{module}").encode if module else None

    def write(self, record: dict[str, Any], draw: Callable[[dict[str, Any], Console], None]) -> None:
        """Print the record, in its format or as `draw` does, or put it into the file and say so on standard error."""
        if self._encode is not None:
            data = self._encode(record)
        elif self.file is not None or not sys.stdout.isatty():
            from streamloss.reporting.tables import to_text

            data = to_text(lambda console: draw(record, console)).encode("utf-8", errors="backslashreplace")
        else:
            from rich.console import Console

            draw(record, Console())
            return
        if self.file is None:
            shared.say(data)
        else:
            _write(self.file, data)


def check_apart(files: Iterable[tuple[str, str]]) -> None:
    """Raise `UsageError` when two of the files, each after the option that names it, are the same."""
    from streamloss.files import resolved

    seen: dict[Path, str] = {}
    for flag, file in files:
        place = resolved(file)
        if place in seen:
            raise UsageError(f"{flag} and {seen[place]} are the same file, {file}")
        seen[place] = flag


def check_gates(fail_if: Iterable[str], junit: str | None) -> None:
    """Raise `UsageError` for a rule that makes no sense, and for a JUnit file without rules, which would look like a pass."""
    from streamloss.reporting.gates import parse_all

    if not parse_all(fail_if) and junit is not None:
        raise UsageError("--junit writes the outcomes of --fail-if: give a rule too")


def _write(file: str, data: bytes) -> None:
    from streamloss.files import write_atomically

    write_atomically(file, data)
    shared.note(f"wrote {file}")


class Plots:
    """Where the figures go, if anywhere; what makes it impossible is found before the work begins."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        if folder is not None:
            from streamloss.files import check_folder
            from streamloss.reporting import plots

            check_folder(folder)
            self.write = plots.write


@dataclass(frozen=True)
class Job:
    """A run whose options are in order: what its report is made of, what it reads and where it writes.

    `writes` are the files and folders, each after the option that names it.
    """

    inputs: tuple[str, ...]
    writes: tuple[tuple[str, str], ...]
    make: Callable[[], Report]
    destinations: tuple[Destination, ...]
    plots: Plots
    junit: str | None

    def run(self, command_line: str) -> Report:
        """Make the report and write it, its figures and the outcomes of its gates; say which gates did not pass."""
        from streamloss.reporting.terminal import render

        report = self.make()
        plain = report.to_dict() | {"run": report.run | {"command_line": command_line}}
        drawn = plain | {"histograms": report.histograms}
        for destination in self.destinations:
            destination.write(drawn if destination.form == "html" else plain, render)
        if self.plots.folder is not None:
            written = self.plots.write(drawn, self.plots.folder)
            what = f"wrote {len(written)} files into {self.plots.folder}" if written else "there is nothing to draw"
            shared.note(what)
        _conclude(plain, self.junit)
        return report

    def finish(self) -> None:
        """Run as what the command line asked for, and end with the exit code that the gates ask for."""
        from streamloss.reporting.gates import exit_code

        if code := exit_code(self.run(shlex.join(("streamloss", *sys.argv[1:]))).gates):
            click.get_current_context().exit(code)


def job(
    inputs: tuple[str, ...],
    make: Callable[[], Report],
    *,
    form: str | None,
    output: Sequence[str],
    plots: str | None,
    fail_if: Sequence[str],
    junit: str | None,
    files: Sequence[tuple[str, str | None]] = (),
) -> Job:
    """The job of a command; what makes it impossible is found here, before the work begins.

    files: what else it writes, each after the option that names it.
    """
    if form is not None and len(output) > 1:
        raise UsageError("--format is one format: without it, each --output is written as it ends")
    destinations = tuple(Destination(form, file, inputs) for file in output or (None,))
    outputs = [("--output", destination.file) for destination in destinations]
    whole = [*outputs, *files, ("--junit", junit)]
    writes = [(flag, file) for flag, file in (*whole, (shared.PLOTS, plots)) if file is not None]
    check_apart(writes)
    for _, file in whole:
        if file is not None:
            _check(file, inputs)
    check_gates(fail_if, junit)
    return Job(inputs, tuple(writes), make, destinations, Plots(plots), junit)


def _conclude(record: dict[str, Any], junit: str | None) -> None:
    """After the report: write the JUnit file and say which gates did not pass."""
    from streamloss.reporting.gates import told

    if junit is not None:
        from streamloss.reporting.junit import encode

        _write(junit, encode(record))
    words = {"fail": "failed", "undecided": "undecided"}
    for gate in record["gates"]:
        if gate["outcome"] in words:
            shared.note(f"gate {words[gate['outcome']]}: {told(gate)}")


def _check(file: str, inputs: Iterable[str]) -> None:
    from streamloss.files import check_target

    check_target(file, inputs)
