"""A row that gets its number early and is visible late is not passed over; interleaved transactions lose nothing."""

from __future__ import annotations

import random
import threading
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.conftest import MakeNetwork
from tests.stack.application import application_engine, takes
from tests.stack.audit import audit
from tests.stack.network import Outlet, wait_for
from tests.stack.schemas import NOTES

OPEN_SECONDS = 3.0
INSERT = text("INSERT INTO note (id, author, body) VALUES (:id, 'a', :body)")
ENGINES = ["mariadb", "mysql", "mssql"]
"""SQLite has one writer at a time: there is no late commit there."""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_a_transaction_that_commits_seconds_after_later_ones_arrives(
    make_network: MakeNetwork, engine: str, isolation: str
) -> None:
    network = make_network({"ubud": engine, "kuta": "sqlite"}, NOTES)
    here, there = network.outlets["ubud"], network.outlets["kuta"]
    if not _has(here, isolation):
        pytest.skip(f"{engine} here has no {isolation}")
    slow = application_engine(here.url, isolation=isolation)
    with slow.connect() as connection, connection.begin():
        connection.execute(INSERT, {"id": 1, "body": "early"})
        end = time.monotonic() + OPEN_SECONDS
        number = 1
        while time.monotonic() < end:
            number += 1
            here.execute(f"INSERT INTO note (id, author, body) VALUES ({number}, 'a', 'overtaking')")
            if number % 10 == 0:
                wait_for("the later ones", lambda: there.count("SELECT COUNT(*) FROM note") == number - 1, 20)  # noqa: B023
            connection.execute(INSERT, {"id": 100_000 + number, "body": "early too"})
        assert there.count("SELECT COUNT(*) FROM note WHERE body LIKE 'early%'") == 0
    slow.dispose()
    network.settle()
    assert there.count("SELECT COUNT(*) FROM note WHERE body LIKE 'early%'") == number
    found = audit(network.urls)
    assert found.identical, str(found)


def _has(outlet: Outlet, isolation: str) -> bool:
    engine = application_engine(outlet.url)
    there = takes(engine, f"SET TRANSACTION ISOLATION LEVEL {isolation}")
    engine.dispose()
    return there


@pytest.mark.parametrize("engine", ENGINES)
def test_many_sessions_interleave_on_the_same_rows(make_network: MakeNetwork, engine: str) -> None:
    rows = [f"INSERT INTO note (id, author, body) VALUES ({n}, 'a', 'start')" for n in range(1, 9)]
    network = make_network({"ubud": engine, "kuta": "sqlite", "lovina": engine}, NOTES, rows)
    counted = _interleave(network.outlets["ubud"], sessions=6, transactions=40)
    network.settle()
    found = audit(network.urls)
    assert found.identical, str(found)
    assert counted > 0
    # One outlet wrote; whatever its sessions did to each other, nobody else can have contradicted it.
    for outlet in network.outlets.values():
        assert outlet.count("SELECT COUNT(*) FROM subak_conflict") == 0
        assert outlet.count("SELECT COUNT(*) FROM subak_quarantine") == 0


def _interleave(outlet: Outlet, sessions: int, transactions: int) -> int:
    """Sessions of mixed isolation write the same eight rows, holding their locks a while; returns how many commits."""
    committed = []
    levels = [level for level in ("READ COMMITTED", "REPEATABLE READ") if _has(outlet, level)]

    def work(number: int) -> None:
        draw = random.Random(number)
        engine = application_engine(outlet.url, isolation=draw.choice(levels))
        for count in range(transactions):
            try:
                with engine.begin() as connection:
                    for _ in range(draw.randint(1, 3)):
                        row = draw.randint(1, 8)
                        body = f"{number}-{count}-{draw.random()}"
                        if draw.random() < 0.8:
                            connection.execute(
                                text("UPDATE note SET body = :body WHERE id = :id"), {"id": row, "body": body}
                            )
                        else:
                            connection.execute(text("DELETE FROM note WHERE id = :id"), {"id": row})
                            connection.execute(INSERT, {"id": row, "body": body})
                        time.sleep(draw.uniform(0, 0.01))
                committed.append(number)
            except DBAPIError:
                pass  # the application's own sessions may well deadlock with each other
        engine.dispose()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(committed)
