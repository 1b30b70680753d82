"""SQLite lets any column hold any value: between two SQLite outlets it is the same value of the same class, elsewhere it is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from services.kernel.catalogue import Column, Kind
from services.kernel.errors import PermanentError
from services.kernel.values import canonical, parse_image
from tests.conftest import FreshDatabase
from tests.contract.captured import Captured

TYPES = ["INTEGER", "BOOLEAN", "DECIMAL(10,2)", "REAL", "TEXT", "CHAR(5)", "BLOB", "DATE", "TIME", "DATETIME", "UUID"]
THING = f"CREATE TABLE thing (id INTEGER PRIMARY KEY, {', '.join(f'c{i} {name}' for i, name in enumerate(TYPES))})"

ANYTHING = (
    some.none()
    | some.integers(-(2**63), 2**63 - 1)
    | some.integers(-3, 3)
    | some.floats(-1e300, 1e300, allow_subnormal=False)
    | some.just(-math.inf)
    | some.text(some.characters(exclude_categories=["Cs"]), max_size=10)
    | some.sampled_from(
        ["", "12", "1.50", "2024-01-01", "2024-01-01T10:00:00Z", "12:30", "x'00'", '{"hex":"AB"}', "1700000000"]
    )
    | some.binary(max_size=10)
)


def stored(outlet: Captured) -> list[tuple[Any, ...]]:
    """Class and bits of each value, -0.0 as 0.0; not of the decimals: of a number there, 15 digits are the value."""
    columns = ", ".join(f"typeof(c{i}), c{i}" for i, name in enumerate(TYPES) if "DECIMAL" not in name)
    with outlet.reading.connect() as connection:
        rows = connection.exec_driver_sql(f"SELECT {columns} FROM thing ORDER BY id").all()
    return [tuple(value + 0.0 if isinstance(value, float) else value for value in row) for row in rows]


def as_carried(kind: str, value: Any) -> Any:
    """What would arrive in its one spelling is stored so at once: dates and times, a CHAR's trailing blanks, a text among blobs."""
    if kind == "BLOB" and isinstance(value, str):
        return value.encode()
    if kind == "CHAR(5)" and isinstance(value, str):
        return value.rstrip(" ")
    if kind in ("DATE", "TIME", "DATETIME") and isinstance(value, str):
        return canonical(Column("c", Kind(kind.lower()), loose=True), value)
    return value


@pytest.fixture
def two(fresh_database: FreshDatabase) -> Iterator[tuple[Captured, Captured]]:
    made = Captured(fresh_database("sqlite"), THING), Captured(fresh_database("sqlite"), THING)
    yield made
    for outlet in made:
        outlet.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.lists(some.tuples(*[ANYTHING] * len(TYPES)), min_size=1, max_size=8))
def test_any_value_in_any_column(two: tuple[Captured, Captured], rows: list[tuple[Any, ...]]) -> None:
    one, other = two
    table = one.table("thing")
    for outlet in two:
        outlet.run("DELETE FROM thing")
        outlet.seen()
    with one.application.begin() as connection:
        for i, row in enumerate(rows):
            values = [as_carried(kind, value) for kind, value in zip(TYPES, row, strict=True)]
            connection.exec_driver_sql(f"INSERT INTO thing VALUES ({i}{', ?' * len(TYPES)})", tuple(values))
    with other.applier() as connection:
        for change in one.seen():
            values = [one.dialect.bind(column, (change.after or {})[column.name]) for column in table.columns]
            connection.exec_driver_sql(f"INSERT INTO thing VALUES (?{', ?' * len(TYPES)})", tuple(values))
    assert other.rows("thing") == one.rows("thing")
    assert stored(other) == stored(one)


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
@pytest.mark.parametrize(
    ("declared", "value"), [("INT", "twelve"), ("DATETIME", 1700000000), ("TEXT", b"\xff"), ("DOUBLE", math.inf)]
)
def test_elsewhere_it_is_refused(fresh_database: FreshDatabase, engine_name: str, declared: str, value: Any) -> None:
    loose = Captured(fresh_database("sqlite"), f"CREATE TABLE thing (id INTEGER PRIMARY KEY, c {declared})")
    strict = Captured(fresh_database(engine_name), f"CREATE TABLE thing (id INT NOT NULL PRIMARY KEY, c {declared})")
    with loose.application.begin() as connection:
        connection.exec_driver_sql("INSERT INTO thing VALUES (1, ?)", (value,))
    with loose.reading.connect() as connection:
        image = connection.exec_driver_sql("SELECT AfterImage FROM CloudQuery").scalar_one()
    table = strict.table("thing")
    with pytest.raises(PermanentError) as caught:
        strict.dialect.bind(table.column("c"), parse_image(table, loose.dialect.wire_image(image, table))["c"])
    assert caught.value.code == "value"
    for outlet in (loose, strict):
        outlet.close()


def test_images_of_many_columns(fresh_database: FreshDatabase) -> None:
    """Beyond the 127 arguments of SQLite's functions and the depth of its expressions."""
    names = [f"c{i}" for i in range(600)]
    columns = ", ".join(f"{name} TEXT" for name in names)
    outlet = Captured(fresh_database("sqlite"), f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {columns})")
    outlet.run("INSERT INTO wide (id, c599) VALUES (1, 'last')", "UPDATE wide SET c0 = 'first'")
    *_, change = outlet.seen()
    assert (len(change.after or {}), (change.after or {})["c0"], (change.after or {})["c599"]) == (601, "first", "last")
    outlet.close()
