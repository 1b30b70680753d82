"""What a certificate says, and whether the one at the other end is good enough. No socket and no clock here: the caller brings both."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.kernel.errors import ProtocolError
from services.kernel.wire.session import Side

NEARLY = timedelta(days=30)
"""A certificate with less than this left is told of: time enough to have a new one made and carried to a far outlet."""

USAGES = {Side.HUB: ExtendedKeyUsageOID.SERVER_AUTH, Side.OUTLET: ExtendedKeyUsageOID.CLIENT_AUTH}
"""What a certificate must be good for at each side, if it says what it is good for at all."""


class Certificate(NamedTuple):
    """One certificate, of an outlet or of a hub."""

    name: str | None
    """Whose it is: its subject's common name, or else its first DNS name."""
    sides: frozenset[Side]
    """Where it may be shown. Its organisational unit `hub` or `outlet` says so, and its extended key usage; both do where neither is there."""
    serial: int
    issuer: x509.Name
    """Who signed it: the same name however its letters are encoded."""
    starts: datetime
    ends: datetime

    def days_left(self, now: datetime) -> float:
        return (self.ends - now).total_seconds() / 86_400

    def __str__(self) -> str:
        return f"{self.name}'s certificate {number(self.serial)}, good until {moment(self.ends)}"


def number(serial: int) -> str:
    """A serial as it is written everywhere: in files' names, logs and lists."""
    return f"{serial:x}"


def moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def certificate(der: bytes) -> Certificate:
    """Raises ValueError when it is none."""
    return described(x509.load_der_x509_certificate(der))


def certificate_in(path: Path) -> Certificate:
    """The first in a PEM file: a service's own. Raises OSError, ValueError."""
    return described(x509.load_pem_x509_certificate(path.read_bytes()))


def described(found: x509.Certificate) -> Certificate:
    """Raises ValueError for one that says nothing clear, or that cannot be read: an authority of one's own may sign anything."""
    try:
        return Certificate(
            next(_names(found), None),
            frozenset(side for side in Side if _fits(found, side)),
            found.serial_number,
            found.issuer,
            found.not_valid_before_utc,
            found.not_valid_after_utc,
        )
    except (TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, UnsupportedAlgorithm) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _names(found: x509.Certificate) -> Iterator[str]:
    """Raises ValueError when it has two common names: which of them is it?"""
    common = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(common) > 1:
        raise ValueError(f"it has {len(common)} common names, and may have one")
    for attribute in common:
        if not isinstance(attribute.value, str):
            raise ValueError("its common name is not text")
        yield attribute.value
    try:
        others = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    yield from others.get_values_for_type(x509.DNSName)


def _fits(found: x509.Certificate, side: Side) -> bool:
    """A unit of any other name, as an authority of one's own may give, says nothing of the side."""
    units = {str(unit.value) for unit in found.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)}
    if units & set(Side) and side not in units:
        return False
    try:
        usages = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return USAGES[side] in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages


def refusal(peer: Certificate, side: Side, revoked: datetime | None, now: datetime) -> ProtocolError | None:
    """Why the certificate that the peer, which is a `side`, has shown is not, or no longer, good; None: it is."""
    todo = f"Have a new one made where the authority is (`{issue_command(peer.name, side)}`) and put its files in place of the old ones."
    whose = f"certificate of {peer.name} ({number(peer.serial)})"
    if revoked is not None:
        return ProtocolError("revoked", f"The {whose} was revoked on {moment(revoked)}.", todo)
    if peer.ends <= now:
        return ProtocolError("expired", f"The {whose} expired on {moment(peer.ends)}.", todo)
    if side not in peer.sides:
        other = Side.OUTLET if side is Side.HUB else Side.HUB
        return ProtocolError("identity", f"The {whose} was made for {a(other)}, and {a(side)} has shown it.", todo)
    return None


def a(side: Side) -> str:
    return f"a{'n' if side is Side.OUTLET else ''} {side}"


def issue_command(name: str | None, side: Side) -> str:
    return f"subak pki issue {name or 'NAME'}{' --hub' if side is Side.HUB else ''}"
