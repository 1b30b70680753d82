"""Chinook at three outlets of different engines, all of its tables written at random at all three."""

from __future__ import annotations

import os
import time

import pytest

from tests.conftest import MakeNetwork
from tests.stack.audit import audit
from tests.stack.chinook import Chinook, NoChinookError
from tests.stack.tills import Tills

SEED = int(os.environ.get("SUBAK_TEST_SEED", "1975"))
WRITING_SECONDS = float(os.environ.get("SUBAK_TEST_SECONDS", "12"))

MIXES = {
    "sqlite-mariadb-mysql": {"ubud": "sqlite", "kuta": "mariadb", "lovina": "mysql"},
    "sqlite-mariadb": {"ubud": "sqlite", "kuta": "mariadb", "lovina": "sqlite"},
}


@pytest.mark.parametrize("mix", MIXES)
def test_chinook_written_at_random_everywhere_is_the_same_everywhere(make_network: MakeNetwork, mix: str) -> None:
    try:
        chinook = Chinook()
    except NoChinookError as error:
        pytest.skip(f"no real schema: {error}")
    network = make_network(MIXES[mix], "", start=False, hub="mariadb")
    for url in network.urls.values():
        chinook.load(url)
    loaded = audit(network.urls)
    assert loaded.identical, f"not loaded the same: {loaded}"
    network.start()
    with Tills(network.urls, SEED, pause=0.005) as tills:
        time.sleep(WRITING_SECONDS)
        counts = tills.stop()
    network.settle(120)
    found = audit(network.urls, except_quarantined=True)
    print(
        f"{chinook.source}: {sum(loaded.counts.values())} rows in {len(loaded.counts)} tables; {dict(counts)}; {found}"
    )
    assert found.identical, str(found)
    changes = sum(outlet.count("SELECT COUNT(*) FROM CloudQuery") for outlet in network.outlets.values())
    touched = {
        name: outlet.count("SELECT COUNT(DISTINCT TableName) FROM CloudQuery")
        for name, outlet in network.outlets.items()
    }
    print(f"{changes} changes; tables written: {touched}; conflicts, quarantined:")
    for name, outlet in network.outlets.items():
        conflicts = outlet.count("SELECT COUNT(*) FROM subak_conflict")
        print(f"  {name}: {conflicts}, {outlet.count('SELECT COUNT(*) FROM subak_quarantine')}")
    assert set(touched.values()) == {len(loaded.counts)}
    assert not {name for name in tills.deadlocks if network.outlets[name].engine_name != "mysql"}
