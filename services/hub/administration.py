"""What the operator does at the hub's database: the running hub, if there is one, notices within a second.

Each function is one transaction on an engine that `connect` gave. Raises TransientError or PermanentError.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from services.hub import outlets, state
from services.hub.outlets import Outlet
from services.hub.querylog import LogRow, log_rows
from services.hub.queue import Queue, open_queue
from services.hub.status import OutletStatus
from services.hub.status import status as read_status

ALIVE_SECONDS = 15.0
"""A running hub leaves a sign of life three times as often."""


class HubState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"
    """It did not say that it stops, and has given no sign of life: look at its log."""


class Administration:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def add_outlet(self, name: str, company: str = "", place: str = "") -> None:
        """Raises PermanentError `outlet_name`, `outlet_exists`."""
        self._queue.write(outlets.add, name, company, place, self._queue.now)

    def remove_outlet(self, name: str) -> None:
        """Raises PermanentError `outlet_unknown`."""
        self._queue.write(outlets.remove, name, self._queue.now)

    def list_outlets(self) -> list[Outlet]:
        """By name, without the removed ones."""
        return [outlet for outlet in self._queue.read(outlets.known) if not outlet.removed]

    def ignore(self, outlet: str, origin: str) -> None:
        """`outlet` takes nothing from `origin`: it will not have the same rows. Raises PermanentError `outlet_unknown`."""
        self._queue.write(outlets.ignore, outlet, origin)

    def unignore(self, outlet: str, origin: str) -> None:
        """What it missed meanwhile stays missed. Raises PermanentError `outlet_unknown`."""
        self._queue.write(outlets.unignore, outlet, origin)

    def ignored(self) -> list[tuple[str, str]]:
        """Pairs (outlet, origin)."""
        return self._queue.read(outlets.ignored)

    def pause(self) -> None:
        """Batches are stored, and delivered to nobody, until `resume`."""
        self._queue.write(state.set_paused, True)

    def resume(self) -> None:
        self._queue.write(state.set_paused, False)

    def hub_state(self) -> HubState:
        return self._queue.read(_hub_state, self._queue.now)

    def status(self) -> list[OutletStatus]:
        """By name, without the removed ones."""
        return self._queue.read(read_status, self._queue.now)

    def log(self, limit: int = 50, after: int | None = None) -> list[LogRow]:
        """The last `limit` batches, or the first `limit` whose sequence is greater than `after`; oldest first.

        One row per outlet that each batch is owed to.
        """
        return self._queue.read(log_rows, limit, after)


@contextmanager
def administration(database_url: URL) -> Iterator[Administration]:
    """With the tables created or upgraded. Raises PermanentError `newer_schema`, `engine`; TransientError `connection`."""
    queue = open_queue(database_url, lambda: time.time_ns() // 1000)
    try:
        queue.prepare()
        yield Administration(queue)
    finally:
        queue.close()


def _hub_state(connection: Connection, now: int) -> HubState:
    seen = int(state.get(connection, state.SEEN) or 0)
    if seen == 0:
        return HubState.STOPPED
    if now - seen > ALIVE_SECONDS * 1e6:
        return HubState.FAILED
    return HubState.PAUSED if state.is_paused(connection) else HubState.RUNNING
