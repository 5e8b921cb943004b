"""`streamloss`: the group of commands, and how anything that goes wrong ends.

Exit codes: 0 done, 1 a gate failed, 2 wrong usage, 3 bad data or input, 4 a gate is undecided, 130 interrupted, 141 when the
reader of our output went away. An exception that is none of these is a bug, and its traceback is shown.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from streamloss import __version__
from streamloss.cli import endings, shared
from streamloss.cli.batch import batch
from streamloss.cli.calc import calc
from streamloss.cli.calibrate import calibrate
from streamloss.cli.compare import compare
from streamloss.cli.completion import completion
from streamloss.cli.evaluate import evaluate
from streamloss.cli.inspect import inspect
from streamloss.cli.report import report
from streamloss.cli.score import score

_ENVIRONMENT = (
    ("STREAMLOSS_CACHE_DIR", "Where compiled kernels are kept; it may be deleted.  [default: streamloss in the cache folder]"),
    ("XDG_CACHE_HOME", "The cache folder.  [default: ~/.cache]"),
    ("COLUMNS", "Width of what is shown in a terminal.  [default: as it is]"),
    ("NO_COLOR", "When set, no colours in a terminal."),
)
_MORE = (
    ("streamloss COMMAND --help", "What a command does, with examples."),
    ("streamloss inspect FILE", "What a file has, and the command to type."),
    ("help(streamloss)", "The same from Python; the README has the formulas."),
)


class Group(shared.Group):
    """The commands, with one line on standard error for every way to fail."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _told():  # --help and --version are said here
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with endings.interrupts.remembered(), _told():
            return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        for title, records in (("Exit codes", endings.CODES.items()), ("Environment", _ENVIRONMENT), ("See also", _MORE)):
            shared.listed(formatter, title, [(str(name), what) for name, what in records])


@contextmanager
def _told() -> Iterator[None]:
    """Makes a line and an exit code of every way to fail."""
    try:
        yield
        return
    except endings.EXPECTED as error:
        code, _ = endings.told(error)
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            _forget_output()
    except BrokenPipeError:
        _forget_output()
        code = endings.PIPE_CLOSED
    raise click.exceptions.Exit(code)


def _forget_output() -> None:
    """Let what is still buffered go nowhere, or the interpreter complains about it when it ends."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # no real file behind standard output
        return


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        shared.say(f"streamloss {__version__}\n")
        ctx.exit()


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version and exit."
)
def cli() -> None:
    """Evaluate prediction files: exact cross-entropy, entropy, KL divergence and calibration of any number of rows.

    \b
    Begin with:
      streamloss inspect data/digits.parquet
      streamloss evaluate data/digits.parquet --logits logits --label label
    """


for command in (evaluate, compare, calibrate, batch, score, report, inspect, calc, completion):
    cli.add_command(command)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    shared.note(f"warning: {' '.join(str(message).splitlines())}")


def _fill_closed() -> None:
    """Has standard streams that whoever started us has closed be there, or the next file that is opened would be one of them.

    Nothing can be written to such an output, which is an error like any other; there is nobody to be told on such an error.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115


def main() -> None:
    """The console entry point."""
    _fill_closed()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign gets a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    warnings.showwarning = _warn
    cli(prog_name="streamloss")
