"""The command line in this process, for the tests of what it prints and how it ends."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result

from streamloss.cli.main import cli

COMPILING = "streamloss: compiling"  # said once, and no complaint


def run(*words: str, data: bytes | None = None) -> Result:
    """What a command line printed and ended with, given `data` on standard input; a bug is raised."""
    result = CliRunner().invoke(cli, words, input=data)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def complaint(code: int, stdout: str | bytes, stderr: str) -> str | None:
    """The line of a command that failed, None of one that did not; an AssertionError where it ended in neither way."""
    lines = [line for line in stderr.splitlines() if not line.startswith(COMPILING)]
    if code == 0:
        assert all(line.startswith("streamloss: wrote ") for line in lines), stderr
        return None
    assert code in (2, 3), (code, stderr)
    assert len(lines) == 1 and lines[0].startswith("streamloss: error: "), (code, stderr)
    assert not stdout, (code, stdout[:200])
    return lines[0]


def end(*words: str, data: bytes | None = None) -> str:
    """How a command line ends: 'read', with the digest where it prints one, or the line of its error."""
    result = run(*words, data=data)
    line = complaint(result.exit_code, result.stdout, result.stderr)
    if line is not None:
        return line
    if "json" in words and result.stdout.startswith('{\n  "schema"'):
        record = json.loads(result.stdout, parse_constant=lambda text: _strict(text))
        return f"read {record['digest']}"
    return "read"


def _strict(text: str) -> None:
    raise AssertionError(f"{text} in JSON")
