"""The dot plots of a report as data: classes, slices, differences and quantiles, a line each with its value in words.

Takes the dictionary of the JSON report. `reporting.plots` draws what is found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamloss.reporting import units, views
from streamloss.reporting.views import Report


@dataclass(frozen=True)
class Line:
    """A line of a dot plot: a name, a value with its interval, the value in words, and a second value to compare with."""

    name: str
    value: float
    low: float | None
    high: float | None
    text: str
    second: float | None = None
    colour: str = "loss"
    hollow: bool = False


@dataclass(frozen=True)
class DotPlot:
    """Lines over one axis. `log` makes it logarithmic, `zero` marks the place of 0.

    `own` gives every line a scale of its own, up to the end of its interval that is farther from 0.
    """

    name: str
    title: str
    description: str
    lines: list[Line]
    axis: str
    log: bool = False
    zero: bool = False
    own: bool = False


def dot_plots(report: Report) -> Iterator[DotPlot]:
    """Every dot plot that the report has the numbers for."""
    for plots in (_differences, _classes, _slices, _quantiles):
        yield from plots(report)


def slug(text: str) -> str:
    """A part of a file's name, of letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")[:40] or "x"


def _quantiles(report: Report) -> Iterator[DotPlot]:
    """The quantiles of the KL divergence, where it says something else than the cross-entropy."""
    metrics = report["metrics"]
    metric, loss = views.known(metrics, "kl_divergence"), views.known(metrics, "cross_entropy")
    if metric is None or (loss is not None and loss.get("quantiles") == metric.get("quantiles")):
        return
    values = [(views.level(q), float(metric["quantiles"][q])) for q in views.quantiles(metric)]
    values += [(name, float(metric[name])) for name in ("min", "max") if metric.get(name) is not None]
    values.sort(key=lambda pair: pair[1])
    lines = [Line(name, value, None, None, units.number(value, digits=3)) for name, value in values if value > 0]
    if len(lines) > 2:
        words = "; ".join(f"{line.name}: {line.text}" for line in lines)
        axis = f"KL divergence, {metric.get('unit') or report['unit']}"
        yield DotPlot("kl-quantiles", "Quantiles of the KL divergence", words, lines, axis, log=True)


def _classes(report: Report) -> Iterator[DotPlot]:
    """Every class by its loss, beside the entropy that was predicted for it."""
    classes = views.classes(report)
    if len(classes) < 2:
        return
    lines = [
        Line(
            *(views.plain_text(entry["class"]), float(entry["cross_entropy"]), None, None),
            text=units.number(entry["cross_entropy"], digits=3),
            second=views.number(entry.get("entropy")),
        )
        for entry in classes
    ]
    yield DotPlot(
        "classes",
        "Classes by their loss",
        _ends(lines, "The mean cross-entropy of every class (dot) and the mean entropy of its predictions (tick)."),
        lines,
        f"cross-entropy (dot), entropy (tick), {report['unit']}",
    )


def _slices(report: Report) -> Iterator[DotPlot]:
    """Every slice by its loss, with its interval."""
    key = views.cost_key(report["metrics"])
    for i, slicing in enumerate(views.slicings(report)):
        lines = []
        for entry in slicing.slices:
            if key is not None and (metric := views.known(entry.get("metrics") or {}, key)) is not None:
                ends = (views.number(metric.get("low")), views.number(metric.get("high")))
                text = units.measured(metric["mean"], metric.get("stderr"), digits=3)
                lines.append(Line(views.slice_name(entry), float(metric["mean"]), *ends, text, hollow=bool(entry.get("other"))))
        if lines:
            overall = report["metrics"][key]
            title = overall.get("title", key)
            yield DotPlot(
                f"slices-{i + 1}-{slug(slicing.title)}",
                f"{title[:1].upper()}{title[1:]} by {slicing.title}",
                _ends(lines, f"The mean {title} of every slice with its interval."),
                lines,
                f"{title}, {overall.get('unit') or 'mean'}",
            )


def _differences(report: Report) -> Iterator[DotPlot]:
    """New minus old: of every quantity on a scale of its own, then of every slice."""
    found = views.compared(report.get("comparison"))
    lines = [_difference_line(entry.get("title", key), key, entry) for key, entry in found.items()]
    if lines:
        words = "New minus old with its interval, every quantity on a scale of its own. " + "; ".join(
            f"{line.name} {line.text}" for line in lines
        )
        yield DotPlot(
            "differences", "New minus old", words, lines, "new − old, every line on a scale of its own", zero=True, own=True
        )
    key = views.cost_key(report["metrics"])
    for i, slicing in enumerate(views.slicings(report)):
        pairs = [(entry, views.compared(entry.get("comparison")).get(key or "")) for entry in slicing.slices]
        entries = [(entry, change) for entry, change in pairs if change is not None]
        entries.sort(key=lambda pair: float(pair[1]["difference"]))
        lines = [_difference_line(views.slice_name(entry), key or "", change) for entry, change in entries]
        if lines:
            title, unit = entries[0][1].get("title", key), entries[0][1].get("unit") or ""
            yield DotPlot(
                f"differences-{i + 1}-{slug(slicing.title)}",
                f"New minus old {title} by {slicing.title}",
                _ends(lines, f"The difference of the mean {title} in every slice, with its interval."),
                lines,
                f"difference of {title}, {unit}".rstrip(", "),
                zero=True,
            )


def _difference_line(name: str, key: str, entry: dict[str, Any]) -> Line:
    said = views.verdict(key, entry)
    colour = {"better": "good", "worse": "bad"}.get(said, "muted")
    ends = (views.number(entry.get("low")), views.number(entry.get("high")))
    text = views.difference(entry, key)
    return Line(name, float(entry["difference"]), *ends, text, colour=colour, hollow=said in ("undecided", ""))


def _ends(lines: Sequence[Line], words: str) -> str:
    first, last = lines[0], lines[-1]
    return f"{words} First {first.name}: {first.text}; last {last.name}: {last.text}."
