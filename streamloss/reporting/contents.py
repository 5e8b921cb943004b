"""What a report holds, picked and in the order in which it is shown, whoever shows it, from the dictionary of SPEC §8.

Pure functions that compute no statistics. What is said of it is in `wording`, its tables are in `columns`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Report = dict[str, Any]
Metric = dict[str, Any]
Metrics = dict[str, Metric]

_COSTS = ("cross_entropy", "kl_divergence", "entropy")  # what slices are ranked by: the first that one of them knows
_COMPARED = ("new", "old", "difference", "ratio")


@dataclass(frozen=True)
class Slicing:
    """The slices of one --by, costliest first by the metric `key`, what was beyond the limit on slices last.

    `key` is None where no slice knows a cost; `facts` are of all the slices.
    """

    by: tuple[str, ...]
    slices: list[dict[str, Any]]
    facts: dict[str, Any]
    key: str | None


def number(value: Any) -> float | None:
    """A number of the JSON as a float, "inf" too; None for what is absent or null."""
    return None if value is None else float(value)


def known(metrics: Metrics, key: str | None) -> Metric | None:
    """A metric, unless it is absent or could not be computed."""
    metric = metrics.get(key or "")
    return metric if metric is not None and metric.get("mean") is not None else None


def finite(metric: Metric) -> tuple[float, float | None]:
    """Mean and error, those of the finite rows where a row is infinite."""
    mean = float(metric["mean"])
    if math.isinf(mean) and metric.get("finite_mean") is not None:
        return float(metric["finite_mean"]), number(metric.get("finite_stderr"))
    return mean, number(metric.get("stderr"))


def adds_up(metrics: Metrics) -> bool:
    """Whether cross-entropy = target entropy + KL divergence is about the same two distributions here.

    In a comparison the KL divergence may be that of the two models.
    """
    parts = [known(metrics, key) for key in ("cross_entropy", "target_entropy", "kl_divergence")]
    if any(part is None for part in parts):
        return False
    total, floor, divergence = (finite(part)[0] for part in parts if part is not None)
    return math.isfinite(total) and abs(total - floor - divergence) <= 1e-9 * max(1.0, total)


def confidence(report: Report) -> float:
    """The level of the report's intervals."""
    return float((report.get("options") or {}).get("confidence", 0.95))


def has_weight(part: dict[str, Any]) -> bool:
    """Whether the weight of a report or a slice says more than its rows do."""
    weight, used = number(part.get("weight")), part["rows"]["used"]
    return weight is not None and abs(weight - used) > 1e-6 * used


def sections(metrics: Metrics) -> list[list[str]]:
    """The known quantities' keys: those that have the report's unit, and pure numbers; none of them empty."""
    keys = [key for key in metrics if known(metrics, key)]
    informative = [key for key in keys if metrics[key].get("unit")]
    return [part for part in (informative, [key for key in keys if key not in informative]) if part]


def levels(metrics: Iterable[Metric]) -> list[str]:
    """The quantiles that any of the metrics has, lowest first."""
    return sorted({q for metric in metrics for q, v in (metric.get("quantiles") or {}).items() if v is not None}, key=float)


def compared(part: dict[str, Any]) -> Metrics:
    """The quantities of a comparison, of a report or a slice, of which there is something to tell."""
    pairs = part.get("comparison") or {}
    return {key: pair for key, pair in pairs.items() if any(pair.get(name) is not None for name in _COMPARED)}


def baseline(part: dict[str, Any]) -> Metrics:
    """The old model's metrics."""
    return (part.get("baseline") or {}).get("metrics") or {}


def conventions(report: Report) -> list[tuple[str, str, dict[str, Any]]]:
    """The numbers of other tools: the tool, the quantity's key and what is said of it."""
    return [(tool, key, v) for tool, values in (report.get("conventions") or {}).items() for key, v in values.items()]


def slicings(report: Report) -> list[Slicing]:
    """The report's slices by what they were sliced by."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for entry in report.get("slices") or []:
        groups.setdefault(tuple(entry["by"]), []).append(entry)
    facts = {tuple(entry["by"]): entry for entry in report.get("slicing") or []}
    return [_slicing(by, groups.get(by, []), facts.get(by, {})) for by in dict.fromkeys((*facts, *groups))]


def _slicing(by: tuple[str, ...], entries: list[dict[str, Any]], facts: dict[str, Any]) -> Slicing:
    key = next((key for key in _COSTS if any(known(entry["metrics"], key) for entry in entries)), None)
    ranked = _ranked(entries, lambda entry: (known(entry["metrics"], key) or {}).get("mean"))
    return Slicing(by, sorted(ranked, key=lambda entry: bool(entry.get("other"))), facts, key)


def _ranked(entries: Iterable[dict[str, Any]], cost: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """Costliest first; what has no cost stands last, in its order."""
    costs = [(number(cost(entry)), entry) for entry in entries]
    return [entry for _, entry in sorted(costs, key=lambda pair: -math.inf if pair[0] is None else pair[0], reverse=True)]


def classes(report: Report) -> list[dict[str, Any]]:
    """The classes that have rows and a loss, costliest first."""
    found = [entry for entry in report.get("per_class") or [] if entry["rows"] and entry.get("cross_entropy") is not None]
    return _ranked(found, lambda entry: entry["cross_entropy"])


def bins(report: Report) -> list[dict[str, Any]]:
    """The bins of the reliability diagram that have rows."""
    return [b for b in report.get("reliability") or [] if b["rows"] and b["confidence"] is not None]


def fullest(found: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """So many of the bins, those that have the most rows, in their order."""
    if len(found) <= most:
        return found
    least = sorted((b["rows"] for b in found), reverse=True)[most - 1]
    return [b for b in found if b["rows"] >= least][:most]
