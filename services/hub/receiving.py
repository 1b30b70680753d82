"""Serves one capture: takes its batches in, answers `stored` in the order of the numbers once they are durable."""

from __future__ import annotations

import asyncio
from collections import deque

from services.hub.chain import Head, Verdict, judge
from services.hub.connection import Connection
from services.hub.storing import Arrival, store_part
from services.hub.writer import Writer
from services.kernel.change import BatchId, digesting
from services.kernel.errors import ProtocolError, TransientError
from services.kernel.failpoint import reach
from services.kernel.tasks import until_one_ends
from services.kernel.wire.messages import WINDOW_BATCHES, Batch, Part, Progress, Stored

UNANSWERED_BATCHES = 2 * WINDOW_BATCHES
"""A capture that does not keep to its window is not read from beyond this."""


class Receiving:
    def __init__(self, connection: Connection, writer: Writer, head: Head) -> None:
        self._connection = connection
        self._channel = connection.channel
        self._writer = writer
        self._head = head
        self._due: deque[tuple[Batch, asyncio.Future[int]]] = deque()
        self._unanswered = asyncio.Semaphore(UNANSWERED_BATCHES)

    async def run(self) -> None:
        """Until the outlet says bye or the hub ends the connection. Raises ProtocolError, PermanentError, TransientError."""
        try:
            await until_one_ends(self._read(), self._answer_on_and_on(), self._connection.ended())
            while self._due:
                await asyncio.wait({self._due[0][1]})
                await self._answer()
        finally:
            for _, stored in self._due:
                stored.cancel()

    async def _read(self) -> None:
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Batch):
                await self._take(message)
            elif isinstance(message, Progress):
                self._connection.progress = message

    async def _take(self, batch: Batch) -> None:
        if batch.parts == 0:
            raise ProtocolError("message", f"Batch {batch.number} is announced without a body.")
        verdict = judge(self._head, batch)
        new = verdict is Verdict.NEXT
        body = await self._receive_body(batch, keep_parts=new and batch.parts > 1)
        if new:
            self._head = Head(batch.epoch, batch.number, batch.digest)
        await self._unanswered.acquire()
        stored = await self._writer.store(Arrival(self._connection.outlet, batch, body, again=not new))
        stored.add_done_callback(lambda _: self._connection.wake.set())
        self._due.append((batch, stored))

    async def _receive_body(self, batch: Batch, keep_parts: bool) -> bytes | None:
        """The body, if it has one part only; the parts of a larger one go to the database as they come.

        That they are in order and of the announced size is the channel's care. Raises ProtocolError `digest`.
        """
        name = BatchId(self._connection.outlet, batch.epoch, batch.number)
        digest = digesting(name, batch.previous)
        body: bytes | None = None
        for _ in range(batch.parts):
            part = await self._channel.receive()
            if not isinstance(part, Part):
                raise TransientError("connection", f"{self._connection.outlet} ended within a batch.")
            digest.update(part.body)
            if keep_parts:
                await self._writer.call(store_part, name, part.index, part.body)
            elif batch.parts == 1:
                body = part.body
        if digest.digest() != batch.digest:
            raise ProtocolError(
                "digest",
                f"Batch {batch.number} of epoch {batch.epoch} is not what was announced.",
                "The capture service must connect again and send it again.",
            )
        return body

    async def _answer_on_and_on(self) -> None:
        while True:
            self._connection.wake.clear()
            await self._connection.send_roster()
            await self._answer()
            await self._connection.wake.wait()

    async def _answer(self) -> None:
        """Says `stored` for what is durable by now, in order."""
        while self._due and self._due[0][1].done():
            batch, stored = self._due.popleft()
            stored.result()
            await self._channel.send(Stored(epoch=batch.epoch, number=batch.number))
            reach("hub.after_stored_sent")
            self._unanswered.release()
