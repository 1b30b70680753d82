"""Reads a SQL Server schema into the kernel's words. A table of dbo has its own name, one of another schema is `schema.table`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, Row

from services.kernel.catalogue import Catalogue, Column, ForeignKey, Kind, Refusal, Table, folded
from services.kernel.change import MAX_NAME
from services.kernel.dialects.mssql.connecting import SCHEMA
from services.kernel.dialects.mssql.expressions import base_type
from services.kernel.dialects.template import is_own_table

MAIN_SCHEMA = "dbo"

KINDS = {
    **dict.fromkeys(("tinyint", "smallint", "int", "bigint"), Kind.INTEGER),
    "bit": Kind.BOOLEAN,
    **dict.fromkeys(("decimal", "numeric", "money", "smallmoney"), Kind.DECIMAL),
    **dict.fromkeys(("float", "real"), Kind.FLOAT),
    **dict.fromkeys(("char", "nchar"), Kind.CHAR),
    **dict.fromkeys(("varchar", "nvarchar", "xml"), Kind.TEXT),
    **dict.fromkeys(("binary", "varbinary"), Kind.BINARY),
    "date": Kind.DATE,
    "time": Kind.TIME,
    **dict.fromkeys(("datetime", "datetime2", "smalldatetime"), Kind.DATETIME),
    "datetimeoffset": Kind.TEXT,
    "json": Kind.JSON,
    "uniqueidentifier": Kind.UUID,
}

VERSION_TYPES = {"timestamp", "rowversion"}
"""The server gives such a column another value at every write: it says nothing about the row, and is left out."""

_SCALED = {"decimal", "numeric"}
_FRACTIONS = {"time", "datetime2", "datetimeoffset"}
_LENGTHS = {"char", "varchar", "binary", "varbinary"}
_WIDE = {"nchar", "nvarchar"}

_IS_JSON = re.compile(
    r'[(\s]*isjson\s*\(\s*[\["]?(?P<name>.+?)[\]"]?\s*(?:,\s*\w+\s*)?\)\s*(?:=\s*\(?1|>\s*\(?0)[)\s]*', re.IGNORECASE
)
"""The CHECK that makes a text column one of JSON, as the server spells it."""

_UNFIT_KEYS = {Kind.FLOAT, Kind.JSON, Kind.TIME}
_UNFIT_KEY_TYPES = {"xml", "datetimeoffset"}

MAX_KEY = 699
"""Characters of a row key (a bar comes behind it) that, with a table's name of 150, the version table's index can hold: 1,700 bytes in all."""

KEY_FRACTION = 6
"""Digits of a second that travel: two keys that differ in the seventh would be one."""

_Rows = dict[int, list[Row[Any]]]


def read(connection: Connection, patterns: Sequence[str]) -> Catalogue:
    columns, keys, uniques, foreign = (
        _columns(connection),
        _indexes(connection, "i.is_primary_key = 1"),
        _indexes(connection, "i.is_unique = 1 AND i.is_primary_key = 0"),
        _foreign(connection),
    )
    json_columns = _json(connection)
    tables: list[Table] = []
    refusals: list[Refusal] = []
    relations = _relations(connection)
    names = {row.id: called(row.schema_name_, row.name) for row in relations}
    for row in relations:
        name = names[row.id]
        if row.schema_name_.lower() == SCHEMA or is_own_table(row.name):
            continue
        if not any(fnmatchcase(folded(name), folded(pattern)) for pattern in patterns):
            continue
        table = _table(
            name, row, columns[row.id], keys[row.id], uniques[row.id], foreign[row.id], names, json_columns[row.id]
        )
        refused = list(_refusals(table, row, columns[row.id]))
        refusals += refused
        if not refused:
            tables.append(table)
    return Catalogue(tuple(tables), tuple(refusals))


def called(schema: str, table: str) -> str:
    """The table's name for all outlets."""
    return table if schema.lower() == MAIN_SCHEMA else f"{schema}.{table}"


def _relations(connection: Connection) -> Sequence[Row[Any]]:
    return connection.exec_driver_sql(
        "SELECT t.object_id AS id, t.name AS name, s.name AS schema_name_"
        " FROM sys.tables AS t INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id"
        " WHERE t.is_ms_shipped = 0 AND s.name NOT IN ('sys', 'information_schema_tsql') ORDER BY s.name, t.name"
    ).all()


def _grouped(connection: Connection, sql: str) -> _Rows:
    rows: _Rows = defaultdict(list)
    for row in connection.exec_driver_sql(sql):
        rows[row.id].append(row)
    return rows


def _columns(connection: Connection) -> _Rows:
    return _grouped(
        connection,
        "SELECT c.object_id AS id, c.name AS name, y.name AS base, u.name AS given, c.max_length AS bytes,"
        " c.precision AS digits, c.scale AS scale, c.is_nullable AS nullable, c.is_identity AS is_identity,"
        " c.is_computed AS is_computed, c.generated_always_type AS generated_always,"
        " CAST(COLLATIONPROPERTY(c.collation_name, 'CodePage') AS INT) AS code_page"
        " FROM sys.columns AS c INNER JOIN sys.tables AS t ON t.object_id = c.object_id"
        " INNER JOIN sys.types AS u ON u.user_type_id = c.user_type_id"
        " LEFT JOIN sys.types AS y ON y.user_type_id = c.system_type_id"
        " ORDER BY c.object_id, c.column_id",
    )


def _indexes(connection: Connection, which: str) -> _Rows:
    """The columns of unique indexes. A filtered one is listed too: it refuses as the others do."""
    return _grouped(
        connection,
        "SELECT i.object_id AS id, i.index_id AS number, c.name AS name FROM sys.indexes AS i"  # noqa: S608
        " INNER JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id"
        " INNER JOIN sys.columns AS c ON c.object_id = x.object_id AND c.column_id = x.column_id"
        " WHERE x.is_included_column = 0 AND " + which + " ORDER BY i.object_id, i.index_id, x.key_ordinal",
    )


def _foreign(connection: Connection) -> _Rows:
    return _grouped(
        connection,
        "SELECT f.parent_object_id AS id, f.name AS name, c.name AS column_name_, f.referenced_object_id AS parent,"
        " p.name AS parent_column, f.delete_referential_action_desc AS on_delete,"
        " f.update_referential_action_desc AS on_update"
        " FROM sys.foreign_keys AS f"
        " INNER JOIN sys.foreign_key_columns AS x ON x.constraint_object_id = f.object_id"
        " INNER JOIN sys.columns AS c ON c.object_id = x.parent_object_id AND c.column_id = x.parent_column_id"
        " INNER JOIN sys.columns AS p ON p.object_id = x.referenced_object_id AND p.column_id = x.referenced_column_id"
        " ORDER BY f.parent_object_id, f.name, x.constraint_column_id",
    )


def _json(connection: Connection) -> dict[int, set[str]]:
    """Of each table the columns, by folded name, with CHECK (ISJSON(column) = 1)."""
    found: dict[int, set[str]] = defaultdict(set)
    query = "SELECT parent_object_id AS id, definition FROM sys.check_constraints WHERE is_disabled = 0"
    for row in connection.exec_driver_sql(query):
        if matched := _IS_JSON.fullmatch(row.definition or ""):
            found[row.id].add(folded(matched["name"].replace("]]", "]")))
    return found


def _table(
    name: str,
    row: Row[Any],
    columns: list[Row[Any]],
    keys: list[Row[Any]],
    uniques: list[Row[Any]],
    foreign: list[Row[Any]],
    names: dict[int, str],
    json: set[str],
) -> Table:
    carried = tuple(_column(column, folded(column.name) in json) for column in columns if _is_carried(column))
    indexes: dict[int, list[str]] = defaultdict(list)
    for column in uniques:
        indexes[column.number].append(column.name)
    there = {column.name for column in carried}
    return Table(
        name=name,
        columns=carried,
        key=tuple(sorted((column.name for column in keys), key=folded)),
        foreign_keys=tuple(_foreign_keys(foreign, names)),
        uniques=tuple(sorted(tuple(index) for index in indexes.values() if there.issuperset(index))),
        schema=row.schema_name_,
    )


def _is_carried(column: Row[Any]) -> bool:
    return not column.is_computed and not column.generated_always and column.base not in VERSION_TYPES


def _column(row: Row[Any], is_json: bool) -> Column:
    base = (row.base or row.given).lower()
    kind = Kind.JSON if is_json else KINDS.get(base, Kind.TEXT)
    precision, scale = None, None
    if kind is Kind.DECIMAL:
        precision, scale = row.digits, row.scale
    elif base in _FRACTIONS:
        precision = min(row.scale, KEY_FRACTION)
    elif kind is Kind.DATETIME:
        # A datetime has ticks of 1/300 s: to two digits they round as the time they stand for does.
        precision = 2 if base == "datetime" else 0
    return Column(
        row.name,
        kind,
        bool(row.nullable),
        _declared(base, row),
        precision,
        scale,
        generated=bool(row.is_identity),
        immutable=bool(row.is_identity),
        single=base == "real",
    )


def _declared(base: str, row: Row[Any]) -> str:
    """The type as one writes it: `nvarchar(40)`, `decimal(10,2)`, `datetime2(7)`; of one in a code page also that: `varchar(9) cp1252`."""
    if base in _SCALED:
        return f"{base}({row.digits},{row.scale})"
    if base in _FRACTIONS:
        return f"{base}({row.scale})"
    if base in _LENGTHS or base in _WIDE:
        length = row.bytes // 2 if base in _WIDE and row.bytes > 0 else row.bytes
        page = f" cp{row.code_page}" if base in ("char", "varchar") and row.code_page else ""
        return f"{base}({'max' if length == -1 else length}){page}"
    return base


def _foreign_keys(rows: list[Row[Any]], names: dict[int, str]) -> Iterator[ForeignKey]:
    for name in dict.fromkeys(row.name for row in rows):
        parts = [row for row in rows if row.name == name]
        yield ForeignKey(
            name=name,
            columns=tuple(part.column_name_ for part in parts),
            parent=names[parts[0].parent],
            parent_columns=tuple(part.parent_column for part in parts),
            on_delete=parts[0].on_delete.replace("_", " "),
            on_update=parts[0].on_update.replace("_", " "),
        )


def _refusals(table: Table, row: Row[Any], columns: list[Row[Any]]) -> Iterator[Refusal]:
    name = table.name
    leave = "or leave this table out of SUBAK_TABLES."
    if "." in row.name or "." in row.schema_name_:
        what = f"{name} has a dot in its name, which stands between schema and table."
        yield Refusal(name, None, "name", what, "Rename it, or leave it out of SUBAK_TABLES.")
    if not table.key:
        todo = "Give it a primary key, or leave it out of SUBAK_TABLES."
        yield Refusal(name, None, "no_primary_key", f"{name} has no primary key.", todo)
    for column in table.columns:
        where = f"{name}.{column.name}"
        base = base_type(column)
        if base not in KINDS:
            what = f"{where}: Subak cannot carry a {column.declared}."
            yield Refusal(name, column.name, "type", what, f"{_instead(base)}, {leave}")
        elif "." in column.name:
            what = f"{where} has a dot in its name, which FOR JSON takes for a path."
            yield Refusal(name, column.name, "name", what, f"Rename the column, {leave}")
        elif column.name in table.key and (column.kind in _UNFIT_KEYS or base in _UNFIT_KEY_TYPES):
            what = f"{where}: a {column.declared} cannot be part of a row's key."
            yield Refusal(
                name, column.name, "key_type", what, "Use a key of integers, decimals, texts, dates or binary."
            )
        elif column.name in table.key and column.declared == "datetime2(7)":
            what = f"{where}: of a {column.declared} six digits travel, and two keys might become one."
            yield Refusal(name, column.name, "key_type", what, "Make it a datetime2(6) or less.")
    if len(name) > MAX_NAME:
        what = f"{name} has a name of more than {MAX_NAME} characters."
        yield Refusal(name, None, "name", what, "Rename it, or leave it out of SUBAK_TABLES.")
    if (size := sum(_key_size(column) for column in table.columns if column.name in table.key)) > MAX_KEY:
        what = f"{name}: a row's key may have {size} characters; Subak keeps {MAX_KEY}."
        yield Refusal(name, None, "key_size", what, f"Make the key's columns shorter, {leave}")
    carried = {column.name for column in table.columns}
    for key in table.key:
        if key not in carried:
            what = f"{name}: the key column {key} is computed."
            yield Refusal(name, key, "key_type", what, "Make the key of columns that hold their values.")


def _key_size(column: Column) -> int:
    """Characters that the column may have in a row key, with a bar before the next one."""
    length = re.search(r"\((\d+)\)", column.declared)
    if column.kind not in (Kind.TEXT, Kind.CHAR, Kind.BINARY) or not length:
        return _KEY_OF_FIXED_SIZE
    return int(length[1]) * (2 if column.kind is Kind.BINARY else 1) + 1


_KEY_OF_FIXED_SIZE = 42
"""A decimal of 38 digits with sign, point and bar; a UUID and a moment have less."""


def _instead(base: str) -> str:
    instead = {"text": "nvarchar(max)", "ntext": "nvarchar(max)", "image": "varbinary(max)"}.get(base)
    return f"Make it {instead}" if instead else "Keep it in another table"
