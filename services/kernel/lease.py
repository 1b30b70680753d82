"""One process at a time does an outlet's capturing, and one its applying; others stand by and take over when it is gone.

What keeps the data right is not the lease but the fences in the database: the number of the last batch, the ledger.
The lease keeps two processes from being in each other's way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from services.kernel import metrics
from services.kernel.dialects import Dialect, Lease
from services.kernel.errors import TransientError
from services.kernel.telemetry import Health, logger

LOOK_SECONDS = 1.0
"""How often one that stands by asks for the lease, and one that has it looks whether it still does: so long, and the time that the
database needs to notice a death, nobody serves."""

END_SECONDS = 8.0
"""How long a turn that is over may take to end in order: less than a whole service may."""

log = logger("lease")

Work = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Does the service's work until the event is set, and then returns soon."""


class Again(Exception):
    """What this process remembers of the outlet's database is not true any more: the turn ends, and the next one reads it anew."""


class Turns:
    """Runs `work` turn by turn: as long as this process has the lease named `role`, and again whenever it raises Again."""

    def __init__(self, dialect: Dialect, url: URL, role: str, work: Work, stop: asyncio.Event, health: Health) -> None:
        self._dialect = dialect
        self._url = url
        self._role = role
        self._work = work
        self._stop = stop
        self._health = health
        self._told = ""

    async def run(self) -> None:
        """Until the service is told to stop. Raises what `work` raises, but for Again, and PermanentError of the database."""
        while not self._stop.is_set():
            lease = await self._taken()
            if lease is None:
                await _elapsed(self._stop)
                continue
            self._tell("", "starting")
            try:
                await self._turn(lease)
            except Again as again:
                self._tell("again", f"begins again: {again}")
                await _elapsed(self._stop)

    async def _taken(self) -> Lease | None:
        try:
            lease = await asyncio.to_thread(self._take)
        except TransientError as error:
            metrics.DATABASE_UP.set(0)
            self._tell("database", f"database: {error.what}", code=error.code, todo=error.todo)
            return None
        metrics.DATABASE_UP.set(1)
        metrics.STANDBY.set(lease is None)
        if lease is None:
            self._tell("standby", f"standby: another process has this outlet's {self._role}")
        return lease

    def _take(self) -> Lease | None:
        try:
            return self._dialect.lease(self._url, self._role)
        except SQLAlchemyError as error:
            raise self._dialect.classify(error) from error

    async def _turn(self, lease: Lease) -> None:
        over = asyncio.Event()
        work = asyncio.create_task(self._work(over))
        keeping = asyncio.create_task(self._keep(lease, over))
        following = asyncio.create_task(_follow(self._stop, over))
        try:
            await _first(work, over.wait())
            await asyncio.wait({work}, timeout=END_SECONDS)
            if work.done():
                await work
        finally:
            over.set()
            following.cancel()
            work.cancel()
            await asyncio.gather(work, keeping, following, return_exceptions=True)

    async def _keep(self, lease: Lease, over: asyncio.Event) -> None:
        """Gives the lease back when the turn is over, and ends the turn when it is not certain any more that the lease is ours: another
        process may have it, or it went with its connection, and what is there now may be another database."""
        while not over.is_set():
            await _elapsed(over)
            if not over.is_set() and not await asyncio.to_thread(lease.holds):
                log.warning("the lease is lost, and asked for again", role=self._role)
                over.set()
        await asyncio.to_thread(lease.release)

    def _tell(self, state: str, detail: str, **facts: str) -> None:
        """Tells in the log what has changed, once."""
        self._health.ready, self._health.detail = False, detail
        if state and state != self._told:
            log.warning(detail, role=self._role, **facts)
        self._told = state


async def _elapsed(event: asyncio.Event) -> None:
    """LOOK_SECONDS, or less when the event is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), LOOK_SECONDS)


async def _follow(stop: asyncio.Event, over: asyncio.Event) -> None:
    await stop.wait()
    over.set()


async def _first(work: asyncio.Task[None], other: Awaitable[object]) -> None:
    """Until the task is done or the other thing has happened."""
    waiting = asyncio.ensure_future(other)
    try:
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
