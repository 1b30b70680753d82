"""Reads a SQLite schema into the kernel's words.

SQLite gives a declared type no meaning beyond its affinity; the well-known names decide what a column is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from sqlalchemy import Connection

from services.kernel.catalogue import Catalogue, Column, ForeignKey, Kind, Refusal, Table, folded
from services.kernel.change import MAX_NAME
from services.kernel.dialects.sqlite.binding import MAX_DECIMAL_DIGITS, has_text_affinity
from services.kernel.dialects.sqlite.expressions import identifier
from services.kernel.dialects.template import is_own_table

_DECLARED = re.compile(
    r"\s*([A-Za-z_][\w ]*?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?\s*(?:UNSIGNED|SIGNED)?\s*", re.IGNORECASE
)

_KINDS = {
    "BOOLEAN": Kind.BOOLEAN,
    "BOOL": Kind.BOOLEAN,
    "BIT": Kind.INTEGER,
    "YEAR": Kind.INTEGER,
    "LONG": Kind.INTEGER,
    "DEC": Kind.DECIMAL,
    "DECIMAL": Kind.DECIMAL,
    "NUMERIC": Kind.DECIMAL,
    "NUMBER": Kind.DECIMAL,
    "MONEY": Kind.DECIMAL,
    "REAL": Kind.FLOAT,
    "FLOAT": Kind.FLOAT,
    "DOUBLE": Kind.FLOAT,
    "DOUBLE PRECISION": Kind.FLOAT,
    "CHAR": Kind.CHAR,
    "CHARACTER": Kind.CHAR,
    "NCHAR": Kind.CHAR,
    "NATIVE CHARACTER": Kind.CHAR,
    "ENUM": Kind.TEXT,
    "SET": Kind.TEXT,
    "BINARY": Kind.BINARY,
    "VARBINARY": Kind.BINARY,
    "DATE": Kind.DATE,
    "TIME": Kind.TIME,
    "DATETIME": Kind.DATETIME,
    "DATETIME2": Kind.DATETIME,
    "SMALLDATETIME": Kind.DATETIME,
    "TIMESTAMP": Kind.DATETIME,
    "JSON": Kind.JSON,
    "UUID": Kind.UUID,
    "GUID": Kind.UUID,
    "UNIQUEIDENTIFIER": Kind.UUID,
}

_UNFIT_KEYS = {Kind.FLOAT, Kind.JSON, Kind.TIME}


def read(connection: Connection, patterns: Sequence[str]) -> Catalogue:
    tables: list[Table] = []
    refusals: list[Refusal] = []
    rows = connection.exec_driver_sql(
        "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual') ORDER BY name"
    ).all()
    for name, type_, without_rowid, strict in rows:
        wanted = any(fnmatchcase(folded(name), folded(pattern)) for pattern in patterns)
        if not wanted or is_own_table(name) or name.startswith("sqlite_"):
            continue
        if type_ == "virtual":
            refusals.append(
                Refusal(name, None, "virtual", f"{name} is a virtual table.", "Leave it out of SUBAK_TABLES.")
            )
            continue
        table = _table(connection, name, bool(without_rowid), not strict)
        refused = list(_refusals(connection, table))
        refusals += refused
        if not refused:
            tables.append(table)
    return Catalogue(tuple(tables), tuple(refusals))


def _table(connection: Connection, name: str, without_rowid: bool, loose: bool) -> Table:
    rows = connection.exec_driver_sql(
        'SELECT name, type, "notnull", pk, hidden FROM pragma_table_xinfo(?) ORDER BY cid', (name,)
    ).all()
    key = [row for row in rows if row.pk]
    indexes = connection.exec_driver_sql('SELECT name, origin FROM pragma_index_list(?) WHERE "unique"', (name,)).all()
    is_rowid = (
        len(key) == 1
        and key[0].type.upper() == "INTEGER"
        and not without_rowid
        and all(index.origin != "pk" for index in indexes)
    )
    columns = tuple(
        _column(
            row.name,
            row.type,
            nullable=not row.notnull and not (row.pk and (is_rowid or without_rowid)),
            generated=bool(row.pk and is_rowid),
            loose=loose,
        )
        for row in rows
        if row.hidden == 0
    )
    carried = {column.name for column in columns}
    uniques = []
    for index in indexes:
        names = (
            connection.exec_driver_sql("SELECT name FROM pragma_index_info(?) ORDER BY seqno", (index.name,))
            .scalars()
            .all()
        )
        if index.origin != "pk" and carried.issuperset(names):
            uniques.append(tuple(names))
    return Table(
        name=name,
        columns=columns,
        key=tuple(sorted((row.name for row in key), key=folded)),
        foreign_keys=_foreign_keys(connection, name),
        uniques=tuple(sorted(uniques)),
    )


def _column(name: str, declared: str, *, nullable: bool, generated: bool, loose: bool) -> Column:
    kind, precision, scale = _kind(declared)
    return Column(
        name=name,
        kind=kind or Kind.TEXT,
        nullable=nullable,
        declared=declared,
        precision=precision,
        scale=scale,
        generated=generated,
        loose=loose and not generated,
    )


def _kind(declared: str) -> tuple[Kind | None, int | None, int | None]:
    """The kind (None: not known), and for decimals precision and scale."""
    match = _DECLARED.fullmatch(declared)
    if match is None:
        return None, None, None
    name = " ".join(match[1].upper().split())
    text = has_text_affinity(name)
    if name in _KINDS:
        kind: Kind | None = _KINDS[name]
    elif text and any(word in name for word in ("DECIMAL", "NUMERIC")):
        kind = Kind.DECIMAL
    elif text and "JSON" in name:
        kind = Kind.JSON
    elif "INT" in name:
        kind = Kind.INTEGER
    elif text:
        kind = Kind.TEXT
    elif "BLOB" in name:
        kind = Kind.BINARY
    else:
        kind = None
    if kind is Kind.DECIMAL and match[2]:
        return kind, int(match[2]), int(match[3] or 0)
    return kind, None, None


def _foreign_keys(connection: Connection, table: str) -> tuple[ForeignKey, ...]:
    rows = connection.exec_driver_sql(
        'SELECT id, "table", "from", "to", on_update, on_delete FROM pragma_foreign_key_list(?) ORDER BY id, seq',
        (table,),
    ).all()
    found = []
    for number in dict.fromkeys(row.id for row in rows):
        parts = [row for row in rows if row.id == number]
        parent = parts[0].table
        parent_columns = tuple(part.to for part in parts)
        if None in parent_columns:  # the parent's primary key is meant
            parent_columns = tuple(
                connection.exec_driver_sql(
                    "SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", (parent,)
                ).scalars()
            )
        found.append(
            ForeignKey(
                name=f"{table}_foreign_key_{number}",
                columns=tuple(part[2] for part in parts),
                parent=parent,
                parent_columns=parent_columns,
                on_delete=parts[0].on_delete,
                on_update=parts[0].on_update,
            )
        )
    return tuple(found)


def _refusals(connection: Connection, table: Table) -> Iterator[Refusal]:
    if not table.key:
        todo = "Give it a primary key, or leave it out of SUBAK_TABLES."
        yield Refusal(table.name, None, "no_primary_key", f"{table.name} has no primary key.", todo)
        return
    if len(table.name) > MAX_NAME:
        what = f"{table.name} has a name of more than {MAX_NAME} characters."
        yield Refusal(table.name, None, "name", what, "Rename it, or leave it out of SUBAK_TABLES.")
    for column in table.columns:
        yield from _column_refusals(table, column)
    for name in table.key:
        if not table.has(name):
            what = f"{table.name}: the key column {name} is computed."
            yield Refusal(table.name, name, "key_type", what, "Make the key of columns that hold their values.")
        elif (
            table.column(name).nullable
            and connection.exec_driver_sql(
                f"SELECT EXISTS (SELECT 1 FROM {identifier(table.name)} WHERE {identifier(name)} IS NULL)"  # noqa: S608
            ).scalar()
        ):
            what = f"{table.name} has rows with NULL in its primary key column {name}."
            yield Refusal(
                table.name, name, "null_key", what, "Give those rows a key, or leave the table out of SUBAK_TABLES."
            )
    if expression := _expression_index(connection, table.name):
        what = f"{table.name}: the unique index {expression} is on an expression, so INSERT OR REPLACE would go unseen."
        yield Refusal(
            table.name, None, "expression_index", what, "Put the expression into a generated column and index that."
        )


def _column_refusals(table: Table, column: Column) -> Iterator[Refusal]:
    kind, precision, _ = _kind(column.declared)
    where = f"{table.name}.{column.name}"
    is_key = column.name in table.key
    if kind is None:
        what = f"{where}: Subak does not know the type {column.declared or '(none)'}."
        todo = (
            "Declare it INTEGER, BOOLEAN, DECIMAL(p,s), REAL, VARCHAR, TEXT, BLOB, DATE, TIME, DATETIME, JSON or UUID."
        )
        yield Refusal(table.name, column.name, "type", what, todo)
    elif kind is Kind.DECIMAL and not has_text_affinity(column.declared):
        if precision is not None and precision > MAX_DECIMAL_DIGITS:
            what = f"{where}: SQLite keeps {MAX_DECIMAL_DIGITS} digits of a {column.declared}."
            yield Refusal(
                table.name,
                column.name,
                "decimal_digits",
                what,
                "Declare it DECIMAL_TEXT(p,s), which SQLite keeps as text.",
            )
        elif is_key and precision is None:
            what = f"{where}: a decimal key needs its digits declared."
            yield Refusal(table.name, column.name, "key_type", what, "Declare it DECIMAL(p,s).")
    elif is_key and (kind in _UNFIT_KEYS or kind is Kind.DECIMAL):
        what = f"{where}: a {column.declared} cannot be part of a row's key."
        yield Refusal(table.name, column.name, "key_type", what, "Use a key of integers, texts, dates or blobs.")


def _expression_index(connection: Connection, table: str) -> str | None:
    return connection.exec_driver_sql(
        "SELECT l.name FROM pragma_index_list(?) AS l JOIN pragma_index_xinfo(l.name) AS x"
        ' WHERE l."unique" AND x.key AND x.cid = -2 LIMIT 1',
        (table,),
    ).scalar()
