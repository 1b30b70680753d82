"""The operator's own certificate authority, in a folder: it makes certificates for the hub and the outlets, and takes them back.

    ca.pem  crl.pem  issued/<serial>.pem     public
    private/ca.key                           whoever has it can speak for everybody

The folder is the only state there is. Files appear whole (`pem_files.py`); several processes may work on one folder at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from services.kernel.certificates import NEARLY, Certificate, a, described, moment, number
from services.kernel.errors import PermanentError
from services.kernel.issuing import authority_certificate, empty_list, general_name, hosts_of, leaf, revocation_list
from services.kernel.naming import check_outlet_name
from services.kernel.pem_files import key_in, key_pem, locked, pem, readable, rename, write
from services.kernel.wire.session import Side

AUTHORITY_DAYS = 3650
LEAF_DAYS = 397
"""A little more than a year: renewed once a year, with a month to spare."""


@dataclass(frozen=True)
class Issued:
    """One certificate as the authority remembers it."""

    certificate: Certificate
    side: Side
    revoked_at: datetime | None

    def state(self, now: datetime) -> str:
        if self.revoked_at is not None:
            return "revoked"
        if self.certificate.starts > now:
            return "not yet valid"
        if self.certificate.ends <= now:
            return "expired"
        return "expires soon" if self.certificate.ends - now < NEARLY else "valid"


@dataclass(frozen=True)
class Handed:
    """What `issue` left in the folder."""

    certificate: Certificate
    new: bool
    """Whether it was made now; else a good one was there."""


class Authority:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = folder / "ca.pem"
        self.crl = folder / "crl.pem"
        self.issued = folder / "issued"
        self.private = folder / "private"
        self.key = self.private / "ca.key"

    # ---- what an operator does

    def init(self, name: str, lifetime: timedelta) -> bool:
        """Whether it was made now: what is there is never written over, so that a start which was interrupted is gone on with.

        Raises PermanentError `pki_file`, `pki_incomplete`.
        """
        with readable(self.folder):
            for folder, mode in ((self.folder, 0o755), (self.issued, 0o755), (self.private, 0o700)):
                folder.mkdir(mode=mode, parents=True, exist_ok=True)
        beginning = self.private / "beginning.key"
        with locked(self.private):
            if self.key.exists() or (self.ca.exists() and not beginning.exists()):
                # Somebody may have a certificate of it. What is missing is never made anew: an empty list would let back in who was revoked.
                if not self.ca.exists():
                    raise PermanentError(
                        "pki_incomplete",
                        f"{str(self.key)!r} is the key of an authority whose certificate, {str(self.ca)!r}, is not there.",
                        "Put it and crl.pem back from a backup, or the hub's copies; or begin anew in an empty folder, and issue "
                        "everybody's certificate again.",
                    )
                self._signer()
                self._list()
                return False
            key = ec.generate_private_key(ec.SECP256R1())
            ca = authority_certificate(key, name, lifetime)
            write(beginning, key_pem(key), secret=True)
            write(self.crl, pem(empty_list(ca, key)))
            write(self.ca, pem(ca))
            rename(beginning, self.key)  # last: its being there says that all is
            return True

    def issue(
        self, name: str, side: Side, folder: Path, hosts: Sequence[str], lifetime: timedelta, renew: bool = False
    ) -> Handed:
        """FOLDER/ca.pem, cert.pem and key.pem are `name`'s afterwards. A good certificate that is there stays, unless it is to be renewed.

        The key stays too, so that a service which reads the files at this very moment, or finds them after a crash here, has a pair that
        fits; only after a revocation is there a new one. Raises PermanentError `pki_missing`, `pki_file`, `pki_incomplete`, `pki_expired`,
        `pki_taken`, `pki_host`, `outlet_name`.
        """
        if side is Side.OUTLET:
            check_outlet_name(name)
        with locked(self.private):
            ca, key = self._signer()
            with readable(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            standing = self._standing(folder, ca, name, side)
            if standing is not None and not renew and self._good(standing, hosts):
                self._copy_authority(folder, ca)
                return Handed(described(standing), new=False)
            own = self._own_key(folder, standing)
            if standing is not None and not self._is_revoked(
                standing
            ):  # the hub: outlets dial these, whoever renews it
                hosts = sorted({*hosts, *hosts_of(standing)})
            made = leaf(ca, key, own.public_key(), name, side, hosts, lifetime)
            write(
                self.issued / f"{number(made.serial_number)}.pem", pem(made)
            )  # first: it can be revoked before it is used
            self._copy_authority(folder, ca)
            write(folder / "key.pem", key_pem(own), secret=True)
            write(folder / "cert.pem", pem(made))
            return Handed(described(made), new=True)

    def revoke(self, name: str, shown: Path | None = None) -> list[Issued]:
        """Those of `name` that were good until now; none: all of them are revoked already. In force when this returns.

        `shown`: also the one in that PEM file, which this authority need not remember: a backup of it may be older. Raises PermanentError
        `pki_unknown` when there is none, or the file's is not `name`'s or not this authority's, and as `issue`.
        """
        with locked(self.private):
            ca, key = self._signer()
            now = datetime.now(UTC)
            if shown is not None:
                self._remember(shown, ca, name)
            whose = [one for one in self.listed() if one.certificate.name == name and one.certificate.ends > now]
            if not whose:
                raise PermanentError(
                    "pki_unknown",
                    f"This authority has issued no certificate to {name} that is still good.",
                    "`subak pki list` shows whose there are.",
                )
            good = [one for one in whose if one.revoked_at is None]
            if good:
                serials = [one.certificate.serial for one in good]
                write(self.crl, pem(revocation_list(ca, key, self._list(), serials)))
            return good

    def listed(self) -> list[Issued]:
        """Everything issued: by name, the newest first. Needs no key. Raises PermanentError `pki_missing`, `pki_file`."""
        self._certificate()
        found = [one for one, _ in self._every_issued()]
        return sorted(found, key=lambda one: (one.certificate.name or "", -one.certificate.starts.timestamp()))

    def _every_issued(self) -> Iterator[tuple[Issued, x509.Certificate]]:
        revoked = {entry.serial_number: entry.revocation_date_utc for entry in self._list()}
        for path in sorted(self.issued.glob("*.pem")):
            with readable(
                path,
                todo="Put it back from a backup, or take it out of that folder: then it can be revoked by --certificate.",
            ):
                found = x509.load_pem_x509_certificate(path.read_bytes())
                one = described(found)
            yield Issued(one, Side.HUB if Side.HUB in one.sides else Side.OUTLET, revoked.get(one.serial)), found

    def ends(self) -> datetime:
        """When the authority's own certificate ends, and with it all that it has made. Raises as `listed`."""
        return self._certificate().not_valid_after_utc

    def _remember(self, path: Path, ca: x509.Certificate, name: str) -> None:
        with readable(path):
            found = x509.load_pem_x509_certificate(path.read_bytes())
            there = described(found)
        try:
            found.verify_directly_issued_by(ca)
        except (InvalidSignature, ValueError, TypeError):
            there = there._replace(name=None)
        if there.name != name:
            raise PermanentError(
                "pki_unknown",
                f"{str(path)!r} is no certificate that this authority has issued to {name}.",
                "Name the outlet that it was issued to, and the authority by --dir.",
            )
        write(self.issued / f"{number(found.serial_number)}.pem", pem(found))

    # ---- its own files

    def _certificate(self) -> x509.Certificate:
        with readable(
            self.ca, "pki_missing", "There is no authority here yet: `subak pki init`, or name its folder by --dir."
        ):
            return x509.load_pem_x509_certificate(self.ca.read_bytes())

    def _signer(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        ca = self._certificate()
        with readable(self.key, "pki_incomplete", "Put the authority's key back there, or work where it is."):
            key = key_in(self.key)
        if key.public_key() != ca.public_key():
            raise PermanentError(
                "pki_incomplete",
                f"{str(self.key)!r} is not the key of {str(self.ca)!r}.",
                "Put back the two that belong together.",
            )
        if ca.not_valid_after_utc <= datetime.now(UTC):
            raise PermanentError(
                "pki_expired",
                f"This authority's own certificate expired on {moment(ca.not_valid_after_utc)}.",
                "Make a new authority in another folder, and certificates of it for everybody.",
            )
        return ca, key

    def _list(self) -> x509.CertificateRevocationList:
        # A new, empty one would let back in whoever was revoked.
        with readable(
            self.crl, "pki_incomplete", "Put the list of revoked certificates back from a backup, or a hub's copy."
        ):
            return x509.load_pem_x509_crl(self.crl.read_bytes())

    # ---- what stands in the folder of a hub or an outlet

    def _standing(self, folder: Path, ca: x509.Certificate, name: str, side: Side) -> x509.Certificate | None:
        """The certificate there, when it is this authority's and its key beside it. Raises PermanentError `pki_taken`."""
        path = folder / "cert.pem"
        try:
            with readable(path):
                found = x509.load_pem_x509_certificate(path.read_bytes())
        except PermanentError:
            if path.exists():
                raise
            return None
        there = described(found)
        if there.name != name or side not in there.sides:
            raise PermanentError(
                "pki_taken",
                f"{str(path)!r} is the certificate of {there.name}, and not one for {name} as {a(side)}.",
                "Name another folder by --out, or empty this one.",
            )
        try:
            found.verify_directly_issued_by(ca)
            fits = key_in(folder / "key.pem").public_key() == found.public_key()
        except (InvalidSignature, OSError, ValueError, TypeError):
            return None
        return found if fits else None

    def _good(self, standing: x509.Certificate, hosts: Sequence[str]) -> bool:
        wanted = {str(general_name(host).value) for host in hosts}
        now = datetime.now(UTC)
        begun = standing.not_valid_before_utc <= now  # not so when the clock was ahead as it was made
        return (
            begun
            and standing.not_valid_after_utc - now >= NEARLY
            and not self._is_revoked(standing)
            and hosts_of(standing) >= wanted
        )

    def _is_revoked(self, found: x509.Certificate) -> bool:
        return self._list().get_revoked_certificate_by_serial_number(found.serial_number) is not None

    def _own_key(self, folder: Path, standing: x509.Certificate | None) -> ec.EllipticCurvePrivateKey:
        path = folder / "key.pem"
        if standing is not None and not self._is_revoked(standing):
            return key_in(path)
        if standing is None and not (folder / "cert.pem").exists() and path.exists():  # an interrupted beginning
            with suppress(OSError, ValueError, TypeError):
                found = key_in(path)
                if not self._was_revoked(found):
                    return found
        return ec.generate_private_key(ec.SECP256R1())

    def _was_revoked(self, key: ec.EllipticCurvePrivateKey) -> bool:
        """Whether it is that of a certificate that was taken back: somebody else may have it."""
        return any(
            one.revoked_at is not None and found.public_key() == key.public_key() for one, found in self._every_issued()
        )

    def _copy_authority(self, folder: Path, ca: x509.Certificate) -> None:
        """One that is there stays if this one is in it: while another follows, or is followed, it holds both."""
        path = folder / "ca.pem"
        try:
            known = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            known = []
        if ca not in known:
            write(path, pem(ca))
