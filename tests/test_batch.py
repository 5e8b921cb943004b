"""Options from a file and several runs of one: the file says what a command line would, and the worst run decides the end."""

from __future__ import annotations

import json
import shlex
import signal
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from commands import run

from streamloss import api
from streamloss.cli import batch as batches
from streamloss.cli import config, endings
from streamloss.cli.main import cli
from streamloss.errors import StreamlossError
from streamloss.reporting.batch import render_batch
from streamloss.reporting.tables import to_text

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "data" / "digits.parquet"
BATCH = ROOT / "data" / "batch.toml"
LABELLED = f'label = "label"\npaths = "{DIGITS}"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.toml"


def asked_of(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> dict[str, Any]:
    """What a command asks of the Python interface."""
    asked: dict[str, Any] = {}

    class Stop(StreamlossError):
        pass

    def stop(paths: list[str], **options: Any) -> None:
        asked.update(options, paths=paths)
        raise Stop("here")

    monkeypatch.setattr(api, name, stop)
    result = run(*words)
    assert result.stderr.endswith("streamloss: error: here\n"), result.stderr
    return {key: value for key, value in asked.items() if value not in (None, ()) and key != "progress"}


# --config


def test_a_file_says_what_the_command_line_says(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "names.txt").write_text("a\nb\n")
    file.write_text(
        """
        paths = ["a.parquet", "more/*.parquet", "s3://bucket/b.parquet"]
        top-k = [1, 3]
        quantiles = [0.1, 0.9]
        by = ["group", ["label_name", "group"]]
        ignore_index = -100
        zero = "clip:1e-7"
        classes = "names.txt"
        class-weights = "1,2"
        weight = ""
        progress = false
        [options]
        normalize = true
        fail_if = "accuracy < 90%"
        save-state = "here.state"
        """
    )
    folder = str(file.parent)
    words = (f"{folder}/a.parquet", f"{folder}/more/*.parquet", "s3://bucket/b.parquet", "--top-k", "1", "--top-k", "3")
    words += ("--quantiles", "0.1,0.9", "--by", "group", "--by", "label_name,group", "--ignore-index", "-100", "--weight", "")
    words += ("--zero", "clip:1e-7", "--classes", f"{folder}/names.txt", "--class-weights", "1,2", "--normalize")
    words += ("--fail-if", "accuracy < 90%", "--save-state", f"{folder}/here.state", "--no-progress")
    typed = asked_of(monkeypatch, "evaluate", "evaluate", *words)
    assert asked_of(monkeypatch, "evaluate", "evaluate", "--config", str(file)) == typed
    assert typed["top_k"] == (1, 3)
    assert typed["normalize"] is True


def test_the_command_line_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('paths = "a"\nunit = "bit"\nlogits = "z"\ntop_k = [1, 3]\ntarget_probs = "q"\nprogress = true\nbins = 7\n')
    words = ("evaluate", "--config", str(file), "b", "--unit", "ban", "--probs", "p", "--top-k", "2", "--target-logits", "t")
    asked = asked_of(monkeypatch, "evaluate", *words)
    assert (asked["paths"], asked["unit"], asked["top_k"], asked["bins"]) == (["b"], "ban", (2,), 7)
    # A row has one prediction and one target, so those of the file are out of the way.
    assert (asked["probs"], asked["target_logits"]) == ("p", "t")
    assert not {"logits", "target_probs"} & asked.keys()


def test_a_comparison_takes_its_options_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('paths = "a"\nbaseline = ["b", "c"]\nkey = "id"\nprobs = "p"\nbaseline-logits = "z"\n')
    asked = asked_of(monkeypatch, "compare", "compare", "--config", str(file), "--baseline-probs", "q")
    folder = file.parent
    assert asked["paths"] == [str(folder / "a")]
    assert asked["baseline"] == [str(folder / "b"), str(folder / "c")]
    assert (asked["key"], asked["probs"], asked["baseline_probs"]) == ("id", "p", "q")
    assert "baseline_logits" not in asked


def test_the_report_is_that_of_the_command_line(file: Path) -> None:
    file.write_text('unit = "bit"\nprobs = "mlp_probs"\noutput = ["one.json", "two.md"]\n')
    assert run("evaluate", str(DIGITS), "--config", str(file)).exit_code == 0
    record = json.loads((file.parent / "one.json").read_text())
    typed = json.loads(run("evaluate", str(DIGITS), "--unit", "bit", "--probs", "mlp_probs", "--format", "json").stdout)
    assert record | {"run": None} == typed | {"run": None}
    assert record["digest"][:16] in (file.parent / "two.md").read_text()


def test_paths_of_a_file_here_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('paths = ["a", "-", "/b"]\nplots = "figures"\n')
    assert asked_of(monkeypatch, "evaluate", "evaluate", "--config", "run.toml")["paths"] == ["a", "-", "/b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("unitt = 1", "there is no option 'unitt'; did you mean 'unit'?"),
        ('baseline = "x"', "there is no option 'baseline'"),  # an option of compare alone
        ('config = "x"', "there is no option 'config'"),
        ('unit = "byte"', "unit: 'byte' is not one of 'nat', 'bit', 'ban'."),
        ("threads = 0", "threads: 0 is not in the range x>=1."),
        ("bins = 1.5", "bins: '1.5' is not a valid integer."),
        ('top_k = [1, "x"]', "top_k: 'x' is not a valid integer."),
        ("bins = [1, 2]", "bins is text or a number, not a list"),
        ("label = true", "label is text or a number, not true or false"),
        ("label = {a = 1}", "label is text or a number, not a table"),
        ("label = 2026-11-26", "label is text or a number, not a date or a time"),
        ("junit = ['a', 'b']", "junit is text or a number, not a list"),
        ("normalize = 1", "normalize is true or false, not 1"),
        ("classes = ['a,b', 'c']", "classes: an item of a list cannot hold a comma"),
        ("top-k = 1\ntop_k = 2", "'top_k' is given twice, with - and with _"),
        ("bins = 1\n[options]\nbins = 2", "'bins' stands at the top and in [options]"),
        ("options = 3", "[options] is a table of options, not 3"),
        ("[[evaluate]]", "has [[evaluate]] tables: `streamloss batch` runs them"),
        ("a =", "not TOML: "),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(text: str, said: str, file: Path) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    result = run("evaluate", str(DIGITS), "--config", str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"streamloss: error: {file}")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_that_is_not_there(file: Path) -> None:
    for words in (("evaluate", "a", "--config", str(file)), ("batch", str(file))):
        result = run(*words)
        assert (result.exit_code, result.stderr) == (
            2,
            f"streamloss: error: {file}: cannot read the file: No such file or directory\n",
        )


# Several outputs


def test_a_report_in_several_formats(tmp_path: Path) -> None:
    one, two = str(tmp_path / "a.json"), str(tmp_path / "a.csv")
    result = run("evaluate", str(DIGITS), "-o", one, "-o", two)
    assert (result.exit_code, result.stderr) == (0, f"streamloss: wrote {one}\nstreamloss: wrote {two}\n")
    assert json.loads(Path(one).read_text())["rows"]["used"] == 900
    assert Path(two).read_text().startswith("scope,")
    for words, said in ((("--format", "json"), "--format is one format"), (("-o", one), "are the same file")):
        result = run("evaluate", str(DIGITS), "-o", one, "-o", two, *words)
        assert result.exit_code == 2
        assert said in result.stderr


# Batches


def test_the_sample_runs(tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    result = run("batch", str(BATCH), "-o", str(summary))
    assert result.exit_code == 0
    record = json.loads(summary.read_text())
    assert (record["schema"], record["file"], record["exit_code"]) == ("streamloss.batch/1", str(BATCH), 0)
    names = ["logistic", "mlp", "cancer", "mlp-or-logistic"]
    assert [each["name"] for each in record["runs"]] == names
    assert all(name in result.stdout for name in names)
    # No report but the summary is printed.
    assert "perplexity" not in result.stdout
    logistic, mlp, cancer, both = record["runs"]
    assert cancer["unit"] == "bit"
    assert [gate["outcome"] for gate in mlp["gates"]] == ["pass", "pass"]
    loss, old = (each["metrics"]["cross_entropy"]["mean"] for each in (mlp, logistic))
    assert both["comparison"]["cross_entropy"]["difference"] == pytest.approx(loss - old, abs=1e-12)
    assert "0.193 ± 0.013 nat" in result.stdout
    assert "-0.0147 ± 0.0044" in result.stdout


def test_a_dry_run_prints_command_lines_that_say_the_same(tmp_path: Path) -> None:
    printed = run("batch", str(BATCH), "--dry-run")
    assert (printed.exit_code, printed.stderr) == (0, "")
    lines = printed.stdout.splitlines()
    run("batch", str(BATCH), "-o", str(tmp_path / "summary.json"))
    record = json.loads((tmp_path / "summary.json").read_text())
    assert [each["command_line"] for each in record["runs"]] == lines
    for line, each in zip(lines, record["runs"], strict=True):
        typed = json.loads(run(*shlex.split(line)[1:], "--format", "json").stdout)
        assert (typed["digest"], typed["metrics"], typed["gates"]) == (each["digest"], each["metrics"], each["gates"])


def test_words_say_what_a_table_says() -> None:
    command = cli.commands["evaluate"]
    table = {"paths": "-x.parquet", "by": ["a", "b"], "normalize": False, "progress": False, "format": "json", "output": "o"}
    found = config.values(command, table, Path(), "here")
    assert config.words(command, found) == shlex.split("--by a --by b --no-progress --format json --output o -- -x.parquet")
    assert config.words(command, config.values(command, {"paths": ["-"], "normalize": True}, Path(), "here")) == [
        "-",
        "--normalize",
    ]


def test_a_run_wins_over_what_is_for_all(file: Path) -> None:
    file.write_text(
        'label = "label"\nlogits = "logits"\nunit = "bit"\nfail_if = ["accuracy < 2"]\nsave_state = "all.state"\nkey = "id"\n'
        f'paths = "{DIGITS}"\n[[evaluate]]\n'
        '[[evaluate]]\nprobs = "mlp_probs"\nunit = "nat"\nfail_if = []\nsave-state = "second.state"\n'
        '[[compare]]\nbaseline_probs = "mlp_probs"\n'
    )
    result = run("batch", str(file), "--dry-run")
    folder = file.parent
    gate = "--fail-if 'accuracy < 2'"
    assert [shlex.split(line) for line in result.stdout.splitlines()] == [
        shlex.split(f"streamloss {line}")
        for line in (
            f"evaluate {DIGITS} --label label --logits logits --unit bit {gate} --save-state {folder}/all.state",
            f"evaluate {DIGITS} --label label --probs mlp_probs --unit nat --save-state {folder}/second.state",
            f"compare {DIGITS} --label label --logits logits --key id --baseline-probs mlp_probs --unit bit {gate}",
        )
    ]


FAILS = {
    0: "",
    1: 'fail_if = "accuracy < 97%"\n',
    2: 'metrics = "nonsense"\n',
    3: f'paths = "{DIGITS.parent}/no-such.parquet"\n',
    4: 'fail_if = "accuracy[group=no] < 1"\n',
}


@pytest.mark.parametrize(
    ("codes", "worst"), [((0, 1, 0), 1), ((1, 4, 0), 4), ((4, 2, 1), 2), ((3, 2, 1), 3), ((0, 0, 0), 0)], ids=str
)
def test_the_worst_run_decides_and_stops_none(codes: tuple[int, ...], worst: int, file: Path) -> None:
    labelled = 'logits = "logits"\n[[evaluate]]\n'
    tables = ('label = "label"\n' + FAILS[code] for code in codes)
    tables = (text if "paths" in text else text + f'paths = "{DIGITS}"\n' for text in tables)
    file.write_text(labelled + "[[evaluate]]\n".join(tables))
    summary = file.parent / "summary.json"
    result = run("batch", str(file), "-o", str(summary))
    assert result.exit_code == worst, result.stderr
    record = json.loads(summary.read_text())
    assert record["exit_code"] == worst
    assert [each["exit_code"] for each in record["runs"]] == list(codes)
    for each in record["runs"]:
        assert ("error" in each) == (each["exit_code"] in (2, 3))
        assert ("metrics" in each) == (each["exit_code"] not in (2, 3))
        if "error" in each:
            assert " ".join(each["error"].split())[:40] in " ".join(result.stdout.split())


def test_stop_stops_at_the_first_that_fails(file: Path) -> None:
    file.write_text(LABELLED + "[[evaluate]]\n[[evaluate]]\n" + FAILS[1] + "[[evaluate]]\n")
    result = run("batch", str(file), "--stop")
    assert result.exit_code == 1
    assert "3 runs · 1 done · 1 failed a gate · 1 not run" in result.stdout
    assert "run 3 of 3" not in result.stderr


def test_only_some(file: Path) -> None:
    file.write_text(LABELLED + '[[evaluate]]\nname = "a b"\n[[evaluate]]\n' + FAILS[1] + "[[evaluate]]\n")
    result = run("batch", str(file), "--only", "evaluate-3", "--only", "a b", "-o", "-")
    assert result.exit_code == 0
    assert [each["name"] for each in json.loads(result.stdout)["runs"]] == ["a b", "evaluate-3"]
    result = run("batch", str(file), "--only", "evaluate-4")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no run 'evaluate-4'; did you mean" in result.stderr


def test_reports_go_where_the_file_says(file: Path) -> None:
    file.write_text(LABELLED + '[[evaluate]]\noutput = ["a.json", "a.md"]\n[[evaluate]]\noutput = "-"\nunit = "bit"\n')
    result = run("batch", str(file))
    assert result.exit_code == 0
    record = json.loads((file.parent / "a.json").read_text())
    assert record["run"]["command_line"].startswith(f"streamloss evaluate {DIGITS} ")
    assert (file.parent / "a.md").is_file()
    report, _, summary = result.stdout.partition("streamloss batch")
    assert "perplexity" in report
    assert "a.json" in summary


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", " has no [[evaluate]] and no [[compare]] table"),
        ("[evaluate]", "every run has a table of its own, [[evaluate]]"),
        ("unitt = 1\n[[evaluate]]", ": there is no option 'unitt'; did you mean 'unit'?"),
        ("threads = 0\n[[evaluate]]\npaths = 'a'\nthreads = 1", ": threads: 0 is not in the range x>=1."),
        ("[[evaluate]]\npaths = 'a'\n[[compare]]\npaht = 'b'", ", compare-1: there is no option 'paht'"),
        ("[[evaluate]]\nname = 3", ", [[evaluate]] 1: a name is text, not 3"),
        ("[[evaluate]]\nlabel = 'y'", ", evaluate-1: Missing argument 'PATH...'."),
        ("[[evaluate]]\npaths='a'\nname='x'\n[[compare]]\npaths='a'\nname='x'\nbaseline='b'", ": two runs are called 'x'"),
        ("[[evaluate]]\npaths = 'a'\nfail_if = 'acuracy < 1'", ", evaluate-1: --fail-if 'acuracy < 1': no quantity 'acuracy'"),
        ("[[evaluate]]\npaths = 'a'\nlogits = 'z'\nprobs = 'p'", ", evaluate-1: one prediction at a time"),
        ("[[compare]]\npaths = 'a'\nlogits = 'z'", ", compare-1: which column has the old model's prediction?"),
        ("[[evaluate]]\npaths = 'a'\noutput = 'no/x.json'", ", evaluate-1: cannot write "),
        (
            "output = 'x.json'\npaths = 'a'\n[[evaluate]]\n[[evaluate]]",
            "--output of 'evaluate-2' and --output of 'evaluate-1' are the",
        ),
        (
            "paths = 'a'\n[[evaluate]]\nplots = 'x'\n[[evaluate]]\nsave_state = './x'",
            "--save-state of 'evaluate-2' and --plots of",
        ),
        ("paths = 'run.toml'\n[[evaluate]]\npaths = 'a'\noutput = 'x.json'\n[[evaluate]]\noutput = 'run.toml'", "is an input"),
        ("paths = '-'\n[[evaluate]]\n[[evaluate]]", ": standard input can be read once, not by 2 runs"),
    ],
)
def test_all_of_the_file_is_checked_before_anything_runs(
    text: str, said: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something ran")

    monkeypatch.setattr(api, "evaluate", never)
    monkeypatch.setattr(api, "compare", never)
    file.write_text(text)
    result = run("batch", str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert file.read_text() == text


def test_the_summary_is_no_report_nor_the_file_itself(file: Path) -> None:
    file.write_text(LABELLED + '[[evaluate]]\noutput = "a.json"\n')
    for name, said in (("a.json", "are the same file"), ("run.toml", "is an input")):
        result = run("batch", str(file), "-o", str(file.parent / name))
        assert result.exit_code == 2
        assert said in result.stderr
    assert not (file.parent / "a.json").exists()


def test_figures_go_into_a_folder_that_need_not_be_there(file: Path) -> None:
    pytest.importorskip("matplotlib")
    file.write_text(LABELLED + '[[evaluate]]\nplots = "new/figures"\n')
    result = run("batch", str(file))
    assert result.exit_code == 0, result.stderr
    assert list((file.parent / "new" / "figures").glob("*.svg"))
    assert "new/figures" in result.stdout


def test_an_interrupt_stops_all_and_shows_what_is_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = api.evaluate
    calls: list[object] = []

    def interrupted(*words: Any, **options: Any) -> Any:
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*words, **options)

    monkeypatch.setattr(api, "evaluate", interrupted)
    file.write_text(LABELLED + "[[evaluate]]\n[[evaluate]]\n[[evaluate]]\n")
    result = run("batch", str(file))
    assert result.exit_code == 130
    assert len(calls) == 2
    assert "3 runs · 1 done · 1 interrupted · 1 not run" in result.stdout


def interrupted_in_a_library() -> None:
    """Ctrl-C, whose exception is swallowed."""
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it raises nothing")


def test_an_interrupt_that_a_library_swallows_is_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the input that follows, for whoever wrote it was interrupted too, is not what went wrong."""

    def opened(source: object) -> None:
        interrupted_in_a_library()
        raise pa.ArrowInvalid("Tried reading schema message, was null or length 0")

    monkeypatch.setattr(pa.ipc, "open_stream", opened)
    result = run("evaluate", "-")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "streamloss: error: interrupted\n")
    file.write_text(f'[[evaluate]]\npaths = "-"\n[[evaluate]]\npaths = "{DIGITS}"\n')
    result = run("batch", str(file))
    assert result.exit_code == 130
    assert "2 runs · 1 interrupted · 1 not run" in result.stdout
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert run("evaluate", "-").exit_code == 3  # it is not remembered for ever


def test_what_is_done_before_the_interrupt_is_found_stays_done(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = api.evaluate

    def interrupted(*words: Any, **options: Any) -> Any:
        interrupted_in_a_library()
        return real(*words, **options)

    monkeypatch.setattr(api, "evaluate", interrupted)
    file.write_text(LABELLED + "[[evaluate]]\n[[evaluate]]\n")
    result = run("batch", str(file))
    assert result.exit_code == 130
    assert "2 runs · 1 done · 1 not run" in result.stdout


@pytest.mark.parametrize("where", ["open_stream", "read_next_batch"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), pa.ArrowCancelled("cancelled", signal.SIGINT)], ids=["raised", "cancelled"]
)
def test_an_interrupt_of_a_read_is_one(where: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = pa.schema({"prob": pa.float64(), "label": pa.int64()})

    class Reader:
        def __init__(self, source: object) -> None:
            self.schema = schema
            if where == "open_stream":
                raise error

        def read_next_batch(self) -> None:
            raise error

    monkeypatch.setattr(pa.ipc, "open_stream", Reader)
    result = run("evaluate", "-")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "streamloss: error: interrupted\n")


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
def test_a_handler_of_somebody_else_stays(theirs: Any) -> None:
    before = signal.signal(signal.SIGINT, theirs)
    try:
        with endings.interrupts.remembered():
            assert signal.getsignal(signal.SIGINT) is theirs
        assert signal.getsignal(signal.SIGINT) is theirs
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_summary_shows_hostile_names_as_text() -> None:
    name = "[red]a\x1b[31m" + "x" * 50
    one = {"name": name, "command": "evaluate", "exit_code": 0, "seconds": 1.0, "outputs": ["[b]\x07.json"], "unit": "nat"}
    one |= {"rows": {"used": 12_345}, "metrics": {"cross_entropy": {"mean": "inf", "stderr": None}}}
    one |= {"gates": [{"outcome": "fail"}, {"outcome": "pass"}, {"outcome": "undecided"}, {"outcome": "pass"}]}
    none = {"name": "b", "command": "evaluate", "exit_code": 3, "seconds": 90.0, "outputs": [], "error": "[/]no\x1b"}
    null = {
        "name": "c",
        "exit_code": 0,
        "seconds": 0.0,
        "outputs": [],
        "metrics": {"cross_entropy": {"mean": None, "reason": "0"}},
    }
    summary = {
        "file": "\x1b.toml",
        "exit_code": 3,
        "seconds": 91.0,
        "runs": [one, none, null, {"name": "d", "exit_code": None, "outputs": []}],
    }
    for width in (60, 80, 100, 200):
        text = to_text(lambda console: render_batch(summary, console), width)
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "[red]a\\x1b" in text
        assert "[/]no\\x1b" in text
        assert max(map(len, text.splitlines())) <= width
    assert "1 failed, 1 undecided, 2 passed" in text
    assert "∞ nat" in text
    assert "4 runs · 2 done · 1 with bad data or input · 1 not run" in text


def test_every_run_is_a_command_and_every_code_has_its_place() -> None:
    assert list(batches._COMMANDS) == list(config.RUNS)
    assert all(cli.commands[name] is command for name, (command, _) in batches._COMMANDS.items())
    assert set(batches._SEVERITY) == {0, 1, 2, 3, 4, 130}


def test_the_readme_shows_the_sample() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = next(block for block in text.split("```toml\n")[1:] if "[[evaluate]]" in block).split("```")[0]
    assert tomllib.loads(shown) == tomllib.loads(BATCH.read_text(encoding="utf-8"))
