"""Reads a MySQL or MariaDB schema into the kernel's words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import Connection, Row

from services.kernel.catalogue import Catalogue, Column, ForeignKey, Kind, Refusal, Table, folded
from services.kernel.dialects.mysql.cascades import why_not
from services.kernel.dialects.mysql.expressions import base_type
from services.kernel.dialects.mysql.server import cascades_fire_triggers, is_mariadb
from services.kernel.dialects.template import is_own_table

_KINDS = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint", "bit", "year"), Kind.INTEGER),
    "decimal": Kind.DECIMAL,
    **dict.fromkeys(("float", "double"), Kind.FLOAT),
    "char": Kind.CHAR,
    **dict.fromkeys(("varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"), Kind.TEXT),
    **dict.fromkeys(("inet4", "inet6"), Kind.TEXT),
    **dict.fromkeys(("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), Kind.BINARY),
    "date": Kind.DATE,
    "time": Kind.TIME,
    **dict.fromkeys(("datetime", "timestamp"), Kind.DATETIME),
    "json": Kind.JSON,
    "uuid": Kind.UUID,
}

_UNFIT_KEYS = {Kind.FLOAT, Kind.JSON, Kind.TIME}

_Rows = dict[str, list[Row[Any]]]


def read(connection: Connection, patterns: Sequence[str]) -> Catalogue:
    engines = {
        row.name: row.engine
        for row in connection.exec_driver_sql(
            "SELECT TABLE_NAME AS name, ENGINE AS engine FROM information_schema.TABLES"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY TABLE_NAME"
        )
    }
    columns, keys, foreign, json_columns = (
        _columns(connection),
        _indexes(connection),
        _foreign(connection),
        _json(connection),
    )
    tables: dict[str, Table] = {}
    refusals: list[Refusal] = []
    for name, engine in engines.items():
        if is_own_table(name) or not any(fnmatchcase(folded(name), folded(pattern)) for pattern in patterns):
            continue
        table = _table(name, columns[name], keys[name], foreign[name], json_columns)
        refused = list(_refusals(table, engine, {row.name for row in columns[name] if row.expression}))
        refusals += refused
        if not refused:
            tables[folded(name)] = table
    if not cascades_fire_triggers(connection):
        refusals += _cascades(tables)
    return Catalogue(tuple(tables.values()), tuple(refusals))


def _grouped(connection: Connection, sql: str) -> _Rows:
    rows: _Rows = defaultdict(list)
    for row in connection.exec_driver_sql(sql):
        rows[row.table_name_].append(row)
    return rows


def _columns(connection: Connection) -> _Rows:
    return _grouped(
        connection,
        "SELECT TABLE_NAME AS table_name_, COLUMN_NAME AS name, COLUMN_TYPE AS declared, IS_NULLABLE AS nullable,"
        " NUMERIC_PRECISION AS digits, NUMERIC_SCALE AS scale, DATETIME_PRECISION AS fraction, EXTRA AS extra,"
        " COALESCE(GENERATION_EXPRESSION, '') <> '' AS expression"
        " FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() ORDER BY TABLE_NAME, ORDINAL_POSITION",
    )


def _indexes(connection: Connection) -> _Rows:
    """The columns of unique indexes; an expression in one has no name."""
    return _grouped(
        connection,
        "SELECT TABLE_NAME AS table_name_, INDEX_NAME AS index_name, COLUMN_NAME AS name FROM information_schema.STATISTICS"
        " WHERE TABLE_SCHEMA = DATABASE() AND NON_UNIQUE = 0 ORDER BY TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX",
    )


def _foreign(connection: Connection) -> _Rows:
    return _grouped(
        connection,
        "SELECT k.TABLE_NAME AS table_name_, k.CONSTRAINT_NAME AS name, k.COLUMN_NAME AS column_name_,"
        " k.REFERENCED_TABLE_NAME AS parent, k.REFERENCED_COLUMN_NAME AS parent_column,"
        " r.DELETE_RULE AS on_delete, r.UPDATE_RULE AS on_update"
        " FROM information_schema.KEY_COLUMN_USAGE AS k JOIN information_schema.REFERENTIAL_CONSTRAINTS AS r"
        " ON r.CONSTRAINT_SCHEMA = k.CONSTRAINT_SCHEMA AND r.CONSTRAINT_NAME = k.CONSTRAINT_NAME AND r.TABLE_NAME = k.TABLE_NAME"
        " WHERE k.TABLE_SCHEMA = DATABASE() AND k.REFERENCED_TABLE_SCHEMA = DATABASE()"
        " ORDER BY k.TABLE_NAME, k.CONSTRAINT_NAME, k.ORDINAL_POSITION",
    )


def _json(connection: Connection) -> set[tuple[str, str]]:
    """MariaDB's JSON columns: a LONGTEXT with the check that the alias JSON adds."""
    if not is_mariadb(connection):
        return set()
    rows = connection.exec_driver_sql(
        "SELECT TABLE_NAME AS table_name_, CONSTRAINT_NAME AS name FROM information_schema.CHECK_CONSTRAINTS"
        " WHERE CONSTRAINT_SCHEMA = DATABASE() AND LEVEL = 'Column'"
        " AND CHECK_CLAUSE = CONCAT('json_valid(`', CONSTRAINT_NAME, '`)')"
    )
    return {(row.table_name_, row.name) for row in rows}


def _table(
    name: str, rows: list[Row[Any]], keys: list[Row[Any]], foreign: list[Row[Any]], json: set[tuple[str, str]]
) -> Table:
    columns = tuple(_column(row, (name, row.name) in json) for row in rows if not row.expression)
    indexes: dict[str, list[str | None]] = defaultdict(list)
    for row in keys:
        indexes[row.index_name].append(row.name)
    key = [column for column in indexes.pop("PRIMARY", []) if column]
    carried = {column.name for column in columns}
    uniques = [tuple(column for column in index if column) for index in indexes.values() if carried.issuperset(index)]
    return Table(
        name=name,
        columns=columns,
        key=tuple(sorted(key, key=folded)),
        foreign_keys=tuple(_foreign_keys(foreign)),
        uniques=tuple(sorted(uniques)),
    )


def _column(row: Row[Any], is_json: bool) -> Column:
    column = Column(
        row.name, Kind.TEXT, row.nullable == "YES", row.declared, generated="auto_increment" in row.extra.lower()
    )
    kind = Kind.JSON if is_json else _KINDS.get(base_type(column), Kind.TEXT)
    precision = row.fraction if kind in (Kind.TIME, Kind.DATETIME) else row.digits
    single = base_type(column) == "float"
    return replace(column, kind=kind, precision=precision, scale=row.scale, single=single)


def _foreign_keys(rows: list[Row[Any]]) -> Iterator[ForeignKey]:
    for name in dict.fromkeys(row.name for row in rows):
        parts = [row for row in rows if row.name == name]
        yield ForeignKey(
            name=name,
            columns=tuple(part.column_name_ for part in parts),
            parent=parts[0].parent,
            parent_columns=tuple(part.parent_column for part in parts),
            on_delete=parts[0].on_delete,
            on_update=parts[0].on_update,
        )


def _refusals(table: Table, engine: str, computed: set[str]) -> Iterator[Refusal]:
    name = table.name
    if engine.lower() != "innodb":
        what = f"{name} is a {engine} table, which has no transactions."
        yield Refusal(
            name, None, "engine", what, f"ALTER TABLE {name} ENGINE = InnoDB, or leave it out of SUBAK_TABLES."
        )
    if not table.key:
        todo = "Give it a primary key, or leave it out of SUBAK_TABLES."
        yield Refusal(name, None, "no_primary_key", f"{name} has no primary key.", todo)
    for column in table.columns:
        where = f"{name}.{column.name}"
        if base_type(column) not in _KINDS:
            what = f"{where}: Subak cannot carry a {column.declared}."
            yield Refusal(
                name, column.name, "type", what, "Keep it in another table, or leave this table out of SUBAK_TABLES."
            )
        elif column.name in table.key and column.kind in _UNFIT_KEYS:
            what = f"{where}: a {column.declared} cannot be part of a row's key."
            yield Refusal(
                name, column.name, "key_type", what, "Use a key of integers, decimals, texts, dates or binary."
            )
    for column_name in computed.intersection(table.key):
        what = f"{name}: the key column {column_name} is computed."
        yield Refusal(name, column_name, "key_type", what, "Make the key of columns that hold their values.")


def _cascades(tables: dict[str, Table]) -> Iterator[Refusal]:
    """Takes out the tables whose cascading foreign keys cannot be followed, until none is left: one less may leave a child alone."""
    while refused := [
        (table, key, why)
        for table in tables.values()
        for key in table.foreign_keys
        if key.cascades and (why := why_not(table, key, tables))
    ]:
        for table, key, why in refused:
            tables.pop(folded(table.name), None)
            yield _cascade(table.name, key, why)


def _cascade(table: str, foreign_key: ForeignKey, why: str) -> Refusal:
    columns, parent_columns = ", ".join(foreign_key.columns), ", ".join(foreign_key.parent_columns)
    return Refusal(
        table,
        None,
        "cascade",
        f"{table}: this server changes its rows without firing its triggers when {foreign_key.parent} changes"
        f" (foreign key {foreign_key.name}: ON DELETE {foreign_key.on_delete}, ON UPDATE {foreign_key.on_update}), {why}.",
        f"ALTER TABLE {table} DROP FOREIGN KEY {foreign_key.name}; ALTER TABLE {table} ADD CONSTRAINT {foreign_key.name}"
        f" FOREIGN KEY ({columns}) REFERENCES {foreign_key.parent} ({parent_columns}); and let the application delete the rows.",
    )
