"""Subak's own tables: created from `sql/<side>/<engine>/tables.sql`, described here for SQLAlchemy Core.

`tests/contract` holds the two equal: what the `.sql` files create is what stands here, on every engine.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import NullType, TypeEngine

from services.kernel.dialects import Dialect, dialect_for
from services.kernel.errors import PermanentError

SQL = Path(__file__).resolve().parents[2] / "sql"
SCHEMA_VERSION = 2
SCHEMA_VERSION_NAME = "schema_version"


class Side(StrEnum):
    OUTLET = "outlet"
    HUB = "hub"


def _table(metadata: MetaData, name: str, columns: dict[str, type[TypeEngine[Any]]], key: tuple[str, ...]) -> Table:
    return Table(
        name,
        metadata,
        *(Column(column, kind, primary_key=column in key, autoincrement=False) for column, kind in columns.items()),
    )


_outlet = MetaData()

STATE = _table(_outlet, "subak_state", {"Name": String, "Value": String}, ("Name",))

CLOUD_QUERY = Table(
    "CloudQuery",
    _outlet,
    Column("Id", BigInteger, primary_key=True, autoincrement=True),
    Column("TransactionId", String),
    Column("SessionId", BigInteger),
    Column("TableName", String),
    Column("Operation", String),
    Column("RowKey", Text),
    Column("BeforeImage", Text),
    Column("AfterImage", Text),
    Column("Stamp", BigInteger),
    Column("BaseStamp", BigInteger),
    Column("BaseOrigin", String),
    Column("Paired", Integer, default=0),
    Column("BatchNumber", BigInteger),
    Column("ExportFlag", Integer, default=0),
)

VERSION = _table(
    _outlet,
    "subak_version",
    {
        "TableName": String,
        "RowId": NullType,
        "Stamp": BigInteger,
        "Origin": String,
        "BaseStamp": BigInteger,
        "BaseOrigin": String,
        "Deleted": Integer,
        "LastImage": Text,
        "ColumnStamps": Text,
    },
    ("TableName", "RowId"),
)
"""`RowId` holds what `Dialect.row_id` gives: bytes on MySQL, text on SQLite; its type here converts neither."""

POLICY = _table(
    _outlet,
    "subak_policy",
    {"Generation": BigInteger, "Rules": Text, "Boundary": BigInteger, "AppliedAt": BigInteger},
    ("Generation",),
)

BATCH = _table(
    _outlet,
    "subak_batch",
    {
        "Epoch": String,
        "Number": BigInteger,
        "Previous": LargeBinary,
        "Digest": LargeBinary,
        "Changes": Integer,
        "Transactions": Integer,
        "Bytes": BigInteger,
        "CutAt": BigInteger,
        "StoredAt": BigInteger,
    },
    ("Epoch", "Number"),
)

BATCH_PART = _table(
    _outlet,
    "subak_batch_part",
    {"Epoch": String, "Number": BigInteger, "Part": Integer, "Body": LargeBinary},
    ("Epoch", "Number", "Part"),
)

LEDGER = _table(
    _outlet,
    "subak_ledger",
    {
        "Sequence": BigInteger,
        "Origin": String,
        "Epoch": String,
        "Number": BigInteger,
        "Digest": LargeBinary,
        "Changes": Integer,
        "Quarantined": Integer,
        "AppliedAt": BigInteger,
    },
    ("Sequence",),
)

LEDGER_PART = _table(
    _outlet,
    "subak_ledger_part",
    {"Sequence": BigInteger, "Part": Integer, "Body": LargeBinary},
    ("Sequence", "Part"),
)

CONFLICT = Table(
    "subak_conflict",
    _outlet,
    Column("Id", BigInteger, primary_key=True, autoincrement=True),
    Column("Sequence", BigInteger),
    Column("TableName", String),
    Column("RowKey", Text),
    Column("Rule", String),
    Column("Winner", String),
    Column("LocalStamp", BigInteger),
    Column("LocalOrigin", String),
    Column("LocalImage", Text),
    Column("IncomingStamp", BigInteger),
    Column("IncomingOrigin", String),
    Column("IncomingImage", Text),
    Column("DecidedAt", BigInteger),
)

QUARANTINE = Table(
    "subak_quarantine",
    _outlet,
    Column("Id", BigInteger, primary_key=True, autoincrement=True),
    Column("Sequence", BigInteger),
    Column("Position", Integer),
    Column("Origin", String),
    Column("Code", String),
    Column("Reason", Text),
    Column("State", String),
    Column("Attempts", Integer),
    Column("QuarantinedAt", BigInteger),
    Column("DecidedAt", BigInteger),
)

QUARANTINE_ROW = _table(
    _outlet,
    "subak_quarantine_row",
    {
        "QuarantineId": BigInteger,
        "Position": Integer,
        "TableName": String,
        "RowId": NullType,
        "RowKey": Text,
        "Stamp": BigInteger,
        "Origin": String,
    },
    ("QuarantineId", "Position"),
)

_hub = MetaData()

HUB_STATE = _table(_hub, "subak_state", {"Name": String, "Value": String}, ("Name",))

HUB_COUNTER = _table(_hub, "subak_counter", {"Id": Integer, "Last": BigInteger}, ("Id",))

HUB_OUTLET = _table(
    _hub,
    "subak_outlet",
    {
        "Name": String,
        "Company": String,
        "Place": String,
        "AddedAt": BigInteger,
        "RemovedAt": BigInteger,
        "Epoch": String,
        "Number": BigInteger,
        "Digest": LargeBinary,
        "LastSequence": BigInteger,
        "Online": Integer,
        "SeenAt": BigInteger,
        "Conflicts": BigInteger,
        "Quarantined": BigInteger,
        "AppliedEpoch": String,
        "StableSeen": BigInteger,
        "PurgedSequence": BigInteger,
        "PurgedEpoch": String,
        "ResyncAt": BigInteger,
        "ResyncReason": String,
        "SkewMicros": BigInteger,
    },
    ("Name",),
)

HUB_PROGRESS = _table(
    _hub,
    "subak_progress",
    {"Outlet": String, "Seen": BigInteger, "Epoch": String, "Number": BigInteger},
    ("Outlet", "Seen"),
)

HUB_IGNORE = _table(_hub, "subak_ignore", {"Outlet": String, "Origin": String}, ("Outlet", "Origin"))

HUB_BATCH = _table(
    _hub,
    "subak_batch",
    {
        "Sequence": BigInteger,
        "Origin": String,
        "Epoch": String,
        "Number": BigInteger,
        "Previous": LargeBinary,
        "Digest": LargeBinary,
        "Changes": Integer,
        "Transactions": Integer,
        "Bytes": BigInteger,
        "Parts": Integer,
        "StoredAt": BigInteger,
    },
    ("Sequence",),
)

HUB_BATCH_PART = _table(
    _hub,
    "subak_batch_part",
    {"Origin": String, "Epoch": String, "Number": BigInteger, "Part": Integer, "Body": LargeBinary},
    ("Origin", "Epoch", "Number", "Part"),
)

HUB_DELIVERY = _table(
    _hub,
    "subak_delivery",
    {"Outlet": String, "Sequence": BigInteger, "Previous": BigInteger, "ExportFlag": Integer, "ExecutedAt": BigInteger},
    ("Outlet", "Sequence"),
)

HUB_QUARANTINED = _table(
    _hub,
    "subak_quarantined",
    {
        "Outlet": String,
        "Sequence": BigInteger,
        "Position": Integer,
        "Code": String,
        "Reason": Text,
        "ReportedAt": BigInteger,
    },
    ("Outlet", "Sequence", "Position"),
)

HUB_CONFLICT = _table(
    _hub,
    "subak_conflict",
    {
        "Outlet": String,
        "Sequence": BigInteger,
        "Position": Integer,
        "TableName": String,
        "RowKey": Text,
        "Rule": String,
        "Winner": String,
        "LocalStamp": BigInteger,
        "LocalOrigin": String,
        "LocalImage": Text,
        "IncomingStamp": BigInteger,
        "IncomingOrigin": String,
        "IncomingImage": Text,
        "ReportedAt": BigInteger,
    },
    ("Outlet", "Sequence", "Position"),
)

HUB_MISFIT = _table(
    _hub, "subak_misfit", {"Outlet": String, "Position": Integer, "Reason": Text}, ("Outlet", "Position")
)

HUB_TABLE = _table(
    _hub, "subak_table", {"Outlet": String, "TableName": String, "Fingerprint": String}, ("Outlet", "TableName")
)

TABLES = {Side.OUTLET: _outlet, Side.HUB: _hub}
_STATES = {side: metadata.tables["subak_state"] for side, metadata in TABLES.items()}


def statements(path: Path) -> list[str]:
    """The statements of a .sql file in which each ends with `;` at the end of a line. Comment lines are left out."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.lstrip().startswith("--")]
    return [part.strip() for part in "\n".join(lines).split(";\n") if part.strip().rstrip(";")]


def is_prepared(connection: Connection) -> bool:
    """Whether Subak's own tables are in this database, the hub's or an outlet's."""
    there: bool = inspect(connection).has_table("subak_state", schema=dialect_for(connection.engine.url).schema)
    return there


def prepare(connection: Connection, dialect: Dialect, side: Side) -> None:
    """Creates Subak's tables where missing and upgrades older ones in place. Safe to call at every start, and by two at once.

    Raises PermanentError `newer_schema` when a newer Subak has been here.
    """
    state = _STATES[side]
    if is_prepared(connection):
        found = connection.scalar(select(state.c.Value).where(state.c.Name == SCHEMA_VERSION_NAME))
        if found is not None and int(found) > SCHEMA_VERSION:
            raise PermanentError(
                "newer_schema",
                f"The tables of Subak in this database have version {found}; this program knows {SCHEMA_VERSION}.",
                "Run the newer Subak.",
            )
        if found is not None and int(found) == SCHEMA_VERSION:
            return
        if found is not None:
            _upgrade(connection, dialect, side, int(found))
    for statement in statements(SQL / side.value / dialect.name / "tables.sql"):
        connection.execute(text(statement.rstrip(";").replace(":", r"\:")))
    connection.commit()
    version = str(SCHEMA_VERSION)
    try:
        if not connection.execute(
            update(state).where(state.c.Name == SCHEMA_VERSION_NAME).values(Value=version)
        ).rowcount:
            connection.execute(insert(state).values(Name=SCHEMA_VERSION_NAME, Value=version))
    except IntegrityError:  # somebody else, starting at the same time, was here first
        connection.rollback()
    connection.commit()


_ADDED = re.compile(r"ALTER TABLE (?:\w+\.)?(\w+) ADD (?:COLUMN )?(?!CONSTRAINT)`?(\w+)")
_INDEXED = re.compile(r"(?:CREATE INDEX|ALTER TABLE \S+ ADD CONSTRAINT) (\w+)(?: ON (\w+))?")


def _upgrade(connection: Connection, dialect: Dialect, side: Side, found: int) -> None:
    """From version to version, by `upgrade_<version>.sql`; MySQL commits each statement, so a half-done one is gone on with."""
    for version in range(found + 1, SCHEMA_VERSION + 1):
        path = SQL / side.value / dialect.name / f"upgrade_{version}.sql"
        for statement in statements(path) if path.exists() else ():
            if not _done(connection, dialect, statement):
                connection.execute(text(statement.rstrip(";").replace(":", r"\:")))
    connection.commit()


def _done(connection: Connection, dialect: Dialect, statement: str) -> bool:
    """Whether the column or the index that the statement adds is there."""
    there = inspect(connection)
    if added := _ADDED.match(statement):
        columns = there.get_columns(added[1], schema=dialect.schema)
        return added[2].casefold() in {column["name"].casefold() for column in columns}
    if indexed := _INDEXED.match(statement):
        table = indexed[2] or statement.split()[2].rpartition(".")[2]
        indexes = there.get_indexes(table, schema=dialect.schema)
        return indexed[1].casefold() in {str(index["name"]).casefold() for index in indexes}
    return False
