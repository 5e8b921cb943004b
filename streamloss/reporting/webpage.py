"""The report as a web page: one HTML file that needs nothing else, for a laptop, a telephone, light, dark and print.

Takes the dictionary of the JSON report. The numbers shown are rounded for people; their elements carry them whole (`data-mean`,
`data-low`, …), except that tables of more than 200 rows keep the first number of a cell only. The page asks the network for
nothing and says so in its content security policy; its one script sorts tables and is not needed to read them. All text is
escaped by jinja2, but for the figures, which matplotlib has escaped. Equal reports give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from streamloss.errors import RULES, UsageError
from streamloss.reporting import plots, svg, units, views, wording
from streamloss.reporting.views import Report, Slicing

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
except ImportError as error:
    raise UsageError("the web page needs jinja2: pip install 'streamloss[report]'") from error

_HEADLINE = ("cross_entropy", "perplexity", "bits_per_byte", "accuracy", "ece", "kl_divergence", "brier", "entropy")
_CARDS = 4
_WHOLE = 200  # rows of a table up to which every number is kept whole in its element
_OPEN = 12  # rows of a table up to which it is not folded
_MOST_ROWS = 1000  # of all slices together
_MOST_INPUTS = 50
_UNIT_WORDS = {"nat": "in nats", "bit": "in bits", "ban": "in bans"}
_SLICE_METRICS = ("accuracy", "entropy", "brier")
_REASONS = {key: f"expected {words}" for key, words in RULES.values()} | {
    "ignored": "mask, ignore index or weight 0",
    "normalized": "divided by their sum",
    "clipped": "a true class of probability 0 got that of --zero",
}


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place, the numbers behind it, and its kind: a name, a number or words."""

    text: str
    numbers: dict[str, Any] = field(default_factory=dict)
    kind: str = "number"


@dataclass(frozen=True)
class Card:
    """A number of the headline: the value apart from its error and its unit, and a note below."""

    key: str
    title: str
    value: str
    error: str
    unit: str
    note: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells; a row has a key when it is about a quantity. Folded tables have a summary to click."""

    heads: list[str]
    rows: list[tuple[str, list[Cell]]]
    label: str
    folded: str = ""

    @property
    def kinds(self) -> list[str]:
        return [cell.kind for cell in self.rows[0][1]]


def encode(report: Report) -> bytes:
    """The page of a report (the dictionary of SPEC §8)."""
    environment = Environment(
        loader=PackageLoader("streamloss.reporting", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _source(environment, "sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawings = plots.draw(report)
    page = environment.get_template("page.html").render(
        script=script,
        script_hash=digest,
        style=_source(environment, "page.css"),
        palettes=[(name, svg.LIGHT[name], svg.DARK[name]) for name in svg.LIGHT],
        drawn=lambda start: [d for d in drawings if d.name == start or (start[-1] == "-" and d.name.startswith(start))],
        **_contents(report),
    )
    # A path may hold bytes that are no UTF-8; they are shown as escapes already where it is printed.
    return page.encode("utf-8", errors="backslashreplace")


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].strip()


def _contents(report: Report) -> dict[str, Any]:
    """Everything that the template puts in its place."""
    metrics = report["metrics"]
    comparison = views.compared(report.get("comparison"))
    return {
        "report": report,
        "name": _name(report),
        "facts": [*views.facts(report), _UNIT_WORDS[report["unit"]]],
        "level": f"{100 * views.confidence(report):g} %",
        "cards": _changes(comparison, metrics) if comparison else _headline(metrics, _HEADLINE),
        "gates": report.get("gates") or [],
        "infinite": _infinite(report),
        "failures": [(m.get("title", key), m.get("reason", "")) for key, m in metrics.items() if m.get("mean") is None],
        "tables": {
            "comparison": _comparison(comparison),
            "metrics": [_quantities(report, part) for part in views.parts(metrics) if part],
            "bins": _bins(report),
            "classes": _classes(report),
            "conventions": _conventions(report),
            "ledger": _ledger(report),
            "inputs": _inputs(report),
        },
        "more_inputs": len(report.get("inputs") or []) - _MOST_INPUTS,
        "slicings": [(slicing, _slices(report, slicing), _macro(slicing)) for slicing in views.slicings(report)],
        "options": [(key, _listed(value)) for key, value in (report.get("options") or {}).items()],
        "run": " · ".join(views.run_facts(report.get("run") or {})),
        "command_line": units.printable((report.get("run") or {}).get("command_line") or ""),
        "counted": units.counted,
        "shown": units.number,
        "plain": views.plain_text,
    }


def _name(report: Report) -> str:
    inputs = report.get("inputs") or []
    if len(inputs) == 1 and inputs[0].get("path"):
        return views.plain_text(PurePath(str(inputs[0]["path"])).name or inputs[0]["path"])
    return units.counted(len(inputs), "file") if inputs else "rows from memory"


def _headline(metrics: dict[str, Any], wanted: Sequence[str]) -> list[Card]:
    """The numbers one looks for first."""
    cards = []
    for key in [key for key in wanted if views.known(metrics, key)][:_CARDS]:
        metric, percent = metrics[key], units.is_percent(key)
        value, _, error = (
            units.measured(metric["mean"], metric.get("stderr"), percent=percent).removesuffix(" %").partition(" ± ")
        )
        unit, numbers = "%" if percent else metric.get("unit", ""), _picked(metric, "mean", "stderr", "low", "high")
        cards.append(Card(key, metric.get("title", key), value, error, unit, views.interval(metric, percent), numbers))
    return cards


def _changes(comparison: dict[str, Any], metrics: dict[str, Any]) -> list[Card]:
    """The differences one looks for first, and how far the two models are apart row by row."""
    cards = []
    apart = _headline(metrics, [key for key in ("kl_divergence", "same_top") if key not in comparison])
    for key in [key for key in _HEADLINE if key in comparison][: _CARDS - min(1, len(apart))]:
        entry, percent = comparison[key], units.is_percent(key)
        value, _, error = views.difference(entry, key).removesuffix(" pp").partition(" ± ")
        old, new = (_shown(entry, side, percent, digits=4) for side in ("old", "new"))
        note = ", ".join(part for part in (f"{old} → {new}", views.verdict(key, entry)) if part)
        unit, numbers = "pp" if percent else entry.get("unit", ""), _picked(entry, "difference", "stderr", "low", "high")
        cards.append(Card(key, f"{entry.get('title', key)}, new − old", value, error, unit, note, numbers))
    return [*cards, *apart[:1]]


def _picked(entry: dict[str, Any], *fields: str) -> dict[str, Any]:
    """The numbers of an entry that are there."""
    return {name: entry[name] for name in fields if entry.get(name) is not None}


def _shown(entry: dict[str, Any], name: str, percent: bool = False, digits: int = 3) -> str:
    value = entry.get(name)
    return "" if value is None else units.number(value, percent=percent, digits=digits)


def _infinite(report: Report) -> str:
    """How many rows cost infinity, in words."""
    metric = views.known(report["metrics"], "cross_entropy") or {}
    rows = metric.get("infinite")
    if not rows:
        return ""
    words = f"{units.count(rows)} of {units.counted(report['rows']['used'], 'row')} {'has' if rows == 1 else 'have'}"
    words += " an infinite loss: a class that happened had probability 0. --zero clip:EPS gives it a finite cost."
    if metric.get("finite_mean") is not None:
        mean = units.measured(metric["finite_mean"], metric.get("finite_stderr"))
        words += f" The mean of the other rows is {mean} {metric.get('unit', '')}; figures show these."
    return " ".join([words, *wording.edge(metric)])


def _columns(heads: dict[str, list[Cell]], keys: Sequence[str], label: str, folded: str = "") -> Table | None:
    """A table of columns; those that are empty fall away. None when there are no rows."""
    kept = {head: cells for head, cells in heads.items() if any(cell.text for cell in cells)}
    if not kept:
        return None
    if len(keys) > _WHOLE:
        kept = {head: [_short(cell) for cell in cells] for head, cells in kept.items()}
    rows = [(key, list(cells)) for key, cells in zip(keys, zip(*kept.values(), strict=True), strict=True)]
    return Table(list(kept), rows, label, folded if len(rows) > _OPEN else "")


def _short(cell: Cell) -> Cell:
    name = next(iter(cell.numbers), "")
    return Cell(cell.text, {name: cell.numbers[name]} if name not in ("", "low") else {}, cell.kind)


def _names(texts: Iterable[Any]) -> list[Cell]:
    return [Cell(views.plain_text(text), kind="name") for text in texts]


def _numbers(entries: Sequence[dict[str, Any]], name: str, percent: Callable[[int], bool] | bool = False) -> list[Cell]:
    """A column of one field."""
    test = percent if callable(percent) else lambda _: bool(percent)
    return [Cell(_shown(entry, name, test(i)), _picked(entry, name)) for i, entry in enumerate(entries)]


def _counts(entries: Iterable[int | None], name: str = "rows") -> list[Cell]:
    return [Cell("") if n is None else Cell(units.count(n), {name: n}) for n in entries]


def _measured(entry: dict[str, Any] | None, percent: bool, name: str = "mean") -> Cell:
    """A value with its error."""
    if entry is None or entry.get(name) is None:
        return Cell("")
    return Cell(units.measured(entry[name], entry.get("stderr"), percent=percent), _picked(entry, name, "stderr"))


def _ends(entry: dict[str, Any] | None, percent: bool) -> Cell:
    return Cell("") if entry is None else Cell(views.interval(entry, percent), _picked(entry, "low", "high"))


def _quantities(report: Report, keys: Sequence[str]) -> Table | None:
    metrics = [report["metrics"][key] for key in keys]
    percent = [units.is_percent(key) for key in keys]
    spread = [metric if metric.get("quantiles") else {} for metric in metrics]  # 0 and 1 as extremes say nothing
    levels = sorted({q for metric in metrics for q in views.quantiles(metric)}, key=float)
    unit = next((metric["unit"] for metric in metrics if metric.get("unit")), "")
    quantiles = [metric.get("quantiles") or {} for metric in metrics]
    columns = {
        f"in {unit}" if unit else "pure numbers": _names(m.get("title", key) for key, m in zip(keys, metrics, strict=True)),
        "mean ± error": [_measured(metric, p) for metric, p in zip(metrics, percent, strict=True)],
        f"{100 * views.confidence(report):g} % interval": [_ends(m, p) for m, p in zip(metrics, percent, strict=True)],
        "infinite rows": [Cell(units.count(n), {"infinite": n}) if (n := m.get("infinite")) else Cell("") for m in metrics],
        "mean of the others": [_numbers([m], "finite_mean")[0] if m.get("infinite") else Cell("") for m in metrics],
        "min": _numbers(spread, "min", percent.__getitem__),
        **{views.level(q): _numbers(quantiles, q, percent.__getitem__) for q in levels},
        "max": _numbers(spread, "max", percent.__getitem__),
    }
    return _columns(columns, keys, f"quantities {f'in {unit}' if unit else 'without a unit'}")


def _comparison(comparison: dict[str, Any]) -> Table | None:
    keys, entries = list(comparison), list(comparison.values())
    percent = [units.is_percent(key) for key in keys]
    changes = [Cell(views.difference(e, key), _picked(e, "difference", "stderr")) for key, e in comparison.items()]
    ratios = [{"ratio": e.get("ratio"), "stderr": e.get("ratio_stderr")} for e in entries]
    columns = {
        "quantity": _names(e.get("title", key) for key, e in comparison.items()),
        "new": _numbers(entries, "new", percent.__getitem__),
        "old": _numbers(entries, "old", percent.__getitem__),
        "new − old": changes,
        "interval": [_ends(e, p) for e, p in zip(entries, percent, strict=True)],
        "new is": [Cell(views.verdict(key, e), kind="words") for key, e in comparison.items()],
        "new / old": [_measured(ratio, False, "ratio") for ratio in ratios],
        "correlation": _numbers(entries, "correlation"),
    }
    return _columns(columns, keys, "comparison")


def _bins(report: Report) -> Table | None:
    bins = views.bins(report)
    places = 2 if all(b["high"] - b["low"] > 0.015 for b in bins) else 4
    columns = {
        "predicted": [Cell(f"{b['low']:.{places}f} … {b['high']:.{places}f}", _picked(b, "low", "high"), "name") for b in bins],
        "rows": _counts(b["rows"] for b in bins),
        "mean": [Cell(units.share(b["confidence"]), _picked(b, "confidence")) for b in bins],
        "observed": [Cell(units.share(b["accuracy"]), _picked(b, "accuracy")) for b in bins],
        "gap, pp": [Cell(units.gap(b["accuracy"] - b["confidence"])) for b in bins],
    }
    return _columns(columns, [""] * len(bins), "reliability", f"All {len(bins)} bins" if len(bins) > 20 else "")


def _classes(report: Report) -> Table | None:
    classes = views.classes(report)
    columns = {
        "class": _names(c["class"] for c in classes),
        "rows": _counts(c["rows"] for c in classes),
        f"cross-entropy, {report['unit']}": _numbers(classes, "cross_entropy"),
        "accuracy": _numbers(classes, "accuracy", True),
        f"entropy, {report['unit']}": _numbers(classes, "entropy"),
        "Brier score": _numbers(classes, "brier"),
    }
    return _columns(columns, [""] * len(classes), "classes", f"All {units.count(len(classes))} classes")


def _slices(report: Report, slicing: Slicing) -> Table | None:
    """The slices of a grouping: the loss with its interval, its difference in a comparison, and a few means."""
    key = views.cost_key(report["metrics"]) or ""
    most = max(_OPEN, _MOST_ROWS // len(views.slicings(report)))
    entries = slicing.slices[:most]
    metrics = [entry.get("metrics") or {} for entry in entries]
    loss, percent = [views.known(m, key) for m in metrics], units.is_percent(key)
    changes = [views.compared(entry.get("comparison")).get(key) for entry in entries]
    names = [views.slice_values(entry) for entry in entries]
    columns = {name: [Cell(values[i], kind="name") for values in names] for i, name in enumerate(map(_head, slicing.by))}
    columns |= {
        "rows": _counts((entry.get("rows") or {}).get("used") for entry in entries),
        report["metrics"].get(key, {}).get("title", "loss"): [_measured(metric, percent) for metric in loss],
        "interval": [_ends(metric, percent) for metric in loss],
        "new − old": [Cell(views.difference(e, key), _picked(e, "difference", "stderr")) if e else Cell("") for e in changes],
        "its interval": [_ends(e, percent) for e in changes],
    }
    for other in (other for other in _SLICE_METRICS if other != key):
        found = [views.known(m, other) or {} for m in metrics]
        title = report["metrics"].get(other, {}).get("title", other)
        columns[title] = _numbers(found, "mean", units.is_percent(other))
    few = len(entries) < len(slicing.slices)
    words = f"The {units.count(len(entries))} costliest" if few else f"All {units.counted(len(entries), 'slice')}"
    return _columns(columns, [""] * len(entries), f"slices by {slicing.title}", words)


def _head(name: str) -> str:
    return views.plain_text(name, 40)


def _macro(slicing: Slicing) -> str:
    """What is said of all slices together."""
    facts = slicing.facts
    means = [
        f"{m.get('title', key)} {units.number(m['mean'], percent=units.is_percent(key))} {m.get('unit') or ''}".rstrip()
        for key, m in (facts.get("macro") or {}).items()
        if m.get("mean") is not None
    ]
    total, shown = facts.get("slices", len(slicing.slices)), facts.get("shown")
    words = [units.counted(total, "slice") + (f", {units.count(shown)} of them shown" if shown not in (None, total) else "")]
    if (other := (facts.get("other") or {}).get("rows")) is not None and other > 0:
        words.append(f"{units.counted(other, 'row')} in the others together")
    if (small := facts.get("small") or {}).get("slices"):
        words.append(f"{units.counted(small['slices'], 'slice')} too small to judge ({units.counted(small['rows'], 'row')})")
    if means:
        words.append(f"every slice counting alike: {', '.join(means)}")
    return "; ".join(words) + "."


def _conventions(report: Report) -> Table | None:
    lines = [(tool, key, e) for tool, found in (report.get("conventions") or {}).items() for key, e in found.items()]
    titles = {key: metric.get("title", key) for key, metric in report["metrics"].items()}
    columns = {
        "tool": _names(tool for tool, _, _ in lines),
        "quantity": _names(titles.get(key) or e.get("title") or key for _, key, e in lines),
        "its number": _numbers([e for _, _, e in lines], "value", lambda i: units.is_percent(lines[i][1])),
        "difference": _numbers([e for _, _, e in lines], "difference"),
        "loss": [Cell(views.plain_text(e.get("loss") or "", 100), kind="words") for _, _, e in lines],
        "why": [Cell(views.plain_text(e.get("cause") or e.get("reason") or "", 400), kind="words") for _, _, e in lines],
    }
    return _columns(columns, [key for _, key, _ in lines], "conventions of other tools")


def _ledger(report: Report) -> Table | None:
    ledger = {key: n for key, n in (report.get("ledger") or {}).items() if n}
    lines = {name: report["rows"][name] for name in ("read", "used", "ignored", "invalid")} | ledger
    columns = {
        "rows": _names(name.replace("_", " ") for name in lines),
        "count": _counts(lines.values()),
        "because": [Cell(_REASONS.get(name, "") if n else "", kind="words") for name, n in lines.items()],
    }
    return _columns(columns, list(lines), "ledger")


def _inputs(report: Report) -> Table | None:
    inputs = (report.get("inputs") or [])[:_MOST_INPUTS]
    columns = {
        "file": [Cell(views.plain_text(entry["path"] or "from memory", 400), kind="path") for entry in inputs],
        "rows": _counts(entry.get("rows") for entry in inputs),
        "size": [Cell("") if (n := e.get("bytes")) is None else Cell(units.size(n), {"bytes": n}) for e in inputs],
    }
    return _columns(columns, [""] * len(inputs), "inputs", f"{len(inputs)} files")


def _listed(value: object) -> str:
    if isinstance(value, list):
        shown = ", ".join(views.plain_text(v) for v in value[:20])
        return shown + (f", … ({units.count(len(value))} in all)" if len(value) > 20 else "")
    return views.plain_text(value, 400)
