"""The report as one tidy table in CSV, for spreadsheets and data frames: a row for every number with its error and interval.

RFC 4180 in UTF-8. Numbers have all their digits (the shortest that give back the same float64) and infinity is `inf`; what
does not apply is empty. Text that a spreadsheet would take for a formula gets a leading apostrophe; numbers never do.
`scope` says what a row is about:

all                     a metric of all rows
baseline                the same of the old model
comparison              new and old: `item` is new, old, difference (the rows' extremes and quantiles too), ratio, correlation
convention              what another tool (`item`) says; convention_difference is that minus the exact value, `reason` why
edge                    the rows of infinite loss: their share of the weight, and the mean with `item` in the place of 0
slice                   a metric of the slice in `slice`; rows of baseline, comparison and rows may name a slice too
macro                   a mean over the slices by the columns in `slice`, each counting alike
slicing                 how many slices by these columns there are: `item` is found, shown, small or other
class                   a mean over the rows of the class in `item`
temperature             a mean at the temperature in `item`; of the slice in `slice`, if any
reliability             mean confidence and accuracy of the rows whose confidence is above bin_low, up to bin_high
gate                    the rule in `item`, its value and its outcome
rows, ledger            rows read, used, ignored, invalid; rows by rule
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from streamloss.reporting.contents import Metrics, Report, baseline, conventions
from streamloss.reporting.names import slice_name

_OF_A_METRIC = ("mean", "stderr", "low", "high", "min", "max", "infinite", "finite_mean", "finite_stderr")
_ERRORS = ("stderr", "low", "high")
# What a comparison holds: whether it is a number without the metric's unit, and where its error and its interval stand.
_COMPARED: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("new", False, ()),
    ("old", False, ()),
    ("difference", False, _ERRORS),
    ("ratio", True, ("ratio_stderr", "ratio_low", "ratio_high")),
    ("correlation", True, ()),
)
_TEXT = ("scope", "slice", "item", "metric", "unit", "outcome", "reason", "digest")
_BEFORE = ("scope", "slice", "item", "metric", "unit", *_OF_A_METRIC, "rows", "weight", "slices", "bin_low", "bin_high")
_AFTER = ("outcome", "reason", "digest")  # and the quantiles between
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Row = dict[str, Any]


def encode(report: Report) -> bytes:
    """The report (the dictionary of SPEC §8) as CSV."""
    rows = [*_rows(report)]
    levels = sorted({name for row in rows for name in row if name.startswith("q")}, key=lambda name: float(name[1:]))
    columns = (*_BEFORE, *levels, *_AFTER)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        row["digest"] = report.get("digest")
        writer.writerow([_text(row.get(name)) if name in _TEXT else _number(row.get(name)) for name in columns])
    return buffer.getvalue().encode("utf-8", errors="backslashreplace")


def _text(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _number(value: float | str | None) -> str:
    """All digits; an infinity is a text already, as in the JSON."""
    return "" if value is None else value if isinstance(value, str) else repr(value)


def _rows(report: Report) -> Iterator[Row]:
    yield from _part(report, "all", "")
    for entry in report.get("slicing") or []:
        yield from _slicing(entry)
    for part in report.get("slices") or []:
        yield from _part(part, "slice", slice_name(part["by"].items(), bool(part.get("other"))))
    yield from _conventions(report)
    for entry in report.get("per_class") or []:
        about = {"scope": "class", "item": entry["class"], "rows": entry["rows"]}
        for key in entry:
            if key not in ("class", "rows"):
                yield about | _named(key, report["metrics"]) | {"mean": entry[key]}
    for entry in report.get("reliability") or []:
        about = {"scope": "reliability", "bin_low": entry["low"], "bin_high": entry["high"], "rows": entry["rows"]}
        for key in ("confidence", "accuracy"):
            yield about | {"metric": key, "mean": entry[key]}
    for entry in report.get("gates") or []:
        about = {"scope": "gate", "item": entry["rule"], "mean": entry.get("value")}
        yield about | {"outcome": entry["outcome"], "reason": entry.get("reason")}
    for key, rows in (report.get("ledger") or {}).items():
        yield {"scope": "ledger", "metric": key, "rows": rows}


def _part(part: dict[str, Any], scope: str, name: str) -> Iterator[Row]:
    """What a report and a slice have alike: metrics, the old model's, their comparison, the counts of rows."""
    about = {"scope": scope, "slice": name, "rows": part["rows"]["used"], "weight": part.get("weight")}
    yield from _metrics(part["metrics"], about)
    yield from _metrics(baseline(part), about | {"scope": "baseline"})
    for key, pair in (part.get("comparison") or {}).items():
        named = about | {"scope": "comparison"} | _named(key, part["comparison"])
        for item, pure, fields in _COMPARED:
            if pair.get(item) is not None:
                errors = {name: pair.get(field) for name, field in zip(_ERRORS, fields, strict=False)}
                rows = _spread(pair) if item == "difference" else {}
                yield named | ({"unit": ""} if pure else {}) | {"item": item, "mean": pair[item]} | errors | rows
        if pair.get("reason"):
            yield named | {"item": "difference", "reason": pair["reason"]}
    for point in (part.get("temperature") or {}).get("curve") or []:
        for key in ("cross_entropy", "entropy_gap", "ece"):
            if key in point:
                errors = {"stderr": point["stderr"], "finite_mean": point.get("finite_mean")} if key == "cross_entropy" else {}
                unit = "" if key == "ece" else (part["metrics"].get("temperature_gain") or {}).get("unit")
                at_t = {"scope": "temperature", "slice": name, "item": point["temperature"], "metric": key, "unit": unit}
                yield at_t | {"mean": point[key]} | errors
    for key, rows in part["rows"].items():
        yield {"scope": "rows", "slice": name, "metric": key, "rows": rows}


def _metrics(metrics: Metrics, about: Row) -> Iterator[Row]:
    for key, metric in metrics.items():
        fields = {field: metric.get(field) for field in (*_OF_A_METRIC, "reason")}
        yield about | _named(key, metrics) | fields | _spread(metric)
        if edge := metric.get("edge"):
            named = {"slice": about["slice"], "rows": edge["rows"]} | _named(key, metrics)
            yield named | {"scope": "edge", "item": "weight share", "unit": "", "mean": edge["weight_share"]}
            for name, mean in (edge.get("at") or {}).items():
                yield named | {"scope": "edge", "item": name, "mean": mean}


def _spread(entry: dict[str, Any]) -> Row:
    """The extremes and the quantiles of the rows."""
    quantiles = {f"q{level}": value for level, value in (entry.get("quantiles") or {}).items()}
    return {"min": entry.get("min"), "max": entry.get("max")} | quantiles


def _named(key: str, metrics: Metrics) -> Row:
    return {"metric": key, "unit": (metrics.get(key) or {}).get("unit")}


def _slicing(entry: dict[str, Any]) -> Iterator[Row]:
    """The slices by some columns: how many there are, and the means over them."""
    about = {"scope": "slicing", "slice": ", ".join(entry["by"])}
    yield about | {"item": "found", "slices": entry.get("slices")}
    yield about | {"item": "shown", "slices": entry.get("shown")}
    for item in ("small", "other"):
        counts = entry.get(item) or {}
        yield about | {"item": item, "slices": counts.get("slices"), "rows": counts.get("rows")}
    for key, metric in (entry.get("macro") or {}).items():
        yield (
            about
            | {"scope": "macro"}
            | _named(key, entry["macro"])
            | {field: metric.get(field) for field in ("mean", "slices", "reason")}
        )


def _conventions(report: Report) -> Iterator[Row]:
    for tool, key, value in conventions(report):
        about = {
            "item": tool,
            **_named(key, report["metrics"] if key in report["metrics"] else {key: value}),
            "reason": value.get("cause") or value.get("reason"),
        }
        yield about | {"scope": "convention", "mean": value.get("value")}
        if value.get("difference") is not None:
            yield about | {"scope": "convention_difference", "mean": value["difference"]}
