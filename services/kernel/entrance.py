"""The hub's end of all connections: who gets in, and what becomes of whoever does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.kernel import metrics
from services.kernel.channel import Channel, RefusedError, address_of, connection_error
from services.kernel.credentials import Credentials
from services.kernel.errors import PermanentError, ProtocolError, SubakError, TransientError
from services.kernel.handshake import Held, take
from services.kernel.link import IN_LINE
from services.kernel.settings import Address
from services.kernel.telemetry import logger
from services.kernel.wire.messages import Refused
from services.kernel.wire.session import HELLO_SECONDS, Side, State

MAX_STRANGERS = 256
"""Connections at once that were not welcomed yet: each may hold a hello's worth of memory and a socket."""

MAX_STRANGERS_OF_ONE = MAX_STRANGERS // 4
"""Of one address: somebody who opens connections and says nothing must not shut out everybody else. Many outlets may share an address
(a provider's, a Docker engine's), so it is not few."""

BACKLOG = 512
"""All outlets come at once after a hub's restart."""

CROWDED = "crowded"

FAILED = Refused(
    "failed", "The hub could not go on with this connection.", "The hub's log says why; it is tried again."
)

log = logger("link")


async def serve(
    listen: Address, credentials: Credentials | None, handle: Callable[[Channel], Awaitable[None]]
) -> asyncio.Server:
    """Hands every connection, in state NEW, to `handle`, and closes it when that returns.

    A SubakError of `handle` ends that connection with one log line; a ProtocolError or RefusedError is told to the outlet,
    anything else as `failed`. Whose certificate is not good is refused when it has said hello. Raises PermanentError `listen`, TransientError
    `certificate`.
    """
    if credentials is not None:
        credentials.load()
    entrance = _Entrance(credentials, handle)
    try:
        return await asyncio.get_running_loop().create_server(
            lambda: Held(entrance.enter), listen.host, listen.port, backlog=BACKLOG
        )
    except OSError as error:
        raise PermanentError(
            "listen",
            f"Cannot listen on {listen}: {error.strerror or error}.",
            "Set SUBAK_HUB_LISTEN to an address of this machine and a free port.",
        ) from error


class _Entrance:
    def __init__(self, credentials: Credentials | None, handle: Callable[[Channel], Awaitable[None]]) -> None:
        self._credentials = credentials
        self._handle = handle
        self._inside: dict[asyncio.Task[None], tuple[Channel, str]] = {}
        """With the address that each came from."""
        self._crowding: set[str] = set()
        """Addresses of which that was told, and which have not got in since."""

    def enter(self, transport: asyncio.Transport) -> None:
        host = transport.get_extra_info("peername", ("?",))[0]
        strangers = [of for channel, of in self._inside.values() if channel.state in (State.NEW, State.GREETED)]
        if len(strangers) >= MAX_STRANGERS or strangers.count(host) >= MAX_STRANGERS_OF_ONE:
            metrics.link_failed(CROWDED)
            if host not in self._crowding:
                log.warning("too many connections without hello; new ones are closed", peer=host, code=CROWDED)
            self._crowding.add(host)
            transport.abort()
            return
        self._crowding.discard(host)
        channel = Channel(Side.HUB, self._credentials)
        task = asyncio.create_task(self._serve(transport, channel))
        self._inside[task] = channel, host
        task.add_done_callback(self._inside.pop)

    async def _serve(self, transport: asyncio.Transport, channel: Channel) -> None:
        try:
            if await self._begin(transport, channel):
                await self._speak(channel)
                await channel.close()
        finally:
            transport.abort()

    async def _begin(self, transport: asyncio.Transport, channel: Channel) -> bool:
        peer = address_of(transport)
        own = None
        try:
            context = None
            if self._credentials is not None:
                context, own = self._credentials.context(), self._credentials.own()
            return await take(transport, channel, context, Side.HUB, HELLO_SECONDS)
        except (OSError, TransientError) as error:
            failed = error if isinstance(error, TransientError) else connection_error(error, peer, Side.HUB, own)
            metrics.link_failed(failed.code)
            log.warning("connection refused", peer=peer, code=failed.code, what=failed.what, todo=failed.todo)
            return False

    async def _speak(self, channel: Channel) -> None:
        facts = {"peer": channel.peer, "certificate": channel.certificate_name}
        try:
            if (distrusted := channel.distrusted()) is not None:
                await channel.receive()  # the outlet speaks first: before, it would take no refusal
                raise distrusted
            await self._handle(channel)
        except (ProtocolError, RefusedError) as error:
            metrics.link_failed(error.code)
            if (
                error.code not in IN_LINE
            ):  # asked again every few seconds while all is well: the log would be full of them
                log.warning("connection refused", code=error.code, what=error.what, outlet=channel.outlet, **facts)
            await channel.refuse(Refused(error.code, error.what, error.todo))
        except TransientError as error:
            metrics.link_failed(error.code)
            log.info("connection lost", code=error.code, what=error.what, outlet=channel.outlet, **facts)
            await channel.refuse(FAILED)
        except SubakError as error:
            metrics.link_failed(error.code)
            log.error(
                "connection failed", code=error.code, what=error.what, todo=error.todo, outlet=channel.outlet, **facts
            )
            await channel.refuse(FAILED)
        except Exception:
            metrics.link_failed(FAILED.code)
            log.exception("connection failed", outlet=channel.outlet, **facts)
            await channel.refuse(FAILED)
