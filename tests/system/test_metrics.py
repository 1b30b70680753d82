"""A real Prometheus asks a real network: the figures are right, and every query of the dashboards and every alert finds what it is for."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.kernel.wire.session import Side
from tests.conftest import MakeNetwork
from tests.stack.network import Network, wait_for
from tests.stack.prometheus import Prometheus, check, program, running
from tests.stack.schemas import NOTES, load
from tests.stack.servers import MissingEngineError, Servers
from tests.unit.certificates import Certificates

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
LIMIT = 60.0

STRICT = NOTES.rstrip().removesuffix(");") + ",\n    CONSTRAINT somebody CHECK (author <> 'nobody')\n);\n"

NONE_HERE = {
    "subak_applier_duplicate_batches_total": "no batch comes twice unless an answer is lost",
}
"""Queries that rightly find nothing in this test, by what they ask for."""


@pytest.fixture(autouse=True)
def _prometheus() -> None:
    try:
        program("prometheus"), program("promtool")
    except MissingEngineError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"Prometheus must be exercised here: {error}")
        pytest.skip(str(error))


def queries() -> list[tuple[str, str]]:
    """Panel and query, as Grafana would ask it for outlet kuta and a short interval."""
    found = []
    for dashboard in DASHBOARDS:
        document = json.loads(dashboard.read_text("utf-8"))
        for panel in document["panels"]:
            for target in panel.get("targets", ()):
                asked = target["expr"].replace("$outlet", "kuta").replace("$__rate_interval", "30s")
                assert "$" not in asked, "a variable that is not replaced"
                found.append((f"{document['title']}: {panel['title']}", asked))
    return found


@contextmanager
def tills(network: Network) -> Iterator[None]:
    """At each outlet somebody writes, changes and deletes notes, until the end of the block."""
    over = threading.Event()

    def till(outlet: str, first: int) -> None:
        number = first
        while not over.wait(0.05):
            number += 1
            network.outlets[outlet].execute(
                f"INSERT INTO note (id, author, body) VALUES ({number}, '{outlet}', 'new')",
            )
            network.outlets[outlet].execute(f"UPDATE note SET body = 'changed' WHERE id = {number}")
            network.outlets[outlet].execute(f"DELETE FROM note WHERE id = {number} - 5")

    threads = [
        threading.Thread(target=till, args=(name, 1000 * place)) for place, name in enumerate(network.outlets, start=1)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def value(prometheus: Prometheus, expression: str) -> float | None:
    found = prometheus.query(expression)
    return float(found[0]["value"][1]) if found else None


def wait_value(prometheus: Prometheus, expression: str, expected: float) -> None:
    wait_for(f"{expression} = {expected}", lambda: value(prometheus, expression) == expected, LIMIT)


def certificates(folder: Path) -> Callable[[str], Sequence[Path]]:
    """Of an authority made here, good for a day."""
    authority = Certificates(folder)

    def files(name: str) -> Sequence[Path]:
        tls = authority.issue(name, Side.HUB if name == "hub" else Side.OUTLET)
        return tls.ca, tls.cert, tls.key

    return files


def targets(network: Network) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, process in network.processes.items():
        found.setdefault(name.partition(".")[0], []).append(f"127.0.0.1:{process.metrics_port}")
    return found


def test_every_query_finds_what_it_asks_for(make_network: MakeNetwork, servers: Servers, scratch_path: Path) -> None:
    network = make_network({"ubud": "sqlite", "kuta": "mariadb"}, "", hub="mariadb", start=False)
    load(network.urls["ubud"], NOTES)
    load(network.urls["kuta"], STRICT)
    network.secure(certificates(scratch_path / "pki"))
    network.start()
    ubud, kuta = network.outlets["ubud"], network.outlets["kuta"]
    with running(scratch_path, targets(network), DEPLOY / "prometheus" / "alerts.yml") as prometheus:
        # The same changes, counted by everybody who has a hand in them.
        for number in range(1, 4):
            ubud.execute(f"INSERT INTO note (id, author, body) VALUES ({number}, 'a', 'b')")
        network.settle()
        ubud.execute("DELETE FROM note WHERE id = 3")
        network.settle()
        for name in ("capture_changes_total{outlet='ubud'", "capture_stored_changes_total{outlet='ubud'"):
            wait_value(prometheus, f"sum(subak_{name}, table='note', operation='insert'}})", 3)
            wait_value(prometheus, f"sum(subak_{name}, table='note', operation='delete'}})", 1)
        wait_value(prometheus, "sum(subak_hub_changes_total{outlet='ubud'})", 4)
        wait_value(prometheus, "sum(subak_applier_changes_total{outlet='kuta', table='note'})", 4)
        sent = value(prometheus, "sum(subak_capture_bytes_total{outlet='ubud'})")
        assert sent
        for name in ("subak_hub_bytes_total{outlet='ubud'}", "subak_applier_bytes_total{outlet='kuta', origin='ubud'}"):
            wait_value(prometheus, f"sum({name})", sent)
        within = value(prometheus, "sum(subak_applier_latency_seconds_bucket{outlet='kuta', le='10.0'})")
        assert within == value(prometheus, "sum(subak_applier_latency_seconds_count{outlet='kuta'})")
        assert within and within >= 2, "what SQLite commits between two looks is one transaction"

        # A conflict, and a transaction that cannot be applied.
        with network.apart():
            ubud.execute("UPDATE note SET body = 'here' WHERE id = 1")
            kuta.execute("UPDATE note SET body = 'there' WHERE id = 1")
        network.settle()
        ubud.execute("INSERT INTO note (id, author, body) VALUES (9, 'nobody', 'refused')")
        network.settle()
        wait_value(prometheus, "sum(subak_applier_conflicts_total{outlet='kuta', table='note', rule='row'})", 1)
        wait_value(prometheus, "subak_hub_conflicts{outlet='ubud'}", 1)
        wait_value(prometheus, "subak_applier_newly_quarantined_transactions_total{outlet='kuta', code='check'}", 1)
        wait_value(prometheus, "subak_hub_quarantined_transactions{outlet='kuta'}", 1)

        # Everything that may break does so once: the hub, a link, the databases of both; and a row is locked when it is wanted.
        network.kill("hub")
        wait_for("the alert", lambda: _states(prometheus)["SubakHubDown"] == "pending", LIMIT)
        network.start("hub")
        wait_value(prometheus, "count(subak_hub_connected == 1)", 4)
        network.kill("applier.ubud")
        network.start("applier.ubud")
        servers.server("mariadb").kill_and_restart()
        network.nudge()
        for name in network.processes:
            network.wait_ready(name)
        wait_value(prometheus, "min(subak_database_up)", 1)
        with kuta.application.begin() as connection:
            connection.exec_driver_sql("UPDATE note SET body = 'not yet' WHERE id = 2")
            ubud.execute("UPDATE note SET body = 'now' WHERE id = 2")
            failed = "sum(subak_applier_failed_attempts_total{outlet='kuta'})"
            wait_for("attempts that fail", lambda: (value(prometheus, failed) or 0) > 0, LIMIT)
        with tills(network):
            try:
                wait_for("something for every query", lambda: not _finding_nothing(prometheus), LIMIT, pause=1.0)
            except AssertionError:
                assert _finding_nothing(prometheus) == []

        for rule in prometheus.rules():
            prometheus.query(rule["query"])
            assert rule["health"] != "err", rule  # "unknown": it is not its turn yet
        states = {rule["name"]: rule["state"] for rule in prometheus.rules()}
        assert states["SubakQuarantined"] in ("pending", "firing")
        assert states["SubakCertificateExpiresSoon"] == "pending"
        assert states["SubakHubDown"] == states["SubakChangesHeld"] == "inactive"
        assert len(states) == len(_alerts())


def _finding_nothing(prometheus: Prometheus) -> list[str]:
    """The queries that find nothing, though they should."""
    return [
        f"{panel}: {query}"
        for panel, query in queries()
        if not prometheus.query(query) and not any(name in query for name in NONE_HERE)
    ]


def _states(prometheus: Prometheus) -> dict[str, Any]:
    return {rule["name"]: rule["state"] for rule in prometheus.rules()}


def _alerts() -> list[str]:
    lines = (DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8").splitlines()
    return [line for line in lines if line.strip().startswith("- alert:")]


def test_the_alerts_fire_when_they_should() -> None:
    folder = DEPLOY / "prometheus"
    for arguments in (
        ("check", "rules", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts.test.yml"),
    ):
        result = check(*arguments, folder=folder)
        assert result.returncode == 0, f"promtool {' '.join(arguments)}:\n{result.stdout}{result.stderr}"
    tried = (folder / "alerts.test.yml").read_text("utf-8")
    for line in _alerts():
        name = line.rpartition(" ")[2]
        for case in (f"- name: {name} fires", f"- name: {name} stays silent"):
            assert case in tried, case
