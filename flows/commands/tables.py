"""The one maker of tables: nothing in them is cut, however narrow the terminal.

A table that is wider than its terminal loses its frame, then the columns that matter least (which
is said), then becomes a list of records. Where no terminal is, each row is one whole line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tasks.system.terminal import shown_in

# As wide as any line: what a program reads is not broken.
UNLIMITED = 100_000
# A column of names or sentences may be broken down to this.
_LEAST = 12
_GAP = 2


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its heading.
        right: Whether it holds numbers, to be set to the right.
        fold: Whether its text may be broken to more lines.
        spare: Whether it is left out where the table is too wide; the last such column goes first.
    """

    name: str
    right: bool = False
    fold: bool = False
    spare: bool = False


def open_console(stderr: bool = False) -> Console:
    """The terminal, as wide as it is, or as COLUMNS says; unlimited where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        width = int(given)
    else:
        try:
            # 0 is what a terminal says that does not know.
            width = os.get_terminal_size(stream.fileno()).columns or 80
        except (AttributeError, ValueError, OSError):
            width = UNLIMITED
    return Console(stderr=stderr, width=width)


def show_table(
    console: Console,
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    caption: str = "",
) -> None:
    """Print a table.

    Args:
        console: Its width and encoding count.
        title: Above it; empty for none.
        columns: The first is what a record is called by where a row becomes one.
        rows: A cell for each column, of one or more lines.
        caption: Below it; empty for none.
    """
    rows = [[shown_in(cell, console.encoding) for cell in row] for row in rows]
    if console.width >= UNLIMITED:
        rows = [[" ".join(cell.split("\n")) for cell in row] for row in rows]
    kept = list(range(len(columns)))
    widths = [_needed(column, [row[at] for row in rows]) for at, column in enumerate(columns)]
    framed = sum(widths) + 3 * len(columns) + 1 <= console.width
    spare = [at for at, column in enumerate(columns) if column.spare]
    while not framed and spare and not _fits(widths, kept, console.width):
        kept.remove(spare.pop())
    if title:
        console.print(Text(shown_in(title, console.encoding), style="bold"))
    if not framed and not _fits(widths, kept, console.width):
        _print_records(console, columns, rows)
    else:
        _print_grid(console, columns, rows, kept, framed)
        if dropped := [column.name for at, column in enumerate(columns) if at not in kept]:
            said = f"Left out, as it is narrow here: {', '.join(dropped)} (a wider terminal, a "
            caption = f"{caption} {said}pipe or --json has all)".strip()
    if caption:
        console.print(Text(shown_in(caption, console.encoding), style="dim italic"))


def show_pairs(console: Console, title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Print names with their values beside them, or beneath where it is narrow."""
    if title:
        console.print(Text(shown_in(title, console.encoding), style="bold"))
    _print_pairs(console, [(n, shown_in(v, console.encoding)) for n, v in pairs], "bold")


def _needed(column: Column, cells: Sequence[str]) -> int:
    lines = [line for cell in (column.name, *cells) for line in cell.split("\n")]
    widest = max(cell_len(line) for line in lines)
    return min(widest, _LEAST) if column.fold else widest


def _fits(widths: Sequence[int], kept: Sequence[int], width: int) -> bool:
    return sum(widths[at] for at in kept) + _GAP * (len(kept) - 1) <= width


def _print_grid(
    console: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    kept: Sequence[int],
    framed: bool,
) -> None:
    bare = {"box": SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
    table = Table(**({} if framed else bare))  # type: ignore[arg-type]
    for column in (columns[at] for at in kept):
        table.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=not column.fold,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(row[at]) for at in kept))
    console.print(table)


def _print_records(
    console: Console, columns: Sequence[Column], rows: Sequence[Sequence[str]]
) -> None:
    """Each row by itself: its first cell, and beneath it the others with their names."""
    for row in rows:
        head = " ".join(part for part in (columns[0].name, *row[0].split("\n")) if part)
        console.print(Text(head, style="bold", overflow="fold"))
        cells = zip(columns[1:], row[1:], strict=True)
        filled = [(f"  {of.name}", " ".join(cell.split("\n"))) for of, cell in cells if cell]
        _print_pairs(console, filled, "")


def _print_pairs(console: Console, pairs: Sequence[tuple[str, str]], style: str) -> None:
    names = max((cell_len(name) for name, _ in pairs), default=0)
    if names + _GAP + 2 * _LEAST > console.width:
        for name, value in pairs:
            if name:
                console.print(Text(name, style=style, overflow="fold"))
            console.print(Padding(Text(value, overflow="fold"), (0, 0, 0, 2 * _GAP)))
        return
    table = Table.grid(padding=(0, _GAP, 0, 0))
    table.add_column(style=style, no_wrap=True)
    # Folded, not cut: hashes are there to be copied.
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(Text(name), Text(value))
    console.print(table)
