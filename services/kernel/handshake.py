"""TLS begins on a connection. When it fails, both ends say why in plain words: the peer is sent TLS's alert, and an alert is translated."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from services.kernel.certificates import Certificate, issue_command
from services.kernel.errors import TransientError
from services.kernel.wire.session import Side

LINGER_SECONDS = 1.0
"""How long whoever refuses waits for the peer to close: closing with unread input would reset the connection, and lose the alert."""

AUTHORITY = "SUBAK_TLS_CA must be the same authority's certificate at both ends, and have signed both certificates."
TLS_ON = "Check that TLS is on at both ends, or off at both, and that this is the hub's port."
CLOCKS = "Check the clocks of both machines; else have a new one made."
VERSION = "Subak speaks TLS 1.3 only. Check what stands in between: a proxy must pass the connection through unopened."

VERIFYING = {
    7: ("it is not signed by the authority it names", AUTHORITY),
    9: ("it is not yet valid", CLOCKS),
    10: ("it has expired", ""),
    18: ("it is signed by itself", AUTHORITY),
    19: ("it comes from another authority", AUTHORITY),
    20: ("it comes from another authority", AUTHORITY),
    21: ("it comes from another authority", AUTHORITY),
    26: ("it was made for the other end", ""),
}
"""What OpenSSL found wrong with the peer's certificate, by X509_V_ERR; without a `todo` of its own: have a new one made."""

ALERTS = {
    "CERTIFICATE_EXPIRED": ("it has expired", ""),
    "CERTIFICATE_REVOKED": ("it was revoked", ""),
    "CERTIFICATE_REQUIRED": ("none was shown", "Set SUBAK_TLS_CERT and SUBAK_TLS_KEY."),
    "UNKNOWN_CA": ("it comes from another authority", AUTHORITY),
    "DECRYPT_ERROR": ("it is not signed by the authority it names", AUTHORITY),
    "BAD_CERTIFICATE": ("it is not yet valid, or damaged", CLOCKS),
    "UNSUPPORTED_CERTIFICATE": ("it was made for the other end", ""),
    "CERTIFICATE_UNKNOWN": ("it cannot be used", ""),
    "ACCESS_DENIED": ("it is not let in", ""),
}
"""What the peer found wrong with ours, by TLS's alert."""

OTHER_VERSION = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "VERSION_TOO_LOW"}
NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_TOO_SMALL"}
"""A peer of which this is found is not sent an alert: it would take it for something of its own."""


class Held(asyncio.Protocol):
    """Holds a new connection, unread, until it is taken over."""

    def __init__(self, made: Callable[[asyncio.Transport], None] = lambda transport: None) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._made(transport)


async def take(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext | None,
    side: Side,
    seconds: float,
    host: str | None = None,
) -> bool:
    """The connection is the protocol's, after TLS has begun on it; False: it is gone. Raises OSError, TransientError."""
    if context is None:
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()
        return True
    secure = await _begin(transport, protocol, context, side, seconds, host)
    if secure is not None:
        protocol.connection_made(secure)
    return secure is not None


async def _begin(
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    side: Side,
    seconds: float,
    host: str | None = None,
) -> asyncio.Transport | None:
    """The secured transport; None when the peer went away in the very moment. At an outlet, `host` is what it has dialled.

    Raises OSError, of which ssl.SSLError when the two do not trust each other; the connection is closed then, the peer told.
    """
    kept: socket.socket = transport.get_extra_info("socket").dup()  # asyncio closes its own before an alert could leave
    try:
        return await asyncio.get_running_loop().start_tls(
            transport,
            protocol,
            context,
            server_side=side is Side.HUB,
            server_hostname=host,
            ssl_handshake_timeout=seconds,
        )
    except ssl.SSLError as error:
        alert = getattr(error, "alert", b"")
        if alert and error.reason not in NO_TLS:
            with suppress(OSError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await _tell(kept, alert)
        raise
    finally:
        kept.close()


async def _tell(kept: socket.socket, alert: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(kept, alert)
    kept.shutdown(socket.SHUT_WR)
    while await loop.sock_recv(kept, 4096):
        pass


def tls_error(error: ssl.SSLError, side: Side, peer: str, own: Certificate | None) -> TransientError:
    """`side` is this one; `own` the certificate that it has shown."""
    other = Side.OUTLET if side is Side.HUB else Side.HUB
    they = f"the hub at {peer}" if other is Side.HUB else peer
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        found, todo = VERIFYING.get(error.verify_code, (str(error.verify_message).rstrip("."), ""))
        what = f"The certificate that {they} has shown is refused: {found}."
        return _failure(what, todo or f"Have a new one made for it: `{issue_command(None, other)}`.")
    alert = reason.rpartition("ALERT_")[2]
    if alert in ALERTS and alert != reason:
        found, todo = ALERTS[alert]
        what = f"{they[0].upper()}{they[1:]} has refused the certificate of this {side} ({own or 'none'}): {found}."
        return _failure(what, todo or f"Have a new one made: `{issue_command(own and own.name, side)}`.")
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return _failure(f"{peer} has shown no certificate.", "Set SUBAK_TLS_CERT and SUBAK_TLS_KEY there.")
    if reason in OTHER_VERSION:
        return _failure(f"TLS 1.3 is not spoken by {they}.", VERSION)
    if reason in NO_TLS:
        return _failure(f"TLS is not spoken by {they}.", TLS_ON)
    said = reason.replace("_", " ").lower() or str(error)
    return _failure(f"TLS with {they} failed: {said}.", f"{TLS_ON} {AUTHORITY}")


def _failure(what: str, todo: str) -> TransientError:
    return TransientError("certificate", what, todo)
