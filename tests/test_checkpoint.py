"""A run that is stopped, however, goes on from its checkpoint to the same digest; another run is refused; a report shows it."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stopping

import streamloss
from streamloss.errors import DataError, StreamlossError, UsageError
from streamloss.files import Lock
from streamloss.options import Options
from streamloss.reading.source import open_input
from streamloss.reporting import units
from streamloss.running import checkpoint as checkpoints
from streamloss.running import local
from streamloss.running.checkpoint import Checkpoint, NotKept
from streamloss.running.measure import Accumulator
from streamloss.state import State

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weighted": {"weight": "w"},
    "sliced": {"by": ["g", "g,who"]},
    "sliced and weighted": {"by": "who", "weight": "w"},
    "capped": {"by": "who", "max_slices": 7},
    "clusters": {"cluster": "who", "by": "g"},
    "conventions": {"convention": ["torch", "keras"]},
    "sweep": {"temperatures": "0.5,1,2", "by": "g"},
    "every class": {"metrics": "cross_entropy,mutual_information"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopping.write_rows(tmp_path_factory.mktemp("rows") / "in")


class Stop:
    """Interrupts a run, as Ctrl-C does, when so many rows have been read."""

    def __init__(self, rows: int = 1) -> None:
        self.rows, self.resumed = rows, 0

    def __call__(self, progress: Any) -> None:
        self.resumed = progress.resumed
        if progress.rows >= self.rows:
            raise KeyboardInterrupt


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, small_parts: None) -> None:
    """Batches take a moment, every row group is a part, and progress is told all the time."""
    add = Accumulator.add
    monkeypatch.setattr(Accumulator, "add", lambda self, batch: (local.time.sleep(0.01), add(self, batch)))
    monkeypatch.setattr(local, "_LOOK", 0.001)


def until_done(paths: Any, file: Path, rows: int, **given: Any) -> tuple[streamloss.Report, int]:
    """The report of a run that is interrupted again and again, and how often it was."""
    stops, seen = 0, 0
    while True:
        stop = Stop(rows)
        try:
            return streamloss.evaluate(paths, checkpoint=file, checkpoint_every=0, progress=stop, **given), stops
        except KeyboardInterrupt:
            stops += 1
        assert stop.resumed >= seen and stops < 200
        seen = stop.resumed


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 2])
def test_stopped_runs_go_on_to_the_same_digest(folder: Path, way: str, threads: int, tmp_path: Path, slow: None) -> None:
    given = WAYS[way] | {"batch_rows": 40}
    expected = streamloss.evaluate(str(folder), **given)
    report, stops = until_done(str(folder), tmp_path / "c", 100, threads=threads, **given)
    assert stops
    assert report.digest == expected.digest and report.metrics == expected.metrics and report.rows == expected.rows
    assert report.slices == expected.slices and report.body["inputs"] == expected.body["inputs"]
    assert 0 < report.run["known_rows"] <= report.rows["read"]
    assert "known_rows" not in expected.run
    # What is there now is the state of all rows, and the same run has nothing left to do.
    assert State.from_bytes((tmp_path / "c").read_bytes()).digest == expected.digest
    again = streamloss.evaluate(str(folder), checkpoint=tmp_path / "c", **given)
    assert again.digest == expected.digest and again.run["known_rows"] == expected.rows["read"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_going_on_reads_nothing_twice(folder: Path, tmp_path: Path, slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []
    add = Accumulator.add

    def noted(self: Accumulator, batch: Any) -> None:
        add(self, batch)
        read.extend((batch.path, batch.first_row + i) for i in range(len(batch)))

    monkeypatch.setattr(Accumulator, "add", noted)
    until_done(str(folder), tmp_path / "c", 200, batch_rows=17, threads=2)
    assert len(read) == len(set(read)) == 1500


def test_how_it_runs_may_change_between(folder: Path, tmp_path: Path, slow: None) -> None:
    """Threads, batches, reader, and what is shown: nothing that changes a number."""
    expected = streamloss.evaluate(str(folder), by="g", unit="bit", quantiles=[0.5], confidence=0.9)
    ways: list[dict[str, Any]] = [
        {"threads": 2, "batch_rows": 40},
        {"threads": 1, "batch_rows": 70, "reader": "arrow", "unit": "ban"},
        {"threads": 3, "batch_rows": 23, "min_slice_rows": 3},
    ]
    for way in ways:
        with pytest.raises(KeyboardInterrupt):
            streamloss.evaluate(str(folder), by="g", checkpoint=tmp_path / "c", checkpoint_every=0, progress=Stop(), **way)
    shown = {"unit": "bit", "quantiles": [0.5], "confidence": 0.9}
    report = streamloss.evaluate(str(folder), by="g", checkpoint=tmp_path / "c", **shown)
    assert report.digest == expected.digest and report.metrics == expected.metrics and report.slices == expected.slices


@pytest.mark.parametrize("rounds", [3])
def test_killed_at_any_moment(folder: Path, tmp_path: Path, rounds: int) -> None:
    """A real process, SIGKILL: nothing is done in it any more. scripts/survive does this a hundred times."""
    expected = streamloss.evaluate(str(folder), by="g").digest
    file, out = tmp_path / "c", tmp_path / "out.json"
    words = ("evaluate", folder, "--by", "g", "--checkpoint", file, "--checkpoint-every", "0", "--batch-rows", "40", "-o", out)
    for number in range(rounds):
        code, err = stopping.stopped(stopping.begun(*words, seconds=0.03), stopping.KILL, file, more=0.02 * number)
        assert code == -stopping.KILL and "error" not in err
        assert not out.exists()
    ended = subprocess.run(stopping.command(*words), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(out.read_text())
    assert report["digest"] == expected
    assert 0 < report["run"]["known_rows"] < 1500
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "out.json"]  # no lock, nothing half written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(folder: Path, number: int, tmp_path: Path) -> None:
    """The last batches are in the checkpoint, though it is not yet time for one; progress says how much was resumed."""
    expected = streamloss.evaluate(str(folder)).digest
    file, out = tmp_path / "c", tmp_path / "out.json"
    words = ("evaluate", folder, "--checkpoint", file, "--batch-rows", "40", "-o", out, "--threads", "1")
    process = stopping.begun(*words, seconds=0.1)
    code, err = stopping.stopped(process, number, tmp_path / ".c.lock", more=1.0)
    assert code == 130 and not out.exists()
    assert err.splitlines()[-2:] == [
        f"streamloss: what was counted is in {file}; the same command goes on from it",
        "streamloss: error: interrupted",
    ]
    process = stopping.begun(*words, "--progress", seconds=0.1)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    report = json.loads(out.read_text())
    assert report["digest"] == expected and 0 < report["run"]["known_rows"] < 1500
    share = f"{100 * report['run']['known_rows'] / 1500:.0f} % resumed"
    assert share in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_without_a_checkpoint(folder: Path, number: int, tmp_path: Path) -> None:
    out, old = tmp_path / "out.json", "what was there before"
    out.write_text(old)
    process = stopping.begun("evaluate", folder, "--batch-rows", "40", "-o", out, "--progress", seconds=0.1)
    assert process.stderr is not None
    while "%" not in (line := process.stderr.readline()):  # it runs
        assert line or process.poll() is None, "ended by itself"
        if not line:
            break
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err.splitlines()[-1] == "streamloss: error: interrupted"
    assert out.read_text() == old and [path.name for path in tmp_path.iterdir()] == ["out.json"]


def stopped_at(folder: Path, file: Path, **given: Any) -> State:
    """The state of a checkpoint of a run that was stopped."""
    with pytest.raises(KeyboardInterrupt):
        streamloss.evaluate(str(folder), checkpoint=file, checkpoint_every=0, progress=Stop(), batch_rows=40, **given)
    return State.from_bytes(file.read_bytes())


def test_a_report_of_a_running_job(folder: Path, tmp_path: Path, slow: None) -> None:
    file = tmp_path / "c"
    state = stopped_at(folder, file, by="g", threads=2)
    done = sum(b - a for entry in state.inputs for a, b in entry.get("done", [[0, entry["rows"]]]))
    report = streamloss.merge([file])
    assert report.rows["read"] == done and 0 < done < 1500
    ended = commands.run("report", str(file))
    assert ended.exit_code == 0
    assert re.search(rf"unfinished +a checkpoint: {units.count(done)} of {units.counted(1500, 'row')}", ended.stdout)
    words = f"a checkpoint: {units.count(done)} of {units.counted(1500, 'row')} are in this report"
    for form in ("terminal", "markdown", "html"):
        shown = commands.run("report", str(file), "--format", form).stdout
        assert words in shown and re.search(r"classes · unfinished", shown)
    assert "unfinished" not in commands.run("evaluate", str(folder)).stdout
    found = json.loads(commands.run("report", str(file), "--format", "json").stdout)["inputs"]
    assert sum(entry.get("done", entry["rows"]) for entry in found) == done
    assert any("done" in entry for entry in found)


def test_an_unfinished_file_overlaps_and_one_not_begun_does_not(folder: Path, tmp_path: Path, slow: None) -> None:
    file = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):  # one thread takes one part after the other
        streamloss.evaluate(str(folder), checkpoint=file, progress=Stop(), batch_rows=40, threads=1)
    rest = tmp_path / "rest.state"
    streamloss.evaluate(str(folder / "2.parquet"), save_state=rest)
    assert streamloss.merge([file, rest]).rows["read"] > 500
    streamloss.evaluate(str(folder / "0.parquet"), save_state=rest)
    with pytest.raises(DataError, match=r"overlap.*0\.parquet"):
        streamloss.merge([file, rest])


# ---- what is refused


@pytest.fixture
def stopped(tmp_path: Path, slow: None) -> tuple[Path, Path]:
    """A folder of files of its own, and the checkpoint of a run over it that was stopped."""
    folder = stopping.write_rows(tmp_path / "in", seed=1)
    stopped_at(folder, tmp_path / "c")
    return folder, tmp_path / "c"


def refused(folder: Path, file: Path, pattern: str, **given: Any) -> None:
    before = file.read_bytes()
    with pytest.raises(DataError, match=pattern):
        streamloss.evaluate(str(folder), checkpoint=file, **given)
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["c", "in"]


def test_an_input_that_changed(stopped: tuple[Path, Path]) -> None:
    folder, file = stopped
    stopping.write_rows(folder, files=2, rows=499, seed=1)
    refused(folder, file, r"c is of another run: .*0\.parquet has changed: it was .*\(\d+ bytes, .*and is .*\(\d+ bytes")


def test_an_input_of_equal_size_and_time(stopped: tuple[Path, Path]) -> None:
    """Whoever puts the time back is found out by the footer, which has the statistics of other values."""
    folder, file = stopped
    path = folder / "1.parquet"
    was, before = path.stat(), path.read_bytes()
    table = pq.read_table(path)
    for label in (table["label"].to_numpy()[::-1], (table["label"].to_numpy() + 1) % 3, np.roll(table["label"], 7)):
        pq.write_table(table.set_column(1, "label", pa.array(label)), path, row_group_size=150)
        if path.stat().st_size == was.st_size and path.read_bytes() != before:
            break
    else:
        pytest.fail("no other rows of equal size were found")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    refused(folder, file, r"1\.parquet has changed: it was [0-9a-f]{64} and is [0-9a-f]{64}")
    path.write_bytes(before)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert streamloss.evaluate(str(folder), checkpoint=file).rows["read"] == 1500


def test_one_file_more_or_less(folder: Path, tmp_path: Path, slow: None) -> None:
    (tmp_path / "in").mkdir()
    paths = [str(folder / f"{n}.parquet") for n in range(3)]
    with pytest.raises(KeyboardInterrupt):
        streamloss.evaluate(paths[:2], checkpoint=tmp_path / "c", progress=Stop(), batch_rows=40)
    for given, pattern in (
        (paths, "2.parquet is an input and was none"),
        (paths[:1], "1.parquet was an input and is none now"),
    ):
        with pytest.raises(DataError, match=pattern):
            streamloss.evaluate(given, checkpoint=tmp_path / "c")


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        ({"zero": "clip:1e-3"}, "zero was its default and is 0.001"),
        ({"by": "g"}, r"by was its default and is \['g'\]"),
        ({"bins": 10}, "bins was its default and is 10"),
        ({"weight": "w"}, "weighted was False and is True"),
        ({"on_invalid": "skip"}, "on_invalid was its default and is 'skip'"),
        ({"metrics": "accuracy"}, "metrics was its default"),
        ({"temperature": 2}, "temperature was its default and is 2"),
    ],
)
def test_other_options(stopped: tuple[Path, Path], given: dict[str, Any], pattern: str) -> None:
    refused(*stopped, f"of another run: {pattern}.*; give another file to begin anew, or remove this one", **given)


def test_another_column(stopped: tuple[Path, Path]) -> None:
    refused(*stopped, "of another run: label was its default and is 'g'", label="g", on_invalid="error")


def test_other_kernels(stopped: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "maker", lambda: "9.9.9 somebody")
    refused(*stopped, "written by another version of streamloss")


@pytest.mark.parametrize("cut", [0, 1, 10, 100, -1, -40])
def test_a_checkpoint_that_was_cut_off(stopped: tuple[Path, Path], cut: int) -> None:
    folder, file = stopped
    file.write_bytes(file.read_bytes()[:cut])
    refused(folder, file, r"c: (not a streamloss state|the state is damaged|the state cannot be read)")


def test_a_checkpoint_that_was_edited(stopped: tuple[Path, Path]) -> None:
    folder, file = stopped
    data = file.read_bytes()
    file.write_bytes(data.replace(b'"done":[[0,', b'"done":[[1,', 1))
    assert file.read_bytes() != data
    refused(folder, file, "the state is damaged: its checksum does not match")


@pytest.mark.parametrize(
    "done", [[[0, 10**6]], [[5, 2]], [[0, 4], [4, 6]], [["a", 3]], 7, [[0]], [[0, 2.0]], [[-3, 2]], None, {"a": 1}, [[0, True]]]
)
def test_rows_that_cannot_be_done(stopped: tuple[Path, Path], done: Any) -> None:
    folder, file = stopped
    state = State.from_bytes(file.read_bytes())
    state.inputs[0]["done"] = done
    file.write_bytes(state.to_bytes())
    refused(folder, file, "the state cannot be read")


@pytest.mark.parametrize(
    ("name", "value", "pattern"),
    [
        ("path", None, "c: the checkpoint names an input twice, or one without a path"),
        ("path", "a\nb", "c is of another run: .*0.parquet is an input and was none"),
        ("footer", "a\nb", "c is of another run: .*0.parquet has changed: it was a b and is [0-9a-f]{64}; give"),
    ],
)
def test_inputs_that_cannot_be(stopped: tuple[Path, Path], name: str, value: Any, pattern: str) -> None:
    folder, file = stopped
    state = State.from_bytes(file.read_bytes())
    state.inputs[0][name] = value
    file.write_bytes(state.to_bytes())
    refused(folder, file, pattern)


def test_something_else(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "c").write_bytes(b"my diary")
    refused(folder, tmp_path / "c", "c: not a streamloss state")


def test_what_cannot_be_read_again(folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(folder)
    for data in (table, table.to_reader(), {"logits": np.zeros((2, 3)), "label": np.array([0, 1])}):
        with pytest.raises(UsageError, match="--checkpoint needs files"):
            streamloss.evaluate(data, checkpoint=tmp_path / "c")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("every", [-1, float("nan")])
def test_seconds_that_are_none(folder: Path, tmp_path: Path, every: float) -> None:
    with pytest.raises(UsageError, match="--checkpoint-every is a number of seconds"):
        streamloss.evaluate(str(folder), checkpoint=tmp_path / "c", checkpoint_every=every)
    with pytest.raises(UsageError, match="--checkpoint-every"):
        streamloss.evaluate(str(folder), checkpoint_every=1)


def test_a_place_where_nothing_can_be(folder: Path, tmp_path: Path) -> None:
    ended = commands.run("evaluate", str(folder), "--checkpoint", str(tmp_path / "no" / "c"))
    assert (ended.exit_code, ended.stdout) == (2, "") and "there is no folder" in ended.stderr
    ended = commands.run("evaluate", str(folder / "0.parquet"), "--checkpoint", str(folder / "0.parquet"))
    assert ended.exit_code == 2 and "it is an input of this run" in ended.stderr
    ended = commands.run("evaluate", str(folder), "--checkpoint", str(tmp_path / "c"), "--save-state", str(tmp_path / "c"))
    assert ended.exit_code == 2 and "are the same file" in ended.stderr
    with pytest.raises(StreamlossError, match="cannot write"):
        streamloss.evaluate(str(folder), checkpoint=tmp_path / "no" / "c")


# ---- two runs, and what goes wrong meanwhile


def test_two_runs_of_one_checkpoint(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "c"
    process = stopping.begun("evaluate", folder, "--checkpoint", file, "--batch-rows", "40", seconds=0.2)
    while not (tmp_path / ".c.lock").exists():
        assert process.poll() is None
        local.time.sleep(0.01)
    local.time.sleep(0.2)
    ended = commands.run("evaluate", str(folder), "--checkpoint", str(file))
    assert (ended.exit_code, ended.stdout) == (3, "")
    assert ended.stderr == (
        f"streamloss: error: {file} is in use by another run (process {process.pid}): two runs cannot write to one file\n"
    )
    process.kill()
    process.communicate(timeout=60)
    assert commands.run("evaluate", str(folder), "--checkpoint", str(file)).exit_code == 0  # free at once


def test_a_lock_is_of_one_at_a_time(tmp_path: Path) -> None:
    """Many processes want it: never do two have it, though whoever had it removes the file."""
    code = """
import sys, time
from pathlib import Path
from streamloss.errors import StreamlossError
from streamloss.files import Lock
path, had, end = Path(sys.argv[1]), 0, time.monotonic() + 3
while time.monotonic() < end:
    try:
        lock = Lock(path)
    except StreamlossError:
        continue
    inside = path.with_name("inside")
    inside.touch(exist_ok=False)  # raises where somebody is
    inside.unlink()
    had += 1
    lock.release()
print(had)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "f")], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    had = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes) and sum(had) > 10
    assert not any(tmp_path.iterdir())
    lock = Lock(tmp_path / "f")
    with pytest.raises(StreamlossError, match=rf"in use by another run \(process {os.getpid()}\)"):
        Lock(tmp_path / "f")
    lock.release()
    lock.release()
    Lock(tmp_path / "f").release()


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full(folder: Path, tmp_path: Path, slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on and ends well; what was kept before stays what it was."""
    file = tmp_path / "c"
    stopped_at(folder, file)
    before = file.read_bytes()
    monkeypatch.setattr(checkpoints, "replacing", full)
    with pytest.warns(NotKept, match="cannot write .*: No space left on device; the run goes on"):
        report = streamloss.evaluate(str(folder), checkpoint=file, checkpoint_every=0)
    assert report.digest == streamloss.evaluate(str(folder)).digest
    assert file.read_bytes() == before


def test_a_disk_that_is_really_full(folder: Path, tmp_path: Path) -> None:
    """No file may be larger than so many bytes: the write itself fails."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); " + stopping.SLOWLY
    words = ["evaluate", str(folder), "--checkpoint", str(tmp_path / "c"), "--checkpoint-every", "0", "--batch-rows", "40"]
    ended = subprocess.run(
        [sys.executable, "-c", code, "0.001", *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0 and "cross-entropy" in ended.stdout
    warned = f"streamloss: warning: cannot write {tmp_path / 'c'}: File too large; the run goes on"
    assert set(ended.stderr.splitlines()) == {warned}
    assert not any(tmp_path.iterdir())


def test_a_bad_row_leaves_what_was_kept(folder: Path, tmp_path: Path, slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of a batch that was added in part are in no checkpoint."""
    file, bad = tmp_path / "c", tmp_path / "in"
    stopping.write_rows(bad, files=2)
    table = pq.read_table(bad / "1.parquet")
    label = table["label"].to_pylist()
    label[480] = 99
    pq.write_table(table.set_column(1, "label", pa.array(label)), bad / "1.parquet", row_group_size=150)
    for given in ({}, {"by": "g"}, {"by": "g", "cluster": "who"}):
        file.unlink(missing_ok=True)
        with pytest.raises(DataError, match="row 480"):
            streamloss.evaluate(str(bad), checkpoint=file, checkpoint_every=0, batch_rows=40, threads=2, **given)
        state = State.from_bytes(file.read_bytes())
        rows: list[set[int]] = [set(), set()]
        for number, entry in enumerate(state.inputs):
            for a, b in entry.get("done", [(0, entry["rows"])]):
                rows[number].update(range(a, b))
        assert 480 not in rows[1]
        tables = [pq.read_table(bad / f"{n}.parquet").filter([row in rows[n] for row in range(500)]) for n in range(2)]
        assert state.digest == streamloss.evaluate(pa.concat_tables(tables), **given).digest


def test_what_cannot_be_read_leaves_the_rest(folder: Path, tmp_path: Path, slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is gone for a while: all before it is kept, and when it is back the run goes on."""
    expected = streamloss.evaluate(str(folder)).digest
    read_part = local.read_part

    def failing(part: Any, plan: Any, helpers: Any = None) -> Any:
        if part.path.endswith("2.parquet"):
            raise DataError("cannot be read: the server has gone")
        yield from read_part(part, plan, helpers)

    with monkeypatch.context() as patch:
        patch.setattr(local, "read_part", failing)
        with pytest.raises(DataError, match="the server has gone"):
            streamloss.evaluate(str(folder), checkpoint=tmp_path / "c", batch_rows=40, threads=2)
    assert streamloss.merge([tmp_path / "c"]).rows["read"] == 1000
    report = streamloss.evaluate(str(folder), checkpoint=tmp_path / "c")
    assert report.digest == expected and report.run["known_rows"] == 1000


def test_interrupted_while_sums_are_taken(folder: Path, tmp_path: Path, slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums that are moved half-way are in no checkpoint: the one before stays."""
    file = tmp_path / "c"
    state = stopped_at(folder, file, by="g")
    before = file.read_bytes()

    def interrupted(self: Accumulator) -> State:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Accumulator, "state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            streamloss.evaluate(str(folder), checkpoint=file, checkpoint_every=0, by="g", batch_rows=40)
    assert file.read_bytes() == before
    report = streamloss.evaluate(str(folder), checkpoint=file, by="g")
    assert report.digest == streamloss.evaluate(str(folder), by="g").digest
    assert report.run["known_rows"] == int(state.arrays["ledger"].sum())


def test_it_takes_a_small_share_of_the_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one waits twenty times as long as one took to write, and every so many seconds at least."""
    options = Options()
    source = open_input(str(folder), options)
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "c", source, options, every=5)
    dump = State.to_bytes

    def write(seconds: float) -> None:
        def slowly(state: State) -> bytes:
            now[0] += seconds
            return dump(state)

        monkeypatch.setattr(State, "to_bytes", slowly)
        checkpoint.write(State.empty(source.task, options), checkpoint.done)

    def due_in() -> float:
        start = now[0]
        while not checkpoint.due():
            now[0] += 0.5
        return now[0] - start

    assert due_in() == 5
    write(0.1)
    assert due_in() == 5
    write(3)
    assert due_in() == 60
    checkpoint.release()
