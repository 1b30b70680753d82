"""Outlets of different engines in one network, all writing at once, end up with the same rows."""

from __future__ import annotations

import os
import time

import pytest

from tests.conftest import MakeNetwork
from tests.stack.audit import audit, quarantined
from tests.stack.network import Network, wait_for
from tests.stack.schemas import NOTES, SHOP, shop_rows
from tests.stack.servers import MysqlServer, Servers
from tests.stack.sql_server import SqlServer
from tests.stack.tills import Tills

SEED = int(os.environ.get("SUBAK_TEST_SEED", "20240229"))
WRITING_SECONDS = 6.0

MIXES = {
    "sqlite": {"ubud": "sqlite", "kuta": "sqlite", "lovina": "sqlite"},
    "mariadb": {"ubud": "mariadb", "kuta": "mariadb", "lovina": "mariadb"},
    "mysql": {"ubud": "mysql", "kuta": "mysql", "lovina": "mysql"},
    "sqlite-mariadb": {"ubud": "sqlite", "kuta": "mariadb", "lovina": "mariadb"},
    "all": {"ubud": "sqlite", "kuta": "mariadb", "lovina": "mysql"},
    "mssql": {"ubud": "mssql", "kuta": "mssql", "lovina": "mssql"},
    "mssql-others": {"ubud": "sqlite", "kuta": "mssql", "amed": "mariadb", "lovina": "mysql"},
}


def _converged(network: Network) -> None:
    network.settle()
    found = audit(network.urls, except_quarantined=True)
    assert found.identical, str(found)


@pytest.mark.parametrize("mix", MIXES)
def test_one_change_of_each_kind_reaches_every_outlet(make_network: MakeNetwork, mix: str) -> None:
    network = make_network(MIXES[mix], NOTES)
    here, there = network.outlets["ubud"], network.outlets["lovina"]
    here.execute("INSERT INTO note (id, author, body) VALUES (1, 'Made', 'the first 🌾')")
    wait_for("the insert", lambda: there.count("SELECT COUNT(*) FROM note WHERE body = 'the first 🌾'") == 1, 20)
    there.execute("UPDATE note SET body = 'changed' WHERE id = 1")
    wait_for("the update", lambda: here.count("SELECT COUNT(*) FROM note WHERE body = 'changed'") == 1, 20)
    if here.engine_name != "mssql":  # which does not let an IDENTITY be changed
        here.execute("UPDATE note SET id = 77 WHERE id = 1")
        wait_for("the key change", lambda: there.count("SELECT COUNT(*) FROM note WHERE id = 77") == 1, 20)
    assert there.count("SELECT COUNT(*) FROM note") == 1
    there.execute("DELETE FROM note")
    wait_for("the delete", lambda: here.count("SELECT COUNT(*) FROM note") == 0, 20)
    _converged(network)


def _deadlock(servers: Servers, network: Network, tills: Tills) -> str:
    server = servers.server(network.outlets[next(iter(tills.deadlocks))].engine_name)
    return f"{tills.deadlocks}\n{server.latest_deadlock()}" if isinstance(server, MysqlServer) else str(tills.deadlocks)


def _is_spared(servers: Servers, engine_name: str) -> bool:
    """MySQL cannot be told not to wait for the lock of a row to be inserted (README, "Where your application may notice it")."""
    server = servers.server(engine_name)
    return server.spares_the_application() if isinstance(server, SqlServer) else engine_name != "mysql"


@pytest.mark.parametrize("mix", MIXES)
def test_all_outlets_write_at_once_and_converge(make_network: MakeNetwork, servers: Servers, mix: str) -> None:
    network = make_network(MIXES[mix], SHOP, shop_rows(), hub="mariadb" if "mariadb" in mix else "sqlite")
    with Tills(network.urls, SEED, pause=0.02) as tills:
        time.sleep(WRITING_SECONDS)
        counts = tills.stop()
    assert counts["transactions"] > 50, counts
    _converged(network)
    victims = {name for name in tills.deadlocks if _is_spared(servers, network.outlets[name].engine_name)}
    assert victims == set(), f"the application was made a deadlock victim: {_deadlock(servers, network, tills)}"
    assert network.dead() == []


def test_conflicts_are_decided_alike_and_recorded(make_network: MakeNetwork) -> None:
    """Both outlets change one row while apart: the greater stamp wins at both, and at least one outlet says so."""
    network = make_network(MIXES["sqlite-mariadb"], NOTES, ["INSERT INTO note (id, author, body) VALUES (1, 'a', 'b')"])
    for name in network.outlet_processes:
        network.stop(name)
    network.outlets["ubud"].execute("UPDATE note SET body = 'first' WHERE id = 1")
    time.sleep(0.01)
    network.outlets["kuta"].execute("UPDATE note SET body = 'second' WHERE id = 1")
    network.start()
    _converged(network)
    for outlet in network.outlets.values():
        assert outlet.count("SELECT COUNT(*) FROM note WHERE body = 'second'") == 1
    assert sum(outlet.count("SELECT COUNT(*) FROM subak_conflict") for outlet in network.outlets.values()) >= 1


def test_unique_values_taken_at_two_outlets_are_kept_and_shown(make_network: MakeNetwork) -> None:
    """Random collisions of unique values: what differs in the end is what the outlets list as quarantined, no more."""
    network = make_network(MIXES["sqlite-mariadb"], SHOP, shop_rows())
    with Tills(network.urls, SEED + 1, pause=0.02, collide=0.5, tables={"product", "category"}) as tills:
        time.sleep(WRITING_SECONDS)
        tills.stop()
    _converged(network)
    assert any(quarantined(url) for url in network.urls.values()), "no collision happened: the test says nothing"


def test_an_outlet_cut_off_catches_up(make_network: MakeNetwork) -> None:
    network = make_network(MIXES["sqlite-mariadb"], SHOP, shop_rows())
    with Tills(network.urls, SEED + 2, pause=0.02) as tills:
        time.sleep(1)
        network.stop("capture.lovina")
        network.stop("applier.lovina")
        time.sleep(3)
        network.start("capture.lovina", "applier.lovina")
        time.sleep(1)
        tills.stop()
    _converged(network)


def test_every_service_ends_with_exit_code_0_on_sigterm_while_changes_flow(make_network: MakeNetwork) -> None:
    network = make_network(MIXES["sqlite-mariadb"], SHOP, shop_rows())
    with Tills(network.urls, SEED + 3, pause=0.01) as tills:
        time.sleep(2)
        codes = {name: network.stop(name) for name in network.processes}
        tills.stop()
    assert codes == dict.fromkeys(network.processes, 0)
    network.start()
    _converged(network)
