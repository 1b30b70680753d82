"""The doctor on real databases: each thing that stands in the way is found, and a sound database is called so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.engine import URL

from services.applier import rules
from services.capture import triggers
from services.cli.doctor.command import examine
from services.cli.doctor.finding import Finding, Urgency
from services.kernel.control import Policy
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.dialects.mssql import rights
from services.kernel.dialects.mssql.connecting import MARK
from services.kernel.schema import Side, prepare
from tests.conftest import FreshDatabase
from tests.stack.application import application_engine, takes
from tests.stack.servers import MysqlServer, Servers
from tests.stack.sql_server import SqlServer

SERVERS = ("mariadb", "mysql")

CLEAN = (
    "CREATE TABLE orders (code VARCHAR(20) NOT NULL PRIMARY KEY, total DECIMAL(10,2))",
    "CREATE TABLE stock (code VARCHAR(20) NOT NULL PRIMARY KEY, n INTEGER NOT NULL)",
)


UPDATE_STOCK = "UPDATE stock SET n = n - 1 WHERE code = NEW.code;"
IN_TSQL = "UPDATE s SET n = s.n - 1 FROM dbo.stock AS s JOIN inserted AS i ON i.code = s.code;"

SECRET = "Secret_12345"

mssql = pytest.mark.parametrize("engine_name", ["mssql"])


def run(url: URL, *statements: str) -> None:
    """On SQLite foreign keys stay off: a row may lack its parent."""
    engine = create_engine(url) if url.get_backend_name() == "sqlite" else application_engine(url)
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
    return of(url, Urgency.CHECK)


def of(url: URL, urgency: Urgency) -> dict[str, Finding]:
    _, _, findings = examine(url, ("*",))
    return {finding.code: finding for finding in findings if finding.urgency is urgency}


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
    assert "subak" not in inspect(engine).get_schema_names()
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
    if database_url.get_backend_name() == "mssql":
        run(database_url, f"CREATE TRIGGER book ON orders AFTER INSERT AS BEGIN {IN_TSQL} END")
    else:
        run(database_url, f"CREATE TRIGGER book AFTER INSERT ON orders FOR EACH ROW BEGIN {UPDATE_STOCK} END")
    found = musts(database_url)["acts_twice"]
    assert found.subject == "book"
    assert "stock" in found.what
    assert "subak_" in found.todo or MARK in found.todo


def test_a_guarded_trigger(database_url: URL) -> None:
    clean(database_url)
    if database_url.get_backend_name() == "mssql":
        guard = f"IF SUBSTRING(CONTEXT_INFO(), 1, 16) = {MARK} RETURN;"
        run(database_url, f"CREATE TRIGGER book ON orders AFTER INSERT AS BEGIN {guard} {IN_TSQL} END")
    elif database_url.get_backend_name() == "sqlite":
        run(
            database_url,
            "CREATE TABLE IF NOT EXISTS subak_mark (Applier INTEGER PRIMARY KEY)",
            "CREATE TRIGGER book AFTER INSERT ON orders WHEN NOT EXISTS (SELECT 1 FROM subak_mark) "
            f"BEGIN {UPDATE_STOCK} END",
        )
    else:
        run(
            database_url,
            "CREATE TRIGGER book AFTER INSERT ON orders FOR EACH ROW "
            f"BEGIN IF COALESCE(@subak_applier, 0) = 0 THEN {UPDATE_STOCK} END IF; END",
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
    with server.administrator() as cursor:
        cursor.execute("CREATE USER IF NOT EXISTS 'weak'@'%' IDENTIFIED BY 'secret'")
        cursor.execute(f"GRANT SELECT, INSERT, CREATE ON `{database_url.database}`.* TO 'weak'@'%'")
    try:
        weak = database_url.set(username="weak")
        todos = {finding.todo for finding in examine(weak, ("*",))[2] if finding.code == "privilege"}
    finally:
        with server.administrator() as cursor:
            cursor.execute("DROP USER 'weak'@'%'")
    for privilege in ("TRIGGER ON", "UPDATE ON", "DELETE ON"):
        assert any(privilege in todo for todo in todos), todos
    assert not any("GRANT INSERT" in todo for todo in todos)


@mssql
def test_an_identity_without_a_range_collides(database_url: URL) -> None:
    clean(database_url)
    run(database_url, "CREATE TABLE numbered (id INTEGER NOT NULL IDENTITY(1, 1) PRIMARY KEY, a TEXT)")
    found = musts(database_url)["colliding_keys"]
    assert found.subject == "numbered.id"
    assert "DBCC CHECKIDENT (N'[dbo].[numbered]', RESEED, 100000000)" in found.todo
    run(database_url, "INSERT INTO numbered (a) VALUES ('x')", "DBCC CHECKIDENT ([numbered], RESEED, 100000000)")
    assert "colliding_keys" not in musts(database_url)


@mssql
def test_an_identity_that_leaves_gaps_for_others(database_url: URL) -> None:
    clean(database_url)
    run(database_url, "CREATE TABLE numbered (id INTEGER NOT NULL IDENTITY(3, 10) PRIMARY KEY, a TEXT)")
    assert "colliding_keys" not in musts(database_url)


@mssql
@pytest.mark.parametrize(
    ("kind", "start", "what"),
    [
        ("INTEGER", 199_999_000, "of a range"),
        ("INTEGER", 2_147_483_600, "values are left"),
        ("SMALLINT", 1_950, "of a range"),
    ],
)
def test_an_identity_that_comes_to_its_end(database_url: URL, kind: str, start: int, what: str) -> None:
    clean(database_url)
    run(
        database_url,
        f"CREATE TABLE numbered (id {kind} NOT NULL IDENTITY({start}, 1) PRIMARY KEY, a TEXT)",
        "INSERT INTO numbered (a) VALUES ('x')",
    )
    assert what in checks(database_url)["keys_ending"].what


@mssql
def test_a_key_out_of_a_sequence(database_url: URL) -> None:
    clean(database_url)
    run(
        database_url,
        "CREATE SEQUENCE numbers AS BIGINT START WITH 1",
        "CREATE TABLE numbered (id BIGINT NOT NULL DEFAULT (NEXT VALUE FOR numbers) PRIMARY KEY, a TEXT)",
    )
    assert checks(database_url)["colliding_keys"].subject == "numbered.id"


@mssql
def test_a_trigger_instead_of_the_write(database_url: URL) -> None:
    clean(database_url)
    insert = "INSERT INTO stock (code, n) SELECT code, n FROM inserted"
    run(database_url, f"CREATE TRIGGER gate ON stock INSTEAD OF INSERT AS BEGIN {insert} END")
    assert musts(database_url)["instead_of"].subject == "gate"
    guard = f"IF SUBSTRING(CONTEXT_INFO(), 1, 16) = {MARK} BEGIN {insert}; RETURN END;"
    run(
        database_url,
        "DROP TRIGGER gate",
        f"CREATE TRIGGER gate ON stock INSTEAD OF INSERT AS BEGIN {guard} {insert} END",
    )
    assert "instead_of" not in musts(database_url)
    assert checks(database_url)["instead_of"].subject == "gate"


@mssql
def test_a_trigger_that_is_disabled_does_nothing(database_url: URL) -> None:
    clean(database_url)
    run(
        database_url,
        f"CREATE TRIGGER book ON orders AFTER INSERT AS BEGIN {IN_TSQL} END",
        "DISABLE TRIGGER book ON orders",
    )
    assert "acts_twice" not in musts(database_url)


@mssql
def test_a_trigger_of_subak_that_is_disabled(database_url: URL) -> None:
    clean(database_url)
    dialect = dialect_for(database_url)
    engine = dialect.engine(database_url, Purpose.WRITE)
    installed = triggers.install(engine, dialect, ["*"], "jakarta").installed
    engine.dispose()
    assert musts(database_url) == {}
    name = next(name for name in installed if "orders" in name)
    run(database_url, f"DISABLE TRIGGER [{name}] ON orders")
    assert musts(database_url)["disabled"].subject == name


@mssql
def test_a_unique_value_that_may_be_null(database_url: URL) -> None:
    clean(database_url)
    run(database_url, "CREATE TABLE card (id INTEGER NOT NULL PRIMARY KEY, number INTEGER NULL)")
    run(database_url, "CREATE UNIQUE INDEX one_card ON card (number)")
    found = checks(database_url)["unique_nulls"]
    assert "[dbo].[card]" in found.what and "[number] IS NOT NULL" in found.todo


@mssql
def test_texts_that_are_compared_or_held_otherwise(database_url: URL) -> None:
    clean(database_url)
    run(
        database_url,
        "CREATE TABLE name (id NVARCHAR(20) COLLATE Latin1_General_CI_AI NOT NULL PRIMARY KEY,"
        " [short] [varchar](20), [long] NVARCHAR(20))",
    )
    found = checks(database_url)
    assert found["key_accents"].subject == "name.id"
    assert "short" in found["code_page"].what and "long" not in found["code_page"].what
    assert of(database_url, Urgency.NOTE)["key_case"].subject == "name.id, orders.code, stock.code"


@mssql
def test_cascades_are_noted(database_url: URL) -> None:
    clean(database_url)
    run(
        database_url,
        "CREATE TABLE line (id INTEGER NOT NULL PRIMARY KEY,"
        " code NVARCHAR(20) REFERENCES orders (code) ON DELETE CASCADE)",
    )
    assert of(database_url, Urgency.NOTE)["cascades"].subject == "line (code)"


@mssql
def test_the_ways_around_a_trigger_are_always_noted(database_url: URL) -> None:
    clean(database_url)
    assert {"around_triggers", "output"} <= set(of(database_url, Urgency.NOTE))


@pytest.fixture
def weak(database_url: URL, servers: Servers, engine_name: str) -> Iterator[URL]:
    """A login that may connect to the database, and nothing else."""
    server = servers.server(engine_name)
    assert isinstance(server, SqlServer)
    name = f"{database_url.database}_weak"

    def administer(*statements: str) -> None:
        with server._engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))

    administer(f"CREATE LOGIN [{name}] WITH PASSWORD = '{SECRET}'")
    run(database_url, f"CREATE USER [{name}] FOR LOGIN [{name}]")
    yield database_url.set(username=name, password=SECRET)
    administer(f"DROP LOGIN [{name}]")


@mssql
def test_what_a_weak_login_lacks_is_named(database_url: URL, weak: URL) -> None:
    clean(database_url)
    run(database_url, "CREATE TABLE numbered (id INTEGER NOT NULL IDENTITY(100000000, 1) PRIMARY KEY, a TEXT)")
    run(
        database_url,
        *(f"GRANT SELECT, INSERT ON {table} TO [{weak.username}]" for table in ("orders", "stock", "numbered")),
    )
    _, tables, findings = examine(weak, ("*",))
    assert sorted(tables) == ["numbered", "orders", "stock"]
    todos = {finding.todo for finding in findings if finding.code == "privilege"}
    for right in ("UPDATE", "DELETE", "ALTER"):
        assert f"GRANT {right} ON [dbo].[orders] TO [{weak.username}];" in todos
    assert not any("GRANT INSERT" in todo or "GRANT SELECT ON" in todo for todo in todos)
    assert any("CREATE SCHEMA subak AUTHORIZATION dbo" in todo for todo in todos)
    assert any("db_ddladmin" in todo for todo in todos)
    assert "GRANT VIEW DEFINITION" in "".join(todos)


@mssql
def test_a_schema_of_its_own_is_enough_for_its_tables(database_url: URL, weak: URL) -> None:
    clean(database_url)
    run(database_url, f"CREATE SCHEMA subak AUTHORIZATION [{weak.username}]")
    subjects = {finding.subject for finding in examine(weak, ("*",))[2] if finding.code == "privilege"}
    run(database_url, "DROP SCHEMA subak")
    assert not any("subak" in subject for subject in subjects)


@mssql
def test_the_rights_that_are_advised_are_enough(database_url: URL, weak: URL) -> None:
    clean(database_url)
    run(database_url, "CREATE TABLE numbered (id INTEGER NOT NULL IDENTITY(100000000, 1) PRIMARY KEY, a TEXT)")
    statements = [
        line.strip().replace("TO subak", f"TO [{weak.username}]").replace("MEMBER subak", f"MEMBER [{weak.username}]")
        for line in rights.SETUP.splitlines()
        if line.strip().startswith(("CREATE SCHEMA", "GRANT", "ALTER ROLE"))
    ]
    application = application_engine(database_url)
    known = all(takes(application, statement) for statement in statements if "SCHEMA" not in statement)
    application.dispose()
    if not known:
        pytest.skip("mssql: this server cannot grant these rights")
    run(database_url, *statements)
    assert not any(finding.code == "privilege" for finding in examine(weak, ("*",))[2])


def test_rules_that_do_not_fit(database_url: URL) -> None:
    clean(database_url)
    dialect = dialect_for(database_url)
    engine = dialect.engine(database_url, Purpose.WRITE)
    with engine.connect() as connection:
        prepare(connection, dialect, Side.OUTLET)
        rules.take_up(connection, Policy(1, '[tables.orders]\ndelta = ["total"]\n[tables.stock]\ndelta = ["n"]'), 0)
        connection.commit()
    engine.dispose()
    found = musts(database_url)["policy"]
    assert found.subject == "orders"
    assert "total" in found.what and "NOT NULL" in found.what
