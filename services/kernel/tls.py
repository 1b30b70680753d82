"""TLS 1.3 with a certificate at both ends, signed by the operator's own authority: the files, what is wrong with them, the contexts."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from services.kernel.certificates import Certificate, a, certificate_in, issue_command, moment
from services.kernel.revocation import revoked
from services.kernel.wire.session import Side


class TlsSettings(NamedTuple):
    """Paths of PEM files: the authority's certificate, this service's certificate, its key, and what the authority has revoked."""

    ca: Path
    cert: Path
    key: Path
    crl: Path | None = None


class TlsFault(NamedTuple):
    """What is wrong with which of the files."""

    file: str
    what: str
    todo: str


class EncryptedKeyError(ValueError):
    """A key that asks for a password: nobody is there to type it."""


def check_tls(tls: TlsSettings, side: Side, name: str | None, now: datetime) -> list[TlsFault]:
    """Everything that would keep the files from being used at `side`. At an outlet the certificate must be made for its `name`."""
    faults = []
    for file, path in tls._asdict().items():
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            faults.append(
                TlsFault(file, f"{str(path)!r} cannot be read: {error.strerror}.", "Set it to the path of a PEM file.")
            )
    if faults:
        return faults
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(tls.ca)
    except ssl.SSLError:
        faults.append(TlsFault("ca", f"{str(tls.ca)!r} holds no certificate.", "Set it to a PEM file."))
    try:
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    except (ssl.SSLError, EncryptedKeyError) as error:
        if isinstance(error, EncryptedKeyError):
            what, todo = "the key is protected by a password", "Use a key without one, readable by this service only."
        elif "MISMATCH" in (error.reason or ""):
            what, todo = "the key is not that of the certificate", "Set both from one pair."
        else:
            what, todo = f"no certificate with a key: {error.reason or 'not PEM'}", "Set both to PEM files."
        faults.append(TlsFault("key", f"{str(tls.cert)!r} and {str(tls.key)!r}: {what}.", todo))
    if faults:
        return faults
    return [*check_certificate(tls.cert, side, name, now), *_check_list(tls)]


def check_certificate(path: Path, side: Side, name: str | None, now: datetime) -> Iterator[TlsFault]:
    """What is wrong with a service's own. Raises OSError."""
    try:
        own = certificate_in(path)
    except ValueError as error:
        yield TlsFault(
            "cert", f"{str(path)!r} cannot be used: {error}.", f"Have one made by `{issue_command(name, side)}`."
        )
        return
    if own.starts > now:
        todo = "Check this machine's clock; else have a new one made."
        yield TlsFault("cert", f"{str(path)!r} is good from {moment(own.starts)} on only.", todo)
    if own.ends < now:
        todo = f"Have a new one made: `{issue_command(own.name, side)}`."
        yield TlsFault("cert", f"{str(path)!r} has expired on {moment(own.ends)}.", todo)
    if side not in own.sides:
        what = f"{str(path)!r} was not made for {a(side)}: the other end would refuse it."
        yield TlsFault("cert", what, f"Have one made by `{issue_command(name, side)}`.")
    if name is not None and own.name is not None and own.name != name:
        yield TlsFault(
            "cert",
            f"{str(path)!r} is the certificate of {own.name!r}; SUBAK_OUTLET is {name!r}.",
            "Use this outlet's own certificate, or correct SUBAK_OUTLET.",
        )


def _check_list(tls: TlsSettings) -> Iterator[TlsFault]:
    if tls.crl is None:
        return
    try:
        revoked(tls.crl, tls.ca)
    except (OSError, ValueError) as error:
        yield TlsFault(
            "crl",
            f"{str(tls.crl)!r}: {error}.",
            "Set it to the authority's own list, such as the crl.pem of `subak pki`.",
        )


def own_context(tls: TlsSettings, side: Side) -> tuple[ssl.SSLContext, Certificate]:
    """For new connections, with this service's certificate as the files have it now. Raises OSError, ValueError.

    The hub lets nobody in without a certificate of the authority. An outlet wants one of the hub that is the authority's, and made for
    the host that it dials.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER if side is Side.HUB else ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(tls.ca)
    context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    if side is Side.OUTLET:
        context.hostname_checks_common_name = False  # what a certificate is called is no host that it was made for
    else:
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0  # nobody comes back without its certificate being looked at again
    return context, certificate_in(tls.cert)


class _Connection(ssl.SSLObject):
    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        """What the other side should be told of a failure (TLS's alert) goes with the error as `alert`: asyncio would drop it."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            error.alert = self.outgoing.read()  # type: ignore[attr-defined]
            raise


class _Context(ssl.SSLContext):
    sslobject_class = _Connection

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        connection = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(connection, _Connection)
        connection.outgoing = outgoing
        return connection


def _context(protocol: int) -> ssl.SSLContext:
    context = _Context(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _no_password() -> str:
    raise EncryptedKeyError("the key is protected by a password")
