"""What the outlets tell of themselves: their tables, what does not fit there, their clocks, the conflicts they decided.

Every function works in the caller's transaction and commits nothing. Times are µs since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from services.kernel.schema import HUB_CONFLICT as CONFLICT
from services.kernel.schema import HUB_MISFIT as MISFIT
from services.kernel.schema import HUB_OUTLET as OUTLET
from services.kernel.schema import HUB_TABLE as TABLE
from services.kernel.wire.messages import MAX_IMAGE_TOLD, ConflictReport, Report

NAME_CHARACTERS = 64
FINGERPRINT_CHARACTERS = 128
MISFIT_CHARACTERS = 2000
"""What the columns hold; of what is longer, the beginning is kept."""


@dataclass(frozen=True)
class Difference:
    """A table that is not the same at all outlets."""

    table: str
    kinds: tuple[tuple[str, ...], ...]
    """The outlets that have it, those with the same columns together; the largest such group first."""
    missing: tuple[str, ...]
    """The outlets that do not have it, or do not synchronise it."""


@dataclass(frozen=True)
class ConflictTold:
    """Two changes of a row, neither of which knew the other, as an outlet decided them."""

    outlet: str
    sequence: int
    """Of the delivery that brought the incoming change."""
    reported_at: int
    conflict: ConflictReport


def keep_skew(connection: Connection, outlet: str, time: int, now: int) -> None:
    """By how much the hub's clock is ahead of that of the outlet's database, which is `time`; 0: it was not told."""
    if time:
        connection.execute(update(OUTLET).where(OUTLET.c.Name == outlet).values(SkewMicros=now - time))


def keep_tables(connection: Connection, outlet: str, tables: Mapping[str, str]) -> None:
    """Each table's fingerprint, by its folded name; empty: nothing new was told."""
    if not tables:
        return
    connection.execute(delete(TABLE).where(TABLE.c.Outlet == outlet))
    rows = [
        {"Outlet": outlet, "TableName": name[:NAME_CHARACTERS], "Fingerprint": print_[:FINGERPRINT_CHARACTERS]}
        for name, print_ in tables.items()
    ]
    connection.execute(insert(TABLE), list({row["TableName"]: row for row in rows}.values()))


def report(connection: Connection, outlet: str, told: Report) -> None:
    """What the outlet itself counts replaces what was counted here."""
    connection.execute(
        update(OUTLET).where(OUTLET.c.Name == outlet).values(Conflicts=told.conflicts, Quarantined=told.quarantined)
    )
    connection.execute(delete(MISFIT).where(MISFIT.c.Outlet == outlet))
    if told.misfits:
        connection.execute(
            insert(MISFIT),
            [
                {"Outlet": outlet, "Position": position, "Reason": reason[:MISFIT_CHARACTERS]}
                for position, reason in enumerate(told.misfits)
            ],
        )
    keep_tables(connection, outlet, told.tables)


def conflict_row(outlet: str, sequence: int, position: int, conflict: ConflictReport, now: int) -> dict[str, Any]:
    """As it stands in the hub's database."""
    images = (conflict.local_image, conflict.incoming_image)
    local, incoming = (None if image is None else image[:MAX_IMAGE_TOLD] for image in images)
    return {
        "Outlet": outlet,
        "Sequence": sequence,
        "Position": position,
        "TableName": conflict.table[:NAME_CHARACTERS],
        "RowKey": conflict.key[:MAX_IMAGE_TOLD],
        "Rule": conflict.rule[:32],
        "Winner": conflict.winner[:32],
        "LocalStamp": conflict.local_stamp,
        "LocalOrigin": conflict.local_origin[:NAME_CHARACTERS],
        "LocalImage": local,
        "IncomingStamp": conflict.incoming_stamp,
        "IncomingOrigin": conflict.incoming_origin[:NAME_CHARACTERS],
        "IncomingImage": incoming,
        "ReportedAt": now,
    }


def conflict_in(row: Row[Any]) -> ConflictReport:
    """As a row of the hub's table holds it, or of an outlet's."""
    return ConflictReport(
        table=row.TableName,
        key=row.RowKey,
        rule=row.Rule,
        winner=row.Winner,
        local_stamp=row.LocalStamp,
        local_origin=row.LocalOrigin,
        local_image=row.LocalImage,
        incoming_stamp=row.IncomingStamp,
        incoming_origin=row.IncomingOrigin,
        incoming_image=row.IncomingImage,
    )


def conflicts(connection: Connection, limit: int) -> list[ConflictTold]:
    """The newest so many that the outlets told of, oldest first."""
    query = select(CONFLICT).order_by(
        CONFLICT.c.ReportedAt.desc(), CONFLICT.c.Sequence.desc(), CONFLICT.c.Outlet, CONFLICT.c.Position.desc()
    )
    return [
        ConflictTold(
            row.Outlet,
            row.Sequence,
            row.ReportedAt,
            conflict_in(row),
        )
        for row in reversed(connection.execute(query.limit(limit)).all())
    ]


def misfits(connection: Connection) -> dict[str, list[str]]:
    """Why the conflict rules do not fit, by outlet."""
    found: dict[str, list[str]] = {}
    for row in connection.execute(select(MISFIT).order_by(MISFIT.c.Outlet, MISFIT.c.Position)):
        found.setdefault(row.Outlet, []).append(row.Reason)
    return found


def differences(connection: Connection) -> list[Difference]:
    """Tables that are not the same at all outlets that count."""
    query = (
        select(TABLE)
        .join(OUTLET, OUTLET.c.Name == TABLE.c.Outlet)
        .where(OUTLET.c.RemovedAt.is_(None), OUTLET.c.ResyncAt.is_(None))
    )
    return differing([(row.Outlet, row.TableName, row.Fingerprint) for row in connection.execute(query)])


def differing(told: Sequence[tuple[str, str, str]]) -> list[Difference]:
    """From (outlet, table, fingerprint)."""
    outlets = sorted({outlet for outlet, _, _ in told})
    found = []
    for table in sorted({table for _, table, _ in told}):
        groups: dict[str, list[str]] = {}
        for outlet, name, print_ in told:
            if name == table:
                groups.setdefault(print_, []).append(outlet)
        having = {outlet for group in groups.values() for outlet in group}
        missing = tuple(outlet for outlet in outlets if outlet not in having)
        if missing or len(groups) > 1:
            kinds = sorted((tuple(sorted(group)) for group in groups.values()), key=lambda group: (-len(group), group))
            found.append(Difference(table, tuple(kinds), missing))
    return found
