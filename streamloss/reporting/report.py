"""What an evaluation found, as typed records and as the JSON-ready dict of SPEC §8 that every renderer is fed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from streamloss.comparison import Comparison
from streamloss.slices import Value
from streamloss.state import State

SCHEMA = "streamloss.report/1"


@dataclass(frozen=True)
class Metric:
    """One quantity of a report, in the report's unit. What does not apply is None.

    `mean` is infinite when `infinite` rows are: it has no error and no interval then, and `finite_mean` and `finite_stderr`
    say what the other rows give, and `edge`, of the cross-entropy of all rows, what the mean would be under somebody's eps (see
    `conventions.edge`). `reason` says why a mean is None.
    """

    key: str
    title: str
    unit: str
    mean: float | None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    min: float | None = None
    max: float | None = None
    infinite: int | None = None
    finite_mean: float | None = None
    finite_stderr: float | None = None
    quantiles: dict[str, float] | None = None
    edge: dict[str, Any] | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The metric's part of the JSON report; infinities are the strings "inf" and "-inf"."""
        shape: dict[str, Any] = {"mean": self.mean}
        if self.reason is not None:
            shape["reason"] = self.reason
        for name in ("stderr", "low", "high", "min", "max", "infinite", "finite_mean", "finite_stderr", "quantiles", "edge"):
            if (value := getattr(self, name)) is not None:
                shape[name] = value
        return {**plain(shape), "title": self.title, "unit": self.unit}


def plain(value: Any) -> Any:
    """JSON's own values: infinities as strings, through lists and dicts."""
    if type(value) in (int, str):  # nearly all of them
        return value
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


@dataclass(frozen=True)
class SliceReport:
    """The rows with the same values in the columns `by`, or with `other` those of the slices beyond the cap."""

    by: dict[str, Value]
    rows: dict[str, int]
    weight: float
    metrics: dict[str, Metric]
    other: bool = False
    more: dict[str, Any] = field(default_factory=dict)  # of a comparison: baseline, comparison; of a sweep: temperature

    def to_dict(self) -> dict[str, Any]:
        """The slice's part of the JSON report."""
        shape: dict[str, Any] = {"by": self.by, "rows": self.rows, "weight": plain(self.weight)}
        shape["metrics"] = {key: metric.to_dict() for key, metric in self.metrics.items()}
        return shape | self.more | ({"other": True} if self.other else {})


@dataclass(frozen=True)
class Report:
    """What an evaluation found. `to_dict()` is the JSON report; `state` merges with others of the same definition.

    `gates` are what became of the rules of `fail_if`, as in the JSON report: `rule`, `value`, and `outcome`, which is pass,
    fail or undecided.
    """

    metrics: dict[str, Metric]
    digest: str
    rows: dict[str, int]
    state: State | Comparison
    command: str = "evaluate"
    run: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    slices: list[SliceReport] = field(default_factory=list)
    gates: tuple[dict[str, Any], ...] = ()

    def to_dict(self, *, histograms: bool = False) -> dict[str, Any]:
        """The report of SPEC §8, JSON-ready: `json.dumps(report.to_dict(), allow_nan=False)` works.

        `histograms` adds those of the losses, which the figures are drawn from (see `reporting.histograms`).
        """
        from streamloss import __version__

        return {
            "schema": SCHEMA,
            "version": __version__,
            "command": self.command,
            **{k: self.body[k] for k in ("unit", "classes")},
            "digest": self.digest,
            "rows": self.rows,
            **{k: self.body[k] for k in ("weight", "ledger")},
            "metrics": {key: metric.to_dict() for key, metric in self.metrics.items()},
            **{k: self.body[k] for k in ("baseline", "comparison") if k in self.body},
            **{k: self.body[k] for k in ("conventions", "reliability", "per_class")},
            **{k: self.body[k] for k in ("temperature",) if k in self.body},
            **({"histograms": self.histograms} if histograms else {}),
            "slices": [each.to_dict() for each in self.slices],
            "slicing": self.body["slicing"],
            "gates": list(self.gates),
            **{k: self.body[k] for k in ("inputs", "options")},
            "run": self.run,
        }

    @property
    def histograms(self) -> dict[str, Any]:
        """Those of the losses and entropies, by key; none of a comparison."""
        found: dict[str, Any] = self.body["histograms"]
        return found

    def to_json(self, indent: int | None = None) -> str:
        """Strict JSON of `to_dict`."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)
