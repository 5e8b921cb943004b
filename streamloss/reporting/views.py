"""What the figures and the web page pick from a report: known metrics, slices by grouping, comparisons and words for them.

Takes the dictionary of the JSON report, or parts of it, and computes no statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from streamloss.reporting import units
from streamloss.reporting.tables import shortened

Report = dict[str, Any]

_COSTS = ("cross_entropy", "kl_divergence", "entropy")  # what slices are ranked by: the first that is known
_HIGHER_IS_BETTER = ("accuracy", "d2", "same_top")
_LOWER_IS_BETTER = (
    *("cross_entropy", "kl_divergence", "reverse_kl_divergence", "js_divergence", "perplexity", "bits_per_byte", "brier"),
    *("focal", "normalized_cross_entropy", "ece", "mce", "rmsce", "adaptive_ece"),
)


@dataclass(frozen=True)
class Slicing:
    """The slices of one grouping, costliest first, what was beyond the cap on slices last; `facts` are of all of them."""

    by: tuple[str, ...]
    slices: list[dict[str, Any]]
    facts: dict[str, Any]

    @property
    def title(self) -> str:
        return " × ".join(plain_text(name) for name in self.by)


def number(value: Any) -> float | None:
    """A number of the JSON as a float, "inf" too; None for what is absent or null."""
    return None if value is None else float(value)


def known(metrics: dict[str, Any], key: str) -> dict[str, Any] | None:
    """A metric, unless it is absent or could not be computed."""
    metric: dict[str, Any] | None = metrics.get(key)
    return metric if metric is not None and metric.get("mean") is not None else None


def finite(metric: dict[str, Any]) -> tuple[float, float | None]:
    """Mean and error, those of the finite rows where a row is infinite."""
    mean = float(metric["mean"])
    if math.isinf(mean) and metric.get("finite_mean") is not None:
        return float(metric["finite_mean"]), number(metric.get("finite_stderr"))
    return mean, number(metric.get("stderr"))


def adds_up(metrics: dict[str, Any]) -> bool:
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


def facts(report: Report) -> list[str]:
    """The rows, the classes, and the weight where it is not that of the rows."""
    rows = report["rows"]
    found = [units.counted(rows["used"], "row")]
    if report.get("classes"):
        found.append(units.counted(report["classes"], "class", "classes"))
    weight = number(report.get("weight"))
    if weight is not None and abs(weight - rows["used"]) > 1e-6 * rows["used"]:
        found.append(f"weight {units.number(weight)}")
    return found


def parts(metrics: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The known quantities' keys: those that have the report's unit, and pure numbers."""
    keys = [key for key in metrics if known(metrics, key)]
    informative = [key for key in keys if metrics[key].get("unit")]
    return informative, [key for key in keys if key not in informative]


def interval(entry: dict[str, Any], percent: bool) -> str:
    """The interval in words; none of an infinite mean, nor of an error of 0, which leaves one of no width."""
    low, high, error = entry.get("low"), entry.get("high"), entry.get("stderr")
    return units.interval(low, high, error, percent=percent) if error and low is not None and high is not None else ""


def run_facts(run: dict[str, Any]) -> list[str]:
    """How long it took, how fast that was, and where."""
    found = []
    if run.get("seconds") is not None:
        found.append(units.duration(run["seconds"]))
    if run.get("rows_per_second"):
        found.append(units.rate(run["rows_per_second"]))
    if run.get("bytes_per_second"):
        found.append(units.throughput(run["bytes_per_second"]))
    found += [units.printable(run[key]) for key in ("device", "engine") if run.get(key)]
    if run.get("threads"):
        found.append(units.counted(run["threads"], "thread"))
    if run.get("compile_seconds", 0) > 0.05:
        found.append(f"{units.duration(run['compile_seconds'])} of compiling before")
    return found


def cost_key(metrics: dict[str, Any]) -> str | None:
    """The metric that slices are ranked by."""
    return next((key for key in _COSTS if known(metrics, key)), None)


def ranked(entries: Iterable[dict[str, Any]], cost: Callable[[dict[str, Any]], float | None]) -> list[dict[str, Any]]:
    """Costliest first; what has no cost stands last, in its order."""
    costs = [(cost(entry), entry) for entry in entries]
    return [entry for _, entry in sorted(costs, key=lambda pair: -math.inf if pair[0] is None else pair[0], reverse=True)]


def cost_of(key: str | None) -> Callable[[dict[str, Any]], float | None]:
    """The mean of that metric in a slice."""
    return lambda entry: number((entry.get("metrics", {}).get(key) or {}).get("mean"))


def slicings(report: Report) -> list[Slicing]:
    """The report's slices by what they were sliced by."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for entry in report.get("slices") or []:
        groups.setdefault(tuple(entry["by"]), []).append(entry)
    facts = {tuple(entry["by"]): entry for entry in report.get("slicing") or []}
    key = cost_key(report["metrics"])
    return [
        Slicing(by, sorted(ranked(entries, cost_of(key)), key=lambda e: bool(e.get("other"))), facts.get(by, {}))
        for by, entries in groups.items()
    ]


def slice_values(entry: dict[str, Any]) -> list[str]:
    """The values that a slice stands for."""
    return [_value_name(value) for value in entry["by"].values()]


def slice_name(entry: dict[str, Any]) -> str:
    """The same as one text."""
    return " · ".join(slice_values(entry))


def _value_name(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return plain_text(value) or "(empty)"


def plain_text(value: object, width: int = 120) -> str:
    """User text as one short line that neither a terminal nor an XML parser stumbles over."""
    text = "".join(f"\\u{ord(c):04x}" if c in "\ufffe\uffff" else c for c in units.printable(value))
    return shortened(text, width)


def classes(report: Report) -> list[dict[str, Any]]:
    """The classes that have rows and a loss, costliest first."""
    found = [entry for entry in report.get("per_class") or [] if entry["rows"] and entry.get("cross_entropy") is not None]
    return ranked(found, lambda entry: number(entry["cross_entropy"]))


def bins(report: Report) -> list[dict[str, Any]]:
    """The bins of the reliability diagram that have rows."""
    return [b for b in report.get("reliability") or [] if b["rows"] and b["confidence"] is not None]


def compared(parts: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The quantities of a comparison whose difference is known."""
    return {key: entry for key, entry in (parts or {}).items() if entry.get("difference") is not None}


def verdict(key: str, entry: dict[str, Any]) -> str:
    """Whether the new model is 'better' or 'worse', 'undecided' where the interval holds 0, '' where neither is meant."""
    low, high = number(entry.get("low")), number(entry.get("high"))
    higher = key in _HIGHER_IS_BETTER or (key.startswith("top") and key.endswith("_accuracy"))
    if low is None or high is None or not (higher or key in _LOWER_IS_BETTER):
        return ""
    if low <= 0 <= high:
        return "undecided"
    return "better" if (low > 0) == higher else "worse"


def difference(entry: dict[str, Any], key: str) -> str:
    """A difference with its sign and error; of two shares in percentage points."""
    text = units.measured(entry["difference"], entry.get("stderr"), percent=units.is_percent(key)).replace(" %", " pp")
    return text if text.startswith("-") or float(entry["difference"]) == 0 else f"+{text}"


def level(q: str) -> str:
    """A quantile's name."""
    return "median" if float(q) == 0.5 else f"{100 * float(q):g} %"


def quantiles(metric: dict[str, Any]) -> list[str]:
    """The levels that a metric has, lowest first."""
    return sorted((q for q, value in (metric.get("quantiles") or {}).items() if value is not None), key=float)


def middle_left_out(count: int, most: int) -> tuple[Sequence[int], Sequence[int]]:
    """The places of the first and the last when there are more than `most` of them: half from either end."""
    if count <= most:
        return range(count), range(0)
    return range(most // 2), range(count - most // 2, count)
