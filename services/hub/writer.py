"""The one who writes to the queue: what gathers while a commit runs goes into the next one (group commit)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy import Connection

from services.hub import metrics
from services.hub.database import Database
from services.hub.delivering import Ack
from services.hub.queue import Call, Group
from services.hub.storing import Arrival
from services.kernel.errors import PermanentError, SubakError

GATHERED_BYTES = 64 * 1024 * 1024
"""Bodies that wait for a commit, of all outlets together; who brings more is not read from until there is room."""

GROUP_BYTES = 8 * 1024 * 1024
"""Bodies in one commit: it holds the counter's lock, and MySQL's redo log, for well under a second."""

GROUP_WORKS = 500
"""Works in one commit: keeps its IN (...) lists short."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    item: Arrival | Ack | Call
    size: int
    done: asyncio.Future[Any]


class Writer:
    def __init__(self, database: Database, stored: Callable[[list[Arrival]], None]) -> None:
        """`stored` is told, after each commit, which batches are now owed to the outlets."""
        self._database = database
        self._stored = stored
        self._works: deque[Work] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Condition()
        self._stopping = False

    async def store(self, arrival: Arrival) -> asyncio.Future[int]:
        """The future gets the batch's sequence once that is durable, or ProtocolError or PermanentError.

        Returns when there is room for the batch.
        """
        size = len(arrival.body or b"")
        async with self._room:
            await self._room.wait_for(lambda: self._bytes == 0 or self._bytes + size <= GATHERED_BYTES)
            return self._submit(arrival, size)

    def executed(self, ack: Ack) -> asyncio.Future[None]:
        return self._submit(ack, 0)

    def call(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """The future gets what `function` returns, once what it did is durable, or the SubakError it raises."""

        def call(connection: Connection) -> object:
            return function(connection, *args, **kwargs)

        return self._submit(call, 0)

    async def run(self) -> None:
        """Until `stop`. Raises PermanentError `another_hub`: then this hub must not go on."""
        while self._works or not self._stopping:
            self._wake.clear()
            works = self._gather()
            if works:
                await self._commit(works)
                async with self._room:
                    self._room.notify_all()
            else:
                await self._wake.wait()

    def stop(self) -> None:
        """`run` returns when everything submitted is committed."""
        self._stopping = True
        self._wake.set()

    def _submit(self, item: Arrival | Ack | Call, size: int) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._works.append(Work(item, size, done))
        self._bytes += size
        self._wake.set()
        return done

    def _gather(self) -> list[Work]:
        works: list[Work] = []
        size = 0
        while self._works and len(works) < GROUP_WORKS and (size == 0 or size + self._works[0].size <= GROUP_BYTES):
            works.append(self._works.popleft())
            size += works[-1].size
        return works

    async def _commit(self, works: list[Work]) -> None:
        arrivals = [work for work in works if isinstance(work.item, Arrival)]
        acks = [work for work in works if isinstance(work.item, Ack)]
        calls = [work for work in works if not isinstance(work.item, Arrival | Ack)]
        group = Group(
            [cast(Arrival, work.item) for work in arrivals],
            [cast(Ack, work.item) for work in acks],
            [cast(Call, work.item) for work in calls],
        )
        begun = time.monotonic()
        try:
            results = await self._database.commit(group)
        except PermanentError as error:
            await self._one_by_one(works, error)
            return
        metrics.COMMIT_DURATION.observe(time.monotonic() - begun)
        self._bytes -= sum(work.size for work in works)
        for work, outcome in zip(arrivals + calls, [*results.stored, *results.returned], strict=True):
            _settle(work, outcome)
        for work in acks:
            _settle(work, None)
        new = [
            arrival for arrival, outcome in zip(group.arrivals, results.stored, strict=True) if isinstance(outcome, int)
        ]
        if new:
            self._stored(new)

    async def _one_by_one(self, works: list[Work], error: PermanentError) -> None:
        """Finds out whose fault it was, so that one bad batch fails nobody else's."""
        if error.code == "another_hub":
            raise error
        if len(works) > 1:
            for work in works:
                await self._commit([work])
        else:
            self._bytes -= works[0].size
            _settle(works[0], error)


def _settle(work: Work, outcome: object) -> None:
    if work.done.done():
        return  # its connection is gone
    if isinstance(outcome, SubakError):
        work.done.set_exception(outcome)
    else:
        work.done.set_result(outcome)
