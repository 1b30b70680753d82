"""Who does not get in, over real loopback sockets: refused, and told why in plain words at both ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from services.kernel import link
from services.kernel.entrance import serve
from services.kernel.errors import ProtocolError, SubakError, TransientError
from services.kernel.link import Channel, RefusedError, dial, keep_linked
from services.kernel.settings import Address, OutletSettings
from services.kernel.telemetry import Health
from services.kernel.tls import TlsSettings
from services.kernel.wire.messages import Hello, Role, Welcome
from services.kernel.wire.session import Side
from tests.unit.certificates import Authority, Certificates, trust

ZERO = b"\0" * 32
HELLO = Hello(1, Role.CAPTURE, "ubud", "e1", 0, ZERO)
WELCOME = Welcome("besakih", 0, ZERO, [])
LIMIT = 15.0
"""Seconds that any conversation here may take."""


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "pki")


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "foreign")


def run(conversation: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT):
            await conversation()

    asyncio.run(limited())


def talk(conversation: Callable[[], Awaitable[None]]) -> list[Any]:
    """What was logged meanwhile, but for lists that were read."""
    with capture_logs() as logs:
        run(conversation)
    return [line for line in logs if "list of revoked certificates read" not in line["event"]]


async def welcoming(channel: Channel) -> None:
    """Until the outlet goes, or its certificate is not good any more."""
    assert isinstance(await channel.receive(), Hello)
    await channel.send(WELCOME)
    end = asyncio.create_task(channel.receive())
    while not end.done():
        if (distrusted := channel.distrusted()) is not None:
            end.cancel()
            raise distrusted
        await asyncio.wait({end}, timeout=0.02)
    end.result()


@asynccontextmanager
async def hub(tls: TlsSettings) -> AsyncIterator[Address]:
    server = await serve(Address("127.0.0.1", 0), trust(tls, Side.HUB), welcoming)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def until(met: Callable[[], bool]) -> None:
    while not met():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def refused(at_hub: TlsSettings, at_outlet: TlsSettings) -> tuple[SubakError, list[Any]]:
    """What the outlet is told when it dials, and what was logged: there must be something of the hub's."""
    told = []

    async def conversation() -> None:
        async with hub(at_hub) as address:
            with pytest.raises(SubakError) as error:
                await dial(address, trust(at_outlet, Side.OUTLET), HELLO)
            told.append(error.value)
            await until(lambda: any(line["event"] == "connection refused" for line in logs))

    with capture_logs() as logs:
        run(conversation)
    return told[0], [line for line in logs if line["event"] == "connection refused"]


# ---- refused at the door


def test_a_certificate_of_another_authority(ours: Certificates, foreign: Authority) -> None:
    mine = ours.issue("ubud")
    stranger = foreign.issue("ubud")._replace(ca=mine.ca)
    error, (line,) = refused(ours.issue("hub", Side.HUB), stranger)
    assert (error.code, line["code"]) == ("certificate", "certificate")
    assert "has refused the certificate of this outlet (ubud's" in error.what
    assert "another authority" in error.what and "another authority" in line["what"]
    assert "SUBAK_TLS_CA" in error.todo
    assert line["peer"].startswith("127.0.0.1:")


def test_an_authority_of_the_same_name(ours: Certificates, tmp_path: Path) -> None:
    impostor = Certificates(tmp_path / "other")
    error, (line,) = refused(ours.issue("hub", Side.HUB), impostor.issue("ubud")._replace(ca=ours.issue("ubud").ca))
    assert "authority" in error.what and "authority" in line["what"]


def test_an_expired_certificate(foreign: Authority) -> None:
    error, (line,) = refused(foreign.issue("hub"), foreign.issue("ubud", days=-1))
    assert "it has expired" in error.what and "it has expired" in line["what"]
    assert "subak pki issue ubud" in error.todo


def test_one_that_is_not_yet_valid(foreign: Authority) -> None:
    error, (line,) = refused(foreign.issue("hub"), foreign.issue("ubud", days=9))
    assert "not yet valid" in error.what and "not yet valid" in line["what"]
    assert "clocks" in error.todo


def test_a_hubs_certificate_shown_by_an_outlet(ours: Certificates, foreign: Authority) -> None:
    error, (line,) = refused(ours.issue("hub", Side.HUB), ours.issue("ubud", Side.HUB))
    assert "made for the other end" in error.what and "made for the other end" in line["what"]
    error, (line,) = refused(foreign.issue("hub"), foreign.issue("ubud", unit="hub"))
    assert isinstance(error, RefusedError)
    assert error.code == line["code"] == "identity"
    assert "made for a hub, and an outlet has shown it" in error.what
    usage = [ExtendedKeyUsageOID.SERVER_AUTH]
    error, (line,) = refused(foreign.issue("hub"), foreign.issue("ubud", unit="outlet", usages=usage))
    assert "made for the other end" in error.what


def test_an_outlets_certificate_shown_by_a_hub(ours: Certificates, foreign: Authority) -> None:
    error, (line,) = refused(foreign.issue("hub", usages=[ExtendedKeyUsageOID.CLIENT_AUTH]), foreign.issue("ubud"))
    assert error.code == "certificate"
    assert "that the hub at 127.0.0.1:" in error.what and "made for the other end" in error.what
    assert "has refused the certificate of this hub" in line["what"]

    async def conversation() -> None:
        async with hub(foreign.issue("hub", unit="outlet")) as address:
            with pytest.raises(ProtocolError, match="made for an outlet, and a hub has shown it"):
                await dial(address, trust(foreign.issue("ubud"), Side.OUTLET), HELLO)

    talk(conversation)


def test_certificates_of_an_authority_that_says_nothing_of_roles_are_good(foreign: Authority) -> None:
    async def conversation() -> None:
        async with hub(foreign.issue("hub", unit="IT")) as address:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            for tls in (foreign.issue("ubud"), foreign.issue("ubud", unit="IT", usages=usages)):
                channel, _ = await dial(address, trust(tls, Side.OUTLET), HELLO)
                assert channel.certificate_name == "hub"
                await channel.close()

    assert talk(conversation) == []


def wrapped(address: Address, context: ssl.SSLContext) -> bytes:
    with socket.create_connection(address) as raw, context.wrap_socket(raw, server_hostname="localhost") as connection:
        return connection.recv(1)


def test_no_certificate(ours: Certificates) -> None:
    mine = ours.issue("ubud")

    async def conversation() -> None:
        async with hub(ours.issue("hub", Side.HUB)) as address:
            with pytest.raises(ssl.SSLError, match="certificate required"):
                await asyncio.to_thread(wrapped, address, ssl.create_default_context(cafile=str(mine.ca)))

    (line,) = talk(conversation)
    assert "has shown no certificate" in line["what"]


def test_an_older_tls(ours: Certificates) -> None:
    mine = ours.issue("ubud")

    async def conversation() -> None:
        context = ssl.create_default_context(cafile=str(mine.ca))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(mine.cert, mine.key)
        async with hub(ours.issue("hub", Side.HUB)) as address:
            with pytest.raises(ssl.SSLError, match="protocol version"):
                await asyncio.to_thread(wrapped, address, context)

    (line,) = talk(conversation)
    assert "TLS 1.3 is not spoken by 127.0.0.1:" in line["what"]


def test_a_hub_with_an_older_tls(ours: Certificates) -> None:
    mine, its = ours.issue("ubud"), ours.issue("hub", Side.HUB)

    def serve_once(listening: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(its.cert, its.key)
        connection, _ = listening.accept()
        with connection, pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    async def conversation() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            serving = asyncio.create_task(asyncio.to_thread(serve_once, listening))
            with pytest.raises(TransientError, match=r"TLS 1\.3 is not spoken by the hub at"):
                await dial(Address(*listening.getsockname()), trust(mine, Side.OUTLET), HELLO)
            await serving

    talk(conversation)


def test_plain_text_at_one_end_only(ours: Certificates) -> None:
    mine = ours.issue("ubud")

    async def conversation() -> None:
        async with hub(ours.issue("hub", Side.HUB)) as address:
            with pytest.raises(TransientError, match="off at both"):
                await dial(address, None, HELLO)
        server = await serve(Address("127.0.0.1", 0), None, welcoming)
        with pytest.raises(TransientError, match="TLS is not spoken by the hub"):
            await dial(Address("127.0.0.1", server.sockets[0].getsockname()[1]), trust(mine, Side.OUTLET), HELLO)
        server.close()

    assert "TLS is not spoken by 127.0.0.1:" in talk(conversation)[0]["what"]


# ---- revoked, expired while connected, renewed


def test_a_revoked_certificate_is_refused_by_name_and_date(ours: Certificates) -> None:
    mine = ours.issue("ubud")
    ours.authority.revoke("ubud")
    error, (line,) = refused(ours.issue("hub", Side.HUB), mine)
    assert isinstance(error, RefusedError)
    assert error.code == line["code"] == "revoked"
    assert f"revoked on {datetime.now(UTC):%Y-}" in error.what and error.what == line["what"]
    assert "subak pki issue ubud" in error.todo


def test_a_revocation_ends_a_connection_that_stands(ours: Certificates) -> None:
    mine, its = ours.issue("ubud"), ours.issue("kuta")

    async def conversation() -> None:
        async with hub(ours.issue("hub", Side.HUB)) as address:
            ubud, _ = await dial(address, trust(mine, Side.OUTLET), HELLO)
            kuta, _ = await dial(address, trust(its, Side.OUTLET), HELLO)
            ours.authority.revoke("ubud")
            with pytest.raises(RefusedError) as error:
                await ubud.receive()
            assert error.value.code == "revoked"
            assert kuta.distrusted() is None
            await kuta.close()

    assert [line["code"] for line in talk(conversation)] == ["revoked"]


def test_a_certificate_that_expires_ends_a_connection_that_stands(ours: Certificates) -> None:
    mine = ours.issue("ubud", lifetime=timedelta(seconds=2))

    async def conversation() -> None:
        async with hub(ours.issue("hub", Side.HUB)) as address:
            ubud, _ = await dial(address, trust(mine, Side.OUTLET), HELLO)
            with pytest.raises(RefusedError) as error:
                await ubud.receive()
            assert error.value.code == "expired"
            with pytest.raises(TransientError, match="it has expired"):
                await dial(address, trust(mine, Side.OUTLET), HELLO)

    assert [line["code"] for line in talk(conversation)] == ["expired", "certificate"]


def test_a_hub_that_is_revoked_is_left(ours: Certificates) -> None:
    its, mine = ours.issue("hub", Side.HUB)._replace(crl=None), ours.issue("ubud")

    async def conversation() -> None:
        async with hub(its) as address:
            ubud, _ = await dial(address, trust(mine, Side.OUTLET), HELLO)
            ours.authority.revoke("hub")
            distrusted = ubud.distrusted()
            assert distrusted is not None and distrusted.code == "revoked"
            assert "subak pki issue hub --hub" in distrusted.todo
            with pytest.raises(ProtocolError, match="was revoked"):
                await dial(address, trust(mine, Side.OUTLET), HELLO)
            await ubud.close()

    talk(conversation)


def test_a_hubs_renewed_certificate_is_shown_to_whoever_comes_next(ours: Certificates) -> None:
    its, mine = ours.issue("hub", Side.HUB), ours.issue("ubud")

    async def conversation() -> None:
        async with hub(its) as address:
            first, _ = await dial(address, trust(mine, Side.OUTLET), HELLO)
            ours.issue("hub", Side.HUB)
            second, _ = await dial(address, trust(mine, Side.OUTLET), HELLO)
            assert first.certificate is not None and second.certificate is not None
            assert first.certificate.serial != second.certificate.serial
            its.cert.write_text("half a certi")
            third, _ = await dial(address, trust(mine, Side.OUTLET), HELLO)
            assert third.certificate == second.certificate
            for channel in (first, second, third):
                await channel.close()

    (line,) = talk(conversation)
    assert "goes on counting" in line["event"] and str(its.cert) in line["files"]


class Linked:
    """An outlet's service that keeps its link."""

    def __init__(self, address: Address, tls: TlsSettings) -> None:
        self.serials: list[int] = []
        """Of the hub's certificates, one a link."""
        self.health, self.stop = Health(link="not yet"), asyncio.Event()
        self.health.ready = True
        settings = OutletSettings(outlet="ubud", hub=address, database_url=make_url("sqlite:////x.db"), tls=tls)
        self.task = asyncio.create_task(
            keep_linked(settings, self._hello, self._run, self.stop, asyncio.Event(), self.health)
        )

    async def _hello(self) -> Hello:
        return HELLO

    async def _run(self, channel: Channel, welcome: Welcome) -> None:
        assert channel.certificate is not None
        self.serials.append(channel.certificate.serial)
        while await channel.receive() is not None:
            pass

    async def end(self) -> None:
        self.stop.set()
        await self.task


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(link, "FINISH_SECONDS", 0.3)


@pytest.mark.usefixtures("quick")
def test_an_outlet_with_a_renewed_certificate_connects_with_it_at_once(ours: Certificates) -> None:
    mine = ours.issue("ubud")

    async def conversation() -> None:
        async with hub(ours.issue("hub", Side.HUB)) as address:
            linked = Linked(address, mine)
            await until(lambda: len(linked.serials) == 1)
            ours.issue("ubud")
            await until(lambda: len(linked.serials) == 2)
            ours.authority.revoke("ubud")
            await until(lambda: "revoked on" in linked.health.link)
            ours.issue("ubud")  # the pause of ten seconds after a refusal is not waited for
            await until(lambda: len(linked.serials) == 3)
            await linked.end()

    logs = talk(conversation)
    assert sum("was renewed" in line["event"] for line in logs) == 2
    assert [line["code"] for line in logs if line["log_level"] == "error"] == ["revoked"]


@pytest.mark.usefixtures("quick")
def test_an_outlet_leaves_a_hub_whose_certificate_is_revoked_and_takes_its_new_one(ours: Certificates) -> None:
    its, mine = ours.issue("hub", Side.HUB)._replace(crl=None), ours.issue("ubud")

    async def conversation() -> None:
        async with hub(its) as address:
            linked = Linked(address, mine)
            await until(lambda: len(linked.serials) == 1)
            ours.authority.revoke("hub")
            ours.issue("hub", Side.HUB)
            await until(lambda: len(linked.serials) == 2)
            assert linked.serials[0] != linked.serials[1]
            await linked.end()

    assert any(line.get("code") == "revoked" for line in talk(conversation))


def test_an_authority_that_is_trusted_no_more_ends_the_connections_of_its_time(
    ours: Certificates, foreign: Authority, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    mine, former = ours.issue("hub", Side.HUB), foreign.issue("ubud")
    both.write_bytes(mine.ca.read_bytes() + former.ca.read_bytes())
    ubud = former._replace(ca=mine.ca)

    async def conversation() -> None:
        async with hub(mine._replace(ca=both, crl=None)) as address:
            channel, _ = await dial(address, trust(ubud, Side.OUTLET), HELLO)
            aside = both.with_name("new.pem")
            aside.write_bytes(mine.ca.read_bytes())
            aside.rename(both)
            with pytest.raises(RefusedError) as error:
                await channel.receive()
            assert error.value.code == "authority"

    talk(conversation)
