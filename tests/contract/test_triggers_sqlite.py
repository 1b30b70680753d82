"""What only SQLite does: OR REPLACE, triggers in no promised order, values of any class, the mark of the applier."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError

from services.kernel.dialects import Purpose
from services.kernel.dialects.sqlite import SQLITE
from tests.conftest import FreshDatabase
from tests.contract.captured import Captured, replayed
from tests.contract.test_triggers import random_statement

Make = Callable[..., Captured]


@pytest.fixture
def make(fresh_database: FreshDatabase) -> Iterator[Make]:
    made: list[Captured] = []

    def making(*tables: str, **more: tuple[str, ...]) -> Captured:
        made.append(Captured(fresh_database("sqlite"), *tables, **more))
        return made[-1]

    yield making
    for captured in made:
        captured.close()


PLAIN = "CREATE TABLE shelf (id INTEGER PRIMARY KEY, place TEXT UNIQUE, a INTEGER, b INTEGER, UNIQUE (a, b))"
SHAPES = {
    "plain": (PLAIN,),
    "without_rowid": (
        "CREATE TABLE shelf (id INTEGER PRIMARY KEY, place TEXT COLLATE NOCASE UNIQUE, a INTEGER, b INTEGER) WITHOUT ROWID",
        "CREATE UNIQUE INDEX some_only ON shelf (a, b) WHERE b < 3",
    ),
    "text_key": (
        "CREATE TABLE shelf (id INTEGER UNIQUE, place TEXT COLLATE NOCASE NOT NULL PRIMARY KEY, a INTEGER, b INTEGER)",
    ),
    "conflict_clauses": (
        "CREATE TABLE shelf (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, place TEXT UNIQUE ON CONFLICT REPLACE,"
        " a INTEGER, b INTEGER, UNIQUE (a, b) ON CONFLICT IGNORE)",
    ),
    "application_triggers": (
        PLAIN,
        "CREATE TRIGGER grow AFTER INSERT ON shelf WHEN NEW.b = 2 BEGIN UPDATE shelf SET a = a + 1 WHERE id = NEW.id; END",
        "CREATE TRIGGER drop_out AFTER UPDATE ON shelf WHEN NEW.b = 3 BEGIN DELETE FROM shelf WHERE id = NEW.id; END",
    ),
}


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_statements_replayed_give_the_same_rows(make: Make, shape: str, recursive: bool) -> None:
    outlet = make(
        *SHAPES[shape], and_then=("INSERT INTO shelf VALUES (1, 'p1', 1, 1), (2, 'p2', 1, 2), (3, 'p9', NULL, 3)",)
    )
    if recursive:
        event.listen(outlet.application, "checkout", lambda raw, *_: raw.execute("PRAGMA recursive_triggers = ON"))
    seed = random.randrange(10**6)
    choose = random.Random(seed)
    rows = outlet.rows("shelf")
    for _ in range(100):
        with suppress(IntegrityError):
            outlet.run(random_statement(choose, True))
        rows = replayed(rows, outlet.seen())
        assert rows == outlet.rows("shelf"), f"seed {seed}"


@pytest.mark.parametrize("after_ours", [False, True])
def test_an_application_trigger_that_changes_the_row(make: Make, after_ours: bool) -> None:
    """SQLite runs the newer trigger first, and promises nothing: either way the last word is the row as it is."""
    touch = "CREATE TRIGGER touch AFTER UPDATE OF name ON person BEGIN UPDATE person SET touched = touched + 1 WHERE id = NEW.id; END"
    person = "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT, touched INTEGER)"
    outlet = make(person, *([] if after_ours else [touch]))
    if after_ours:
        outlet.run(touch)
    outlet.run("INSERT INTO person VALUES (1, 'a', 0)")
    outlet.run("UPDATE person SET name = 'b'")
    *_, last = outlet.seen()
    assert last.after == {"id": 1, "name": "b", "touched": 1} == outlet.rows("person")["1"]


def test_a_row_that_an_application_trigger_takes_away_again(make: Make) -> None:
    outlet = make("CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT)")
    outlet.run("CREATE TRIGGER away AFTER INSERT ON person BEGIN DELETE FROM person WHERE id = NEW.id; END")
    outlet.run("INSERT INTO person VALUES (1, 'a')")
    assert [c.op for c in outlet.seen()][-1:] == ["D"]
    assert outlet.version("person", "1")[1]


def test_a_cascade_is_captured(make: Make) -> None:
    outlet = make(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE)",
        and_then=("INSERT INTO parent VALUES (1)", "INSERT INTO child VALUES (1, 1), (2, 1)"),
    )
    outlet.run("UPDATE parent SET id = 5")
    assert sorted((c.table, c.op) for c in outlet.seen()) == [
        ("child", "U"),
        ("child", "U"),
        ("parent", "D"),
        ("parent", "I"),
    ]
    outlet.run("DELETE FROM parent")
    assert sorted((c.table, c.op) for c in outlet.seen()) == [("child", "D"), ("child", "D"), ("parent", "D")]


def test_the_applications_counters_are_as_without(make: Make) -> None:
    outlet = make(PLAIN)
    with outlet.application.begin() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        cursor = raw.execute("INSERT INTO shelf (id, a) VALUES (41, 1), (42, 2)")
        assert (cursor.lastrowid, cursor.rowcount) == (42, 2)
        assert raw.execute("SELECT last_insert_rowid(), changes()").fetchone() == (42, 2)
        cursor = raw.execute("UPDATE shelf SET a = a + 10")
        assert (cursor.rowcount, raw.execute("SELECT last_insert_rowid(), changes()").fetchone()) == (2, (42, 2))
        assert raw.execute("INSERT OR REPLACE INTO shelf (id, a) VALUES (41, 12) RETURNING id").fetchall() == [(41,)]
        assert raw.execute("DELETE FROM shelf").rowcount == 2


def test_a_clock_that_goes_backwards(make: Make) -> None:
    outlet = make(PLAIN)
    days = iter([2461000.5, 2460999.5, 2460998.5])
    with outlet.application.begin() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.create_function("julianday", 1, lambda _: next(days))
        raw.execute("INSERT INTO shelf VALUES (1, 'p1', 1, 1)")
        raw.execute("UPDATE shelf SET a = 2")
    inserted, updated = outlet.seen()
    assert updated.stamp.time == inserted.stamp.time + 1


def test_the_mark_is_never_committed(make: Make) -> None:
    outlet = make(PLAIN)
    engine = SQLITE.engine(outlet.url, Purpose.APPLY)
    marks = "SELECT COUNT(*) FROM subak_mark"
    with engine.connect() as connection:
        for _ in range(2):
            assert connection.exec_driver_sql(marks).scalar() == 1
            connection.exec_driver_sql("INSERT INTO shelf (a) VALUES (1)")
            connection.commit()
            with outlet.reading.connect() as other:
                assert other.exec_driver_sql(marks).scalar() == 0
        connection.exec_driver_sql("INSERT INTO shelf (a) VALUES (2)")
        connection.rollback()
    engine.dispose()
    with outlet.reading.connect() as other:
        assert other.exec_driver_sql(marks).scalar() == 0
    assert outlet.seen() == []


def test_a_commit_that_fails_leaves_no_mark(make: Make) -> None:
    outlet = make(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
    )
    engine = SQLITE.engine(outlet.url, Purpose.APPLY)
    with pytest.raises(DBAPIError) as caught, engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO child VALUES (1, 7)")
    assert SQLITE.classify(caught.value).code == "foreign_key"
    engine.dispose()
    outlet.run("INSERT INTO parent VALUES (1)")
    assert [c.table for c in outlet.seen()] == ["parent"]


def test_a_key_without_value_is_refused_in_words(make: Make) -> None:
    outlet = make("CREATE TABLE word (word TEXT PRIMARY KEY)")
    for statement in ("INSERT OR IGNORE INTO word VALUES (NULL)", "INSERT INTO word VALUES (NULL)"):
        with pytest.raises(IntegrityError, match="primary key"):
            outlet.run(statement)
    assert outlet.seen() == []
