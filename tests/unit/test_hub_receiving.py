"""What the hub tells a capture, and when: over a channel and a writer that are made up."""

from __future__ import annotations

import asyncio
from typing import cast

from services.hub.chain import NO_HEAD
from services.hub.connection import Connection
from services.hub.receiving import Receiving
from services.hub.writer import Writer
from services.kernel.change import GENESIS, BatchId, digest
from services.kernel.link import Channel
from services.kernel.wire.messages import Batch, Part, Role, Stored

LIMIT = 10.0
BODIES = (b"one", b"two", b"three")
LATEST_FIRST = (2, 1, 0)


class Line:
    """Brings the batches, and ends when it is told to."""

    def __init__(self) -> None:
        self.stored: list[int] = []
        self.end = asyncio.Event()
        self._coming: list[Batch | Part] = []
        previous = GENESIS
        for number, body in enumerate(BODIES, start=1):
            ours = digest(BatchId("amed", "e", number), previous, body)
            self._coming += [Batch("e", number, previous, ours, 1, 1, len(body), 1), Part(0, body)]
            previous = ours

    async def receive(self) -> Batch | Part | None:
        if self._coming:
            return self._coming.pop(0)
        await self.end.wait()
        return None

    async def send(self, message: object) -> None:
        if isinstance(message, Stored):
            self.stored.append(message.number)


class Commits:
    """A writer whose commits the test makes."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[int]] = []
        self.all_here = asyncio.Event()

    async def store(self, _arrival: object) -> asyncio.Future[int]:
        self.waiting.append(asyncio.get_running_loop().create_future())
        if len(self.waiting) == len(BODIES):
            self.all_here.set()
        return self.waiting[-1]


def test_stored_is_said_after_the_commit_and_in_order() -> None:
    async def conversation() -> None:
        line, commits = Line(), Commits()
        connection = Connection(cast(Channel, line), "amed", Role.CAPTURE, "1")
        receiving = asyncio.create_task(Receiving(connection, cast(Writer, commits), NO_HEAD).run())
        async with asyncio.timeout(LIMIT):
            await commits.all_here.wait()
            for at in LATEST_FIRST:
                connection.wake.set()
                for _ in range(10):  # every task that could say something has its turn
                    await asyncio.sleep(0)
                assert line.stored == [], "stored was said of what was not committed"
                commits.waiting[at].set_result(at + 1)
            line.end.set()
            await receiving
        assert line.stored == [1, 2, 3]

    asyncio.run(conversation())
