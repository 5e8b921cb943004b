"""The command line in this process, for the tests of what it prints and how it ends."""

from __future__ import annotations

from click.testing import CliRunner, Result

from streamloss.cli.main import cli


def run(*words: str) -> Result:
    """What a command line printed and ended with; a bug is raised."""
    result = CliRunner().invoke(cli, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
