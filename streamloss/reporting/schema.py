"""What `streamloss inspect` shows: the columns, what would be used of them, and the command to type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from streamloss.reporting import units
from streamloss.reporting.columns import Column
from streamloss.reporting.tables import INDENT, pairs, print_table, shortened, wrapped
from streamloss.reporting.wording import MOST_INPUTS

_LONGEST_RUN = 4  # of more columns alike, the first and the last are shown


def render_inspection(found: dict[str, Any], console: Console) -> None:
    """Print what `inspect` found: the columns, how they are read, the command to type or what stands in its way."""
    facts = [units.counted(len(found["files"]), "file")]
    if found.get("rows") is not None:
        facts.append(units.counted(found["rows"], "row"))
    if found.get("row_groups") is not None:
        facts.append(units.counted(found["row_groups"], "row group"))
    if found.get("bytes") is not None:
        facts.append(units.size(found["bytes"]))
    console.print()
    console.print(Text.assemble(" " * INDENT, ("streamloss", "bold"), " inspect   ", " · ".join(facts)))
    console.print()

    rows = _folded(found["columns"])

    def cells(show: Callable[[dict[str, Any]], object]) -> list[str]:
        return ["" if value is None else units.printable(value) for value in map(show, rows)]

    columns = [
        Column("column", [units.printable(c["name"]) for c in rows], 0, "name"),
        Column("used as", cells(lambda c: c.get("role")), 1, "name"),
        Column("type", [shortened(text, 34) for text in cells(lambda c: c.get("type"))], 0, "name"),
        Column("layout", cells(lambda c: c.get("layout")), 4, "name"),
        Column("classes", cells(lambda c: c.get("classes")), 2),
        Column("numbers", cells(lambda c: c.get("dtype")), 5, "name"),
        Column("nulls", cells(_nulls), 7, "name"),
        Column("size", ["" if c.get("bytes") is None else units.size(c["bytes"]) for c in rows], 3),
        Column("stored as", cells(_storage), 6, "name"),
    ]
    print_table([c for c in columns if any(c.cells)], console)

    lines: list[tuple[str, str]] = [
        ("input" if i == 0 else "", units.printable(f["path"])) for i, f in enumerate(found["files"][:MOST_INPUTS])
    ]
    if len(found["files"]) > MOST_INPUTS:
        lines.append(("", f"and {units.counted(len(found['files']) - MOST_INPUTS, 'more file', 'more files')}"))
    for key, value in (*((key, found.get(key)) for key in ("family", "classes")), ("reader", _reader(found))):
        if value:
            lines.append((key, units.printable(value)))
    lines += _advice(found.get("advice"))
    if found.get("problem"):
        lines.append(("problem", units.printable(found["problem"])))
    pairs(lines, console)
    if (command := found.get("command")) and not found.get("problem"):
        console.print()
        wrapped("to evaluate:", console)
        # A command is there to be copied, so the terminal breaks it where it must and no line break is put in.
        console.print(Text(f"{' ' * INDENT}{units.printable(command)}", style="bold"), soft_wrap=True)


def _advice(found: list[dict[str, Any]] | None) -> list[tuple[str, str]]:
    """What would read faster, a line each."""
    if found is None:
        return []
    texts = [f"{each['column']}: {each['text']}" if each["column"] else each["text"] for each in found]
    return [
        ("advice" if i == 0 else "", units.printable(text))
        for i, text in enumerate(texts or ["nothing would read much faster"])
    ]


def _reader(found: dict[str, Any]) -> str | None:
    """Who reads, and why pyarrow where it does."""
    reader = found.get("reader")
    left = [column for column in found["columns"] if column.get("reader_reason")]
    if not left:
        return None if reader is None else str(reader)
    names = ", ".join(repr(column["name"]) for column in left[:3]) + (", …" if len(left) > 3 else "")
    reasons = "; ".join(dict.fromkeys(column["reader_reason"] for column in left[:3]))
    return f"{'arrow' if reader == 'arrow' else 'pages, arrow'} for {names} ({reasons})"


def _folded(columns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Long runs of columns that differ in a number alone (p_0 … p_999) as one line each."""
    runs: list[list[dict[str, Any]]] = []
    for column in columns:
        if runs and _alike(runs[-1][-1], column):
            runs[-1].append(column)
        else:
            runs.append([column])
    lines: list[dict[str, Any]] = []
    for run in runs:
        if len(run) <= _LONGEST_RUN:
            lines += run
        else:
            sizes = [column.get("bytes") for column in run]
            name = f"{run[0]['name']} … {run[-1]['name']}"
            lines.append(run[0] | {"name": name, "bytes": None if None in sizes else sum(filter(None, sizes))})
    return lines


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    same = all(one.get(key) == other.get(key) for key in ("type", "role", "layout", "dtype", "classes", "nullable"))
    return same and one["name"] != other["name"] and _stem(one) == _stem(other)


def _stem(column: dict[str, Any]) -> str:
    return str(column["name"]).rstrip("0123456789")


def _nulls(column: dict[str, Any]) -> str | None:
    nullable = column.get("nullable")
    return None if nullable is None else "allowed" if nullable else "none"


def _storage(column: dict[str, Any]) -> str | None:
    words = [*(column.get("encodings") or ()), column.get("codec")]
    return ", ".join(str(word) for word in words if word) or None
