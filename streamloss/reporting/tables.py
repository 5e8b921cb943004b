"""What every terminal page is drawn with: columns that fall away where there is no room, ruled tables, wrapped lines."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streamloss.reporting.columns import Column

FILE_WIDTH = 100
INDENT = 2
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
    """The columns that fit the console, in their order; empty ones are left out."""
    room = console.width - INDENT
    chosen: list[Column] = []
    for column in sorted((c for c in columns if any(c.cells)), key=lambda c: c.rank):
        if column.rank == 0 or sum(_width(c) + 2 for c in (*chosen, column)) <= room:
            chosen.append(column)
    table = ruled()
    kept = [c for c in columns if c in chosen]
    for column in kept:
        table.add_column(Text(column.head), justify="right" if column.right else "left", no_wrap=True)
    for row in zip(*(c.cells for c in kept), strict=True):
        table.add_row(*(Text(cell) for cell in row))
    titled(title, table, console)


def _width(column: Column) -> int:
    return max(cell_len(text) for text in (column.head, *column.cells))


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
