"""What can be reached, from where: nothing that was not asked for."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stack.compose import DATABASE_PORT, OUR_PORT, OUTLETS, SERVICES, Stack

LISTENING = Path(__file__).with_name("listening.py").read_text("utf-8")
SCANNING = Path(__file__).with_name("scanning.py").read_text("utf-8")

HUB_PORT, MYSQL, MYSQL_X = 7707, 3306, 33060
SCANNED = [*range(1, 1025), 1433, MYSQL, 5432, 6379, HUB_PORT, 8080, 9090, OUR_PORT, 27017, MYSQL_X]

Note = Callable[[str], None]


def of_service(service: str) -> set[int]:
    """The ports that it may listen on."""
    if service == "hub":
        return {HUB_PORT, OUR_PORT}
    if service.endswith(SERVICES[1:]):
        return {OUR_PORT}
    return {served_by(service), MYSQL_X}


def served_by(database: str) -> int:
    """The port of the server that runs in that container."""
    return DATABASE_PORT[OUTLETS.get(database.removesuffix("-db"), "mysql")]


def inside(stack: Stack, network: str, script: str, *arguments: str) -> list[object]:
    """What a script of ours prints in a container there."""
    image = f"subak/cli:{stack.environment['SUBAK_VERSION']}"
    options = ("--rm", "--network", network, "--entrypoint", "python")
    printed = stack.run("docker", "run", *options, image, "-c", script, *arguments)
    found: list[object] = json.loads(printed)
    return found


@pytest.fixture(scope="module")
def addresses(stack: Stack) -> dict[str, str]:
    """Of every container on every network of the stack: what it belongs to."""
    found = {}
    for service in stack.services:
        for network, facts in stack.inspect(service)["NetworkSettings"]["Networks"].items():
            found[facts["IPAddress"]] = f"{service} on {network.removeprefix(stack.project + '_')}"
    return found


def test_each_container_listens_where_it_must_and_nowhere_else(stack: Stack) -> None:
    for service in stack.services:
        found = inside(stack, f"container:{stack.container(service)}", LISTENING)
        if service.endswith("-db"):
            assert {served_by(service)} <= {*found} <= of_service(service), (service, found)  # type: ignore[comparison-overlap]
        else:
            assert {*found} == of_service(service), (service, found)


def test_only_the_hub_is_published_and_only_here(stack: Stack) -> None:
    """By the compose file alone; with deploy/ports.yml more is, on this machine's own address only."""
    published = [
        (name, port["published"], port["host_ip"])
        for name, service in stack.configuration("--file", "docker-compose.yml", "--profile", "*")["services"].items()
        for port in service.get("ports", [])
    ]
    outlets = [(name, host) for name, _, host in published if name not in ("prometheus", "grafana")]
    assert outlets == [("hub", "127.0.0.1")], published
    assert {host for _, _, host in published} == {"127.0.0.1"}
    bound = {
        (binding["HostIp"], int(binding["HostPort"]))
        for service in stack.services
        for bindings in stack.inspect(service)["NetworkSettings"]["Ports"].values()
        for binding in bindings or []
    }
    asked = {stack.hub_port, *(outside for ports in stack.ports.values() for outside in ports.values())}
    assert bound == {("127.0.0.1", port) for port in asked}


def test_no_other_address_of_this_machine_answers(stack: Stack) -> None:
    """A connection of datagrams sends nothing, and tells which address would be used."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        ours = probe.getsockname()[0]
    assert not ours.startswith("127."), "no address but loopback to try"
    ports = [stack.hub_port, *(outside for published in stack.ports.values() for outside in published.values())]
    reached = []
    for port in ports:
        with socket.socket() as attempt:
            attempt.settimeout(2)
            reached += [port] * (attempt.connect_ex((ours, port)) == 0)
    assert reached == []


def test_a_container_of_somebody_elses_reaches_nothing(stack: Stack, addresses: dict[str, str], note: Note) -> None:
    """On the engine's ordinary network; nor by the published ports at the engine's own address there."""
    gateway = stack.docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    assert inside(stack, "bridge", SCANNING, json.dumps([*addresses]), json.dumps(SCANNED)) == []
    outside = [stack.hub_port, *(port for published in stack.ports.values() for port in published.values())]
    assert inside(stack, "bridge", SCANNING, json.dumps([gateway or "172.17.0.1"]), json.dumps(outside)) == []
    note(f"from outside, none of {len(SCANNED)} ports at {len(addresses)} addresses is open")


def test_each_network_sees_its_own_and_no_more(stack: Stack, addresses: dict[str, str]) -> None:
    for network in ("wan", "hub-db", *stack.profiles):
        name = f"{stack.project}_{network}"
        found = inside(stack, name, SCANNING, json.dumps([*addresses]), json.dumps(SCANNED))
        reached = {(addresses[address], port) for address, port in map(tuple, found)}  # type: ignore[call-overload, misc]
        allowed = {
            (here, port)
            for here in addresses.values()
            if here.endswith(f" on {network}")
            for port in of_service(here.partition(" ")[0])
        }
        assert reached <= allowed, (network, reached - allowed)
        assert reached, network
