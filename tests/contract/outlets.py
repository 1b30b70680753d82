"""Outlets on real databases without processes: the application writes, the triggers record, the applier applies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL

from services.applier.applying import Applier
from services.applier.recording import Outcome
from services.kernel import schema
from services.kernel.change import GENESIS, Batch, BatchId, Change, Op, Stamp, Transaction, encode_body
from services.kernel.control import Control, encode_control
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.errors import PermanentError
from services.kernel.schema import BATCH, BATCH_PART, CLOUD_QUERY, LEDGER, STATE
from services.kernel.wire.messages import HUB, Delivery
from tests.stack.application import application_engine
from tests.stack.reflecting import reflect

Lines = Iterable[str]
"""Statements that make a schema and its first rows."""


class Outlet:
    """One outlet's database with its triggers."""

    def __init__(self, name: str, url: URL, lines: Lines) -> None:
        self.name = name
        self.url = url
        self.dialect = dialect_for(url)
        self.application = application_engine(url)
        self.write(*lines)
        own = self.dialect.engine(url, Purpose.WRITE)
        with own.connect() as connection:
            schema.prepare(connection, self.dialect, schema.Side.OUTLET)
        own.dispose()
        self.renew()
        self.engine = self.dialect.engine(url, Purpose.APPLY)
        self.applier = Applier(self.engine, self.dialect, name, ["*"], lambda: time.time_ns() // 1000)
        self.applier.refresh()
        self.sequence = 0
        self._number = 0
        self.previous = GENESIS
        self._seen = 0

    def renew(self) -> None:
        """The triggers as the tables are now."""
        own = self.dialect.engine(self.url, Purpose.WRITE)
        with own.begin() as connection:
            self.catalogue = self.dialect.catalogue(connection, ["*"])
        for table in self.catalogue.tables:
            with own.connect() as connection:
                for trigger in self.dialect.triggers(connection, table, self.catalogue, self.name):
                    self.dialect.create_trigger(connection, trigger)
                connection.commit()
        own.dispose()

    def close(self) -> None:
        self.application.dispose()
        self.engine.dispose()

    def write(self, *statements: str) -> None:
        """The application: one transaction."""
        with self.application.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def read(self, query: str) -> list[tuple[Any, ...]]:
        with self.application.begin() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def take(self) -> Batch | None:
        """What was written since the last call, as a batch of one transaction."""
        with self.engine.begin() as connection:
            rows = connection.execute(
                sa.select(CLOUD_QUERY).where(CLOUD_QUERY.c.Id > self._seen).order_by(CLOUD_QUERY.c.Id)
            ).all()
        if not rows:
            return None
        self._seen = rows[-1].Id
        changes = tuple(
            Change(
                row.TableName,
                Op(row.Operation),
                row.RowKey,
                *(
                    self.dialect.wire_image(image, None) if image else None
                    for image in (row.BeforeImage, row.AfterImage)
                ),
                Stamp(row.Stamp, self.name),
                Stamp(row.BaseStamp, row.BaseOrigin),
                bool(row.Paired),
                self.applier.policies.generation_of(row.Id),
            )
            for row in rows
        )
        return self.batch(Transaction("", changes))

    def batch(self, *transactions: Transaction) -> Batch:
        self._number += 1
        changes = sum(len(transaction.changes) for transaction in transactions)
        batch = Batch(
            BatchId(self.name, "e", self._number),
            self.previous,
            encode_body(transactions),
            changes,
            len(transactions),
        )
        self.previous = batch.digest
        return batch

    def keep(self, batch: Batch, *, stored: bool) -> None:
        """What capture keeps of a batch of `take`. `stored`: the hub has confirmed it."""
        epoch, number = batch.id.epoch, batch.id.number
        with self.engine.begin() as connection:
            if connection.scalar(sa.select(STATE.c.Value).where(STATE.c.Name == "epoch")) is None:
                connection.execute(sa.insert(STATE), [{"Name": "epoch", "Value": epoch}])
            connection.execute(
                sa.insert(BATCH).values(
                    Epoch=epoch,
                    Number=number,
                    Previous=batch.previous,
                    Digest=batch.digest,
                    Changes=batch.changes,
                    Transactions=batch.transactions,
                    Bytes=len(batch.body),
                    CutAt=number,
                    StoredAt=number if stored else None,
                )
            )
            connection.execute(sa.insert(BATCH_PART).values(Epoch=epoch, Number=number, Part=0, Body=batch.body))
            connection.execute(
                sa.update(CLOUD_QUERY)
                .where(CLOUD_QUERY.c.BatchNumber.is_(None), CLOUD_QUERY.c.Id <= self._seen)
                .values(BatchNumber=number, ExportFlag=int(stored))
            )

    def backup(self) -> dict[str, list[dict[str, Any]]]:
        """All rows, the application's and Subak's, by table."""
        found: dict[str, list[dict[str, Any]]] = {}
        tables = self._all_tables()
        with self.engine.begin() as connection:
            for table in tables:
                found[table.name] = [dict(row) for row in connection.execute(sa.select(table)).mappings()]
        return found

    def restore(self, backup: dict[str, list[dict[str, Any]]]) -> None:
        tables = self._all_tables()
        with self.engine.begin() as connection:
            for table in reversed(tables):
                connection.execute(sa.delete(table))
            for table in tables:
                if backup[table.name]:
                    connection.execute(sa.insert(self._with_its_ids(table)), backup[table.name])
        with self.engine.begin() as connection:
            last = connection.scalar(sa.select(sa.func.max(LEDGER.c.Sequence)))
        self.sequence = last or 0
        self.applier.refresh()

    def _with_its_ids(self, table: sa.Table) -> sa.TableClause:
        """Subak's own tables have no IDENTITY anywhere; SQLAlchemy takes their Ids for one on SQL Server."""
        if table.metadata is not schema.CLOUD_QUERY.metadata:
            return table
        columns: list[sa.ColumnClause[Any]] = [sa.column(column.name, column.type) for column in table.columns]
        return sa.table(table.name, *columns, schema=self.dialect.schema)

    def _all_tables(self) -> list[sa.Table]:
        """The application's after their parents, then Subak's."""
        there = sa.MetaData()
        for table in reflect(self.url).sorted_tables:
            table.to_metadata(there, schema=self.catalogue.tables[0].schema)
        return [*there.sorted_tables, *schema.TABLES[schema.Side.OUTLET].sorted_tables]

    def hear(self, said: Control, sequence: int) -> Outcome:
        """The hub itself says something."""
        return self.apply(said_by_hub(said, sequence), sequence)

    def retry(self) -> bool:
        """Everything in quarantine is tried again, until nothing leaves it. Whether something did."""
        left = False
        while any([self._leaves(entry.id) for entry in self.applier.waiting()]):
            left = True
        return left

    def _leaves(self, identity: int) -> bool:
        try:
            self.applier.retry(identity)
        except PermanentError:
            return False
        return True

    def apply(self, batch: Batch, sequence: int, attempt: int = 1) -> Outcome:
        delivery = delivery_of(batch, sequence, self.sequence)
        outcome = self.applier.apply(delivery, batch.body, attempt)
        self.sequence = sequence
        return outcome


def delivery_of(batch: Batch, sequence: int, previous_sequence: int) -> Delivery:
    return Delivery(
        sequence=sequence,
        previous_sequence=previous_sequence,
        origin=batch.id.origin,
        epoch=batch.id.epoch,
        number=batch.id.number,
        previous=batch.previous,
        digest=batch.digest,
        changes=batch.changes,
        transactions=batch.transactions,
        bytes=len(batch.body),
        parts=1,
    )


def said_by_hub(said: Control, number: int) -> Batch:
    return Batch(BatchId(HUB, "h", number), GENESIS, encode_control(said), 0, 0)


Make = Callable[[str], Outlet]
"""By its name."""

MakeOutlet = Callable[[str, Lines], Outlet]


class Outlets:
    """Several outlets and the hub's order between them."""

    def __init__(self, *outlets: Outlet) -> None:
        self.outlets = outlets
        self.sequence = 0

    def spread(self) -> dict[str, list[Outcome]]:
        """Everything written anywhere is applied everywhere, what the appliers write themselves included."""
        outcomes: dict[str, list[Outcome]] = {outlet.name: [] for outlet in self.outlets}
        while any([self.spread_from(outlet, outcomes) for outlet in self.outlets]):
            pass
        return outcomes

    def spread_from(self, origin: Outlet, outcomes: dict[str, list[Outcome]] | None = None) -> bool:
        batch = origin.take()
        if batch is None:
            return False
        self.sequence += 1
        for outlet in self.outlets:
            if outlet is not origin:
                outcome = outlet.apply(batch, self.sequence)
                if outcomes is not None:
                    outcomes[outlet.name].append(outcome)
        return True

    def settle(self) -> None:
        """As `spread`, with what waits in quarantine tried again, until nothing moves any more."""
        while any(self.spread_from(outlet) for outlet in self.outlets) or any(
            [outlet.retry() for outlet in self.outlets]
        ):
            pass

    def waiting(self) -> list[tuple[str, str]]:
        """(outlet, code) of what is in quarantine."""
        return [(outlet.name, entry.code) for outlet in self.outlets for entry in outlet.applier.waiting()]

    def same(self, query: str) -> Sequence[tuple[Any, ...]]:
        """The rows that the query gives everywhere. Fails when outlets differ."""
        rows = {outlet.name: sorted(outlet.read(query), key=repr) for outlet in self.outlets}
        first = next(iter(rows.values()))
        assert all(found == first for found in rows.values()), rows
        return first
