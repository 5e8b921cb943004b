"""TAB in real shells: what stands on the line, and what is offered next."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import run

DIGITS = "data/digits.parquet"
ROOT = Path(__file__).parents[1]

# What each shell needs so that its completion function can be called from a script: the words, then what was offered, a
# line each. Files and folders, which the shell finds itself, are told as <file> and <dir>.
BASH = r"""
compopt() { [[ $* == *default* ]] && echo "<file>"; [[ $* == *dirnames* ]] && echo "<dir>"; }
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_streamloss_completion streamloss
printf '%s\n' "${COMPREPLY[@]}"
"""
ZSH = r"""
compdef() { : }
compadd() { print -l -- ${(P)@[-1]} }
_describe() { print -l -- ${${(P)3}%%:*} }
_path_files() { [[ $1 == -/ ]] && print "<dir>" || print "<file>" }
source $1; shift
words=("$@"); CURRENT=$#
_streamloss_completion
"""
FISH = r"""
function __fish_complete_path; echo "<file>"; end
function __fish_complete_directories; echo "<dir>"; end
source $argv[1]
complete -C (string join " " -- (string escape --no-quoted -- $argv[2..-2]) $argv[-1]) | string replace -r '\t.*' ''
"""
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-c", BASH, "-"],
    "zsh": ["zsh", "-f", "-c", ZSH, "-"],
    "fish": ["fish", "--no-config", "-c", FISH],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, the scripts of the shells, and `streamloss` in bin/."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "bin").mkdir()
    program = folder / "bin" / "streamloss"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m streamloss "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    for shell in SHELLS:
        (folder / shell).write_text(run("completion", shell).stdout, encoding="utf-8")
    return folder


def environment(place: Path) -> dict[str, str]:
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(place)}


def offered(place: Path, shell: str, *words: str) -> list[str]:
    """What a shell offers for the last of the words; nothing may be on standard error."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run(
        [*SHELLS[shell], str(place / shell), "streamloss", *words],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


# The words, and what is offered for the last of them.
CASES: tuple[tuple[list[str], list[str]], ...] = (
    (["eval"], ["evaluate"]),
    (["evaluate", DIGITS, "--unit", ""], ["nat", "bit", "ban"]),
    (["report", ""], ["<file>"]),
    (["evaluate", DIGITS, "--plots", ""], ["<dir>"]),
    (["evaluate", DIGITS, "--by", "group,lab"], ["group,label", "group,label_name"]),
    (["evaluate", "no/such.parquet", "--label", ""], []),
    (["ca"], ["calibrate", "calc"]),
    (["calc", "so"], ["softmax"]),
    (["completion", ""], ["bash", "zsh", "fish"]),
    (["evaluate", DIGITS, "--label-"], ["--label-smoothing"]),
    (["evaluate", DIGITS, "--format", "ma"], ["markdown"]),
    (["evaluate", ""], ["<file>"]),
    (["batch", ""], ["<file>"]),
    (["evaluate", DIGITS, "-o", ""], ["<file>"]),
    (["evaluate", DIGITS, "--class-weights", ""], ["<file>"]),
    (["compare", DIGITS, "--baseline", ""], ["<file>"]),
    (["evaluate", DIGITS, "--label", "label"], ["label", "label_name"]),
    (["evaluate", DIGITS, "--probs", "ml"], ["mlp_probs"]),
    (["evaluate", DIGITS, "--by", "fi"], ["file"]),
    (["compare", DIGITS, "--key", "i"], ["id"]),
    (["compare", "none.parquet", "--baseline", DIGITS, "--baseline-probs", "m"], ["mlp_probs"]),
    (["evaluate", DIGITS, "--metrics", "brier,acc"], ["brier,accuracy"]),
    (["score", DIGITS, "--worst-by", "foc"], ["focal"]),
    # What cannot be read offers nothing, in silence.
    (["evaluate", "--label", ""], []),
    (["evaluate", "bin/streamloss", "--label", ""], []),
    (["evaluate", "s3://a/x.parquet", "--label", ""], []),
    (["evaluate", "-", "--label", ""], []),
    (["evaluate", "bin", "--label", ""], []),
)


@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    # Of what is ours, not the shell's, one shell is enough.
    [(shell, *case) for shell in SHELLS for case in (CASES if shell == "bash" else CASES[:6])],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_tab(place: Path, shell: str, words: list[str], expected: list[str]) -> None:
    assert sorted(offered(place, shell, *words)) == sorted(expected)  # fish sorts them itself


def test_names_that_have_to_be_quoted(place: Path) -> None:
    """Bash puts an offer on the line as it is."""
    pq.write_table(pa.table({"a b": [1.0], "a;c": [2.0], "plain": [1]}), place / "odd.parquet")
    assert offered(place, "bash", "evaluate", "odd.parquet", "--label", "a") == ["'a b'", "'a;c'"]


def test_partitions_are_columns(place: Path) -> None:
    folder = place / "hive" / "year=2026"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"label": [1], "prob": [0.5]}), folder / "0.parquet")
    assert offered(place, "bash", "evaluate", "hive", "--by", "") == ["label", "prob", "year", "file"]


def test_columns_need_nothing_compiled() -> None:
    code = "import sys; from streamloss.reading.glance import columns; columns([sys.argv[1]]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, DIGITS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"numba", "streamloss.jit"} & {*done.stdout.split()}


def test_an_interactive_bash(place: Path) -> None:
    """The keys themselves: what TAB makes of a line at the prompt."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=place,
        env=environment(place) | {"PS1": "> ", "TERM": "dumb"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        os.write(master, b"source ./bash\n")
        os.write(master, f"streamloss evalu\t{DIGITS} --probs ml\t\x01echo got: \x05\n".encode())
        seen, deadline = b"", time.monotonic() + 60
        while b"got: streamloss evaluate data/digits.parquet --probs mlp_probs" not in seen.replace(b"echo got", b""):
            assert time.monotonic() < deadline, seen
            seen += os.read(master, 4096)
    finally:
        shell.kill()
        shell.wait()
        os.close(master)
