"""One connection as a state machine, seen from the hub or from an outlet: bytes in, messages out. PROTOCOL.md is its text.

After h11 (https://h11.readthedocs.io): no networking code at all, and time is an argument. What comes in is judged by the
rules; what goes out is followed, so that the answers to it can be judged, and it is the peer that judges it.
All times are seconds of one monotonic clock.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from services.kernel.errors import ProtocolError, TransientError
from services.kernel.wire.frames import UPGRADE, FrameReader, frame
from services.kernel.wire.messages import (
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    PROTOCOL_VERSION,
    AnyMessage,
    Batch,
    Bye,
    Delivery,
    Executed,
    Hello,
    Part,
    Ping,
    Pong,
    Progress,
    Refused,
    Report,
    Role,
    Roster,
    Stored,
    Welcome,
)
from services.kernel.wire.transfer import Transfer, Unanswered, check_announcement

HELLO_SECONDS = 10.0
"""A connection that has not said hello by then is closed: strangers may not hold our sockets."""

HEARTBEAT_SECONDS = 10.0
"""Whoever has sent nothing for so long sends a ping: a third of what the peer waits, so that one may be lost."""

DEAD_SECONDS = 30.0
"""A peer from which not one byte came for so long is taken for dead: a link that was cut says nothing."""


class Side(StrEnum):
    HUB = "hub"
    OUTLET = "outlet"


class State(StrEnum):
    NEW = "new"
    GREETED = "greeted"
    READY = "ready"
    CLOSED = "closed"


_READY: dict[tuple[Side, Role], tuple[type, ...]] = {
    (Side.HUB, Role.CAPTURE): (Batch, Part, Progress, Ping, Pong, Bye),
    (Side.HUB, Role.APPLIER): (Executed, Report, Ping, Pong, Bye),
    (Side.OUTLET, Role.CAPTURE): (Stored, Roster, Ping, Pong, Refused, Bye),
    (Side.OUTLET, Role.APPLIER): (Delivery, Part, Roster, Ping, Pong, Refused, Bye),
}
_BETWEEN_PARTS = (Part, Ping, Pong, Refused, Bye)


def accepted(side: Side, state: State, role: Role | None) -> tuple[type, ...]:
    """What this side accepts: the table of PROTOCOL.md, 'States'."""
    if state is State.NEW:
        return (Hello,) if side is Side.HUB else ()
    if state is State.GREETED:
        return (Bye,) if side is Side.HUB else (Welcome, Refused, Bye)
    if state is State.READY and role is not None:
        return _READY[side, role]
    return ()


class Session:
    def __init__(self, side: Side, now: float) -> None:
        self.side = side
        self.state = State.NEW
        self.hello: Hello | None = None
        """Who the outlet says it is, once that was said."""
        self._frames = FrameReader(MAX_HELLO_BYTES if side is Side.HUB else MAX_FRAME_BYTES)
        self._incoming: Transfer | None = None
        self._outgoing: Transfer | None = None
        self._unanswered = Unanswered()
        self._opened = self._heard = self._sent = now
        self._listening = True
        self._deaf = False
        """After an error of the peer, or its end: nothing more is taken in, and only the last word may be sent."""
        self._pong: Pong | None = None
        self.size = 0
        """Bytes of the message that was taken last, as it came."""

    @property
    def role(self) -> Role | None:
        return self.hello.role if self.hello else None

    @property
    def held(self) -> int:
        """Bytes fed that no message was made of yet."""
        return len(self._frames)

    @property
    def owes_parts(self) -> bool:
        """Whether nothing but the next part may be sent now (a heartbeat or the end apart)."""
        return self._outgoing is not None

    # ---- what comes in

    def feed(self, data: bytes, now: float) -> None:
        """Bytes from the peer. Take the messages before feeding more: that bounds what is held."""
        self._heard = now
        if self.state is not State.CLOSED and not self._deaf:
            self._frames.feed(data)

    def take(self) -> AnyMessage | None:
        """The next message, or None when no further one is whole. Pings and pongs are dealt with here.

        Raises ProtocolError, after which whatever comes is dropped, and nothing but `refused` or `bye` may be sent.
        """
        try:
            while self.state is not State.CLOSED and (payload := self._frames.take()) is not None:
                message = self._decoded(payload)
                self.size = len(payload)
                self._check(message)
                self._received(message)
                if not isinstance(message, Ping | Pong):
                    return message
        except ProtocolError:
            self._hang_up()
            raise
        return None

    def end(self) -> None:
        """The stream has ended. Raises ProtocolError `frame` in the middle of a frame, TransientError `connection` without bye."""
        if self.state is State.CLOSED or self._deaf:
            return
        half = self.held
        self._hang_up()
        if half:
            raise ProtocolError("frame", f"The connection ended {half} bytes into a frame.")
        raise TransientError("connection", "The peer ended the connection without bye.")

    # ---- what goes out

    def send(self, message: AnyMessage, now: float) -> bytes:
        """The bytes to send for `message`. ValueError once the session is CLOSED, or after an error but for the last word."""
        if self.state is State.CLOSED or (self._deaf and not isinstance(message, Refused | Bye)):
            raise ValueError(f"{type(message).__name__} after the end of the connection")
        self._sent = now
        if isinstance(message, Hello):
            self.hello = message
            self.state = State.GREETED
        elif isinstance(message, Welcome):
            self._ready()
        elif isinstance(message, Refused | Bye):
            self._close()
        elif isinstance(message, Batch | Delivery):
            self._outgoing = Transfer(message) if message.parts else None
        elif isinstance(message, Part) and self._outgoing:
            self._outgoing.count(message)
            if self._outgoing.complete:
                self._unanswered.sent(self._outgoing.announced)
                self._outgoing = None
        elif isinstance(message, Stored | Executed):
            self._unanswered.answered()
        return frame(_encoder.encode(message))

    # ---- time

    def listen(self, listening: bool, now: float) -> None:
        """While this side does not read, silence is its own doing and says nothing about the peer."""
        self._listening = listening
        self._heard = now

    def heartbeat(self, now: float) -> bytes:
        """The pong or ping that is due, or nothing. Send it whenever bytes were taken in, and when `due` says so."""
        if self.state is not State.READY or self._deaf:
            return b""
        if self._pong is not None:
            pong, self._pong = self._pong, None
            return self.send(pong, now)
        if now >= self._sent + HEARTBEAT_SECONDS:
            return self.send(Ping(int(now * 1_000_000)), now)
        return b""

    def due(self) -> float | None:
        """When to call `expire` and `heartbeat` next; None: not before something else happens."""
        times = [self._expiry()]
        if self.state is State.READY and not self._deaf:
            times.append(self._sent + HEARTBEAT_SECONDS)
        return min((time for time in times if time is not None), default=None)

    def expire(self, now: float) -> None:
        """Raises ProtocolError `silence` when no hello came in time, TransientError `connection` when the peer is dead."""
        expiry = self._expiry()
        if expiry is None or now < expiry:
            return
        self._hang_up()
        if self.state is State.NEW:
            raise ProtocolError("silence", f"No hello came within {HELLO_SECONDS:.0f} s.")
        raise TransientError(
            "connection", f"Nothing came from the peer for {DEAD_SECONDS:.0f} s: it is taken for dead."
        )

    def _expiry(self) -> float | None:
        if self._deaf:
            return None
        if self.state is State.NEW and self.side is Side.HUB:
            return self._opened + HELLO_SECONDS
        awaited = self.state is State.READY or (self.state is State.GREETED and self.side is Side.OUTLET)
        return self._heard + DEAD_SECONDS if awaited and self._listening else None

    # ---- the rules

    def _decoded(self, payload: bytes) -> AnyMessage:
        """Raises ProtocolError `message`, and `version` for a hello of another version, whatever else stands in it."""
        try:
            if self.state is State.NEW:
                _check_version(_opening_decoder.decode(payload))
            return _decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError("message", f"A frame is no message of this protocol: {error}.", UPGRADE) from error

    def _check(self, message: AnyMessage) -> None:
        allowed = accepted(self.side, self.state, self.role)
        if self._incoming is not None:
            allowed = _BETWEEN_PARTS
        if type(message) not in allowed or (isinstance(message, Part) and self._incoming is None):
            state = "parts" if self._incoming else self.state.value
            raise ProtocolError(
                "state", f"{type(message).__name__.lower()} came in state {state}, which does not allow it."
            )
        if isinstance(message, Batch | Delivery):
            check_announcement(message)
        elif isinstance(message, Stored | Executed):
            self._unanswered.check(message)
        elif isinstance(message, Part) and self._incoming is not None:
            self._incoming.check(message)

    def _received(self, message: AnyMessage) -> None:
        if isinstance(message, Hello):
            self.hello = message
            self.state = State.GREETED
        elif isinstance(message, Welcome):
            self._ready()
        elif isinstance(message, Refused | Bye):
            self._close()
        elif isinstance(message, Ping):
            self._pong = Pong(message.time)  # one is enough for any number of pings
        elif isinstance(message, Batch | Delivery):
            self._incoming = Transfer(message)
        elif isinstance(message, Part) and self._incoming is not None:
            self._incoming.count(message)
            if self._incoming.complete:
                self._incoming = None
        elif isinstance(message, Stored | Executed):
            self._unanswered.answered()

    def _ready(self) -> None:
        self.state = State.READY
        self._frames.limit = MAX_FRAME_BYTES

    def _close(self) -> None:
        self.state = State.CLOSED
        self._frames.clear()

    def _hang_up(self) -> None:
        self._deaf = True
        self._frames.clear()


class _Opening(msgspec.Struct):
    """All that must hold of a first frame in every version."""

    type: str
    protocol: int = PROTOCOL_VERSION


def _check_version(opening: _Opening) -> None:
    if opening.type == "hello" and opening.protocol != PROTOCOL_VERSION:
        raise ProtocolError(
            "version",
            f"The outlet speaks version {opening.protocol} of the protocol, this hub version {PROTOCOL_VERSION}.",
            "Run the same version of Subak at the hub and at the outlet.",
        )


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
_opening_decoder = msgspec.msgpack.Decoder(_Opening)
