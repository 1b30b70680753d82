"""What is measured, and how: each function takes a running network of MariaDB outlets and gives named figures."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import URL

from tests.stack.application import application_engine
from tests.stack.command import subak
from tests.stack.network import Network, Outlet, wait_for

SOURCE = "ubud"
TARGETS = ("kuta", "lovina")

SCHEMA = """\
CREATE TABLE sale (
    id INT NOT NULL PRIMARY KEY,
    product VARCHAR(60) NOT NULL,
    quantity INT NOT NULL,
    price DECIMAL(10, 2) NOT NULL,
    made_at DATETIME(6) NOT NULL
);
"""
INSERT = text(
    "INSERT INTO sale (id, product, quantity, price, made_at) VALUES (:id, :product, :quantity, :price, NOW(6))"
)
DRAIN_SECONDS = 600.0


def _row(number: int) -> dict[str, object]:
    return {"id": number, "product": f"Kopi Ubud {number % 500}", "quantity": number % 7 + 1, "price": "12.50"}


def _write(outlet: Outlet, first: int, count: int, per_transaction: int) -> None:
    rows = [_row(number) for number in range(first, first + count)]
    with outlet.application.connect() as connection:
        for start in range(0, count, per_transaction):
            with connection.begin():
                connection.execute(INSERT, rows[start : start + per_transaction])


def _all_there(network: Network, first: int, count: int) -> bool:
    query = "SELECT COUNT(*) FROM sale WHERE id >= :first"
    return all(network.outlets[target].count(query, first=first) == count for target in TARGETS)


def throughput(network: Network, first: int, count: int, per_transaction: int) -> dict[str, float]:
    """From the first write to the moment when both targets hold every row."""
    start = time.perf_counter()
    _write(network.outlets[SOURCE], first, count, per_transaction)
    written = time.perf_counter()
    wait_for("the rows at both targets", lambda: _all_there(network, first, count), DRAIN_SECONDS)
    end = time.perf_counter()
    return {
        "changes": count,
        "per_transaction": per_transaction,
        "written_per_second": count / (written - start),
        "changes_per_second": count / (end - start),
    }


class _Watch(threading.Thread):
    """Notes when each row becomes visible at a target, looking every millisecond or two."""

    def __init__(self, outlet: Outlet, first: int, count: int) -> None:
        super().__init__(daemon=True)
        self.seen: dict[int, float] = {}
        self._outlet, self._first, self._count = outlet, first, count

    def run(self) -> None:
        end = time.monotonic() + DRAIN_SECONDS
        last = self._first - 1
        query = text("SELECT id FROM sale WHERE id > :last ORDER BY id")
        while len(self.seen) < self._count and time.monotonic() < end:
            with self._outlet.reader.begin() as connection:
                ids = connection.execute(query, {"last": last}).scalars().all()
            now = time.perf_counter()
            for number in ids:
                self.seen[number] = now
            if ids:
                last = ids[-1]
            time.sleep(0.001)


def latency(network: Network, first: int, per_second: int, seconds: int) -> dict[str, float]:
    """From the return of the application's commit to the row's visibility at a target, in milliseconds."""
    count = per_second * seconds
    watches = [_Watch(network.outlets[target], first, count) for target in TARGETS]
    for watch in watches:
        watch.start()
    committed: dict[int, float] = {}
    begin = time.perf_counter()
    with network.outlets[SOURCE].application.connect() as connection:
        for number in range(count):
            pause = begin + number / per_second - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            with connection.begin():
                connection.execute(INSERT, _row(first + number))
            committed[first + number] = time.perf_counter()
    rate = count / (time.perf_counter() - begin)
    for watch in watches:
        watch.join()
    delays = [(seen - committed[number]) * 1000 for watch in watches for number, seen in watch.seen.items()]
    cuts = statistics.quantiles(delays, n=100)
    return {"transactions_per_second": rate, "p50_ms": cuts[49], "p95_ms": cuts[94], "p99_ms": cuts[98]}


def trigger_cost(url: URL, environment: Mapping[str, str], count: int) -> dict[str, float]:
    """The application's time with the triggers divided by its time without them; no service runs."""
    plain = _application_times(url, 1, count)
    subak(environment, "triggers", "install")
    loaded = _application_times(url, 1 + count * 10, count)
    return {f"{name}_ratio": loaded[name] / plain[name] for name in plain} | {
        f"{name}_without_per_second": count / plain[name] for name in plain
    }


def _application_times(url: URL, first: int, count: int) -> dict[str, float]:
    outlet = Outlet("bench", url)
    times: dict[str, float] = {}
    ids = range(first, first + count)

    def timed(name: str, statement: str, per_transaction: int) -> None:
        start = time.perf_counter()
        with outlet.application.connect() as connection:
            for begin in range(0, count, per_transaction):
                with connection.begin():
                    for number in ids[begin : begin + per_transaction]:
                        connection.execute(text(statement), {"id": number})
        times[name] = time.perf_counter() - start

    start = time.perf_counter()
    _write(outlet, first, count, 1)
    times["single_inserts"] = time.perf_counter() - start
    timed("single_updates", "UPDATE sale SET quantity = quantity + 1 WHERE id = :id", 1)
    start = time.perf_counter()
    with outlet.application.begin() as connection:
        connection.execute(text("UPDATE sale SET price = price + 1 WHERE id >= :first"), {"first": first})
    times["bulk_update"] = time.perf_counter() - start
    timed("deletes_100_per_transaction", "DELETE FROM sale WHERE id = :id", 100)
    outlet.close()
    return times


def hub_memory(network: Network, first: int, changes: int) -> dict[str, float]:
    """The hub's resident memory in MiB: idle, with a backlog that one outlet does not fetch, and while it is fetched."""
    before = _resident(network)["VmRSS"]
    network.stop(f"applier.{TARGETS[1]}")
    _write(network.outlets[SOURCE], first, changes, 1000)
    query = "SELECT COUNT(*) FROM sale WHERE id >= :first"
    wait_for(
        "the backlog",
        lambda: network.outlets[TARGETS[0]].count(query, first=first) == changes,
        DRAIN_SECONDS,
        pause=0.5,
    )
    held = _resident(network)
    network.start(f"applier.{TARGETS[1]}")
    start = time.perf_counter()
    network.settle(DRAIN_SECONDS)
    drained = _resident(network)
    return {
        "changes": changes,
        "idle_mib": before,
        "backlog_mib": held["VmRSS"],
        "drained_mib": drained["VmRSS"],
        "peak_mib": drained["VmHWM"],
        "drained_changes_per_second": changes / (time.perf_counter() - start),
    }


def _resident(network: Network) -> dict[str, float]:
    running = network.processes["hub"].running
    assert running is not None
    lines = Path(f"/proc/{running.pid}/status").read_text("ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


def connect_check(url: URL) -> str:
    """Product and version of the server."""
    engine = application_engine(url)
    with engine.begin() as connection:
        version = str(connection.exec_driver_sql("SELECT VERSION()").scalar())
    engine.dispose()
    return version
