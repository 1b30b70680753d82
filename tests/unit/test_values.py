"""Canonical values: one spelling for each value, whatever engine spelled it; what is not a value is refused, or kept where it may stand."""

from __future__ import annotations

import base64
import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from services.kernel.catalogue import Column, Kind, Table
from services.kernel.errors import PermanentError
from services.kernel.values import Value, canonical, key_image, parse_image, render_image, row_key


def column(kind: Kind, *, loose: bool = False, name: str = "c") -> Column:
    return Column(name, kind, loose=loose)


@pytest.mark.parametrize(
    ("kind", "wire", "value"),
    [
        (Kind.INTEGER, 18446744073709551615, 18446744073709551615),
        (Kind.INTEGER, "-9223372036854775808", -9223372036854775808),
        (Kind.BOOLEAN, True, True),
        (Kind.BOOLEAN, 0, False),
        (Kind.DECIMAL, "0012345678901234567890123456.7890100000", "12345678901234567890123456.78901"),
        (Kind.DECIMAL, "-0.00", "0"),
        (Kind.DECIMAL, "1.5e+3", "1500"),
        (Kind.DECIMAL, 100, "100"),
        (Kind.DECIMAL, 0.1, "0.1"),
        (Kind.FLOAT, "0.10000000000000000555", 0.1),
        (Kind.FLOAT, "-Inf", -math.inf),
        (Kind.TEXT, "trailing  ", "trailing  "),
        (Kind.TEXT, 7, "7"),
        (Kind.CHAR, "trailing  ", "trailing"),
        (Kind.BINARY, "AP8=", b"\0\xff"),
        (Kind.BINARY, "AP\n8=\n", b"\0\xff"),
        (Kind.BINARY, "", b""),
        (Kind.UUID, "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        (Kind.DATE, "2024-02-29", "2024-02-29"),
        (Kind.DATE, "2024-02-29 00:00:00.000000", "2024-02-29"),
        (Kind.DATE, "0000-00-00", "0000-00-00"),
        (Kind.TIME, "-838:59:59.000000", "-838:59:59"),
        (Kind.TIME, "7:05", "07:05:00"),
        (Kind.TIME, "-00:00:00", "00:00:00"),
        (Kind.DATETIME, "2024-01-01T10:11:12.5", "2024-01-01 10:11:12.500000"),
        (Kind.DATETIME, "2024-01-01", "2024-01-01 00:00:00"),
        (Kind.DATETIME, "2023-12-31 23:59:59.9999995", "2024-01-01 00:00:00"),
        (Kind.DATETIME, "9999-12-31 23:59:59.9999999", "9999-12-31 23:59:59.999999"),
        (Kind.DATETIME, "2024-01-01 00:00:00.1234565", "2024-01-01 00:00:00.123457"),
        (Kind.JSON, '{"b": [1, 2.50, null], "a": "é"}', '{"a":"é","b":[1,2.5,null]}'),
        (Kind.JSON, "123456789012345678901234567890", "1.2345678901234568e+29"),
    ],
)
def test_one_spelling(kind: Kind, wire: Any, value: Value) -> None:
    found = canonical(column(kind), wire)
    assert found == value
    assert type(found) is type(value)


def test_null_is_null_of_every_kind() -> None:
    assert all(canonical(column(kind), None) is None for kind in Kind)


def test_minus_zero_is_zero() -> None:
    zero = canonical(column(Kind.FLOAT), "-0.0")
    assert isinstance(zero, float)
    assert math.copysign(1, zero) == 1


@pytest.mark.parametrize(
    ("kind", "wire"),
    [
        (Kind.INTEGER, "1_000"),
        (Kind.INTEGER, 1.5),
        (Kind.INTEGER, "twelve"),
        (Kind.BOOLEAN, 5),
        (Kind.DECIMAL, "NaN"),
        (Kind.DECIMAL, "much"),
        (Kind.FLOAT, "nan"),
        (Kind.TEXT, {"blob": "00"}),
        (Kind.BINARY, "not base64"),
        (Kind.DATE, "2024-02-29 00:00:01"),
        (Kind.TIME, "noon"),
        (Kind.DATETIME, 1700000000),
        (Kind.JSON, "{"),
        (Kind.JSON, "NaN"),
    ],
)
def test_what_is_no_value_is_refused_and_named(kind: Kind, wire: Any) -> None:
    with pytest.raises(PermanentError) as caught:
        canonical(column(kind, name="price"), wire)
    assert caught.value.code == "value"
    assert "price" in caught.value.what


@pytest.mark.parametrize(
    ("kind", "wire", "value"),
    [
        (Kind.INTEGER, "", ""),
        (Kind.BOOLEAN, 5, 5),
        (Kind.DATETIME, 1700000000, 1700000000),
        (Kind.DATETIME, "2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        (Kind.TEXT, {"blob": "AB01"}, b"\xab\x01"),
        (Kind.JSON, "{", "{"),
    ],
)
def test_a_loose_column_keeps_what_is_not_of_its_kind(kind: Kind, wire: Any, value: Value) -> None:
    table = Table("t", (column(kind, loose=True),), ())
    image = parse_image(table, json.dumps({"c": wire}))
    assert image == {"c": value}
    assert parse_image(table, render_image(table, image)) == image


def test_a_column_that_the_table_lacks_is_never_dropped() -> None:
    with pytest.raises(PermanentError) as caught:
        parse_image(Table("t", (column(Kind.TEXT),), ()), '{"C": "a", "d": 1}')
    assert caught.value.code == "missing_column"


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_an_image_is_a_json_object(text: str) -> None:
    with pytest.raises(PermanentError) as caught:
        parse_image(Table("t", (), ()), text)
    assert caught.value.code == "image"


_WIRE = {
    Kind.INTEGER: some.integers(-(2**63), 2**64 - 1),
    Kind.BOOLEAN: some.booleans(),
    Kind.DECIMAL: some.decimals(allow_nan=False, allow_infinity=False, places=10).map(str),
    Kind.FLOAT: some.floats(allow_nan=False).map(repr),
    Kind.TEXT: some.text(),
    Kind.CHAR: some.text(),
    Kind.BINARY: some.binary().map(lambda value: base64.b64encode(value).decode()),
    Kind.DATE: some.dates().map(str),
    Kind.TIME: some.times().map(str),
    Kind.DATETIME: some.datetimes().map(str),
    Kind.UUID: some.uuids().map(str),
}


@given(some.fixed_dictionaries({kind.value: some.none() | values for kind, values in _WIRE.items()}))
def test_an_image_is_read_as_it_was_rendered(row: dict[str, Any]) -> None:
    table = Table("t", tuple(Column(kind.value, kind) for kind in _WIRE), ())
    image = parse_image(table, json.dumps(row))
    assert parse_image(table, render_image(table, image)) == image


@given(some.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_keeps_every_digit(number: Decimal) -> None:
    text = canonical(column(Kind.DECIMAL), str(number))
    assert isinstance(text, str)
    assert Decimal(text) == number
    assert "e" not in text.lower()


_KEY = Table("t", tuple(Column(name, Kind.TEXT) for name in "abc"), ("a", "b", "c"))


@given(some.tuples(some.text(), some.text(), some.text()), some.tuples(some.text(), some.text(), some.text()))
def test_two_keys_have_two_texts(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    keys = [row_key(_KEY, dict(zip("abc", values, strict=True))) for values in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@given(some.tuples(some.text(alphabet="a|\\ "), some.text(), some.text()))
def test_a_key_is_read_back(values: tuple[str, ...]) -> None:
    image = dict(zip("abc", values, strict=True))
    assert key_image(_KEY, row_key(_KEY, image)) == image
