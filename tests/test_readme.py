"""The README says what happens: its commands run, and print what it shows.

A ```bash block holds commands; a ```text block that follows is all they print, to standard output and standard error. A
```python block likewise. Only the report's `run` line and seconds, which are about time, may differ. A block that imports
torch, which is no dependency, is run where torch is (tests/test_writing.py runs it everywhere with a stand-in). After a
change of the output,

    python tests/test_readme.py

writes the outputs anew.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from streamloss.cli.main import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
EXIT_CODE = re.compile(r"#\s*exit code (\d+)$")
# What depends on time or on the machine's caches.
RUN = re.compile(r"^  run      .*$", re.MULTILINE)
SECONDS = re.compile(r"\b\d+\.\d+ s\b")
COMPILING = re.compile(r"^streamloss: compiling .*\n", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A block of the README and the output it shows, None when it shows none."""

    kind: str
    code: str
    output: str | None

    @property
    def name(self) -> str:
        return self.code.splitlines()[0]

    @property
    def can_run(self) -> bool:
        """Whether what it imports is there."""
        return "import torch" not in self.code or importlib.util.find_spec("torch") is not None

    @property
    def steps(self) -> list[tuple[list[str], int]]:
        """Command lines and the exit codes that they say."""
        if self.kind == "python":
            return [([sys.executable, "-c", self.code], 0)]
        found = []
        for line in self.code.splitlines():
            said = EXIT_CODE.search(line)
            words = shlex.split(line, comments=True)
            assert words[0] == "streamloss", f"not a command of ours: {line}"
            found.append(([sys.executable, "-m", *words], int(said[1]) if said else 0))
        return found


def examples(text: str) -> list[Example]:
    return [Example(*match.groups()) for match in BLOCK.finditer(text)]


def run(example: Example, folder: Path) -> tuple[list[tuple[int, int]], str]:
    """The exit codes as (got, expected) and everything that was printed."""
    codes, printed = [], []
    for command, expected in example.steps:
        ended = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=False, timeout=300
        )
        codes.append((ended.returncode, expected))
        printed.append(COMPILING.sub("", ended.stdout).strip("\n") + "\n")
    return codes, "\n".join(printed)


def timeless(text: str) -> str:
    return SECONDS.sub("… s", RUN.sub("  run      …", text))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run, one after another as in the README: a folder that has data/ and may be written to."""
    place = tmp_path_factory.mktemp("readme")
    (place / "data").symlink_to(ROOT / "data")
    return place


EXAMPLES = examples(README.read_text(encoding="utf-8"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_readme_says_what_happens(example: Example, folder: Path) -> None:
    if not example.can_run:
        pytest.skip("torch is not installed")
    codes, printed = run(example, folder)
    assert all(got == expected for got, expected in codes), (codes, printed)
    if example.output is not None:
        assert timeless(printed) == timeless(example.output), "run python tests/test_readme.py if this is as it should be"


def commands(group: click.Group, before: str) -> list[tuple[str, click.Command]]:
    """Every command under a group, by the words that call it."""
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        words = f"{before} {name}"
        found += commands(command, words) if isinstance(command, click.Group) else [(words, command)]
    return found


@pytest.mark.parametrize(("words", "command"), commands(cli, "streamloss"), ids=lambda value: str(value))
def test_every_command_is_in_the_readme(words: str, command: click.Command) -> None:
    assert words in README.read_text(encoding="utf-8")


def test_every_option_of_evaluate_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    evaluate = cli.commands["evaluate"]
    options = [param for param in evaluate.params if isinstance(param, click.Option)]
    flags = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
    missing = {flag for flag in flags if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text)}
    assert not missing


def test_every_script_of_the_readme_is_there() -> None:
    named = set(re.findall(r"scripts/[a-z_.]+[a-z]", README.read_text(encoding="utf-8")))
    assert {"scripts/demo", "scripts/test"} <= named
    assert not {name for name in named if not (ROOT / name).is_file()}


def write() -> None:
    """Put the outputs of today into the README."""
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").symlink_to(ROOT / "data")

        def renew(match: re.Match[str]) -> str:
            example = Example(*match.groups())
            if not example.can_run:
                print(f"{example.name}: left as it is, torch is not installed")
                return match[0]
            codes, printed = run(example, folder)
            print(f"{example.name}: {', '.join(str(got) for got, _ in codes)}")
            if any(got != expected for got, expected in codes):
                print(printed)
            if example.output is None:
                return match[0]
            if timeless(printed) == timeless(example.output):
                printed = example.output
            return f"```{example.kind}\n{example.code}```\n\n```text\n{printed}```"

        README.write_text(BLOCK.sub(renew, text), encoding="utf-8")


if __name__ == "__main__":
    write()
