"""Canonical values as Python's sqlite3 wants them. SQLite changes silently what does not fit a column: that is refused here."""

from __future__ import annotations

import re

from services.kernel.catalogue import Column, Kind
from services.kernel.errors import PermanentError
from services.kernel.values import Value

_DECIMAL = re.compile(r"-?\d+(\.\d+)?")
_FLOAT = re.compile(r"-?\d+(?=[.eE])(\.\d+)?([eE][+-]?\d+)?")

MAX_INTEGER = 2**63 - 1
MAX_DECIMAL_DIGITS = 15
"""What a double, in which SQLite keeps a decimal, gives back digit by digit."""


def has_text_affinity(declared: str) -> bool:
    """https://sqlite.org/datatype3.html#determination_of_column_affinity"""
    name = declared.upper()
    return "INT" not in name and any(word in name for word in ("CHAR", "CLOB", "TEXT"))


def bind(column: Column, value: Value) -> Value:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not -MAX_INTEGER - 1 <= value <= MAX_INTEGER:
        raise _refused(column, "is beyond 63 bits and a sign, all that SQLite's integers have")
    if isinstance(value, str) and not has_text_affinity(column.declared):
        _check_number(column, value)
    return value


def _check_number(column: Column, text: str) -> None:
    """SQLite makes a number of a text that looks like one, unless the column's type says TEXT or the like."""
    if column.kind is Kind.DECIMAL and _DECIMAL.fullmatch(text):
        digits = len(text.lstrip("-").replace(".", "").strip("0"))
        if digits > MAX_DECIMAL_DIGITS and not _is_integer(text):
            raise _refused(column, f"has {digits} digits; SQLite keeps {MAX_DECIMAL_DIGITS} in a number")
    if column.kind is Kind.JSON and _FLOAT.fullmatch(text):
        raise _refused(column, "is a bare number, of which SQLite keeps 15 digits and no '.0'")


def _is_integer(text: str) -> bool:
    """Whether SQLite keeps it as an integer, of which it loses no digit."""
    return "." not in text and -MAX_INTEGER - 1 <= int(text) <= MAX_INTEGER


def _refused(column: Column, why: str) -> PermanentError:
    return PermanentError(
        "value",
        f"A value for column {column.name} ({column.declared}) {why}.",
        "Declare the column with a type that holds it (a long decimal as DECIMAL_TEXT, a JSON as JSON_TEXT), then retry.",
    )
