"""Forgetting what nobody needs any more: when to tell the outlets, and, once all have, the hub's own rows, in small steps.

Every function works in the caller's transaction and commits nothing. Times are µs since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from services.hub import state
from services.hub.controls import policies, spoken
from services.hub.horizon import Standing, Told, horizon, kept, stable
from services.hub.storing import lock_counter
from services.kernel.control import HUB, Own, Purge
from services.kernel.schema import HUB_BATCH as BATCH
from services.kernel.schema import HUB_BATCH_PART as PART
from services.kernel.schema import HUB_CONFLICT as CONFLICT
from services.kernel.schema import HUB_DELIVERY as DELIVERY
from services.kernel.schema import HUB_OUTLET as OUTLET
from services.kernel.schema import HUB_PROGRESS as PROGRESS
from services.kernel.schema import HUB_QUARANTINED as QUARANTINED
from services.kernel.wire.messages import Progress

STEP_BATCHES = 500
STEP_BYTES = 64 * 1024 * 1024
"""Removed in one transaction: it holds up what the outlets send for well under a second."""

PURGE_PAUSE_SECONDS = 3600.0
"""Between two purges, so that the outlets are not kept busy with small ones; less where less than this is kept at all."""

PURGED = "purged"
"""The state row that names the sequence of the last Purge of which the hub's own rows are all removed."""


def note(connection: Connection, told: Mapping[str, Progress]) -> None:
    """Keeps what captures told since the last time, and moves every outlet's StableSeen as far as that holds by now."""
    last = lock_counter(connection)
    for outlet, progress in told.items():
        known = select(PROGRESS).where(PROGRESS.c.Outlet == outlet, PROGRESS.c.Seen == progress.seen)
        if connection.execute(known).first() is None:
            connection.execute(
                insert(PROGRESS).values(Outlet=outlet, Seen=progress.seen, Epoch=progress.epoch, Number=progress.number)
            )
    standings = read_standings(connection, last)
    for name, standing in standings.items():
        now_stable = stable(name, standings)
        if now_stable > standing.stable:
            connection.execute(update(OUTLET).where(OUTLET.c.Name == name).values(StableSeen=now_stable))
        wanted = [it.seen for it in kept(standing.told, now_stable)]
        connection.execute(delete(PROGRESS).where(PROGRESS.c.Outlet == name, PROGRESS.c.Seen.not_in(wanted)))


def read_standings(connection: Connection, last: int) -> dict[str, Standing]:
    """Of every outlet that counts. `last` is the last sequence given."""
    active = select(OUTLET).where(OUTLET.c.RemovedAt.is_(None), OUTLET.c.ResyncAt.is_(None))
    return {
        row.Name: Standing(executed(connection, row.Name, last), row.StableSeen, _told(connection, row, last))
        for row in connection.execute(active)
    }


def executed(connection: Connection, outlet: str, last: int) -> int:
    """Up to where the outlet has executed all it is owed."""
    waiting = select(func.min(DELIVERY.c.Sequence)).where(DELIVERY.c.Outlet == outlet, DELIVERY.c.ExportFlag == 0)
    first = connection.scalar(waiting)
    return last if first is None else int(first) - 1


def reach(connection: Connection, outlet: str, position: int, last: int) -> int:
    """The last sequence up to which nothing after `position` is owed to the outlet."""
    following = select(func.min(DELIVERY.c.Sequence)).where(DELIVERY.c.Outlet == outlet, DELIVERY.c.Sequence > position)
    first = connection.scalar(following)
    return last if first is None else int(first) - 1


def _told(connection: Connection, outlet: Row[Any], last: int) -> list[Told]:
    # What lies before a purged delivery says nothing of the time after it: the row that would show so is gone.
    query = select(PROGRESS).where(PROGRESS.c.Outlet == outlet.Name, PROGRESS.c.Seen >= outlet.PurgedSequence)
    return [
        Told(row.Seen, reach(connection, outlet.Name, row.Seen, last), _sequence(connection, outlet, row))
        for row in connection.execute(query).all()
    ]


def _sequence(connection: Connection, outlet: Row[Any], progress: Row[Any]) -> int | None:
    """Under which sequence the batch that the progress names is stored; 0: purged, thus executed everywhere; None: not yet."""
    own = BATCH.c.Origin == outlet.Name
    if progress.Number == 0:  # nothing was cut in this epoch: what was before it counts
        return int(connection.scalar(select(func.max(BATCH.c.Sequence)).where(own)) or 0)
    named = select(BATCH.c.Sequence).where(own, BATCH.c.Epoch == progress.Epoch, BATCH.c.Number == progress.Number)
    found = connection.scalar(named)
    if found is not None:
        return int(found)
    return 0 if progress.Epoch == outlet.Epoch and progress.Number <= outlet.Number else None


def due(connection: Connection, keep_seconds: float, now: int) -> Purge | None:
    """What may be forgotten by now, if it is worth telling. None also while an earlier purge is still under way."""
    purges = [(one.sequence, one.control) for one in spoken(connection) if isinstance(one.control, Purge)]
    before = 0
    if purges:
        sequence, last_purge = purges[-1]
        stored_at = connection.scalar(select(BATCH.c.StoredAt).where(BATCH.c.Sequence == sequence)) or 0
        pause = min(PURGE_PAUSE_SECONDS, keep_seconds)
        if sequence > _purged(connection) or now - stored_at < pause * 1e6:
            return None
        before = last_purge.sequence
    limit = horizon(read_standings(connection, lock_counter(connection)))
    aged = (
        select(BATCH.c.Sequence)
        .where(BATCH.c.StoredAt <= now - int(keep_seconds * 1e6))
        .order_by(BATCH.c.StoredAt.desc(), BATCH.c.Sequence.desc())
        .limit(1)
    )
    limit = min(limit, connection.scalar(aged) or 0)
    own = _own(connection, limit)
    # A purge that nothing but an earlier one would go with is not told: an idle network carries no rows.
    return Purge(limit, own) if limit > before and own else None


def _own(connection: Connection, limit: int) -> dict[str, Own]:
    """The last batch of each outlet's that is stored under a sequence up to `limit`."""
    last = (
        select(func.max(BATCH.c.Sequence))
        .where(BATCH.c.Sequence <= limit, BATCH.c.Origin != HUB)
        .group_by(BATCH.c.Origin)
    )
    rows = connection.execute(select(BATCH).where(BATCH.c.Sequence.in_(last)))
    return {row.Origin: Own(row.Epoch, row.Number) for row in rows}


def _purged(connection: Connection) -> int:
    return int(state.get(connection, PURGED) or 0)


def sweep(connection: Connection) -> bool:
    """Removes a few of the hub's own rows that a purge which all outlets have executed lets go. Whether there may be more.

    What an outlet that was put back meanwhile is owed again stays, and the conflict rules always do.
    """
    last = lock_counter(connection)
    purges = [(one.sequence, one.control) for one in spoken(connection) if isinstance(one.control, Purge)]
    if not purges or purges[-1][0] <= _purged(connection):
        return False
    sequence, purge = purges[-1]
    active = select(OUTLET.c.Name).where(OUTLET.c.RemovedAt.is_(None), OUTLET.c.ResyncAt.is_(None))
    done = min((executed(connection, name, last) for name in connection.scalars(active).all()), default=last)
    if done < sequence:
        return False
    rules = [one.sequence for one in policies(connection)]
    batches = connection.execute(
        select(BATCH)
        .where(BATCH.c.Sequence <= purge.sequence, BATCH.c.Sequence.not_in(rules))
        .order_by(BATCH.c.Sequence)
        .limit(STEP_BATCHES)
    ).all()
    if not batches:
        state.put(connection, PURGED, str(sequence))
        return False
    size, step = 0, 0
    while step < len(batches) and (step == 0 or size + batches[step].Bytes <= STEP_BYTES):
        size += batches[step].Bytes
        step += 1
    _remove(connection, batches[:step], rules)
    return True


def _remove(connection: Connection, batches: Sequence[Row[Any]], rules: list[int]) -> None:
    first, last = batches[0].Sequence, batches[-1].Sequence
    outlets = list(connection.scalars(select(OUTLET.c.Name)))
    owed = (
        select(DELIVERY.c.Outlet, func.max(DELIVERY.c.Sequence).label("Last"))
        .where(
            DELIVERY.c.Outlet.in_(outlets), DELIVERY.c.Sequence.between(first, last), DELIVERY.c.Sequence.not_in(rules)
        )
        .group_by(DELIVERY.c.Outlet)
    )
    purged = {row.Outlet: int(row.Last) for row in connection.execute(owed)}
    epochs: dict[str, str] = {}
    for batch in batches:
        purged[batch.Origin] = max(purged.get(batch.Origin, 0), batch.Sequence)
        epochs[batch.Origin] = batch.Epoch
    for name, sequence in purged.items():
        further = update(OUTLET).where(OUTLET.c.Name == name, OUTLET.c.PurgedSequence < sequence)
        connection.execute(further.values(PurgedSequence=sequence))
        if name in epochs:
            connection.execute(update(OUTLET).where(OUTLET.c.Name == name).values(PurgedEpoch=epochs[name]))
    for batch in batches:
        connection.execute(
            delete(PART).where(
                PART.c.Origin == batch.Origin, PART.c.Epoch == batch.Epoch, PART.c.Number == batch.Number
            )
        )
    for table in (DELIVERY, QUARANTINED, CONFLICT):
        connection.execute(
            delete(table).where(
                table.c.Outlet.in_(outlets), table.c.Sequence.between(first, last), table.c.Sequence.not_in(rules)
            )
        )
    connection.execute(delete(BATCH).where(BATCH.c.Sequence.in_([batch.Sequence for batch in batches])))
