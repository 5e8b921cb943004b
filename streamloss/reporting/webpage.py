"""The report as a web page: one HTML file that needs nothing else, for a laptop, a telephone, light, dark and print.

Takes the dictionary of the JSON report. The numbers shown are rounded for people; their elements carry them whole (`data-mean`,
`data-low`, …), except that tables of more than 200 rows keep the first number of a cell only. The page asks the network for
nothing and says so in its content security policy; its one script sorts tables and is not needed to read them. All text is
escaped by jinja2, but for the figures, which matplotlib has escaped. Equal reports give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from streamloss.errors import RULES, UsageError
from streamloss.reporting import columns, contents, plots, svg, units, wording
from streamloss.reporting.columns import Column, Table
from streamloss.reporting.contents import Metrics, Report

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
_MOST_VALUES = 20  # of an option
_LONGEST_NAME, _LONGEST_TEXT = 120, 400  # characters of a text of the user's
_UNIT_WORDS = {"nat": "in nats", "bit": "in bits", "ban": "in bans"}
_REASONS = {key: f"expected {words}" for key, words in RULES.values()} | {
    "ignored": "mask, ignore index or weight 0",
    "normalized": "divided by their sum",
    "clipped": "a true class of probability 0 got that of --zero",
}


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place, the numbers behind it, and its kind: a number, a name, a path or words."""

    text: str
    numbers: dict[str, Any]
    kind: str


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
class Grid:
    """Heads and rows of cells; a row has a key when it is about a quantity. Folded grids have a summary to click."""

    heads: Sequence[str]
    rows: list[tuple[str, list[Cell]]]
    label: str
    folded: str

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
    metrics, rows = report["metrics"], report["rows"]
    comparison = contents.compared(report)
    return {
        "report": report,
        "name": _name(report),
        "facts": [*wording.facts(report), _UNIT_WORDS[report["unit"]]],
        "level": units.level(contents.confidence(report)),
        "cards": _changes(comparison, metrics) if comparison else _headline(metrics, _HEADLINE),
        "gates": report.get("gates") or [],
        "infinities": wording.infinities(metrics, rows["used"]),
        "temperature": wording.temperature(report),
        "failures": [_long(line) for line in wording.failures(metrics)],
        "grids": {
            "comparison": _grid(columns.comparison(report)),
            "metrics": [_grid(table) for table in columns.quantities(report, metrics)],
            "temperatures": _grid(columns.temperatures(report), "The curve in numbers"),
            "bins": _grid(columns.reliability(report)[0], "All bins", columns.MOST_BINS),
            "classes": _grid(columns.classes(report), f"All {units.count(len(contents.classes(report)))} classes"),
            "baseline": [_grid(table) for table in columns.quantities(report, contents.baseline(report))],
            "conventions": [_grid(table) for table in filter(None, [columns.conventions(report)])],
            "ledger": _grid(_ledger(report)),
            "inputs": _grid(_inputs(report), "Files"),
        },
        "more_inputs": len(report.get("inputs") or []) - _MOST_INPUTS,
        "slicings": list(_slices(report)),
        "options": [(name, _long(value)) for name, value in wording.options(report, _MOST_VALUES)],
        "unfinished": wording.unfinished(report),
        "run": " · ".join(wording.run_facts(report)),
        "command_line": units.printable((report.get("run") or {}).get("command_line") or ""),
        "counted": units.counted,
        "shown": units.number,
        "long": _long,
    }


def _long(text: object) -> str:
    """A text of the user's that may be long."""
    return units.printable(text, _LONGEST_TEXT)


def _name(report: Report) -> str:
    inputs = report.get("inputs") or []
    if len(inputs) == 1 and inputs[0].get("path"):
        return units.printable(PurePath(str(inputs[0]["path"])).name or inputs[0]["path"], _LONGEST_NAME)
    return units.counted(len(inputs), "file") if inputs else "rows from memory"


def _headline(metrics: Metrics, wanted: Sequence[str]) -> list[Card]:
    """The numbers one looks for first."""
    cards = []
    for key in [key for key in wanted if contents.known(metrics, key)][:_CARDS]:
        metric, percent = metrics[key], units.is_percent(key)
        value, _, error = wording.measured(key, metric).removesuffix(" %").partition(" ± ")
        unit, numbers = "%" if percent else metric.get("unit", ""), _picked(metric, "mean", "stderr", "low", "high")
        cards.append(Card(key, metric.get("title", key), value, error, unit, wording.interval(key, metric), numbers))
    return cards


def _changes(comparison: Metrics, metrics: Metrics) -> list[Card]:
    """The differences one looks for first, and how far the two models are apart row by row."""
    cards = []
    apart = _headline(metrics, [key for key in ("kl_divergence", "same_top") if key not in comparison])
    changed = [key for key in _HEADLINE if comparison.get(key, {}).get("difference") is not None]
    for key in changed[: _CARDS - min(1, len(apart))]:
        pair = comparison[key]
        value, _, error = wording.difference(key, pair).removesuffix(" pp").partition(" ± ")
        sides = " → ".join(wording.value(key, pair, side, digits=4) for side in ("old", "new"))
        note = ", ".join(part for part in (sides, wording.verdict(key, pair)) if part)
        unit = "pp" if units.is_percent(key) else pair.get("unit", "")
        numbers = _picked(pair, "difference", "stderr", "low", "high")
        cards.append(Card(key, f"{pair.get('title', key)}, new − old", value, error, unit, note, numbers))
    return [*cards, *apart[:1]]


def _picked(entry: dict[str, Any], *fields: str) -> dict[str, Any]:
    """The numbers of an entry that are there."""
    return {name: entry[name] for name in fields if entry.get(name) is not None}


def _grid(table: Table, folded: str = "", most: int = _OPEN) -> Grid | None:
    """A table for the page, one of more rows than `most` folded; None when there is nothing in it."""
    if not table:
        return None
    count = len(table.columns[0].cells)
    cells = zip(*(_cells(column, whole=count <= _WHOLE) for column in table.columns), strict=True)
    rows = [(key, list(row)) for key, row in zip(table.keys or [""] * count, cells, strict=True)]
    label = " ".join((table.title or "quantities", ", ".join(table.names))).strip()
    heads = [units.printable(column.head or "quantity", _LONGEST_NAME) for column in table.columns]
    return Grid(heads, rows, label, folded if count > most else "")


def _cells(column: Column, whole: bool) -> Iterator[Cell]:
    """The cells of a column; if they are not to be whole, with their first number only and without the ends of intervals."""
    longest = _LONGEST_NAME if column.kind == "name" else _LONGEST_TEXT
    for text, numbers in zip(column.cells, column.numbers or [{}] * len(column.cells), strict=True):
        kept = numbers if whole else {name: n for name, n in [*numbers.items()][:1] if not name.endswith("low")}
        yield Cell(units.printable(text, longest), kept, "path" if column.head == "file" else column.kind)


def _slices(report: Report) -> Iterator[tuple[str, str, Grid | None, Grid | None]]:
    """The slices of every --by: its names, facts, the slices themselves and the means over them."""
    count = len(contents.slicings(report))
    for found in columns.slices(report, max(_OPEN, _MOST_ROWS // max(count, 1))):
        names = [units.printable(name, _LONGEST_NAME) for name in found.table.names]
        title = f"{found.table.title[0].upper()}{found.table.title[1:]} {', '.join(names)}"
        means = f"{found.macro.title[0].upper()}{found.macro.title[1:]}"
        yield ", ".join(names), " · ".join(found.facts), _grid(found.table, title), _grid(found.macro, means)


def _ledger(report: Report) -> Table:
    """Every row's fate, and why."""
    ledger = {key: n for key, n in (report.get("ledger") or {}).items() if n}
    lines = {name: report["rows"][name] for name in ("read", "used", "ignored", "invalid")} | ledger
    reasons = [_REASONS.get(name, "") if n else "" for name, n in lines.items()]
    shown = [
        Column("rows", [name.replace("_", " ") for name in lines], 0, "name"),
        Column("count", [units.count(n) for n in lines.values()], 0, numbers=[{"rows": n} for n in lines.values()]),
        Column("because", reasons, 0, "words"),
    ]
    return columns.table_of("rows", shown, list(lines))


def _inputs(report: Report) -> Table:
    """The first files."""
    inputs = (report.get("inputs") or [])[:_MOST_INPUTS]
    sizes = [entry.get("bytes") for entry in inputs]
    shown = [
        Column("file", [units.printable(entry["path"] or "from memory") for entry in inputs], 0, "words"),
        columns.counts("rows", 0, inputs),
        Column("size", ["" if n is None else units.size(n) for n in sizes], 0, numbers=[_picked(e, "bytes") for e in inputs]),
    ]
    return columns.table_of("inputs", shown)
