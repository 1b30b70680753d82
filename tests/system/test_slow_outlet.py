"""An outlet that takes nothing for a while: the hub's memory does not grow with what waits for it, and the others do not notice."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import MakeNetwork
from tests.stack.audit import audit
from tests.stack.network import Network, wait_for

SCHEMA = "CREATE TABLE note (id INT NOT NULL PRIMARY KEY, body TEXT NOT NULL);\n"
BODY = "x" * 100_000
ROWS, AT_ONCE = 1_800, 20
"""180 MB wait in the end."""
GROWTH_MIB = 140
"""What the hub may hold: 64 MiB gathered for a commit, 32 of recent bodies, 8 in flight to each outlet, and the allocator's slack."""
LIMIT = 90.0


def _memory(network: Network, name: str) -> float:
    """MiB that the process has in memory."""
    process = network.processes[name].running
    assert process is not None
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:"))


@pytest.mark.timeout(300)
def test_a_slow_outlet_costs_the_hub_no_memory_and_the_others_no_time(make_network: MakeNetwork) -> None:
    network = make_network({"ubud": "sqlite", "kuta": "sqlite", "lovina": "sqlite"}, SCHEMA)
    ubud, kuta, lovina = network.outlets.values()
    ubud.execute(f"INSERT INTO note VALUES (0, '{BODY}')")
    network.settle()
    applier = network.processes["applier.lovina"].running
    assert applier is not None
    before = _memory(network, "hub")
    applier.send_signal(signal.SIGSTOP)
    try:
        for start in range(1, ROWS + 1, AT_ONCE):
            ubud.execute(*(f"INSERT INTO note VALUES ({key}, '{BODY}')" for key in range(start, start + AT_ONCE)))
        wait_for("the outlet that keeps up", lambda: kuta.count("SELECT COUNT(*) FROM note") == ROWS + 1, LIMIT)
        grown = _memory(network, "hub") - before
        assert lovina.count("SELECT COUNT(*) FROM note") < ROWS / 2
        print(f"the hub has grown by {grown:.0f} MiB")
        assert grown < GROWTH_MIB, f"the hub has grown by {grown:.0f} MiB"
    finally:
        applier.send_signal(signal.SIGCONT)
    network.nudge()
    network.settle(LIMIT)
    found = audit(network.urls)
    assert found.identical, str(found)
