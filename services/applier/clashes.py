"""Which row stands in the way of a quarantined one: another with the same unique value, or one under the same generated key. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from services.applier import quarantine
from services.applier.deciding import GENERATED_KEY, Version
from services.applier.judging import Situation
from services.applier.parsing import Parsed, parse
from services.applier.quarantine import Quarantined
from services.applier.view import RowName, name_of
from services.kernel.catalogue import Table, folded
from services.kernel.change import NEVER, Change, Op, Stamp, Transaction
from services.kernel.dialects import Dialect
from services.kernel.schema import QUARANTINE, QUARANTINE_ROW, VERSION
from services.kernel.values import Image, Value, parse_image

UNIQUE = "unique"


@dataclass(frozen=True)
class Row:
    """A row as its newest change leaves it. `image` None: deleted."""

    table: Table
    name: RowName
    image: Image | None
    change: Change


@dataclass(frozen=True)
class Clash:
    """`columns` of the quarantined row `incoming` have the values of the row `holder`, which is here."""

    columns: tuple[str, ...]
    incoming: Row
    holder: RowName
    holder_image: Image
    holder_version: Version | None


class Looking:
    """At one moment of an outlet's database; nothing is locked."""

    def __init__(self, connection: Connection, dialect: Dialect, situation: Situation) -> None:
        self._connection = connection
        self._dialect = dialect
        self._situation = situation

    def together(self, entry: Quarantined) -> list[Quarantined]:
        """The entries that are resolved with this one: those of the same origin that hold later changes of its generated rows."""
        if entry.code != GENERATED_KEY:
            return [entry]
        others = [one for one in quarantine.waiting(self._connection) if one.code == GENERATED_KEY]
        rows = {one.id: set(self._rows(one)) for one in others if one.origin == entry.origin}
        chosen, known = {entry.id}, rows.get(entry.id, set())
        while more := {identity for identity, some in rows.items() if identity not in chosen and some & known}:
            chosen |= more
            known = known.union(*(rows[identity] for identity in more))
        return [one for one in others if one.id in chosen]

    def _rows(self, entry: Quarantined) -> Iterable[tuple[str, str]]:
        row = QUARANTINE_ROW.c
        query = sa.select(row.TableName, row.RowKey).where(row.QuarantineId == entry.id)
        return [(found.TableName, found.RowKey) for found in self._connection.execute(query)]

    def parsed(self, entries: Sequence[Quarantined]) -> list[Parsed]:
        """Their changes, in source order. Raises PermanentError when this outlet cannot read them."""
        catalogue, found = self._situation.catalogue, list[Parsed]()
        for entry in entries:
            found += parse(quarantine.transaction_of(self._connection, entry), catalogue, entry.origin)
        return found

    def clashes(self, entry: Quarantined) -> list[Clash]:
        """None for an entry that is quarantined for another reason."""
        changes = self.parsed(self.together(entry)) if entry.code in (UNIQUE, GENERATED_KEY) else []
        rows = {one.row: Row(one.table, one.row, one.after, one.change) for one in changes}
        if entry.code == GENERATED_KEY:
            return [clash for one in changes for clash in self._same_key(one, rows[one.row])]
        return [clash for row in rows.values() if row.image for clash in self._same_value(row, rows)]

    def _same_key(self, one: Parsed, last: Row) -> Iterable[Clash]:
        if not one.table.generated_key or one.change.op is not Op.INSERT or one.change.base != NEVER:
            return
        key = {name: one.after[folded(name)] for name in one.table.key if one.after is not None}
        for image in self.find(one.table, key):
            yield Clash(one.table.key, last, one.row, image, self.version(one.table, one.row))

    def _same_value(self, row: Row, all_rows: Mapping[RowName, Row]) -> Iterable[Clash]:
        assert row.image is not None
        for columns in row.table.uniques:
            values = {name: row.image.get(folded(name)) for name in columns}
            if None in values.values():
                continue
            for image in self.find(row.table, values):
                holder = name_of(row.table, image)
                if holder not in all_rows:
                    version = self.version(row.table, holder)
                    yield Clash(columns, self._newest(row), holder, image, version)

    def _newest(self, row: Row) -> Row:
        """The row by the newest of all its changes that wait here, of whatever transaction."""
        at = QUARANTINE_ROW.c
        query = (
            sa.select(at.QuarantineId, at.Position)
            .join(QUARANTINE, QUARANTINE.c.Id == at.QuarantineId)
            .where(QUARANTINE.c.State == quarantine.WAITING, at.TableName == row.table.name)
            .where(at.RowId == self._dialect.row_id(row.name.key))
            .order_by(at.Stamp.desc(), at.Origin.desc())
            .limit(1)
        )
        found = self._connection.execute(query).one()
        entry = quarantine.find(self._connection, found.QuarantineId)
        change = quarantine.whole(self._connection, entry).changes[found.Position]
        (newest,) = parse(Transaction("", (change,)), self._situation.catalogue, change.stamp.origin)
        return Row(row.table, row.name, newest.after, change)

    def find(self, table: Table, values: Mapping[str, Value]) -> list[Image]:
        """The rows with these values, as the database compares them."""
        columns: list[sa.ColumnClause[Any]] = [sa.column(column.name) for column in table.columns]
        here = sa.table(table.bare_name, *columns, schema=table.schema).alias("r")
        query: sa.Select[Any] = sa.select(sa.literal_column(self._dialect.image_sql(table, "r"))).select_from(here)
        for name, value in values.items():
            column = table.column(name)
            query = query.where(
                here.c[column.name] == self._dialect.compared(column, self._dialect.bind(column, value))
            )
        found = self._connection.scalars(query)
        return [parse_image(table, self._dialect.wire_image(text, table)) for text in found]

    def version(self, table: Table, row: RowName) -> Version | None:
        query = sa.select(VERSION).where(
            VERSION.c.TableName == table.name, VERSION.c.RowId == self._dialect.row_id(row.key)
        )
        found = self._connection.execute(query).first()
        if found is None:
            return None
        stamp, base = Stamp(found.Stamp, found.Origin), Stamp(found.BaseStamp, found.BaseOrigin)
        return Version(stamp, base, bool(found.Deleted), found.LastImage, found.ColumnStamps)
