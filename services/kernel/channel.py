"""One connection as an asyncio service sees it: messages in, messages out. The rules are `wire/session.py`'s.

What is held is bounded both ways: incoming, the messages nobody has received yet, beyond which reading stops; outgoing, the
transport's buffer, beyond which `send` waits. asyncio sets TCP_NODELAY by itself.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from contextlib import suppress
from typing import cast

from services.kernel.certificates import Certificate, certificate
from services.kernel.credentials import Credentials
from services.kernel.errors import ProtocolError, SubakError, TransientError
from services.kernel.handshake import tls_error
from services.kernel.wire.messages import AnyMessage, Bye, Part, Refused
from services.kernel.wire.session import Session, Side, State

INBOX_BYTES = 2 * 1024 * 1024
"""Messages nobody has received yet: two parts keep the receiver busy while the next is on its way."""

INBOX_MESSAGES = 1024
"""The same for small ones: several windows' worth."""

OUTBOX_BYTES = 1024 * 1024
"""`send` waits while more than this has not left yet."""

LINGER_SECONDS = 1.0
"""How long the side that has said the last word waits for the other to close: closing with unread input would reset the
connection, and the last word might never be read."""

FLUSH_SECONDS = 3.0
"""How long what is still to be sent may take after that; a service has ten seconds to stop."""


class RefusedError(SubakError):
    """The hub has refused: `code`, `what` and `todo` are the hub's."""


class Channel(asyncio.Protocol):
    """`dial` and `serve` (link.py) make them. One task receives; any number may send."""

    def __init__(self, side: Side, credentials: Credentials | None = None) -> None:
        self.peer = "?"
        """The peer's address."""
        self.certificate: Certificate | None = None
        """What the peer has shown."""
        self._side = side
        self._credentials = credentials
        self._own = credentials.own() if credentials is not None else None
        self._authorities = credentials.authorities() if credentials is not None else frozenset()
        self._loop = asyncio.get_running_loop()
        self._session = Session(side, self._loop.time())
        self._transport: asyncio.Transport | None = None
        self._inbox: deque[tuple[AnyMessage, int]] = deque()
        self._inbox_bytes = 0
        self._reading = True
        self._failure: SubakError | None = None
        """Why the connection is of no use any more; receivers get it after the messages that came before it."""
        self._ended = False
        """The peer, or this side, has said bye."""
        self._arrived = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._parts_done = asyncio.Event()
        self._parts_done.set()
        self._lost = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> State:
        return self._session.state

    @property
    def outlet(self) -> str | None:
        """The name in the hello."""
        return self._session.hello.outlet if self._session.hello else None

    @property
    def certificate_name(self) -> str | None:
        """Whose certificate the peer has shown."""
        return self.certificate.name if self.certificate is not None else None

    def distrusted(self) -> ProtocolError | None:
        """Why the peer's certificate is no longer good, if so: it may be revoked, or expire, while the connection stands."""
        if self._credentials is None or self.certificate is None:
            return None
        if not self._authorities <= self._credentials.authorities():
            return ProtocolError(
                "authority",
                "An authority that was trusted when this connection began is trusted no more.",
                "Connect again, with a certificate of one that is.",
            )
        return self._credentials.refusal(self.certificate)

    # ---- for the services

    async def receive(self) -> AnyMessage | None:
        """The next message; None when the peer has said bye.

        Raises ProtocolError, TransientError `connection`, or (at an outlet) RefusedError with what the hub said.
        """
        while not self._inbox:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message, size = self._inbox.popleft()
        self._inbox_bytes -= size
        self._take_in()
        return message

    async def send(self, *messages: AnyMessage) -> None:
        """Puts them on their way, in order; waits while too much is on its way already.

        Another task's messages wait until a batch begun here has all its parts. Raises as `receive` does, and TransientError
        `connection` after the end.
        """
        for message in messages:
            await self._turn(message)
            self._write(message)

    async def close(self) -> None:
        """An orderly end: says bye if that is still possible, waits a moment for the peer to close. Safe to call twice."""
        if self._failure is None and self._session.state in (State.READY, State.GREETED):
            self._write(Bye())
        self._ended = True
        self._arrived.set()
        await self._linger()

    async def refuse(self, refused: Refused) -> None:
        """The hub's last word, if it can still be said."""
        if self._session.state is not State.CLOSED:
            self._write(refused)
        self._fail(TransientError("connection", f"{self.peer} was refused: {refused.code}."))
        await self._linger()

    def end(self, why: SubakError) -> None:
        """This side has a reason not to go on: receivers and senders get it."""
        self._fail(why)
        if self._session.state in (State.READY, State.GREETED):
            self._write(Bye())
        self._close_transport()

    def abort(self) -> None:
        """Ends the connection at once; what was not sent yet is dropped."""
        if self._transport is not None:
            self._transport.abort()

    # ---- for asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=OUTBOX_BYTES)
        if transport.get_extra_info("peername") is not None:  # one that is lost already has none
            self.peer = address_of(self._transport)
        connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        self.certificate = self._certificate(connection) if connection is not None else None
        self._take_in()

    def data_received(self, data: bytes) -> None:
        self._session.feed(data, self._loop.time())
        if self._transport is not None:
            self._take_in()

    def eof_received(self) -> None:
        """The transport closes by itself; `connection_lost` follows."""

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if error is not None:
            self._fail(connection_error(error, self.peer, self._side, self._own))
        try:
            self._session.end()
        except SubakError as ended:
            self._fail(ended)
        self._lost.set()
        self._wake()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()
        self._heartbeat()

    # ---- inside

    def _certificate(self, connection: ssl.SSLObject) -> Certificate | None:
        """Raises TransientError `certificate`."""
        shown = connection.getpeercert(binary_form=True)
        try:
            return certificate(shown) if shown else None
        except ValueError as error:
            self.abort()
            what = f"The certificate that {self.peer} has shown cannot be read: {error}."
            raise TransientError("certificate", what, "Have a new one made: `subak pki issue`.") from error

    async def _turn(self, message: AnyMessage) -> None:
        while True:
            if self._failure is not None:
                raise self._failure
            if self._ended or self._lost.is_set() or self._session.state is State.CLOSED:
                raise TransientError("connection", f"The connection with {self.peer} has ended.")
            if not self._may_write.is_set():
                await self._may_write.wait()
            elif self._session.owes_parts and not isinstance(message, Part):
                await self._parts_done.wait()
            else:
                return

    def _write(self, message: AnyMessage) -> None:
        data = self._session.send(message, self._loop.time())
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
        if self._session.owes_parts:
            self._parts_done.clear()
        else:
            self._parts_done.set()
        self._watch()

    def _take_in(self) -> None:
        """Moves messages to the inbox while there is room; stops and starts reading accordingly."""
        try:
            while self._has_room() and (message := self._session.take()) is not None:
                self._arrive(message)
        except ProtocolError as error:
            self._fail(error)
        self._heartbeat()
        self._read(self._has_room())
        self._watch()

    def _has_room(self) -> bool:
        return self._inbox_bytes < INBOX_BYTES and len(self._inbox) < INBOX_MESSAGES

    def _arrive(self, message: AnyMessage) -> None:
        if isinstance(message, Refused):
            self._fail(RefusedError(message.code, message.what, message.todo))
            self._close_transport()
        elif isinstance(message, Bye):
            self._ended = True
            self._wake()
            self._close_transport()
        else:
            self._inbox.append((message, self._session.size))
            self._inbox_bytes += self._session.size
            self._arrived.set()

    def _read(self, wanted: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or wanted == self._reading:
            return
        self._reading = wanted
        if wanted:
            transport.resume_reading()
        else:
            transport.pause_reading()
        self._session.listen(wanted, self._loop.time())

    def _heartbeat(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or not self._may_write.is_set():
            return
        data = self._session.heartbeat(self._loop.time())
        if data:
            transport.write(data)

    def _watch(self) -> None:
        """Sets the timer for what the session has to do next. One that rings too early does no harm, and is set again."""
        due = self._session.due()
        if due is None or self._lost.is_set() or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        # A ping that is due and cannot be written now goes out in `resume_writing`.
        pause = 0.01 if self._may_write.is_set() else 1.0
        self._timer = self._loop.call_at(max(due, self._loop.time() + pause), self._tick)

    def _tick(self) -> None:
        self._timer = None
        try:
            self._session.expire(self._loop.time())
        except ProtocolError as error:
            self._fail(error)
        except SubakError as error:
            self._fail(error)
            self.abort()
        self._heartbeat()
        self._watch()

    def _fail(self, error: SubakError) -> None:
        """The first reason counts."""
        if self._failure is None and not self._ended:
            self._failure = error
        self._wake()

    def _wake(self) -> None:
        for event in (self._arrived, self._may_write, self._parts_done):
            event.set()

    async def _linger(self) -> None:
        """Waits for the peer to close; then for what is still to be written; then no longer."""
        transport = self._transport
        if transport is None:
            return
        self._read(True)
        for seconds, end in ((LINGER_SECONDS, transport.close), (FLUSH_SECONDS, transport.abort)):
            if self._lost.is_set():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._lost.wait()
            end()

    def _close_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()


def address_of(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) and len(name) >= 2 else "?"


def connection_error(error: Exception, peer: str, side: Side, own: Certificate | None) -> TransientError:
    if isinstance(error, ssl.SSLError):
        return tls_error(error, side, peer, own)
    return TransientError("connection", f"The connection with {peer} broke: {error or type(error).__name__}.")
