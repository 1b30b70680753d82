"""What the authority signs: its own certificate, those of the hub and the outlets, its list of revoked ones. No file here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.kernel.certificates import USAGES
from services.kernel.errors import PermanentError
from services.kernel.wire.session import Side

BACKDATED = timedelta(days=1)
"""An outlet whose clock is behind must not find its new certificate not yet valid."""

HERE = ("localhost", "127.0.0.1")
"""Every hub's certificate is good for these too: who is on its machine asks it there."""

MAX_HOST = 253
"""Letters of a name, as the domain name system has it."""

_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

_SIGNS = dict.fromkeys(
    (
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


def authority_certificate(key: ec.EllipticCurvePrivateKey, name: str, lifetime: timedelta) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        _begun(subject, subject, key.public_key(), datetime.now(UTC) + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **_SIGNS), critical=True
        )
        .sign(key, hashes.SHA256())
    )


def leaf(
    ca: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    name: str,
    side: Side,
    hosts: Sequence[str],
    lifetime: timedelta,
) -> x509.Certificate:
    """For an outlet or the hub, and good for that only. It ends no later than the authority. Raises PermanentError `pki_host`."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, side.value),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    ends = min(datetime.now(UTC) + lifetime, ca.not_valid_after_utc)
    builder = (
        _begun(subject, ca.subject, public, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **_SIGNS), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([USAGES[side]]), critical=False)
        .add_extension(_authority_key(ca), critical=False)
    )
    if side is Side.HUB:
        names = [general_name(host) for host in dict.fromkeys((*hosts, *HERE))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def general_name(host: str) -> x509.GeneralName:
    """Raises PermanentError `pki_host`."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > MAX_HOST or not _HOST.fullmatch(host):
        raise PermanentError(
            "pki_host",
            f"{host[:80]!r} is no host that outlets could dial.",
            "Give the name or the IP address in their SUBAK_HUB, without the port.",
        )
    return x509.DNSName(host)


def hosts_of(found: x509.Certificate) -> set[str]:
    """The names and addresses that a hub's certificate is good for."""
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def empty_list(ca: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> x509.CertificateRevocationList:
    return _list(ca, key, 1, ())


def revocation_list(
    ca: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    former: x509.CertificateRevocationList,
    serials: Iterable[int],
) -> x509.CertificateRevocationList:
    """The former one and, from now on, `serials`."""
    now = datetime.now(UTC)
    added = [x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build() for serial in serials]
    count = former.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return _list(ca, key, count + 1, (*former, *added))


def _list(
    ca: x509.Certificate, key: ec.EllipticCurvePrivateKey, count: int, entries: Iterable[x509.RevokedCertificate]
) -> x509.CertificateRevocationList:
    """It is due anew only when the authority ends: nobody has to come by so that it goes on counting."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(datetime.now(UTC))
        .next_update(ca.not_valid_after_utc)
        .add_extension(x509.CRLNumber(count), critical=False)
        .add_extension(_authority_key(ca), critical=False)
    )
    for entry in entries:
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256())


def _begun(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, ends: datetime
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _authority_key(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
