"""A change as the statement that executes it, in the outlet's dialect. For showing: what runs has its values bound."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from services.kernel.catalogue import Catalogue, Column, Kind, Table, folded
from services.kernel.change import Change, Op, Transaction
from services.kernel.dialects import Dialect
from services.kernel.errors import SubakError
from services.kernel.values import Image, Value, parse_image

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

VALUE_CHARACTERS = 200
"""Of one value; the rest is cut off, since a photo is no reading matter."""


def statements(transaction: Transaction, catalogue: Catalogue, dialect: Dialect) -> Iterator[tuple[Change, str]]:
    """Each change with its statement; a changed primary key, which is two changes, is one UPDATE."""
    changes = iter(transaction.changes)
    for change in changes:
        following = next(changes, None) if change.paired and change.op is Op.DELETE else None
        yield following or change, statement(change, following, catalogue, dialect)


def statement(change: Change, following: Change | None, catalogue: Catalogue, dialect: Dialect) -> str:
    """Where the local catalogue cannot read the change (no such table or column), what came is shown as it is."""
    table = catalogue.table(change.table)
    if table is None:
        return _unreadable(change)
    try:
        before = parse_image(table, change.before) if change.before is not None else {}
        last = following or change
        after = parse_image(table, last.after) if last.after is not None else {}
    except SubakError:
        return _unreadable(change)
    writer = _Writer(dialect, table)
    if following is not None or change.op is Op.UPDATE:
        return writer.update(before, after)
    return writer.insert(after) if change.op is Op.INSERT else writer.delete(before)


class _Writer:
    def __init__(self, dialect: Dialect, table: Table) -> None:
        self._table = table
        self._dialect = dialect
        self._name = dialect.relation(table)

    def insert(self, image: Image) -> str:
        columns = [self._table.column(name) for name in image]
        names = ", ".join(self._dialect.identifier(column.name) for column in columns)
        values = ", ".join(self._literal(column, image[folded(column.name)]) for column in columns)
        return f"INSERT INTO {self._name} ({names}) VALUES ({values})"  # noqa: S608 - for showing

    def update(self, before: Image, after: Image) -> str:
        key = {folded(name) for name in self._table.key}
        changed = [name for name in after if name not in key or after[name] != before.get(name)]
        return f"UPDATE {self._name} SET {self._pairs(changed, after, ', ')} WHERE {self._where(before)}"  # noqa: S608

    def delete(self, image: Image) -> str:
        return f"DELETE FROM {self._name} WHERE {self._where(image)}"  # noqa: S608 - for showing

    def _where(self, image: Image) -> str:
        return self._pairs([folded(name) for name in self._table.key], image, " AND ")

    def _pairs(self, names: list[str], image: Image, joint: str) -> str:
        columns = [self._table.column(name) for name in names]
        return joint.join(
            f"{self._dialect.identifier(column.name)} = {self._literal(column, image.get(folded(column.name)))}"
            for column in columns
        )

    def _literal(self, column: Column, value: Value) -> str:
        return literal(column, value, self._dialect.name)


def literal(column: Column, value: Value, engine: str) -> str:
    """A canonical value as an SQL literal of that engine."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, bytes):
        return f"0x{_cut(value.hex())}" if engine == "mssql" else f"X'{_cut(value.hex())}'"
    if isinstance(value, int | float) or column.kind is Kind.DECIMAL:
        return str(value)
    text = _cut(value).replace("'", "''")
    if engine == "mssql":
        return f"N'{text}'"
    return "'" + (text.replace("\\", "\\\\") if engine == "mysql" else text) + "'"


def _cut(text: str) -> str:
    """Shortened, and without characters that tell a terminal what to do."""
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text if len(text) <= VALUE_CHARACTERS else f"{text[:VALUE_CHARACTERS]}…"


def _unreadable(change: Change) -> str:
    image = change.after if change.after is not None else change.before
    verb = {Op.INSERT: "INSERT INTO", Op.UPDATE: "UPDATE", Op.DELETE: "DELETE FROM"}[change.op]
    return f"{verb} {change.table} (not in this database): {_cut(json.dumps(image, ensure_ascii=False))}"
