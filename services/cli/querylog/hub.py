"""The query log of the hub: which batch went to which outlet, and what became of it there."""

from __future__ import annotations

from sqlalchemy import Engine

from services.cli.querylog.entry import Entry
from services.hub import administration
from services.hub.querylog import LogRow


class HubLog:
    """Remembers how far it has read, so that `following` gives each entry once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sequence = 0

    def latest(self, limit: int) -> list[Entry]:
        """The newest entries, the newest last."""
        return self._entries(administration.log(self._engine, limit))[-limit:]

    def following(self) -> list[Entry]:
        """What was stored since the last call."""
        return self._entries(administration.log(self._engine, after=self._sequence))

    def _entries(self, rows: list[LogRow]) -> list[Entry]:
        self._sequence = max([self._sequence, *(row.sequence for row in rows)])
        return [
            Entry(row.executed_at or row.stored_at, row.message, row.status, row.origin, row.outlet or "nobody")
            for row in rows
        ]
