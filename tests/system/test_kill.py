"""kill -9 at every named point and at random, hundreds of times, while changes flow: nothing lost, nothing twice.

The seed is printed. To replay: SUBAK_TEST_SEED=… SUBAK_TEST_KILLS=… pytest tests/system/test_kill.py
"""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections import Counter

import pytest
from sqlalchemy import text

from tests.conftest import MakeNetwork
from tests.stack.audit import audit
from tests.stack.network import FAILPOINTS, Network, Outlet

SEED = int(os.environ.get("SUBAK_TEST_SEED", random.randrange(2**32)))
KILLS = int(os.environ.get("SUBAK_TEST_KILLS", "110"))
"""Of each network; there are two."""

LIMIT_SECONDS = 480.0
RANDOM_SHARE = 0.25
ARMED_SECONDS = 4.0
"""A process that has been up for so long without reaching its point is killed where it is."""

SCHEMA = """\
CREATE TABLE receipt (
    id INT NOT NULL PRIMARY KEY,
    body VARCHAR(40) NOT NULL
);
CREATE TABLE note (
    id INT NOT NULL PRIMARY KEY,
    body VARCHAR(40) NOT NULL
);
CREATE TABLE effect (
    id {generated},
    kind VARCHAR(20) NOT NULL,
    row_id INT NOT NULL,
    body VARCHAR(40) NOT NULL
);
"""
"""`effect` is filled by the application's own triggers at every outlet, not synchronised: what was done, how often."""

EFFECTS = (
    ("receipt", "INSERT", "NEW"),
    ("note", "INSERT", "NEW"),
    ("note", "UPDATE", "NEW"),
    ("note", "DELETE", "OLD"),
)


def _add_effects(outlet: Outlet) -> None:
    for table, event, row in EFFECTS:
        kind, name = f"{table} {event.lower()}", f"app_{table}_{event.lower()}"
        if outlet.engine_name == "mssql":
            rows = {"NEW": "inserted", "OLD": "deleted"}[row]
            statement = f"INSERT INTO effect (kind, row_id, body) SELECT '{kind}', id, body FROM {rows}"
            outlet.execute(f"CREATE TRIGGER {name} ON {table} AFTER {event} AS BEGIN SET NOCOUNT ON; {statement}; END")
            continue
        statement = f"INSERT INTO effect (kind, row_id, body) VALUES ('{kind}', {row}.id, {row}.body)"
        outlet.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW BEGIN {statement}; END")


class Till(threading.Thread):
    """Writes until stopped; every value it writes is unique, and what was committed is remembered."""

    def __init__(self, outlet: Outlet, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.receipts: list[int] = []
        self.error: BaseException | None = None
        self.stopping = threading.Event()
        self._outlet = outlet
        self._random = random.Random(f"{seed}-till-{number}")
        self._count = number * 1_000_000

    def run(self) -> None:
        try:
            while not self.stopping.wait(self._random.uniform(0.0, 0.08)):
                self._transaction()
        except BaseException as error:
            self.error = error

    def _value(self) -> int:
        self._count += 1
        return self._count

    def _transaction(self) -> None:
        made: list[int] = []
        with self._outlet.application.begin() as connection:
            for _ in range(self._random.randint(1, 4)):
                value = self._value()
                values = {"id": value, "body": f"{self._outlet.name}-{value}"}
                choice = self._random.random()
                if choice < 0.4:
                    connection.execute(text("INSERT INTO receipt (id, body) VALUES (:id, :body)"), values)
                    made.append(value)
                elif choice < 0.6:
                    connection.execute(text("INSERT INTO note (id, body) VALUES (:id, :body)"), values)
                else:
                    ids = connection.execute(text("SELECT id FROM note")).scalars().all()
                    if ids:
                        values["id"] = self._random.choice(ids)
                        change = "UPDATE note SET body = :body WHERE id = :id"
                        connection.execute(text(change if choice < 0.9 else "DELETE FROM note WHERE id = :id"), values)
        self.receipts += made


class Killer:
    """Keeps every process armed with a named point, restarts what died, and strikes at random in between."""

    def __init__(self, network: Network, seed: int) -> None:
        self.hits: Counter[str] = Counter()
        self._network = network
        self._random = random.Random(f"{seed}-killer")
        self._armed: dict[str, str] = {}
        """Process to the point at which it will be killed."""
        self._up: dict[str, float] = {}
        """Since when it answers."""
        self._next: dict[str, list[str]] = {}
        self._calm = False
        """Whether there were enough kills, and only points are waited for that a slow machine has not come to yet."""

    def run(self, kills: int, limit: float) -> None:
        end = time.monotonic() + limit
        while self.hits.total() < kills or self.missed():
            assert time.monotonic() < end, (
                f"{self.hits.total()} kills within {limit:.0f} s: {self.hits}, not {self.missed()}"
            )
            self._calm = self.hits.total() >= kills
            self._bury_and_restart()
            self._strike()
            self._network.nudge()
            time.sleep(0.05)

    def missed(self) -> set[str]:
        """Points at which nothing has been killed yet."""
        return {f"{service}.{point}" for service, points in FAILPOINTS.items() for point in points} - set(self.hits)

    def _missed_of(self, service: str) -> list[str]:
        return sorted(point for point in self.missed() if point.startswith(f"{service}."))

    def _bury_and_restart(self) -> None:
        for name in self._network.dead():
            process = self._network.processes[name]
            point = self._armed.pop(name, "nothing")
            self._up.pop(name, None)
            assert process.running is not None
            code = process.running.returncode
            if code == -signal.SIGKILL:
                self.hits[point] += 1
            else:
                assert code == -signal.SIGHUP, f"{name} ended by itself with {code}:\n{process.tail()}"
            self._start(name)

    def _start(self, name: str) -> None:
        service = name.partition(".")[0]
        if self._calm and not self._missed_of(service):
            self._network.start(name, wait=False)
            return
        point = self._point(service)
        count = self._random.choice([1, 1, 2, 3])
        self._armed[name] = point
        self._network.start(name, failpoint=f"{point}:{count}", wait=False)

    def _point(self, service: str) -> str:
        """Each point in turn, in an order of the seed's; in the end, one that is missed."""
        if self._calm:
            return self._random.choice(self._missed_of(service))
        if not self._next.get(service):
            self._next[service] = self._random.sample(FAILPOINTS[service], len(FAILPOINTS[service]))
        return f"{service}.{self._next[service].pop()}"

    def _strike(self) -> None:
        for name, process in self._network.processes.items():
            if not process.alive:
                continue
            if name not in self._up and process.healthy():
                self._up[name] = time.monotonic()
            if self._calm and self._armed.get(name) in {None, *self.missed()}:
                continue
            if name not in self._armed or time.monotonic() - self._up.get(name, math.inf) > ARMED_SECONDS:
                self._kill(name)
                return  # one at a time: seven that start at once on a small machine would never get far
        if not self._calm and self._random.random() < RANDOM_SHARE * 0.1:
            name = self._random.choice(list(self._network.processes))
            if self._network.processes[name].alive:
                self._kill(name)

    def _kill(self, name: str) -> None:
        self._network.kill(name)
        self._armed[name] = "random"

    def end(self) -> None:
        """Everything runs again, with no point armed."""
        for name, process in self._network.processes.items():
            if process.alive:
                self._network.kill(name)
            self._armed.pop(name, None)
        self._network.start()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("hub", "outlets"),
    [
        ("sqlite", {"ubud": "sqlite", "kuta": "sqlite", "lovina": "sqlite"}),
        ("mariadb", {"ubud": "mariadb", "kuta": "mariadb", "lovina": "sqlite"}),
        ("sqlite", {"ubud": "mssql", "kuta": "mssql", "lovina": "mysql"}),
    ],
    ids=["sqlite", "mariadb", "mssql"],
)
def test_killed_hundreds_of_times_nothing_is_lost_and_nothing_happens_twice(
    make_network: MakeNetwork, hub: str, outlets: dict[str, str]
) -> None:
    print(f"replay with SUBAK_TEST_SEED={SEED} SUBAK_TEST_KILLS={KILLS}")
    network = make_network(outlets, SCHEMA, hub=hub, tables="receipt,note", start=False)
    for outlet in network.outlets.values():
        _add_effects(outlet)
    network.start()
    tills = [Till(outlet, number, SEED) for number, outlet in enumerate(network.outlets.values(), start=1)]
    killer = Killer(network, SEED)
    for till in tills:
        till.start()
    try:
        killer.run(KILLS, LIMIT_SECONDS)
    finally:
        for till in tills:
            till.stopping.set()
        for till in tills:
            till.join()
    killer.end()
    network.settle(240)  # what tills write while all is killed, on a slow machine, is much
    print(f"kills: {dict(killer.hits)}")

    assert [till.error for till in tills if till.error] == []
    found = audit(network.urls, tables={"receipt", "note"})
    assert found.identical, str(found)
    acknowledged = {receipt for till in tills for receipt in till.receipts}
    for outlet in network.outlets.values():
        with outlet.reader.begin() as connection:
            there = set(connection.execute(text("SELECT id FROM receipt")).scalars())
            twice = connection.execute(
                text("SELECT kind, row_id, body, COUNT(*) FROM effect GROUP BY kind, row_id, body HAVING COUNT(*) > 1")
            ).all()
        assert there == acknowledged, f"{outlet.name}: {len(acknowledged - there)} receipts missing"
        assert twice == [], f"{outlet.name}: took effect more than once: {twice[:10]}"
