"""Starting: wrong settings are told all at once; a hub that is not there yet is waited for, and SIGHUP tries at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from sqlalchemy import text

from tests.conftest import MakeNetwork
from tests.stack.audit import audit
from tests.stack.command import at, at_hub
from tests.stack.network import REPOSITORY, wait_for
from tests.stack.schemas import NOTES
from tests.stack.servers import Servers


def _run(service: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUBAK_")}
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env=inherited | environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("service", ["capture", "applier"])
def test_an_outlet_service_tells_all_faults_at_once(service: str) -> None:
    result = _run(service, {"SUBAK_HUB": "nowhere", "SUBAK_DATABASE_URL": "ftp://x", "SUBAK_TLS": "off"})
    assert result.returncode == 2, result
    for name in ("SUBAK_OUTLET", "SUBAK_HUB", "SUBAK_DATABASE_URL"):
        assert name in result.stderr, result.stderr


def test_the_hub_tells_all_faults_at_once() -> None:
    result = _run("hub", {"SUBAK_HUB_LISTEN": "everywhere", "SUBAK_HUB_ENROL": "maybe"})
    assert result.returncode == 2, result
    for name in ("SUBAK_HUB_LISTEN", "SUBAK_HUB_DATABASE_URL", "SUBAK_HUB_ENROL"):
        assert name in result.stderr, result.stderr


def test_tls_off_is_refused_beyond_loopback() -> None:
    result = _run(
        "hub", {"SUBAK_HUB_LISTEN": "0.0.0.0:1", "SUBAK_HUB_DATABASE_URL": "sqlite:////x.db", "SUBAK_TLS": "off"}
    )
    assert result.returncode == 2, result
    assert "SUBAK_TLS" in result.stderr


def test_an_outlet_that_starts_before_the_hub_waits_and_tries_at_once_on_sighup(make_network: MakeNetwork) -> None:
    network = make_network({"ubud": "sqlite", "kuta": "sqlite"}, NOTES, start=False)
    outlets = network.outlet_processes
    network.start(*outlets, wait=False)
    for name in outlets:
        wait_for(f"{name} to be up", network.processes[name].healthy, 30)
    network.outlets["ubud"].count("SELECT 1")
    assert network.dead() == []
    network.start("hub")
    started = time.monotonic()
    network.nudge()
    for name in outlets:
        network.wait_ready(name, limit=6)
    assert time.monotonic() - started < 6, "SIGHUP did not make it try now (the next try was up to 10 s away)"
    network.outlets["ubud"].execute("INSERT INTO note (id, author, body) VALUES (1, 'a', 'b')")
    network.settle()
    assert audit(network.urls).identical


def test_a_paused_hub_stores_and_does_not_broadcast(make_network: MakeNetwork) -> None:
    network = make_network({"ubud": "sqlite", "kuta": "sqlite"}, NOTES)
    at_hub(network, "hub", "pause")
    assert "paused" in at_hub(network, "status")
    source, target = network.outlets["ubud"], network.outlets["kuta"]
    time.sleep(1.5)  # the running hub learns of it within a second
    source.execute("INSERT INTO note (id, author, body) VALUES (1, 'a', 'b')")
    wait_for(
        "the hub to store it", lambda: source.count("SELECT COUNT(*) FROM CloudQuery WHERE ExportFlag = 1") == 1, 20
    )
    time.sleep(1)
    assert target.count("SELECT COUNT(*) FROM note") == 0
    at_hub(network, "hub", "resume")
    wait_for("the change", lambda: target.count("SELECT COUNT(*) FROM note") == 1, 20)
    network.settle()
    at(network, "kuta", "status")


def test_an_unknown_outlet_is_refused_when_enrolment_is_closed(make_network: MakeNetwork) -> None:
    network = make_network({"ubud": "sqlite", "kuta": "sqlite"}, NOTES, start=False)
    network.processes["hub"].environment["SUBAK_HUB_ENROL"] = "closed"
    network.start("hub")
    at_hub(network, "outlet", "add", "ubud")
    network.start("capture.ubud", "applier.ubud")
    network.start("capture.kuta", wait=False)
    process = network.processes["capture.kuta"]
    wait_for("the refusal in its log", lambda: "unknown" in process.tail(), 30)
    with network.hub_reader.begin() as connection:
        assert connection.execute(text("SELECT Name FROM subak_outlet")).scalars().all() == ["ubud"]


@pytest.mark.parametrize("seconds", [3])
def test_a_database_server_that_crashes_while_changes_flow(
    make_network: MakeNetwork, servers: Servers, seconds: int
) -> None:
    """Hub and one outlet lose their database under their feet; nothing committed is lost."""
    network = make_network({"ubud": "mariadb", "kuta": "sqlite"}, NOTES, hub="mariadb")
    source = network.outlets["kuta"]
    end = time.monotonic() + seconds
    number = 0
    crashed = False
    while time.monotonic() < end:
        number += 1
        source.execute(f"INSERT INTO note (id, author, body) VALUES ({number}, 'a', 'b')")
        if not crashed and time.monotonic() > end - seconds / 2:
            servers.server("mariadb").kill_and_restart()  # type: ignore[attr-defined]
            crashed = True
    network.settle(120)
    assert network.dead() == []
    assert network.outlets["ubud"].count("SELECT COUNT(*) FROM note") == number
    found = audit(network.urls)
    assert found.identical, str(found)
