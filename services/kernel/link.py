"""An outlet's end of its connection with the hub: `dial`, and `keep_linked` for as long as a service lives."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from services.kernel import metrics
from services.kernel.channel import Channel as Channel
from services.kernel.channel import RefusedError as RefusedError
from services.kernel.channel import connection_error
from services.kernel.credentials import LOOK_SECONDS, Credentials
from services.kernel.errors import SubakError, TransientError
from services.kernel.handshake import Held, take
from services.kernel.retry import FIRST_TRIES, Pauses
from services.kernel.settings import Address, OutletSettings, is_loopback
from services.kernel.tasks import until_one_ends
from services.kernel.telemetry import Health, logger
from services.kernel.wire.messages import Hello, Welcome
from services.kernel.wire.session import Side

CONNECT_SECONDS = 10.0
"""For TCP and TLS together: a host that does not answer must not hold up the next try."""

FINISH_SECONDS = 6.0
"""What is in flight when a service is told to stop may take so long: the whole stop may take ten."""

PASSING = frozenset({"stopping", "failed"})
"""Refusals for which nobody must act: the hub comes back by itself."""

IN_LINE = frozenset({"standby", "catching_up"})
"""Refusals that end by themselves: another process has this outlet's role, or this outlet's applier must come so far first."""

IN_LINE_SECONDS = 2.0
"""How soon the hub is asked again after those: this is how long nobody may serve when the other process dies."""

NO_WELCOME = "The hub's log says why. Check that TLS is on at both ends, or off at both."
"""To a hub that hangs up without a word."""

log = logger("link")
T = TypeVar("T")


async def dial(hub: Address, credentials: Credentials | None, hello: Hello) -> tuple[Channel, Welcome]:
    """Raises TransientError (`unreachable`, `certificate`, `connection`), ProtocolError, or RefusedError."""
    channel = Channel(Side.OUTLET, credentials)
    channel.peer = str(hub)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await _connect(hub, credentials, channel)
    except ssl.SSLError as error:
        own = credentials.own() if credentials is not None else None
        raise connection_error(error, str(hub), Side.OUTLET, own) from error
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise TransientError(
            "unreachable",
            f"The hub at {hub} cannot be reached: {reason}.",
            "Check that the hub runs there, that SUBAK_HUB is its SUBAK_HUB_LISTEN seen from here, and that no firewall is"
            " in between.",
        ) from error
    try:
        if (distrusted := channel.distrusted()) is not None:
            raise distrusted
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


async def _connect(hub: Address, credentials: Credentials | None, channel: Channel) -> None:
    """Raises OSError, TransientError."""
    context = credentials.context() if credentials is not None else None
    transport, _ = await asyncio.get_running_loop().create_connection(Held, hub.host, hub.port)
    if credentials is None and not is_loopback(there := transport.get_extra_info("peername", ("?",))[0]):
        transport.abort()
        raise TransientError(
            "unreachable",
            f"{hub.host} is {there} here, which is not this machine alone, and SUBAK_TLS is off.",
            "Dial 127.0.0.1, or set SUBAK_TLS_CA, SUBAK_TLS_CERT and SUBAK_TLS_KEY.",
        )
    try:
        await take(transport, channel, context, Side.OUTLET, CONNECT_SECONDS, hub.host)
    except ConnectionError as error:
        raise TransientError("connection", f"The hub at {hub} has hung up while TLS began.", NO_WELCOME) from error


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
        self._credentials = Credentials.of(settings.tls, Side.OUTLET)
        self._channel: Channel | None = None
        self._hello = hello
        self._run = run
        self._stop = stop
        self._health = health
        self._refused = refused
        self._pauses = Pauses(random.random)
        self._told: str | None = None
        """The code of the refusal that was logged last: it is told once, not every minute."""

    async def keep(self, nudge: asyncio.Event) -> None:
        if self._credentials is None:
            await self._keep(nudge)
        else:
            await until_one_ends(self._keep(nudge), self._follow(self._credentials, nudge))

    async def _follow(self, credentials: Credentials, nudge: asyncio.Event) -> None:
        """On and on: a renewed certificate is shown to the hub at once; a hub whose certificate is not good any more is left."""
        shown: int | None = None
        while True:
            with suppress(TransientError):  # told by whoever dials
                own = credentials.own()
                if shown not in (None, own.serial):
                    log.info("this outlet's certificate was renewed", certificate=str(own))
                    nudge.set()
                    if self._channel is not None:
                        await self._channel.close()
                shown = own.serial
                if self._channel is not None and (distrusted := self._channel.distrusted()) is not None:
                    self._channel.end(TransientError(distrusted.code, distrusted.what, distrusted.todo))
            await asyncio.sleep(LOOK_SECONDS)

    async def _keep(self, nudge: asyncio.Event) -> None:
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
        self._channel = channel
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
            self._channel = None
            self._health.link = "the link with the hub has ended"
            metrics.LINK_CONNECTED.set(0)
            self._pauses.linked_for(loop.time() - since)
            await channel.close()

    async def _dial(self) -> tuple[Channel, Welcome]:
        return await dial(self._settings.hub, self._credentials, await self._hello())

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
