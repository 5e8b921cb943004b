"""A cache of parts: what is there is not read again, what is not exactly that is, and nothing in it can do harm."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
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
from streamloss.running import cache as caches
from streamloss.running import checkpoint as checkpoints
from streamloss.running import local, parts
from streamloss.running.checkpoint import NotKept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return stopping.write_rows(tmp_path / "in")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the files of which parts are read."""
    names: list[str] = []
    read_part = local.read_part

    def noted(part: Any, plan: Any, helpers: Any = None) -> Any:
        names.append(Path(part.path).name)
        yield from read_part(part, plan, helpers)

    monkeypatch.setattr(local, "read_part", noted)
    yield names


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("given", [{}, {"weight": "w", "by": ["g", "g,who"]}, {"cluster": "who"}, {"temperatures": "1,2"}])
def test_what_is_there_is_not_read_again(folder: Path, tmp_path: Path, read: list[str], given: dict[str, Any]) -> None:
    expected = streamloss.evaluate(str(folder), **given)
    cache = tmp_path / "cache"
    read.clear()
    first = streamloss.evaluate(str(folder), cache=cache, **given)
    assert sorted(read) == ["0.parquet", "1.parquet", "2.parquet"] and "known_rows" not in first.run
    read.clear()
    second = streamloss.evaluate(str(folder), cache=cache, threads=1, batch_rows=7, reader="arrow", unit="bit", **given)
    assert read == [] and second.run["known_rows"] == 1500
    for report in (first, second):
        assert report.digest == expected.digest and report.body["inputs"] == expected.body["inputs"]
    assert first.metrics == expected.metrics and first.slices == expected.slices
    assert second.metrics == streamloss.evaluate(str(folder), unit="bit", **given).metrics
    assert all(path.suffix == ".state" for path in entries(cache)) and len(entries(cache)) == 3


def test_a_new_shard_costs_itself(folder: Path, tmp_path: Path, read: list[str]) -> None:
    streamloss.evaluate(str(folder), cache=tmp_path / "cache", by="file")
    (stopping.write_rows(tmp_path / "more", files=4, seed=5) / "3.parquet").rename(folder / "3.parquet")
    read.clear()
    report = streamloss.evaluate(str(folder), cache=tmp_path / "cache", by="file")
    assert read == ["3.parquet"] and report.run["known_rows"] == 1500
    assert report.digest == streamloss.evaluate(str(folder), by="file").digest
    read.clear()
    report = streamloss.evaluate([str(folder / "3.parquet"), str(folder / "1.parquet")], cache=tmp_path / "cache", by="file")
    assert read == [] and report.rows["read"] == 1000


def test_row_groups_are_parts(folder: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "work_bytes", lambda plan: 300 * 32)  # two row groups
    expected = streamloss.evaluate(str(folder)).digest
    read.clear()
    assert streamloss.evaluate(str(folder), cache=tmp_path / "cache").digest == expected
    assert len(read) == len(entries(tmp_path / "cache")) == 6
    assert streamloss.evaluate(str(folder), cache=tmp_path / "cache").run["known_rows"] == 1500


def test_a_file_that_was_overwritten(folder: Path, tmp_path: Path, read: list[str]) -> None:
    streamloss.evaluate(str(folder), cache=tmp_path / "cache")
    path = folder / "1.parquet"
    was = path.stat()
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "label", pa.array((table["label"].to_numpy() + 1) % 3)), path, row_group_size=150)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    expected = streamloss.evaluate(str(folder)).digest
    read.clear()
    assert streamloss.evaluate(str(folder), cache=tmp_path / "cache").digest == expected
    assert read == ["1.parquet"]


@pytest.mark.parametrize(
    "given",
    [
        {"by": "g"}, {"weight": "w"}, {"zero": "clip:1e-3"}, {"temperature": 2}, {"bins": 10}, {"on_invalid": "skip"},
        {"label": "g", "ignore_index": 4, "classes": None, "mask": None, "on_invalid": "skip"}, {"metrics": "accuracy"},
    ],
)  # fmt: skip
def test_other_options_are_other_states(folder: Path, tmp_path: Path, read: list[str], given: dict[str, Any]) -> None:
    streamloss.evaluate(str(folder), cache=tmp_path / "cache")
    expected = streamloss.evaluate(str(folder), **given)
    read.clear()
    report = streamloss.evaluate(str(folder), cache=tmp_path / "cache", **given)
    assert len(read) == 3 and report.digest == expected.digest and report.metrics == expected.metrics


def test_other_kernels_are_other_states(folder: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    streamloss.evaluate(str(folder), cache=tmp_path / "cache")
    for module in (caches, checkpoints, parts):
        monkeypatch.setattr(module, "maker", lambda: "9.9.9 somebody")
    read.clear()
    streamloss.evaluate(str(folder), cache=tmp_path / "cache")
    assert len(read) == 3


def test_the_type_of_a_partition_is_of_all_files(tmp_path: Path, read: list[str]) -> None:
    """year=2024 is a number among numbers and text beside year=unknown: the same file, other keys."""
    for year in ("2024", "unknown"):
        stopping.write_rows(tmp_path / "in" / f"year={year}", files=1)
    given = {"by": "year", "cache": tmp_path / "cache"}
    alone = streamloss.evaluate(str(tmp_path / "in" / "year=2024"), **given)
    both = streamloss.evaluate(str(tmp_path / "in"), **given)
    assert [each.by for each in alone.slices] == [{"year": 2024}]
    assert [each.by for each in both.slices] == [{"year": "2024"}, {"year": "unknown"}]
    assert both.digest == streamloss.evaluate(str(tmp_path / "in"), by="year").digest


@pytest.mark.parametrize("damage", ["cut", "empty", "edited", "other", "folder"])
def test_damaged_entries_are_measured_again(folder: Path, tmp_path: Path, read: list[str], damage: str) -> None:
    cache = tmp_path / "cache"
    expected = streamloss.evaluate(str(folder), cache=cache).digest
    for path in entries(cache):
        data = path.read_bytes()
        if damage == "folder":
            path.unlink()
            path.mkdir()
        else:
            changed = {
                "cut": data[:-9],
                "empty": b"",
                "edited": data.replace(b'"classes":3', b'"classes":9'),
                "other": b"diary",
            }
            path.write_bytes(changed[damage])
    read.clear()
    if damage == "folder":
        with pytest.warns(NotKept, match="cannot write"):
            assert streamloss.evaluate(str(folder), cache=cache).digest == expected
    else:
        assert streamloss.evaluate(str(folder), cache=cache).digest == expected
        assert len(read) == 3
        read.clear()
        assert streamloss.evaluate(str(folder), cache=cache).digest == expected and read == []


def test_a_whole_state_of_another_part_is_not_taken(folder: Path, tmp_path: Path, read: list[str]) -> None:
    """Whoever copies an entry onto another one is found out by the rows that it says it has."""
    cache = tmp_path / "cache"
    small = stopping.write_rows(tmp_path / "small", rows=100, seed=3)
    streamloss.evaluate(str(folder), cache=cache)
    streamloss.evaluate(str(small), cache=tmp_path / "other")
    for mine, theirs in zip(entries(cache), entries(tmp_path / "other"), strict=True):
        mine.write_bytes(theirs.read_bytes())
    read.clear()
    assert streamloss.evaluate(str(folder), cache=cache).digest == streamloss.evaluate(str(folder)).digest
    assert len(read) == 6


def test_a_folder_that_cannot_be(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StreamlossError, match="cannot make the folder"):
        streamloss.evaluate(str(folder), cache=tmp_path / "file")
    ended = commands.run("evaluate", str(folder), "--cache", str(tmp_path / "file" / "below"))
    assert (ended.exit_code, ended.stdout) == (3, "") and ended.stderr.count("\n") == 1

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(caches, "replacing", full)
    with pytest.warns(NotKept, match="No space left on device; the run goes on"):
        report = streamloss.evaluate(str(folder), cache=tmp_path / "cache")
    assert report.digest == streamloss.evaluate(str(folder)).digest
    assert entries(tmp_path / "cache") == []


def test_a_bad_row_keeps_nothing_of_its_part(folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(folder / "1.parquet")
    pq.write_table(table.set_column(1, "label", pa.array(np.where(np.arange(500) == 321, 7, 1))), folder / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet, row group 0, row 321") as raised:
        streamloss.evaluate(str(folder), cache=tmp_path / "cache")
    assert raised.value.rule == "label_out_of_range"
    assert len(entries(tmp_path / "cache")) < 3


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a cache need files"):
        streamloss.evaluate({"prob": np.array([0.5]), "label": np.array([1])}, cache=tmp_path / "cache")


def test_a_checkpoint_besides(folder: Path, tmp_path: Path, read: list[str]) -> None:
    given = {"cache": tmp_path / "cache", "checkpoint": tmp_path / "c"}
    expected = streamloss.evaluate(str(folder)).digest
    streamloss.evaluate([str(folder / "0.parquet")], cache=tmp_path / "cache")
    read.clear()
    assert streamloss.evaluate(str(folder), **given).digest == expected
    assert sorted(read) == ["1.parquet", "2.parquet"]
    read.clear()
    for _ in range(2):
        assert streamloss.evaluate(str(folder), **given).digest == expected
    assert read == []


def test_several_runs_at_once(folder: Path, tmp_path: Path) -> None:
    """Real processes, over the same files and over others: every digest is right, and so is what they leave."""
    stopping.write_rows(tmp_path / "more", files=6, seed=5)
    cache = tmp_path / "cache"
    inputs = [folder, folder, tmp_path / "more"]
    processes = [
        stopping.begun("evaluate", path, "--cache", cache, "--batch-rows", "50", "-o", tmp_path / f"{i}.json", seconds=0.01)
        for i, path in enumerate(inputs)
    ]
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    for i, path in enumerate(inputs):
        assert json.loads((tmp_path / f"{i}.json").read_text())["digest"] == streamloss.evaluate(str(path)).digest
    assert len(entries(cache)) == 9
    for path in (folder, tmp_path / "more"):
        assert streamloss.evaluate(str(path), cache=cache).run["known_rows"] == 500 * len(list(path.iterdir()))


def test_killed_while_it_writes(folder: Path, tmp_path: Path) -> None:
    """What was measured is there, whole; the rest is read the next time."""
    cache, expected = tmp_path / "cache", streamloss.evaluate(str(folder)).digest
    process = stopping.begun("evaluate", folder, "--cache", cache, "--batch-rows", "20", "--threads", "1", seconds=0.05)
    while not list(cache.rglob("*.state")) and process.poll() is None:
        local.time.sleep(0.005)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -stopping.KILL
    words = ("evaluate", str(folder), "--cache", str(cache), "--format", "json")
    ended = subprocess.run(stopping.command(*words), capture_output=True, text=True, check=True)
    report = json.loads(ended.stdout)
    assert report["digest"] == expected and report["run"]["known_rows"] >= 500
