"""What the demo shows while it runs: a table that is drawn again and again, or a line now and then."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.cli.console import console
from services.cli.demo.observing import Line, Moment

PLAIN_SECONDS = 3.0
"""Between two lines where the output is no terminal."""


class View:
    def __init__(self) -> None:
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None
        self._next_line = 0.0
        self._began = time.monotonic()

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """An event worth a line of its own."""
        console.print(Text.assemble((f"{self._seconds:5.1f} s  ", "dim"), text), soft_wrap=True)

    def show(self, moment: Moment, doing: str) -> None:
        if self._live:
            self._live.update(Group(_table(moment), _summary(moment, doing)))
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_SECONDS
            self.say(f"{_summary(moment, doing).plain}  |  " + "  ".join(_brief(line) for line in moment.lines))

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began


def _table(moment: Moment) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("outlet")
    table.add_column("")
    for name in ("own changes", "applied", "to send", "to receive", "lag", "conflicts", "quarantined"):
        table.add_column(name, justify="right")
    for line in moment.lines:
        numbers = [line.own, line.applied, line.waiting, line.owed]
        table.add_row(
            line.name,
            Text("online", "green") if line.online else Text("offline", "bold red"),
            *map(str, numbers),
            f"{line.lag:.1f} s",
            str(line.conflicts),
            str(line.quarantined),
        )
    return table


def _summary(moment: Moment, doing: str) -> Text:
    return Text.assemble(
        (doing, "bold"), f": {moment.rate:.0f} changes/s executed, {moment.queue} deliveries in the hub's queue"
    )


def _brief(line: Line) -> str:
    where = "" if line.online else " (offline)"
    return f"{line.name}{where} own {line.own} applied {line.applied} waiting {line.waiting}+{line.owed}"
