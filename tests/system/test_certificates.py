"""Certificates on a real network: who must not get in does not, both ends say why in plain words, and the others go on."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import ssl
import urllib.request
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.kernel.errors import SubakError
from services.kernel.link import dial
from services.kernel.settings import Address
from services.kernel.tls import TlsSettings
from services.kernel.wire.messages import Hello, Role
from services.kernel.wire.session import Side
from tests.conftest import MakeNetwork
from tests.stack.command import at, at_hub, parsed, subak
from tests.stack.network import OUTLET_SERVICES, Network, wait_for
from tests.stack.schemas import SHOP, shop_rows
from tests.unit.certificates import Authority, Certificates, trust

NOTICED_SECONDS = 15.0
"""A revocation, or an end, on a machine that is busy with other tests; by itself it takes two."""

SOON = timedelta(seconds=40)
"""Long enough to have started by then."""


class Shop:
    """Two outlets with certificates of one authority, which the command `subak pki` revokes and renews."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.certificates = Certificates(folder)
        self.environment = {"SUBAK_PKI": str(folder)}
        self.files = {"hub": self.certificates.issue("hub", Side.HUB)}

    def start(self, **lifetimes: timedelta) -> None:
        for name in self.network.outlets:
            self.files[name] = self.certificates.issue(name, lifetime=lifetimes.get(name, timedelta(days=29)))
        self.network.secure(self.files.__getitem__, self.certificates.authority.crl)
        self.network.start()
        self.goes_on("ubud", "kuta")

    def goes_on(self, here: str, there: str) -> None:
        """A change still goes from one to the other."""
        outlets = self.network.outlets
        price = outlets[here].count("SELECT MAX(price) FROM product WHERE id = 1") + 1
        outlets[here].execute(f"UPDATE product SET price = {price} WHERE id = 1")
        arrived = "SELECT COUNT(*) FROM product WHERE id = 1 AND price = :price"
        wait_for(f"{here}'s change is at {there}", lambda: outlets[there].count(arrived, price=price) == 1, 30.0)

    def lines(self, name: str) -> list[dict[str, Any]]:
        text = self.network.processes[name].log.read_text("utf-8").splitlines()
        return [json.loads(line) for line in text if line.startswith("{")]

    def told(self, name: str, *words: str) -> None:
        """Waits until that process has logged a line in which all these words are."""

        def found() -> bool:
            return any(all(word in json.dumps(line) for word in words) for line in self.lines(name))

        wait_for(f"{name} says {words}", found, NOTICED_SECONDS)

    def services(self, outlet: str) -> list[str]:
        return [f"{service}.{outlet}" for service in OUTLET_SERVICES]

    def knock(self, tls: TlsSettings, name: str) -> SubakError:
        """What somebody is told who says that it is `name`."""

        async def conversation() -> None:
            hello = Hello(1, Role.CAPTURE, name, "e1", 0, bytes(32))
            await dial(Address("127.0.0.1", self.network.hub_port), trust(tls, Side.OUTLET), hello)

        with pytest.raises(SubakError) as error:
            asyncio.run(conversation())
        return error.value


@pytest.fixture
def shop(make_network: MakeNetwork, scratch_path: Path) -> Shop:
    network = make_network({"ubud": "sqlite", "kuta": "sqlite", "amed": "sqlite"}, SHOP, shop_rows(), start=False)
    return Shop(network, scratch_path / "pki")


def _wrapped(port: int, context: ssl.SSLContext) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), 10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        assert connection.recv(1)


def test_who_must_not_get_in_does_not_and_both_ends_say_why(shop: Shop, tmp_path: Path) -> None:
    shop.start()
    foreign, ca = Authority(tmp_path), shop.files["ubud"].ca
    # Another outlet's certificate.
    error = shop.knock(shop.files["kuta"], "ubud")
    assert error.code == "identity" and "names 'kuta', the hello ubud" in error.what
    shop.told("hub", "connection refused", "names 'kuta', the hello ubud", "127.0.0.1:")
    # Another authority's.
    error = shop.knock(foreign.issue("ubud")._replace(ca=ca), "ubud")
    assert "another authority" in error.what and "SUBAK_TLS_CA" in error.todo
    shop.told("hub", "connection refused", "another authority", "127.0.0.1:")
    # The hub's own, shown by an outlet.
    error = shop.knock(shop.files["hub"], "hub")
    assert "made for the other end" in error.what
    shop.told("hub", "connection refused", "made for the other end")
    # None at all, and TLS 1.2.
    context = ssl.create_default_context(cafile=str(ca))
    with pytest.raises(ssl.SSLError, match="certificate required"):
        _wrapped(shop.network.hub_port, context)
    shop.told("hub", "connection refused", "has shown no certificate")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(shop.files["ubud"].cert, shop.files["ubud"].key)
    with pytest.raises(ssl.SSLError, match="protocol version"):
        _wrapped(shop.network.hub_port, context)
    shop.told("hub", "connection refused", "TLS 1.3 is not spoken by 127.0.0.1:")
    shop.goes_on("ubud", "kuta")
    assert shop.network.dead() == []


def test_revoked_while_connected_then_with_a_new_one_without_a_restart(shop: Shop) -> None:
    shop.start()
    assert "revoked" in subak(shop.environment, "pki", "revoke", "amed")
    for service in shop.services("amed"):
        shop.told(service, "amed", "was revoked on", "subak pki issue amed")
    shop.told("hub", "connection refused", "revoked", "amed", "was revoked on")
    wait_for("amed is offline", lambda: not _online(shop, "amed"), NOTICED_SECONDS)
    shop.network.outlets["amed"].execute("UPDATE product SET price = 7 WHERE id = 2")
    shop.network.nudge()  # it may not come back either
    wait_for(
        "it was refused again",
        lambda: sum(line.get("code") == "revoked" for line in shop.lines("hub")) > 2,
        NOTICED_SECONDS,
    )
    shop.goes_on("ubud", "kuta")
    assert shop.network.outlets["ubud"].count("SELECT COUNT(*) FROM product WHERE id = 2 AND price = 7") == 0
    out = str(shop.files["amed"].cert.parent)
    assert "is made" in subak(shop.environment, "pki", "issue", "amed", "--out", out)
    for service in shop.services("amed"):
        shop.network.wait_ready(service, NOTICED_SECONDS)
    shop.goes_on("ubud", "amed")
    shop.network.settle()
    assert shop.network.outlets["ubud"].count("SELECT COUNT(*) FROM product WHERE id = 2 AND price = 7") == 1
    assert [shop.network.processes[name].starts for name in shop.services("amed")] == [1, 1]


def test_revoked_while_the_hubs_database_is_away(shop: Shop) -> None:
    """Who is trusted no more is told so, and leaves, whatever the hub can store."""
    shop.start()
    shop.network.settle()
    with closing(sqlite3.connect(str(shop.network.hub_url.database), isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        subak(shop.environment, "pki", "revoke", "amed")
        for service in shop.services("amed"):
            shop.told(service, "amed", "was revoked on")
        lock.execute("ROLLBACK")
    shop.goes_on("ubud", "kuta")
    wait_for("amed is offline", lambda: not _online(shop, "amed"), NOTICED_SECONDS)


def test_expired_while_connected_and_renewed_before_that(shop: Shop) -> None:
    shop.start(amed=SOON, kuta=SOON)
    for service in shop.services("amed"):
        shop.told(service, "will expire soon", "days_left")
    assert "amed's certificate EXPIRE" in at_hub(shop.network, "status")  # on a slow machine it has done so by now
    subak(shop.environment, "pki", "issue", "kuta", "--renew", "--out", str(shop.files["kuta"].cert.parent))
    for service in shop.services("kuta"):
        shop.told(service, "was renewed")
    for service in shop.services("amed"):
        wait_for(f"{service} expires", lambda service=service: not shop.network.processes[service].ready(), 90.0)
        shop.told(service, "amed", "expired on", "subak pki issue amed")
        shop.told(service, "has refused the certificate of this outlet", "it has expired")
    shop.told("hub", "connection refused", "expired", "amed")
    shop.told("hub", "connection refused", "it has expired")
    assert "amed's certificate EXPIRED" in at_hub(shop.network, "status")
    assert "This outlet's certificate EXPIRED" in at(shop.network, "amed", "status")
    shop.goes_on("ubud", "kuta")
    assert all(line.get("code") != "expired" for name in shop.services("kuta") for line in shop.lines(name))
    amed = shop.network.processes["capture.amed"]
    shop.network.stop("capture.amed")  # whoever restarts it is told at once
    amed.start({})
    assert amed.running is not None and amed.running.wait(30) == 2
    assert "has expired on" in amed.tail()


def test_figures_and_status_say_until_when(shop: Shop) -> None:
    shop.start()
    listed = parsed(subak(shop.environment, "pki", "list", "--json"))
    until = {it["name"]: _seconds(it["until"]) for it in listed}
    assert _figures(shop, "hub", "subak_certificate_expiry_timestamp_seconds") == {'{service="hub"}': until["hub"]}
    for name in shop.services("ubud"):
        whose = f'{{outlet="ubud",service="{name.partition(".")[0]}"}}'
        assert _figures(shop, name, "subak_certificate_expiry_timestamp_seconds") == {whose: until["ubud"]}
    shown = {f'{{outlet="{name}"}}': until[name] for name in shop.network.outlets}
    figure = "subak_hub_certificate_expiry_timestamp_seconds"
    wait_for("the hub knows them all", lambda: _figures(shop, "hub", figure) == shown, NOTICED_SECONDS)
    status = parsed(at_hub(shop.network, "status", "--json"))
    assert {it["outlet"]: _seconds(it["certificate_expires"]) for it in status["outlets"]} == {
        name: until[name] for name in shop.network.outlets
    }
    assert _seconds(status["certificate_expires"]) == until["hub"]
    ubud = parsed(at(shop.network, "ubud", "status", "--json"))
    assert _seconds(ubud["certificate_expires"]) == until["ubud"]
    assert "ubud's certificate EXPIRES in 28 days" in at_hub(shop.network, "status")
    subak(shop.environment, "pki", "issue", "ubud", "--out", str(shop.files["ubud"].cert.parent))
    wait_for(
        "the hub has seen the renewed one",
        lambda: _figures(shop, "hub", figure)['{outlet="ubud"}'] > until["ubud"],
        NOTICED_SECONDS,
    )
    assert "ubud's certificate EXPIRES" not in at_hub(shop.network, "status")


def test_the_hubs_certificate_is_renewed_without_a_restart(shop: Shop) -> None:
    shop.start()
    out = str(shop.files["hub"].cert.parent)
    before = _shown(shop)
    assert "is made" in subak(shop.environment, "pki", "issue", "hub", "--hub", "--renew", "--out", out)
    assert _shown(shop) != before
    shop.goes_on("ubud", "kuta")
    shop.network.restart("capture.ubud")
    shop.goes_on("ubud", "kuta")


def _shown(shop: Shop) -> bytes | None:
    """The certificate that the hub shows to whoever comes now."""
    tls = shop.files["ubud"]
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.load_cert_chain(tls.cert, tls.key)
    with (
        socket.create_connection(("127.0.0.1", shop.network.hub_port), 10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        return connection.getpeercert(binary_form=True)


def _online(shop: Shop, outlet: str) -> bool:
    found = parsed(at_hub(shop.network, "status", "--json"))["outlets"]
    return bool(next(it["online"] for it in found if it["outlet"] == outlet))


def _figures(shop: Shop, process: str, name: str) -> dict[str, float]:
    """By labels."""
    port = shop.network.processes[process].metrics_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    split = (line.removeprefix(name).split(" ") for line in lines if line.startswith((f"{name} ", f"{name}{{")))
    return {labels: float(value) for labels, value in split}


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant.replace("Z", "+00:00")).timestamp()
