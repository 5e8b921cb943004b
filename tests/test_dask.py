"""Dask with real processes: a worker that is killed, one that comes late, a part that kills, a scheduler that goes: the same
digest, or a line that says what happened and a checkpoint to go on from.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import stopping

import streamloss
from streamloss.state import State

pytest.importorskip("distributed")

# What workers load before they work: every part takes a while, and some are deadly.
SLOW = """
import os, time
from streamloss.running import parts
def slowed(measure):
    def late(bundle, *given):
        time.sleep({seconds})
        if {deadly!r} and any(part.path.endswith({deadly!r}) for part in bundle):
            os._exit(9)
        return measure(bundle, *given)
    late.__module__, late.__qualname__, late.__name__ = "streamloss.running.parts", "measure", "measure"
    return late
if "late" not in parts.measure.__code__.co_name:  # Dask loads this more than once
    parts.measure = slowed(parts.measure)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are some twenty bundles."""
    return stopping.write_rows(tmp_path_factory.mktemp("rows") / "in", files=40, rows=120)


@pytest.fixture(scope="module")
def digest(folder: Path) -> str:
    return streamloss.evaluate(str(folder), by="g").digest


def preloaded(folder: Path, seconds: float = 0.3, deadly: str = "") -> dict[str, str]:
    """An environment in which Dask's workers are slow."""
    path = folder / "slow.py"
    path.write_text(SLOW.format(seconds=seconds, deadly=deadly))
    return os.environ | {"DASK_DISTRIBUTED__WORKER__PRELOAD": str(path)}


def children(pid: int) -> list[int]:
    """The processes of workers that a process has started: not what keeps track of its resources."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                words = (path / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            if parent == pid and b"spawn_main" in words:
                found.append(int(path.name))
    return found


def rows_in(file: Path) -> int:
    """How many rows a checkpoint has."""
    return int(State.from_bytes(file.read_bytes()).arrays["ledger"].sum()) if file.exists() else 0


def wait_for(what, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)
    return found


@contextmanager
def process(*words: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process of Dask's, that ends with the block."""
    started = subprocess.Popen(
        [sys.executable, "-m", *words], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate(timeout=60)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def scheduler() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address, and the process."""
    port = free_port()
    words = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    with process(*words) as started:
        wait_for(lambda: answers(port) or started.poll() is not None)
        assert started.poll() is None, started.communicate()[1]
        yield f"tcp://127.0.0.1:{port}", started


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def worker(address: str, env: dict[str, str] | None = None):
    words = ("--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1", "--memory-limit", "0")
    return process("distributed.cli.dask_worker", address, *words, env=env)


def evaluated(tmp_path: Path, *words: str | Path) -> tuple[int, str, dict]:
    """Exit code, standard error and report of a run of its own process: what Dask leaves behind ends with it."""
    out = tmp_path / "out.json"
    command = stopping.command("evaluate", *words, "--engine", "dask", "-o", out)
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return ended.returncode, ended.stderr, json.loads(out.read_text()) if ended.returncode == 0 else {}


def test_a_local_cluster_gives_the_same(folder: Path, digest: str, tmp_path: Path) -> None:
    with socket.socket() as taken:  # another cluster has the port of Dask's dashboards
        with suppress(OSError):  # truly
            taken.bind(("", 8787))
            taken.listen()
        code, err, report = evaluated(tmp_path, folder, "--by", "g", "--threads", "2")
    assert (code, err) == (0, f"streamloss: wrote {tmp_path / 'out.json'}\n")  # and nothing of Dask's
    assert report["digest"] == digest and report["run"]["engine"] == "dask"


def test_a_worker_that_is_killed(folder: Path, digest: str, tmp_path: Path) -> None:
    """scripts/survive does this many times."""
    out = tmp_path / "out.json"
    words = ("evaluate", folder, "--by", "g", "--engine", "dask", "--threads", "2", "-o", out, "--progress")
    run = stopping.begun(*words, env=preloaded(tmp_path))
    victims = wait_for(lambda: len(found := children(run.pid)) == 2 and found)
    time.sleep(2.5)  # they are at work by now
    os.kill(victims[0], signal.SIGKILL)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0 and "Traceback" not in err, err
    assert json.loads(out.read_text())["digest"] == digest


def test_interrupted_with_a_cluster(folder: Path, digest: str, tmp_path: Path) -> None:
    file, out = tmp_path / "c", tmp_path / "out.json"
    words = ("evaluate", folder, "--by", "g", "--engine", "dask", "--threads", "2", "--checkpoint", file, "-o", out)
    run = stopping.begun(*words, "--checkpoint-every", "0.2", env=preloaded(tmp_path, 1.5))
    wait_for(lambda: rows_in(file))
    run.terminate()
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130 and err.splitlines()[-1] == "streamloss: error: interrupted" and "Traceback" not in err
    assert wait_for(lambda: not children(run.pid))
    assert 0 < (kept := rows_in(file)) < 4800
    ended = subprocess.run(stopping.command(*words[:4], *words[8:]), check=False)  # on by threads
    report = json.loads(out.read_text())
    assert ended.returncode == 0 and (report["digest"], report["run"]["known_rows"]) == (digest, kept)


def test_workers_that_come_late(folder: Path, digest: str, tmp_path: Path) -> None:
    """There are none at first, then one, then another one, and both have work."""
    out, env = tmp_path / "out.json", preloaded(tmp_path, 0.4)
    with scheduler() as (address, _), ExitStack() as workers:
        words = ("evaluate", folder, "--by", "g", "--engine", "dask", "--scheduler", address, "-o", out)
        run = stopping.begun(*words)
        time.sleep(3)
        assert run.poll() is None
        workers.enter_context(worker(address, env))
        time.sleep(3)
        assert run.poll() is None
        workers.enter_context(worker(address, env))
        _, err = run.communicate(timeout=120)
        assert run.returncode == 0, err
    assert json.loads(out.read_text())["digest"] == digest


def test_a_scheduler_that_goes(folder: Path, digest: str, tmp_path: Path) -> None:
    file = tmp_path / "c"
    with scheduler() as (address, started), worker(address, preloaded(tmp_path, 1.5)):
        words = ("evaluate", folder, "--by", "g", "--checkpoint", file, "--checkpoint-every", "0.1")
        run = stopping.begun(*words, "--engine", "dask", "--scheduler", address)
        wait_for(lambda: rows_in(file))
        started.kill()
        out, err = run.communicate(timeout=120)
    assert (run.returncode, out) == (3, "") and "Traceback" not in err
    assert err.splitlines()[-1].startswith("streamloss: error: the workers are lost"), err
    assert 0 < (kept := rows_in(file)) < 4800
    report = streamloss.evaluate(str(folder), by="g", checkpoint=file)
    assert (report.digest, report.run["known_rows"]) == (digest, kept)


def test_a_part_that_kills_its_workers(folder: Path, digest: str, tmp_path: Path) -> None:
    """Dask gives up on it after some workers; where it is is told, and everything else is kept."""
    file = tmp_path / "c"
    env = preloaded(tmp_path, 0.01, "17.parquet") | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    words = ("evaluate", folder, "--by", "g", "--checkpoint", file, "--engine", "dask", "--threads", "2")
    run = stopping.begun(*words, env=env)
    out, err = run.communicate(timeout=200)
    assert (run.returncode, out) == (3, "") and "Traceback" not in err
    line = err.splitlines()[-1]
    told = f"{folder / '17.parquet'}, row group 0, row 0: could not be measured, 3 times: it ended every worker that tried it"
    assert line == f"streamloss: error: {told}; all others are kept in {file}", err
    report = streamloss.evaluate(str(folder), by="g", checkpoint=file)
    assert report.digest == digest and report.run["known_rows"] == 4800 - 120


def test_nobody_there(folder: Path, tmp_path: Path) -> None:
    for address in (f"tcp://127.0.0.1:{free_port()}", "nonsense://x", "tcp://127.0.0.1:notaport", ""):
        code, err, _ = evaluated(tmp_path, folder, "--scheduler", address)
        assert (code, err) == (3, f"streamloss: error: no Dask scheduler answers at {address}\n")


def test_a_cache_and_dask(folder: Path, digest: str, tmp_path: Path) -> None:
    """What threads have measured workers need not, and the other way round."""
    some, cache = [str(folder / f"{number}.parquet") for number in range(10)], tmp_path / "cache"
    streamloss.evaluate(some, by="g", cache=cache)
    code, err, report = evaluated(tmp_path, folder, "--by", "g", "--cache", cache, "--threads", "1")
    assert code == 0, err
    assert (report["digest"], report["run"]["known_rows"]) == (digest, 1200)
    assert streamloss.evaluate(str(folder), by="g", cache=cache).run["known_rows"] == 4800
