"""What becomes of a batch when the database, or the connection to it, fails at the worst moment: it takes effect once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pymysql
import pyodbc
import pytest
import sqlalchemy as sa

from services.applier.applying import PATIENCE
from services.kernel.change import Batch
from services.kernel.control import Own, Policy, Purge
from services.kernel.errors import TransientError
from services.kernel.schema import LEDGER, POLICY
from tests.contract.outlets import Make, MakeOutlet, Outlet
from tests.stack.servers import MysqlServer, Servers

SCHEMA = (
    "CREATE TABLE stock (sku VARCHAR(20) NOT NULL PRIMARY KEY, on_hand INTEGER NOT NULL)",
    "CREATE TABLE note (id INTEGER NOT NULL PRIMARY KEY, body VARCHAR(40))",
    "INSERT INTO stock VALUES ('a', 10), ('b', 10)",
)
ROWS = "SELECT sku, on_hand FROM stock ORDER BY sku"
SERVERS = pytest.mark.parametrize("engine_name", ["mariadb", "mysql", "mssql"])
RESTARTED = pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
"""A server of SQL Server's protocol was started by somebody else."""

DISK_FULL: dict[str, Exception] = {
    "mysql": pymysql.err.OperationalError(1021, "Disk full"),
    "mssql": pyodbc.Error("42000", "[42000] The transaction log is full. (9002) (SQLEndTran)"),
}
LIMIT_SECONDS = 30.0


@pytest.fixture
def outlet(make_outlet: MakeOutlet) -> Make:
    return lambda name: make_outlet(name, SCHEMA)


def _batch(outlet: Outlet, *statements: str) -> Batch:
    outlet.write(*statements)
    batch = outlet.take()
    assert batch is not None
    return batch


class Commits:
    """Stands between an outlet's applier and the driver: something happens before its next commit, or after the n-th from now."""

    def __init__(self, outlet: Outlet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: Callable[[Any], None] | None = None
        self.after: Callable[[Any], None] | None = None
        self.nth = 1
        real = outlet.engine.dialect.do_commit

        def commit(connection: Any) -> None:
            before, self.before = self.before, None
            if before:
                before(connection)
            real(connection)
            self.nth -= 1
            if self.after and self.nth == 0:
                self.after(connection)

        monkeypatch.setattr(outlet.engine.dialect, "do_commit", commit)


def _cut(outlet: Outlet) -> Callable[[Any], None]:
    """The server ends the connection, and the driver finds out."""
    # SQL Server's KILL may not be within a transaction.
    administrator = sa.create_engine(outlet.application.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def cut(connection: Any) -> None:
        with connection.cursor() as cursor:
            if outlet.dialect.name == "mssql":
                number, kill = cursor.execute("SELECT @@SPID").fetchone()[0], "KILL"
            else:
                number, kill = connection.thread_id(), "KILL CONNECTION"
            with administrator.connect() as other:
                other.exec_driver_sql(f"{kill} {int(number)}")
            while True:  # the server takes its time
                cursor.execute("SELECT 1")

    return cut


@SERVERS
def test_connection_lost_after_the_commit_was_executed(outlet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell whether it was: the ledger can."""
    amed, bali = outlet("amed"), outlet("bali")
    batch = _batch(amed, "UPDATE stock SET on_hand = on_hand - 3 WHERE sku = 'a'")
    commits = Commits(bali, monkeypatch)
    commits.after = _cut(bali)
    with pytest.raises(TransientError) as caught:
        bali.apply(batch, 1)
    assert caught.value.code == "connection"
    bali.write("UPDATE stock SET on_hand = 100 WHERE sku = 'a'")  # what a second time would undo
    assert bali.apply(batch, 1, attempt=2).duplicate
    assert bali.read(ROWS) == [("a", 100), ("b", 10)]


@SERVERS
def test_connection_lost_before_the_commit_was_executed(outlet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    batch = _batch(amed, "UPDATE stock SET on_hand = on_hand - 3 WHERE sku = 'a'")
    commits = Commits(bali, monkeypatch)
    commits.before = _cut(bali)
    with pytest.raises(TransientError):
        bali.apply(batch, 1)
    assert bali.read(ROWS) == [("a", 10), ("b", 10)]
    assert bali.apply(batch, 1, attempt=2).changes == 1
    assert bali.read(ROWS) == [("a", 7), ("b", 10)]


@SERVERS
def test_connection_lost_in_the_middle_of_what_the_hub_says(outlet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """New rules, and a purge: each commit of it is lost to us once."""
    amed, bali = outlet("amed"), outlet("bali")
    commits = Commits(bali, monkeypatch)
    commits.after = _cut(bali)
    rules = Policy(1, '[tables.stock]\ndelta = ["on_hand"]')
    with pytest.raises(TransientError):
        bali.hear(rules, 1)
    assert bali.hear(rules, 1).duplicate
    assert bali.applier.policies.rules.of("stock").delta == {"on_hand"}
    for sequence in (2, 3):
        bali.apply(
            _batch(amed, f"DELETE FROM note WHERE id = {sequence}", f"INSERT INTO note VALUES ({sequence}, 'x')"),
            sequence,
        )
    lost = 0
    for nth in range(1, 50):
        commits.nth = nth
        try:
            bali.hear(Purge(2, {"bali": Own("e", 0)}), 4)
            break
        except TransientError:
            lost = nth
    assert lost > 3
    with bali.engine.begin() as connection:
        assert list(connection.scalars(sa.select(POLICY.c.Generation))) == [1]
        assert list(connection.scalars(sa.select(LEDGER.c.Sequence).order_by(LEDGER.c.Sequence))) == [3, 4]


@pytest.mark.parametrize("engine_name", ["mysql"])
def test_deadlock_victim(outlet: Make) -> None:
    """Only where locks are waited for can there be one: then the applier, which has changed less, is the victim, and tries again."""
    amed, bali = outlet("amed"), outlet("bali")
    batch = _batch(
        amed,
        "UPDATE stock SET on_hand = on_hand - 3 WHERE sku = 'a'",
        "UPDATE stock SET on_hand = on_hand - 3 WHERE sku = 'b'",
    )
    errors: list[str] = []

    def apply() -> None:
        try:
            bali.apply(batch, 1, attempt=PATIENCE + 1)
        except TransientError as error:
            errors.append(error.code)

    with bali.application.connect() as session, session.begin():
        for number in range(50):
            session.exec_driver_sql(f"INSERT INTO note VALUES ({number}, 'more than the applier does')")
        session.exec_driver_sql("UPDATE stock SET on_hand = on_hand - 1 WHERE sku = 'b'")
        applying = threading.Thread(target=apply)
        applying.start()
        _wait_until(lambda: _is_locked(bali, "a"))
        session.exec_driver_sql(
            "UPDATE stock SET on_hand = on_hand - 1 WHERE sku = 'a'"
        )  # waits for the applier, which waits for us
        applying.join(LIMIT_SECONDS)
    assert errors == ["deadlock"]
    assert bali.apply(batch, 1).changes == 2
    assert bali.read("SELECT COUNT(*) FROM note") == [(50,)]


def _is_locked(outlet: Outlet, sku: str) -> bool:
    with outlet.application.connect() as session:
        try:
            session.exec_driver_sql(f"SELECT sku FROM stock WHERE sku = '{sku}' FOR UPDATE NOWAIT")
        except sa.exc.DBAPIError:
            return True
    return False


def _wait_until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not met():
        assert time.monotonic() < end, "waited in vain"


@RESTARTED
def test_database_restarted_under_way(
    outlet: Make, servers: Servers, engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed while a batch is open, and comes up again: then the batch is applied, once."""
    amed, bali = outlet("amed"), outlet("bali")
    batch = _batch(amed, "UPDATE stock SET on_hand = on_hand - 3 WHERE sku = 'a'")
    server = servers.server(engine_name)
    assert isinstance(server, MysqlServer)
    commits = Commits(bali, monkeypatch)
    commits.before = lambda _: server.kill_and_restart()
    with pytest.raises(TransientError) as caught:
        bali.apply(batch, 1)
    assert caught.value.code == "connection"
    end = time.monotonic() + LIMIT_SECONDS
    while True:  # what the pool still has of the old server fails once more
        try:
            outcome = bali.apply(batch, 1)
            break
        except TransientError:
            assert time.monotonic() < end
    assert outcome.changes == 1
    bali.application.dispose()
    assert bali.read(ROWS) == [("a", 7), ("b", 10)]
    assert bali.applier.position()[0] == 1


@SERVERS
def test_commit_fails_and_nothing_is_left_of_the_batch(outlet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    batch = _batch(amed, "UPDATE stock SET on_hand = on_hand - 3 WHERE sku = 'a'")
    commits = Commits(bali, monkeypatch)

    def fail(_: Any) -> None:
        raise DISK_FULL[bali.dialect.name]

    commits.before = fail
    with pytest.raises(TransientError, match="disk_full"):
        bali.apply(batch, 1)
    assert bali.read(ROWS) == [("a", 10), ("b", 10)]
    assert bali.apply(batch, 1).changes == 1
