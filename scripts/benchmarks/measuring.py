"""Rounds in which all ways take turns, whether they agree, and how fast the memory is."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case, Means
from benchmarks.peers import PEERS, streamloss_ways
from benchmarks.ways import TOLERANCE, Way


class Disagreement(Exception):
    """A way's mean is too far from NumPy's in float64."""


@dataclass
class Timed:
    """A way, whose it is, and what it took and found."""

    peer: str
    way: Way
    seconds: list[float] = field(default_factory=list)
    means: Means = field(default_factory=dict)
    error: float | None = None  # relative, the largest

    @property
    def best(self) -> float:
        return min(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        return {
            "peer": self.peer,
            "way": self.way.name,
            "precision": self.way.precision if self.means else None,
            "seconds": self.seconds,
            "best": self.best,
            "median": statistics.median(self.seconds),
            "means": self.means,
            "error": self.error,
        }


def agree(name: str, found: Means, expected: Means, precision: str) -> float:
    """The largest relative error of the means that are expected. Raises `Disagreement` past the precision's tolerance."""
    known = [key for key in expected if key in found]
    if not known:
        raise Disagreement(f"{name} gave none of {', '.join(expected)}")
    worst = 0.0
    for key in known:
        error = abs(found[key] - expected[key]) / abs(expected[key])
        if not error <= TOLERANCE[precision]:  # NaN too
            raise Disagreement(f"{name}: {key} is {found[key]!r}, NumPy in float64 says {expected[key]!r}")
        worst = max(worst, error)
    return worst


def ways_of(case: Case, threads: int) -> tuple[list[Timed], dict[str, str]]:
    """All ways through a case's file, and of the peers that have none, why."""
    todo = [Timed("streamloss", way) for way in streamloss_ways(case, threads)]
    reasons = {}
    for peer, (_, ways) in PEERS.items():
        found = ways(case, threads)
        if isinstance(found, str):
            reasons[peer] = found
        else:
            todo += [Timed(peer, way) for way in found]
    return todo, reasons


def measure(todo: list[Timed], small: Path, path: Path, expected: Means, repeat: int, budget: float) -> None:
    """Warm up on the small file, then let the ways take turns, `repeat` rounds or until a way has used its budget.

    What is quick goes through the file itself once more before it counts: streamloss, whose kernels all have to be compiled
    by then, and pyarrow, whose reading brings the file into the page cache. Raises `Disagreement`.
    """
    for each in todo:
        each.way.work(small)
    for each in todo:
        if each.peer in ("streamloss", "decode"):
            each.way.work(path)
    gc.collect()
    gc.freeze()  # or collecting what Python has loaded takes longer than some ways
    for _ in range(repeat):
        for each in todo:
            if each.seconds and sum(each.seconds) + each.best > budget:
                continue
            gc.collect()
            started = time.perf_counter()
            means = each.way.work(path)
            each.seconds.append(time.perf_counter() - started)
            if each.peer != "decode":
                each.means = {key: means[key] for key in expected if key in means}
                each.error = agree(f"{each.peer} ({each.way.name})", means, expected, each.way.precision)
    gc.unfreeze()


def bandwidth(threads: int, size: int = 1 << 30) -> dict[str, float]:
    """GB/s of the memory, the best of five rounds of each: reading, by NumPy's reductions of `size` bytes, a part for each
    thread; and copying, what is read and what is written together.
    """
    source, target = np.ones(size // 8, np.uint64), np.ones(size // 8, np.uint64)
    parts, targets = np.array_split(source, threads), np.array_split(target, threads)
    rates = {"read": 0.0, "copy": 0.0}

    def rate(kind: str, moved: int, work: Callable[[], object]) -> None:
        for _ in range(5):
            started = time.perf_counter()
            work()
            rates[kind] = max(rates[kind], moved / (time.perf_counter() - started) / 1e9)

    with ThreadPoolExecutor(threads) as pool:
        for reduce in (np.bitwise_or.reduce, np.max, np.sum):
            rate("read", source.nbytes, lambda reduce=reduce: list(pool.map(reduce, parts)))
        rate("copy", 2 * source.nbytes, lambda: list(pool.map(np.copyto, targets, parts)))
    return rates


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
