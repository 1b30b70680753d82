"""Short runs with fixed seeds; the long ones are `make chaos`. Between them the seeds here use each kind of database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import company
from tests.chaos.auditing import examine
from tests.chaos.journal import Journal, Operation
from tests.chaos.running import run
from tests.conftest import MakeNetwork
from tests.stack.servers import MissingEngineError, Servers

SECONDS = 15.0
PAIR = {"ubud": "sqlite", "kuta": "sqlite"}
TABLES = ",".join(company.SYNCHRONISED)


@pytest.fixture(scope="module")
def own_servers() -> Iterator[Servers]:
    """They are killed: nobody else's tests may be on them."""
    servers = Servers()
    yield servers
    servers.stop()


@pytest.mark.timeout(250)
@pytest.mark.parametrize(("seed", "engines"), [(1, ("sqlite", "mariadb")), (5, ("mariadb", "mysql"))])
def test_whatever_happens_everything_arrives_once(
    own_servers: Servers, scratch_path: Path, seed: int, engines: tuple[str, ...]
) -> None:
    try:
        for engine in engines:
            own_servers.server(engine)
    except MissingEngineError as error:
        pytest.skip(str(error))
    result = run(own_servers, scratch_path, seed, SECONDS, engines, print)
    assert result.faults.total() >= 5
    assert len(result.journal.committed) > 50
    assert result.looks > 0


def test_the_auditor_finds_what_is_wrong(make_network: MakeNetwork) -> None:
    """In a network that is well, until somebody puts each kind of damage into it by hand."""
    network = make_network(PAIR, company.SCHEMA, company.rows(list(PAIR)), tables=TABLES, start=False)
    for outlet in network.outlets.values():
        company.add_effects(outlet)
    network.start()
    ubud, kuta = network.outlets.values()
    ubud.execute(
        "INSERT INTO operation (id, outlet, row_count) VALUES ('ubud-1', 'ubud', 2)",
        "INSERT INTO operation_line (operation_id, n, body) VALUES ('ubud-1', 0, 'a')",
        "INSERT INTO operation_line (operation_id, n, body) VALUES ('ubud-1', 1, 'b')",
    )
    network.settle()
    one, lost = Operation("ubud-1", "ubud", 2, ()), Operation("ubud-2", "ubud", 0, ())
    assert examine(network, Journal(committed=[one])) == []
    assert examine(network, Journal(unknown=[one, lost])) == []
    assert "1 operations lost" in "\n".join(examine(network, Journal(committed=[one, lost])))
    assert "never committed, and here" in "\n".join(examine(network, Journal(undone=[one])))

    network.kill("applier.ubud")
    network.kill("capture.kuta")
    kuta.execute(
        "DELETE FROM operation_line WHERE n = 1",
        "INSERT INTO effect (kind, name, body) SELECT kind, name, body FROM effect WHERE body = 'a'",
        "INSERT INTO effect (kind, name, body) SELECT kind, name, body FROM effect WHERE body = 'a'",
        "UPDATE account SET balance = balance - 1 WHERE id = 1",
    )
    wrong = "\n".join(examine(network, Journal(committed=[one])))
    for sign in (
        "keys differ",
        "has 1 of 2 lines",
        "took effect more than once",
        "insertions of lines",
        "accounts of ubud have",
        "something waits",
    ):
        assert sign in wrong, wrong


def test_an_echo_is_found(make_network: MakeNetwork) -> None:
    network = make_network(PAIR, company.SCHEMA, company.rows(list(PAIR)), tables=TABLES)
    network.settle()
    stopping = threading.Event()

    def echo() -> None:
        while not stopping.wait(0.2):
            network.outlets["ubud"].execute("UPDATE hot SET body = body || '.' WHERE id = 1")

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        assert "an idle network carries rows" in "\n".join(examine(network, Journal()))
    finally:
        stopping.set()
        thread.join()
