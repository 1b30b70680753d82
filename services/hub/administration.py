"""What the operator does at the hub's database: the running hub, if there is one, notices within a second.

Each function is one transaction on an engine for that database: of `Purpose.WRITE` where something is changed. Errors of the
driver are the caller's to classify. Times are µs since 1970 UTC.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum

from sqlalchemy import Connection, Engine

from services.hub import certificates, outlets, reporting, state
from services.hub.outlets import Outlet
from services.hub.querylog import LogRow, log_rows
from services.hub.reporting import ConflictTold, Difference
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


def add(engine: Engine, name: str, company: str = "", place: str = "") -> None:
    """From now on `name` is owed what others store. Raises PermanentError `outlet_name`, `outlet_exists`."""
    with engine.begin() as connection:
        outlets.add(connection, name, company, place, _now())


def introduce(engine: Engine, names: Sequence[str]) -> list[str]:
    """Adds those that this hub has never heard of, and returns them; one that was removed stays so. Raises as `add`."""
    with engine.begin() as connection:
        known = {outlet.name for outlet in outlets.known(connection)}
        new = [name for name in names if name not in known]
        for name in new:
            outlets.add(connection, name, "", "", _now())
    return new


def number(engine: Engine, name: str) -> int:
    """Which of the outlets it is, from 1: no two ever have the same. Raises PermanentError `outlet_unknown`."""
    with engine.begin() as connection:
        return outlets.number(connection, name)


def remove(engine: Engine, name: str) -> None:
    """`name` is owed nothing any more, and may not connect. Raises PermanentError `outlet_unknown`."""
    with engine.begin() as connection:
        outlets.remove(connection, name, _now())


def listed(engine: Engine) -> list[Outlet]:
    """By name, without the removed ones."""
    with engine.connect() as connection:
        return [outlet for outlet in outlets.known(connection) if not outlet.removed]


def ignore(engine: Engine, outlet: str, origin: str) -> None:
    """`outlet` takes nothing from `origin`: their rows will differ. Raises PermanentError `outlet_unknown`, `ignore_self`."""
    with engine.begin() as connection:
        outlets.ignore(connection, outlet, origin)


def unignore(engine: Engine, outlet: str, origin: str) -> None:
    """What it missed meanwhile stays missed. Raises PermanentError `outlet_unknown`."""
    with engine.begin() as connection:
        outlets.unignore(connection, outlet, origin)


def ignored(engine: Engine) -> list[tuple[str, str]]:
    """Pairs (outlet, origin)."""
    with engine.connect() as connection:
        return outlets.ignored(connection)


def pause(engine: Engine) -> None:
    """Batches are stored, and delivered to nobody, until `resume`."""
    with engine.begin() as connection:
        state.set_paused(connection, True, _now())


def resume(engine: Engine) -> None:
    with engine.begin() as connection:
        state.set_paused(connection, False, _now())


def hub_state(engine: Engine) -> HubState:
    with engine.connect() as connection:
        return _hub_state(connection, _now())


def status(engine: Engine) -> list[OutletStatus]:
    """How far each outlet is; by name, without the removed ones."""
    with engine.connect() as connection:
        return read_status(connection, _now())


def certificate_ends(engine: Engine) -> int | None:
    """µs since 1970 UTC: until when the hub's own certificate is good; None: it has none, or has not run since it has."""
    with engine.connect() as connection:
        return certificates.own(connection)


def log(engine: Engine, limit: int = 50, after: int | None = None) -> list[LogRow]:
    """The last `limit` batches, or the first `limit` whose sequence is greater than `after`; oldest first.

    One row per outlet that a batch is owed to; one row with no outlet when it is owed to nobody.
    """
    with engine.connect() as connection:
        return log_rows(connection, limit, after)


def differences(engine: Engine) -> list[Difference]:
    """Tables that are not the same at all outlets."""
    with engine.connect() as connection:
        return reporting.differences(connection)


def conflicts(engine: Engine, limit: int = 50) -> list[ConflictTold]:
    """The newest conflicts that any outlet decided and told of, oldest first."""
    with engine.connect() as connection:
        return reporting.conflicts(connection, limit)


def _hub_state(connection: Connection, now: int) -> HubState:
    seen = int(state.get(connection, state.SEEN) or 0)
    if seen == 0:
        return HubState.STOPPED
    if now - seen > ALIVE_SECONDS * 1e6:
        return HubState.FAILED
    return HubState.PAUSED if state.is_paused(connection) else HubState.RUNNING


def _now() -> int:
    return time.time_ns() // 1000
