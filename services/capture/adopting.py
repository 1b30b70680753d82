"""A copy of one outlet's database becomes the database of another outlet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select, update

from services.capture import state, triggers
from services.capture.triggers import Report
from services.kernel import schema
from services.kernel.dialects import Dialect
from services.kernel.errors import PermanentError
from services.kernel.naming import check_outlet_name
from services.kernel.schema import BATCH, CLOUD_QUERY

MAX_SOURCES = 255
"""Characters of the list of sources, and of that of their Ids: what the state's column holds. The oldest go first."""


@dataclass(frozen=True)
class Adopted:
    """`waiting`: changes that the source had not sent when the copy was made; the source sends them itself."""

    source: str
    waiting: int
    triggers: Report


def adopt(engine: Engine, dialect: Dialect, patterns: Sequence[str], name: str, new_epoch: str, now: int) -> Adopted:
    """Gives the database at `engine` (of Purpose.WRITE) to outlet `name`; `now` is in µs since 1970 UTC.

    Neither service, nor the application, may run on it. May be called again when it ended half-way. Raises PermanentError
    `outlet_name`, `no_outlet`, `same_outlet`, and what `triggers.install` raises.
    """
    check_outlet_name(name)
    with engine.connect() as connection:
        if not schema.is_prepared(connection):
            raise _no_outlet()
        schema.prepare(connection, dialect, schema.Side.OUTLET)
    with engine.begin() as connection:
        known = state.read(connection)
        former = known.get(state.OUTLET)
        if former is None:
            raise _no_outlet()
        sources = [source for source in known.get(state.SOURCE, "").split(",") if source]
        waiting = 0
        if former != name:
            ends = [end for end in known.get(state.SOURCE_ENDS, "").split(",") if end]
            last = connection.scalar(select(func.max(CLOUD_QUERY.c.Id))) or 0
            waiting = _take_over(connection, [*sources, former], [*ends, str(last)], name, new_epoch, now)
        elif not sources:
            raise PermanentError(
                "same_outlet",
                f"This database is {name}'s already.",
                "Adopt a copy of another outlet's database. For one that was put back to a backup nothing need be done.",
            )
        else:
            former = sources[-1]  # the last attempt ended before the triggers were there
    return Adopted(former, waiting, triggers.install(engine, dialect, patterns, name))


def _no_outlet() -> PermanentError:
    return PermanentError(
        "no_outlet",
        "This database is no outlet's, nor a copy of one's: it has no name yet.",
        "Copy an outlet's database with Subak's own tables; or, for an outlet of its own, start capture with SUBAK_OUTLET.",
    )


def _take_over(connection: Connection, sources: list[str], ends: list[str], name: str, new_epoch: str, now: int) -> int:
    """What the source had not sent yet it sends itself, under its own numbers; which of it is here is known by `subak_batch` and
    `CloudQuery`, as the applier looks there. The number of those changes."""
    while max(len(",".join(sources)), len(",".join(ends))) > MAX_SOURCES:
        del sources[0], ends[:1]
    state.put(connection, state.OUTLET, name)
    state.put(connection, state.SOURCE, ",".join(sources))
    state.put(connection, state.SOURCE_ENDS, ",".join(ends))
    state.drop(connection, state.CLOCK_SKEW)  # another machine's
    state.begin_epoch(connection, new_epoch)
    connection.execute(update(BATCH).where(BATCH.c.StoredAt.is_(None)).values(StoredAt=now))
    unsent = update(CLOUD_QUERY).where(CLOUD_QUERY.c.ExportFlag == 0).values(ExportFlag=1, BatchNumber=0)
    return int(connection.execute(unsent).rowcount)
