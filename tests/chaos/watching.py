"""Somebody who looks on at an outlet all the time: no transaction may be seen in part, at any moment."""

from __future__ import annotations

import threading

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.chaos.company import BALANCE, PAIRS
from tests.chaos.gate import Gate
from tests.stack.network import Outlet

LOOK_SECONDS = 0.4

HALVES = (
    "SELECT o.id, o.row_count, COUNT(l.n) FROM operation o LEFT JOIN operation_line l ON l.operation_id = o.id"
    " GROUP BY o.id, o.row_count HAVING COUNT(l.n) <> o.row_count"
)
"""Operations of which not all lines are there."""

SUMS = "SELECT owner, SUM(balance) FROM account GROUP BY owner"


class Watcher(threading.Thread):
    """Looks until `stopping` is set. `seen`: what should never be seen; `error`: a fault of the test's own."""

    def __init__(self, outlet: Outlet, gate: Gate) -> None:
        super().__init__(daemon=True, name=f"watcher-{outlet.name}")
        self.stopping = threading.Event()
        self.looks = 0
        self.seen: list[str] = []
        self.error: BaseException | None = None
        self._outlet = outlet
        self._gate = gate

    def run(self) -> None:
        try:
            while not self.stopping.wait(LOOK_SECONDS):
                try:
                    with self._gate.open():
                        self.seen += halves(self._outlet)
                    self.looks += 1
                except DBAPIError:
                    continue  # the database is away
        except BaseException as error:
            self.error = error


def halves(outlet: Outlet) -> list[str]:
    """What one look, in one snapshot, finds of transactions that are there in part."""
    with outlet.reader.begin() as connection:
        operations = connection.execute(text(HALVES)).all()
        sums = connection.execute(text(SUMS)).all()
    found = [f"{outlet.name}: operation {name} has {there} of {lines} lines" for name, lines, there in operations]
    whole = 2 * PAIRS * BALANCE
    return found + [f"{outlet.name}: the accounts of {owner} have {total}" for owner, total in sums if total != whole]
