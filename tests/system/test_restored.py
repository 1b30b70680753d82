"""A database put back to a backup, with services that know nothing of it: the hub's, an outlet's, a copy that becomes an outlet of its own.

Sums tell whether anything was lost or came twice: `on_hand` is a delta column, and what was committed where is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.conftest import FreshDatabase, MakeNetwork
from tests.stack import backups
from tests.stack.audit import audit
from tests.stack.command import subak
from tests.stack.network import Network, wait_for

SCHEMA = """\
CREATE TABLE stock (
    sku VARCHAR(20) NOT NULL PRIMARY KEY,
    on_hand INT NOT NULL,
    note VARCHAR(40)
);
CREATE TABLE receipt (
    id VARCHAR(40) NOT NULL PRIMARY KEY,
    sku VARCHAR(20) NOT NULL,
    FOREIGN KEY (sku) REFERENCES stock (sku)
);
"""
SKUS = ("arak", "brem", "tuak")
ROWS = [f"INSERT INTO stock VALUES ('{sku}', 100, NULL)" for sku in SKUS]
POLICY = '[tables.stock]\nrule = "column"\ndelta = ["on_hand"]\n'
MIXES = {
    "mixed": {"ubud": "mariadb", "kuta": "mysql", "lovina": "sqlite"},
    "mysql": {"ubud": "mysql", "kuta": "sqlite", "lovina": "mariadb"},
}
SETTLED = 90.0
FORGOTTEN = "SELECT MIN(Number) FROM subak_batch"
"""The oldest of its own batches that an outlet still has."""


@dataclass
class Company:
    """Writes at the outlets, and knows what must have come of it."""

    network: Network
    sums: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(SKUS, 100)))
    receipts: set[str] = field(default_factory=set)

    def sell(self, outlet: str, times: int, note: str | None = None) -> None:
        """Each sale is a transaction: the stock, and a receipt."""
        for _ in range(times):
            number = len(self.receipts)
            sku, receipt = SKUS[number % len(SKUS)], f"{outlet}-{number}"
            written = ", note = :note" if note else ""
            with self.network.outlets[outlet].application.begin() as connection:
                connection.execute(
                    text(f"UPDATE stock SET on_hand = on_hand - 1{written} WHERE sku = :sku"),
                    {"sku": sku} | ({"note": note} if note else {}),
                )
                connection.execute(text("INSERT INTO receipt VALUES (:id, :sku)"), {"id": receipt, "sku": sku})
            self.sums[sku] -= 1
            self.receipts.add(receipt)

    def forget(self, outlet: str, since: set[str]) -> None:
        """What was sold at that outlet and never left it is lost with its database."""
        for receipt in sorted(self.receipts - since):
            if receipt.startswith(outlet):
                self.receipts.discard(receipt)
                self.sums[SKUS[int(receipt.rpartition("-")[2]) % len(SKUS)]] += 1

    def check(self) -> None:
        self.network.nudge()
        self.network.settle(SETTLED)
        found = audit(self.network.urls)
        assert found.identical, str(found)
        for outlet in self.network.outlets.values():
            with outlet.reader.begin() as connection:
                stock = {row.sku: row.on_hand for row in connection.execute(text("SELECT sku, on_hand FROM stock"))}
                receipts = set(connection.execute(text("SELECT id FROM receipt")).scalars())
            assert receipts == self.receipts, outlet.name
            assert stock == dict(self.sums), outlet.name
            assert outlet.count("SELECT COUNT(*) FROM subak_quarantine WHERE State = 'waiting'") == 0


@pytest.fixture
def policy(scratch_path: Path) -> Path:
    path = scratch_path / "policy.toml"
    path.write_text(POLICY)
    return path


def _started(
    make_network: MakeNetwork, policy: Path, mix: str, hub: str = "sqlite", environment: Mapping[str, str] | None = None
) -> Company:
    given = {"SUBAK_POLICY_FILE": str(policy), **(environment or {})}
    network = make_network(MIXES[mix], SCHEMA, ROWS, hub=hub, environment=given)
    network.settle()  # what is written before an outlet has the conflict rules is not under them
    company = Company(network)
    for name in network.outlets:
        company.sell(name, 3)
    company.check()
    return company


def _services(network: Network, outlet: str) -> list[str]:
    return [name for name in network.outlet_processes if name.endswith(f".{outlet}")]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("hub", ["sqlite", "mariadb", "mysql"])
def test_a_hub_put_back_is_sent_again_what_it_no_longer_has(
    make_network: MakeNetwork, policy: Path, scratch_path: Path, hub: str
) -> None:
    company = _started(make_network, policy, "mixed", hub)
    network = company.network
    backup = backups.take(network.hub_url, scratch_path, "hub")
    network.stop("applier.lovina")
    for name in network.outlets:
        company.sell(name, 4, note=f"{name} after the backup")
    wait_for("what was sold to be at the hub", lambda: not any("CloudQuery" in it for it in network.waiting()), 30)
    network.kill("hub")
    company.sell("kuta", 2)
    network.hub_reader.dispose()
    backup.restore(network.hub_url)
    network.start("hub", "applier.lovina")
    company.sell("ubud", 2, note="with the hub of yesterday")
    company.check()


@pytest.mark.timeout(240)
def test_a_hub_put_back_to_before_what_was_forgotten_goes_on_from_there(
    make_network: MakeNetwork, policy: Path, scratch_path: Path
) -> None:
    """What everybody has executed and forgotten cannot be sent again, and need not be; and nobody executes twice what is."""
    company = _started(make_network, policy, "mixed", environment={"SUBAK_KEEP_DAYS": "0"})
    network = company.network
    backup = backups.take(network.hub_url, scratch_path, "hub")
    for _ in range(2):
        for name in network.outlets:
            company.sell(name, 3, note=f"{name} after the backup")
        company.check()
    for outlet in network.outlets.values():
        wait_for(f"{outlet.name} to forget", lambda outlet=outlet: outlet.count(FORGOTTEN) > 1, 60)  # type: ignore[misc]
    network.kill("hub")
    company.sell("kuta", 2)
    network.hub_reader.dispose()
    backup.restore(network.hub_url)
    network.start("hub")
    company.sell("ubud", 2, note="with the hub of yesterday")
    company.check()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mix", MIXES)
def test_an_outlet_put_back_gets_everything_again_its_own_changes_too(
    make_network: MakeNetwork, policy: Path, scratch_path: Path, mix: str
) -> None:
    company = _started(make_network, policy, mix)
    network = company.network
    ubud = network.outlets["ubud"]
    network.stop("capture.ubud")
    company.sell("ubud", 4)  # in the backup, and not sent yet: it is sent later, and then comes back
    backup = backups.take(ubud.url, scratch_path, "ubud")
    network.start("capture.ubud")
    for name in network.outlets:
        company.sell(name, 4, note=f"{name} today")
    company.check()
    _put_back(network, "ubud", backup)
    company.sell("kuta", 2)
    network.start(*_services(network, "ubud"), wait=False)
    company.check()
    company.sell("ubud", 2)
    company.check()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("cut", [False, True], ids=["waiting", "cut"])
def test_an_outlet_put_back_that_has_written_offline_since(
    make_network: MakeNetwork, policy: Path, scratch_path: Path, mix: str, cut: bool
) -> None:
    """`cut`: its capture has made batches of what was written since, under numbers that the hub knows for others."""
    company = _started(make_network, policy, mix)
    network = company.network
    ubud = network.outlets["ubud"]
    backup = backups.take(ubud.url, scratch_path, "ubud")
    for name in network.outlets:
        company.sell(name, 4, note=f"{name} today")
    company.check()
    before = set(company.receipts)
    network.stop("applier.ubud")
    network.stop("capture.ubud")
    company.sell("ubud", 2)  # never sent: lost with the database
    _put_back(network, "ubud", backup)
    company.forget("ubud", before)
    network.kill("hub")
    company.sell("ubud", 3, note="offline, since")
    if cut:
        network.start("capture.ubud", wait=False)
        waiting = "SELECT COUNT(*) FROM CloudQuery WHERE BatchNumber IS NULL AND ExportFlag = 0"
        wait_for("batches of it", lambda: ubud.count(waiting) == 0, 30)
        network.start("hub", "applier.ubud")
    else:
        network.start("hub", *_services(network, "ubud"), wait=False)
    company.check()
    company.sell("ubud", 2)
    company.check()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mix", MIXES)
def test_a_copy_becomes_an_outlet_while_everybody_writes(
    make_network: MakeNetwork, policy: Path, scratch_path: Path, fresh_database: FreshDatabase, mix: str
) -> None:
    company = _started(make_network, policy, mix)
    network = company.network
    ubud = network.outlets["ubud"]
    network.stop("capture.ubud")
    company.sell("ubud", 3)  # in the copy, and still to be sent by ubud itself
    company.sell("kuta", 3, note="before the copy")
    backup = backups.take(ubud.url, scratch_path, "ubud")
    network.start("capture.ubud")
    for name in network.outlets:
        company.sell(name, 3, note=f"{name} after the copy")
    url = fresh_database(MIXES[mix]["ubud"], "amed")
    backup.restore(url)
    subak({"SUBAK_DATABASE_URL": url.render_as_string(hide_password=False)}, "outlet", "adopt", "amed")
    network.enrol("amed", url)
    company.sell("lovina", 2)
    network.start(*_services(network, "amed"))
    company.sell("amed", 3, note="the new outlet")
    company.sell("ubud", 2)
    company.check()


def _put_back(network: Network, outlet: str, backup: backups.Backup) -> None:
    for name in _services(network, outlet):
        if network.processes[name].alive:
            network.kill(name)
    there = network.outlets[outlet]
    there.application.dispose()
    there.reader.dispose()
    backup.restore(there.url)
