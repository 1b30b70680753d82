"""One change that a target must refuse is set aside with its reason; everything else flows; the operator decides."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.conftest import MakeNetwork
from tests.stack.application import application_engine
from tests.stack.audit import audit
from tests.stack.command import at
from tests.stack.network import Network, wait_for
from tests.stack.schemas import NOTES, load

POISON = {
    "check constraint": "INSERT INTO note (id, author, body) VALUES (1, 'nobody', 'refused')",
    "value too long": "INSERT INTO note (id, author, body) VALUES (1, 'a', '" + "x" * 150 + "')",
    "missing table": "INSERT INTO extra (id, word) VALUES (1, 'w')",
    "null not allowed": "INSERT INTO note (id, author, body) VALUES (1, NULL, 'b')",
}
SOURCE = NOTES.replace("author VARCHAR(40) NOT NULL", "author VARCHAR(40) NULL") + (
    "CREATE TABLE extra (id INT NOT NULL PRIMARY KEY, word VARCHAR(20));\n"
)
TARGET = (
    NOTES.replace("body VARCHAR(200)", "body VARCHAR(100)").rstrip().removesuffix(");")
    + ",\n    CONSTRAINT somebody CHECK (author <> 'nobody')\n);\n"
)
"""Stricter than the source in every way."""

CURE = (
    "ALTER TABLE note DROP CONSTRAINT somebody",
    "ALTER TABLE note MODIFY body VARCHAR(200) NOT NULL, MODIFY author VARCHAR(40) NULL",
    "CREATE TABLE extra (id INT NOT NULL PRIMARY KEY, word VARCHAR(20))",
)


def _network(make_network: MakeNetwork, engine: str) -> Network:
    network = make_network({"ubud": "sqlite", "kuta": engine, "lovina": "sqlite"}, "", start=False)
    for name, schema in (("ubud", SOURCE), ("lovina", SOURCE), ("kuta", TARGET)):
        load(network.urls[name], schema)
    network.start()
    return network


def _waiting(network: Network, outlet: str) -> list[tuple[int, str, str]]:
    with network.outlets[outlet].reader.begin() as connection:
        rows = connection.execute(
            text("SELECT Id, Code, Reason FROM subak_quarantine WHERE State = 'waiting' ORDER BY Id")
        ).all()
    return [(row[0], row[1], row[2]) for row in rows]


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_poison_is_quarantined_with_its_reason_while_the_rest_flows(
    make_network: MakeNetwork, engine: str, poison: str
) -> None:
    network = _network(make_network, engine)
    source, target = network.outlets["ubud"], network.outlets["kuta"]
    # At rest between them: what SQLite commits between two looks of its capture travels, and is refused, as one.
    source.execute("INSERT INTO note (id, author, body) VALUES (10, 'a', 'before')")
    network.settle()
    # Two rows in one transaction: the good one must not come without the bad one.
    source.execute(POISON[poison], "INSERT INTO note (id, author, body) VALUES (11, 'a', 'beside')")
    network.settle()
    source.execute("INSERT INTO note (id, author, body) VALUES (12, 'a', 'after')")
    network.settle()
    assert target.count("SELECT COUNT(*) FROM note WHERE id IN (10, 12)") == 2
    assert target.count("SELECT COUNT(*) FROM note WHERE id = 11") == 0, "half a transaction was applied"
    found = audit(network.urls, except_quarantined=True)
    assert found.identical, str(found)
    (quarantined,) = _waiting(network, "kuta")
    number, code, reason = quarantined
    assert code and reason
    assert _waiting(network, "lovina") == []
    listed = at(network, "kuta", "quarantine", "list")
    assert code in listed, listed

    with network.hub_reader.begin() as connection:
        reported = connection.execute(text("SELECT Outlet, Code FROM subak_quarantined")).all()
    assert [tuple(row) for row in reported] == [("kuta", code)]

    # Nothing changed yet: a retry fails again, and says so.
    at(network, "kuta", "quarantine", "retry", str(number), code=None)
    assert [(entry[0], entry[1]) for entry in _waiting(network, "kuta")] == [(number, code)]

    for statement in CURE:
        target.execute(statement)
    at(network, "kuta", "quarantine", "retry", str(number), code=None)
    wait_for("the retried transaction", lambda: _waiting(network, "kuta") == [], 30)
    network.settle()
    found = audit(network.urls)
    assert found.identical, str(found)


def test_a_discarded_transaction_is_gone_for_good_and_the_next_change_heals_the_row(make_network: MakeNetwork) -> None:
    network = _network(make_network, "mariadb")
    network.outlets["ubud"].execute(POISON["check constraint"])
    network.settle()
    ((number, _, _),) = _waiting(network, "kuta")
    at(network, "kuta", "quarantine", "discard", str(number))
    assert _waiting(network, "kuta") == []
    assert network.outlets["kuta"].count("SELECT COUNT(*) FROM note") == 0
    network.restart("applier.kuta")
    network.settle()
    assert _waiting(network, "kuta") == []
    assert network.outlets["kuta"].count("SELECT COUNT(*) FROM note") == 0


def test_a_newer_image_of_the_row_supersedes_what_is_quarantined(make_network: MakeNetwork) -> None:
    network = _network(make_network, "mariadb")
    network.outlets["ubud"].execute(POISON["check constraint"])
    network.settle()
    assert len(_waiting(network, "kuta")) == 1
    network.outlets["ubud"].execute("UPDATE note SET author = 'somebody' WHERE id = 1")
    network.settle()
    wait_for("the newer image", lambda: _waiting(network, "kuta") == [], 30)
    found = audit(network.urls, tables={"note"})
    assert found.identical, str(found)


def test_the_children_of_a_quarantined_parent_come_when_it_does(make_network: MakeNetwork) -> None:
    family = (
        "CREATE TABLE parent (id INT NOT NULL PRIMARY KEY, word VARCHAR(20) NOT NULL{check});\n"
        "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, parent_id INT NOT NULL,"
        " FOREIGN KEY (parent_id) REFERENCES parent (id));\n"
    )
    network = make_network({"ubud": "sqlite", "kuta": "mariadb"}, "", start=False)
    for name, check in (("ubud", ""), ("kuta", ", CONSTRAINT mild CHECK (word <> 'bad')")):
        engine = application_engine(network.urls[name])
        with engine.begin() as connection:
            for statement in family.replace("{check}", check).split(";\n"):
                if statement:
                    connection.exec_driver_sql(statement)
        engine.dispose()
    network.start()
    source, target = network.outlets["ubud"], network.outlets["kuta"]
    for statement in (
        "INSERT INTO parent (id, word) VALUES (1, 'bad')",
        "INSERT INTO child (id, parent_id) VALUES (1, 1)",
        "INSERT INTO parent (id, word) VALUES (2, 'good')",
        "INSERT INTO child (id, parent_id) VALUES (2, 2)",
    ):
        source.execute(statement)
        network.settle()
    assert target.count("SELECT COUNT(*) FROM child WHERE id = 2") == 1
    assert len(_waiting(network, "kuta")) == 2
    source.execute("UPDATE parent SET word = 'good' WHERE id = 1")
    network.settle()
    wait_for("the child", lambda: target.count("SELECT COUNT(*) FROM child WHERE id = 1") == 1, 30)
    assert _waiting(network, "kuta") == []
    found = audit(network.urls)
    assert found.identical, str(found)
