"""Outlets whose tables differ for a while: what does not fit is held, all else flows, and what was held follows within seconds of the ALTER."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import text

from tests.conftest import MakeNetwork
from tests.stack.network import Network, wait_for

THING = (
    "CREATE TABLE thing (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40));\n"
    "CREATE TABLE other (id INTEGER NOT NULL PRIMARY KEY, n INTEGER);\n"
)
ADD = "ALTER TABLE thing ADD COLUMN colour VARCHAR(9)"
SOON_SECONDS = 15.0
"""The schema is read again every 3 s while something waits for that; every 30 s otherwise. A busy machine is given some more."""


def _held(network: Network, outlet: str) -> list[str]:
    with network.outlets[outlet].reader.begin() as connection:
        query = "SELECT Code FROM subak_quarantine WHERE State = 'waiting' ORDER BY Id"
        return [str(code) for code in connection.scalars(text(query))]


def _captures(network: Network, column: str) -> bool:
    """Whether the triggers at ubud know the column."""
    network.outlets["ubud"].execute(
        "UPDATE thing SET colour = NULL WHERE id = 1", "UPDATE thing SET colour = 'red' WHERE id = 1"
    )
    query = "SELECT COUNT(*) FROM CloudQuery WHERE AfterImage LIKE :column"
    return network.outlets["ubud"].count(query, column=f'%"{column}"%') > 0


@pytest.mark.parametrize("engine", ["sqlite", "mariadb", "mssql"])
def test_a_column_that_comes_later_here(make_network: MakeNetwork, engine: str) -> None:
    network = make_network({"ubud": "sqlite", "kuta": engine}, THING)
    source, target = network.outlets["ubud"], network.outlets["kuta"]
    source.execute("INSERT INTO thing (id, name) VALUES (1, 'one')")
    network.settle()
    source.execute(ADD)
    wait_for("the column to be captured", lambda: _captures(network, "colour"), 60)
    network.settle()  # what SQLite commits between two looks of its capture travels, and is held, as one
    source.execute("INSERT INTO other (id, n) VALUES (1, 5)")
    network.settle()
    assert set(_held(network, "kuta")) == {"missing_column"}
    assert target.count("SELECT COUNT(*) FROM other") == 1  # another table flows
    target.execute(ADD.replace("ADD COLUMN", "ADD") if engine == "mssql" else ADD)
    begun = time.monotonic()
    wait_for("what was held", lambda: _held(network, "kuta") == [], 60)
    assert time.monotonic() - begun < SOON_SECONDS
    assert target.count("SELECT COUNT(*) FROM thing WHERE colour = 'red'") == 1


def test_a_table_that_comes_later_here(make_network: MakeNetwork) -> None:
    network = make_network({"ubud": "sqlite", "kuta": "mariadb"}, THING, start=False)
    network.outlets["ubud"].execute("CREATE TABLE late (id INTEGER NOT NULL PRIMARY KEY, n INTEGER)")
    network.start()
    network.outlets["ubud"].execute("INSERT INTO late (id, n) VALUES (1, 1)")
    network.settle()
    assert _held(network, "kuta") == ["missing_table"]
    network.outlets["kuta"].execute("CREATE TABLE late (id INTEGER NOT NULL PRIMARY KEY, n INTEGER)")
    begun = time.monotonic()
    wait_for("what was held", lambda: _held(network, "kuta") == [], 60)
    assert time.monotonic() - begun < SOON_SECONDS
    assert network.outlets["kuta"].count("SELECT COUNT(*) FROM late") == 1
