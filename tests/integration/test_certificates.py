"""Who comes to the stack's hub with a certificate that will not do, or with none, or by an older TLS: refused, and both ends say why."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.kernel.errors import SubakError
from services.kernel.link import dial
from services.kernel.settings import Address
from services.kernel.tls import TlsSettings
from services.kernel.wire.messages import Hello, Role
from services.kernel.wire.session import Side
from tests.stack.compose import Stack
from tests.stack.network import wait_for
from tests.unit.certificates import trust

TOLD_SECONDS = 30.0
"""A revocation is noticed within two by itself; the machine is busy."""

FILES = ("ca.pem", "cert.pem", "key.pem")
FORGING = Path(__file__).with_name("forging.py").read_text("utf-8")

Note = Callable[[str], None]


def told(stack: Stack, service: str, *words: str) -> str:
    """Waits for a line of that container's log in which all the words are; the line."""
    found: list[str] = []

    def there() -> bool:
        found[:] = [line for line in stack.log(service).splitlines() if all(word in line for word in words)]
        return bool(found)

    wait_for(f"{service} to say {words}", there, TOLD_SECONDS, 0.3)
    return found[-1]


def kept(folder: Path, files: dict[str, str]) -> TlsSettings:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
        (folder / name).chmod(0o644)  # a container's user reads it, too
    return TlsSettings(*(folder / name for name in FILES))


@pytest.fixture(scope="module")
def makassars(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> TlsSettings:
    """A copy of what makassar's services show."""
    files = {name: stack.compose("exec", "--no-TTY", "makassar-capture", "cat", f"/tls/{name}") for name in FILES}
    return kept(tmp_path_factory.mktemp("tls") / "makassar", files)


@pytest.fixture(scope="module")
def expired(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> TlsSettings:
    command = ("run", "--rm", "--no-TTY", "--no-deps", "--entrypoint", "python", "cli", "-c", FORGING, "makassar")
    return kept(tmp_path_factory.mktemp("tls") / "expired", json.loads(stack.compose(*command)))


def knock(stack: Stack, tls: TlsSettings, name: str) -> SubakError:
    """What somebody is told who says, from this machine, that it is `name`."""

    async def conversation() -> None:
        hello = Hello(1, Role.CAPTURE, name, "e1", 0, bytes(32))
        await dial(Address("127.0.0.1", stack.hub_port), trust(tls, Side.OUTLET), hello)

    with pytest.raises(SubakError) as error:
        asyncio.run(conversation())
    return error.value


@pytest.fixture
def in_the_way(stack: Stack) -> Iterator[Callable[..., str]]:
    """Runs surabaya's applier with something else about it, in place of the right one; what it has said when it ended, or was refused."""
    container = f"{stack.project}-intruder"
    stack.compose("stop", "surabaya-applier")

    def run(*options: str, words: tuple[str, ...]) -> str:
        stack.compose("run", "--detach", "--no-deps", "--name", container, *options, "surabaya-applier")
        found: list[str] = []

        def there() -> bool:
            lines = stack.log_of(container).splitlines()
            found[:] = [line for line in lines if all(word in line for word in words)]
            return bool(found)

        try:
            wait_for(f"the intruder to say {words}", there, TOLD_SECONDS, 0.3)
        finally:
            print(stack.log_of(container))
            stack.docker("rm", "--force", container)
        return found[-1]

    yield run
    stack.docker("rm", "--force", container, code=None)
    stack.compose("start", "surabaya-applier")
    stack.wait_healthy("surabaya-applier")


def shown_by(stack: Stack, tls: TlsSettings | None, ca: Path, version: ssl.TLSVersion) -> None:
    """Shakes hands with the hub, from this machine, and waits for what it says; raises SSLError when it refuses."""
    context = ssl.create_default_context(cafile=str(ca))
    context.maximum_version = version
    if tls:
        context.load_cert_chain(tls.cert, tls.key)
    with (
        socket.create_connection(("127.0.0.1", stack.hub_port), 10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        connection.recv(1)


def test_without_a_certificate(
    stack: Stack, makassars: TlsSettings, in_the_way: Callable[..., str], note: Note
) -> None:
    with pytest.raises(ssl.SSLError, match="certificate required"):
        shown_by(stack, None, makassars.ca, ssl.TLSVersion.TLSv1_3)
    hub = told(stack, "hub", "connection refused", "has shown no certificate")
    client = in_the_way("--env", "SUBAK_TLS_CERT=", "--env", "SUBAK_TLS_KEY=", words=("SUBAK_TLS_CERT",))
    note(f"without a certificate:\n    hub: {hub}\n    outlet: {client}")


def test_with_another_outlets(stack: Stack, makassars: TlsSettings, in_the_way: Callable[..., str], note: Note) -> None:
    error = knock(stack, makassars, "surabaya")
    assert error.code == "identity", error
    hub = told(stack, "hub", "connection refused", "'makassar'", "surabaya")
    mount = f"{makassars.ca.parent}:/tls:ro"
    client = in_the_way("--volume", mount, words=("makassar", "surabaya"))
    note(f"with another outlet's:\n    hub: {hub}\n    outlet: {client}")


def test_with_an_expired_one(
    stack: Stack, makassars: TlsSettings, expired: TlsSettings, in_the_way: Callable[..., str], note: Note
) -> None:
    with pytest.raises(ssl.SSLError, match="certificate expired"):
        shown_by(stack, expired, makassars.ca, ssl.TLSVersion.TLSv1_3)
    hub = told(stack, "hub", "connection refused", "expired")
    client = in_the_way("--volume", f"{expired.ca.parent}:/tls:ro", words=("expired",))
    note(f"with an expired one:\n    hub: {hub}\n    outlet: {client}")


def test_by_an_older_tls(stack: Stack, makassars: TlsSettings, note: Note) -> None:
    with pytest.raises(ssl.SSLError, match="protocol version") as error:
        shown_by(stack, makassars, makassars.ca, ssl.TLSVersion.TLSv1_2)
    hub = told(stack, "hub", "connection refused", "TLS 1.3 is not spoken")
    note(f"by TLS 1.2:\n    hub: {hub}\n    outlet: {error.value}")


def test_with_a_revoked_one_until_it_has_a_new_one_all_without_a_restart(
    stack: Stack, makassars: TlsSettings, note: Note
) -> None:
    services = ("makassar-capture", "makassar-applier")
    started = {name: stack.inspect(name)["State"]["StartedAt"] for name in ("hub", *services)}
    assert "revoked" in stack.subak("pki", "revoke", "makassar")
    hub = told(stack, "hub", "revoked", "makassar", "connection refused")
    client = told(stack, "makassar-applier", "was revoked on", "subak pki issue makassar")
    told(stack, "makassar-capture", "was revoked on", "subak pki issue makassar")
    assert "revoked" in knock(stack, makassars, "makassar").what
    # What it does meanwhile goes nowhere, and the others are not disturbed.
    stack.outlets["makassar"].execute("INSERT INTO customers (id, name, points) VALUES (910000001, 'Putu', 0)")
    stack.outlets["surabaya"].execute("INSERT INTO customers (id, name, points) VALUES (910000002, 'Made', 0)")
    theirs = "SELECT COUNT(*) FROM customers WHERE id BETWEEN 910000001 AND 910000002"
    unsent = "SELECT COUNT(*) FROM CloudQuery WHERE ExportFlag = 0"
    wait_for("surabaya's to be stored", lambda: stack.outlets["surabaya"].count(unsent) == 0, TOLD_SECONDS)
    assert stack.outlets["makassar"].count(theirs) == stack.outlets["surabaya"].count(theirs) == 1
    stack.compose("run", "--rm", "--no-TTY", "makassar-setup")
    stack.wait_healthy(*services)
    stack.settle()
    assert {name: outlet.count(theirs) for name, outlet in stack.outlets.items()} == dict.fromkeys(stack.outlets, 2)
    assert {name: stack.inspect(name)["State"]["StartedAt"] for name in started} == started
    note(f"with a revoked one:\n    hub: {hub}\n    outlet: {client}")
