"""The hub's end of all connections: who gets in, and what becomes of whoever does not."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable

from services.kernel import metrics
from services.kernel.channel import Channel, RefusedError, address_of, connection_error
from services.kernel.credentials import Credentials
from services.kernel.errors import PermanentError, ProtocolError, SubakError, TransientError
from services.kernel.handshake import Held, take
from services.kernel.link import IN_LINE
from services.kernel.seldom import Seldom
from services.kernel.settings import Address, is_loopback
from services.kernel.telemetry import logger
from services.kernel.wire.messages import Refused
from services.kernel.wire.session import HELLO_SECONDS, Side, State

MAX_STRANGERS = 256
"""Connections at once that were not welcomed yet: each may hold a hello's worth of memory and a socket."""

MAX_STRANGERS_OF_ONE = MAX_STRANGERS // 4
"""Of one address. Many outlets may share one (a provider's, a Docker engine's), so it is not few. Where there are more, of one address or of all
together, the oldest of whoever has most makes room: an outlet needs a moment to be welcomed, who only holds connections open does not go on."""

SITE_BITS = 64
"""Of an IPv6 address: the rest a site gives its machines as it likes."""

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
        server = await asyncio.get_running_loop().create_server(
            lambda: Held(entrance.enter), listen.host, listen.port, backlog=BACKLOG
        )
    except OSError as error:
        raise PermanentError(
            "listen",
            f"Cannot listen on {listen}: {error.strerror or error}.",
            "Set SUBAK_HUB_LISTEN to an address of this machine and a free port.",
        ) from error
    if credentials is None:
        elsewhere = [one.getsockname()[0] for one in server.sockets if not is_loopback(one.getsockname()[0])]
        if elsewhere:  # `localhost` is what this machine's files say that it is
            server.close()
            raise PermanentError(
                "listen",
                f"{listen.host} is {elsewhere[0]} here, which is not this machine alone, and SUBAK_TLS is off.",
                "Listen on 127.0.0.1, or set SUBAK_TLS_CA, SUBAK_TLS_CERT and SUBAK_TLS_KEY.",
            )
    return server


class _Entrance:
    def __init__(self, credentials: Credentials | None, handle: Callable[[Channel], Awaitable[None]]) -> None:
        self._credentials = credentials
        self._handle = handle
        self._inside: dict[asyncio.Task[None], tuple[Channel, asyncio.Transport, str]] = {}
        """With the site that each came from; oldest first."""
        self._seldom = Seldom()

    def enter(self, transport: asyncio.Transport) -> None:
        site = _site(transport.get_extra_info("peername", ("?",))[0])
        self._make_room(site)
        channel = Channel(Side.HUB, self._credentials)
        task = asyncio.create_task(self._serve(transport, channel))
        self._inside[task] = channel, transport, site
        task.add_done_callback(self._inside.pop)

    def _make_room(self, newcomer: str) -> None:
        """Ends the oldest connection of whoever has too many, or most, that say nothing."""
        strangers = [
            (site, transport)
            for channel, transport, site in self._inside.values()
            if channel.state in (State.NEW, State.GREETED) and not transport.is_closing()
        ]
        of_each = Counter(site for site, _ in strangers)
        if of_each[newcomer] >= MAX_STRANGERS_OF_ONE:
            crowding = newcomer
        elif len(strangers) >= MAX_STRANGERS:
            crowding = of_each.most_common(1)[0][0]
        else:
            return
        metrics.link_failed(CROWDED)
        self._warn(
            (CROWDED, crowding),
            "too many connections that say nothing; the oldest is closed",
            peer=crowding,
            code=CROWDED,
        )
        next(transport for site, transport in strangers if site == crowding).abort()

    def _warn(self, kind: object, event: str, **facts: object) -> None:
        """Who causes it has shown no certificate yet, and must not be able to fill the log."""
        kept_back = self._seldom.ask(kind, asyncio.get_running_loop().time())
        if kept_back is not None:
            log.warning(event, **facts, **({"kept_back": kept_back} if kept_back else {}))

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
            kind = (peer.rpartition(":")[0], failed.code, failed.what.replace(peer, ""))
            self._warn(kind, "connection refused", peer=peer, code=failed.code, what=failed.what, todo=failed.todo)
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


def _site(host: str) -> str:
    """Whom an address stands for."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, SITE_BITS), strict=False))
    return host
