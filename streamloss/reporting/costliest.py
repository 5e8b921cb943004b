"""The costliest rows in the terminal, slice by slice, from plain dicts; which rows these are was decided before.

The record: `title`, `key` and `unit` of the cost, `titles` of the quantities by key, `kept` columns, `more` rows that are not
shown, and `tables`, one of all rows and one a --by: {"by": [columns], "rows": [{column: value}]}.
"""

from __future__ import annotations

from typing import Any

from streamloss.reporting import units
from streamloss.reporting.columns import Column, table_of
from streamloss.reporting.names import OTHER
from streamloss.reporting.tables import print_table, shortened, wrapped

_FILE_WIDTH = 32
_CELL_WIDTH = 24

Rows = list[dict[str, Any]]


def render(record: dict[str, Any], console: Any) -> None:
    """Print the tables."""
    files = {row["file"] for table in record["tables"] for row in table["rows"]}
    for table in record["tables"]:
        rows, by = table["rows"], table["by"]
        if rows:
            found = table_of(_title(record, by, files), _columns(record, rows, by, len(files) > 1))
            print_table(found.columns, console, found.title)
    if record["more"]:
        wrapped(f"{units.counted(record['more'], 'more row')}: -o writes all", console)
    elif not any(table["rows"] for table in record["tables"]):
        wrapped("no row is used, so there is no worst one", console)


def _title(record: dict[str, Any], by: list[str], files: set[str | None]) -> str:
    where = f" of every {', '.join(map(_text, by))}" if by else ""
    only = next(iter(files)) if len(files) == 1 else None
    return f"worst rows{where} by {record['title']}{'' if only is None else f', {units.printable(only)}'}"


def _columns(record: dict[str, Any], rows: Rows, by: list[str], show_file: bool) -> list[Column]:
    """Which slice, which row, what it cost; then as many of the others as there is room for."""
    cost, titles = record["key"], record["titles"]
    # For a hard label some quantities are the cost itself, or nothing.
    others = [key for key in titles if any(row[key] not in (0, row[cost]) for row in rows)]
    kept = [name for name in record["kept"] if name not in by]
    return [
        *(Column(_text(name), [_slice(row, name) for row in rows], 0, "name") for name in by),
        Column("", [units.count(row["rank"]) for row in rows] if by else [], 0),
        Column("file", [_file(row["file"]) for row in rows] if show_file else [], 0, "name"),
        Column("row", [units.count(row["row"]) for row in rows], 0),
        Column(_head(record, cost), [_number(row[cost], cost) for row in rows], 0),
        *(Column(name, [_text(row[name]) for row in rows], 1) for name in ("label", "prediction") if name in rows[0]),
        *(Column(_text(name), [_text(row[name]) for row in rows], 2 + i, "name") for i, name in enumerate(kept)),
        *(
            Column(_head(record, key), [_number(row[key], key) for row in rows], 2 + len(kept) + i)
            for i, key in enumerate(others)
        ),
    ]


def _head(record: dict[str, Any], key: str) -> str:
    title, unit = record["titles"][key]
    return f"{title}, {unit}" if unit else str(title)


def _number(value: float, key: str) -> str:
    return units.number(value, percent=units.is_percent(key))


def _slice(row: dict[str, Any], name: str) -> str:
    return OTHER if row["other"] else _text(row[name])


def _text(value: object) -> str:
    if isinstance(value, float):
        return units.number(value)
    return shortened(units.printable("null" if value is None else value), _CELL_WIDTH)


def _file(path: str | None) -> str:
    """The end of a long path tells more than its beginning."""
    text = units.printable("null" if path is None else path)
    return text if len(text) <= _FILE_WIDTH else "…" + text[1 - _FILE_WIDTH :]
