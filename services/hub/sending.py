"""Serves one applier: pushes what its outlet is owed, in order, a window at a time; marks what it has executed."""

from __future__ import annotations

import asyncio
from collections import deque

from services.hub import metrics
from services.hub.bodies import Bodies
from services.hub.connection import Connection
from services.hub.database import Database
from services.hub.delivering import Ack, pending
from services.hub.reporting import report
from services.hub.writer import Writer
from services.kernel.change import BatchId
from services.kernel.tasks import until_one_ends
from services.kernel.wire.messages import WINDOW_BATCHES, WINDOW_BYTES, Delivery, Executed, Part, Report

READ_AHEAD = 4 * WINDOW_BATCHES
"""Deliveries (without their bodies) read from the queue at once."""


class Sending:
    def __init__(
        self, connection: Connection, writer: Writer, database: Database, bodies: Bodies, position: int
    ) -> None:
        self._connection = connection
        self._channel = connection.channel
        self._writer = writer
        self._database = database
        self._bodies = bodies
        self._read_up_to = position
        self._next: deque[Delivery] = deque()
        self._in_flight: deque[Delivery] = deque()
        self._marking: deque[asyncio.Future[None]] = deque()

    async def run(self) -> None:
        """Until the outlet says bye or the hub ends the connection. Raises ProtocolError, PermanentError, TransientError."""
        try:
            await until_one_ends(self._read(), self._push_on_and_on(), self._connection.ended())
            while self._marking:
                await asyncio.wait({self._marking[0]})
                self._settle()
        finally:
            for marked in self._marking:
                marked.cancel()

    async def _read(self) -> None:
        outlet = self._connection.outlet
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Executed):
                self._executed(message)
            elif isinstance(message, Report):
                await self._writer.call(report, outlet, message)

    def _executed(self, executed: Executed) -> None:
        """That it answers the oldest delivery in flight is the channel's care."""
        self._in_flight.popleft()
        marked = self._writer.executed(Ack(self._connection.outlet, executed))
        self._marking.append(marked)
        marked.add_done_callback(lambda _: self._connection.wake.set())
        self._connection.wake.set()

    async def _push_on_and_on(self) -> None:
        while True:
            self._connection.wake.clear()
            await self._connection.send_roster()
            self._settle()
            if not self._connection.paused and self._has_room() and await self._look_ahead():
                await self._push(self._next.popleft())
            else:
                await self._connection.wake.wait()

    async def _look_ahead(self) -> bool:
        """Whether something is owed that was not sent yet."""
        if not self._next and self._connection.news:
            self._connection.news = False
            owed = await self._database.read(pending, self._connection.outlet, self._read_up_to, READ_AHEAD)
            self._next.extend(owed)
            if len(owed) == READ_AHEAD:
                self._connection.news = True
            if owed:
                self._read_up_to = owed[-1].sequence
        return bool(self._next)

    async def _push(self, delivery: Delivery) -> None:
        self._in_flight.append(delivery)
        metrics.sent(self._connection.outlet, delivery)
        index = 0
        async for body in self._bodies.parts(BatchId(delivery.origin, delivery.epoch, delivery.number), delivery.parts):
            part = Part(index=index, body=body)
            await (self._channel.send(part) if index else self._channel.send(delivery, part))
            index += 1

    def _has_room(self) -> bool:
        return (
            len(self._in_flight) < WINDOW_BATCHES and sum(delivery.bytes for delivery in self._in_flight) < WINDOW_BYTES
        )

    def _settle(self) -> None:
        while self._marking and self._marking[0].done():
            self._marking.popleft().result()
            metrics.EXECUTED.labels(self._connection.outlet).inc()
