"""The `View` over a real database, and the plain way to write a plan: one statement per run of like rows, by primary key.

Locks (design §4): data rows first, in key order, then versions: the order an application's write takes. No lock is waited
for while another is held, as long as that works (`patient` is False): the engine would settle a deadlock at the cost of
the smaller transaction, which is the application's. What cannot be locked at once makes the whole attempt start again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection

from services.applier.deciding import Awaited, AwaitedStamps, Version
from services.applier.history import History
from services.applier.judging import Situation
from services.applier.parsing import Parsed
from services.applier.planning import Plan, Write
from services.applier.stamping import Made
from services.applier.view import Reference, RowName, name_of, parent_key
from services.kernel.catalogue import ForeignKey, Table, folded
from services.kernel.change import Stamp
from services.kernel.dialects import Dialect
from services.kernel.errors import TransientError
from services.kernel.schema import QUARANTINE, QUARANTINE_ROW, VERSION
from services.kernel.values import Image, key_image, parse_image

CHUNK_ROWS = 500
"""Keys named in one statement: a list that every engine's planner still turns into look-ups by primary key."""

CHUNK_PARAMETERS = 2_000
"""Of one statement: SQL Server takes 2,100."""


Item = TypeVar("Item")


class Store:
    """One transaction's window on the outlet's database. `besides`: a quarantine (and all after it) that does not count."""

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        situation: Situation,
        *,
        patient: bool,
        besides: int | None = None,
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._catalogue = situation.catalogue
        self._policies = situation.policies
        self._history = History(connection, dialect, situation.own, situation.policies)
        self._patient = patient
        self._besides = besides
        self._exists: dict[RowName, bool] = {}
        self._images: dict[RowName, Image | None] = {}
        self._versions: dict[RowName, Version | None] = {}
        self._awaited: dict[RowName, dict[Stamp, Awaited]] = {}
        self._childless: set[RowName] = set()

    # Reading, under locks

    def prepare(self, changes: Sequence[Parsed]) -> None:
        """Locks every row that the changes are about, then their parents, and reads the versions: in bulk."""
        changed = {parsed.row for parsed in changes}
        parents = {row for parsed in changes for row in self._parents(parsed)} - changed
        self._lock(changed, share=False)
        self._lock(parents, share=True)
        self._read_versions(changed)
        self._read_awaited(changed)
        going = {parsed.row for parsed in changes if parsed.after is None and self._exists[parsed.row]}
        self._read_going(going)
        self._read_merged(changed, read=going)

    def _table(self, name: str) -> Table:
        table = self._catalogue.table(name)
        assert table is not None
        return table

    def _parents(self, parsed: Parsed) -> Iterator[RowName]:
        for foreign_key in parsed.table.foreign_keys if parsed.after else ():
            parent = self._catalogue.table(foreign_key.parent)
            row = parent_key(foreign_key, parent, parsed.after or {}) if parent else None
            if row:
                yield row

    def _lock(self, rows: Iterable[RowName], *, share: bool) -> None:
        for table, chunk in self._by_table(rows):
            here = _aliased(table)
            query: sa.Select[Any] = (
                sa.select(sa.literal_column(self._dialect.key_sql(table, "r")))
                .select_from(here)
                .where(self._among(table, here, chunk))
                .order_by(*(here.c[name] for name in table.key))
            )
            found = set(self._connection.scalars(self._locking(query, here, share=share)))
            # A collation may find a row under another spelling of its key; for a foreign key that is as good.
            alike = {_alike(key) for key in found} if share else set()
            for row in chunk:
                self._exists[row] = row.key in found or _alike(row.key) in alike

    def _locking(self, query: sa.Select[Any], here: sa.FromClause, *, share: bool) -> sa.Select[Any]:
        return self._dialect.locking(query, here, share=share, patient=self._patient)

    def _by_table(self, rows: Iterable[RowName]) -> Iterator[tuple[Table, Sequence[RowName]]]:
        """The rows in the order of tables and keys, in chunks of one table each."""
        for name, group in groupby(sorted(rows), lambda row: row.table):
            table = self._table(name)
            for chunk in _chunks(list(group), min(CHUNK_ROWS, CHUNK_PARAMETERS // len(table.key))):
                yield table, chunk

    def _among(self, table: Table, here: sa.FromClause, rows: Sequence[RowName]) -> sa.ColumnElement[bool]:
        keys = [self._key_values(table, row) for row in rows]
        if len(table.key) == 1:
            return here.c[table.key[0]].in_([key[0] for key in keys])
        # Not a tuple IN: MariaDB reads (and locks) the whole table for one.
        columns = [here.c[name] for name in table.key]
        return sa.or_(
            *(sa.and_(*(column == value for column, value in zip(columns, key, strict=True))) for key in keys)
        )

    def _key_values(self, table: Table, row: RowName) -> tuple[Any, ...]:
        """As expressions of the key columns' types."""
        return tuple(
            self._dialect.compared(column, value)
            for column, value in zip(table.key_columns, self._bound_key(table, row), strict=True)
        )

    def _bound_key(self, table: Table, row: RowName) -> list[Any]:
        image = key_image(table, row.key)
        return [self._dialect.bind(column, image[folded(column.name)]) for column in table.key_columns]

    def _read_versions(self, rows: Iterable[RowName], *, lock: bool = False) -> None:
        for table, chunk in self._by_table(rows):
            names = {self._dialect.row_id(row.key): row for row in chunk}
            query = sa.select(VERSION).where(VERSION.c.TableName == table.name, VERSION.c.RowId.in_(sorted(names)))
            if lock:
                query = self._locking(query.order_by(VERSION.c.RowId), VERSION, share=False)
            self._versions.update(dict.fromkeys(chunk))
            for found in self._connection.execute(query):
                stamp, base = Stamp(found.Stamp, found.Origin), Stamp(found.BaseStamp, found.BaseOrigin)
                self._versions[names[found.RowId]] = Version(
                    stamp, base, bool(found.Deleted), found.LastImage, found.ColumnStamps
                )

    def _read_awaited(self, rows: Iterable[RowName]) -> None:
        for row in rows:
            self._awaited.setdefault(row, {})
        waiting = QUARANTINE.c.State.in_(("waiting", "discarded"))
        if self._connection.scalar(sa.select(QUARANTINE.c.Id).where(waiting).limit(1)) is None:
            return
        names = {(self._table(row.table).name, self._dialect.row_id(row.key)): row for row in rows}
        for chunk in _chunks(list(names)):
            query: sa.Select[Any] = (
                sa.select(
                    QUARANTINE_ROW.c.TableName,
                    QUARANTINE_ROW.c.RowId,
                    QUARANTINE_ROW.c.Stamp,
                    QUARANTINE_ROW.c.Origin,
                    QUARANTINE.c.Code,
                    QUARANTINE.c.State,
                )
                .join(QUARANTINE, QUARANTINE.c.Id == QUARANTINE_ROW.c.QuarantineId)
                .where(waiting, QUARANTINE_ROW.c.RowId.in_({row_id for _, row_id in chunk}))
            )
            if self._besides is not None:
                query = query.where(QUARANTINE.c.Id < self._besides)
            for found in self._connection.execute(query):
                known = names.get((found.TableName, found.RowId))
                if known is not None:
                    stamp = Stamp(found.Stamp, found.Origin)
                    self._awaited[known][stamp] = Awaited(found.Code, found.State == "waiting")

    def _read_going(self, rows: Iterable[RowName]) -> None:
        """Of the rows that go: how they stand here, and which of them nothing refers to. In bulk, so that only the others are looked at
        singly."""
        for table, chunk in self._by_table(rows):
            self._read_images(table, chunk)
            children = list(self._catalogue.children(table))
            parents: set[str] = set()
            if children:
                here = _aliased(table)
                any_child = sa.or_(*(self._child_of(here, child, key).exists() for child, key in children))
                query: sa.Select[Any] = (
                    sa.select(sa.literal_column(self._dialect.key_sql(table, "r")))
                    .select_from(here)
                    .where(self._among(table, here, chunk), any_child)
                )
                parents = set(self._connection.scalars(query))
            self._childless.update(row for row in chunk if row.key not in parents)

    def _child_of(self, here: sa.FromClause, child: Table, foreign_key: ForeignKey) -> sa.Select[Any]:
        there = _sql_table(child).alias("c")
        pairs = zip(foreign_key.columns, foreign_key.parent_columns, strict=True)
        return sa.select(sa.literal(1)).select_from(there).where(*(there.c[c] == here.c[p] for c, p in pairs))

    def exists(self, row: RowName) -> bool:
        if row not in self._exists:
            self._lock([row], share=True)
        return self._exists[row]

    def version(self, row: RowName) -> Version | None:
        if row not in self._versions:
            self._read_versions([row])
        return self._versions[row]

    def awaited(self, row: RowName) -> AwaitedStamps:
        if row not in self._awaited:
            self._read_awaited([row])
        return self._awaited[row]

    def image(self, table: Table, row: RowName) -> Image | None:
        if row not in self._images:
            self._read_images(table, [row])
        return self._images[row]

    def made(self, table: Table, row: RowName, version: Version) -> Sequence[Made]:
        return self._history.made(table, row, version)

    def _read_merged(self, rows: Iterable[RowName], read: Container[RowName]) -> None:
        """What is asked of every row where a change does not simply win or lose: in bulk. `read`: those whose images just were."""
        for table, chunk in self._by_table(row for row in rows if not self._policies.plain(row.table)):
            self._read_images(table, [row for row in chunk if self._exists[row] and row not in read])
            if self._policies.by_column(table.name):
                self._history.prepare(table, {row: self._versions[row] for row in chunk})

    def _read_images(self, table: Table, rows: Sequence[RowName]) -> None:
        if not rows:
            return
        here = _aliased(table)
        query: sa.Select[Any] = (
            sa.select(sa.literal_column(self._dialect.image_sql(table, "r")))
            .select_from(here)
            .where(self._among(table, here, rows))
        )
        self._images.update(dict.fromkeys(rows))
        for text in self._connection.scalars(query):
            image = parse_image(table, self._dialect.wire_image(text, table))
            # A collation may find a row under another spelling of its key: then it is the one that was asked for.
            name = name_of(table, image)
            self._images[name if name in self._images or len(rows) > 1 else rows[0]] = image

    def references(self, table: Table, image: Image) -> Iterable[Reference]:
        if name_of(table, image) in self._childless:
            return []
        found = []
        for child, foreign_key in self._catalogue.children(table):
            here = _aliased(child)
            pairs = list(zip(foreign_key.columns, foreign_key.parent_columns, strict=True))
            values = [
                self._dialect.compared(child.column(c), self._dialect.bind(child.column(c), image[folded(p)]))
                for c, p in pairs
            ]
            query: sa.Select[Any] = (
                sa.select(sa.literal_column(self._dialect.image_sql(child, "r")))
                .select_from(here)
                .where(*(here.c[c] == value for (c, _), value in zip(pairs, values, strict=True)))
            )
            for text in self._connection.scalars(query):
                child_image = parse_image(child, self._dialect.wire_image(text, child))
                found.append(Reference(child, foreign_key, name_of(child, child_image)))
        return found

    # Writing

    def execute(self, plan: Plan) -> None:
        """Writes the rows in the plan's order and then their versions. Driver errors come through as they are."""
        for (table, kind, columns), group in groupby(plan.writes, _run):
            self._write_run(table, kind, columns, list(group))
        inserted = {write.row for write in plan.writes if write.image is not None and not write.existed}
        self._write_versions(plan, inserted)

    def _write_run(self, table: Table, kind: str, columns: tuple[str, ...], writes: list[Write]) -> None:
        target = _sql_table(table)
        where = [
            # Without the table before it: a server may stumble over its schema there when the driver asks for the type of a NULL.
            sa.column(column.name) == self._dialect.compared(column, sa.bindparam(f"k{i}"))
            for i, column in enumerate(table.key_columns)
        ]
        if kind == "delete":
            # One by one: for a list of keys an optimizer may read, and lock, rows that are not ours; and InnoDB checks a
            # self-reference row by row, in the order of the key, which is not the plan's.
            self._connection.execute(sa.delete(target).where(*where), [self._where(table, one.row) for one in writes])
            return
        named = [table.column(column) for column in columns]
        names = [column.name for column in named]
        rows = [
            {f"v{i}": self._dialect.bind(table.column(c), (write.image or {})[c]) for i, c in enumerate(columns)}
            for write in writes
        ]
        values: dict[str, Any] = {
            column.name: self._dialect.written(column, sa.bindparam(f"v{i}")) for i, column in enumerate(named)
        }
        if kind == "insert":
            with self._dialect.inserting(self._connection, table):
                self._connection.execute(sa.insert(target).values(values), rows)
            return
        for write, row in zip(writes, rows, strict=True):
            row.update(self._where(table, write.renamed or write.row))
        if kind == "update":
            kept = {folded(name) for name in table.key} | {folded(one.name) for one in table.columns if one.immutable}
            values = {name: value for name, value in values.items() if folded(name) not in kept}
            rows = [
                {k: v for k, v in row.items() if k[0] == "k" or folded(names[int(k[1:])]) not in kept} for row in rows
            ]
            if not values:
                return  # every column belongs to the key: there is nothing else to set
        self._connection.execute(sa.update(target).where(*where).values(values), rows)

    def _where(self, table: Table, row: RowName) -> dict[str, Any]:
        return {f"k{i}": value for i, value in enumerate(self._bound_key(table, row))}

    def _write_versions(self, plan: Plan, inserted: set[RowName]) -> None:
        # A row that was not here could not be locked before it was written: the version read then may be an older one.
        suspect = inserted if self._dialect.locks_what_it_reads else {write.row for write in plan.writes}
        suspect |= {row for row in plan.versions if not self._exists.get(row)}
        seen = {row: self._versions[row] for row in plan.versions if row in suspect and row in self._versions}
        self._read_versions(seen, lock=True)
        if any(self._versions[row] != version for row, version in seen.items()):
            raise TransientError("raced", "The application wrote the same row at the same moment.")
        records = [
            {
                "TableName": table.name,
                "RowId": self._dialect.row_id(row.key),
                "Stamp": version.stamp.time,
                "Origin": version.stamp.origin,
                "BaseStamp": version.base.time,
                "BaseOrigin": version.base.origin,
                "Deleted": int(version.deleted),
                "LastImage": version.last_image,
                "ColumnStamps": version.columns,
            }
            for row, (table, version) in plan.versions.items()
        ]
        for chunk in _chunks(records):
            for statement in self._dialect.replace_version:
                self._connection.execute(sa.text(statement), chunk)
        for row, (_, version) in plan.versions.items():
            self._versions[row] = version
        for write in plan.writes:
            self._exists[write.row] = write.image is not None
            self._images.pop(write.row, None)
            if write.renamed:
                self._exists[write.renamed] = False
                self._images.pop(write.renamed, None)


def _run(write: Write) -> tuple[Table, str, tuple[str, ...]]:
    if write.image is None:
        return write.table, "delete", ()
    kind = "rename" if write.renamed else "update" if write.existed else "insert"
    return write.table, kind, tuple(write.image)


def _sql_table(table: Table) -> sa.TableClause:
    columns: list[sa.ColumnClause[Any]] = [sa.column(column.name) for column in table.columns]
    return sa.table(table.bare_name, *columns, schema=table.schema)


def _aliased(table: Table) -> sa.FromClause:
    return _sql_table(table).alias("r")


def _alike(key: str) -> str:
    return key.casefold().rstrip(" ")


def _chunks(items: Sequence[Item], size: int = CHUNK_ROWS) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
