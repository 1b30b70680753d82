"""The application's tables at an outlet, as SQLAlchemy describes them: what the random writers write to."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import (
    Column,
    Computed,
    Connection,
    ForeignKeyConstraint,
    Identity,
    MetaData,
    Table,
    UniqueConstraint,
    inspect,
    text,
    types,
)
from sqlalchemy.dialects import mssql
from sqlalchemy.engine import URL

from tests.stack.application import application_engine

_SQL_SERVERS: dict[str, Any] = {
    "tinyint": mssql.TINYINT,
    "smallint": types.SMALLINT,
    "int": types.INTEGER,
    "bigint": types.BIGINT,
    "bit": types.BOOLEAN,
    "float": types.FLOAT,
    "real": types.REAL,
    "date": types.DATE,
    "time": types.TIME,
    "datetime": types.DATETIME,
    "uniqueidentifier": mssql.UNIQUEIDENTIFIER,
}


def reflect(url: URL) -> MetaData:
    """Subak's own tables are left out."""
    engine = application_engine(url)
    metadata = MetaData()
    if url.get_backend_name() == "mssql":
        with engine.connect() as connection:
            _reflect_by_sys(connection, metadata)
    else:
        metadata.reflect(
            engine, only=lambda name, _: name.lower() != "cloudquery" and not name.lower().startswith("subak_")
        )
    engine.dispose()
    return metadata


def primary_key(connection: Connection, table: str, schema: str | None) -> list[str]:
    if connection.dialect.name != "mssql":
        return inspect(connection).get_pk_constraint(table, schema=schema)["constrained_columns"]
    query = text(
        "SELECT k.COLUMN_NAME FROM INFORMATION_SCHEMA.KEY_COLUMN_USAGE AS k"
        " JOIN INFORMATION_SCHEMA.TABLE_CONSTRAINTS AS c"
        " ON c.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND c.CONSTRAINT_NAME = k.CONSTRAINT_NAME"
        " WHERE c.CONSTRAINT_TYPE = 'PRIMARY KEY' AND LOWER(k.TABLE_SCHEMA) = LOWER(:schema)"
        " AND LOWER(k.TABLE_NAME) = LOWER(:name) ORDER BY k.ORDINAL_POSITION"
    )
    return list(connection.scalars(query, {"schema": schema, "name": table}))


def _reflect_by_sys(connection: Connection, metadata: MetaData) -> None:
    """SQLAlchemy asks INFORMATION_SCHEMA, which not every server fills."""
    columns: dict[str, list[Column[Any]]] = defaultdict(list)
    for row in connection.exec_driver_sql(
        "SELECT t.name AS table_name_, c.name, y.name AS type_, c.max_length, c.precision AS digits, c.scale,"
        " c.is_nullable, c.is_identity, c.is_computed FROM sys.columns AS c"
        " JOIN sys.tables AS t ON t.object_id = c.object_id JOIN sys.types AS y ON y.user_type_id = c.user_type_id"
        " WHERE SCHEMA_NAME(t.schema_id) = 'dbo' ORDER BY t.name, c.column_id"
    ).all():
        extra: list[Any] = [Identity()] * row.is_identity + [Computed("")] * row.is_computed
        columns[row.table_name_].append(
            Column(
                row.name,
                _type(row),
                *extra,
                nullable=bool(row.is_nullable),
                autoincrement="auto" if row.is_identity else False,
            )
        )
    constraints: dict[str, list[Any]] = defaultdict(list)
    indexes: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for row in connection.exec_driver_sql(
        "SELECT t.name AS table_name_, i.name, i.is_primary_key, c.name AS column_name_ FROM sys.indexes AS i"
        " JOIN sys.tables AS t ON t.object_id = i.object_id"
        " JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id"
        " JOIN sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id"
        " WHERE i.is_unique = 1 AND SCHEMA_NAME(t.schema_id) = 'dbo' ORDER BY t.name, i.index_id, x.key_ordinal"
    ):
        indexes[row.table_name_, row.name, bool(row.is_primary_key)].append(row.column_name_)
    for (table, _, primary), names in indexes.items():
        if primary:
            for column in columns[table]:
                column.primary_key = column.name in names
        else:
            constraints[table].append(UniqueConstraint(*names))
    links: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row in connection.exec_driver_sql(
        "SELECT t.name AS table_name_, f.name, c.name AS child, p.name AS parent_table, d.name AS parent"
        " FROM sys.foreign_keys AS f JOIN sys.tables AS t ON t.object_id = f.parent_object_id"
        " JOIN sys.tables AS p ON p.object_id = f.referenced_object_id"
        " JOIN sys.foreign_key_columns AS x ON x.constraint_object_id = f.object_id"
        " JOIN sys.columns AS c ON c.object_id = x.parent_object_id AND c.column_id = x.parent_column_id"
        " JOIN sys.columns AS d ON d.object_id = x.referenced_object_id AND d.column_id = x.referenced_column_id"
        " WHERE SCHEMA_NAME(t.schema_id) = 'dbo' ORDER BY t.name, f.name, x.constraint_column_id"
    ):
        links[row.table_name_, row.name].append((row.child, f"{row.parent_table}.{row.parent}"))
    for (table, _), pairs in links.items():
        constraints[table].append(ForeignKeyConstraint([child for child, _ in pairs], [parent for _, parent in pairs]))
    for table, its_columns in columns.items():
        Table(table, metadata, *its_columns, *constraints[table])


def _type(row: Any) -> Any:
    kind, wide = row.type_.lower(), row.type_.lower().startswith("n")
    if kind in ("varchar", "nvarchar", "char", "nchar"):
        length = row.max_length // (2 if wide else 1)
        return (mssql.NVARCHAR if wide else types.VARCHAR)(length if row.max_length > 0 else None)
    if kind in ("varbinary", "binary", "image"):
        return types.LargeBinary()
    if kind in ("decimal", "numeric", "money", "smallmoney"):
        return types.NUMERIC(row.digits, row.scale)
    if kind == "datetime2":
        return mssql.DATETIME2(min(row.scale, 6))
    return _SQL_SERVERS[kind]()
