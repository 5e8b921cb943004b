"""The dot plots of a report as data: classes, slices, differences and quantiles, a line each with its value in words.

Takes the dictionary of the JSON report. `reporting.plots` draws what is found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamloss.reporting import contents, units, wording
from streamloss.reporting.contents import Report, Slicing
from streamloss.reporting.names import OTHER, slice_value

_LONGEST = 120  # characters of a name


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
    metric, loss = contents.known(metrics, "kl_divergence"), contents.known(metrics, "cross_entropy")
    if metric is None or (loss is not None and loss.get("quantiles") == metric.get("quantiles")):
        return
    low, high = ([(name, float(metric[name]))] if metric.get(name) is not None else [] for name in ("min", "max"))
    values = low + [(units.quantile(q), float(metric["quantiles"][q])) for q in contents.levels([metric])] + high
    lines = [Line(name, value, None, None, units.number(value, digits=3)) for name, value in values if value > 0]
    if len(lines) > 2:
        words = "; ".join(f"{line.name}: {line.text}" for line in lines)
        axis = f"KL divergence, {metric.get('unit') or report['unit']}"
        yield DotPlot("kl-quantiles", "Quantiles of the KL divergence", words, lines, axis, log=True)


def _classes(report: Report) -> Iterator[DotPlot]:
    """Every class by its loss, beside the entropy that was predicted for it."""
    classes = contents.classes(report)
    if len(classes) < 2:
        return
    lines = [
        Line(
            *(units.printable(entry["class"], _LONGEST), float(entry["cross_entropy"]), None, None),
            text=units.number(entry["cross_entropy"], digits=3),
            second=contents.number(entry.get("entropy")),
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
    for i, slicing in enumerate(contents.slicings(report)):
        entries = [(entry, contents.known(entry["metrics"], slicing.key)) for entry in slicing.slices]
        known = [(entry, metric) for entry, metric in entries if metric is not None]
        if slicing.key is None or not known:
            continue
        key, title = slicing.key, known[0][1].get("title", slicing.key)
        lines = [
            Line(
                *(_name(entry), float(metric["mean"]), contents.number(metric.get("low")), contents.number(metric.get("high"))),
                text=wording.measured(key, metric, digits=3),
                hollow=bool(entry.get("other")),
            )
            for entry, metric in known
        ]
        yield DotPlot(
            f"slices-{i + 1}-{slug(_by(slicing))}",
            f"{title[:1].upper()}{title[1:]} by {_by(slicing)}",
            _ends(lines, f"The mean {title} of every slice with its interval."),
            lines,
            f"{title}, {known[0][1].get('unit') or 'mean'}",
        )


def _differences(report: Report) -> Iterator[DotPlot]:
    """New minus old: of every quantity on a scale of its own, then of every slice."""
    lines = [_difference_line(pair.get("title", key), key, pair) for key, pair in _changed(report).items()]
    if lines:
        words = "New minus old with its interval, every quantity on a scale of its own. " + "; ".join(
            f"{line.name} {line.text}" for line in lines
        )
        yield DotPlot(
            "differences", "New minus old", words, lines, "new − old, every line on a scale of its own", zero=True, own=True
        )
    for i, slicing in enumerate(contents.slicings(report)):
        key = slicing.key or ""
        pairs = [(entry, pair) for entry in slicing.slices if (pair := _changed(entry).get(key)) is not None]
        pairs.sort(key=lambda found: float(found[1]["difference"]))
        lines = [_difference_line(_name(entry), key, pair) for entry, pair in pairs]
        if lines:
            title, unit = pairs[0][1].get("title", key), pairs[0][1].get("unit") or ""
            yield DotPlot(
                f"differences-{i + 1}-{slug(_by(slicing))}",
                f"New minus old {title} by {_by(slicing)}",
                _ends(lines, f"The difference of the mean {title} in every slice, with its interval."),
                lines,
                f"difference of {title}, {unit}".rstrip(", "),
                zero=True,
            )


def _changed(part: dict[str, Any]) -> contents.Metrics:
    """The quantities whose difference is known."""
    return {key: pair for key, pair in contents.compared(part).items() if pair.get("difference") is not None}


def _by(slicing: Slicing) -> str:
    return ", ".join(units.printable(name, _LONGEST) for name in slicing.by)


def _name(entry: dict[str, Any]) -> str:
    """The values of a slice; what their columns are is said above all of them."""
    if entry.get("other"):
        return OTHER
    return units.printable(", ".join(slice_value(value) for value in entry["by"].values()), _LONGEST)


def _difference_line(name: str, key: str, pair: dict[str, Any]) -> Line:
    said = wording.verdict(key, pair)
    colour = {"better": "good", "worse": "bad"}.get(said, "muted")
    ends = (contents.number(pair.get("low")), contents.number(pair.get("high")))
    text = wording.difference(key, pair)
    return Line(name, float(pair["difference"]), *ends, text, colour=colour, hollow=said in ("undecided", ""))


def _ends(lines: Sequence[Line], words: str) -> str:
    first, last = lines[0], lines[-1]
    return f"{words} First {first.name}: {first.text}; last {last.name}: {last.text}."
