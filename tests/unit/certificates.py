"""Certificates for tests: by the product's own authority, and by a foreign one that signs whatever it is asked to."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.kernel import authority
from services.kernel.credentials import Credentials
from services.kernel.tls import TlsSettings
from services.kernel.wire.session import Side

ISSUER_DAYS = 3650


class Certificates:
    """What `subak pki` makes, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.authority = authority.Authority(folder)
        self.authority.init("Subak", timedelta(days=ISSUER_DAYS))

    def issue(
        self, name: str, side: Side = Side.OUTLET, lifetime: timedelta = timedelta(days=1), *, renew: bool = True
    ) -> TlsSettings:
        """With the authority's list of revoked ones."""
        folder = self.authority.private / name
        self.authority.issue(name, side, folder, (), lifetime, renew)
        return TlsSettings(folder / "ca.pem", folder / "cert.pem", folder / "key.pem", self.authority.crl)


def trust(tls: TlsSettings | None, side: Side) -> Credentials | None:
    return None if tls is None else Credentials(tls, side)


class Authority:
    """One that is not Subak's: what it signs says nothing of where it may be shown, unless it is told to lie."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        certificate = (
            _certificate(self._name, self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._ca = folder / f"{name}.pem"
        self._ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        days: float = 1,
        password: bytes | None = None,
        unit: str | None = None,
        usages: Sequence[x509.ObjectIdentifier] = (),
    ) -> TlsSettings:
        """A certificate for `name`, good for 127.0.0.1 and localhost too. Negative `days`: it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        hosts = [
            x509.DNSName(name),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        certificate = _certificate(_named(name, unit), self._name, key, days).add_extension(
            x509.SubjectAlternativeName(hosts), critical=False
        )
        if usages:
            certificate = certificate.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        signed = certificate.sign(self._key, hashes.SHA256())
        tls = TlsSettings(self._ca, self._folder / f"{name}.pem", self._folder / f"{name}.key")
        tls.cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        tls.key.touch(0o600)
        tls.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption(),
            )
        )
        return tls

    def revoke(self, *certificates: TlsSettings, due: timedelta = timedelta(days=1)) -> Path:
        """A list of those, to be made anew `due` from now."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - timedelta(days=2))
            .next_update(now + due)
        )
        for tls in certificates:
            serial = x509.load_pem_x509_certificate(tls.cert.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        path = self._ca.with_suffix(".crl")
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path


def _named(name: str, unit: str | None = None) -> x509.Name:
    units = [] if unit is None else [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)]
    return x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float = 1
) -> x509.CertificateBuilder:
    until = datetime.now(UTC) + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - timedelta(days=2))
        .not_valid_after(until)
    )
