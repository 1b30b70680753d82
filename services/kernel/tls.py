"""Who is who on the wire: TLS 1.3 with a certificate at both ends, signed by the operator's own authority."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID


class TlsSettings(NamedTuple):
    """Paths of PEM files: the authority's certificate, this service's certificate, and its key."""

    ca: Path
    cert: Path
    key: Path


class TlsFault(NamedTuple):
    """What is wrong with which of the three files."""

    file: str
    what: str
    todo: str


def check_tls(tls: TlsSettings, name: str | None, now: datetime) -> list[TlsFault]:
    """Everything that would keep the files from being used. At an outlet the certificate must be made for its `name`."""
    faults = []
    for file, path in tls._asdict().items():
        try:
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
    except (ssl.SSLError, _EncryptedKey) as error:
        if isinstance(error, _EncryptedKey):
            what, todo = "the key is protected by a password", "Use a key without one, readable by this service only."
        elif "MISMATCH" in (error.reason or ""):
            what, todo = "the key is not that of the certificate", "Set both from one pair."
        else:
            what, todo = f"no certificate with a key: {error.reason or 'not PEM'}", "Set both to PEM files."
        faults.append(TlsFault("key", f"{str(tls.cert)!r} and {str(tls.key)!r}: {what}.", todo))
    return faults or _check_certificate(tls.cert, name, now)


def _check_certificate(path: Path, name: str | None, now: datetime) -> list[TlsFault]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    faults = []
    if certificate.not_valid_after_utc < now:
        ended = certificate.not_valid_after_utc.date()
        faults.append(TlsFault("cert", f"{str(path)!r} has expired on {ended}.", "Have a new one made."))
    names = [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if name is not None and names and names[0] != name:
        faults.append(
            TlsFault(
                "cert",
                f"{str(path)!r} is the certificate of {names[0]!r}; SUBAK_OUTLET is {name!r}.",
                "Use this outlet's own certificate, or correct SUBAK_OUTLET.",
            )
        )
    return faults


def server_context(tls: TlsSettings) -> ssl.SSLContext:
    """A client without a certificate of the authority does not get in."""
    context = _loaded(ssl.PROTOCOL_TLS_SERVER, tls)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """The hub's certificate must be the authority's, and made for the host that is dialled."""
    return _loaded(ssl.PROTOCOL_TLS_CLIENT, tls)


def certificate_name(connection: ssl.SSLObject | ssl.SSLSocket) -> str | None:
    """Whose certificate the peer has shown: its subject's common name, or else its first DNS name."""
    certificate: dict[str, Any] = connection.getpeercert() or {}  # RFC 5280's shapes: nested pairs of name and value
    names = [pair for part in certificate.get("subject", ()) for pair in part]
    for kind, value in (*names, *certificate.get("subjectAltName", ())):
        if kind in ("commonName", "DNS"):
            return str(value)
    return None


def _loaded(protocol: int, tls: TlsSettings) -> ssl.SSLContext:
    context = _context(protocol)
    context.load_verify_locations(tls.ca)
    context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class _EncryptedKey(Exception):
    """A key that asks for a password: nobody is there to type it."""


def _no_password() -> str:
    raise _EncryptedKey
