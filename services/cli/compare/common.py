"""One table as several databases hold it, and the kinds in which its values can be compared. Pure."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from services.kernel.catalogue import Column, Kind, Table, folded
from services.kernel.errors import PermanentError
from services.kernel.values import FRACTION_DIGITS, Image, Value, canonical, row_key

SPECIFIC = (
    Kind.TEXT,
    Kind.CHAR,
    Kind.BINARY,
    Kind.BOOLEAN,
    Kind.INTEGER,
    Kind.DECIMAL,
    Kind.FLOAT,
    Kind.DATE,
    Kind.TIME,
    Kind.DATETIME,
    Kind.UUID,
    Kind.JSON,
)
"""Of two kinds the later one can read what the other holds of it: a decimal in a text column compares as a decimal."""

Digest = bytes
DIGEST_BYTES = 16
"""Two different rows of one digest: not in a table of any size (2^-64 at four thousand million rows)."""


@dataclass(frozen=True)
class Common:
    """`table` has the columns in the kinds to compare in; `digits` those of a second's fraction that all can hold."""

    table: Table
    digits: dict[str, int]
    single: frozenset[str]
    """Columns that are of single precision somewhere: MySQL's FLOAT, SQL Server's REAL."""

    def image(self, text: str) -> Image:
        """A row, from the JSON text of its image. A value that is not one of the kind counts as it is."""
        raw = {folded(name): value for name, value in json.loads(text).items()}
        return {folded(column.name): self._value(column, raw.get(folded(column.name))) for column in self.table.columns}

    def key(self, image: Image) -> str:
        return row_key(self.table, image)

    def digest(self, image: Image) -> Digest:
        return hashlib.blake2b(repr(tuple(image.values())).encode(), digest_size=DIGEST_BYTES).digest()

    def _value(self, column: Column, raw: object) -> Value:
        value = canonical(column, raw)
        if isinstance(value, float):
            return _single(value) if folded(column.name) in self.single else value
        if isinstance(value, str) and folded(column.name) in self.digits:
            return _coarser(column, value, self.digits[folded(column.name)])
        return value


def common(tables: Sequence[Table]) -> Common:
    """Raises PermanentError `columns` or `key` when the tables are not of one shape."""
    first = tables[0]
    columns = []
    for column in first.columns:
        owners = [table.column(column.name) for table in tables if table.has(column.name)]
        if len(owners) == len(tables):
            kind = max((owner.kind for owner in owners), key=SPECIFIC.index)
            columns.append(replace(column, kind=kind, loose=True))
    lacking = sorted(
        {folded(column.name) for table in tables for column in table.columns}
        - {folded(column.name) for column in columns}
    )
    if lacking:
        raise PermanentError(
            "columns",
            f"Not every database has column {', '.join(lacking)} of table {first.name}.",
            "Give the table the same columns everywhere.",
        )
    if len({tuple(map(folded, table.key)) for table in tables}) > 1:
        raise PermanentError(
            "key", f"Table {first.name} has different primary keys.", "Give it the same primary key everywhere."
        )
    digits: dict[str, int] = {}
    single = set()
    for column in columns:
        owners = [table.column(column.name) for table in tables]
        known = [
            owner.precision
            for owner in owners
            if owner.kind in (Kind.TIME, Kind.DATETIME) and owner.precision is not None
        ]
        if known and min(known) < FRACTION_DIGITS:
            digits[folded(column.name)] = min(known)
        if any(owner.single for owner in owners):
            single.add(folded(column.name))
    return Common(replace(first, columns=tuple(columns)), digits, frozenset(single))


def _single(value: float) -> float:
    """The nearest number of single precision; one that is too large for it stays as it is."""
    try:
        (nearest,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return value
    return float(nearest)


def _coarser(column: Column, value: str, digits: int) -> str:
    """A canonical time or datetime rounded to fewer digits of its seconds: half up, as everywhere."""
    whole, _, fraction = value.partition(".")
    if len(fraction) <= digits or not fraction.isdecimal():
        return value
    number = int(Decimal(f"0.{fraction}").scaleb(digits).to_integral_value(ROUND_HALF_UP))
    if number == 10**digits:
        return str(canonical(column, f"{whole}.{'9' * (FRACTION_DIGITS + 1)}"))  # which carries into the seconds
    kept = f"{number:0{digits}}".rstrip("0") if digits else ""
    return f"{whole}.{kept}" if kept else whole
