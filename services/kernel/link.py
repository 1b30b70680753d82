"""Connections between outlets and hub: `dial` at an outlet, `serve` at the hub, `keep_linked` for as long as a service lives."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from services.kernel import metrics
from services.kernel.channel import Channel as Channel
from services.kernel.channel import RefusedError as RefusedError
from services.kernel.channel import address_of, connection_error
from services.kernel.errors import PermanentError, ProtocolError, SubakError, TransientError
from services.kernel.retry import FIRST_TRIES, Pauses
from services.kernel.settings import Address, OutletSettings
from services.kernel.telemetry import Health, logger
from services.kernel.tls import TlsSettings, client_context, server_context
from services.kernel.wire.messages import Hello, Refused, Welcome
from services.kernel.wire.session import HELLO_SECONDS, Side, State

CONNECT_SECONDS = 10.0
"""For TCP and TLS together: a host that does not answer must not hold up the next try."""

FINISH_SECONDS = 6.0
"""What is in flight when a service is told to stop may take so long: the whole stop may take ten."""

MAX_STRANGERS = 256
"""Connections at once that were not welcomed yet: each may hold a hello's worth of memory and a socket."""

BACKLOG = 512
"""All outlets come at once after a hub's restart."""

PASSING = frozenset({"stopping", "failed"})
"""Refusals for which nobody must act: the hub comes back by itself."""

IN_LINE = frozenset({"standby", "catching_up"})
"""Refusals that end by themselves: another process has this outlet's role, or this outlet's applier must come so far first."""

IN_LINE_SECONDS = 2.0
"""How soon the hub is asked again after those: this is how long nobody may serve when the other process dies."""

NO_WELCOME = (
    "The hub's log says why. Check that TLS is on at both ends, or off at both, and that this service's certificate is valid"
    " today and comes from the hub's authority."
)
"""A hub that does not like a certificate hangs up: asyncio does not send TLS's alert."""

log = logger("link")
T = TypeVar("T")


# ---- the outlet's end


async def dial(hub: Address, tls: TlsSettings | None, hello: Hello) -> tuple[Channel, Welcome]:
    """Raises TransientError (`unreachable`, `certificate`, `connection`), ProtocolError, or RefusedError."""
    loop = asyncio.get_running_loop()
    context = client_context(tls) if tls else None  # read anew each time, so that a renewed certificate is used
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, channel = await loop.create_connection(lambda: Channel(Side.OUTLET), hub.host, hub.port, ssl=context)
    except ssl.SSLError as error:
        raise connection_error(error, str(hub)) from error
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise TransientError(
            "unreachable",
            f"The hub at {hub} cannot be reached: {reason}.",
            "Check that the hub runs there, that SUBAK_HUB is its SUBAK_HUB_LISTEN seen from here, and that no firewall is"
            " in between.",
        ) from error
    try:
        await channel.send(hello)
        welcome = await channel.receive()
    except TransientError as error:
        channel.abort()
        raise TransientError(error.code, error.what, error.todo or NO_WELCOME) from error
    except BaseException:
        channel.abort()
        raise
    if not isinstance(welcome, Welcome):
        raise TransientError("connection", f"The hub at {hub} said bye instead of welcome.")
    return channel, welcome


async def keep_linked(
    settings: OutletSettings,
    hello: Callable[[], Awaitable[Hello]],
    run: Callable[[Channel, Welcome], Awaitable[None]],
    stop: asyncio.Event,
    nudge: asyncio.Event,
    health: Health,
    refused: Callable[[RefusedError], Awaitable[bool]] | None = None,
) -> None:
    """Dials with `hello()`, hands the link to `run`, and dials again when that ends (retry.py has the pauses), until `stop`.

    `nudge` (SIGHUP) makes it try now. `run` has FINISH_SECONDS to return after `stop`, and is cancelled then. A SubakError
    of `hello` or `run` ends the link, is logged, and the next try follows; anything else is raised. `refused` hears what the
    hub refused; if it did something about it (True), the next try follows at once.
    """
    await _Keeper(settings, hello, run, stop, health, refused).keep(nudge)


class _Keeper:
    def __init__(
        self,
        settings: OutletSettings,
        hello: Callable[[], Awaitable[Hello]],
        run: Callable[[Channel, Welcome], Awaitable[None]],
        stop: asyncio.Event,
        health: Health,
        refused: Callable[[RefusedError], Awaitable[bool]] | None,
    ) -> None:
        self._settings = settings
        self._hello = hello
        self._run = run
        self._stop = stop
        self._health = health
        self._refused = refused
        self._pauses = Pauses(random.random)
        self._told: str | None = None
        """The code of the refusal that was logged last: it is told once, not every minute."""

    async def keep(self, nudge: asyncio.Event) -> None:
        self._health.link = "not linked with the hub yet"
        while not self._stop.is_set():
            nudge.clear()
            try:
                await self._link()
                pause = self._pauses.after_failure()
                log.info("link ended", hub=str(self._settings.hub))
            except SubakError as error:
                pause = await self._failed(error)
            except BaseExceptionGroup as group:
                pause = await self._failed(_cause(group))
            if pause and not self._stop.is_set():
                await _first_set(pause, self._stop, nudge)

    async def _link(self) -> None:
        linked = await _unless(self._stop, self._dial(), 0.0)
        if linked is None:
            return
        channel, welcome = linked
        self._health.link = ""
        self._told = None
        metrics.LINK_CONNECTIONS.inc()
        metrics.LINK_CONNECTED.set(1)
        log.info("linked with the hub", hub=str(self._settings.hub), position=welcome.position, paused=welcome.paused)
        loop = asyncio.get_running_loop()
        since = loop.time()
        try:
            await _unless(self._stop, self._serve(channel, welcome), FINISH_SECONDS)
        finally:
            self._health.link = "the link with the hub has ended"
            metrics.LINK_CONNECTED.set(0)
            self._pauses.linked_for(loop.time() - since)
            await channel.close()

    async def _dial(self) -> tuple[Channel, Welcome]:
        return await dial(self._settings.hub, self._settings.tls, await self._hello())

    async def _serve(self, channel: Channel, welcome: Welcome) -> None:
        await self._run(channel, welcome)

    async def _failed(self, error: SubakError) -> float:
        """Tells about it, and gives the pause before the next try."""
        metrics.link_failed(error.code)
        self._health.link = f"{error.what} [{error.code}]"
        facts = {"hub": str(self._settings.hub), "code": error.code, "what": error.what, "todo": error.todo}
        if isinstance(error, TransientError) or error.code in PASSING:
            pause = self._pauses.after_failure()
            tries = self._pauses.failures
            if tries == FIRST_TRIES:
                log.error("no link with the hub; going on trying, SIGHUP tries now", tries=tries, **facts)
            elif tries < FIRST_TRIES:
                log.warning("no link with the hub", tries=tries, again_in=round(pause, 1), **facts)
            return pause
        if error.code in IN_LINE:
            if error.code != self._told:
                self._told = error.code
                log.info("the hub lets this service wait", again_in=IN_LINE_SECONDS, **facts)
            self._health.link = f"{error.code}: {error.what}"
            return IN_LINE_SECONDS
        if isinstance(error, RefusedError) and self._refused is not None and await self._refused(error):
            return 0.0
        pause = self._pauses.after_refusal()
        if error.code != self._told:
            self._told = error.code
            log.error("the link with the hub failed; going on trying, SIGHUP tries now", again_in=pause, **facts)
        return pause


def _cause(group: BaseExceptionGroup[BaseException]) -> SubakError:
    """The first SubakError of a task group that failed for no other reason; raises the group otherwise."""
    ours, others = group.split(SubakError)
    if ours is None or others is not None:
        raise group
    first: BaseException = ours
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, SubakError)
    return first


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T], grace: float) -> T | None:
    """What `work` returns or raises; None when it has not ended within `grace` seconds of `stop`."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait({task}, timeout=grace)
        return task.result() if task.done() else None
    finally:
        stopped.cancel()
        task.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


async def _first_set(seconds: float, *events: asyncio.Event) -> None:
    """Until one of the events is set, `seconds` at most."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


# ---- the hub's end


async def serve(
    listen: Address, tls: TlsSettings | None, handle: Callable[[Channel], Awaitable[None]]
) -> asyncio.Server:
    """Hands every connection, in state NEW, to `handle`, and closes it when that returns.

    A SubakError of `handle` ends that connection with one log line; a ProtocolError or RefusedError is told to the outlet,
    anything else as `failed`. Raises PermanentError `listen`.
    """
    context = server_context(tls) if tls else None
    entrance = _Entrance(context, handle)
    try:
        return await asyncio.get_running_loop().create_server(
            lambda: _Accepted(entrance), listen.host, listen.port, backlog=BACKLOG
        )
    except OSError as error:
        raise PermanentError(
            "listen",
            f"Cannot listen on {listen}: {error.strerror or error}.",
            "Set SUBAK_HUB_LISTEN to an address of this machine and a free port.",
        ) from error


class _Accepted(asyncio.Protocol):
    """Holds a new connection, unread, until TLS begins on it."""

    def __init__(self, entrance: _Entrance) -> None:
        self._entrance = entrance

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._entrance.enter(transport)


class _Entrance:
    def __init__(self, context: ssl.SSLContext | None, handle: Callable[[Channel], Awaitable[None]]) -> None:
        self._context = context
        self._handle = handle
        self._inside: dict[asyncio.Task[None], Channel] = {}
        self._full = False

    def enter(self, transport: asyncio.Transport) -> None:
        strangers = sum(channel.state in (State.NEW, State.GREETED) for channel in self._inside.values())
        if strangers >= MAX_STRANGERS:
            if not self._full:
                log.warning("too many connections without hello; new ones are closed", limit=MAX_STRANGERS)
            self._full = True
            transport.abort()
            return
        self._full = False
        channel = Channel(Side.HUB)
        task = asyncio.create_task(self._serve(transport, channel))
        self._inside[task] = channel
        task.add_done_callback(self._inside.pop)

    async def _serve(self, transport: asyncio.Transport, channel: Channel) -> None:
        try:
            if await self._begin(transport, channel):
                await self._speak(channel)
                await channel.close()
        finally:
            transport.abort()

    async def _begin(self, transport: asyncio.Transport, channel: Channel) -> bool:
        if self._context is None:
            transport.set_protocol(channel)
            channel.connection_made(transport)
            transport.resume_reading()
            return True
        loop = asyncio.get_running_loop()
        peer = address_of(transport)
        try:
            secure = await loop.start_tls(
                transport, channel, self._context, server_side=True, ssl_handshake_timeout=HELLO_SECONDS
            )
        except OSError as error:
            failed = connection_error(error, peer)
            metrics.link_failed(failed.code)
            log.warning("connection refused", peer=peer, code=failed.code, what=failed.what)
            return False
        if secure is None:  # the peer went away in the very moment
            return False
        channel.connection_made(secure)
        return True

    async def _speak(self, channel: Channel) -> None:
        facts = {"peer": channel.peer, "certificate": channel.certificate_name}
        try:
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


FAILED = Refused(
    "failed", "The hub could not go on with this connection.", "The hub's log says why; it is tried again."
)
