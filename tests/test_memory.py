"""--max-memory is held: what does not fit is refused with its reason before memory is taken, and no number depends on it."""

from __future__ import annotations

import gc
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import run

import streamloss
from streamloss import memory
from streamloss.growing import extended, gathered, moved_up
from streamloss.memory import CODE, MARGIN, Claim, Exceeded, parse, resident, told
from streamloss.options import Options
from streamloss.reading.source import Input, open_input
from streamloss.running import engines
from streamloss.running.budget import fit
from streamloss.running.parts import measure

DIGITS = Path(__file__).parents[1] / "data" / "digits.parquet"
MB = 10**6


def tight(room: float) -> int:
    """A budget that leaves so many MB to batches, pages and slices."""
    gc.collect()
    memory.give_back()
    return resident() + CODE + MARGIN + int(room * MB)


def sliced(path: Path, rows: int, groups: int, weighted: bool = False) -> Path:
    """Rows of ten logits whose groups come in any order."""
    rng = np.random.default_rng(3)
    table: dict[str, Any] = {
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(rows * 10, dtype=np.float32)), 10),
        "label": rng.integers(0, 10, rows),
        "group": rng.integers(0, groups, rows),
    }
    if weighted:
        table["weight"] = rng.random(rows)
    pq.write_table(pa.table(table), path, row_group_size=rows // 4)
    return path


# ---- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("800MB", 800 * 10**6), ("2GiB", 2 << 30), ("1.5G", 1_500_000_000), ("4096", 4096), ("1e9", 10**9), (" 12 kb ", 12_000),
        ("3k", 3000), ("3Ki", 3072), ("1tib", 1 << 40), ("7B", 7), (123, 123),
    ],
)  # fmt: skip
def test_a_size(text: str | int, size: int) -> None:
    assert parse(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1GB", "0", "1.5X", "1 2", "inf", "nan", "1e40", "GB2", True])
def test_no_size(text: str | int) -> None:
    with pytest.raises(streamloss.UsageError, match="--max-memory is a size"):
        parse(text)
    with pytest.raises(streamloss.UsageError, match="--max-memory is a size"):
        streamloss.evaluate(DIGITS, logits="logits", max_memory=text)


def test_a_wrong_size_is_wrong_usage() -> None:
    assert run("evaluate", str(DIGITS), "--max-memory", "much").exit_code == 2


def test_sizes_for_people() -> None:
    assert [told(n) for n in (789, 4_560, 45_600_000, 1_230_000_000)] == ["789 B", "4.56 kB", "45.6 MB", "1.23 GB"]


# ---- the books


def test_without_a_budget_nothing_is_claimed() -> None:
    claim = Claim("test")
    claim.to(1 << 62, str)
    assert claim.size == memory.held("test") == 0
    assert memory.left() is memory.limit() is memory.allotted() is None


def test_what_is_claimed_is_left_to_nobody_else() -> None:
    with memory.limited(tight(50)):
        claim, other = Claim("test"), Claim("test")
        before = memory.left()
        assert before is not None and before > 40 * MB
        claim.to(30 * MB, str)
        claim.to(20 * MB, str)
        assert memory.held("test") == 20 * MB and memory.left() == before - 20 * MB
        with pytest.raises(Exceeded, match=r"^it does not fit in --max-memory .*: at least .* is needed$"):
            other.to(40 * MB, lambda: "it does not fit")
        assert not other.tried(40 * MB) and other.tried(10 * MB)
        del claim
        other.to(40 * MB, str)
        assert memory.held("test") == 40 * MB
    other.to(1 << 62, str)  # the budget that it stood in is over


def test_of_two_budgets_the_smaller_one_holds() -> None:
    large, small = tight(500), tight(50)
    with memory.limited(large):
        with memory.limited(small):
            assert memory.limit() == small
            assert not Claim("test").tried(100 * MB)
        assert memory.limit() == large
        assert Claim("test").tried(100 * MB)


def test_the_least_that_is_told_is_enough() -> None:
    with memory.limited(tight(50)), pytest.raises(Exceeded) as refused:
        Claim("test").to(200 * MB, str)
    found = re.search(r"at least (.*) is needed", str(refused.value))
    assert found
    with memory.limited(parse(found.group(1)) + 4 * MB):  # pytest takes some too
        Claim("test").to(200 * MB, str)


def test_what_is_resident_counts_whoever_took_it() -> None:
    with memory.limited(tight(60)):
        assert Claim("test").tried(30 * MB)
        mine = np.ones((CODE + 50 * MB) // 8)
        assert not Claim("test").tried(30 * MB)
        del mine
        assert Claim("test").tried(30 * MB)


def test_claims_of_many_threads_are_kept_apart() -> None:
    with memory.limited(tight(100)):
        got: list[Claim] = []

        def work() -> None:
            for _ in range(200):
                claim = Claim("test")
                if claim.tried(MB // 2):
                    got.append(claim)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert memory.held("test") == len(got) * (MB // 2) <= 101 * MB
        got.clear()
        assert memory.held("test") == 0


def test_a_claim_that_travels_holds_nothing() -> None:
    with memory.limited(tight(50)):
        claim = Claim("test")
        claim.to(MB, str)
        assert pickle.loads(pickle.dumps(claim)).size == 0
        assert memory.held("test") == MB


# ---- arrays in their own memory


@pytest.mark.parametrize("shape", [(7,), (1300, 3), (1300, 2, 5), (900, 0, 4), (5, 17)])
def test_rows_are_put_in_order_in_place(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    array = rng.integers(-9, 9, shape)
    pick = rng.permutation(shape[0])[: shape[0] * 2 // 3]
    expected = array[pick]
    assert np.array_equal(gathered(array, pick, last=False), expected)
    assert np.array_equal(gathered(array.copy(), pick, last=True), expected)
    up = np.sort(pick)
    expected = np.concatenate([array[up], np.zeros_like(array[len(up) :])])
    moved_up(array, up)
    assert np.array_equal(array, expected)
    longer = extended(array, 2 * shape[0])
    assert np.array_equal(longer[: shape[0]], expected) and not longer[shape[0] :].any()


# ---- no number depends on it


class Plans:
    """The plans that runs were made with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[int, int]] = []
        run = engines.run

        def spy(source: Input, options: Options, way: engines.Way, *rest: Any) -> engines.Ran:
            self.seen.append((source.plan.batch_rows, way.threads))
            return run(source, options, way, *rest)

        monkeypatch.setattr(engines, "run", spy)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Plans:
    return Plans(monkeypatch)


@pytest.mark.parametrize("reader", ["pages", "arrow"])
def test_small_batches_and_fewer_threads_and_the_same_digest(plans: Plans, tmp_path: Path, reader: Any) -> None:
    file = sliced(tmp_path / "rows.parquet", 200_000, 5)
    free = streamloss.evaluate(file, threads=4, reader=reader)
    held = streamloss.evaluate(file, threads=4, reader=reader, max_memory=tight(45))
    assert held.digest == free.digest
    (rows, threads), (fewer_rows, fewer_threads) = plans.seen
    assert threads == 4 and 1 <= fewer_rows * fewer_threads < rows * threads / 4


def test_slices_and_clusters_under_a_budget(tmp_path: Path) -> None:
    for weighted in (False, True):
        file = sliced(tmp_path / "rows.parquet", 20_000, 300, weighted)
        options = {"by": "group", "cluster": "label", "max_slices": 100, "threads": 2}
        free = streamloss.evaluate(file, **options)
        held = streamloss.evaluate(file, **options, max_memory=tight(400))
        assert held.digest == free.digest


def test_compare_calibrate_and_score_under_a_budget(tmp_path: Path) -> None:
    asked: dict[str, Callable[..., Any]] = {
        "compare": lambda **held: streamloss.compare(DIGITS, probs="mlp_probs", baseline_logits="logits", by="group", **held),
        "calibrate": lambda **held: streamloss.calibrate(DIGITS, logits="logits", temperatures=(1, 2), **held),
    }
    for ask in asked.values():
        free = ask()
        assert ask(max_memory=tight(300)).digest == free.digest
    free = streamloss.score(DIGITS, logits="logits")
    assert streamloss.score(DIGITS, logits="logits", max_memory=tight(200)).equals(free)


def test_a_worker_holds_it_too(tmp_path: Path) -> None:
    file = sliced(tmp_path / "rows.parquet", 4000, 2000)
    free = streamloss.evaluate(file, by="group")
    with ThreadPoolExecutor(2) as workers:
        held = streamloss.evaluate(file, by="group", executor=workers, max_memory=tight(600))
    assert held.digest == free.digest
    options = Options.of(by="group")
    source = open_input(file, options)
    with memory.limited(tight(80)):
        fit([source], options, 1, chosen=False)
    plan = pickle.loads(pickle.dumps(source.plan))
    with pytest.raises(Exceeded, match="slices by 'group' do not fit"):
        measure(tuple(source.parts()), plan, options)
    assert memory.limit() is None


# ---- what does not fit


def test_less_than_it_takes_to_begin() -> None:
    with pytest.raises(Exceeded, match=r"^--max-memory 1 MB is less than streamloss takes before the first row: at least"):
        streamloss.evaluate(DIGITS, logits="logits", max_memory="1MB")
    assert run("evaluate", str(DIGITS), "--logits", "logits", "--max-memory", "1MB").exit_code == 3


def test_one_row_that_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "long.parquet"
    classes = 4_000_000
    z = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * classes, dtype=np.float32)), classes)
    pq.write_table(pa.table({"logits": z, "target_logits": z}), file, compression="zstd")
    with pytest.raises(Exceeded, match=r"^a row takes 32 MB, with what is made of it 96 MB: that does not fit in") as refused:
        streamloss.evaluate(file, max_memory=tight(70))
    found = re.search(r"at least (.*) is needed$", str(refused.value))
    assert found and parse(found.group(1)) > tight(70)


def test_rows_that_were_asked_for_and_do_not_fit(tmp_path: Path) -> None:
    file = sliced(tmp_path / "rows.parquet", 100_000, 5)
    with pytest.raises(Exceeded, match=r"^100000 rows of --batch-rows take 4.8 MB, with what is made of it 33.6 MB"):
        streamloss.evaluate(file, batch_rows=100_000, threads=1, max_memory=tight(40))


@pytest.mark.parametrize("threads", [1, 2])
def test_slices_that_do_not_fit_end_the_run_and_it_is_told_how_many_would(tmp_path: Path, threads: int) -> None:
    file = sliced(tmp_path / "rows.parquet", 40_000, 10_000)
    room = 120
    streamloss.evaluate(file, by="group", threads=threads)  # compiles
    with pytest.raises(Exceeded, match=r"^\d+ slices by 'group' do not fit in --max-memory .*: at least") as refused:
        streamloss.evaluate(file, by="group", threads=threads, max_memory=tight(room))
    found = re.search(r"--max-slices (\d+) would fit", str(refused.value))
    assert found and 100 < int(found.group(1)) < 10_000
    few = {"by": "group", "max_slices": int(found.group(1)), "threads": threads}
    assert streamloss.evaluate(file, **few, max_memory=tight(room)).digest == streamloss.evaluate(file, **few).digest


def big_page(path: Path, rows: int) -> Path:
    """One page of 4 kB a row that hardly takes any of the file."""
    z = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 1000, dtype=np.float32)), 1000)
    table = pa.table({"logits": z, "label": np.zeros(rows, dtype=np.int64)})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, data_page_size=1 << 30, write_batch_size=1 << 30)
    return path


@pytest.mark.parametrize("reader", ["pages", "arrow"])
def test_a_page_that_does_not_fit_is_named(tmp_path: Path, reader: Any) -> None:
    file = big_page(tmp_path / "page.parquet", 60_000)
    free = streamloss.evaluate(file, reader=reader)
    with pytest.raises(
        streamloss.DataError, match=r"page.parquet, row group 0, column 'logits': a page that .* does not fit in"
    ):
        streamloss.evaluate(file, reader=reader, max_memory=tight(100))
    assert streamloss.evaluate(file, reader=reader, max_memory=tight(700)).digest == free.digest


def test_a_footer_that_does_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "footer.parquet"
    with file.open("wb") as out:
        out.write(b"PAR1")
        out.truncate(300 * MB)
        out.seek(0, os.SEEK_END)
        out.write((200 * MB).to_bytes(4, "little") + b"PAR1")
    before = resident()
    with pytest.raises(streamloss.DataError, match=r"footer.parquet: a footer of 200 MB does not fit in"):
        streamloss.evaluate(file, max_memory=tight(100))
    assert resident() < before + 50 * MB


# ---- in a process of its own


# Started by a small process: the peak of a child includes that of its parent at the time of the fork.
SPAWNING = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "streamloss", *sys.argv[1:]], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def spawned(*given: str, **environment: str) -> tuple[int, int, str]:
    """Exit code, peak of resident memory in bytes, and errors of an evaluation."""
    command = [sys.executable, "-c", SPAWNING, "evaluate", "--no-progress", "--format", "json", *given]
    found = subprocess.run(command, text=True, capture_output=True, env=os.environ | environment, timeout=300, check=True)
    code, peak = map(int, found.stdout.split())
    return code, peak, found.stderr


@pytest.fixture
def slices_file(tmp_path: Path) -> Iterator[Path]:
    yield sliced(tmp_path / "rows.parquet", 100_000, 3000)


def test_the_peak_of_the_whole_process_is_held(slices_file: Path) -> None:
    asked = [str(slices_file), "--by", "group", "--threads", "2"]
    assert spawned(*asked)[0] == 0  # which may compile
    for budget, ends in ((620, 0), (380, 3)):
        code, peak, errors = spawned(*asked, "--max-memory", f"{budget}MB")
        assert code == ends, errors
        assert peak <= budget * MB, (peak, errors)
        assert len(errors.strip().splitlines()) == (ends != 0) and "Traceback" not in errors


def test_compiling_that_does_not_fit_is_refused_before_it_begins(tmp_path: Path) -> None:
    code, peak, errors = spawned(
        str(DIGITS), "--logits", "logits", "--label", "label", "--max-memory", "400MB", STREAMLOSS_CACHE_DIR=str(tmp_path)
    )
    assert code == 3 and peak < 400 * MB
    assert re.fullmatch(
        r"streamloss: error: compiling the kernels for this machine, once, does not fit in --max-memory 400 MB: "
        r"at least \d+ MB is needed\n",
        errors,
    )
