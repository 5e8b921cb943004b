"""The report as Markdown, for a pull request, a job's summary or a wiki: GitHub's tables, no HTML, nothing hidden.

Text of the user's (paths, names of classes and slices, rules) stands in code spans, where nothing is markup and where GitHub
looks for no @mention, #123 or URL; a backslash would not keep it from that. The rest is escaped, for a reason may quote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from streamloss.reporting import columns, contents, units, wording
from streamloss.reporting.columns import Column, Table
from streamloss.reporting.contents import Report
from streamloss.reporting.units import Given

_EVERY_CLASS = 20  # up to so many classes are all shown, and of more the costliest so many
_MOST_SLICES = 50
_WIDEST_PAD = 40  # cells are padded to one width for those who read the source, up to here
_NO_BREAK = "\N{NO-BREAK SPACE}"
_OUTCOMES = {"pass": "✅", "fail": "❌", "undecided": "❓"}
# What is markup anywhere in a line. GitHub looks for the second half after the Markdown is done, when a backslash is gone;
# a sign that stands in a code span of its own is not found.
_MARKUP = re.compile(r"[\\`*_\[\]<>&~|$]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_FOUND_LATER = re.compile(r"@(?=\w)|#(?=\d)|:(?=[\w+-]+:)")
_LEADING = re.compile(r"^((?:\d+(?=[.)](?:\s|$)))?)(?=[-+#.)])")  # of a list or a heading


def encode(report: Report) -> bytes:
    """The report (the dictionary of SPEC §8) as UTF-8 Markdown."""
    return ("\n\n".join(_blocks(report)) + "\n").encode("utf-8", errors="backslashreplace")


def escape(text: str) -> str:
    """Text that reads as it is written wherever in a line of Markdown it stands."""
    pieces = re.split(f"({_FOUND_LATER.pattern})", text)
    return "".join(f"`{piece}`" if i % 2 else _MARKUP.sub(r"\\\g<0>", piece) for i, piece in enumerate(pieces))


def code(text: str) -> str:
    """A code span of the text as it is."""
    if not text:
        return ""
    runs = {len(run) for run in re.findall("`+", text)}
    fence = "`" * next(n for n in range(1, len(runs) + 2) if n not in runs)
    # Of a span that begins and ends with a space, one is taken off at either end, unless there is nothing else in it.
    pad = " " if text[0] == "`" or text[-1] == "`" or (text[0] == text[-1] == " " and text.strip(" ")) else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _inline(text: str) -> str:
    return code(text) if isinstance(text, Given) else escape(text)


def _line(parts: Sequence[str]) -> str:
    """Facts in a row; where they stand at the beginning of a line they make no list and no heading."""
    return _LEADING.sub(r"\1\\", " · ".join(_inline(part) for part in parts if part))


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_line([line])}" for line in lines)


def _heading(title: str, names: Sequence[str] = ()) -> str:
    """A heading of the second level, with names that end it."""
    return f"## {escape(title[0].upper() + title[1:])} {', '.join(map(_inline, names))}".rstrip()


def _cell(text: str, column: Column, together: str) -> str:
    """A cell, its pipes kept from ending it, and a number's `together` kept from being broken over two lines."""
    if isinstance(text, Given):
        return code(text).replace("|", "\\|")
    return escape(text.replace(together, together.replace(" ", _NO_BREAK)) if column.right else text)


def _section(table: Table) -> Iterator[str]:
    """A table under its title, unless it is empty."""
    if table:
        yield _heading(table.title, table.names)
        yield _grid(table.columns)


def _grid(shown: Sequence[Column]) -> str:
    grid = [[_cell(column.head, column, " %"), *(_cell(text, column, " ") for text in column.cells)] for column in shown]
    widths = [min(_WIDEST_PAD, max(3, *map(len, cells))) for cells in grid]

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def padded(row: Sequence[str]) -> Iterator[str]:
        for text, column, width in zip(row, shown, widths, strict=True):
            yield text.rjust(width) if column.right else text.ljust(width)

    rule = ["-" * (width - column.right) + ":" * column.right for column, width in zip(shown, widths, strict=True)]
    head, *rows = zip(*grid, strict=True)
    return "\n".join([line([*padded(head)]), line(rule), *(line([*padded(row)]) for row in rows)])


def _blocks(report: Report) -> Iterator[str]:
    """The parts of the document, to be parted by empty lines."""
    yield from _top(report)
    yield from _gates(report)
    yield from _section(columns.comparison(report))
    yield from _section(columns.between(report))
    yield _heading("Metrics")
    yield from _metrics(report, report["metrics"])
    if baseline := contents.baseline(report):
        yield _heading("Metrics of the old model")
        yield from _metrics(report, baseline)
    if found := wording.temperature(report):
        yield _heading("Temperature")
        yield _line(found)
        yield _grid(columns.temperatures(report).columns)
    yield from _slices(report)
    yield from _section(columns.conventions(report))
    yield from _section(columns.reliability(report, columns.MOST_BINS)[0])
    yield from _section(columns.classes(report, _EVERY_CLASS, _EVERY_CLASS))
    yield _heading("Ledger")
    yield _list(wording.ledger(report) or [f"{units.counted(report['rows']['read'], 'row')} read, and every one used."])
    yield _heading("Where it came from")
    yield _provenance(report)


def _top(report: Report) -> Iterator[str]:
    """The title, how much there was, and the loss with what it is made of."""
    yield f"# streamloss {escape(units.printable(report['command']))}"
    inputs = report.get("inputs") or []
    more = [f"and {units.counted(len(inputs) - 1, 'more file', 'more files')}"] if len(inputs) > 1 else []
    yield _line([*wording.facts(report), *(units.printable(entry["path"]) for entry in inputs[:1]), *more])
    if cells := wording.equation(report):
        (name, value), *rest, (_, unit) = cells
        words = [f"**{escape(name)} {escape(value)}**"]
        words += [escape(name if name == value else f"{name} {value}") for name, value in (*rest, ("", unit))]
        yield " ".join(word.strip() for word in words)
    if found := wording.highlights(report):
        yield _line([f"{name} {value}" for name, value in found])


def _gates(report: Report) -> Iterator[str]:
    gates = report.get("gates")
    if not gates:
        return
    yield _heading("Gates")
    values = [gate.get("value") for gate in gates]
    reasons = [str(units.printable(gate.get("reason") or "")) for gate in gates]
    shown = [
        Column("", [f"{_OUTCOMES[gate['outcome']]} {gate['outcome']}" for gate in gates], 0, "words"),
        Column("fails if", [units.printable(gate["rule"]) for gate in gates], 0, "name"),
        Column("value", ["" if value is None else units.given(float(value)) for value in values], 0),
        Column("why", reasons, 0, "words"),
    ]
    yield _grid(columns.table_of("gates", shown).columns)


def _metrics(report: Report, metrics: dict[str, Any]) -> Iterator[str]:
    for line in wording.infinities(metrics, report["rows"]["used"]):
        yield _line([line])
    for table in columns.quantities(report, metrics):
        yield _grid(table.columns)
    if failures := wording.failures(metrics):
        yield _list(failures)


def _slices(report: Report) -> Iterator[str]:
    for found in columns.slices(report, _MOST_SLICES):
        yield _heading(found.table.title, found.table.names)
        yield _line(found.facts)
        for table in filter(None, (found.table, found.macro)):
            yield _grid(table.columns)


def _provenance(report: Report) -> str:
    lines = [(name, _line(facts)) for name, facts in wording.provenance(report)]
    if report.get("version"):
        lines.append(("version", _line([f"streamloss {report['version']}"])))
    return "\n".join(f"- **{name}** {text}" if name else f"- {text}" for name, text in lines)
