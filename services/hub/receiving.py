"""Serves one capture: takes its batches in, answers `stored` in the order of the numbers once they are durable."""

from __future__ import annotations

import asyncio
from collections import deque

from services.hub.chain import MAX_NUMBER, Head, Verdict, judge
from services.hub.connection import Connection, first_of
from services.hub.storing import Arrival, store_part
from services.hub.writer import Writer
from services.kernel.change import BatchId, digesting
from services.kernel.errors import ProtocolError, TransientError
from services.kernel.failpoint import reach
from services.kernel.wire.messages import MAX_BATCH_BYTES, WINDOW_BATCHES, Batch, Part, Stored

UNANSWERED_BATCHES = 2 * WINDOW_BATCHES
"""A capture that does not keep to its window is not read from beyond this."""

MAX_EPOCH_CHARACTERS = 32
"""What the columns hold."""


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
            await first_of(self._read(), self._answer_on_and_on(), self._connection.ended())
            while self._due:
                await asyncio.wait({self._due[0][1]})
                await self._answer()
        finally:
            for _, stored in self._due:
                stored.cancel()

    async def _read(self) -> None:
        while (message := await self._channel.receive()) is not None:
            if not isinstance(message, Batch):
                raise ProtocolError("state", f"A capture may not send {type(message).__name__.lower()}.", "")
            await self._take(message)

    async def _take(self, batch: Batch) -> None:
        _check(batch)
        verdict = judge(self._head, batch)
        new = verdict is Verdict.NEXT
        body = await self._receive_body(batch, keep_parts=new and batch.parts > 1)
        if new:
            self._head = Head(batch.epoch, batch.number, batch.digest)
        await self._unanswered.acquire()
        stored = await self._writer.store(Arrival(self._connection.outlet, batch, body))
        stored.add_done_callback(lambda _: self._connection.wake.set())
        self._due.append((batch, stored))

    async def _receive_body(self, batch: Batch, keep_parts: bool) -> bytes | None:
        """The body, if it has one part only; the parts of a larger one go to the database as they come.

        Raises ProtocolError `digest`.
        """
        name = BatchId(self._connection.outlet, batch.epoch, batch.number)
        digest = digesting(name, batch.previous)
        size = 0
        body: bytes | None = None
        for index in range(batch.parts):
            part = await self._channel.receive()
            if part is None:
                raise TransientError("connection", f"{self._connection.outlet} ended within a batch.")
            if not isinstance(part, Part) or part.index != index:
                raise ProtocolError("state", f"Part {index} of batch {batch.number} was due.", "")
            digest.update(part.body)
            size += len(part.body)
            if size > batch.bytes:
                break
            if keep_parts:
                await self._writer.call(store_part, name, index, part.body)
            elif batch.parts == 1:
                body = part.body
        if size != batch.bytes or digest.digest() != batch.digest:
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


def _check(batch: Batch) -> None:
    """Raises ProtocolError `message`: what no column could hold, or no body could be."""
    if not (
        1 <= len(batch.epoch) <= MAX_EPOCH_CHARACTERS
        and 1 <= batch.number <= MAX_NUMBER
        and len(batch.previous) == len(batch.digest) == 32
        and 1 <= batch.parts <= batch.bytes <= MAX_BATCH_BYTES
        and 0 <= batch.transactions <= batch.changes <= batch.bytes
    ):
        raise ProtocolError("message", f"Batch {batch.number} is announced with figures that cannot be.", "")
