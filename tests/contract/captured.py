"""A database with Subak's triggers on the application's tables, and what they wrote, to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import Connection, literal_column, select, text
from sqlalchemy.engine import URL

from services.kernel import schema
from services.kernel.catalogue import Catalogue, Table
from services.kernel.change import NEVER, Stamp
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.values import Image, parse_image
from tests.stack.application import application_engine

OUTLET = "jakarta"


class Seen(NamedTuple):
    """A line of CloudQuery."""

    table: str
    op: str
    key: str
    before: Image | None
    after: Image | None
    stamp: Stamp
    base: Stamp
    paired: bool
    transaction: str | None
    session: int


class Captured:
    """`tables`: the statements that make the application's tables. The triggers are installed after `and_then` was executed."""

    def __init__(self, url: URL, *tables: str, and_then: tuple[str, ...] = ()) -> None:
        self.url = url
        self.dialect = dialect_for(url)
        self.is_sqlite = self.dialect.name == "sqlite"
        self.application = application_engine(url)
        self.subak = self.dialect.engine(url, Purpose.WRITE)
        self.reading = self.dialect.engine(url, Purpose.READ)
        self.run(*tables, *and_then)
        with self.subak.connect() as connection:
            schema.prepare(connection, self.dialect, schema.Side.OUTLET)
        self._last = 0
        self.catalogue = self.read_catalogue()
        self.install()

    def close(self) -> None:
        for engine in (self.application, self.subak, self.reading):
            engine.dispose()

    def read_catalogue(self) -> Catalogue:
        with self.reading.connect() as connection:
            return self.dialect.catalogue(connection, ["*"])

    def install(self) -> None:
        with self.subak.connect() as connection:
            for table in self.catalogue.tables:
                for trigger in self.dialect.triggers(connection, table, self.catalogue, OUTLET):
                    self.dialect.create_trigger(connection, trigger)
            connection.commit()

    def table(self, name: str) -> Table:
        table = self.catalogue.table(name)
        assert table is not None, self.catalogue.refusals
        return table

    def run(self, *statements: str) -> None:
        """One transaction of the application's."""
        with self.application.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    def execute(self, statement: str, **values: object) -> None:
        """The same with bound values."""
        with self.application.begin() as connection:
            connection.execute(text(statement), values)

    @contextmanager
    def applier(self) -> Iterator[Connection]:
        engine = self.dialect.engine(self.url, Purpose.APPLY)
        with engine.begin() as connection:
            yield connection
        engine.dispose()

    def seen(self) -> list[Seen]:
        """What was captured since the last call."""
        query = select(schema.CLOUD_QUERY).where(schema.CLOUD_QUERY.c.Id > self._last).order_by(schema.CLOUD_QUERY.c.Id)
        with self.reading.connect() as connection:
            rows = connection.execute(query).all()
        self._last = rows[-1].Id if rows else self._last
        return [
            Seen(
                table=row.TableName,
                op=row.Operation,
                key=row.RowKey,
                before=self.image(row.TableName, row.BeforeImage),
                after=self.image(row.TableName, row.AfterImage),
                stamp=Stamp(row.Stamp, OUTLET),
                base=Stamp(row.BaseStamp, row.BaseOrigin),
                paired=bool(row.Paired),
                transaction=row.TransactionId,
                session=row.SessionId,
            )
            for row in rows
        ]

    def image(self, table: str, image: str | None) -> Image | None:
        return (
            None if image is None else parse_image(self.table(table), self.dialect.wire_image(image, self.table(table)))
        )

    def rows(self, table: str) -> dict[str, Image]:
        """What the table holds, by row key, as `image_sql` and `key_sql` read it."""
        shape = self.table(table)
        query = select(
            literal_column(self.dialect.key_sql(shape, "t")), literal_column(self.dialect.image_sql(shape, "t"))
        ).select_from(text(f"{self.dialect.identifier(table)} t"))
        with self.reading.connect() as connection:
            found = connection.execute(query).all()
        return {key: self.image(table, image) or {} for key, image in found}

    def version(self, table: str, key: str) -> tuple[Stamp, bool, Image | None]:
        """Stamp, whether deleted, last image."""
        query = select(schema.VERSION).where(
            schema.VERSION.c.TableName == table, schema.VERSION.c.RowId == self.dialect.row_id(key)
        )
        with self.reading.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return NEVER, False, None
        return Stamp(row.Stamp, row.Origin), bool(row.Deleted), self.image(table, row.LastImage)

    def set_version(self, table: str, key: str, stamp: Stamp) -> None:
        """As the applier does for a change from elsewhere."""
        with self.subak.begin() as connection:
            values = {"Stamp": stamp.time, "Origin": stamp.origin, "BaseStamp": 0, "BaseOrigin": "", "Deleted": 0}
            name = {"TableName": table, "RowId": self.dialect.row_id(key)}
            where = [schema.VERSION.c[column] == value for column, value in name.items()]
            if not connection.execute(schema.VERSION.update().where(*where).values(**values)).rowcount:
                connection.execute(schema.VERSION.insert().values(**name, **values))


def replayed(rows: dict[str, Image], changes: list[Seen]) -> dict[str, Image]:
    """The table as somebody has it who started with `rows` and executed `changes` one after the other."""
    rows = dict(rows)
    for change in changes:
        if change.op == "D":
            assert rows.pop(change.key) == change.before, change
        elif change.op == "U":
            assert rows[change.key] == change.before, change
            rows[change.key] = change.after or {}
        else:
            assert change.key not in rows, change
            rows[change.key] = change.after or {}
    return rows
