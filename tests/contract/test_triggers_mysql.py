"""What only MySQL and MariaDB do: isolation levels, LAST_INSERT_ID(), transaction names, sessions of every kind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
import pytest
from sqlalchemy import Connection

from services.kernel.change import NEVER, Stamp
from services.kernel.dialects.mysql import triggers
from tests.conftest import FreshDatabase
from tests.contract.captured import OUTLET, Captured
from tests.stack.servers import MysqlServer, Servers

Make = Callable[..., Captured]

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
PRODUCT = (
    "CREATE TABLE product (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40) UNIQUE, price DECIMAL(10,2))"
)


@pytest.fixture(params=["mariadb", "mysql"])
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(fresh_database: FreshDatabase, engine_name: str) -> Iterator[Make]:
    made: list[Captured] = []

    def making(*tables: str, **more: tuple[str, ...]) -> Captured:
        made.append(Captured(fresh_database(engine_name), *tables, **more))
        return made[-1]

    yield making
    for captured in made:
        captured.close()


@contextmanager
def session(outlet: Captured, *settings: str, **more: Any) -> Iterator[pymysql.cursors.Cursor]:
    """A connection of the application's as a plain driver makes it, autocommit off."""
    url = outlet.url
    connection = pymysql.connect(
        host=url.host,
        port=url.port or 3306,
        user=url.username,
        password=str(url.password),
        database=url.database,
        **{"charset": "utf8mb4", **more},
    )
    try:
        with connection.cursor() as cursor:
            for setting in settings:
                cursor.execute(setting)
            yield cursor
    finally:
        connection.close()


def one(cursor: pymysql.cursors.Cursor, query: str) -> Any:
    cursor.execute(query)
    row = cursor.fetchone()
    assert row is not None
    return row[0]


def test_the_applications_counters_are_as_without(make: Make) -> None:
    """Beside a table with AUTO_INCREMENT also one without: there the id of CloudQuery could show through."""
    outlet = make(PRODUCT, "CREATE TABLE plain (id INT NOT NULL PRIMARY KEY, a INT)")
    with session(outlet) as cursor:
        cursor.execute("INSERT INTO plain VALUES (5, 1)")
        assert (cursor.lastrowid, cursor.rowcount, one(cursor, "SELECT LAST_INSERT_ID()")) == (0, 1, 0)
        cursor.execute("INSERT INTO product (name) VALUES ('a'), ('b'), ('c')")
        assert (cursor.lastrowid, cursor.rowcount, one(cursor, "SELECT ROW_COUNT()")) == (1, 3, 3)
        assert one(cursor, "SELECT LAST_INSERT_ID()") == 1
        cursor.execute("UPDATE product SET price = 1 WHERE id > 1")
        assert (cursor.rowcount, one(cursor, "SELECT ROW_COUNT()"), one(cursor, "SELECT LAST_INSERT_ID()")) == (2, 2, 1)
        cursor.execute("UPDATE product SET price = 1")
        assert cursor.rowcount == 1
        cursor.execute("INSERT INTO product (name) VALUES ('d')")
        assert (cursor.lastrowid, one(cursor, "SELECT LAST_INSERT_ID()")) == (4, 4)
        cursor.execute("INSERT INTO plain VALUES (5, 1) ON DUPLICATE KEY UPDATE a = 9")
        assert (cursor.rowcount, one(cursor, "SELECT LAST_INSERT_ID()")) == (2, 4)
        cursor.execute("REPLACE INTO product (name) VALUES ('d')")
        assert (cursor.lastrowid, cursor.rowcount) == (5, 2)
        cursor.execute("DELETE FROM product WHERE id < 3")
        assert (cursor.rowcount, one(cursor, "SELECT LAST_INSERT_ID()")) == (2, 5)
        cursor.execute("SHOW WARNINGS")
        assert cursor.fetchall() == ()


@pytest.mark.parametrize("level", LEVELS)
def test_the_base_is_what_is_committed_not_what_the_snapshot_shows(make: Make, level: str) -> None:
    """A transaction that began before the applier committed overwrites the applier's row: it must say so."""
    outlet = make(PRODUCT, and_then=("INSERT INTO product VALUES (1, 'a', 1), (2, 'b', 2)",))
    elsewhere = Stamp(1_000, "medan")
    with session(outlet, f"SET SESSION TRANSACTION ISOLATION LEVEL {level}") as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute("SELECT * FROM product WHERE id = 2")
        outlet.set_version("product", "1", elsewhere)
        cursor.execute("UPDATE product SET price = 5 WHERE id = 1")
        cursor.execute("COMMIT")
    (change,) = outlet.seen()
    assert change.base == elsewhere
    assert outlet.version("product", "1")[0] == change.stamp


@pytest.mark.parametrize("level", LEVELS)
def test_writers_of_different_rows_do_not_wait_for_each_other(make: Make, level: str) -> None:
    """No gap is locked, also where rows have no version yet."""
    outlet = make(PRODUCT, and_then=("INSERT INTO product VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3), (4, 'd', 4)",))
    settings = (f"SET SESSION TRANSACTION ISOLATION LEVEL {level}", "SET innodb_lock_wait_timeout = 1")
    with session(outlet, *settings) as first, session(outlet, *settings) as second:
        for row in (1, 3):
            first.execute(f"UPDATE product SET price = 9 WHERE id = {row}")
            second.execute(f"UPDATE product SET price = 9 WHERE id = {row + 1}")
        first.execute("INSERT INTO product VALUES (10, 'j', 1)")
        second.execute("INSERT INTO product VALUES (11, 'k', 1)")
        first.execute("DELETE FROM product WHERE id = 1")
        second.execute("DELETE FROM product WHERE id = 2")
        second.execute("COMMIT")
        first.execute("COMMIT")
    changes = outlet.seen()
    assert len(changes) == 8
    assert len({change.session for change in changes}) == 2


@pytest.mark.parametrize(
    "setting",
    [
        "SET sql_mode = ''",
        "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,PAD_CHAR_TO_FULL_LENGTH'",
        "SET time_zone = '-09:30'",
        "SET NAMES latin1",
        "SET div_precision_increment = 0",
    ],
)
def test_whatever_the_session_is_like(make: Make, setting: str, engine_name: str) -> None:
    outlet = make(
        "CREATE TABLE thing (name VARCHAR(20) CHARACTER SET utf8mb4 NOT NULL, code CHAR(6), at TIMESTAMP(3) NULL,"
        " PRIMARY KEY (name))"
    )
    if "PAD_CHAR" in setting and engine_name == "mysql":
        setting = setting.replace(",PAD_CHAR_TO_FULL_LENGTH", "")  # gone from MySQL 9
    with session(outlet, "SET time_zone = '+00:00'") as cursor:
        cursor.execute(r"INSERT INTO thing VALUES ('é|\\ 😀', 'ab', '2024-07-01 12:00:00.250')")
        cursor.execute(setting)
        cursor.execute("UPDATE thing SET code = 'cd'")
        cursor.execute("COMMIT")
    _, change = outlet.seen()
    assert change.key == r"é\|\\ 😀"
    assert change.after == {"name": "é|\\ 😀", "code": "cd", "at": "2024-07-01 12:00:00.250000"}


def test_the_hour_that_comes_twice(make: Make, servers: Servers, engine_name: str) -> None:
    """A TIMESTAMP in the repeated hour of a change of clocks, written in a session of that zone."""
    outlet = make("CREATE TABLE event (id INT NOT NULL PRIMARY KEY, at TIMESTAMP NULL)")
    server = servers.server(engine_name)
    assert isinstance(server, MysqlServer)
    with server.administrator() as administrator:
        for statement in _ZONE:
            administrator.execute(statement)
    with session(outlet, "SET time_zone = '+00:00'") as cursor:
        cursor.execute("INSERT INTO event VALUES (1, '2024-10-27 00:30:00'), (2, '2024-10-27 01:30:00')")
        cursor.execute("SET time_zone = 'Subak/Test'")
        assert one(cursor, "SELECT COUNT(DISTINCT CAST(at AS CHAR)) FROM event") == 1
        cursor.execute("UPDATE event SET id = id + 10")
        cursor.execute("COMMIT")
    found = {change.key: (change.after or {})["at"] for change in outlet.seen() if change.after}
    assert (found["11"], found["12"]) == ("2024-10-27 00:30:00", "2024-10-27 01:30:00")


_ZONE = [
    "DELETE FROM mysql.time_zone_name WHERE Name = 'Subak/Test'",
    "INSERT INTO mysql.time_zone (Use_leap_seconds) VALUES ('N')",
    "SET @zone = LAST_INSERT_ID()",
    "INSERT INTO mysql.time_zone_name (Name, Time_zone_id) VALUES ('Subak/Test', @zone)",
    "INSERT INTO mysql.time_zone_transition_type (Time_zone_id, Transition_type_id, `Offset`, Is_DST, Abbreviation)"
    " VALUES (@zone, 0, 7200, 1, 'CEST'), (@zone, 1, 3600, 0, 'CET')",
    "INSERT INTO mysql.time_zone_transition (Time_zone_id, Transition_time, Transition_type_id)"
    " VALUES (@zone, 1711846800, 0), (@zone, 1729990800, 1)",
]
"""Central European time in 2024, so that the servers need no time zone tables."""


def test_a_clock_that_goes_backwards(make: Make) -> None:
    outlet = make(PRODUCT)
    with session(outlet) as cursor:
        cursor.execute("SET timestamp = 1800000000")
        cursor.execute("INSERT INTO product VALUES (1, 'a', 1)")
        cursor.execute("SET timestamp = 1799999000")
        cursor.execute("UPDATE product SET price = 2")
        cursor.execute("COMMIT")
    inserted, updated = outlet.seen()
    assert inserted.stamp == Stamp(1_800_000_000_000_000, OUTLET)
    assert updated.stamp == Stamp(1_800_000_000_000_001, OUTLET)


def test_it_runs_before_the_applications_own_triggers(make: Make) -> None:
    """The application's trigger writes to another synchronised table: that change comes after the one that caused it."""
    outlet = make(
        PRODUCT,
        "CREATE TABLE audit (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, product INT, price DECIMAL(10,2))",
        "CREATE TRIGGER normalise BEFORE UPDATE ON product FOR EACH ROW SET NEW.price = ROUND(NEW.price)",
        "CREATE TRIGGER audit AFTER UPDATE ON product FOR EACH ROW INSERT INTO audit VALUES (NULL, NEW.id, NEW.price)",
    )
    outlet.run("INSERT INTO product VALUES (1, 'a', 1)", "UPDATE product SET price = 2.7")
    _, update, audit = outlet.seen()
    assert (update.table, (update.after or {})["price"]) == ("product", "3")
    assert (audit.table, audit.after) == ("audit", {"id": 1, "product": 1, "price": "3"})


def test_transactions_have_their_names_where_the_server_gives_them(
    make: Make, engine_name: str, servers: Servers
) -> None:
    outlet = make(PRODUCT)
    if engine_name == "mysql":
        server = servers.server("mysql")
        assert isinstance(server, MysqlServer)
        with server.administrator() as administrator:
            administrator.execute("GRANT SELECT ON performance_schema.* TO app")
        outlet.install()
        outlet.seen()
    with session(outlet) as cursor:
        for statements in (
            ["INSERT INTO product VALUES (1, 'a', 1), (2, 'b', 1)", "SAVEPOINT s", "UPDATE product SET price = 2"],
            ["ROLLBACK TO s", "DELETE FROM product WHERE id = 2", "COMMIT"],
            ["UPDATE product SET price = 3", "SELECT 1", "UPDATE product SET price = 4", "COMMIT"],
            ["SET autocommit = 1", "UPDATE product SET price = 5"],
            ["UPDATE product SET price = 6"],
        ):
            for statement in statements:
                cursor.execute(statement)
        number = one(cursor, "SELECT CONNECTION_ID()")
    changes = outlet.seen()
    assert [change.op for change in changes] == list("IIDUUUU")
    assert {change.session for change in changes} == {number}
    names = [change.transaction for change in changes]
    if engine_name == "mariadb":
        # No names for transactions; a statement that is one by itself is told apart (statement_name.sql).
        assert names[:5] == [None] * 5
        assert None not in names[5:] and names[5] != names[6]
    else:
        assert None not in names
        assert [names.index(name) for name in names] == [0, 0, 0, 3, 3, 5, 6]


def test_no_change_slips_through_while_a_trigger_is_replaced(make: Make) -> None:
    outlet = make(PRODUCT)
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        with session(outlet, "SET autocommit = 1") as cursor:
            while not stop.is_set():
                cursor.execute("INSERT INTO product (price) VALUES (1)")
                written.append(int(cursor.lastrowid))

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(8):
        outlet.install()
    reached = len(written) + 20
    limit = time.monotonic() + 20
    while len(written) < reached and time.monotonic() < limit:
        stop.wait(0.01)
    stop.set()
    writer.join()
    assert [change.key for change in outlet.seen()] == [str(key) for key in written]
    with outlet.subak.connect() as connection:
        assert len(outlet.dialect.installed(connection)) == 3


def test_killed_while_a_trigger_is_replaced_the_table_is_still_captured(
    make: Make, engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies before each statement in turn; MariaDB replaces in one."""
    outlet = make(PRODUCT)
    execute = triggers._execute
    for survived in range(6 if engine_name == "mysql" else 1):
        left = [survived]

        def dying(connection: Connection, sql: str, left: list[int] = left) -> None:
            if not left[0]:
                raise InterruptedError
            left[0] -= 1
            execute(connection, sql)

        monkeypatch.setattr(triggers, "_execute", dying)
        connection = outlet.subak.connect()
        with pytest.raises(InterruptedError):
            trigger = outlet.dialect.triggers(connection, outlet.table("product"), outlet.catalogue, OUTLET)[0]
            outlet.dialect.create_trigger(connection, trigger)
        connection.invalidate()  # the server sees the client go, and gives the lock back
        connection.close()
        monkeypatch.setattr(triggers, "_execute", execute)
        outlet.run(f"INSERT INTO product (name) VALUES ('n{survived}')")
        assert {change.op for change in outlet.seen()} == {"I"}, survived


def test_a_change_that_cannot_be_captured_fails_the_statement(make: Make, servers: Servers, engine_name: str) -> None:
    """An image longer than max_allowed_packet is NULL: the application is told, rather than the change lost."""
    outlet = make("CREATE TABLE picture (id INT NOT NULL PRIMARY KEY, body LONGBLOB)")
    with session(outlet, max_allowed_packet=2**26) as cursor:
        limit = int(one(cursor, "SELECT @@max_allowed_packet"))
        cursor.execute(f"INSERT INTO picture VALUES (1, REPEAT('x', {limit * 8 // 10 // 2}))")
        with pytest.raises(pymysql.err.Error):
            cursor.execute("UPDATE picture SET body = CONCAT(body, body)")
        cursor.execute("ROLLBACK")
    assert outlet.seen() == []
    assert outlet.version("picture", "1")[0] == NEVER
