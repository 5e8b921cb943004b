"""Parts that others measure: any executor gives the same digest, each part counts once, and failures are told."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import stopping

import streamloss
from streamloss.errors import DataError, UsageError
from streamloss.options import Options
from streamloss.reading.source import open_input
from streamloss.running import parts
from streamloss.running.checkpoint import opened
from streamloss.running.parts import Lost, NoWorkers, Workers, bundled, measure
from streamloss.state import State


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopping.write_rows(tmp_path_factory.mktemp("rows") / "in", files=4)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row group is a part, and every part a bundle of its own."""
    monkeypatch.setattr(parts, "_LEAST_BYTES", 1)
    monkeypatch.setattr(parts, "work_bytes", lambda plan: 1)


class Here(Executor):
    """Does what is submitted at once; `before(parts, number)` may fail, a number is how many were submitted before."""

    def __init__(self, before: Callable[[Any, int], None] = lambda parts, number: None) -> None:
        self.before, self.submitted = before, []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.submitted.append(args[0])
        try:
            self.before(args[0], len(self.submitted) - 1)
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def sizes(path: Path) -> list[int]:
    return [part.rows for part in open_input(str(path), Options()).parts(1)]


@pytest.mark.parametrize(
    "given",
    [{}, {"weight": "w", "by": ["g", "g,who"]}, {"by": "who", "max_slices": 5}, {"cluster": "who"}, {"convention": "torch"}],
)
def test_any_executor_gives_the_same(folder: Path, given: dict[str, Any], tiny: None) -> None:
    expected = streamloss.evaluate(str(folder), **given)
    here = Here()
    with ThreadPoolExecutor(3) as pool:
        for executor in (here, pool):
            report = streamloss.evaluate(str(folder), executor=executor, **given)
            assert report.digest == expected.digest and report.metrics == expected.metrics
            assert report.slices == expected.slices and report.body == expected.body
            assert report.run["engine"] == type(executor).__name__
    assert sum(map(len, here.submitted)) == 16


def test_processes(folder: Path, tiny: None) -> None:
    expected = streamloss.evaluate(str(folder), by="g").digest
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert streamloss.evaluate(str(folder), by="g", executor=pool).digest == expected
        # Errors come back as what they are.
        with pytest.raises(DataError, match="label") as raised:
            streamloss.evaluate(str(folder), label="g", executor=pool)
        assert raised.value.rule == "label_out_of_range" and raised.value.place is not None
        assert raised.value.place.path == str(folder / "0.parquet")


def test_they_come_back_in_any_order(folder: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shuffled(Here):
        """Holds what was submitted and does it in another order."""

        def __init__(self) -> None:
            super().__init__()
            self.held: list[Callable[[], None]] = []
            self.lock, self.rng = threading.Lock(), random.Random(7)

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()

            def do() -> None:
                with self.lock:
                    future.set_result(fn(*args, **kwargs))

            threading.Timer(self.rng.random() / 5, do).start()
            return future

    assert streamloss.evaluate(str(folder), executor=Shuffled()).digest == streamloss.evaluate(str(folder)).digest


def test_what_failed_is_tried_again_and_counted_once(folder: Path, tiny: None) -> None:
    seen: set[Any] = set()

    def once(parts: Any, number: int) -> None:
        if parts not in seen:
            seen.add(parts)
            raise OSError("the network is down")

    executor = Here(once)
    assert streamloss.evaluate(str(folder), executor=executor).digest == streamloss.evaluate(str(folder)).digest
    assert len(executor.submitted) == 2 * 16


def test_a_bundle_that_failed_is_tried_part_by_part(folder: Path) -> None:
    def whole(parts: Any, number: int) -> None:
        if len(parts) > 1:
            raise MemoryError("too much at a time")

    executor = Here(whole)
    assert streamloss.evaluate(str(folder), executor=executor).digest == streamloss.evaluate(str(folder)).digest
    lengths = [len(parts) for parts in executor.submitted]
    assert max(lengths) > 1 and lengths.count(1) == 4


def failing(name: str, error: Exception) -> Callable[[Any, int], None]:
    def fail(parts: Any, number: int) -> None:
        if any(part.path.endswith(name) for part in parts):
            raise error

    return fail


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("no route\nto host"), r"2\.parquet, row group 0, row 0: could not be measured, 3 times: OSError: no route"),
        (DataError("2.parquet: cannot be read: gone"), r"2\.parquet: cannot be read: gone"),
    ],
)
def test_a_part_that_fails_three_times(folder: Path, tmp_path: Path, error: Exception, told: str) -> None:
    """It is told, with its place; the rest is in the checkpoint, and only what failed is left to do."""
    file, executor = tmp_path / "c", Here(failing("2.parquet", error))
    with pytest.raises(DataError, match=rf"{told}; all others are kept in {file}"):
        streamloss.evaluate(str(folder), executor=executor, checkpoint=file)
    assert sum(part.path.endswith("2.parquet") for bundle in executor.submitted for part in bundle) == 3
    assert streamloss.merge([file]).rows["read"] == 1500
    executor = Here()
    report = streamloss.evaluate(str(folder), executor=executor, checkpoint=file)
    assert report.digest == streamloss.evaluate(str(folder)).digest and report.run["known_rows"] == 1500
    assert {part.path for bundle in executor.submitted for part in bundle} == {str(folder / "2.parquet")}


def test_several_parts_that_fail(folder: Path, tmp_path: Path, tiny: None) -> None:
    executor = Here(failing("1.parquet", ValueError("odd")))
    with pytest.raises(DataError, match=r"1\.parquet, row group 0, row 0: could not .*; 3 more parts failed; all others"):
        streamloss.evaluate(str(folder), executor=executor, checkpoint=tmp_path / "c")
    # Without a checkpoint there is no use in going on.
    executor = Here(failing("0.parquet", ValueError("odd")))
    source = open_input(str(folder), Options())
    with pytest.raises(DataError, match=r"0\.parquet, row group 0, row 0: could not"):
        parts.run(source, Options(), Workers(executor, lambda: 2))
    assert not any(part.path.endswith("3.parquet") for bundle in executor.submitted for part in bundle)


def test_the_first_bad_row_is_told_whoever_meets_one(tmp_path: Path, tiny: None) -> None:
    folder = stopping.write_rows(tmp_path / "in", files=3)
    for number, row in ((1, 400), (2, 5)):
        table = pq.read_table(folder / f"{number}.parquet")
        label = np.where(np.arange(500) == row, 9, 1)
        pq.write_table(table.set_column(1, "label", pa.array(label)), folder / f"{number}.parquet", row_group_size=150)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            with pytest.raises(DataError, match=r"1\.parquet, row group 2, row 400") as raised:
                streamloss.evaluate(str(folder), executor=pool, checkpoint=tmp_path / "c")
            assert raised.value.rule == "label_out_of_range"
    executor = Here()
    with pytest.raises(DataError):
        streamloss.evaluate(str(folder), executor=executor)
    assert len(executor.submitted) == len(set(executor.submitted))  # a bad row is bad the second time too


# ---- workers that go away


def test_workers_that_end(folder: Path, tmp_path: Path, tiny: None) -> None:
    file = tmp_path / "c"

    def broken(parts: Any, number: int) -> None:
        if number == 5:
            raise BrokenExecutor("a process ended abruptly")

    with pytest.raises(Lost, match=r"the workers are lost \(a process ended abruptly\)") as raised:
        streamloss.evaluate(str(folder), executor=Here(broken), checkpoint=file, checkpoint_every=1000)
    assert raised.value.exit_code == 3
    kept = streamloss.merge([file]).rows["read"]
    assert 0 < kept < 2000
    report = streamloss.evaluate(str(folder), checkpoint=file)  # on by threads
    assert report.digest == streamloss.evaluate(str(folder)).digest and report.run["known_rows"] == kept


def _die() -> None:
    os._exit(9)


def test_a_process_that_is_killed(folder: Path, tmp_path: Path, tiny: None) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_die)
        with pytest.raises(Lost, match="the workers are lost"):
            streamloss.evaluate(str(folder), executor=pool, checkpoint=tmp_path / "c")
    assert streamloss.evaluate(str(folder), checkpoint=tmp_path / "c").digest == streamloss.evaluate(str(folder)).digest


def test_an_executor_that_was_shut_down(folder: Path) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(Lost, match="cannot schedule new futures after shutdown"):
        streamloss.evaluate(str(folder), executor=pool)


def test_workers_of_another_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "measure", lambda *given: measure(*given)._replace(maker="9.9.9 somebody"))
    with pytest.raises(Lost, match=r"a worker has another streamloss than we \(9\.9\.9 somebody and "):
        streamloss.evaluate(str(folder), executor=Here())


def test_interrupted(folder: Path, tmp_path: Path, tiny: None) -> None:
    file = tmp_path / "c"

    def stop(progress: Any) -> None:
        if progress.rows >= 300:
            raise KeyboardInterrupt

    source = open_input(str(folder), Options())
    with pytest.raises(KeyboardInterrupt), opened(file, source, Options(), every=1000) as checkpoint:
        parts.run(source, Options(), Workers(Here(), lambda: 1), stop, checkpoint)
    kept = streamloss.merge([file]).rows["read"]
    assert 300 <= kept < 2000
    seen: list[Any] = []
    report = streamloss.evaluate(str(folder), executor=Here(), checkpoint=file, progress=seen.append)
    assert report.digest == streamloss.evaluate(str(folder)).digest
    assert {progress.resumed for progress in seen} == {kept}
    assert seen[-1].fraction == 1 and seen[-1].cross_entropy == pytest.approx(report.metrics["cross_entropy"].mean, abs=1e-15)


def test_interrupted_while_a_state_is_added(folder: Path, tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A total that has half of a state is in no checkpoint."""
    file, adds = tmp_path / "c", [0]
    add = parts.Total.add

    def interrupted(self: Any, state: State) -> None:
        adds[0] += 1
        if adds[0] == 4:
            raise KeyboardInterrupt
        add(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(parts.Total, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            streamloss.evaluate(str(folder), executor=Here(), checkpoint=file, checkpoint_every=0)
    assert streamloss.evaluate(str(folder), checkpoint=file).digest == streamloss.evaluate(str(folder)).digest


def test_no_workers_at_first(folder: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are waited for, and that is said."""
    monkeypatch.setattr(parts, "_SLOTS_LOOK", 0.0)
    monkeypatch.setattr(parts, "_PATIENCE", 0.2)
    there = iter([0] * 6 + [2] * 10_000)
    source, options = open_input(str(folder), Options()), Options()
    with pytest.warns(NoWorkers, match="there are no workers; waiting for some to come"):
        state, known = parts.run(source, options, Workers(Here(), lambda: next(there)))
    assert (state.digest, known) == (streamloss.evaluate(str(folder)).digest, 0)


# ---- bundles and usage


def test_bundles_keep_the_order_and_hold_about_so_much(folder: Path) -> None:
    found = open_input(str(folder), Options()).parts(1)
    for most in (1, 5000, 1 << 21, 1 << 40):
        bundles = list(bundled(found, most))
        assert [part for bundle in bundles for part in bundle] == found
        work = [sum(part.bytes + parts.FILE_BYTES for part in bundle) for bundle in bundles]
        assert all(each >= most for each in work[:-1])
        assert all(sum(part.bytes + parts.FILE_BYTES for part in bundle[:-1]) < most for bundle in bundles)


def test_a_part_measured_alone_is_a_part_of_the_whole(folder: Path) -> None:
    """What a worker does, by itself: states of all parts merge to the state of the file."""
    source, options = open_input(str(folder / "1.parquet"), Options()), Options(by=("g",))
    source = open_input(str(folder / "1.parquet"), options)
    found = [State.from_bytes(measure((part,), source.plan, options).states[0]) for part in source.parts(1)]
    assert len(found) == 4
    assert streamloss.state.merge(found).digest == streamloss.evaluate(str(folder / "1.parquet"), by="g").digest


def wrong() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"engine": "spark"}, "--engine is one of local, dask, not 'spark'"
    yield {"scheduler": "tcp://127.0.0.1:1"}, "--scheduler is an address of --engine dask"
    yield {"executor": 7}, r"executor is a concurrent\.futures\.Executor"
    yield {"executor": Here(), "engine": "dask"}, "executor is a .*, and is an engine of its own"


@pytest.mark.parametrize(("given", "pattern"), list(wrong()))
def test_what_makes_no_sense(folder: Path, given: dict[str, Any], pattern: str) -> None:
    with pytest.raises(UsageError, match=pattern):
        streamloss.evaluate(str(folder), **given)


def test_what_is_no_file() -> None:
    with pytest.raises(UsageError, match="workers and a cache need files"):
        streamloss.evaluate({"prob": np.array([0.5]), "label": np.array([1])}, executor=Here())
