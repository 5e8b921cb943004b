"""How anything that goes wrong ends: one line on standard error, and an exit code.

An exception that is none of these is a bug, and its traceback is shown.
"""

from __future__ import annotations

import click

from streamloss.errors import StreamlossError

INTERRUPTED = 130
OUT_OF_MEMORY = 3

EXPECTED = (StreamlossError, KeyboardInterrupt, MemoryError)


def told(error: BaseException) -> tuple[int, str]:
    """The exit code of one of the expected exceptions, and its line, which is written to standard error."""
    from streamloss.reporting.units import printable

    if isinstance(error, StreamlossError):
        code, text = error.exit_code, str(error)
    elif isinstance(error, KeyboardInterrupt):
        code, text = INTERRUPTED, "interrupted"
    else:
        code, text = OUT_OF_MEMORY, f"out of memory {error}".rstrip()
    line = printable(" ".join(text.splitlines()))
    click.echo(f"streamloss: error: {line}", err=True)
    return code, line
