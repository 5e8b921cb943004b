"""Runs that take their time, and what becomes of them when they are stopped: for the tests of going on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# The command line, slowly: every batch takes a while longer.
SLOWLY = """
import sys, time
from streamloss.running.measure import Accumulator
add, seconds = Accumulator.add, float(sys.argv.pop(1))
def late(self, batch):
    time.sleep(seconds)
    add(self, batch)
Accumulator.add = late
from streamloss.cli.main import main
main()
"""


def write_rows(folder: Path, files: int = 3, rows: int = 500, row_group: int = 150, seed: int = 0) -> Path:
    """Some files of three classes, a label, a weight, and columns to slice by; the rows are what seed and file make them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        rng = np.random.default_rng([seed, number])
        z = rng.normal(size=(rows, 3))
        label = z.argmax(axis=1) if number % 2 else rng.integers(0, 3, rows)
        columns = {
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(z.reshape(-1)), 3),
            "label": label,
            "w": rng.integers(0, 4, rows) / 4,
            "g": rng.integers(0, 5, rows),
            "who": [f"u{n}" for n in rng.integers(0, 40, rows)],
        }
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=row_group)
    return folder


def command(*words: str | Path, seconds: float = 0.0) -> list[str]:
    """The command line of a program, whose batches take so many seconds longer each."""
    program = ["-c", SLOWLY, str(seconds)] if seconds else ["-m", "streamloss"]
    return [sys.executable, *program, *map(str, words)]


def begun(*words: str | Path, seconds: float = 0.0, **given: object) -> subprocess.Popen[str]:
    """The same, running."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(*words, seconds=seconds), **(pipes | given))


def stopped(process: subprocess.Popen[str], number: int, when: Path, more: float = 0.0) -> tuple[int, str]:
    """Its exit code and standard error when it gets the signal as soon as a file is there that was not, or has changed."""
    before = when.stat() if when.exists() else None
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        now = when.stat() if when.exists() else None
        if now is not None and (before is None or now.st_mtime_ns != before.st_mtime_ns):
            break
        time.sleep(0.01)
    time.sleep(more)
    if process.poll() is None:
        os.kill(process.pid, number)
    _, err = process.communicate(timeout=120)
    return process.returncode, err


KILL = signal.SIGKILL
