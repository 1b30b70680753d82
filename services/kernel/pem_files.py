"""PEM files that are whole or not there, whatever dies meanwhile; secret ones are nobody else's from their first byte on."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.kernel.errors import PermanentError

SECRET = 0o600
PUBLIC = 0o644


def pem(signed: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return signed.public_bytes(serialization.Encoding.PEM)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Unprotected, since a service that starts at night has nobody to ask for a password."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_in(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises OSError; ValueError or TypeError when it is no such key, or protected by a password."""
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("it is not a key on an elliptic curve")
    return key


def write(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Written aside, flushed, renamed. Raises PermanentError `pki_file`."""
    with readable(path):
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), SECRET if secret else PUBLIC)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            rename(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise


def rename(old: Path, new: Path) -> None:
    """In one folder; outlives a power cut. Raises OSError."""
    old.rename(new)
    descriptor = os.open(new.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def readable(path: Path, missing: str = "pki_file", todo: str = "") -> Iterator[None]:
    """What goes wrong with the file at `path` becomes PermanentError: `missing` when it is not there, else `pki_file`."""
    try:
        yield
    except FileNotFoundError as error:
        raise PermanentError(
            missing, f"There is no {str(error.filename or path)!r}.", todo or "Correct the path."
        ) from error
    except OSError as error:
        raise PermanentError(
            "pki_file",
            f"{str(error.filename or path)!r} cannot be used: {error.strerror}.",
            "Run this as the user to whom the folder belongs, with room on its disk.",
        ) from error
    except (ValueError, TypeError) as error:
        raise PermanentError(
            "pki_file", f"{str(path)!r} is not what it should be: {error}.", "Put it back from a backup."
        ) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time works in the folder; the lock goes with the process. Raises PermanentError `pki_missing`, `pki_file`."""
    with readable(
        folder, "pki_missing", "There is no authority here yet: `subak pki init`, or name its folder by --dir."
    ):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
