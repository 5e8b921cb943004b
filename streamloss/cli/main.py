"""`streamloss`: the group of commands, and how anything that goes wrong ends.

Exit codes: 0 done, 1 a gate failed, 2 wrong usage, 3 bad data or input, 4 a gate is undecided, 130 interrupted, 141 when the
reader of our output went away. An exception that is none of these is a bug, and its traceback is shown.
"""

from __future__ import annotations

import os
import sys
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

    def invoke(self, ctx: click.Context) -> Any:
        with endings.interrupts.remembered():
            try:
                return super().invoke(ctx)
            except endings.EXPECTED as error:
                code, _ = endings.told(error)
            except BrokenPipeError:
                _forget_output()
                code = endings.PIPE_CLOSED
        return ctx.exit(code)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        for title, records in (("Exit codes", endings.CODES.items()), ("Environment", _ENVIRONMENT), ("See also", _MORE)):
            shared.listed(formatter, title, [(str(name), what) for name, what in records])


def _forget_output() -> None:
    """Let what is still buffered go nowhere, or the interpreter complains about the closed pipe when it ends."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # no real file behind standard output
        return


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="streamloss", message="%(prog)s %(version)s")
def cli() -> None:
    """Evaluate prediction files: exact cross-entropy, entropy, KL divergence and calibration of any number of rows.

    \b
    Begin with:
      streamloss inspect data/digits.parquet
      streamloss evaluate data/digits.parquet --logits logits --label label
    """


for command in (evaluate, compare, calibrate, batch, score, report, inspect, calc, completion):
    cli.add_command(command)


def main() -> None:
    """The console entry point."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign gets a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    cli(prog_name="streamloss")
