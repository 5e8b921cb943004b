"""A way through a file: what every peer is made of."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Means

TOLERANCE = {"streamloss": 1e-12, "double": 1e-9, "single": 1e-5}  # relative
SMALL = 64  # classes up to which a row is too short to be worth a call
CHUNK = 1 << 20  # values of a batch: what stays in the caches


@dataclass(frozen=True)
class Way:
    """A way through the file; `precision` says how near its means have to be."""

    name: str
    work: Callable[[Path], Means]
    precision: str = "double"


Ways = list[Way] | str  # or why there is none


def rows_at_once(case: Case) -> int:
    return max(1, CHUNK // max(1, case.data.classes))


def added(parts: Iterable[dict[str, float]], rows: int) -> Means:
    """The means of `rows` rows from sums over parts of them."""
    sums: Means = {}
    for part in parts:
        for key, value in part.items():
            sums[key] = sums.get(key, 0.0) + float(value)
    return {key: value / rows for key, value in sums.items()}


MISSING = "is not installed"
absent: set[str] = set()


def load(module: str) -> Any:
    """The module, or None, said once, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = {"sklearn": "scikit-learn"}.get(module.partition(".")[0], module)
        if package not in absent:
            absent.add(package)
            print(f"bench: {package} is not installed; `scripts/setup bench` installs it", file=sys.stderr)
        return None
