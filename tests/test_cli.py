"""The command line: its help keeps its word, its exit codes are as promised, and its output goes where it should."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from commands import run

from streamloss.cli import endings, progress
from streamloss.cli.main import cli
from streamloss.errors import DataError, Place, StreamlossError, UsageError
from streamloss.options import Options
from streamloss.running.progress import Progress

ROOT = Path(__file__).parent.parent
DIGITS = str(ROOT / "data" / "digits.parquet")
GATED = ((), ("evaluate",), ("compare",), ("calibrate",), ("batch",), ("report",))


def start(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, text=True, capture_output=True, timeout=120, **more)


def commands(group: click.Group = cli, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*above, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*above, name))


def examples() -> list[str]:
    texts = [cli.help or "", *(command.help or "" for _, command in commands())]
    lines = [line.strip() for text in texts for line in text.replace("\\\n", "").splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("streamloss ")))


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_every_command_says_what_it_does_with_an_example(words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert f"streamloss {words[0]} " in result.stdout
    assert "Example" in result.stdout
    # Nothing of the table of commands is cut.
    assert "..." not in run(*words[:-1], "--help").stdout.split("Commands:")[-1]


@pytest.mark.parametrize("words", [(), *(words for words, _ in commands())], ids=" ".join)
def test_the_help_fits_a_terminal(words: tuple[str, ...]) -> None:
    """Eighty columns, the examples too; and it says how the command can end."""
    result = run(*words, "--help")
    assert max(map(len, result.stdout.splitlines())) <= 80
    if words != ("calc",):
        codes = result.stdout.split("Exit codes:\n")[1].split("\n\n")[0]
        assert [int(line.split()[0]) for line in codes.splitlines() if line.split()[0].isdigit()] == [
            code for code in endings.CODES if code not in endings.OF_GATES or words[:1] in GATED
        ]


def test_the_help_names_the_environment() -> None:
    assert {"STREAMLOSS_CACHE_DIR", "NO_COLOR", "COLUMNS"} <= set(run("--help").stdout.split("Environment:")[1].split())


def test_the_examples_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    assert len(examples()) > 10
    for example in examples():
        result = run(*shlex.split(example)[1:])
        assert result.exit_code == 0, f"{example}\n{result.output}"
    assert json.loads((tmp_path / "digits.json").read_text())["schema"] == "streamloss.report/1"


def test_every_option_of_the_loss_is_on_the_command_line() -> None:
    given = {param.name for param in cli.commands["evaluate"].params}
    running = {"paths", "form", "output", "save_state", "threads", "batch_rows", "reader", "progress", "fail_if", "junit"} | {
        *("plots", "config", "checkpoint", "checkpoint_every", "cache", "device", "engine", "scheduler", "max_memory")
    }
    assert given - running == {field.name for field in fields(Options)}


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, streamloss.cli.main; print(*sorted(sys.modules))"
    loaded = start("-c", code).stdout.split()
    outside = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert not outside & {"numba", "llvmlite", "numpy", "pyarrow", "rich"}
    ours = {name for name in loaded if name.startswith("streamloss.") and not name.startswith("streamloss.cli")}
    assert ours == {"streamloss.errors", "streamloss.options"}


def test_the_entry_points() -> None:
    ended = start("-m", "streamloss", "--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("streamloss ")
    ended = start("-m", "streamloss", "calc", "entropy", ".5,.4")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == ("streamloss: error: p: the values sum to 0.9, not to 1; --normalize turns counts into shares\n")


@pytest.mark.parametrize(
    "words",
    [
        ("evaluat",),
        ("evaluate",),
        ("evaluate", DIGITS, "--no-such-option"),
        ("evaluate", DIGITS, "--unit", "byte"),
        ("evaluate", DIGITS, "--threads", "0"),
        ("evaluate", DIGITS, "--confidence", "95"),
        ("evaluate", DIGITS, "--zero", "clip"),
        ("evaluate", DIGITS, "--logits", "logits", "--probs", "mlp_probs"),
        ("evaluate", DIGITS, "-o", DIGITS),
        ("evaluate", DIGITS, "--save-state", DIGITS),
        ("evaluate", DIGITS, "-o", "/no/such/folder/report.json"),
        ("evaluate", DIGITS, "-o", "same", "--save-state", "./same"),
        ("evaluate", DIGITS, "--metrics", "nonsense"),
        ("report",),
        ("inspect",),
        ("calc", "nothing"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(words: tuple[str, ...]) -> None:
    before = Path(DIGITS).read_bytes()
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "error: " in result.stderr.lower()
    assert "Traceback" not in result.stderr
    assert Path(DIGITS).read_bytes() == before


@pytest.mark.parametrize("command", ["evaluate", "inspect", "report"])
def test_a_missing_file_ends_with_3_and_one_line(command: str) -> None:
    result = run(command, "no-such.parquet")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith("streamloss: error: ")
    assert "no-such.parquet" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("no sense"), 2, "streamloss: error: no sense\n"),
        (StreamlossError("no space"), 3, "streamloss: error: no space\n"),
        (
            DataError("NaN", place=Place("a\x1b.parquet", 1, 2, "p")),
            3,
            "streamloss: error: a\\x1b.parquet, row group 1, row 2, column 'p': NaN\n",
        ),
        (DataError("two\nlines"), 3, "streamloss: error: two lines\n"),
        (MemoryError(), 3, "streamloss: error: out of memory\n"),
        (KeyboardInterrupt(), 130, "streamloss: error: interrupted\n"),
    ],
)
def test_every_end_has_its_code_and_its_line(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("streamloss.reading.source.describe", fail)
    result = run("inspect", DIGITS)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", line)


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("streamloss.reading.source.describe", fail)
    with pytest.raises(ZeroDivisionError):
        run("inspect", DIGITS)


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "streamloss", "calc", "softmax", "1,1,3"]
    ended = subprocess.run(words, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=120)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_standard_output_by_its_file_name() -> None:
    ended = start("-m", "streamloss", "inspect", DIGITS, "--format", "json", "-o", "/dev/stdout")
    assert (ended.returncode, ended.stderr) == (0, "streamloss: wrote /dev/stdout\n")
    assert json.loads(ended.stdout)["rows"] == 900


def test_a_full_disk_is_one_line() -> None:
    words = [sys.executable, "-m", "streamloss", "calc", "softmax", "1,1,3"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(words, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert ended.returncode == 3
    assert ended.stderr == b"streamloss: error: cannot write to standard output: No space left on device\n"


def test_a_terminal_without_unicode_is_no_error() -> None:
    ended = start("-m", "streamloss", "calc", "kl", "--help", env=os.environ | {"PYTHONIOENCODING": "latin-1"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "KL(q?p)" in ended.stdout


def test_the_format_follows_the_file_name(tmp_path: Path) -> None:
    for name, more, is_json in (
        ("a.json", (), True),
        ("a.txt", (), False),
        ("b.JSON", (), True),
        ("b.txt", ("--format", "json"), True),
        ("c.json", ("--format", "terminal"), False),
    ):
        target = tmp_path / name
        result = run("inspect", DIGITS, "-o", str(target), *more)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"streamloss: wrote {target}\n")
        assert target.read_text(encoding="utf-8").startswith("{") == is_json
    assert json.loads(run("inspect", DIGITS, "--format", "json", "-o", "-").stdout)["rows"] == 900


def test_inspect_shows_the_command_that_evaluates() -> None:
    shown = run("inspect", DIGITS).stdout
    assert f"streamloss evaluate {DIGITS}" in shown
    assert "list<element: float>" in shown


def test_evaluate_reports(tmp_path: Path) -> None:
    shown = run("evaluate", DIGITS, "--logits", "logits", "--label", "label")
    assert shown.exit_code == 0
    assert "cross-entropy" in shown.stdout
    assert "KL divergence" in shown.stdout
    record = json.loads(run("evaluate", DIGITS, "--format", "json").stdout)
    assert record["schema"] == "streamloss.report/1"
    assert record["rows"] == {"read": 900, "used": 900, "ignored": 0, "invalid": 0}
    assert record["digest"][:16] in shown.stdout


def test_the_options_reach_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamloss import api

    asked: dict[str, Any] = {}

    class Stop(StreamlossError):
        pass

    def evaluate(paths: list[str], **options: Any) -> None:
        asked.update(options, paths=paths)
        raise Stop("here")

    monkeypatch.setattr(api, "evaluate", evaluate)
    words = (
        "--logits z --label y --unit bit --top-k 1 --top-k 3 --zero clip:1e-7 --quantiles 0.1,0.9 --normalize "
        "--on-invalid skip --threads 3 --batch-rows 100 --ignore-index -100 --class-weights 1,2"
    )
    assert run("evaluate", "a", "b", *words.split()).exit_code == 3
    options = {key: value for key, value in asked.items() if key in {field.name for field in fields(Options)}}
    assert Options.of(**options) == Options(
        logits="z",
        label="y",
        unit="bit",
        top_k=(1, 3),
        zero=1e-7,
        quantiles=(0.1, 0.9),
        normalize=True,
        on_invalid="skip",
        ignore_index=-100,
        class_weights=(1.0, 2.0),
    )
    assert (asked["paths"], asked["threads"], asked["batch_rows"]) == (["a", "b"], 3, 100)
    assert asked["progress"] is None  # standard error is no terminal here


def test_a_saved_state_gives_the_same_report(tmp_path: Path) -> None:
    state = str(tmp_path / "digits.state")
    words = ("--unit", "bit", "--format", "json")
    first = json.loads(run("evaluate", DIGITS, *words, "--save-state", state).stdout)
    again = json.loads(run("report", state, "--format", "json").stdout)
    assert again["digest"] == first["digest"]
    assert again["metrics"] == first["metrics"]
    assert again["unit"] == "bit"
    shown = json.loads(run("report", state, "--unit", "nat", "--quantiles", "0.5", "--format", "json").stdout)
    assert shown["unit"] == "nat"
    assert list(shown["metrics"]["cross_entropy"]["quantiles"]) == ["0.5"]
    twice = run("report", state, state)
    assert twice.exit_code == 3
    assert "overlap" in twice.stderr


def test_a_failed_run_leaves_the_old_report(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    result = run("evaluate", DIGITS, "--logits", "no_such", "-o", str(target))
    assert result.exit_code == 3
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


HALF = Progress(rows=5_000_000, bytes=2_500_000_000, total_rows=10_000_000, total_bytes=None, seconds=2.0, cross_entropy=0.5)


def test_the_line_of_progress() -> None:
    facts = " 50 % · 2.50 M rows/s · 1.25 GB/s · 0:02 left · cross-entropy 0.5000 nat"
    assert progress.describe(HALF, "nat", 120) == f"━━━━━━━━━━────────── {facts}"
    narrow = progress.describe(HALF, "nat", 80)
    assert narrow.endswith(f"─ {facts}")
    assert len(narrow) == 80
    assert progress.describe(HALF, "nat", 70) == facts
    unknown = Progress(rows=10, bytes=0, total_rows=None, total_bytes=None, seconds=0.0, cross_entropy=None)
    assert progress.describe(unknown, "nat") == "10 rows"
    assert "cross-entropy 0.7213 bit" in progress.describe(HALF, "bit")
    assert Progress(1, 25, None, 100, 3.0, None).seconds_left == 9.0


def test_progress_is_silent_unless_someone_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert not progress.Meter(None, "nat").wanted
    with progress.Meter(True, "nat") as meter:
        meter.show(Progress(1, 1, 10, None, 0.4, None))  # a short run
        assert capsys.readouterr().err == ""
        meter.show(HALF)
        meter.show(HALF)  # too soon after the first
    assert capsys.readouterr().err.count("\n") == 1


def test_progress_in_a_terminal_is_one_line_that_goes_away() -> None:
    code = (
        "import sys; from streamloss.cli.progress import Meter; from streamloss.running.progress import Progress\n"
        "with Meter(None, 'nat') as m:\n"
        "    assert m.wanted\n"
        "    m.show(Progress(50, 5, 100, None, 1.0, 0.25))\n"
    )
    parent, child = os.openpty()
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=child, env=os.environ | {"TERM": "xterm"})
    os.close(child)
    drawn = os.read(parent, 65536).decode()
    os.close(parent)
    assert ended.returncode == 0, drawn
    assert "50 %" in drawn
    assert drawn.rindex("\x1b[2K") > drawn.rindex("50 %")
