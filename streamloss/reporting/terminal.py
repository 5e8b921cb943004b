"""The report as a person reads it in a terminal: the loss and what it is made of first, where it came from last.

Takes the dictionary of the JSON report and a rich console, and adapts to the console's width: columns that do not fit
are left out, least needed first. Bold and dim carry no meaning, and text of the user's is never markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from streamloss.reporting import columns, units, wording
from streamloss.reporting.columns import Table
from streamloss.reporting.contents import Report
from streamloss.reporting.gates import told
from streamloss.reporting.tables import INDENT, pairs, print_table, ruled, titled, wrapped
from streamloss.terms import Working

_EVERY_CLASS = 10  # up to so many classes are all shown; of more, only the costliest
_COSTLIEST = 5
_MOST_SLICES = 20
_DIGEST_DIGITS = 16
_GIVEN = ("q", "p", "m", "z")  # the columns of a calculation that were typed, not calculated
_EIGHTHS = " ▏▎▍▌▋▊▉"
_OUTCOMES = {"pass": ("✓ pass", "green"), "fail": ("✗ fail", "bold red"), "undecided": ("? undecided", "bold yellow")}


def render(report: Report, console: Console) -> None:
    """Print a report (the dictionary of SPEC §8)."""
    _heading(report, console)
    _gates(report, console)
    _stacked(wording.equation(report), console)
    _stacked(wording.highlights(report), console)
    _lines(wording.infinities(report["metrics"], report["rows"]["used"]), console)
    _table(columns.comparison(report), console)
    _table(columns.between(report), console)
    for table in columns.quantities(report, report["metrics"]):
        _table(table, console)
    _lines(wording.failures(report["metrics"]), console)
    _lines(wording.temperature(report), console)
    _table(columns.temperatures(report), console)
    _slices(report, console)
    _table(columns.conventions(report), console)
    _reliability(report, console)
    _table(columns.classes(report, _EVERY_CLASS, _COSTLIEST), console)
    _lines(wording.ledger(report), console)
    _provenance(report, console)


def _heading(report: Report, console: Console) -> None:
    facts = " · ".join(wording.facts(report))
    console.print()
    console.print(Text.assemble(" " * INDENT, ("streamloss", "bold"), f" {report['command']}   ", facts))
    console.print()


def _gates(report: Report, console: Console) -> None:
    """What became of each rule of --fail-if; the word says it, the colour only finds it faster."""
    if not (gates := report.get("gates")):
        return
    grid = Grid.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for record in gates:
        word, style = _OUTCOMES[record["outcome"]]
        grid.add_row(Text(word, style=style), Text(units.printable(told(record))))
    console.print(Text(" " * INDENT + "the run fails if", style="bold"))
    console.print(Padding(grid, (0, 0, 1, INDENT)))


def _stacked(cells: Sequence[tuple[str, str]], console: Console) -> None:
    """Values in a row, each above its name."""
    if not cells:
        return
    grid = Grid.grid(padding=(0, 2, 0, 0))
    for _ in cells:
        grid.add_column(no_wrap=True)
    grid.add_row(*(Text(value, style="bold") for _, value in cells))
    grid.add_row(*(Text(name) for name, _ in cells))
    console.print(Padding(grid, (0, 0, 1, INDENT)))


def _lines(lines: Sequence[str], console: Console) -> None:
    """Sentences under one another."""
    for line in lines:
        wrapped(line, console)
    if lines:
        console.print()


def _table(table: Table, console: Console) -> None:
    """A table under its title, unless it is empty."""
    if table:
        print_table(table.columns, console, " ".join((table.title, ", ".join(table.names))).strip())


def _slices(report: Report, console: Console) -> None:
    for found in columns.slices(report, _MOST_SLICES):
        names = ", ".join(found.table.names)
        _table(found.table, console)
        lines = [f"By {names}: {', '.join(found.facts)}."]
        _lines([*lines, found.said] if found.said else lines, console)


def _reliability(report: Report, console: Console) -> None:
    found, bins = columns.reliability(report, columns.MOST_BINS)
    if not found:
        return
    taken = sum(max(len(text) for text in (column.head, *column.cells)) + 2 for column in found.columns)
    bar = max(10, min(40, console.width - taken - INDENT - 2))
    table = ruled()
    for column in found.columns:
        table.add_column(column.head, justify="right" if column.right else "left", no_wrap=True)
    table.add_column("observed █   predicted │" if bar >= 24 else "█ obs │ pred"[:bar], no_wrap=True)
    for b, row in zip(bins, found.rows, strict=True):
        table.add_row(*row, _bar(b["accuracy"], b["confidence"], bar))
    titled(found.title, table, console)


def _bar(filled: float, mark: float, width: int) -> Text:
    """A bar of eighths of a cell for a share between 0 and 1, with a mark across it at another share."""
    eighths = round(min(max(filled, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    cells = list(("█" * full + (_EIGHTHS[part] if part else "")).ljust(width))
    at = min(int(min(max(mark, 0.0), 1.0) * width), width - 1)
    cells[at] = "┃" if at < full else "│"
    text = Text("".join(cells))
    # Inside the bar the mark is drawn reversed, or it would be a thin line on nothing between two full blocks.
    if at < full:
        text.stylize("reverse", at, at + 1)
    return text


def _provenance(report: Report, console: Console) -> None:
    lines = wording.provenance(report)
    shown = [(name, " · ".join(facts)[: _DIGEST_DIGITS if name == "digest" else None]) for name, facts in lines]
    pairs(shown, console)


def render_working(working: Working, console: Console) -> None:
    """Print a calculation term by term, with the sum under the terms."""
    console.print()
    console.print(Text.assemble(" " * INDENT, (working.title, "bold"), "   ", working.formula))
    console.print()
    table = ruled()
    table.show_footer = working.total is not None
    for key, head in working.columns.items():
        if key == working.total:
            footer = units.exact(working.value) + f" {working.unit}" if isinstance(working.value, float) else ""
        elif key in ("q", "p"):
            footer = units.given(sum(term[key] for term in working.terms))
        else:
            footer = ""
        table.add_column(head, footer=Text(footer, style="bold"), no_wrap=True)
    for term in working.terms:
        shown = {key: units.given if key in _GIVEN else units.exact for key in working.columns}
        table.add_row(*(show(term[key]) for key, show in shown.items()))
    console.print(Padding(table, (0, 0, 1, INDENT)))
    if working.parts:
        names = " + ".join(name for name, _ in working.parts)
        values = " + ".join(units.exact(value) for _, value in working.parts)
        wrapped(f"= {names} = {values}", console)
    if working.remark:
        wrapped(working.remark, console)
