"""The doctor on real databases: each thing that stands in the way is found, and a sound database is called so."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import URL

from services.cli.doctor.command import examine
from services.cli.doctor.finding import Finding, Urgency
from tests.conftest import FreshDatabase
from tests.stack.servers import MysqlServer, Servers

SERVERS = ("mariadb", "mysql")

CLEAN = (
    "CREATE TABLE orders (code VARCHAR(20) NOT NULL PRIMARY KEY, total DECIMAL(10,2))",
    "CREATE TABLE stock (code VARCHAR(20) NOT NULL PRIMARY KEY, n INTEGER NOT NULL)",
)


def run(url: URL, *statements: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def clean(url: URL) -> None:
    run(url, *CLEAN)
    if url.get_backend_name() == "sqlite":
        run(url, "PRAGMA journal_mode = WAL")


def musts(url: URL, *patterns: str) -> dict[str, Finding]:
    """By code."""
    _, _, findings = examine(url, patterns or ("*",))
    return {finding.code: finding for finding in findings if finding.urgency is Urgency.MUST}


def checks(url: URL) -> dict[str, Finding]:
    _, _, findings = examine(url, ("*",))
    return {finding.code: finding for finding in findings if finding.urgency is Urgency.CHECK}


def test_a_sound_database(database_url: URL) -> None:
    clean(database_url)
    server, tables, findings = examine(database_url, ("*",))
    assert server and sorted(tables) == ["orders", "stock"]
    # A server of its own accord may refuse triggers while its binary log is on; the test servers' is off.
    assert [finding for finding in findings if finding.urgency is not Urgency.NOTE] == []


def test_it_leaves_nothing_behind(database_url: URL) -> None:
    clean(database_url)
    examine(database_url, ("*",))
    engine = create_engine(database_url)
    assert sorted(inspect(engine).get_table_names()) == ["orders", "stock"]
    engine.dispose()


def test_no_table(database_url: URL) -> None:
    run(database_url, *CLEAN)
    assert "no_tables" in musts(database_url, "x*")


def test_a_table_without_a_primary_key(database_url: URL) -> None:
    clean(database_url)
    run(database_url, "CREATE TABLE loose (a INTEGER)")
    assert musts(database_url)["no_primary_key"].subject == "loose"
    assert musts(database_url, "o*", "s*") == {}


def test_a_parent_that_is_not_synchronised(database_url: URL) -> None:
    clean(database_url)
    run(
        database_url,
        "CREATE TABLE line (id VARCHAR(20) NOT NULL PRIMARY KEY, code VARCHAR(20) NOT NULL,"
        " FOREIGN KEY (code) REFERENCES orders (code))",
    )
    assert musts(database_url, "line")["parent_not_synchronised"].subject == "line"
    assert "parent_not_synchronised" not in musts(database_url)


def test_a_trigger_that_would_act_twice(database_url: URL) -> None:
    clean(database_url)
    header = "CREATE TRIGGER book AFTER INSERT ON orders FOR EACH ROW "
    body = "BEGIN UPDATE stock SET n = n - 1 WHERE code = NEW.code; END"
    run(database_url, header + body)
    found = musts(database_url)["acts_twice"]
    assert found.subject == "book"
    assert "subak_" in found.todo


def test_a_guarded_trigger(database_url: URL) -> None:
    clean(database_url)
    update = "UPDATE stock SET n = n - 1 WHERE code = NEW.code;"
    if database_url.get_backend_name() == "sqlite":
        run(
            database_url,
            "CREATE TABLE IF NOT EXISTS subak_mark (Applier INTEGER PRIMARY KEY)",
            f"CREATE TRIGGER book AFTER INSERT ON orders WHEN NOT EXISTS (SELECT 1 FROM subak_mark) BEGIN {update} END",
        )
    else:
        run(
            database_url,
            "CREATE TRIGGER book AFTER INSERT ON orders FOR EACH ROW "
            f"BEGIN IF COALESCE(@subak_applier, 0) = 0 THEN {update} END IF; END",
        )
    assert "acts_twice" not in musts(database_url)


def test_sqlite_without_a_write_ahead_log(fresh_database: FreshDatabase) -> None:
    url = fresh_database("sqlite")
    run(url, *CLEAN)
    assert set(musts(url)) == {"journal_mode"}


def test_sqlite_makes_the_same_keys_everywhere(fresh_database: FreshDatabase) -> None:
    url = fresh_database("sqlite")
    clean(url)
    run(url, "CREATE TABLE numbered (id INTEGER PRIMARY KEY, a TEXT)")
    assert checks(url)["colliding_keys"].subject == "numbered"


def test_sqlite_rows_without_their_parent(fresh_database: FreshDatabase) -> None:
    url = fresh_database("sqlite")
    clean(url)
    run(
        url,
        "CREATE TABLE line (id TEXT NOT NULL PRIMARY KEY, code VARCHAR(20) REFERENCES orders (code))",
        "INSERT INTO line VALUES ('1', 'gone')",
    )
    assert checks(url)["orphan"].subject == "line"


@pytest.mark.parametrize("engine_name", SERVERS)
def test_auto_increment_collides(database_url: URL) -> None:
    clean(database_url)
    run(database_url, "CREATE TABLE numbered (id INT AUTO_INCREMENT PRIMARY KEY, a TEXT)")
    assert musts(database_url)["colliding_keys"].subject == "numbered"


@pytest.mark.parametrize("engine_name", SERVERS)
def test_a_storage_engine_without_transactions(database_url: URL) -> None:
    clean(database_url)
    run(database_url, "ALTER TABLE stock ENGINE = MyISAM")
    assert musts(database_url)["engine"].subject == "stock"


@pytest.mark.parametrize("engine_name", SERVERS)
def test_an_event(database_url: URL) -> None:
    clean(database_url)
    run(database_url, "CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY DO DELETE FROM stock")
    assert checks(database_url)["event"].subject == "nightly"


@pytest.mark.parametrize("engine_name", SERVERS)
def test_lacking_privileges_are_named(database_url: URL, engine_name: str, servers: Servers) -> None:
    clean(database_url)
    server = servers.server(engine_name)
    assert isinstance(server, MysqlServer)
    with server._administrator() as cursor:
        cursor.execute("CREATE USER IF NOT EXISTS 'weak'@'%' IDENTIFIED BY 'secret'")
        cursor.execute(f"GRANT SELECT, INSERT, CREATE ON `{database_url.database}`.* TO 'weak'@'%'")
    try:
        weak = database_url.set(username="weak")
        todos = {finding.todo for finding in examine(weak, ("*",))[2] if finding.code == "privilege"}
    finally:
        with server._administrator() as cursor:
            cursor.execute("DROP USER 'weak'@'%'")
    for privilege in ("TRIGGER ON", "UPDATE ON", "DELETE ON"):
        assert any(privilege in todo for todo in todos), todos
    assert not any("GRANT INSERT" in todo for todo in todos)
