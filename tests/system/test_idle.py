"""No echo: when nobody writes, no row moves."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import text

from tests.conftest import MakeNetwork
from tests.stack.network import Network
from tests.stack.schemas import SHOP, shop_rows
from tests.stack.tills import Tills

IDLE_SECONDS = 10.0


def _moved(network: Network) -> dict[str, int]:
    counts = {}
    for name, outlet in network.outlets.items():
        for table in ("CloudQuery", "subak_batch", "subak_ledger", "subak_conflict", "subak_quarantine"):
            counts[f"{table} at {name}"] = outlet.count(f"SELECT COUNT(*) FROM {table}")
    with network.hub_reader.begin() as connection:
        for table in ("subak_batch", "subak_delivery"):
            counts[f"{table} at the hub"] = int(connection.scalar(text(f"SELECT COUNT(*) FROM {table}")) or 0)
    return counts


@pytest.mark.parametrize("last", ["mysql", "mssql"])
def test_an_idle_network_carries_no_rows(make_network: MakeNetwork, last: str) -> None:
    network = make_network({"ubud": "sqlite", "kuta": "mariadb", "lovina": last}, SHOP, shop_rows())
    with Tills(network.urls, 5, pause=0.02) as tills:
        time.sleep(2)
        tills.stop()
    network.settle()
    before = _moved(network)
    time.sleep(IDLE_SECONDS)
    assert _moved(network) == before
    assert network.dead() == []
