"""What every terminal page is drawn with: columns that fall away where there is no room, ruled tables, wrapped lines."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Literal

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streamloss.reporting.columns import Column

FILE_WIDTH = 100
INDENT = 2
_LONGEST_NAME = 34
_SHORTEST_NAME = 8  # of a column that has to give way
_WORDS = 14  # the room that words are given, over as many lines as they need
RULED = Box("    \n    \n ── \n    \n    \n ── \n    \n    \n")


def to_text(draw: Callable[[Console], None], width: int = FILE_WIDTH) -> str:
    """What `draw` prints, as plain text for a file: no colours, no spaces at line ends."""
    buffer = io.StringIO()
    draw(Console(file=buffer, width=width, color_system=None, force_terminal=False))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def shortened(text: str, width: int) -> str:
    shown = Text(text)
    shown.truncate(width, overflow="ellipsis")
    return shown.plain


def ruled() -> Table:
    return Table(box=RULED, show_edge=False, pad_edge=True, header_style="", padding=(0, 1, 0, 0))


def print_table(columns: Sequence[Column], console: Console, title: str = "") -> None:
    """The columns that fit the console, in their order. Names are cut before a number would be, and words go on below."""
    room = console.width - INDENT
    widths: dict[int, int] = {}
    for i, column in sorted(enumerate(columns), key=lambda pair: pair[1].rank):
        width = _width(column)
        if column.rank == 0 or sum(widths.values()) + width + 2 * (len(widths) + 1) <= room:
            widths[i] = width
    table = ruled()
    spare = room - sum(widths.values()) - 2 * len(widths)
    for i in sorted(widths, key=lambda i: -widths[i]):
        if columns[i].kind == "name" and spare < 0:
            cut = max(min(widths[i], _SHORTEST_NAME), widths[i] + spare)
            widths[i], spare = cut, spare + widths[i] - cut
    kept = sorted(widths)
    for i in kept:
        words = columns[i].kind == "words"
        justify: Literal["left", "right"] = "right" if columns[i].right else "left"
        table.add_column(
            Text(shortened(columns[i].head, widths[i])),
            justify=justify,
            no_wrap=not words,
            overflow="fold" if words else "ellipsis",
        )
    for row in zip(*(columns[i].cells for i in kept), strict=True):
        table.add_row(*(_shown(columns[i], cell, widths[i]) for i, cell in zip(kept, row, strict=True)))
    titled(title, table, console)


def _width(column: Column) -> int:
    most = {"name": _LONGEST_NAME, "words": _WORDS}.get(column.kind)
    width = max(cell_len(text) for text in (column.head, *column.cells))
    return width if most is None else min(width, most)


def _shown(column: Column, cell: str, width: int) -> Text:
    return Text(shortened(cell, width) if column.kind == "name" else cell)


def titled(title: str, table: Table, console: Console) -> None:
    if title:
        console.print(Text(" " * INDENT + title, style="bold"))
    console.print(Padding(table, (0, 0, 1, INDENT)))


def wrapped(text: str, console: Console) -> None:
    console.print(Padding(Text(text), (0, 0, 0, INDENT)))


def pairs(lines: Sequence[tuple[str, str]], console: Console) -> None:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in lines:
        grid.add_row(Text(name), Text(text))
    console.print(Padding(grid, (0, 0, 0, INDENT)))
