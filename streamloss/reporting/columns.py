"""The tables of a report as columns of text, whoever draws them, from the dictionary of SPEC §8.

Pure functions that compute no statistics: what is shown, in which order, with which digits. Cells of the user's text are
`units.Given`. A column that is empty is for the drawer to leave out, and so are those of a high rank where room is scarce.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamloss.reporting import units, wording
from streamloss.reporting.wording import Metrics, Report

_MOST_BINS = 20
# What the table of slices shows of the metrics there are, after the cross-entropy, which it is sorted by.
_OF_A_SLICE = ("kl_divergence", "accuracy", "same_top", "entropy", "brier", "ece")
_MOST_OF_A_SLICE = 6  # metrics, when none of these is there


@dataclass(frozen=True)
class Column:
    """A column of a table; those of the lowest `rank` stay longest when the width runs out."""

    head: str
    cells: list[str]
    rank: int
    right: bool = True


@dataclass(frozen=True)
class Slices:
    """The slices of one --by: a title that the names in `by` end, facts, their table, the means over them."""

    title: str
    by: list[str]
    facts: list[str]
    table: list[Column]
    macro: list[Column]


def sections(report: Report, metrics: Metrics) -> list[tuple[str, list[str]]]:
    """The quantities in two tables, heads with keys: those that have the report's unit, and pure numbers."""
    keys = [key for key, metric in metrics.items() if metric.get("mean") is not None]
    informative = [key for key in keys if metrics[key].get("unit")]
    found = [(f"in {report['unit']}", informative), ("", [key for key in keys if key not in informative])]
    return [(head, chosen) for head, chosen in found if chosen]


def quantities(report: Report, metrics: Metrics, head: str, keys: Sequence[str]) -> list[Column]:
    """Means, errors, intervals, extremes and quantiles of the quantities."""
    rows = [(key, metrics[key]) for key in keys]
    percent = [units.is_percent(key) for key in keys]

    def column(cell: Callable[[dict[str, Any], bool], str]) -> list[str]:
        return [cell(metric, p) for (_, metric), p in zip(rows, percent, strict=True)]

    def plain(field: str) -> Callable[[dict[str, Any], bool], str]:
        # The extremes of what is 0 or 1 in every row say nothing; such quantities have no quantiles either.
        return lambda m, p: units.number(m[field], percent=p, digits=3) if m.get("quantiles") else ""

    def quantile(q: str) -> Callable[[dict[str, Any], bool], str]:
        return lambda m, p: units.number(m["quantiles"][q], percent=p, digits=3) if _has_quantile(m, q) else ""

    levels = sorted({q for _, m in rows for q in m.get("quantiles") or {}}, key=float)
    return [
        Column(head, [m.get("title", key) for key, m in rows], 0, right=False),
        Column("mean ± error", column(lambda m, p: units.measured(m["mean"], m.get("stderr"), percent=p)), 1),
        Column(_interval_head(report), column(_interval), 2),
        Column("min", column(plain("min")), 5),
        *(
            Column("median" if q == "0.5" else f"{100 * float(q):g} %", column(quantile(q)), _quantile_rank(q, levels))
            for q in levels
        ),
        Column("max", column(plain("max")), 4),
    ]


def _quantile_rank(level: str, levels: Sequence[str]) -> int:
    """The median first, then from the tails inwards."""
    i = levels.index(level)
    return 3 if level == "0.5" else 6 + min(i, len(levels) - 1 - i)


def _has_quantile(metric: dict[str, Any], level: str) -> bool:
    return (metric.get("quantiles") or {}).get(level) is not None


def _interval_head(report: Report) -> str:
    return f"{100 * (report.get('options') or {}).get('confidence', 0.95):g} % interval"


def _interval(metric: dict[str, Any], percent: bool) -> str:
    low, high, error = metric.get("low"), metric.get("high"), metric.get("stderr")
    # An infinite mean has no interval; an error of 0 leaves one of no width.
    if low is None or high is None or not error or math.isinf(float(metric["mean"])):
        return ""
    return units.interval(low, high, error, percent=percent)


def comparison(report: Report) -> list[Column]:
    """The new model beside the old one: means, the paired difference and the ratio with their errors, the correlation."""
    pairs = report.get("comparison") or {}
    old = (report.get("baseline") or {}).get("metrics") or {}
    percent = {key: units.is_percent(key) for key in pairs}

    def side(name: str, metrics: Metrics) -> list[str]:
        errors = {key: (metrics.get(key) or {}).get("stderr") for key in pairs}
        return [_shown(units.measured, pair.get(name), errors[key], percent=percent[key]) for key, pair in pairs.items()]

    return [
        Column("", [_titled(pair, key) for key, pair in pairs.items()], 0, right=False),
        Column("new", side("new", report["metrics"]), 1),
        Column("old", side("old", old), 1),
        Column("difference ± error", [_difference(pair, key) for key, pair in pairs.items()], 0),
        Column(
            _interval_head(report),
            [
                units.difference_interval(pair["low"], pair["high"], pair.get("stderr"), percent=percent[key])
                if pair.get("low") is not None and pair.get("high") is not None and pair.get("stderr")
                else ""
                for key, pair in pairs.items()
            ],
            2,
        ),
        Column("ratio ± error", [_shown(units.measured, p.get("ratio"), p.get("ratio_stderr")) for p in pairs.values()], 3),
        Column(
            "interval of the ratio",
            [
                units.interval(p["ratio_low"], p["ratio_high"], p.get("ratio_stderr"))
                if p.get("ratio_low") is not None and p.get("ratio_high") is not None and p.get("ratio_stderr")
                else ""
                for p in pairs.values()
            ],
            5,
        ),
        Column("correlation", [_shown(units.number, p.get("correlation"), digits=3) for p in pairs.values()], 4),
    ]


def _difference(pair: dict[str, Any], key: str) -> str:
    return _shown(units.difference, pair.get("difference"), pair.get("stderr"), percent=units.is_percent(key))


def _shown(show: Callable[..., str], value: units.Number | None, *more: Any, **settings: Any) -> str:
    return "" if value is None else show(value, *more, **settings)


def _titled(metric: dict[str, Any], key: str) -> str:
    """A quantity's title and its unit."""
    title, unit = metric.get("title") or key, metric.get("unit")
    return f"{title}, {unit}" if unit else title


def slices(report: Report, most: int) -> Iterator[Slices]:
    """The slices of every --by, the costliest first, at most so many; what is beyond the limit on slices stands last."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for part in report.get("slices") or []:
        found.setdefault(tuple(part["by"]), []).append(part)
    stated = {tuple(entry["by"]): entry for entry in report.get("slicing") or []}
    for by in dict.fromkeys((*stated, *found)):
        parts = sorted(found.get(by, []), key=_costliest)
        shown = parts[:most]
        facts = wording.slicing(stated[by]) if by in stated else [units.counted(len(parts), "slice")]
        few = len(shown) < len(parts)
        title = f"the {len(shown)} costliest of {units.count(len(parts))} slices by" if few else "slices, costliest first, by"
        names: list[str] = [units.printable(name) for name in by]
        yield Slices(title, names, facts, _slices(by, shown), _macro(stated.get(by, {})))


def _costliest(part: dict[str, Any]) -> tuple[bool, float]:
    metric = wording.known(part["metrics"], "cross_entropy")
    return bool(part.get("other")), math.inf if metric is None else -float(metric["mean"])


def _slices(by: Sequence[str], parts: Sequence[dict[str, Any]]) -> list[Column]:
    named: Metrics = {}
    for part in parts:
        for key, metric in part["metrics"].items():
            named.setdefault(key, metric)
    floor = any((part["metrics"].get("target_entropy") or {}).get("mean") for part in parts)
    wanted = [key for key in _OF_A_SLICE if key in named and (floor or key != "kl_divergence")]
    first = [key for key in ("cross_entropy",) if key in named]
    weighted = any(map(wording.has_weight, parts))
    paired = any((part.get("comparison") or {}).get("cross_entropy") for part in parts)

    def rows(name: str) -> list[str]:
        return [units.count(part["rows"].get(name, 0)) for part in parts]

    def infinite(part: dict[str, Any]) -> int:
        return int((part["metrics"].get("cross_entropy") or {}).get("infinite") or 0)

    def column(key: str, rank: int) -> Column:
        return Column(_titled(named[key], key), [_mean(part["metrics"], key) for part in parts], rank)

    def value(part: dict[str, Any], name: str) -> str:
        text = units.printable(wording.slice_value(part["by"][name]))
        return "(other)" if part.get("other") else text

    others = wanted or ([] if first else list(named)[:_MOST_OF_A_SLICE])
    between = [
        Column("old", [_mean((part.get("baseline") or {}).get("metrics") or {}, "cross_entropy") for part in parts], 1),
        Column(
            "difference ± error",
            [_difference((part.get("comparison") or {}).get("cross_entropy") or {}, "cross_entropy") for part in parts],
            0,
        ),
    ]
    return [
        *(Column(units.printable(name), [value(part, name) for part in parts], 0, right=False) for name in by),
        Column("rows", rows("used"), 0),
        *(Column(name, rows(name), 9) for name in ("ignored", "invalid") if any(p["rows"].get(name) for p in parts)),
        Column("weight", [_shown(units.number, part.get("weight")) if weighted else "" for part in parts], 2),
        *(column(key, 0) for key in first),
        *([Column("infinite rows", [units.count(infinite(part)) for part in parts], 2)] if any(map(infinite, parts)) else []),
        *(between if paired else ()),
        *(column(key, 3 + i) for i, key in enumerate(others)),
    ]


def _mean(metrics: Metrics, key: str) -> str:
    metric = wording.known(metrics, key)
    if metric is None:
        return ""
    return units.measured(metric["mean"], metric.get("stderr"), percent=units.is_percent(key), digits=3)


def _macro(slicing: dict[str, Any]) -> list[Column]:
    """Means over the slices of one --by, every slice counting alike."""
    means = slicing.get("macro") or {}
    return [
        Column("", [_titled(metric, key) for key, metric in means.items()], 0, right=False),
        Column(
            "mean over slices",
            [_shown(units.number, m.get("mean"), percent=units.is_percent(key)) for key, m in means.items()],
            0,
        ),
        Column("slices", [_shown(units.count, metric.get("slices")) for metric in means.values()], 1),
    ]


def conventions(report: Report) -> list[Column]:
    """What other tools would say of the same rows, beside the exact value."""
    metrics = report["metrics"]
    found = [(n, key, v) for n, values in (report.get("conventions") or {}).items() for key, v in values.items()]

    def exactly(key: str, value: units.Number | None) -> str:
        return _shown(units.number, value, percent=units.is_percent(key), digits=6)

    return [
        Column("convention", [units.printable(name) for name, _, _ in found], 0, right=False),
        Column("quantity", [_titled(metrics.get(key) or v, key) for _, key, v in found], 0, right=False),
        Column("value", [exactly(key, v.get("value")) for _, key, v in found], 0),
        Column("exact", [exactly(key, (metrics.get(_exact_key(key)) or {}).get("mean")) for _, key, _ in found], 1),
        Column(
            "difference",
            [_shown(units.difference, v.get("difference"), percent=units.is_percent(key)) for _, key, v in found],
            0,
        ),
        Column("why", [wording.why(v) for _, _, v in found], 2, right=False),
    ]


def _exact_key(key: str) -> str:
    """The quantity that a tool's number is one of."""
    return key.removesuffix("_metric")


def reliability(report: Report) -> tuple[str, list[dict[str, Any]], list[Column]]:
    """What was predicted and how often it was so: a title, the bins that are shown and their columns."""
    bins = [b for b in report.get("reliability") or [] if b["rows"] and b["confidence"] is not None]
    many = len(bins) > _MOST_BINS
    if many:
        least = sorted(bins, key=lambda b: -b["rows"])[_MOST_BINS - 1]["rows"]
        shown = [b for b in bins if b["rows"] >= least][:_MOST_BINS]
    else:
        shown = bins
    title = "reliability: what was predicted, and how often it was so"
    if many:
        title += f" (the {len(shown)} fullest of {len(bins)} bins)"
    places = 2 if all(b["high"] - b["low"] > 0.015 for b in shown) else 4
    return (
        title,
        shown,
        [
            Column("predicted", [f"{b['low']:.{places}f}-{b['high']:.{places}f}" for b in shown], 0, right=False),
            Column("rows", [units.count(b["rows"]) for b in shown], 0),
            Column("mean", [units.share(b["confidence"]) for b in shown], 0),
            Column("observed", [units.share(b["accuracy"]) for b in shown], 0),
            Column("gap", [units.gap(b["accuracy"] - b["confidence"]) for b in shown], 0),
        ],
    )


def classes(report: Report, every: int, costliest: int) -> tuple[str, list[Column]]:
    """The classes with a loss, costliest first, and a title: all up to `every` of them, of more the `costliest`."""
    found = [c for c in report.get("per_class") or [] if c["rows"] and c.get("cross_entropy") is not None]
    ranked = sorted(found, key=lambda c: -float(c["cross_entropy"]))
    shown = ranked if len(ranked) <= every else ranked[:costliest]
    unit = report["unit"]

    def cells(field: str) -> list[str]:
        percent = units.is_percent(field)
        return [_shown(units.number, c.get(field), percent=percent, digits=3) for c in shown]

    few = len(shown) < len(ranked)
    title = f"the {len(shown)} costliest of {units.count(len(ranked))} classes" if few else "classes, costliest first"
    return title, [
        Column("class", [units.printable(c["class"]) for c in shown], 0, right=False),
        Column("rows", [units.count(c["rows"]) for c in shown], 0),
        Column(f"cross-entropy, {unit}", cells("cross_entropy"), 0),
        Column("accuracy", cells("accuracy"), 1),
        Column(f"entropy, {unit}", cells("entropy"), 2),
        Column("Brier score", cells("brier"), 3),
    ]
