"""Tables for people, all alike: aligned, with colour on a terminal that wants it, as wide as the terminal and no wider."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Container, Sequence

import click

_GAP = "  "
_LEAST = 8


def coloured() -> bool | None:
    """As click.echo takes it: never with NO_COLOR (no-color.org), else on a terminal."""
    return False if os.environ.get("NO_COLOR") else None


def width() -> int | None:
    """Columns of the terminal; None where there is none, and nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def show(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Container[str] = (), spare: Sequence[str] = (),
         elastic: str = "", colours: dict[str, dict[str, str]] | None = None) -> None:
    """Prints rows below their heads. `right` columns are aligned to the right.

    On a terminal that is too narrow, the columns `spare` are left out, in their order, and then `elastic` is cut. `colours` has
    those of a column's texts.
    """
    for line in layout(head, rows, right=right, spare=spare, elastic=elastic, colours=colours or {}, most=width()):
        click.echo(line, color=coloured())


def layout(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Container[str] = (), spare: Sequence[str] = (),
           elastic: str = "", colours: dict[str, dict[str, str]] | None = None, most: int | None = None) -> list[str]:
    """The lines of a table at most `most` wide, if that can be."""
    columns = list(range(len(head)))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in columns]

    def over() -> int:
        taken = sum(widths[column] for column in columns) + len(_GAP) * (len(columns) - 1)
        return 0 if most is None else max(0, taken - most)

    for name in spare:
        if over():
            columns.remove(head.index(name))
    if elastic in head and head.index(elastic) in columns:
        at = head.index(elastic)
        widths[at] = max(widths[at] - over(), min(_LEAST, widths[at]))
    return [_line([_cell(row[column], widths[column], head[column] in right) for column in columns],
                  [_colour(head[column], row[column], (colours or {}), first=not number) for column in columns])
            for number, row in enumerate((head, *rows))]


def _cell(text: str, size: int, right: bool) -> str:
    text = text if len(text) <= size else f"{text[:size - 1]}…"
    return text.rjust(size) if right else text.ljust(size)


def _colour(column: str, text: str, colours: dict[str, dict[str, str]], *, first: bool) -> str:
    return "bold" if first else colours.get(column, {}).get(text, "")


def _line(cells: list[str], styles: list[str]) -> str:
    cells[-1] = cells[-1].rstrip()
    return _GAP.join(styled(cell, style) for cell, style in zip(cells, styles, strict=True)).rstrip()


def styled(text: str, style: str) -> str:
    """`bold`, a colour's name, or nothing; blanks around it stay plain."""
    inner = text.strip()
    if not style or not inner:
        return text
    made = click.style(inner, bold=True) if style == "bold" else click.style(inner, fg=style)
    return text.replace(inner, made, 1)


def duration(seconds: float | None) -> str:
    """Short, for people: `0.3s`, `12s`, `3m05s`, `2h10m`, `4d03h`; `-` where there is none."""
    if seconds is None:
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def seconds(value: float) -> str:
    """As `duration`, with more of a second: `0.29s`, `14.5s`."""
    return f"{value:.2f}s" if value < 9.995 else f"{value:.1f}s" if value < 59.95 else duration(value)


def size(value: int) -> str:
    """Of memory: `512M`, `1.5G`."""
    return f"{value >> 20}M" if value < 1 << 30 else f"{value / (1 << 30):.1f}".removesuffix(".0") + "G"


def plain(text: str) -> str:
    """What users or guests may have written, on one line and harmless on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
