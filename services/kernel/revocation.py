"""Lists of certificates that their authority has taken back (CRLs): PEM, one or several in a file, each signed by its authority."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from services.kernel.certificates import Certificate

_BEGIN = b"-----BEGIN X509 CRL-----"
_LIST = re.compile(_BEGIN + rb".*?-----END X509 CRL-----\n?", re.DOTALL)


class Revoked(NamedTuple):
    """What such a file says."""

    since: dict[tuple[x509.Name, int], datetime]
    """By issuer and serial."""
    renewed_by: datetime | None
    """When the authority will have made a new list by its own word; a list past that counts all the same. None: it does not say."""
    numbers: dict[x509.Name, int]
    """By issuer, the number of its list, the greatest of several, where it has one: the greater was made later."""

    def at(self, certificate: Certificate) -> datetime | None:
        """Since when it is revoked; None: it is not."""
        return self.since.get((certificate.issuer, certificate.serial))


NOTHING = Revoked({}, None, {})


def revoked(path: Path, ca: Path, before: Revoked = NOTHING) -> Revoked:
    """Raises OSError; ValueError when it holds no list, or one that none of the authorities in `ca` has signed; or when it would let
    somebody back in by oversight: a list older than the one `before`, or none any more of an authority that is still trusted.
    """
    content = path.read_bytes()
    lists = _LIST.findall(content)
    if len(lists) != content.count(_BEGIN):
        raise ValueError("a list in it is cut off")
    if not lists:
        raise ValueError("it holds no list of revoked certificates in PEM")
    authorities = x509.load_pem_x509_certificates(ca.read_bytes())
    since: dict[tuple[x509.Name, int], datetime] = {}
    renewals = []
    numbers: dict[x509.Name, int] = {}
    for pem in lists:
        found = x509.load_pem_x509_crl(pem)
        if not any(found.issuer == one.subject and _signed(found, one.public_key()) for one in authorities):
            raise ValueError(f"it is not signed by the authority in {str(ca)!r}")
        numbers[found.issuer] = max(_number(found), numbers.get(found.issuer, 0))
        since |= {(found.issuer, entry.serial_number): entry.revocation_date_utc for entry in found}
        if found.next_update_utc is not None:
            renewals.append(found.next_update_utc)
    for issuer, number in numbers.items():
        if number < before.numbers.get(issuer, 0):
            raise ValueError(
                f"number {number} of the list is older than number {before.numbers[issuer]}, which was there before; if it is meant to"
                " count, restart the service"
            )
    for issuer in before.numbers.keys() - numbers.keys():
        if any(issuer == one.subject for one in authorities):
            raise ValueError(f"the list of {issuer.rfc4514_string()}, which is still trusted, is not in it any more")
    return Revoked(since, min(renewals, default=None), numbers)


def _number(found: x509.CertificateRevocationList) -> int:
    """0: it has none."""
    try:
        return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def _signed(found: x509.CertificateRevocationList, key: CertificatePublicKeyTypes) -> bool:
    try:
        return found.is_signature_valid(key)  # type: ignore[arg-type]  # a kind of key that signs nothing is a TypeError
    except (TypeError, UnsupportedAlgorithm):
        return False
