"""What the .sql files create is what `schema.py` describes, on every engine and either side; creating it twice does no harm."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import insert, inspect, select, update
from sqlalchemy.engine import URL
from sqlalchemy.schema import DropTable

from services.kernel.catalogue import Table
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.errors import PermanentError
from services.kernel.schema import (
    HUB_CONFLICT,
    HUB_MISFIT,
    HUB_PROGRESS,
    HUB_TABLE,
    POLICY,
    SCHEMA_VERSION,
    STATE,
    TABLES,
    Side,
    prepare,
)
from tests.stack.reflecting import primary_key

TRIGGERS_OWN = {"sqlite": {"subak_mark", "subak_replaced"}, "mysql": {"subak_cascaded"}, "mssql": set()}
"""What only the triggers read and write."""


def test_the_outlets_files_and_the_description_agree(database_url: URL) -> None:
    _agree(database_url, Side.OUTLET)


def test_the_hubs_files_and_the_description_agree(hub_url: URL) -> None:
    _agree(hub_url, Side.HUB)


def _agree(url: URL, side: Side) -> None:
    dialect = dialect_for(url)
    engine = dialect.engine(url, Purpose.WRITE)
    with engine.connect() as connection:
        for _ in range(2):
            prepare(connection, dialect, side)
        there = inspect(connection)
        described = TABLES[side].tables
        names = {name.casefold() for name in there.get_table_names(schema=dialect.schema)}
        if side is Side.OUTLET:
            names -= TRIGGERS_OWN[dialect.name]
        assert names == {name.casefold() for name in described}
        for name, table in described.items():
            assert [column["name"].casefold() for column in there.get_columns(name, schema=dialect.schema)] == [
                column.name.casefold() for column in table.columns
            ], name
            key = primary_key(connection, name, dialect.schema)
            assert [column.casefold() for column in key] == [column.name.casefold() for column in table.primary_key], (
                name
            )
        version = connection.scalar(select(STATE.c.Value).where(STATE.c.Name == "schema_version"))
        assert version == str(SCHEMA_VERSION)
    engine.dispose()


def test_a_newer_schema_is_left_alone(database_url: URL) -> None:
    dialect = dialect_for(database_url)
    engine = dialect.engine(database_url, Purpose.WRITE)
    with engine.connect() as connection:
        prepare(connection, dialect, Side.OUTLET)
        connection.execute(update(STATE).where(STATE.c.Name == "schema_version").values(Value="99"))
        connection.commit()
        with pytest.raises(PermanentError) as caught:
            prepare(connection, dialect, Side.OUTLET)
    assert caught.value.code == "newer_schema"
    engine.dispose()


def test_older_tables_are_upgraded_in_place_also_half_done_ones(database_url: URL) -> None:
    dialect = dialect_for(database_url)
    engine = dialect.engine(database_url, Purpose.WRITE)
    version = dialect.relation(Table("subak_version", (), (), schema=dialect.schema))
    with engine.connect() as connection:
        prepare(connection, dialect, Side.OUTLET)
        connection.exec_driver_sql(f"ALTER TABLE {version} DROP COLUMN ColumnStamps")
        connection.execute(DropTable(POLICY))
        connection.execute(update(STATE).where(STATE.c.Name == "schema_version").values(Value="1"))
        connection.execute(insert(STATE).values(Name="epoch", Value="kept"))
        connection.commit()
    engine.dispose()
    _agree(database_url, Side.OUTLET)
    with engine.connect() as connection:
        assert connection.scalar(select(STATE.c.Value).where(STATE.c.Name == "epoch")) == "kept"
    engine.dispose()


def test_an_older_hub_is_upgraded_in_place_also_a_half_done_one(hub_url: URL) -> None:
    dialect = dialect_for(hub_url)
    engine = dialect.engine(hub_url, Purpose.WRITE)
    with engine.connect() as connection:
        prepare(connection, dialect, Side.HUB)
        on = "" if dialect.name == "sqlite" else " ON subak_batch"
        connection.exec_driver_sql(f"DROP INDEX BatchStored{on}")
        for column in ("StableSeen", "PurgedSequence", "PurgedEpoch", "ResyncAt", "ResyncReason", "SkewMicros"):
            connection.exec_driver_sql(f"ALTER TABLE subak_outlet DROP COLUMN {column}")
        for table in (HUB_PROGRESS, HUB_CONFLICT, HUB_MISFIT, HUB_TABLE):
            connection.execute(DropTable(table))
        connection.execute(update(STATE).where(STATE.c.Name == "schema_version").values(Value="1"))
        connection.commit()
    engine.dispose()
    _agree(hub_url, Side.HUB)
    with engine.connect() as connection:
        indexes = {index["name"] for index in inspect(connection).get_indexes("subak_batch")}
        assert "BatchStored" in indexes
    engine.dispose()


def test_two_prepare_at_once(database_url: URL) -> None:
    dialect = dialect_for(database_url)
    engine = dialect.engine(database_url, Purpose.WRITE, lock_seconds=20)
    start = threading.Barrier(2)
    failures: list[BaseException] = []

    def preparing() -> None:
        try:
            with engine.connect() as connection:
                start.wait(20)
                prepare(connection, dialect, Side.OUTLET)
        except BaseException as error:
            failures.append(error)

    both = [threading.Thread(target=preparing) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    engine.dispose()
    assert failures == []
