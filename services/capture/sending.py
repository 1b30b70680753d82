"""Sends batches out of `subak_batch_part`, a window at a time, and marks their rows when the hub has confirmed them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from services.capture import metrics, storing
from services.capture.database import Database
from services.capture.progress import Progress
from services.capture.storing import Header
from services.kernel.change import GENESIS
from services.kernel.errors import PermanentError
from services.kernel.failpoint import reach
from services.kernel.link import Channel
from services.kernel.wire.messages import (
    MAX_PART_BYTES,
    PROTOCOL_VERSION,
    WINDOW_BATCHES,
    WINDOW_BYTES,
    Batch,
    Hello,
    Part,
    Role,
    Stored,
    Welcome,
)

MARK_BATCHES = 64
"""Batches marked in one commit: some 64,000 rows, a second of work at most."""

DRAIN_SECONDS = 5.0
"""How long a service that was told to stop waits for `stored`; what comes later is learned at the next start."""


class Sender:
    """One connection's worth of sending; `run` begins anew with each connection."""

    def __init__(
        self,
        database: Database,
        outlet: str,
        software: str,
        progress: Progress,
        clock: Callable[[], int],
        stop: asyncio.Event,
    ) -> None:
        """`clock` gives µs since 1970 UTC."""
        self._database = database
        self._outlet = outlet
        self._software = software
        self._progress = progress
        self._clock = clock
        self._stop = stop
        self._forget(0)

    def _forget(self, position: int) -> None:
        self._sent = self._confirmed = position
        self._in_flight: deque[Header] = deque()
        self._room = asyncio.Event()
        self._confirmation = asyncio.Event()
        self._marked = asyncio.Event()

    async def hello(self) -> Hello:
        cut = self._progress.cut
        return Hello(PROTOCOL_VERSION, Role.CAPTURE, self._outlet, cut.epoch, cut.number, cut.digest, self._software)

    async def run(self, channel: Channel, welcome: Welcome) -> None:
        """Sends until the connection ends or the service stops.

        Raises PermanentError `fork`, and what ends the connection.
        """
        self._forget(welcome.position)
        metrics.CONNECTED.set(1)
        try:
            await self._agree(welcome)
            await _first(self._transmit(channel), self._receive(channel), self._mark())
        finally:
            metrics.CONNECTED.set(0)

    async def _agree(self, welcome: Welcome) -> None:
        """What the hub has is what was cut here: then it is marked. A hub that was put back to an older state has less."""
        epoch = self._progress.cut.epoch
        ours: bytes | None = GENESIS
        if welcome.position:
            ours = await self._database.read(lambda connection: storing.digest_of(connection, epoch, welcome.position))
        if welcome.digest != ours:
            raise PermanentError(
                "fork",
                f"The hub's batch {welcome.position} of outlet {self._outlet} is not the one that was cut here (epoch {epoch},"
                f" last batch {self._progress.cut.number}): this database was put back to an older state.",
                "Nothing is sent, so that nothing is overwritten. Put back the newer state, or let this outlet begin again"
                " with a copy of another outlet's database.",
            )
        await self._mark_up_to(welcome.position)

    async def _transmit(self, channel: Channel) -> None:
        epoch = self._progress.cut.epoch
        while not self._stop.is_set():
            self._progress.news.clear()
            if self._sent == self._progress.cut.number:
                await self._wait(self._progress.news)
                continue
            for header in await self._database.read(partial(storing.headers, epoch=epoch, after=self._sent)):
                while self._window_is_full() and not self._stop.is_set():
                    self._room.clear()
                    await self._wait(self._room)
                if self._stop.is_set():
                    break
                await self._send(channel, epoch, header)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drained(), DRAIN_SECONDS)

    def _window_is_full(self) -> bool:
        return len(self._in_flight) >= WINDOW_BATCHES or sum(one.bytes for one in self._in_flight) >= WINDOW_BYTES

    async def _send(self, channel: Channel, epoch: str, header: Header) -> None:
        self._in_flight.append(header)
        self._sent = header.number
        parts = -(-header.bytes // MAX_PART_BYTES)
        await channel.send(
            Batch(
                epoch=epoch,
                number=header.number,
                previous=header.previous,
                digest=header.digest,
                changes=header.changes,
                transactions=header.transactions,
                bytes=header.bytes,
                parts=parts,
            )
        )
        for index in range(parts):
            body = await self._database.read(partial(storing.part, epoch=epoch, number=header.number, index=index))
            await channel.send(Part(index, body))
        reach("capture.after_send")

    async def _receive(self, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            if not isinstance(message, Stored):
                continue  # the roster, and whether broadcasting is paused, change nothing here
            self._confirmed = self._in_flight.popleft().number  # the session sees to it that it is the next
            self._room.set()
            self._confirmation.set()

    async def _mark(self) -> None:
        while True:
            await self._confirmation.wait()
            self._confirmation.clear()
            await self._mark_up_to(self._confirmed)
            self._marked.set()

    async def _mark_up_to(self, number: int) -> None:
        epoch = self._progress.cut.epoch
        while self._progress.stored < number:
            first = self._progress.stored + 1
            some = range(first, min(number + 1, first + MARK_BATCHES))
            await self._database.retried(partial(self._mark_some, epoch, some))
            self._progress.has_stored(some[-1])

    def _mark_some(self, epoch: str, numbers: range) -> None:
        with self._database.transaction() as connection:
            storing.mark_stored(connection, epoch, numbers, self._clock())
            reach("capture.before_mark_commit")
        reach("capture.after_mark_commit")

    async def _drained(self) -> None:
        while self._progress.stored < self._sent:
            self._marked.clear()
            await self._marked.wait()

    async def _wait(self, event: asyncio.Event) -> None:
        """Until the event is set or the service is to stop."""
        await _first(event.wait(), self._stop.wait())


async def _first(*work: Coroutine[Any, Any, object]) -> None:
    """Runs all until one of them ends, and ends the others. Raises what that one raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
