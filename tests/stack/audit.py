"""The auditor: are these databases the same? It shares no code with the product: one mistake must not hide another.

It reads every application table with its own queries, brings each value to one form by the column's declared type, and
compares by primary key. Columns are matched by name without regard to case.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

from tests.stack.application import reading_engine

Row = dict[str, Any]
Key = tuple[Any, ...]
Rows = dict[Key, Row]


@dataclass(frozen=True)
class Difference:
    """One key that is not the same everywhere. `rows`: outlet to its row, None where there is none."""

    table: str
    key: Key
    rows: dict[str, Row | None]

    def __str__(self) -> str:
        lines = [f"{self.table} {self.key}:"]
        seen = [row for row in self.rows.values() if row is not None]
        differing = sorted({c for row in seen for c in row if any(row.get(c) != other.get(c) for other in seen)})
        for outlet, row in self.rows.items():
            shown = "no row" if row is None else {c: str(row.get(c))[:60] for c in differing} or "the row"
            lines.append(f"    {outlet}: {shown}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Column:
    name: str
    declared: str
    key_position: int


@dataclass(frozen=True)
class Audit:
    """`counts`: rows per table at the first outlet; `excluded`: differing keys that an outlet lists as quarantined."""

    differences: list[Difference]
    excluded: list[Difference]
    counts: dict[str, int]

    @property
    def identical(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        if self.identical:
            return f"identical: {sum(self.counts.values())} rows in {len(self.counts)} tables"
        shown = "\n".join(str(difference) for difference in self.differences[:20])
        return f"{len(self.differences)} keys differ ({len(self.excluded)} more are quarantined):\n{shown}"


def audit(outlets: Mapping[str, URL], *, except_quarantined: bool = False, tables: set[str] | None = None) -> Audit:
    """Compares all application tables (or those named, in lower case) of the outlets."""
    schemas = {name: _columns(url) for name, url in outlets.items()}
    every = sorted({table for schema in schemas.values() for table in schema})
    if tables is not None:
        every = [table for table in every if table in tables]
    listed: set[tuple[str, str]] = set()
    if except_quarantined:
        for url in outlets.values():
            listed |= quarantined(url)
    differences: list[Difference] = []
    excluded: list[Difference] = []
    counts: dict[str, int] = {}
    for table in every:
        kinds = _kinds([schema[table] for schema in schemas.values() if table in schema])
        contents: dict[str, Rows] = {
            name: _read(url, table, schemas[name][table], kinds) if table in schemas[name] else {}
            for name, url in outlets.items()
        }
        counts[table] = len(next(iter(contents.values())))
        for key in sorted({key for rows in contents.values() for key in rows}, key=repr):
            rows = {name: content.get(key) for name, content in contents.items()}
            first, *others = rows.values()
            if any(other != first for other in others):
                difference = Difference(table, key, rows)
                (excluded if (table, _row_key(key)) in listed else differences).append(difference)
    return Audit(differences, excluded, counts)


def quarantined(url: URL) -> set[tuple[str, str]]:
    """(table in lower case, row key) of every row that this outlet lists as quarantined and not yet decided."""
    engine = reading_engine(url)
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT r.TableName, r.RowKey FROM subak_quarantine_row r"
                " JOIN subak_quarantine q ON q.Id = r.QuarantineId WHERE q.State = 'waiting'"
            )
        ).all()
    engine.dispose()
    return {(table.lower(), key) for table, key in rows}


def _row_key(key: Key) -> str:
    """As `CloudQuery.RowKey` spells a key: the columns' text, backslash and bar escaped, joined by bars."""
    return "|".join(_key_text(value).replace("\\", "\\\\").replace("|", "\\|") for value in key)


def _key_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return format(value, "f") if isinstance(value, Decimal) else str(value).removesuffix(".000000")


def _ours(table: str) -> bool:
    return table.lower() == "cloudquery" or table.lower().startswith(("subak_", "sqlite_"))


_SQL_SERVERS_COLUMNS = (
    "SELECT t.name, c.name, CASE WHEN EXISTS (SELECT 1 FROM sys.check_constraints AS k WHERE k.parent_object_id = t.object_id"
    " AND k.definition LIKE '%isjson(%' + c.name + '%') THEN 'json' ELSE y.name END, x.key_ordinal"
    " FROM sys.tables AS t JOIN sys.columns AS c ON c.object_id = t.object_id"
    " JOIN sys.types AS y ON y.user_type_id = c.user_type_id"
    " LEFT JOIN sys.indexes AS i ON i.object_id = t.object_id AND i.is_primary_key = 1"
    " LEFT JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id AND x.column_id = c.column_id"
    " WHERE SCHEMA_NAME(t.schema_id) = 'dbo' ORDER BY t.name, c.column_id"
)


def _columns(url: URL) -> dict[str, list[_Column]]:
    """Table in lower case to its columns, by the engine's own catalogue. Tables without a primary key are left out."""
    engine = reading_engine(url)
    found: dict[str, list[_Column]] = {}
    with engine.begin() as connection:
        if url.get_backend_name() == "sqlite":
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
            for table in names:
                if not _ours(table):
                    info = connection.exec_driver_sql(f'PRAGMA table_info("{table}")').mappings().all()
                    found[table.lower()] = [_Column(c["name"], str(c["type"]).lower(), c["pk"]) for c in info]
        elif url.get_backend_name() == "mssql":
            for row in connection.exec_driver_sql(_SQL_SERVERS_COLUMNS):
                found.setdefault(row[0].lower(), []).append(_Column(row[1], row[2].lower(), row[3] or 0))
        else:
            rows = connection.exec_driver_sql(
                "SELECT c.TABLE_NAME, c.COLUMN_NAME, c.COLUMN_TYPE, COALESCE(k.ORDINAL_POSITION, 0)"
                " FROM information_schema.COLUMNS c JOIN information_schema.TABLES t"
                " ON t.TABLE_SCHEMA = c.TABLE_SCHEMA AND t.TABLE_NAME = c.TABLE_NAME AND t.TABLE_TYPE = 'BASE TABLE'"
                " LEFT JOIN information_schema.KEY_COLUMN_USAGE k ON k.CONSTRAINT_NAME = 'PRIMARY'"
                " AND k.TABLE_SCHEMA = c.TABLE_SCHEMA AND k.TABLE_NAME = c.TABLE_NAME AND k.COLUMN_NAME = c.COLUMN_NAME"
                " WHERE c.TABLE_SCHEMA = DATABASE() ORDER BY c.TABLE_NAME, c.ORDINAL_POSITION"
            ).all()
            for table, column, declared, position in rows:
                if not _ours(table):
                    kind = declared.decode() if isinstance(declared, bytes) else str(declared)
                    found.setdefault(table.lower(), []).append(_Column(column, kind.lower(), int(position)))
    engine.dispose()
    return {table: columns for table, columns in found.items() if any(c.key_position for c in columns)}


_KINDS = (
    ("boolean", r"bool|tinyint\(1\)"),
    ("bits", r"bit"),
    ("integer", r".*int|year|serial"),
    ("decimal", r"decimal|numeric|money"),
    ("float", r"float|double|real"),
    ("datetime", r"datetime|timestamp"),
    ("date", r"date"),
    ("time", r"time"),
    ("binary", r".*blob|.*binary|image"),
    ("json", r"json"),
    ("uuid", r"uniqueidentifier|uuid"),
    ("char", r"n?char"),
)


def _kind(declared: str) -> str:
    for kind, pattern in _KINDS:
        if re.match(pattern, declared):
            return kind
    return "text"


def _kinds(tables: list[list[_Column]]) -> dict[str, str]:
    """One kind per column (in lower case): the one that the most telling declaration gives, text being the least."""
    found: dict[str, set[str]] = {}
    for columns in tables:
        for column in columns:
            found.setdefault(column.name.lower(), set()).add(_kind(column.declared))
    order = [kind for kind, _ in _KINDS] + ["text"]
    # A boolean, a bit field or a JSON text is an integer or a text elsewhere; what is said most precisely counts.
    return {name: min(kinds, key=order.index) for name, kinds in found.items()}


def _read(url: URL, table: str, columns: list[_Column], kinds: dict[str, str]) -> Rows:
    engine = reading_engine(url)
    quote = "`" if url.get_backend_name() in ("mysql", "mariadb") else '"'
    with engine.begin() as connection:
        name = _spelled(connection, url, table)
        chosen = ", ".join(f"{quote}{column.name}{quote}" for column in columns)
        result = connection.exec_driver_sql(f"SELECT {chosen} FROM {quote}{name}{quote}").all()
    engine.dispose()
    key = sorted(c.name.lower() for c in columns if c.key_position)
    rows: Rows = {}
    for values in result:
        row = {c.name.lower(): same(kinds[c.name.lower()], v) for c, v in zip(columns, values, strict=True)}
        rows[tuple(row[name] for name in key)] = row
    return rows


def _spelled(connection: Connection, url: URL, table: str) -> str:
    if url.get_backend_name() in ("sqlite", "mssql"):
        return table  # names are matched without regard to case there
    query = (
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND LOWER(TABLE_NAME) = %s"
    )
    return str(connection.exec_driver_sql(query, (table,)).scalar_one())


def same(kind: str, value: Any) -> Any:
    """The value in the one form in which two engines' values of a column are equal exactly when they are the same."""
    if value is None:
        return None
    match kind:
        case "boolean" | "integer":
            return int(value)
        case "bits":
            return int.from_bytes(value, "big") if isinstance(value, bytes) else int(value)
        case "decimal":
            return Decimal(str(value)).normalize() + 0
        case "float":
            return float(value)
        case "datetime":
            return _moment(value)
        case "date":
            return value.isoformat() if isinstance(value, date) else str(value)[:10]
        case "time":
            return _time(value)
        case "binary":
            return value.encode() if isinstance(value, str) else bytes(value)
        case "json":
            return json.dumps(json.loads(value), sort_keys=True)
        case "uuid":
            return str(value).lower()
        case "char":
            return str(value).rstrip(" ")
        case _:
            return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _moment(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="microseconds")
    whole, _, fraction = str(value).replace("T", " ").partition(".")
    if len(whole) == len("2000-01-01"):
        whole += " 00:00:00"
    return f"{whole}.{fraction:0<6}"


def _time(value: Any) -> timedelta | str:
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(-?)(\d+):(\d+)(?::(\d+)(?:\.(\d+))?)?", str(value))
    if not match:
        return str(value)
    sign, hours, minutes, seconds, fraction = match.groups()
    amount = timedelta(
        hours=int(hours), minutes=int(minutes), seconds=int(seconds or 0), microseconds=int(f"{fraction or '0':0<6}")
    )
    return -amount if sign else amount
