"""SQL expressions over one row: its image, its row key, whether an update changed it.

SQLite lets any column hold any class of value, so the image asks each value what it is (`typeof`) rather than trusting the
column's type. A blob becomes {"hex":"AB01"}, because SQLite cannot write base64; `wire_image` turns it into that. A blob
where no blob belongs becomes {"blob":"AB01"}, which no receiver takes for a value.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from services.kernel.catalogue import Column, Kind, Table
from services.kernel.dialects.sqlite.binding import has_text_affinity

_HEX = re.compile(r':\{"hex":"([0-9A-F]*)"\}')
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_DEPTH = 50
"""Terms joined without parentheses: SQLite's parser takes expressions 1000 deep, a table may have 2000 columns."""


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _joined(terms: list[str], operator: str) -> str:
    """One term a line, for the reader of a rendered trigger."""
    between = f"\n        {operator} "
    groups = [between.join(terms[i : i + _DEPTH]) for i in range(0, len(terms), _DEPTH)]
    return between.join(groups if len(groups) == 1 else [f"({group})" for group in groups])


def _json_value(column: Column, alias: str) -> str:
    """The JSON text of one value, NULL included."""
    value = f"{alias}.{identifier(column.name)}"
    if column.generated:  # the rowid: always an integer
        return value
    if column.kind is Kind.BINARY:  # there a JSON string means base64: a number must be a JSON number
        number = f"replace(printf('%!.20g', {value}), 'Inf', '9e999')"
        hexed = f"""'{{"hex":"' || hex({value}) || '"}}'"""
        return f"CASE typeof({value}) WHEN 'real' THEN {number} WHEN 'blob' THEN {hexed} WHEN 'text' THEN {hexed} ELSE json_quote({value}) END"
    cases = [f"""WHEN 'blob' THEN '{{"blob":"' || hex({value}) || '"}}'"""]
    if column.kind is Kind.JSON:
        cases.append("WHEN 'null' THEN 'null'")
        value = f"CAST({value} AS TEXT)"
    elif not has_text_affinity(column.declared):
        # 20 digits read back to the same bits; a decimal has at most the 15 that every double keeps.
        digits = "%!.15g" if column.kind is Kind.DECIMAL else "%!.20g"
        cases.append(f"""WHEN 'real' THEN '"' || printf('{digits}', {value}) || '"'""")
    return f"CASE typeof({alias}.{identifier(column.name)}) {' '.join(cases)} ELSE json_quote({value}) END"


def image_sql(table: Table, alias: str) -> str:
    members = [
        literal(("{" if i == 0 else ",") + json.dumps(column.name, ensure_ascii=False) + ":")
        + f" || {_json_value(column, alias)}"
        for i, column in enumerate(table.columns)
    ]
    return "(" + _joined([*members, "'}'"], "||") + ")"


def _blob(value: Any) -> Any:
    if isinstance(value, str) and _NOT_UTF8.search(value):
        return {"blob": value.encode("utf-8", "surrogateescape").hex().upper()}
    return value


def wire_image(image: str) -> str:
    """Blobs as base64. The raw text `:{"hex":"` cannot stand inside a JSON string: a quote is escaped there.

    A text that is not UTF-8 becomes the blob that it is: only a column that holds anything takes it, any other refuses it.
    """
    if _NOT_UTF8.search(image):
        row = json.loads(image)
        image = json.dumps(
            {name: _blob(value) for name, value in row.items()}, ensure_ascii=False, separators=(",", ":")
        )
    if ':{"hex":"' not in image:
        return image
    return _HEX.sub(lambda found: f':"{base64.b64encode(bytes.fromhex(found[1])).decode("ascii")}"', image)


def _escaped(text: str) -> str:
    return rf"replace(replace({text}, '\', '\\'), '|', '\|')"


def _without_zeros(text: str) -> str:
    return f"rtrim(rtrim({text}, '0'), '.')"


def _key_text(column: Column, alias: str) -> str:
    """One key column's canonical text (`values.canonical`)."""
    value = f"{alias}.{identifier(column.name)}"
    match column.kind:
        case Kind.INTEGER | Kind.BOOLEAN:
            return f"CAST({value} AS TEXT)"
        case Kind.CHAR:
            return _escaped(f"rtrim({value}, ' ')")
        case Kind.UUID:
            return _escaped(f"lower({value})")
        case Kind.BINARY:
            return f"lower(hex({value}))"
        case Kind.DECIMAL:
            fixed = f"printf('%.{column.scale or 0}f', {value})"
            return f"(CASE typeof({value}) WHEN 'real' THEN {_without_zeros(fixed)} ELSE CAST({value} AS TEXT) END)"
        case Kind.DATE:
            return f"substr({value}, 1, 10)"
        case Kind.DATETIME:
            start = f"replace(substr({value}, 1, 19), 'T', ' ')"
            whole = f"{start} || substr('0000-00-00 00:00:00', length({start}) + 1)"
            fraction = f"substr(substr({value}, 21) || '000000', 1, 6)"
            return f"({whole} || CASE {fraction} WHEN '000000' THEN '' ELSE '.' || {fraction} END)"
        case _:
            return _escaped(value)


def key_sql(table: Table, alias: str) -> str:
    texts = [_key_text(column, alias) for column in table.key_columns]
    return texts[0] if len(texts) == 1 else "(" + " || '|' || ".join(f"({text})" for text in texts) + ")"


def key_values_sql(table: Table, alias: str) -> str:
    """The key's values as a JSON array, with which a row is found again (`found_again`)."""
    values = ", ".join(
        f"hex({alias}.{identifier(column.name)})"
        if column.kind is Kind.BINARY
        else f"{alias}.{identifier(column.name)}"
        for column in table.key_columns
    )
    return f"json_array({values})"


def found_again(table: Table, alias: str, key_values: str) -> str:
    """Whether the row `alias` has the key in the JSON array `key_values`."""
    return " AND ".join(
        (
            f"hex({alias}.{identifier(column.name)})"
            if column.kind is Kind.BINARY
            else f"{alias}.{identifier(column.name)}"
        )
        + f" = json_extract({key_values}, '$[{position}]')"
        for position, column in enumerate(table.key_columns)
    )


def same_key(table: Table, alias: str, other: str) -> str:
    """Whether two rows have one primary key, as the primary key's index sees it."""
    return " AND ".join(f"{alias}.{identifier(name)} = {other}.{identifier(name)}" for name in table.key)


def changed(table: Table) -> str:
    """Whether NEW differs from OLD in any bit: collations (NOCASE) are set aside, and 1 is not '1'."""
    terms = []
    for column in table.columns:
        name = identifier(column.name)
        terms.append(f"NEW.{name} COLLATE BINARY IS NOT OLD.{name}")
        if not column.generated:
            terms.append(f"typeof(NEW.{name}) <> typeof(OLD.{name})")
    return "(" + _joined(terms, "OR") + ")"
