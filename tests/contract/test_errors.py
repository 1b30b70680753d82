"""What the engines' own errors become: whose turn it is, by a code that is the same on every engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from services.kernel.dialects import Dialect, Purpose, dialect_for
from services.kernel.errors import PermanentError, SubakError, TransientError
from services.kernel.schema import Side, prepare
from tests.stack.application import application_engine, translate
from tests.stack.servers import MysqlServer, Servers

SCHEMA = [
    "CREATE TABLE parent (id INTEGER NOT NULL PRIMARY KEY, code VARCHAR(5) UNIQUE, amount INTEGER NOT NULL CHECK (amount > 0))",
    "CREATE TABLE child (id INTEGER NOT NULL PRIMARY KEY, parent INTEGER REFERENCES parent (id))",
    "CREATE TABLE keyed (id VARCHAR(9) NOT NULL PRIMARY KEY)",
    "INSERT INTO parent VALUES (1, 'a', 1)",
    "INSERT INTO keyed VALUES ('a')",
]


class Database:
    def __init__(self, url: URL) -> None:
        self.url = url
        self.dialect: Dialect = dialect_for(url)
        self.engine: Engine = self.dialect.engine(url, Purpose.WRITE)
        translate(self.engine)
        with self.engine.begin() as connection:
            for statement in SCHEMA:
                connection.exec_driver_sql(statement)
            if self.dialect.name == "mysql":  # which reads over REFERENCES behind a column, before 9.0
                connection.exec_driver_sql("DROP TABLE child")
                connection.exec_driver_sql(
                    "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES parent (id))"
                )

    def error(self, *statements: str, engine: Engine | None = None) -> SubakError:
        with pytest.raises(DBAPIError) as caught, (engine or self.engine).begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        return self.dialect.classify(caught.value)


@pytest.fixture
def database(database_url: URL) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.engine.dispose()


@pytest.mark.parametrize(
    ("statement", "kind", "code"),
    [
        ("INSERT INTO parent VALUES (1, 'b', 1)", TransientError, "duplicate_key"),
        ("INSERT INTO keyed VALUES ('a')", TransientError, "duplicate_key"),
        ("INSERT INTO parent VALUES (2, 'a', 1)", PermanentError, "unique"),
        ("INSERT INTO parent VALUES (2, 'b', 0)", PermanentError, "check"),
        ("INSERT INTO parent VALUES (2, 'b', NULL)", PermanentError, "not_null"),
        ("INSERT INTO child VALUES (1, 9)", PermanentError, "foreign_key"),
        ("INSERT INTO nowhere VALUES (1)", PermanentError, "missing_table"),
        ("INSERT INTO parent (colour) VALUES (1)", PermanentError, "missing_column"),
        ("SELEC", PermanentError, "database"),
    ],
)
def test_constraints(database: Database, statement: str, kind: type[SubakError], code: str) -> None:
    error = database.error(statement)
    assert (type(error), error.code) == (kind, code)
    assert error.what


def test_a_parent_with_children_is_not_deleted(database: Database) -> None:
    assert database.error("INSERT INTO child VALUES (1, 1)", "DELETE FROM parent").code == "foreign_key"


def test_what_is_ours_already_stays(database: Database) -> None:
    error = PermanentError("value", "x")
    assert database.dialect.classify(error) is error


def test_a_lock_that_is_held_is_transient_and_waited_for_a_second_at_most(database: Database) -> None:
    other = database.dialect.engine(database.url, Purpose.WRITE, lock_seconds=0.2)
    with database.engine.begin() as holder:
        holder.exec_driver_sql("UPDATE parent SET amount = 2")
        error = database.error("UPDATE parent SET amount = 3", engine=other)
    other.dispose()
    assert isinstance(error, TransientError)
    assert error.code == ("busy" if database.dialect.name == "sqlite" else "lock_timeout")


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_a_deadlock_is_transient(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO parent VALUES (2, 'b', 1)")
    engine = database.dialect.engine(database.url, Purpose.WRITE, lock_seconds=20)
    both = threading.Barrier(2)
    codes: list[str] = []

    def crossing(first: int, second: int) -> None:
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"UPDATE parent SET amount = amount + 1 WHERE id = {first}")
                both.wait(20)
                connection.exec_driver_sql(f"UPDATE parent SET amount = amount + 1 WHERE id = {second}")
        except DBAPIError as error:
            codes.append(database.dialect.classify(error).code)

    threads = [threading.Thread(target=crossing, args=order) for order in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    engine.dispose()
    assert codes == ["deadlock"]


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
@pytest.mark.parametrize(
    ("declared", "value"), [("VARCHAR(2)", "'abc'"), ("TINYINT", "300"), ("DATE", "'never'"), ("ENUM('a')", "'b'")]
)
def test_a_value_that_does_not_fit(database: Database, declared: str, value: str) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE narrow (id INT NOT NULL PRIMARY KEY, c {declared})")
    assert database.error(f"INSERT INTO narrow VALUES (1, {value})").code == "value"


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_a_lost_connection_is_transient(database: Database, servers: Servers, engine_name: str) -> None:
    server = servers.server(engine_name)
    assert isinstance(server, MysqlServer)
    with pytest.raises(DBAPIError) as caught, database.engine.connect() as connection:
        number = connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar()
        with server.administrator() as administrator:
            administrator.execute(f"KILL {number}")
        connection.exec_driver_sql("SELECT 1")
    assert isinstance(error := database.dialect.classify(caught.value), TransientError)
    assert error.code == "connection"
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_nobody_there_and_nobody_let_in(database: Database) -> None:
    dialect = database.dialect
    for url, code in (
        (database.url.set(port=1), "connection"),
        (database.url.set(password="wrong"), "denied"),
        (database.url.set(database="elsewhere"), "denied"),
    ):
        engine = dialect.engine(url, Purpose.READ)
        with pytest.raises(DBAPIError) as caught:
            engine.connect()
        engine.dispose()
        assert dialect.classify(caught.value).code == code


@pytest.mark.parametrize("engine_name", ["sqlite"])
def test_a_full_disk_is_transient(database: Database) -> None:
    """Only SQLite can be told how large it may grow."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 20")
        with pytest.raises(DBAPIError) as caught:
            connection.exec_driver_sql("INSERT INTO keyed VALUES (zeroblob(1000000))")
        connection.rollback()
    assert database.dialect.classify(caught.value).code == "disk_full"


def test_reading_connections_write_nothing_and_see_one_snapshot(database: Database) -> None:
    reading = database.dialect.engine(database.url, Purpose.READ)
    writing = application_engine(database.url)
    with reading.connect() as reader:
        count = "SELECT COUNT(*) FROM keyed"
        assert reader.exec_driver_sql(count).scalar() == 1
        if database.dialect.name != "sqlite":  # SQLite's writer would wait for the reader, or not, by the journal mode
            with writing.begin() as writer:
                writer.exec_driver_sql("INSERT INTO keyed VALUES ('b')")
            assert reader.exec_driver_sql(count).scalar() == 1
        if database.dialect.name != "mssql":  # which knows no transaction that only reads
            with pytest.raises(DBAPIError):
                reader.exec_driver_sql("DELETE FROM keyed")
        reader.rollback()
        assert reader.exec_driver_sql(count).scalar() == (1 if database.dialect.name == "sqlite" else 2)
    for engine in (reading, writing):
        engine.dispose()


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_the_applier_is_marked_and_nobody_else(database: Database) -> None:
    """SQLite's mark: test_triggers_sqlite.py."""
    with database.engine.connect() as connection:
        prepare(connection, database.dialect, Side.OUTLET)
        assert connection.exec_driver_sql("SELECT @subak_applier").scalar() is None
    applying = database.dialect.engine(database.url, Purpose.APPLY)
    for _ in range(2):
        with applying.connect() as connection:
            assert connection.exec_driver_sql("SELECT @subak_applier").scalar() == 1
            variable = "transaction_isolation" if "MySQL" in database.dialect.server(connection) else "tx_isolation"
            assert connection.exec_driver_sql(f"SELECT @@{variable}").scalar() == "READ-COMMITTED"
    applying.dispose()
