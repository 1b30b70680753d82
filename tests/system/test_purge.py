"""What everybody has executed is forgotten in the end, at the hub and at the outlets, and nothing that anybody may still need."""

from __future__ import annotations

import pytest

from tests.conftest import MakeNetwork
from tests.stack.audit import audit
from tests.stack.command import at_hub, parsed
from tests.stack.network import Network, wait_for
from tests.stack.schemas import NOTES

MIX = {"ubud": "mariadb", "kuta": "mysql", "lovina": "sqlite"}
AT_ONCE = {"SUBAK_KEEP_DAYS": "0"}
LIMIT = 90.0
TOMBSTONES = "subak_version WHERE Deleted = 1"
LEFT = len(MIX)
"""Those of the last batch of each outlet, which says up to which number everything came, go with its next one."""

OWN = 2
"""Of the hub's own batches: the last, and the one before, which no further purge is told for."""


def _count(network: Network, outlet: str, what: str) -> int:
    return network.outlets[outlet].count(f"SELECT COUNT(*) FROM {what}")


def _write(network: Network, start: int, rows: int = 5) -> None:
    for place, outlet in enumerate(network.outlets.values()):
        for key in range(start + place * rows, start + (place + 1) * rows):
            outlet.execute(f"INSERT INTO note (id, author, body) VALUES ({key}, 'a', '{outlet.name}')")
        outlet.execute(f"DELETE FROM note WHERE id = {start + place * rows}")


def _at_the_hub(network: Network, what: str) -> int:
    with network.hub_reader.begin() as connection:
        return int(connection.exec_driver_sql(f"SELECT COUNT(*) FROM {what}").scalar() or 0)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("hub", ["sqlite", "mysql"])
def test_what_is_executed_everywhere_is_forgotten_everywhere(make_network: MakeNetwork, hub: str) -> None:
    network = make_network(MIX, NOTES, hub=hub, environment=AT_ONCE)
    _write(network, 1000)
    network.settle()
    for name in network.outlets:
        wait_for(
            f"{name}'s tombstones to go",
            lambda name=name: _count(network, name, TOMBSTONES) <= LEFT,
            LIMIT,
        )  # type: ignore[misc]
        wait_for(f"{name}'s CloudQuery to shrink", lambda name=name: _count(network, name, "CloudQuery") <= 1, LIMIT)  # type: ignore[misc]
        wait_for(
            f"{name}'s ledger to shrink",
            lambda name=name: _count(network, name, "subak_ledger") <= OWN + LEFT - 1,
            LIMIT,
        )  # type: ignore[misc]
    wait_for("the hub's queue to shrink", lambda: _at_the_hub(network, "subak_batch") <= 5, LIMIT)
    _write(network, 2000)  # and all goes on
    network.settle()
    found = audit(network.urls)
    assert found.identical, str(found)
    # Over a restart of everything, too: positions and epochs were not forgotten.
    for name in list(network.processes):
        network.stop(name)
    network.start()
    _write(network, 3000)
    network.settle()
    found = audit(network.urls)
    assert found.identical, str(found)


@pytest.mark.timeout(240)
def test_nothing_is_forgotten_that_one_outlet_has_not_executed(make_network: MakeNetwork) -> None:
    network = make_network(MIX, NOTES, environment=AT_ONCE)
    network.stop("applier.lovina")
    _write(network, 1000)
    wait_for("the others to be at rest", lambda: list(network.waiting()) == ["deliveries to lovina"], LIMIT)
    _write(network, 2000)
    owed = network.waiting
    wait_for("the others to be at rest", lambda: list(owed()) == ["deliveries to lovina"], LIMIT)
    first = _at_the_hub(network, "subak_delivery WHERE Outlet = 'lovina' AND ExportFlag = 0")
    tombstones = _count(network, "ubud", TOMBSTONES)
    network.restart("hub")  # a round of forgetting at least
    network.nudge()
    network.wait_ready("applier.ubud")
    assert _at_the_hub(network, "subak_delivery WHERE Outlet = 'lovina' AND ExportFlag = 0") >= first
    assert _count(network, "ubud", TOMBSTONES) == tombstones > 0
    network.start("applier.lovina")
    network.settle(LIMIT)
    found = audit(network.urls)
    assert found.identical, str(found)


@pytest.mark.timeout(240)
def test_an_outlet_that_is_away_for_too_long_is_given_up_and_said_so(make_network: MakeNetwork) -> None:
    network = make_network(MIX, NOTES, environment={**AT_ONCE, "SUBAK_OFFLINE_BYTES": "3000"})
    network.stop("applier.lovina")
    _write(network, 1000, rows=20)
    wait_for("the hub to have it all", lambda: list(network.waiting()) == ["deliveries to lovina"], LIMIT)
    network.restart("hub")  # limits are looked at when it starts, and every minute
    network.nudge()

    def given_up() -> bool:
        outlets = {one["outlet"]: one for one in parsed(at_hub(network, "status", "--json"))["outlets"]}
        return bool(outlets["lovina"]["given_up"])

    wait_for("lovina to be given up", given_up, LIMIT, pause=0.5)
    assert "subak outlet adopt" in at_hub(network, "status")
    network.start("applier.lovina", wait=False)
    applier = network.processes["applier.lovina"]
    wait_for("the applier to say why it is refused", lambda: "resync" in applier.tail(), LIMIT)
    _write(network, 2000)  # the others go on, what they write is forgotten in time
    wait_for("the others' tombstones to go", lambda: _count(network, "ubud", TOMBSTONES) <= LEFT, LIMIT)
