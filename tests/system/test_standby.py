"""Two captures and two appliers of one outlet: one of each serves, the other stands by and takes over."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.conftest import MakeNetwork
from tests.stack.network import Network, Process, wait_for
from tests.stack.schemas import SHOP, shop_rows

TAKE_OVER_SECONDS = 20.0
"""On a machine that is busy with other tests; by itself it takes two or three."""

ROLES = ("capture", "applier")


def told(process: Process) -> str:
    """What /readyz says while the process is not ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{process.metrics_port}/readyz", timeout=2):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except (OSError, http.client.HTTPException):
        return ""


def start_seconds(network: Network) -> dict[str, Process]:
    """A second process for each of ubud's roles; waits until both stand by."""
    found = {}
    for role in ROLES:
        first = network.processes[f"{role}.ubud"]
        network._add(f"{role}.ubud.second", first.module, first.environment)
        second = found[role] = network.processes[f"{role}.ubud.second"]
        second.start({})
        wait_for(f"the second {role} stands by", lambda second=second: told(second).startswith("standby"), 30.0)
    return found


def shown(process: Process) -> set[str]:
    """The names of the figures that it serves."""
    with urllib.request.urlopen(f"http://127.0.0.1:{process.metrics_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


STATE = {"capture": "subak_capture_waiting_batches", "applier": "subak_applier_quarantined_transactions"}
"""A figure of each that tells how things are, which only the one that serves knows."""


@pytest.fixture
def network(make_network: MakeNetwork, engine_name: str) -> Network:
    return make_network({"ubud": engine_name, "kuta": "sqlite"}, SHOP, shop_rows())


def prices(network: Network, outlet: str) -> int:
    return network.outlets[outlet].count("SELECT COUNT(*) FROM product WHERE price = 99")


def change_both(network: Network, product: int) -> None:
    for shift, outlet in enumerate(("ubud", "kuta")):
        network.outlets[outlet].execute(f"UPDATE product SET price = 99 WHERE id = {product + shift}")


@pytest.mark.parametrize("engine_name", ["sqlite", "mariadb", "mysql", "mssql"])
def test_the_second_takes_over_when_the_first_is_killed(network: Network) -> None:
    seconds = start_seconds(network)
    change_both(network, 1)
    network.settle()
    assert all(network.processes[f"{role}.ubud"].ready() and not second.ready() for role, second in seconds.items())
    for role in ROLES:
        network.kill(f"{role}.ubud")
    change_both(network, 3)
    for role in ROLES:
        network.wait_ready(f"{role}.ubud.second", TAKE_OVER_SECONDS)
    network.settle()
    assert prices(network, "ubud") == prices(network, "kuta") == 4
    for role in ROLES:  # the first comes back, and is now the one that waits
        first = network.processes[f"{role}.ubud"]
        first.start({})
        wait_for(f"the first {role} stands by", lambda first=first: told(first).startswith("standby"), 30.0)
        assert STATE[role] in shown(network.processes[f"{role}.ubud.second"]) - shown(first)
        network.stop(f"{role}.ubud.second")
        network.wait_ready(f"{role}.ubud", TAKE_OVER_SECONDS)
    change_both(network, 5)
    network.settle()
    assert prices(network, "ubud") == prices(network, "kuta") == 6


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_whoever_serves_after_all_connections_to_the_database_were_cut_one_does(network: Network) -> None:
    start_seconds(network)
    for attempt in range(3):
        with network.outlets["ubud"].application.connect() as connection:
            mine = connection.scalar(text("SELECT CONNECTION_ID()"))
            for (other,) in connection.execute(text("SELECT ID FROM information_schema.PROCESSLIST")).all():
                if other != mine:
                    with suppress(DBAPIError):  # one that has just ended by itself
                        connection.exec_driver_sql(f"KILL {int(other)}")
        change_both(network, 2 * attempt + 1)
        network.settle()
    assert prices(network, "ubud") == prices(network, "kuta") == 6
    assert network.dead() == []
    for role in ROLES:
        pair = [network.processes[name] for name in (f"{role}.ubud", f"{role}.ubud.second")]
        wait_for(
            f"one {role} serves and the other stands by",
            lambda pair=pair: (
                sorted(one.ready() for one in pair) == [False, True]
                and any(told(one).startswith("standby") for one in pair)
            ),
            30.0,
        )
