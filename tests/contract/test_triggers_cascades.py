"""MySQL and MariaDB change the children of a cascading foreign key without firing their triggers: the parent's capture them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from sqlalchemy.exc import DBAPIError

from services.kernel.values import Image
from tests.conftest import FreshDatabase
from tests.contract.captured import Captured, replayed

Make = Callable[..., Captured]


@pytest.fixture(params=["mariadb", "mysql"])
def make(fresh_database: FreshDatabase, request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Captured] = []

    def making(*tables: str, **more: tuple[str, ...]) -> Captured:
        made.append(Captured(fresh_database(request.param), *tables, **more))
        return made[-1]

    yield making
    for captured in made:
        captured.close()


PARENT = "CREATE TABLE parent (id INT NOT NULL PRIMARY KEY, code VARCHAR(9) UNIQUE)"


def shape(outlet: Captured) -> list[tuple[str, str, str]]:
    return [(change.table, change.op, change.key) for change in outlet.seen()]


def test_deletions_follow_the_children_down(make: Make) -> None:
    outlet = make(
        PARENT,
        "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE)",
        "CREATE TABLE leaf (id INT NOT NULL PRIMARY KEY, c INT, FOREIGN KEY (c) REFERENCES child (id) ON DELETE CASCADE)",
        "CREATE TABLE note (id INT NOT NULL PRIMARY KEY, c INT, FOREIGN KEY (c) REFERENCES child (id) ON DELETE SET NULL)",
        and_then=(
            "INSERT INTO parent VALUES (1, 'a'), (2, 'b')",
            "INSERT INTO child VALUES (10, 1), (11, 1), (12, 2)",
            "INSERT INTO leaf VALUES (100, 10), (101, 10), (102, 12)",
            "INSERT INTO note VALUES (7, 11), (8, 12)",
        ),
    )
    outlet.run("DELETE FROM parent WHERE id = 1")
    changes = outlet.seen()
    assert sorted((c.table, c.op, c.key) for c in changes) == [
        ("child", "D", "10"),
        ("child", "D", "11"),
        ("leaf", "D", "100"),
        ("leaf", "D", "101"),
        ("note", "U", "7"),
        ("parent", "D", "1"),
    ]
    assert changes[-1].table == "parent"
    (note,) = [c for c in changes if c.table == "note"]
    assert (note.before, note.after) == ({"id": 7, "c": 11}, {"id": 7, "c": None})
    assert outlet.version("leaf", "100")[1:] == (True, {"id": 100, "c": 10})
    assert outlet.version("note", "7")[:2] == (note.stamp, False)


def test_an_updated_key_takes_its_children_along(make: Make) -> None:
    outlet = make(
        PARENT,
        "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, p VARCHAR(9), q VARCHAR(9),"
        " FOREIGN KEY (p) REFERENCES parent (code) ON UPDATE CASCADE, FOREIGN KEY (q) REFERENCES parent (code) ON UPDATE SET NULL)",
        and_then=(
            "INSERT INTO parent VALUES (1, 'a'), (2, 'b')",
            "INSERT INTO child VALUES (10, 'A', 'b'), (11, 'b', 'a')",
        ),
    )
    outlet.run("UPDATE parent SET id = 3 WHERE id = 1")
    assert [change[1:] for change in shape(outlet)] == [("D", "1"), ("I", "3")]
    rows = outlet.rows("child")
    for code in ("A", "c"):  # servers differ on whether a change of case alone takes the children along
        outlet.run(f"UPDATE parent SET code = '{code}' WHERE id = 3")
        rows = replayed(rows, [change for change in outlet.seen() if change.table == "child"])
        assert rows == outlet.rows("child")
    assert rows == {"10": {"id": 10, "p": "c", "q": "b"}, "11": {"id": 11, "p": "b", "q": None}}


def test_a_table_that_refers_to_itself(make: Make) -> None:
    outlet = make(
        "CREATE TABLE person (id INT NOT NULL PRIMARY KEY, boss INT, FOREIGN KEY (boss) REFERENCES person (id) ON DELETE SET NULL)",
        and_then=("INSERT INTO person VALUES (1, NULL), (2, 1), (3, 1), (4, 2)",),
    )
    outlet.run("DELETE FROM person WHERE id = 1")
    assert sorted(shape(outlet)) == [("person", "D", "1"), ("person", "U", "2"), ("person", "U", "3")]


def test_a_deletion_that_is_refused_or_passed_over_says_nothing(make: Make) -> None:
    outlet = make(
        PARENT,
        "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE)",
        "CREATE TABLE guard (id INT NOT NULL PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id))",
        and_then=(
            "INSERT INTO parent VALUES (1, 'a'), (2, 'b')",
            "INSERT INTO child VALUES (10, 1), (11, 2)",
            "INSERT INTO guard VALUES (1, 1)",
        ),
    )
    with pytest.raises(DBAPIError):
        outlet.run("DELETE FROM parent")
    assert outlet.seen() == []
    outlet.run("DELETE IGNORE FROM parent")
    assert shape(outlet) == [("child", "D", "11"), ("parent", "D", "2")]
    outlet.run("UPDATE parent SET code = 'z'")
    assert shape(outlet) == [("parent", "U", "1")]


def test_the_applier_notes_nothing(make: Make) -> None:
    outlet = make(
        PARENT,
        "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE)",
        and_then=("INSERT INTO parent VALUES (1, 'a')", "INSERT INTO child VALUES (10, 1)"),
    )
    with outlet.applier() as connection:
        connection.exec_driver_sql("DELETE FROM parent")
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM subak_cascaded").scalar() == 0
    assert outlet.seen() == []


@pytest.mark.parametrize(
    ("child", "others"),
    [
        ("(id INT NOT NULL PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES child (id) ON DELETE CASCADE)", ()),
        ("(id INT NOT NULL PRIMARY KEY, FOREIGN KEY (id) REFERENCES parent (id) ON UPDATE CASCADE)", ()),
        (
            "(id INT NOT NULL PRIMARY KEY, p INT, o INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE SET NULL,"
            " FOREIGN KEY (o) REFERENCES other (id) ON DELETE SET NULL)",
            (
                "CREATE TABLE other (id INT NOT NULL PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE)",
            ),
        ),
        (
            "(id INT NOT NULL PRIMARY KEY, h INT, FOREIGN KEY (h) REFERENCES heap (id) ON DELETE CASCADE)",
            ("CREATE TABLE heap (id INT NOT NULL, UNIQUE (id))",),
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(make: Make, child: str, others: tuple[str, ...]) -> None:
    outlet = make(PARENT, *others, f"CREATE TABLE child {child}")
    found = outlet.read_catalogue()
    assert found.table("child") is None
    assert "cascade" in [refusal.code for refusal in found.refusals if refusal.table == "child"]
    assert found.table("parent") is not None


def test_random_deletions_and_updates_replayed_give_the_same_rows(make: Make) -> None:
    outlet = make(
        "CREATE TABLE a (id INT NOT NULL PRIMARY KEY, v INT)",
        "CREATE TABLE b (id INT NOT NULL PRIMARY KEY, a INT, x INT, y INT, FOREIGN KEY (a) REFERENCES a (id) ON DELETE CASCADE,"
        " FOREIGN KEY (x) REFERENCES a (id) ON DELETE SET NULL ON UPDATE CASCADE,"
        " FOREIGN KEY (y) REFERENCES a (id) ON DELETE SET NULL ON UPDATE CASCADE)",
        "CREATE TABLE c (id INT NOT NULL PRIMARY KEY, b INT, a INT, FOREIGN KEY (b) REFERENCES b (id) ON DELETE CASCADE ON UPDATE SET NULL,"
        " FOREIGN KEY (a) REFERENCES a (id) ON DELETE CASCADE)",
    )
    seed = random.randrange(10**6)
    choose = random.Random(seed)
    rows: dict[str, dict[str, Image]] = {name: {} for name in "abc"}
    for _ in range(150):
        with suppress(DBAPIError):
            outlet.run(_statement(choose))
        changes = outlet.seen()
        for name in "abc":
            rows[name] = replayed(rows[name], [change for change in changes if change.table == name])
            assert rows[name] == outlet.rows(name), f"seed {seed}"


def _statement(choose: random.Random) -> str:
    def some(largest: int = 5) -> str:
        return choose.choice(["NULL", *map(str, range(1, largest))])

    key, other = choose.randint(1, 5), choose.randint(1, 5)
    return choose.choice(
        [
            f"INSERT IGNORE INTO a VALUES ({key}, {other})",
            f"INSERT IGNORE INTO b VALUES ({key}, {some()}, {some()}, {some()})",
            f"INSERT IGNORE INTO c VALUES ({key}, {some()}, {some()})",
            f"REPLACE INTO a VALUES ({key}, {other})",
            f"REPLACE INTO b VALUES ({key}, {some()}, {some()}, {some()})",
            # Not UPDATE IGNORE: with it MySQL 9.7 changes the children also of a row that it then leaves as it was.
            f"UPDATE a SET id = {other} WHERE id = {key}",
            f"UPDATE b SET id = {other} WHERE id = {key}",
            f"UPDATE a SET v = v + 1 WHERE id < {key}",
            f"DELETE FROM a WHERE id = {key}",
            f"DELETE IGNORE FROM b WHERE id <= {key}",
        ]
    )
