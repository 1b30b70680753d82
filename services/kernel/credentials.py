"""What a service trusts and shows: its TLS files as they are now. Whoever renews or revokes a certificate restarts nothing."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

from services.kernel.certificates import Certificate, moment, refusal
from services.kernel.errors import ProtocolError, TransientError
from services.kernel.revocation import NOTHING, Revoked, revoked
from services.kernel.telemetry import logger
from services.kernel.tls import TlsSettings, check_certificate, own_context
from services.kernel.wire.session import Side

LOOK_SECONDS = 2.0
"""How soon a change of the files, a revoked certificate and one that expires are noticed on connections that stand."""

MAX_BYTES = 16 * 1024 * 1024
"""Of one file: a list of 400,000 revoked certificates; a longer one would keep the hub from its work for seconds whenever it changes."""

log = logger("certificates")


class UnfitError(ValueError):
    """The files are whole, and what they say is no good at this time: it may be later, though they stay as they are."""


T = TypeVar("T")


class Followed(Generic[T]):
    """What some files say, read anew when one of them has changed. While they cannot be read, what they said last counts."""

    def __init__(self, paths: tuple[Path, ...], read: Callable[[], T]) -> None:
        """`read` may raise OSError and ValueError."""
        self._paths = paths
        self._read = read
        self._seen: object = None
        self._value: T | None = None
        self._error: Exception | None = None

    @property
    def last(self) -> T | None:
        """What they said last, without a look at them."""
        return self._value

    @property
    def why(self) -> str:
        """Why that is not what they say now, as of the last look; empty: it is."""
        return f"{', '.join(map(str, self._paths))}: {_reason(self._error)}" if self._error is not None else ""

    def value(self) -> T:
        """Raises TransientError `certificate` where they have never said anything yet."""
        found = [_signature(path) for path in self._paths]
        if found != self._seen:
            self._seen = found  # before reading: what changes meanwhile is read once more
            try:
                for path in self._paths:
                    _require_file(path)
                self._value, self._error = self._read(), None
            except (OSError, ValueError) as error:
                told, self._error = self._error, error
                if isinstance(error, (OSError, UnfitError)):
                    # It looks again: the files may be good, and this process at a limit, or its clock wrong.
                    self._seen = None
                if self._value is not None and (told is None or _reason(told) != _reason(error)):
                    log.error(
                        "files cannot be used; what they said before goes on counting",
                        files=", ".join(map(str, self._paths)),
                        why=_reason(error),
                    )
        if self._value is None:
            raise TransientError(
                "certificate",
                f"{', '.join(map(str, self._paths))} cannot be used: {_reason(self._error)}.",
                "Put whole PEM files there that this service may read.",
            )
        return self._value


def _require_file(path: Path) -> None:
    """Raises OSError, ValueError: a pipe would be waited for, and something without end read for ever."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{str(path)!r} is no file")
    if found.st_size > MAX_BYTES:
        raise ValueError(f"{str(path)!r} has more than {MAX_BYTES:,} bytes")


def _signature(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _reason(error: Exception | None) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").replace("_", " ").lower()
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _now() -> datetime:
    return datetime.now(UTC)


class Credentials:
    """Of one service, at its `side`."""

    def __init__(self, tls: TlsSettings, side: Side, now: Callable[[], datetime] = _now) -> None:
        self.side = side
        self._now = now
        self._tls = tls
        self._own = Followed((tls.ca, tls.cert, tls.key), self._read_own)
        self._revoked = Followed((tls.crl, tls.ca), self._read_list) if tls.crl is not None else None

    @classmethod
    def of(cls, tls: TlsSettings | None, side: Side) -> Credentials | None:
        """The same ones for as long as the process lives: what files said last must outlive a turn. None without TLS."""
        return _made(tls, side) if tls is not None else None

    def load(self) -> None:
        """Raises TransientError. Afterwards nothing here does."""
        self._own.value()
        if self._revoked is not None:
            self._revoked.value()

    @property
    def usable(self) -> bool:
        """Whether the files as they stand now say what counts. If not, what they said before does."""
        return not self.why

    @property
    def why(self) -> str:
        """What is wrong with them, if they are not."""
        return "; ".join(one.why for one in (self._own, self._revoked) if one is not None and one.why)

    def context(self) -> ssl.SSLContext:
        """For the next connection. Raises TransientError."""
        return self._own.value()[0]

    def own(self) -> Certificate:
        """What the next connection shows. Raises TransientError."""
        return self._own.value()[1]

    def authorities(self) -> frozenset[bytes]:
        """Whose certificates are trusted in the next connection, in DER. Raises TransientError."""
        return frozenset(self.context().get_ca_certs(binary_form=True))

    def refusal(self, peer: Certificate) -> ProtocolError | None:
        """Why a peer with this certificate is not, or no longer, trusted. Raises TransientError."""
        known = self._revoked.value() if self._revoked is not None else NOTHING
        return refusal(peer, Side.OUTLET if self.side is Side.HUB else Side.HUB, known.at(peer), self._now())

    def _read_own(self) -> tuple[ssl.SSLContext, Certificate]:
        """Raises OSError, ValueError; also for a pair that the other end would refuse: the one before may still be good."""
        if self._own.last is not None:
            name = self._own.last[1].name if self.side is Side.OUTLET else None
            for fault in check_certificate(self._tls.cert, self.side, name, self._now()):
                raise UnfitError(fault.what.rstrip("."))
        found = own_context(self._tls, self.side)
        if self._tls.key.stat().st_mode & stat.S_IROTH:
            log.warning(
                "the key can be read by every user of this machine, who may then pass for this service",
                file=str(self._tls.key),
                todo="Let this service's user only read it: chmod 600.",
            )
        return found

    def _read_list(self) -> Revoked:
        assert self._revoked is not None and self._tls.crl is not None
        found = revoked(self._tls.crl, self._tls.ca, self._revoked.last or NOTHING)
        log.info("list of revoked certificates read", file=str(self._tls.crl), revoked=len(found.since))
        if found.renewed_by is not None and found.renewed_by < self._now():
            # Refusing everybody would stop every shop because the authority's operator was on holiday: what is revoked stays so.
            log.warning(
                "the list of revoked certificates is overdue: it counts as it stands, later revocations are not in it",
                file=str(self._tls.crl),
                due=moment(found.renewed_by),
            )
        return found


@cache
def _made(tls: TlsSettings, side: Side) -> Credentials:
    return Credentials(tls, side)
