"""SQL expressions over one row: its image and its row key.

Every value is made a text by name and style, not left to FOR JSON, which cuts a float to sixteen digits and knows no zone.
"""

from __future__ import annotations

import base64
import json
import re

from services.kernel.catalogue import Column, Kind, Table, folded
from services.kernel.values import canonical, wire

BINARY = "Latin1_General_BIN2"
"""The collation in which texts are the same only when they are so to the last bit; of any server."""

_HEX = re.compile(r'"\{hex:([0-9A-Fa-f]*)\}"')


def identifier(name: str) -> str:
    return "[" + name.replace("]", "]]") + "]"


def relation(table: Table) -> str:
    schema = f"{identifier(table.schema)}." if table.schema else ""
    return schema + identifier(table.bare_name)


def literal(text: str) -> str:
    return "N'" + text.replace("'", "''") + "'"


def base_type(column: Column) -> str:
    """`decimal` of `decimal(10,2)`."""
    return column.declared.lower().partition("(")[0].split()[0]


def _text(column: Column, value: str) -> str:
    """The value as a text that keeps every digit."""
    match base_type(column):
        case "money" | "smallmoney":
            return f"CONVERT(NVARCHAR(40), CAST({value} AS DECIMAL(19, 4)))"
        case "float":
            return f"CONVERT(NVARCHAR(40), {value}, 3)"
        case "real":
            return f"CONVERT(NVARCHAR(40), CAST({value} AS FLOAT), 3)"
        case "date":
            return f"CONVERT(NVARCHAR(10), {value}, 23)"
        case "datetime" | "smalldatetime" | "datetime2" | "time":
            return f"CONVERT(NVARCHAR(40), {value}, 121)"
        case "datetimeoffset":
            return f"REPLACE({_zoned(value)}, N'.000000', N'')"
        case "varbinary" | "binary":
            return _hex(value)
        case "uniqueidentifier":
            return f"LOWER(CONVERT(NVARCHAR(36), {value}))"
        case "decimal" | "numeric" | "tinyint" | "smallint" | "int" | "bigint":
            return f"CONVERT(NVARCHAR(50), {value})"
        case "bit":
            return f"CONVERT(NVARCHAR(1), {value})"
        case _:
            return f"CONVERT(NVARCHAR(MAX), {value})"


def _zoned(value: str) -> str:
    """In six digits. What would be rounded into the year 10000 is cut: the server has no such moment."""
    whole = f"CONVERT(NVARCHAR(40), {value}, 121)"
    rounded = f"CONVERT(NVARCHAR(40), CAST({value} AS DATETIMEOFFSET(6)), 121)"
    return f"CASE WHEN {whole} LIKE N'9999-12-31 %.999999[5-9] %' THEN STUFF({whole}, 27, 1, N'') ELSE {rounded} END"


def _hex(value: str) -> str:
    """Style 2 where the server knows it; else by way of XML, which is base64 on SQL Server and hexadecimal where style 2 is not known."""
    by_xml = f"REPLACE(REPLACE((SELECT {value} AS b FOR XML PATH('')), '<b>0x', ''), '</b>', '')"
    by_style = f"CONVERT(VARCHAR(MAX), {value}, 2)"
    return (
        f"CASE WHEN {value} IS NULL THEN NULL WHEN CONVERT(VARCHAR(4), 0x01AB, 2) = '01AB' THEN {by_style}"
        f" WHEN DATALENGTH({value}) = 0 THEN '' ELSE UPPER({by_xml}) END"
    )


def _json_value(column: Column, alias: str) -> str:
    value = f"{alias}.{identifier(column.name)}"
    match column.kind:
        case Kind.INTEGER:
            return value
        case Kind.BINARY:
            return f"N'{{hex:' + {_text(column, value)} + N'}}'"
        case _:
            return _text(column, value)


def image_sql(table: Table, alias: str) -> str:
    members = ",\n            ".join(
        f"{_json_value(column, alias)} AS {identifier(column.name)}" for column in table.columns
    )
    return f"(\n        SELECT\n            {members}\n        FOR JSON PATH, INCLUDE_NULL_VALUES, WITHOUT_ARRAY_WRAPPER\n    )"


ANY = "*"
"""Before the JSON of a row that the server spelled as it likes, with all its columns but for those that are NULL."""


def any_image_sql(alias: str) -> str:
    """The image of a row whose columns are not known."""
    return f"N'{ANY}' + (SELECT {alias}.* FOR JSON PATH, WITHOUT_ARRAY_WRAPPER)"


def wire_image(image: str, table: Table | None) -> str:
    """Binary as base64; a row of unknown columns in the canonical spelling of `table` as it is now."""
    if image.startswith(ANY):
        return _canonical(image, table) if table else image[1:]
    if '"{hex:' not in image:
        return image
    return _HEX.sub(lambda found: f'"{base64.b64encode(bytes.fromhex(found[1])).decode("ascii")}"', image)


def _canonical(image: str, table: Table) -> str:
    given = {folded(name): value for name, value in json.loads(image[1:], parse_float=str, parse_int=str).items()}
    row = {}
    for column in table.columns:
        value = given.get(folded(column.name))
        if isinstance(value, str) and base_type(column) == "datetimeoffset":
            value = _with_zone(value)
        row[column.name] = wire(column, canonical(column, value))
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def _with_zone(text: str) -> str:
    """2024-01-01T10:00:00.1234567Z as `_text` would have it."""
    clock, sign, zone = re.fullmatch(r"(.*?)(Z|[+-])([0-9:]*)", text.replace("T", " ")).groups()  # type: ignore[union-attr]
    kept = str(canonical(_DATETIME, clock.strip()))
    return f"{kept} +00:00" if sign == "Z" else f"{kept} {sign}{zone}"


_DATETIME = Column("", Kind.DATETIME)


def _escaped(text: str) -> str:
    r"""`\` and `|` with a `\` before them. In binary: to most collations a wide bar is a bar. By way of |s and |b, since not every server
    takes two `\` in a row for what is put in."""
    encoded = rf"REPLACE(REPLACE({text} COLLATE {BINARY}, N'|', N'|b'), N'\', N'|s|s')"
    return rf"REPLACE(REPLACE({encoded}, N'|s', N'\'), N'|b', N'\|')"


def _without_zeros(text: str) -> str:
    """10.500 to 10.5, 10.000 to 10."""
    kept = f"REPLACE(RTRIM(REPLACE({text}, N'0', N' ')), N' ', N'0')"
    return f"CASE WHEN {kept} LIKE N'%.' THEN LEFT({kept}, LEN({kept}) - 1) ELSE {kept} END"


def _key_text(column: Column, alias: str) -> str:
    """One key column's canonical text (`values.canonical`)."""
    value = f"{alias}.{identifier(column.name)}"
    text = _text(column, value)
    match column.kind:
        case Kind.DECIMAL:
            return _without_zeros(text) if column.scale else text
        case Kind.CHAR:
            return _escaped(f"RTRIM({text})")
        case Kind.BINARY:
            return f"LOWER({text})"
        case Kind.DATETIME:
            # Each type has digits of its own, and not every server spells zeros at the end.
            rest = f"CASE LEN({text}) WHEN 19 THEN N'.000000' ELSE N'000000' END"
            return f"REPLACE(LEFT({text} + {rest}, 26), N'.000000', N'')"
        case Kind.TEXT:
            return _escaped(text)
        case _:
            return text


def key_sql(table: Table, alias: str) -> str:
    return " + N'|' + ".join(_key_text(column, alias) for column in table.key_columns)
