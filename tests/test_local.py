"""The local engine: who reads and adds up what changes no bit, the first error of the input is told, and every thread ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamloss
from streamloss.errors import DataError
from streamloss.options import Options
from streamloss.reading.source import open_input
from streamloss.running import local
from streamloss.running.measure import Accumulator

N = 400
BAD = -1.0  # no probability


@pytest.fixture
def p() -> np.ndarray:
    return np.random.default_rng(0).random(N)


def write(path: Path, p: np.ndarray, row_group: int = N) -> str:
    label = np.arange(len(p)) % 2
    pq.write_table(pa.table({"prob": p, "label": label}), path, row_group_size=row_group, use_dictionary=False)
    return str(path)


def patched(monkeypatch: pytest.MonkeyPatch, before: Any) -> None:
    """Has `before(batch)` called ahead of every batch that is added."""
    add = Accumulator.add

    def late(self: Accumulator, batch: Any) -> None:
        before(batch)
        add(self, batch)

    monkeypatch.setattr(Accumulator, "add", late)


def in_parts(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Has every row group stand for a part of its own."""
    monkeypatch.setattr(local.Input, "parts", lambda self, parts=local.Input.parts, **given: parts(self, rows, **given))


def test_threads_add_up_batches_of_one_part(tmp_path: Path, p: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "one.parquet", p)
    expected = streamloss.evaluate(path, threads=1).digest
    both = threading.Barrier(2, timeout=30)  # it opens when two threads are there
    patched(monkeypatch, lambda batch: both.wait())
    assert streamloss.evaluate(path, threads=2, batch_rows=N // 4).digest == expected


def test_threads_read_parts_at_once(tmp_path: Path, p: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "parts.parquet", p, row_group=N // 4)
    expected = streamloss.evaluate(path, threads=1).digest
    in_parts(monkeypatch, 1)
    both, read_part = threading.Barrier(2, timeout=30), local.read_part

    def late(part: Any, plan: Any, helpers: Any) -> Any:
        both.wait()
        yield from read_part(part, plan, helpers)

    monkeypatch.setattr(local, "read_part", late)
    assert streamloss.evaluate(path, threads=2).digest == expected


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [1, 90, None])
def test_whatever_the_threads(threads: int, rows: int | None, tmp_path: Path, p: np.ndarray) -> None:
    path = write(tmp_path / "one.parquet", p)
    table = pq.read_table(path)
    expected = streamloss.Evaluator(threads=1).update(table).state().digest
    assert streamloss.evaluate(path, threads=threads, batch_rows=rows).digest == expected
    assert streamloss.evaluate(table, threads=threads, batch_rows=rows).digest == expected  # a stream: shared out as one part


@pytest.mark.parametrize("last", [100, 200])
@pytest.mark.parametrize("parts", [1, 4])
def test_the_first_bad_row_is_told_whichever_is_met_before(
    parts: int, last: int, tmp_path: Path, p: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    p[[130, 230, 330]] = BAD
    path = write(tmp_path / "bad.parquet", p, row_group=N // parts)
    in_parts(monkeypatch, 1)
    met = threading.Event()

    def before(batch: Any) -> None:
        if batch.first_row == last:
            assert met.wait(timeout=30)  # until another bad row was met

    patched(monkeypatch, before)
    fail = local._Work._fail

    def failed(self: Any, place: Any, error: BaseException) -> None:
        fail(self, place, error)
        met.set()

    monkeypatch.setattr(local._Work, "_fail", failed)
    with pytest.raises(DataError) as caught:
        streamloss.evaluate(path, threads=3, batch_rows=100)
    assert caught.value.place is not None
    assert caught.value.place.row == 130


def test_nothing_is_read_behind_an_error(tmp_path: Path, p: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    p[0] = BAD
    path = write(tmp_path / "bad.parquet", p, row_group=N // 4)
    in_parts(monkeypatch, 1)
    begun, closed, read_part = [], [], local.read_part

    def watched(part: Any, plan: Any, helpers: Any) -> Any:
        begun.append(part)
        try:
            yield from read_part(part, plan, helpers)
        finally:
            closed.append(part)

    monkeypatch.setattr(local, "read_part", watched)
    batches: list[int] = []
    patched(monkeypatch, lambda batch: batches.append(batch.first_row))
    with pytest.raises(DataError, match="negative probability"):
        streamloss.evaluate(path, threads=1, batch_rows=1)
    assert batches == [0]
    assert len(begun) == len(closed) == 1


def test_an_interrupted_run_leaves_no_thread(tmp_path: Path, p: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "slow.parquet", p)
    patched(monkeypatch, lambda batch: time.sleep(0.02))
    seen: list[Any] = []

    def interrupt(progress: Any) -> None:
        seen.append(progress)
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        streamloss.evaluate(path, threads=2, batch_rows=1, progress=interrupt)
    assert set(threading.enumerate()) <= before
    assert 0 < seen[0].rows < N
    assert seen[0].total_rows == N


def test_the_watcher_is_told_the_loss_so_far(tmp_path: Path, p: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    p[:] = 0.25  # and as many labels of 1 as of 0
    path, read_part = write(tmp_path / "slow.parquet", p), local.read_part

    def slow(*args: Any) -> Any:
        for batch in read_part(*args):
            time.sleep(0.04)
            yield batch

    monkeypatch.setattr(local, "read_part", slow)
    seen: list[Any] = []
    streamloss.evaluate(path, threads=2, batch_rows=20, progress=seen.append)
    assert len(seen) > 2
    assert [look.rows for look in seen] == sorted(look.rows for look in seen)
    middle = next(look for look in seen if look.rows)
    assert middle.rows % 20 == 0
    assert middle.cross_entropy == pytest.approx(-(np.log(0.25) + np.log(0.75)) / 2, rel=1e-12)


def test_who_waits_for_a_turn_does_what_was_submitted() -> None:
    turns, run = local._Turns(), local._Run(0, lambda: iter(()))
    done: list[int] = []
    waiting = threading.Event()

    def wait() -> None:
        waiting.set()
        with turns.turn(run):
            done.append(-1)

    thread = threading.Thread(target=wait)
    with turns.turn(run):
        thread.start()
        assert waiting.wait(timeout=30)
        assert turns.submit(threading.get_ident).result(timeout=30) == thread.ident
        failed = turns.submit(divmod, 1, 0)
        assert isinstance(failed.exception(timeout=30), ZeroDivisionError)
        assert done == []
    thread.join(timeout=30)
    assert done == [-1]
    left, cancelled = turns.submit(done.append, 1), turns.submit(done.append, 2)
    assert cancelled.cancel()
    with turns.turn(run):  # nobody waits, so nobody works
        assert not left.done()
    assert done == [-1]


def test_cancelled_tasks_hold_no_memory() -> None:
    """A reader that nobody waits for does all tasks itself, and cancels them."""
    turns, kept = local._Turns(), []
    for _ in range(100):
        page = np.zeros(10)
        kept.append(weakref.ref(page))
        assert turns.submit(page.sum).cancel()
        del page
    assert sum(page() is not None for page in kept) < 3


def test_pages_are_decompressed_by_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.random.default_rng(1).normal(size=(400, 3000)).astype(np.float32)
    path = str(tmp_path / "one.parquet")
    streamloss.write_predictions(path, z, np.arange(400) % 3000, compression="zstd", row_group_rows=400)
    tasks: list[Any] = []
    do = local._Turns._do

    def seen(future: Any, task: Any) -> None:
        tasks.append(task)
        do(future, task)

    monkeypatch.setattr(local._Turns, "_do", staticmethod(seen))
    patched(monkeypatch, lambda batch: time.sleep(0.01 if batch.first_row % 200 else 0))
    assert streamloss.evaluate(path, threads=3, batch_rows=100).digest == streamloss.evaluate(path, threads=1).digest
    assert tasks


def test_shares_add_up_to_the_whole(p: np.ndarray) -> None:
    source = open_input({"prob": p, "label": np.arange(N) % 2}, Options())
    whole, alone = Accumulator(source.task, Options(), 3), Accumulator(source.task, Options(), 1)
    shares = whole.shares()
    for i, batch in enumerate(batch.rows(at, at + 50) for batch in source.stream() for at in range(0, N, 50)):
        shares[i % 3].add(batch)
        alone.add(batch)
    for share in shares:
        share.settle()
    assert whole.state().digest == alone.state().digest


PROGRAM = """
import sys, numba, streamloss
print(streamloss.evaluate(sys.argv[1], threads=2, batch_rows=20).digest, numba.threading_layer())
"""


def test_numbas_layer_that_only_one_thread_may_enter(tmp_path: Path, p: np.ndarray) -> None:
    """workqueue, which Numba has everywhere, ends the process when two threads are in kernels at once."""
    path = write(tmp_path / "one.parquet", p, row_group=50)
    environment = os.environ | {"NUMBA_THREADING_LAYER": "workqueue"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [streamloss.evaluate(path, threads=1).digest, "workqueue"]
