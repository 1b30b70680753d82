"""The outlets a hub knows: added, removed, online or not, and who takes nothing from whom.

Every function works in the caller's transaction and commits nothing. Times are µs since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from services.hub import certificates, state
from services.hub.controls import policies
from services.hub.storing import lock_counter
from services.kernel.change import GENESIS
from services.kernel.errors import PermanentError
from services.kernel.naming import check_outlet_name
from services.kernel.schema import HUB_DELIVERY as DELIVERY
from services.kernel.schema import HUB_IGNORE as IGNORE
from services.kernel.schema import HUB_MISFIT as MISFIT
from services.kernel.schema import HUB_OUTLET as OUTLET
from services.kernel.schema import HUB_PROGRESS as PROGRESS
from services.kernel.schema import HUB_TABLE as TABLE
from services.kernel.wire.messages import OutletInfo


@dataclass(frozen=True)
class Outlet:
    name: str
    company: str
    place: str
    online: bool
    removed: bool
    seen_at: int | None
    conflicts: int
    quarantined: int
    resync_at: int | None = None
    """Since when it has been given up: it needs a newer database."""
    resync_reason: str = ""
    skew_micros: int | None = None
    """By how much the hub's clock is ahead of its database's; None: not told."""

    @property
    def info(self) -> OutletInfo:
        return OutletInfo(self.name, self.company, self.place, self.online)


def known(connection: Connection) -> list[Outlet]:
    """All outlets by name, the removed ones too."""
    return [
        Outlet(
            name=row.Name,
            company=row.Company,
            place=row.Place,
            online=bool(row.Online),
            removed=row.RemovedAt is not None,
            seen_at=row.SeenAt,
            conflicts=row.Conflicts,
            quarantined=row.Quarantined,
            resync_at=row.ResyncAt,
            resync_reason=row.ResyncReason,
            skew_micros=row.SkewMicros,
        )
        for row in connection.execute(select(OUTLET).order_by(OUTLET.c.Name))
    ]


def add(connection: Connection, name: str, company: str, place: str, now: int) -> None:
    """From now on `name` is owed what others store, and before that, the conflict rules as they came to be. One that was removed
    comes back and keeps its batch numbers.

    Raises PermanentError `outlet_name`, `outlet_exists`.
    """
    check_outlet_name(name)
    last = lock_counter(connection)
    row = connection.execute(select(OUTLET).where(OUTLET.c.Name == name)).one_or_none()
    if row is None:
        connection.execute(
            insert(OUTLET).values(
                Name=name,
                Company=company,
                Place=place,
                AddedAt=now,
                Epoch="",
                Number=0,
                Digest=GENESIS,
                LastSequence=0,
                Online=0,
                Conflicts=0,
                Quarantined=0,
                AppliedEpoch="",
                StableSeen=last,  # it begins with the rows that the others have by now
                PurgedSequence=0,
                PurgedEpoch="",
                ResyncReason="",
            )
        )
    elif row.RemovedAt is None:
        todo = "Choose another name."
        if row.ResyncAt is not None:
            todo = f"It was given up: let `subak outlet adopt {name}` make a newer copy its database, and start its services."
        raise PermanentError("outlet_exists", f"There is an outlet {name} already.", todo)
    else:
        connection.execute(
            update(OUTLET)
            .where(OUTLET.c.Name == name)
            .values(
                Company=company,
                Place=place,
                AddedAt=now,
                RemovedAt=None,
                LastSequence=0,
                PurgedSequence=0,
                ResyncAt=None,
                ResyncReason="",
            )
        )
    _owe_policies(connection, name)
    _give_numbers(connection)


def _owe_policies(connection: Connection, name: str) -> None:
    sequences = [one.sequence for one in policies(connection)]
    if sequences:
        connection.execute(
            insert(DELIVERY),
            [
                {"Outlet": name, "Sequence": sequence, "Previous": previous, "ExportFlag": 0}
                for previous, sequence in zip([0, *sequences], sequences, strict=False)
            ],
        )
        connection.execute(update(OUTLET).where(OUTLET.c.Name == name).values(LastSequence=sequences[-1]))


def number(connection: Connection, name: str) -> int:
    """Which of the outlets it is, from 1; given when it is first added, kept though it be removed, and never another's.

    Raises PermanentError `outlet_unknown`.
    """
    lock_counter(connection)
    numbers = _give_numbers(connection)
    if name not in numbers:
        raise unknown(name)
    return numbers[name]


def _give_numbers(connection: Connection) -> dict[str, int]:
    """To whoever has none: by name, everybody's."""
    numbers = state.numbered(connection)
    for name in connection.scalars(select(OUTLET.c.Name).order_by(OUTLET.c.AddedAt, OUTLET.c.Name)):
        if name not in numbers:
            numbers[name] = max(numbers.values(), default=0) + 1
            state.put(connection, f"{state.NUMBER}{numbers[name]}", name)
    return numbers


def remove(connection: Connection, name: str, now: int) -> None:
    """`name` is owed nothing any more. Raises PermanentError `outlet_unknown`."""
    lock_counter(connection)
    removed = connection.execute(
        update(OUTLET).where(OUTLET.c.Name == name, OUTLET.c.RemovedAt.is_(None)).values(RemovedAt=now, Online=0)
    )
    if removed.rowcount != 1:
        raise unknown(name)
    for table in (DELIVERY, PROGRESS, TABLE, MISFIT):
        connection.execute(delete(table).where(table.c.Outlet == name))
    certificates.forget(connection, name)
    connection.execute(delete(IGNORE).where((IGNORE.c.Outlet == name) | (IGNORE.c.Origin == name)))


def ignore(connection: Connection, outlet: str, origin: str) -> None:
    """From now on `outlet` takes nothing from `origin`. Raises PermanentError `outlet_unknown`, `ignore_self`."""
    if outlet == origin:
        raise PermanentError("ignore_self", f"{outlet} gets nothing from itself anyway.", "Name two outlets.")
    _lock_active(connection, outlet, origin)
    if connection.execute(select(IGNORE).where(*_pair(outlet, origin))).first() is None:
        connection.execute(insert(IGNORE).values(Outlet=outlet, Origin=origin))


def unignore(connection: Connection, outlet: str, origin: str) -> None:
    """From now on `outlet` takes from `origin` again; what it missed stays missed.

    Raises PermanentError `outlet_unknown`.
    """
    _lock_active(connection, outlet, origin)
    connection.execute(delete(IGNORE).where(*_pair(outlet, origin)))


def ignored(connection: Connection) -> list[tuple[str, str]]:
    """The pairs (outlet, origin): that outlet takes nothing from that origin."""
    query = select(IGNORE).order_by(IGNORE.c.Outlet, IGNORE.c.Origin)
    return [(row.Outlet, row.Origin) for row in connection.execute(query)]


def set_online(connection: Connection, name: str, online: bool, now: int) -> None:
    connection.execute(update(OUTLET).where(OUTLET.c.Name == name).values(Online=int(online), SeenAt=now))


def nobody_online(connection: Connection) -> None:
    """At a hub's start."""
    connection.execute(update(OUTLET).where(OUTLET.c.Online == 1).values(Online=0))


def unknown(name: str) -> PermanentError:
    return PermanentError("outlet_unknown", f"There is no outlet {name}.", "`subak outlet list` shows those there are.")


def _pair(outlet: str, origin: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return IGNORE.c.Outlet == outlet, IGNORE.c.Origin == origin


def _lock_active(connection: Connection, *names: str) -> None:
    lock_counter(connection)
    for name in names:
        query = select(OUTLET.c.Name).where(OUTLET.c.Name == name, OUTLET.c.RemovedAt.is_(None))
        if connection.execute(query).first() is None:
            raise unknown(name)
