"""SQL expressions over one row: its image, its row key, whether an update changed it. The same for MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from services.kernel.catalogue import Column, Kind, Table, folded

_UTC = (
    "CASE UNIX_TIMESTAMP({value}) WHEN 0 THEN '0000-00-00 00:00:00' ELSE CAST(TIMESTAMPADD("
    "MICROSECOND, CAST(UNIX_TIMESTAMP({value}) * 1000000 AS SIGNED), '1970-01-01 00:00:00') AS CHAR) END"
)
"""A TIMESTAMP in UTC. UNIX_TIMESTAMP reads what is stored; any other way goes through the session's zone, in which an hour
comes twice a year. A date of zeros reads as 0, which no other value does: the type begins a second later."""


def identifier(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def base_type(column: Column) -> str:
    """`decimal` of `decimal(10,2) unsigned`."""
    return column.declared.lower().partition("(")[0].split()[0]


def _number(column: Column, value: str) -> str:
    """The value without what its column's display adds: leading zeros; a year or bits as the number they are."""
    if base_type(column) == "bit":
        return f"CAST({value} AS UNSIGNED)"
    if base_type(column) == "year" or "zerofill" in column.declared.lower():
        return f"({value} + 0)"
    return value


def _json_value(column: Column, value: str) -> str:
    match column.kind:
        case Kind.INTEGER:
            return _number(column, value)
        case Kind.DECIMAL:
            return f"CAST({_number(column, value)} AS CHAR)"
        case Kind.FLOAT:
            # As a JSON number: CAST(... AS CHAR) loses digits of a third of all doubles on MySQL, JSON_OBJECT of none. MariaDB
            # prints six digits of a FLOAT, and of a DOUBLE all that are needed.
            return f"CAST({value} AS DOUBLE)"
        case Kind.BINARY:
            # With its line breaks: MariaDB's REPLACE takes 1.7 s to remove those of 1 MB, and a time that grows as the square.
            return f"TO_BASE64({value})"
        case Kind.DATETIME if base_type(column) == "timestamp":
            return _UTC.format(value=value)
        case Kind.TEXT | Kind.CHAR if base_type(column) not in ("inet4", "inet6"):
            return f"CONVERT({value} USING utf8mb4)"
        case _:
            return f"CAST({value} AS CHAR)"


def image_sql(table: Table, alias: str, instead: Mapping[str, str] | None = None) -> str:
    """`instead`: expressions, by folded name, for columns that are to have another value."""
    members = []
    for column in table.columns:
        value = (instead or {}).get(folded(column.name), f"{alias}.{identifier(column.name)}")
        members.append(f"{literal(column.name)}, {_json_value(column, value)}")
    return "JSON_OBJECT(\n            " + ",\n            ".join(members) + "\n        )"


def _escaped(text: str) -> str:
    return rf"REPLACE(REPLACE({text}, '\\', '\\\\'), '|', '\\|')"


def _key_text(column: Column, alias: str) -> str:
    """One key column's canonical text (`values.canonical`)."""
    value = f"{alias}.{identifier(column.name)}"
    match column.kind:
        case Kind.INTEGER:
            return f"CAST({_number(column, value)} AS CHAR)"
        case Kind.DECIMAL:
            text = f"CAST({_number(column, value)} AS CHAR)"
            return f"TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM {text}))" if column.scale else text
        case Kind.CHAR:
            return _escaped(f"TRIM(TRAILING ' ' FROM CONVERT({value} USING utf8mb4))")
        case Kind.UUID:
            return f"LOWER(CAST({value} AS CHAR))"
        case Kind.BINARY:
            return f"LOWER(HEX({value}))"
        case Kind.DATE:
            return f"CAST({value} AS CHAR)"
        case Kind.DATETIME:
            text = _UTC.format(value=value) if base_type(column) == "timestamp" else value
            return f"REPLACE(CAST(CAST({text} AS DATETIME(6)) AS CHAR), '.000000', '')"
        case _ if base_type(column) in ("inet4", "inet6"):
            return f"CAST({value} AS CHAR)"
        case _:
            return _escaped(f"CONVERT({value} USING utf8mb4)")


def key_sql(table: Table, alias: str) -> str:
    texts = [_key_text(column, alias) for column in table.key_columns]
    return texts[0] if len(texts) == 1 else "CONCAT_WS('|', " + ", ".join(texts) + ")"


def _same_value(column: Column, one: str, other: str) -> str:
    new, old = (f"{alias}.{identifier(column.name)}" for alias in (one, other))
    if base_type(column) == "timestamp":
        return f"UNIX_TIMESTAMP({new}) <=> UNIX_TIMESTAMP({old})"
    if column.kind in (Kind.TEXT, Kind.CHAR, Kind.JSON) and base_type(column) not in ("inet4", "inet6"):
        return f"CAST(CAST({new} AS CHAR) AS BINARY) <=> CAST(CAST({old} AS CHAR) AS BINARY)"
    return f"{new} <=> {old}"


def same_values(columns: Iterable[Column], one: str, other: str) -> str:
    """Whether two rows agree in these columns bit by bit: texts are compared as bytes, whatever their collation."""
    return "(\n        " + "\n        AND ".join(_same_value(column, one, other) for column in columns) + "\n    )"
