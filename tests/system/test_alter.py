"""A table is altered while the application writes to it and the services run: no write fails, nothing is lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from tests.conftest import MakeNetwork
from tests.stack.network import Network, Outlet, wait_for

RENEWAL_SECONDS = 60.0
"""It takes some; a busy machine may take longer, and how long it takes decides no test."""

THING = "CREATE TABLE thing (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL, name VARCHAR(40));\n"
COLOUR = "UPDATE thing SET colour = 'red' WHERE id = 1"
TITLE = "UPDATE thing SET title = 'new' WHERE id = 1"

ALTERED = {
    "added-sqlite": ("sqlite", "ALTER TABLE thing ADD COLUMN colour VARCHAR(9)", COLOUR),
    "added-mariadb": ("mariadb", "ALTER TABLE thing ADD COLUMN colour VARCHAR(9)", COLOUR),
    "added-mysql": ("mysql", "ALTER TABLE thing ADD COLUMN colour VARCHAR(9)", COLOUR),
    "added-mssql": ("mssql", "ALTER TABLE thing ADD colour VARCHAR(9)", COLOUR),
    "renamed-mssql": ("mssql", "EXEC sp_rename 'thing.name', 'title', 'COLUMN'", TITLE),
    "dropped-mssql": ("mssql", "ALTER TABLE thing DROP COLUMN name", "UPDATE thing SET n = 5 WHERE id = 1"),
}


class Application(threading.Thread):
    """Writes a new row and changes the one before it, in one transaction, until stopped."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__(daemon=True)
        self.written = 1
        self.errors: list[str] = []
        self.stopping = threading.Event()
        self._outlet = outlet

    def run(self) -> None:
        while not self.stopping.wait(0.01):
            try:
                with self._outlet.application.begin() as connection:
                    connection.exec_driver_sql(f"INSERT INTO thing (id, n) VALUES ({self.written + 1}, 0)")
                    connection.exec_driver_sql(f"UPDATE thing SET n = n + 1 WHERE id = {self.written}")
                self.written += 1
            except DBAPIError as error:
                self.errors.append(str(error))


@pytest.mark.parametrize("how", list(ALTERED))
def test_a_table_altered_under_load(make_network: MakeNetwork, how: str) -> None:
    """The other outlet's table has every column from the beginning, so that all that is captured can be seen there."""
    engine, alter, update = ALTERED[how]
    network = make_network({"ubud": engine, "kuta": "sqlite"}, THING)
    here, there = network.outlets["ubud"], network.outlets["kuta"]
    there.execute("ALTER TABLE thing ADD COLUMN colour VARCHAR(9)", "ALTER TABLE thing ADD COLUMN title VARCHAR(40)")
    for process in ("capture.kuta", "applier.kuta"):
        network.restart(process)
    unseen = "DROP" in alter and not _keeps_triggers(
        here
    )  # a server may drop a table's triggers with any of its columns
    here.execute("INSERT INTO thing (id, n, name) VALUES (1, 0, 'first')")
    application = Application(here)
    application.start()
    wait_for("some rows", lambda: application.written > 20 or application.errors, RENEWAL_SECONDS)
    before = _renewals(network)
    here.execute(alter)
    here.execute(update)
    wait_for("the triggers to be renewed", lambda: _renewals(network) > before, RENEWAL_SECONDS)
    wanted = application.written + 20
    wait_for("more rows", lambda: application.written > wanted or application.errors, RENEWAL_SECONDS)
    application.stopping.set()
    application.join()
    here.execute(update.replace("'red'", "'blue'").replace("'new'", "'newer'").replace("5", "6"))
    if unseen:
        here.execute("UPDATE thing SET n = n + 1")
    network.settle()
    assert application.errors == []
    columns = {"added": "n, name, colour", "renamed": "n, title", "dropped": "n"}[how.partition("-")[0]]
    query = f"SELECT id, {columns} FROM thing ORDER BY id"
    assert _rows(here, query) == _rows(there, query)
    assert there.count("SELECT COUNT(*) FROM subak_quarantine") == 0


def _renewals(network: Network) -> int:
    log = network.processes["capture.ubud"].tail()
    return log.count('"rebuilt": ["') + log.count('"installed": ["')


def _keeps_triggers(outlet: Outlet) -> bool:
    """Whether a trigger outlives a column of its table."""
    outlet.execute("CREATE TABLE trial (a INT, b INT)", "CREATE TRIGGER trial_change ON trial AFTER UPDATE AS RETURN")
    outlet.execute("ALTER TABLE trial DROP COLUMN b")
    kept = outlet.count("SELECT COUNT(*) FROM sys.triggers WHERE name = 'trial_change'") == 1
    outlet.execute("DROP TABLE trial")
    return kept


def _rows(outlet: Outlet, query: str) -> list[tuple[Any, ...]]:
    with outlet.application.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]
