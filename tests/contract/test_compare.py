"""`compare` over real databases: equal rows are found equal across engines, and any difference is found by its key."""

from __future__ import annotations

import itertools

import pytest
from sqlalchemy import Engine, insert, text
from sqlalchemy.engine import URL

from services.cli.compare.command import CANNOT, DIFFERS, IDENTICAL, as_document, exit_code
from services.cli.compare.comparing import SHOWN_ROWS, compare
from services.kernel.dialects import dialect_for
from services.kernel.schema import QUARANTINE, QUARANTINE_ROW, Side, prepare
from tests.conftest import FreshDatabase
from tests.stack.application import application_engine
from tests.stack.servers import ENGINES

PAIRS = [*((engine, engine) for engine in ENGINES), *itertools.combinations(ENGINES, 2)]

ITEM = {
    "sqlite": "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price DECIMAL(10,2), at DATETIME, body BLOB, ok BOOLEAN,"
    " x DOUBLE)",
    "mysql": "CREATE TABLE Item (id INT PRIMARY KEY, name VARCHAR(100), price DECIMAL(10,2), at DATETIME(3), body BLOB,"
    " ok BOOLEAN, x DOUBLE) DEFAULT CHARSET = utf8mb4",
    "mssql": "CREATE TABLE Item (id INT PRIMARY KEY, name NVARCHAR(100), price DECIMAL(10,2), at DATETIME2(3),"
    " body VARBINARY(MAX), ok BIT, x FLOAT)",
}
TAG = {
    "sqlite": "CREATE TABLE tag (item INTEGER NOT NULL, word VARCHAR(20) NOT NULL, PRIMARY KEY (word, item))",
    "mysql": "CREATE TABLE tag (item INT NOT NULL, word VARCHAR(20) NOT NULL, PRIMARY KEY (item, word))",
    "mssql": "CREATE TABLE tag (item INT NOT NULL, word VARCHAR(20) NOT NULL, PRIMARY KEY (item, word))",
}
INSERT = {
    "sqlite": "INSERT INTO item VALUES (:a, :b, :c, :d, :e, :f, :g)",
    "mysql": "INSERT INTO Item VALUES (:a, :b, :c, :d, :e, :f, :g)",
    # A parameter that is NULL has no type of its own.
    "mssql": "INSERT INTO Item VALUES (:a, :b, :c, CAST(:d AS DATETIME2(3)), CAST(:e AS VARBINARY(MAX)), :f, :g)",
}
ROWS = [
    (1, "plain", "1.00", "2024-01-01 10:00:00.5", b"\x00\xff", 1, 0.1),
    (2, "", "-0.5", "1999-12-31 23:59:59", b"", 0, 1e300),
    (3, None, None, None, None, None, None),
    (4, "抹茶 🍋 'q' \\ \"d\"  ", "99999999.99", "2024-02-29 00:00:00.001", bytes(range(256)), 1, -0.0),
]


def engine_of(url: URL) -> Engine:
    return application_engine(url)


def fill(url: URL, rows: list[tuple[object, ...]] = ROWS) -> None:
    flavour = dialect_for(url).name
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(ITEM[flavour])
        connection.exec_driver_sql(TAG[flavour])
        for row in rows:
            connection.execute(
                text(INSERT[flavour]),
                dict(zip("abcdefg", row, strict=True)),
            )
        connection.execute(
            text("INSERT INTO tag (item, word) VALUES (1, 'a|b'), (1, :word), (2, 'a|b')"), {"word": "c\\d"}
        )
    engine.dispose()


def run(url: URL, *statements: str) -> None:
    engine = engine_of(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_equal_rows_are_identical(fresh_database: FreshDatabase, pair: tuple[str, str]) -> None:
    urls = [fresh_database(engine, f"c{number}") for number, engine in enumerate(pair)]
    for url in urls:
        fill(url)
    comparison = compare(urls)
    assert exit_code(comparison) == IDENTICAL, as_document(comparison)
    assert {table.name.lower(): table.rows for table in comparison.tables} == {"item": (4, 4), "tag": (3, 3)}


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_difference_is_found_by_key(fresh_database: FreshDatabase, pair: tuple[str, str]) -> None:
    left, right = (fresh_database(engine, f"c{number}") for number, engine in enumerate(pair))
    for url in (left, right):
        fill(url)
    item = "item" if dialect_for(right).name == "sqlite" else "Item"
    run(
        right,
        f"UPDATE {item} SET price = 1.01 WHERE id = 1",
        f"DELETE FROM {item} WHERE id = 2",
        f"UPDATE {item} SET name = '' WHERE id = 3",
        f"INSERT INTO {item} (id, name) VALUES (9, 'new')",
        "UPDATE tag SET word = 'A|b' WHERE item = 2",
    )
    comparison = compare([left, right])
    assert exit_code(comparison) == DIFFERS
    found = {table.name.lower(): {it.key: it.columns for it in table.differences} for table in comparison.tables}
    assert found["item"] == {"1": ("price",), "2": (), "3": ("name",), "9": ()}
    assert set(found["tag"]) == {r"2|a\|b", r"2|A\|b"}
    assert comparison.apart(1) + comparison.apart(0) == 6


def test_a_table_that_one_lacks_cannot_be_compared(fresh_database: FreshDatabase) -> None:
    left, right = fresh_database("sqlite", "l"), fresh_database("sqlite", "r")
    fill(left)
    fill(right)
    run(right, "DROP TABLE tag")
    assert exit_code(compare([left, right])) == CANNOT
    assert exit_code(compare([left, right], ["item"])) == IDENTICAL
    assert exit_code(compare([left, right], ["nothing"])) == CANNOT


def test_three_databases_and_who_is_apart(fresh_database: FreshDatabase) -> None:
    urls = [fresh_database("sqlite", name) for name in "abc"]
    for url in urls:
        fill(url)
    run(urls[1], "UPDATE item SET name = 'other' WHERE id < 3")
    comparison = compare(urls)
    assert [comparison.apart(index) for index in range(3)] == [0, 2, 0]


def test_what_quarantine_explains(fresh_database: FreshDatabase) -> None:
    left, right = fresh_database("sqlite", "l"), fresh_database("sqlite", "r")
    for url in (left, right):
        fill(url)
    run(left, "UPDATE item SET name = 'l' WHERE id IN (1, 2)")
    engine = engine_of(right)
    with engine.connect() as connection:
        prepare(connection, dialect_for(right), Side.OUTLET)
        held = dict.fromkeys(("Sequence", "Position", "Attempts", "QuarantinedAt"), 1)
        connection.execute(
            insert(QUARANTINE).values(Id=7, Origin="l", Code="check", Reason="r", State="waiting", **held)
        )
        row = {"QuarantineId": 7, "Position": 0, "TableName": "item", "RowId": "1", "RowKey": "1", "Stamp": 1}
        connection.execute(insert(QUARANTINE_ROW).values(Origin="l", **row))
        connection.commit()
    engine.dispose()
    (item, _) = compare([left, right]).tables
    assert (item.differing, item.explained) == (2, 1)
    assert [bool(it.explained) for it in item.differences] == [True, False]


def test_a_large_table_is_compared_in_little_memory(fresh_database: FreshDatabase) -> None:
    left, right = fresh_database("sqlite", "l"), fresh_database("sqlite", "r")
    rows = [(number, "n", None, None, None, None, None) for number in range(20_000)]
    for url in (left, right):
        fill(url, [])
        engine = engine_of(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO item VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        engine.dispose()
    run(right, "UPDATE item SET name = 'm' WHERE id % 2")
    (item, _) = compare([left, right]).tables
    assert (item.differing, len(item.differences)) == (10_000, SHOWN_ROWS)
