"""Canonical values: what a column's value looks like on the wire, and when two values are the same.

An engine's trigger writes *wire values* into the JSON image: already exact, not always in the one canonical spelling
(a DECIMAL(10,2) keeps its trailing zero). `canonical` gives the one spelling. Row keys need it at once, so triggers spell
key columns canonically themselves; `tests/contract` holds the two equal.

| kind      | wire (JSON)                                            | canonical (Python)                                |
|-----------|--------------------------------------------------------|---------------------------------------------------|
| integer   | number                                                 | int                                               |
| boolean   | true/false, or a number                                | bool                                              |
| decimal   | string or number                                       | str: no exponent, no trailing zeros, no -0        |
| float     | number, or string of at least 17 digits                | float                                             |
| text      | string                                                 | str                                               |
| char      | string                                                 | str without trailing blanks                       |
| json      | string that holds the JSON text                        | str: compact, keys sorted                         |
| binary    | string, base64; line breaks in it do not count         | bytes                                             |
| uuid      | string                                                 | str, lower case                                   |
| date      | string YYYY-MM-DD                                      | the same                                          |
| time      | string [-]HH:MM:SS[.ffffff]                            | the same, the fraction only when it is not zero   |
| datetime  | string YYYY-MM-DD HH:MM:SS[.ffffff] (or T for the blank)| with the blank; fraction only when not zero      |

More than six fractional digits are rounded half up to six: the one stated rule, the same at every outlet; what would round into the
year 10000 is cut. A float's -0 is 0, because SQLite keeps none.

A loose column (SQLite's) may hold what is not of its kind: a text in a number's place, a blob in a text's, which is spelled {"blob":"AB01"}.
It is carried as it is from one loose column to the other; any other column refuses it.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from services.kernel.catalogue import Column, Kind, Table, folded
from services.kernel.errors import PermanentError

Value = None | bool | int | float | str | bytes
"""A canonical value."""

Image = dict[str, Value]
"""A row: folded column name to canonical value."""

_BLOB = "blob"
"""Member of the object that stands for a blob where none belongs."""

FRACTION_DIGITS = 6
"""Microseconds: what every engine's application can hold (MySQL's limit)."""

DECIMAL_DIGITS = 1_000
"""More than any engine's decimal has; written out, a greater exponent would fill the memory."""

_REAL = re.compile(r"-?(\d+\.\d+(e[+-]?\d+)?|Inf)")
"""How SQLite's triggers spell a number with a point, as a JSON string."""

_UUID = re.compile(r"\{?[0-9a-f-]+\}?")
_INTEGER = re.compile(r"[+-]?\d+")
_TIME = re.compile(r"(-?)(\d{1,3}):(\d{2})(?::(\d{2})(?:\.(\d+))?)?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DATETIME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d+))?)?)?")


def canonical(column: Column, wire: Any) -> Value:
    """The canonical value of a wire value for a column of this kind. Raises PermanentError `value` when it is not one."""
    if wire is None:
        return None
    try:
        return _CANONICAL[column.kind](wire)
    except (ValueError, TypeError, ArithmeticError, binascii.Error) as error:
        if column.loose and (not isinstance(wire, dict | list) or list(wire) == [_BLOB]):
            return _as_it_is(wire)
        raise PermanentError(
            "value",
            f"A value for column {column.name} is not a {column.kind.value}: {error}.",
            "Correct the row at its origin, or give both columns the same type.",
        ) from error


def wire(column: Column, value: Value) -> Any:
    """The wire value (JSON) of a canonical value."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii") if column.kind is Kind.BINARY else {_BLOB: value.hex().upper()}
    if isinstance(value, float) and column.kind is not Kind.BINARY:
        return repr(value)
    return value


def _as_it_is(wire: Any) -> Value:
    if isinstance(wire, dict):
        return bytes.fromhex(wire[_BLOB])
    if isinstance(wire, str) and _REAL.fullmatch(wire):
        return float(wire)
    scalar: str | int | float = wire
    return scalar


def parse_image(table: Table, text: str) -> Image:
    """A JSON image as canonical values by folded name. Columns that `table` lacks are refused, never dropped silently.

    Raises PermanentError `image` (not a JSON object), `missing_column` or `value`.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise PermanentError("image", f"A row image for {table.name} is not JSON: {error}.", "Report this.") from error
    if not isinstance(raw, dict):
        raise PermanentError("image", f"A row image for {table.name} is not a JSON object.", "Report this.")
    image: Image = {}
    for name, value in raw.items():
        if not table.has(name):
            raise PermanentError(
                "missing_column",
                f"Table {table.name} has no column {name}, which the change's origin has.",
                "Give the table the same columns at every outlet, then retry.",
            )
        image[folded(name)] = canonical(table.column(name), value)
    return image


def render_image(table: Table, image: Image) -> str:
    """The JSON text of an image; the inverse of `parse_image` up to spelling."""
    row = {table.column(name).name: wire(table.column(name), value) for name, value in image.items()}
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def row_key(table: Table, image: Image) -> str:
    """The row's name within its table: its key columns' canonical text, `\\` and `|` escaped by `\\`, joined by `|`.

    Key columns come in the order of `Table.key` (by folded name), so that every outlet builds the same text.
    """
    return "|".join(_key_text(image[folded(name)]) for name in table.key)


def key_image(table: Table, key: str) -> Image:
    """The key columns' canonical values of a row key: the inverse of `row_key`."""
    parts = [""]
    characters = iter(key)
    for character in characters:
        if character == "|":
            parts.append("")
        else:
            parts[-1] += next(characters) if character == "\\" else character
    return {
        folded(column.name): _FROM_KEY.get(column.kind, str)(part)
        for column, part in zip(table.key_columns, parts, strict=True)
    }


def _key_text(value: Value) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, bytes):
        return value.hex()
    return str(value).replace("\\", "\\\\").replace("|", "\\|")


def _integer(value: Any) -> int:
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise ValueError("not a whole number")
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("a number with a fraction")
    return int(value)


def _boolean(value: Any) -> bool:
    if value in (0, 1, "0", "1"):
        return bool(int(value))
    raise ValueError("neither true nor false")


def _float(value: Any) -> float:
    number = float(value)
    if math.isnan(number):
        raise ValueError("not a number")
    return number + 0.0


def _decimal(value: Any) -> str:
    try:
        number = Decimal(str(value) if isinstance(value, float) else value)
    except InvalidOperation as error:
        raise ValueError("not a decimal number") from error
    if not number.is_finite():
        raise ValueError("not a finite number")
    if abs(number.adjusted()) > DECIMAL_DIGITS or abs(int(number.as_tuple().exponent)) > DECIMAL_DIGITS:
        raise ValueError(f"a number of more than {DECIMAL_DIGITS} digits")
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _text(value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        raise ValueError("not a text")
    return str(value)


def _uuid(value: Any) -> str:
    text = _text(value).lower()
    if not _UUID.fullmatch(text):
        raise ValueError("not a UUID")
    return text


def _binary(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("not a base64 text")
    return base64.b64decode(value.replace("\n", ""), validate=True)


def _json(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a JSON text")
    # A number with a point, or too long for 64 bits, is a double: that is all a JSON column keeps everywhere.
    tree = json.loads(value, parse_int=_json_integer, parse_constant=_no_json)
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _json_integer(digits: str) -> int | float:
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _date(value: Any) -> str:
    text = str(value)
    if _DATE.fullmatch(text):
        return text
    match = _DATETIME.fullmatch(text)  # SQLite's applications often keep a date as a datetime at midnight
    if match and not any(int(part or 0) for part in match.groups()[1:]):
        return match[1]
    raise ValueError("not YYYY-MM-DD")


def _fraction(digits: str | None) -> tuple[str, bool]:
    """The fraction in six digits, and whether rounding carried into the seconds."""
    if not digits:
        return "000000", False
    number = int(Decimal(f"0.{digits}").scaleb(FRACTION_DIGITS).to_integral_value(ROUND_HALF_UP))
    return f"{number % 10**FRACTION_DIGITS:06}", number == 10**FRACTION_DIGITS


def _time(value: Any) -> str:
    match = _TIME.fullmatch(str(value))
    if not match:
        raise ValueError("not HH:MM:SS")
    sign, hours, minutes, seconds, digits = match.groups()
    fraction, carried = _fraction(digits)
    total = int(hours) * 3600 + int(minutes) * 60 + int(seconds or 0) + carried
    text = f"{total // 3600:02}:{total // 60 % 60:02}:{total % 60:02}" + (
        "" if fraction == "000000" else f".{fraction}"
    )
    return sign + text if total or fraction != "000000" else text


def _datetime(value: Any) -> str:
    match = _DATETIME.fullmatch(str(value))
    if not match:
        raise ValueError("not YYYY-MM-DD HH:MM:SS")
    date, hours, minutes, seconds, digits = match.groups()
    fraction, carried = _fraction(digits)
    text = f"{date} {hours or '00'}:{minutes or '00'}:{seconds or '00'}"
    if carried:
        try:
            text = (datetime.fromisoformat(text) + timedelta(seconds=1)).isoformat(sep=" ")
        except OverflowError:
            fraction = "9" * FRACTION_DIGITS
    return text if fraction == "000000" else f"{text}.{fraction}"


_CANONICAL: dict[Kind, Callable[[Any], Value]] = {
    Kind.INTEGER: _integer,
    Kind.BOOLEAN: _boolean,
    Kind.DECIMAL: _decimal,
    Kind.FLOAT: _float,
    Kind.TEXT: _text,
    Kind.CHAR: lambda value: _text(value).rstrip(" "),
    Kind.JSON: _json,
    Kind.BINARY: _binary,
    Kind.UUID: _uuid,
    Kind.DATE: _date,
    Kind.TIME: _time,
    Kind.DATETIME: _datetime,
}

_FROM_KEY: dict[Kind, Callable[[str], Value]] = {
    Kind.INTEGER: int,
    Kind.BOOLEAN: lambda part: part == "1",
    Kind.BINARY: bytes.fromhex,
}
