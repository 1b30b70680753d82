"""A clash of two rows is ended for three outlets by one command at one of them, with everything running."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from tests.conftest import MakeNetwork
from tests.stack.audit import audit
from tests.stack.command import at
from tests.stack.network import Network, wait_for

SCHEMA = """\
CREATE TABLE member (id INT NOT NULL PRIMARY KEY, email VARCHAR(60) NULL UNIQUE, name VARCHAR(60) NOT NULL);
CREATE TABLE ticket (id {generated}, body VARCHAR(60) NOT NULL);
CREATE TABLE remark (
    id INT NOT NULL PRIMARY KEY,
    ticket_id INT NOT NULL,
    FOREIGN KEY (ticket_id) REFERENCES ticket (id)
);
"""
MIX = {"ubud": "sqlite", "kuta": "mariadb", "lovina": "mysql"}
MIXES = pytest.mark.parametrize("third", ["mysql", "mssql"])
"""The engine of the outlet that ends the clash of the two others."""


def _waiting(network: Network) -> dict[str, list[int]]:
    """The Ids of what waits in quarantine, by outlet; only where something does."""
    found = {}
    for name, outlet in network.outlets.items():
        with outlet.reader.begin() as connection:
            query = "SELECT Id FROM subak_quarantine WHERE State = 'waiting' ORDER BY Id"
            found[name] = [int(number) for number in connection.scalars(text(query))]
    return {name: ids for name, ids in found.items() if ids}


def _ended(network: Network) -> None:
    network.settle()
    wait_for("nothing in quarantine anywhere", lambda: _waiting(network) == {}, 60)
    network.settle()
    found = audit(network.urls)
    assert found.identical, str(found)


def _column(network: Network, sql: str) -> set[object]:
    with network.outlets["kuta"].reader.begin() as connection:
        return set(connection.scalars(text(sql)))


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        (("--set", "email=other@x.id"), {"same@x.id", "other@x.id"}),
        (("--keep", "local"), {"same@x.id"}),
        (("--keep", "incoming"), {"same@x.id"}),
    ],
)
@MIXES
def test_one_unique_value_for_two_rows(
    make_network: MakeNetwork, choice: tuple[str, ...], left: set[object], third: str
) -> None:
    network = make_network(MIX | {"lovina": third}, SCHEMA)
    with network.apart():
        for number, outlet in ((1, "ubud"), (2, "kuta")):
            network.outlets[outlet].execute(
                f"INSERT INTO member (id, email, name) VALUES ({number}, 'same@x.id', '{outlet}')"
            )
    network.settle()
    waiting = _waiting(network)
    assert set(waiting) == set(MIX)
    (number,) = map(str, waiting["lovina"])
    shown = at(network, "lovina", "quarantine", "show", number)
    assert "ubud" in shown and "kuta" in shown and "same@x.id" in shown, shown
    at(network, "lovina", "quarantine", "resolve", number, *choice)
    _ended(network)
    assert _column(network, "SELECT email FROM member") == left


@MIXES
def test_one_generated_key_for_two_rows(make_network: MakeNetwork, third: str) -> None:
    network = make_network(MIX | {"lovina": third}, SCHEMA)
    with network.apart():
        network.outlets["ubud"].execute("INSERT INTO ticket (body) VALUES ('of ubud')")
        network.outlets["kuta"].execute(
            "INSERT INTO ticket (body) VALUES ('of kuta')", "INSERT INTO remark (id, ticket_id) VALUES (1, 1)"
        )
    network.settle()
    waiting = _waiting(network)
    assert set(waiting) == set(MIX)
    (number,) = map(str, waiting["lovina"])
    at(network, "lovina", "quarantine", "resolve", number, "--keep", "local", code=2)  # says what to say instead
    at(network, "lovina", "quarantine", "resolve", number, "--new-key", "1000")
    _ended(network)
    assert _column(network, "SELECT body FROM ticket") == {"of ubud", "of kuta"}
    (moved,) = _column(network, "SELECT body FROM ticket WHERE id = 1000")
    (remarked,) = _column(network, "SELECT t.body FROM ticket AS t JOIN remark AS r ON r.ticket_id = t.id")
    assert remarked == "of kuta" and moved in ("of ubud", "of kuta")


def test_what_is_discarded_is_shown_until_it_is_written_again(make_network: MakeNetwork) -> None:
    network = make_network({"ubud": "sqlite", "kuta": "sqlite"}, SCHEMA)
    with network.apart():
        for number, outlet in ((1, "ubud"), (2, "kuta")):
            network.outlets[outlet].execute(
                f"INSERT INTO member (id, email, name) VALUES ({number}, 'same@x.id', '{outlet}')"
            )
    network.settle()
    (number,) = map(str, _waiting(network)["kuta"])
    at(network, "kuta", "quarantine", "discard", number)
    assert json.loads(at(network, "kuta", "status", "--json"))["different"] == 1
    (entry,) = json.loads(at(network, "kuta", "quarantine", "list", "--all", "--json"))
    assert entry["different"] == ["member 1"]
    network.outlets["ubud"].execute("UPDATE member SET email = 'other@x.id' WHERE id = 1")
    _ended(network)
    assert json.loads(at(network, "kuta", "status", "--json"))["different"] == 0
