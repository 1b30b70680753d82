"""The bodies of batches on their way to the outlets: those stored just now from memory, all others from the database, by parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable

from services.hub.database import Database
from services.hub.delivering import part
from services.hub.storing import Arrival
from services.kernel.change import BatchId

RECENT_BYTES = 32 * 1024 * 1024
"""Kept of what was stored last: outlets that keep up are served without reading the database."""


class Bodies:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent: OrderedDict[BatchId, bytes] = OrderedDict()
        self._size = 0

    def keep(self, arrivals: Iterable[Arrival]) -> None:
        for arrival in arrivals:
            if arrival.body is not None and arrival.id not in self._recent:
                self._recent[arrival.id] = arrival.body
                self._size += len(arrival.body)
        while self._size > RECENT_BYTES:
            self._size -= len(self._recent.popitem(last=False)[1])

    async def parts(self, batch: BatchId, count: int) -> AsyncIterator[bytes]:
        """The parts in order, one in memory at a time."""
        recent = self._recent.get(batch)
        if recent is not None:
            yield recent
            return
        for index in range(count):
            yield await self._database.read(part, batch, index)
