"""What the demo knows of its network at a moment: read from the databases, as an operator would."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select

from services.cli.demo.network import Outlet
from services.cli.status import outlet_status
from services.hub import administration
from services.hub.status import OutletStatus
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.errors import TransientError
from services.kernel.schema import CLOUD_QUERY, LEDGER

RATE_SECONDS = 3.0
"""The span over which changes per second are averaged."""


@dataclass(frozen=True)
class Line:
    """One outlet. `own`: changes its shop made; `applied`: changes of others; `waiting` here and `owed` at the hub."""

    name: str
    online: bool
    own: int
    applied: int
    waiting: int
    owed: int
    lag: float
    conflicts: int
    quarantined: int


@dataclass(frozen=True)
class Moment:
    lines: tuple[Line, ...]
    rate: float
    """Changes that were executed per second, at all outlets together."""

    @property
    def all_online(self) -> bool:
        return all(line.online for line in self.lines)

    @property
    def at_rest(self) -> bool:
        return not any(line.waiting or line.owed for line in self.lines)

    @property
    def queue(self) -> int:
        return sum(line.owed for line in self.lines)


class Observer:
    def __init__(self, hub: Engine, outlets: Sequence[Outlet]) -> None:
        self._hub = hub
        self._outlets = [
            (outlet, dialect_for(outlet.url), dialect_for(outlet.url).engine(outlet.url, Purpose.READ))
            for outlet in outlets
        ]
        self._last: dict[str, Line] = {}
        self._executed: deque[tuple[float, int]] = deque()

    def look(self) -> Moment:
        now = time.time_ns() // 1000
        lines = []
        hub = {it.name: it for it in administration.status(self._hub)}
        for outlet, _, engine in self._outlets:
            # A database that is busy for a moment is looked at again the next time.
            with suppress(TransientError), engine.connect() as connection:
                self._last[outlet.name] = _line(outlet.name, connection, hub[outlet.name], now)
            lines.append(self._last[outlet.name])
        return Moment(tuple(lines), self._rate(sum(line.applied for line in lines)))

    def close(self) -> None:
        for _, _, engine in self._outlets:
            engine.dispose()

    def _rate(self, executed: int) -> float:
        now = time.monotonic()
        self._executed.append((now, executed))
        while self._executed[0][0] < now - RATE_SECONDS:
            self._executed.popleft()
        since, before = self._executed[0]
        return (executed - before) / (now - since) if now > since else 0.0


def _line(name: str, connection: Connection, at_hub: OutletStatus, now: int) -> Line:
    own = outlet_status(connection, now)
    return Line(
        name=name,
        online=at_hub.online,
        own=int(connection.scalar(select(func.count()).select_from(CLOUD_QUERY)) or 0),
        applied=int(connection.scalar(select(func.coalesce(func.sum(LEDGER.c.Changes), 0))) or 0),
        waiting=own["changes_waiting"],
        owed=at_hub.waiting,
        lag=max(at_hub.oldest_waiting_seconds, own["oldest_seconds"]),
        conflicts=own["conflicts"],
        quarantined=own["quarantined"],
    )
