"""Every way in which an application writes reaches the others, and the application sees no difference itself."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.conftest import MakeNetwork
from tests.stack.application import application_engine
from tests.stack.audit import audit
from tests.stack.network import Network
from tests.stack.schemas import NOTES

ROWS = [f"INSERT INTO note (id, author, body) VALUES ({n}, 'author {n}', 'body {n}')" for n in range(1, 11)]

MYSQL = {
    "replace of an existing row": [
        "REPLACE INTO note (id, author, body) VALUES (1, 'r', 'replaced'), (50, 'r', 'new')"
    ],
    "insert on duplicate key update": [
        "INSERT INTO note (id, author, body) VALUES (2, 'x', 'x'), (51, 'x', 'y') ON DUPLICATE KEY UPDATE body = 'dup'"
    ],
    "insert ignore": ["INSERT IGNORE INTO note (id, author, body) VALUES (3, 'x', 'x'), (52, 'x', 'y')"],
    "update of two tables": [
        "UPDATE note a JOIN note b ON b.id = a.id + 1 SET a.body = 'left', b.body = 'right' WHERE a.id = 4"
    ],
    "delete with limit": ["DELETE FROM note ORDER BY id DESC LIMIT 3"],
}
SQLITE = {
    "replace of an existing row": [
        "REPLACE INTO note (id, author, body) VALUES (1, 'r', 'replaced'), (50, 'r', 'new')"
    ],
    "upsert": [
        "INSERT INTO note (id, author, body) VALUES (2, 'x', 'x'), (51, 'x', 'y')"
        " ON CONFLICT (id) DO UPDATE SET body = excluded.body || ' up'"
    ],
    "insert or ignore": ["INSERT OR IGNORE INTO note (id, author, body) VALUES (3, 'x', 'x'), (52, 'x', 'y')"],
    "update or replace": ["UPDATE OR REPLACE note SET id = 5 WHERE id = 4"],
    "rename through rowid": ["UPDATE note SET rowid = 600 WHERE id = 6"],
}
BOTH = {
    "insert select": ["INSERT INTO note (id, author, body) SELECT id + 200, author, body FROM note"],
    "all keys moved": ["UPDATE note SET id = id + 1000"],
    "keys swapped": [
        "UPDATE note SET id = 999 WHERE id = 1",
        "UPDATE note SET id = 1 WHERE id = 2",
        "UPDATE note SET id = 2 WHERE id = 999",
    ],
    "only the case changes": ["UPDATE note SET body = 'BODY 7' WHERE id = 7"],
    "only a trailing blank changes": ["UPDATE note SET body = 'body 8 ' WHERE id = 8"],
    "inserted, changed and deleted at once": [
        "INSERT INTO note (id, author, body) VALUES (70, 'a', 'b')",
        "UPDATE note SET body = 'c' WHERE id = 70",
        "DELETE FROM note WHERE id = 70",
    ],
    "deleted and inserted at once": [
        "DELETE FROM note WHERE id = 9",
        "INSERT INTO note (id, author, body) VALUES (9, 'again', 'there')",
    ],
    "everything deleted": ["DELETE FROM note"],
    "generated keys": ["INSERT INTO note (author, body) VALUES ('a', 'generated')"],
}


def _same(network: Network, what: str) -> None:
    network.settle()
    found = audit(network.urls)
    assert found.identical, f"{what}: {found}"


@pytest.mark.parametrize("engine", ["sqlite", "mariadb", "mysql"])
def test_every_kind_of_statement_reaches_the_others(make_network: MakeNetwork, engine: str) -> None:
    other = "mariadb" if engine == "sqlite" else "sqlite"
    network = make_network({"ubud": engine, "kuta": other}, NOTES, ROWS)
    source = network.outlets["ubud"]
    for what, statements in ((SQLITE if engine == "sqlite" else MYSQL) | BOTH).items():
        # The same rows to begin with, written as ordinary changes.
        source.execute("DELETE FROM note", *ROWS)
        _same(network, f"before {what}")
        source.execute(*statements)
        _same(network, what)
    assert network.outlets["kuta"].count("SELECT COUNT(*) FROM subak_quarantine") == 0


@pytest.mark.parametrize("engine", ["sqlite", "mariadb", "mysql"])
def test_an_update_that_changes_nothing_is_no_change(make_network: MakeNetwork, engine: str) -> None:
    network = make_network({"ubud": engine, "kuta": "sqlite"}, NOTES, ROWS)
    source = network.outlets["ubud"]
    source.execute("UPDATE note SET body = body", "UPDATE note SET author = 'author 1' WHERE id = 1")
    assert source.count("SELECT COUNT(*) FROM CloudQuery") == 0


@pytest.mark.parametrize("engine", ["sqlite", "mariadb", "mysql"])
def test_the_application_sees_the_same_answers_with_triggers_as_without(make_network: MakeNetwork, engine: str) -> None:
    network = make_network({"ubud": engine, "kuta": "sqlite"}, NOTES, ROWS, start=False)
    bare = _answers(network, engine)
    network.outlets["ubud"].execute("DELETE FROM note", *ROWS)
    network.start()
    assert _answers(network, engine) == bare


def _answers(network: Network, engine: str) -> list[object]:
    """Row counts, generated keys and warnings of a few statements; the generator is set back by the explicit keys."""
    source = network.outlets["ubud"]
    answers: list[object] = []
    identity = "SELECT last_insert_rowid()" if engine == "sqlite" else "SELECT LAST_INSERT_ID()"
    session = application_engine(source.url)
    with session.begin() as connection:
        before = connection.scalar(text("SELECT MAX(id) FROM note"))
        assert before == 10
        for statement in (
            "INSERT INTO note (id, author, body) VALUES (5000, 'a', 'b')",
            "INSERT INTO note (author, body) VALUES ('a', 'one')",
            "INSERT INTO note (author, body) VALUES ('a', 'two'), ('a', 'three')",
            "UPDATE note SET body = 'x' WHERE id <= 4",
            "UPDATE note SET body = 'x' WHERE id <= 4",
            "DELETE FROM note WHERE id <= 3",
        ):
            result = connection.exec_driver_sql(statement)
            newest = connection.scalar(text(identity))
            last = connection.scalar(text("SELECT MAX(id) FROM note"))
            answers.append((statement, result.rowcount, newest - last if newest and last else None))
            if engine == "sqlite":
                answers.append(connection.scalar(text("SELECT changes()")))
            else:
                answers.append(connection.exec_driver_sql("SHOW WARNINGS").all())
        connection.exec_driver_sql("DELETE FROM note WHERE id >= 5000")
    session.dispose()
    return answers


CASCADE = """\
CREATE TABLE parent (
    id INT NOT NULL PRIMARY KEY,
    word VARCHAR(20)
);
CREATE TABLE child (
    id INT NOT NULL PRIMARY KEY,
    parent_id INT NULL,
    FOREIGN KEY (parent_id) REFERENCES parent (id) ON DELETE CASCADE
);
CREATE TABLE loose (
    id INT NOT NULL PRIMARY KEY,
    parent_id INT NULL,
    FOREIGN KEY (parent_id) REFERENCES parent (id) ON DELETE SET NULL
);
"""


@pytest.mark.parametrize("engine", ["sqlite", "mariadb", "mysql"])
def test_what_a_cascade_does_is_captured_or_the_table_is_refused_aloud(make_network: MakeNetwork, engine: str) -> None:
    rows = [
        *(f"INSERT INTO parent (id, word) VALUES ({n}, 'w')" for n in (1, 2, 3)),
        *(f"INSERT INTO {table} (id, parent_id) VALUES ({n}, {n})" for table in ("child", "loose") for n in (1, 2, 3)),
    ]
    network = make_network({"ubud": engine, "kuta": "sqlite"}, CASCADE, rows)
    source, target = network.outlets["ubud"], network.outlets["kuta"]
    source.execute("DELETE FROM parent WHERE id = 2")
    network.settle()
    found = audit(network.urls)
    if not found.identical:
        log = network.processes["capture.ubud"].tail()
        assert "cascade" in log.lower(), f"lost in silence: {found}"
        assert target.count("SELECT COUNT(*) FROM parent") == 3, f"half of a cascade was sent: {found}"


def test_a_rollback_and_a_savepoint_leave_no_trace(make_network: MakeNetwork) -> None:
    network = make_network({"ubud": "mariadb", "kuta": "sqlite"}, NOTES, ROWS)
    engine = application_engine(network.urls["ubud"])
    with engine.connect() as connection:
        with connection.begin() as outer:
            connection.exec_driver_sql("UPDATE note SET body = 'never'")
            outer.rollback()
        with connection.begin():
            connection.exec_driver_sql("UPDATE note SET body = 'kept' WHERE id = 1")
            with connection.begin_nested() as inner:
                connection.exec_driver_sql("DELETE FROM note WHERE id = 2")
                inner.rollback()
    engine.dispose()
    network.settle()
    assert network.outlets["ubud"].count("SELECT COUNT(*) FROM CloudQuery") == 1
    found = audit(network.urls)
    assert found.identical, str(found)


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_a_table_altered_while_the_services_run(make_network: MakeNetwork, engine: str) -> None:
    """An added column at every outlet, then a change of it: the triggers are rebuilt when capture starts again."""
    network = make_network({"ubud": engine, "kuta": engine}, NOTES, ROWS)
    for outlet in network.outlets.values():
        outlet.execute("ALTER TABLE note ADD COLUMN stars INT NULL")
    for name in network.outlet_processes:
        network.restart(name)
    network.outlets["ubud"].execute("UPDATE note SET stars = 5 WHERE id = 1")
    _same(network, "a new column")
    assert network.outlets["kuta"].count("SELECT stars FROM note WHERE id = 1") == 5
