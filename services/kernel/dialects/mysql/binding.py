"""Canonical values as PyMySQL wants them.

Strict mode refuses most of what does not fit. What MySQL or MariaDB would change without an error is refused here; only the fraction of
a time is rounded, half up, to the digits of its column, because the two servers would round it differently.
"""

from __future__ import annotations

import math
import re
import struct

from services.kernel.catalogue import Column, Kind
from services.kernel.dialects.mysql.expressions import base_type
from services.kernel.dialects.rounding import rounded
from services.kernel.errors import PermanentError
from services.kernel.values import Value

_LENGTH = re.compile(r"\w+\((\d+)\)")


def bind(column: Column, value: Value) -> Value:
    match value:
        case None:
            return None
        case bool():
            return int(value)
        case float():
            return _float(column, value)
        case bytes():
            if base_type(column) == "binary" and len(value) != _length(column):
                raise _refused(column, f"has {len(value)} bytes, and would be filled up with zeros")
            return value
        case str():
            return _text(column, value)
        case _:
            return value


def _text(column: Column, value: str) -> str:
    length = _length(column)
    if column.kind in (Kind.TEXT, Kind.CHAR) and length is not None and len(value) > length:
        raise _refused(column, f"has {len(value)} characters")
    if column.kind is Kind.DECIMAL and column.scale is not None:
        digits = len(value.partition(".")[2])
        if digits > column.scale:
            raise _refused(column, f"has {digits} decimal places")
    if column.kind in (Kind.TIME, Kind.DATETIME) and "." in value:
        return rounded(value, column.precision or 0)
    return value


def _float(column: Column, value: float) -> float:
    if not math.isfinite(value):
        raise _refused(column, "is not finite")
    kept = value if column.scale is None else round(value, column.scale)
    if base_type(column) == "float":
        try:
            kept = struct.unpack("f", struct.pack("f", kept))[0]
        except OverflowError:
            kept = math.inf
    if kept != value:
        raise _refused(column, "has more digits than the column keeps: make it a DOUBLE")
    return value


def _length(column: Column) -> int | None:
    match = _LENGTH.match(column.declared)
    return int(match[1]) if match else None


def _refused(column: Column, why: str) -> PermanentError:
    return PermanentError(
        "value",
        f"A value for column {column.name} ({column.declared}) {why}.",
        "Give the column the same type as at the other outlets, then retry.",
    )
