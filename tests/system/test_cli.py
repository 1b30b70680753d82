"""The `subak` command as an operator uses it, on a running network."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.conftest import MakeNetwork
from tests.stack.command import at, at_hub, parsed, subak
from tests.stack.network import REPOSITORY, Network, wait_for
from tests.stack.schemas import SHOP, shop_rows


@pytest.fixture
def network(make_network: MakeNetwork) -> Network:
    network = make_network({"ubud": "sqlite", "kuta": "sqlite"}, SHOP, shop_rows())
    network.outlets["ubud"].execute(
        "INSERT INTO customer (code, name, note) VALUES ('n1', 'O''Brien 抹茶', 'a\\b')",
        "UPDATE product SET price = 3.5 WHERE id = 3",
        "DELETE FROM sale_line WHERE sale_id = 7",
    )
    network.settle()
    return network


def test_status(network: Network) -> None:
    hub = parsed(at_hub(network, "status", "--json"))
    assert hub["hub"] == "running"
    assert [(it["outlet"], it["online"], it["waiting"], it["quarantined"]) for it in hub["outlets"]] == [
        ("kuta", True, 0, 0),
        ("ubud", True, 0, 0),
    ]
    ubud = parsed(at(network, "ubud", "status", "--json"))
    assert (ubud["outlet"], ubud["changes_waiting"], ubud["batches_unconfirmed"]) == ("ubud", 0, 0)
    assert parsed(at(network, "kuta", "status", "--json"))["last_applied"]["origin"] == "ubud"
    assert "running" in at_hub(network, "status")
    assert "own changes waiting" in at(network, "ubud", "status")


def test_status_of_a_hub_that_died(network: Network) -> None:
    network.kill("hub")
    assert parsed(at_hub(network, "status", "--json"))["hub"] == "failed"
    assert "failed" in at_hub(network, "status")


def test_the_query_log_of_an_outlet(network: Network) -> None:
    entries = parsed(at(network, "kuta", "log", "--json"))
    messages = {it["message"]: it for it in entries}
    insert = """INSERT INTO "customer" ("code", "name", "note") VALUES ('n1', 'O''Brien 抹茶', 'a\\b')"""
    assert messages[insert]["status"] == "executed"
    assert messages[insert]["sender"] == "ubud"
    assert any(message.startswith('UPDATE "product" SET') and '"price" = 3.5' in message for message in messages)
    assert sum(message.startswith('DELETE FROM "sale_line" WHERE') for message in messages) == 2
    own = parsed(at(network, "ubud", "log", "--json"))
    assert {(it["status"], it["sender"]) for it in own} == {("sent", "ubud")}
    assert insert in {it["message"] for it in own}
    assert "O''Brien" in at(network, "kuta", "log")


def test_the_query_log_of_the_hub(network: Network) -> None:
    entries = parsed(at_hub(network, "log", "--json"))
    assert entries
    assert {(it["sender"], it["outlet"], it["status"]) for it in entries} == {("ubud", "kuta", "executed")}
    assert any("customer n1" in it["message"] for it in entries)
    assert "ubud → kuta" in at_hub(network, "log")


def test_following_the_log(network: Network) -> None:
    environment = network.processes["capture.kuta"].environment
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "log", "--follow", "--json"],
        env=environment | {"PATH": "/usr/bin:/bin"},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        first = [process.stdout.readline() for _ in range(4)]
        assert any("n1" in line for line in first)
        network.outlets["ubud"].execute("INSERT INTO customer (code, name) VALUES ('later', 'x')")
        assert "later" in process.stdout.readline()
    finally:
        process.terminate()
        process.wait(10)


def test_conflicts(network: Network) -> None:
    with network.apart():
        for price, outlet in ((7, "ubud"), (8, "kuta")):
            network.outlets[outlet].execute(f"UPDATE product SET price = {price} WHERE id = 5")
            time.sleep(0.01)
    network.settle()
    found = parsed(at(network, "ubud", "conflicts", "--json")) + parsed(at(network, "kuta", "conflicts", "--json"))
    assert found
    assert {(it["table"].lower(), it["key"], it["rule"]) for it in found} == {("product", "5", "row")}
    assert "product 5" in at(network, "ubud", "conflicts")
    assert isinstance(parsed(at_hub(network, "conflicts", "--json")), list)
    log = parsed(at(network, "ubud", "log", "--json")) + parsed(at(network, "kuta", "log", "--json"))
    assert any(it["status"].startswith("conflict: ") for it in log)


def test_compare(network: Network) -> None:
    urls = [url.render_as_string(hide_password=False) for url in network.urls.values()]
    assert "identical" in subak({}, "compare", *urls)
    network.stop("capture.kuta")
    network.outlets["kuta"].execute("UPDATE product SET title = 'nobody knows' WHERE id = 1")
    found = parsed(subak({}, "compare", "--json", *urls, code=1))
    (product,) = [table for table in found["tables"] if table["differing"]]
    assert (product["table"], product["differences"][0]["key"]) == ("product", "1")
    assert product["differences"][0]["columns"] == ["title"]
    assert [it["waiting"] for it in found["databases"]] == [0, 1]
    subak({}, "compare", urls[0], urls[0] + ".not", code=2)


def test_triggers(network: Network) -> None:
    for name in network.outlet_processes:
        network.stop(name)
    at(network, "ubud", "triggers", "check")
    at(network, "ubud", "triggers", "remove")
    assert "missing" in at(network, "ubud", "triggers", "check", code=1)
    at(network, "ubud", "triggers", "install")
    at(network, "ubud", "triggers", "check")


def test_outlets(network: Network) -> None:
    folder = ("outlet", "add", "amed", "--engine", "mysql", "--write", "-")
    for hub in ((), ("--hub", "hub.example.com"), ("--hub", "hub.example.com:0")):  # found out here, not far away
        assert at_hub(network, *folder, *hub, code=2) == ""
    assert "amed" not in at_hub(network, "outlet", "list")
    at_hub(network, "outlet", "add", "amed", "--company", "Warung", "--place", "Amed")
    at_hub(network, "outlet", "ignore", "amed", "ubud")
    listed = {it["outlet"]: it for it in parsed(at_hub(network, "outlet", "list", "--json"))}
    assert (listed["amed"]["company"], listed["amed"]["ignores"]) == ("Warung", ["ubud"])
    at_hub(network, "outlet", "unignore", "amed", "ubud")
    at_hub(network, "outlet", "remove", "amed")
    assert "amed" not in at_hub(network, "outlet", "list")
    at_hub(network, "outlet", "remove", "amed", code=2)


def test_doctor(network: Network) -> None:
    found = parsed(at(network, "ubud", "doctor", "--json", code=None))
    assert {"category", "product", "customer", "sale", "sale_line"} <= set(found["tables"])
    assert "colliding_keys" in {it["code"] for it in found["findings"]}


def test_a_service_started_by_the_command(network: Network) -> None:
    network.stop("hub")
    hub = network.processes["hub"]
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "hub"],
        env=hub.environment | {"PATH": "/usr/bin:/bin"},
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for("the hub", hub.ready, 20)
        process.terminate()
        assert process.wait(12) == 0
    finally:
        process.kill()


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("log",),
        ("doctor",),
        ("conflicts",),
        ("quarantine", "list"),
        ("triggers", "install"),
        ("outlet", "list"),
        ("hub",),
        ("hub", "pause"),
        ("capture",),
        ("applier",),
    ],
    ids=" ".join,
)
def test_what_is_not_set_is_said_without_a_traceback(arguments: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        env={"PATH": "/usr/bin:/bin"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 2
    assert "SUBAK_" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_database_that_is_not_subaks(tmp_path: object) -> None:
    subak({"SUBAK_DATABASE_URL": f"sqlite:///{tmp_path}/none.db"}, "status", code=2)
    subak({"SUBAK_DATABASE_URL": "nonsense"}, "status", code=2)
    subak({"SUBAK_DATABASE_URL": "mysql+pymysql://a:b@127.0.0.1:1/x"}, "status", code=2)


def test_about_and_help() -> None:
    assert "protocol" in subak({}, "about")
    assert "compare" in subak({}, "--help")
