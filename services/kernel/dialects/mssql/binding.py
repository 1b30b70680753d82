"""Canonical values as pyodbc wants them, and the type each parameter is given in the statement.

Every value is CAST to the type of its column. A text parameter is nvarchar to the driver: compared with a varchar key it would
make the server read, and lock, the whole index. A NULL has no type at all. Times go as text, since drivers cut their fraction.

CAST cuts a text, rounds a decimal and completes a moment without its zone, without an error: what would not fit is refused here. What a
time loses, it loses here and by our rule, since each type and each version has its own (services/kernel/dialects/TYPES.md).
"""

from __future__ import annotations

import math
import re
import struct
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam, cast, func, literal_column
from sqlalchemy.types import UserDefinedType

from services.kernel.catalogue import Column, Kind
from services.kernel.dialects.mssql.expressions import base_type
from services.kernel.dialects.rounding import rounded
from services.kernel.errors import PermanentError
from services.kernel.values import Value

_LENGTH = re.compile(r"\w+\((\d+)\)")
_INTEGERS = {"tinyint": (0, 2**8), "smallint": (-(2**15), 2**15), "int": (-(2**31), 2**31), "bigint": (-(2**63), 2**63)}
_ENDLESS = {"nvarchar": "nvarchar(max)", "nchar": "nvarchar(max)", "varchar": "nvarchar(max)", "char": "nvarchar(max)"}
"""What a text to be written is cast to: it is then the column, and not the CAST, that says that it is too long."""

_LEAST_FLOATS = {"float": 2.0**-1022, "real": 2.0**-126}
"""The least number above zero: SQL Server keeps no denormal ones."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ZONED = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:\.\d+)?) ?(Z|[+-]\d\d:\d\d)")

_TICKS = 300
"""A datetime's in a second."""

HALF_A_MINUTE = 30


class _Declared(UserDefinedType[Any]):
    """A type as SQL Server writes it."""

    cache_ok = True

    def __init__(self, declared: str) -> None:
        self.declared = declared

    def get_col_spec(self, **_: Any) -> str:
        return self.declared


def compared(column: Column, value: Any) -> ColumnElement[Any]:
    bound = value if isinstance(value, ColumnElement) else bindparam(None, value, unique=True)
    base = base_type(column)
    if base in ("datetime", "smalldatetime"):
        # By way of datetime2, which reads YYYY-MM-DD in every language and takes more digits than they keep.
        return cast(cast(bound, _Declared("datetime2(6)")), _Declared(base))
    if base in ("varbinary", "binary"):
        return cast(bound, _Declared("varbinary(max)"))
    return cast(bound, _Declared(column.declared.partition(" ")[0]))


def written(column: Column, value: Any) -> ColumnElement[Any]:
    """As `compared`, for a value that is put into the column."""
    base = base_type(column)
    if base == "xml":
        # Style 1 keeps blanks between elements, which CAST drops.
        text = cast(value, _Declared("nvarchar(max)"))
        return func.convert(literal_column("XML"), text, literal_column("1"))
    endless = _ENDLESS.get(base)
    return cast(value, _Declared(endless)) if endless else compared(column, value)


def bind(column: Column, value: Value) -> Value:
    match value:
        case None:
            return None
        case bool():
            return int(value)
        case int():
            least, bound = _INTEGERS.get(base_type(column), (-(2**63), 2**63))
            if not least <= value < bound:
                raise _refused(column, "is out of range")
            return value
        case float():
            return _float(column, value)
        case bytes():
            length = _length(column)
            if length is not None and len(value) > length:
                raise _refused(column, f"has {len(value)} bytes")
            if base_type(column) == "binary" and len(value) != length:
                raise _refused(column, f"has {len(value)} bytes, and would be filled up with zeros")
            return value
        case str():
            return _text(column, value)


def _text(column: Column, value: str) -> str:
    base, length = base_type(column), _length(column)
    if base in ("nvarchar", "nchar") and length is not None:
        units = len(value.encode("utf-16-le", "surrogatepass")) // 2
        if units > length:
            raise _refused(column, f"has {units} UTF-16 units")
    if base in ("varchar", "char"):
        size = _encoded(column, value)
        if length is not None and size > length:
            raise _refused(column, f"has {size} bytes")
    if column.kind is Kind.DECIMAL and column.scale is not None:
        digits = len(value.partition(".")[2])
        if digits > column.scale:
            raise _refused(column, f"has {digits} decimal places")
    match base:
        case "uniqueidentifier":
            if not _UUID.fullmatch(value):
                raise _refused(column, "is not a UUID")
        case "time":
            return _time(column, value)
        case "datetime2":
            return rounded(value, column.precision or 0)
        case "datetime":
            return _in_ticks(_moment(column, value))
        case "smalldatetime":
            return _in_minutes(_moment(column, value))
        case "datetimeoffset":
            return _zoned(column, value)
    return value


def _time(column: Column, value: str) -> str:
    kept = rounded(value, column.precision or 0)
    if not "00" <= kept[:2] < "24" or kept[2] != ":":
        raise _refused(column, "is not a time of the day")
    return kept


def _moment(column: Column, value: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise _refused(column, "is not a day of the calendar") from error


def _in_ticks(moment: datetime) -> str:
    """The nearest that a datetime can hold, in the three digits with which SQL Server spells it."""
    seconds, ticks = divmod((moment.microsecond * _TICKS * 2 + 1_000_000) // 2_000_000, _TICKS)
    try:
        moment += timedelta(seconds=seconds)
    except OverflowError:
        ticks = _TICKS - 1
    thousandths = (ticks * 2000 + _TICKS) // (2 * _TICKS)
    return f"{moment.replace(microsecond=0).isoformat(sep=' ')}.{thousandths:03}"


def _in_minutes(moment: datetime) -> str:
    """The nearest minute; half a one is rounded up."""
    if moment.second >= HALF_A_MINUTE and moment.year < datetime.max.year:
        moment += timedelta(minutes=1)
    return moment.replace(second=0, microsecond=0).isoformat(sep=" ")


def _zoned(column: Column, value: str) -> str:
    found = _ZONED.fullmatch(value)
    if not found:
        raise _refused(column, "is not a moment with its zone")
    day, clock, zone = found.groups()
    return f"{rounded(f'{day} {clock}', column.precision or 0)} {'+00:00' if zone == 'Z' else zone}"


def _encoded(column: Column, value: str) -> int:
    """The bytes of a text in the column's code page. What the page lacks, the server would make a question mark of."""
    page = column.declared.partition(" ")[2]
    try:
        return len(value.encode("utf-8" if page in ("", "cp65001") else page))
    except UnicodeEncodeError as error:
        what = f"has {value[error.start]!r}, which code page {page[2:]} lacks: make it an nvarchar"
        raise _refused(column, what) from error
    except LookupError:
        return len(value)


def _float(column: Column, value: float) -> float:
    if not math.isfinite(value):
        raise _refused(column, "is not finite")
    if 0 < abs(value) < _LEAST_FLOATS.get(base_type(column), 0):
        raise _refused(column, "is nearer to zero than SQL Server keeps a number")
    if base_type(column) == "real":
        try:
            kept = struct.unpack("f", struct.pack("f", value))[0]
        except OverflowError:
            kept = math.inf
        if kept != value:
            raise _refused(column, "has more digits than the column keeps: make it a float")
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
