"""In which kind two columns are compared, and when two values of different kinds are the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.compare.common import common
from services.kernel.catalogue import Column, Kind, Table
from services.kernel.errors import PermanentError


def table(kind: Kind, precision: int | None = None, single: bool = False) -> Table:
    return Table("t", (Column("id", Kind.INTEGER), Column("v", kind, precision=precision, single=single)), ("id",))


def same(left: Table, a: Any, right: Table, b: Any) -> bool:
    shape = common((left, right))
    digests = {shape.digest(shape.image(json.dumps({"id": 1, "v": value}))) for value in (a, b)}
    return len(digests) == 1


@pytest.mark.parametrize(
    ("left", "a", "right", "b"),
    [
        (Kind.DECIMAL, "12.50", Kind.TEXT, "12.5"),
        (Kind.BOOLEAN, True, Kind.INTEGER, 1),
        (Kind.BOOLEAN, False, Kind.INTEGER, 0),
        (Kind.DATETIME, "2024-01-01 10:00:00.500", Kind.TEXT, "2024-01-01T10:00:00.5"),
        (Kind.DATE, "2024-01-01", Kind.DATETIME, "2024-01-01 00:00:00"),
        (Kind.CHAR, "ab  ", Kind.TEXT, "ab"),
        (Kind.INTEGER, 5, Kind.DECIMAL, "5.00"),
        (Kind.FLOAT, "0.10000000000000001", Kind.DECIMAL, "0.1"),
        (Kind.UUID, "AB-CD", Kind.TEXT, "ab-cd"),
        (Kind.BINARY, "AP8=", Kind.TEXT, "AP8="),
        (Kind.JSON, '{"b":1,"a":2}', Kind.TEXT, '{"a": 2, "b": 1}'),
        (Kind.FLOAT, "-0.0", Kind.FLOAT, "0.0"),
        (Kind.TEXT, None, Kind.INTEGER, None),
    ],
)
def test_the_same_value_in_two_kinds(left: Kind, a: Any, right: Kind, b: Any) -> None:
    assert same(table(left), a, table(right), b)


@pytest.mark.parametrize(
    ("left", "a", "right", "b"),
    [
        (Kind.TEXT, "a", Kind.TEXT, "A"),
        (Kind.TEXT, "ab ", Kind.TEXT, "ab"),
        (Kind.TEXT, "", Kind.TEXT, None),
        (Kind.TEXT, "1.0", Kind.TEXT, "1"),
        (Kind.DECIMAL, "12.50", Kind.TEXT, "12.51"),
        (Kind.INTEGER, 1, Kind.TEXT, "one"),
        (Kind.TEXT, "é", Kind.TEXT, "e\u0301"),
        (Kind.FLOAT, "0.1", Kind.FLOAT, "0.10000000000000002"),
    ],
)
def test_different_values(left: Kind, a: Any, right: Kind, b: Any) -> None:
    assert not same(table(left), a, table(right), b)


@pytest.mark.parametrize(
    ("digits", "fine", "coarse"),
    [
        (0, "2024-01-01 10:00:00.5", "2024-01-01 10:00:01"),
        (0, "2024-12-31 23:59:59.5", "2025-01-01 00:00:00"),
        (3, "2024-01-01 10:00:00.0015", "2024-01-01 10:00:00.002"),
        (3, "2024-01-01 10:00:00.999500", "2024-01-01 10:00:01"),
        (1, "2024-01-01 10:00:00.04", "2024-01-01 10:00:00"),
    ],
)
def test_times_are_compared_as_finely_as_all_hold_them(digits: int, fine: str, coarse: str) -> None:
    assert same(table(Kind.DATETIME, 6), fine, table(Kind.DATETIME, digits), coarse)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_single_precision_is_compared_as_such(value: float) -> None:
    assert same(table(Kind.FLOAT, single=True), repr(value), table(Kind.FLOAT), repr(value))


def test_columns_that_one_lacks_cannot_be_compared() -> None:
    smaller = Table("t", (Column("id", Kind.INTEGER),), ("id",))
    with pytest.raises(PermanentError, match="column v"):
        common((table(Kind.TEXT), smaller))
    with pytest.raises(PermanentError, match="column v"):
        common((smaller, table(Kind.TEXT)))


def test_different_keys_cannot_be_compared() -> None:
    other = Table("t", table(Kind.TEXT).columns, ("v",))
    with pytest.raises(PermanentError, match="primary key"):
        common((table(Kind.TEXT), other))
