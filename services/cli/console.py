"""What all commands print with: one console for people, one way of writing JSON, one spelling of times and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from services.kernel.errors import SubakError

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def plain(text: str) -> str:
    """What came from elsewhere, such as a row's values or an outlet's word, as it may be shown: a terminal obeys control characters."""
    return text.translate(_CONTROLS)


class _Console(Console):
    """Shows a control character that stands in a text, whoever wrote it, instead of sending it to the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


console = _Console(highlight=False)
errors = _Console(stderr=True, highlight=False)

PLAIN_WIDTH = 200
"""Columns when the output goes to a file or a pipe, where nothing tells its width."""

if not console.is_terminal:
    console.width = max(console.width, PLAIN_WIDTH)


def explain(error: SubakError) -> None:
    """What happened, and what to do next; never a traceback."""
    errors.print(Text(error.what, style="bold red"), soft_wrap=True)
    if error.todo:
        errors.print(Text(error.todo), soft_wrap=True)
    errors.print(Text(f"[{error.code}]", style="dim"))


def print_json(value: Any) -> None:
    """One JSON document on standard output, whatever the terminal's width."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """One JSON object per line, for output that goes on."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = (), title: str = "") -> Table:
    """A table for people; the cells are plain text, not markup."""
    table = Table(
        show_header=any(columns),
        title=title or None,
        title_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(plain(cell)) for cell in row))
    return table


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def moment(micros: int | None) -> str:
    """A time in µs since 1970 UTC as people read it here: the machine's own zone."""
    if not micros:
        return "-"
    return datetime.fromtimestamp(micros / 1e6).strftime("%Y-%m-%d %H:%M:%S")


def instant(micros: int | None) -> str | None:
    """The same for machines: ISO 8601, UTC."""
    if not micros:
        return None
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
