"""A database that is put back to a backup while the services run on it, which learn of it by looking."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.conftest import MakeNetwork
from tests.stack.network import Outlet, wait_for
from tests.stack.schemas import SHOP, shop_rows


def copied(source: Path, target: Path) -> None:
    """The whole database, in one transaction, whoever else has the target open."""
    with closing(sqlite3.connect(source, timeout=30)) as here, closing(sqlite3.connect(target, timeout=30)) as there:
        here.backup(there)


def price(outlet: Outlet, product: int) -> int:
    return outlet.count("SELECT price FROM product WHERE id = :id", id=product)


def test_what_came_from_others_since_the_backup_comes_again_though_nobody_writes(
    make_network: MakeNetwork, scratch_path: Path
) -> None:
    network = make_network({"ubud": "sqlite", "kuta": "sqlite"}, SHOP, shop_rows())
    ubud, kuta = network.outlets["ubud"], network.outlets["kuta"]
    ubud.execute("UPDATE product SET price = 11 WHERE id = 1")
    network.settle()
    live, backup = Path(str(kuta.url.database)), scratch_path / "backup.db"
    copied(live, backup)
    ubud.execute("UPDATE product SET price = 12 WHERE id = 1")
    ubud.execute("UPDATE product SET price = 13 WHERE id = 2")
    network.settle()
    assert (price(kuta, 1), price(kuta, 2)) == (12, 13)
    copied(backup, live)
    wait_for("what came since the backup is there again", lambda: (price(kuta, 1), price(kuta, 2)) == (12, 13), 30.0)
    network.settle()
    assert network.dead() == []
