"""The hub's one writer: groups what gathers, keeps the order, and lets one bad work fail nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import Connection, insert
from sqlalchemy.engine import URL

from services.hub import outlets, writer
from services.hub.database import Database
from services.hub.delivering import Ack, pending
from services.hub.queue import open_queue
from services.hub.storing import Arrival
from services.hub.writer import Writer
from services.kernel.change import GENESIS, BatchId, digest
from services.kernel.errors import PermanentError, ProtocolError
from services.kernel.schema import HUB_STATE
from services.kernel.telemetry import Health
from services.kernel.wire.messages import Batch, Executed

LIMIT = 30.0


def arrival(origin: str, number: int, previous: bytes, body: bytes) -> Arrival:
    own = digest(BatchId(origin, "e1", number), previous, body)
    return Arrival(origin, Batch("e1", number, previous, own, 1, 1, len(body), 1), body)


def break_a_rule(connection: Connection) -> None:
    """What no database takes: the same key twice."""
    connection.execute(insert(HUB_STATE), [{"Name": "same", "Value": "1"}, {"Name": "same", "Value": "2"}])


def with_writer(url: URL, scenario: Callable[[Writer, Database, list[str]], Awaitable[None]]) -> None:
    async def run() -> None:
        queue = open_queue(url, lambda: 0)
        database = Database(queue, Health())
        await database.start()
        for name in ("amed", "bedugul", "candi"):
            queue.write(outlets.add, name, "", "", 0)
        told: list[str] = []
        own = Writer(database, lambda arrivals: told.extend(arrival.origin for arrival in arrivals))
        running = asyncio.create_task(own.run())
        async with asyncio.timeout(LIMIT):
            await scenario(own, database, told)
            own.stop()
            await running
        database.close()

    asyncio.run(run())


def test_one_bad_work_fails_nobody_else(hub_url: URL) -> None:
    async def scenario(writer: Writer, database: Database, told: list[str]) -> None:
        first = await writer.store(arrival("amed", 1, GENESIS, b"one"))
        bad = writer.call(break_a_rule)
        gap = await writer.store(arrival("bedugul", 2, GENESIS, b"two"))
        second = await writer.store(arrival("candi", 1, GENESIS, b"three"))
        after = writer.call(lambda connection: 7)
        assert (await first, await second, await after) == (1, 2, 7)
        with pytest.raises(PermanentError):
            await bad
        with pytest.raises(ProtocolError):
            await gap
        assert told == ["amed", "candi"]
        await writer.executed(Ack("bedugul", Executed(1)))
        assert [it.sequence for it in await database.read(pending, "bedugul", 0, 9)] == [2]

    with_writer(hub_url, scenario)


@pytest.mark.parametrize("hub_engine_name", ["sqlite"])
def test_bodies_that_wait_for_a_commit_are_bounded(hub_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GATHERED_BYTES", 1000)

    async def scenario(writer: Writer, database: Database, told: list[str]) -> None:
        previous = GENESIS
        waiting = []
        for number in range(1, 31):
            one = arrival("amed", number, previous, b"x" * 400)
            previous = one.batch.digest
            waiting.append(await writer.store(one))
            assert sum(not future.done() for future in waiting) <= 3
        assert await asyncio.gather(*waiting) == list(range(1, 31))

    with_writer(hub_url, scenario)


@pytest.mark.parametrize("hub_engine_name", ["sqlite"])
def test_another_hub_stops_this_one(hub_url: URL) -> None:
    async def scenario() -> None:
        queue, other = (open_queue(hub_url, lambda: 0) for _ in range(2))
        database = Database(queue, Health())
        await database.start()
        queue.write(outlets.add, "amed", "", "", 0)
        own = Writer(database, lambda arrivals: None)
        running = asyncio.create_task(own.run())
        one = arrival("amed", 1, GENESIS, b"one")
        two = arrival("amed", 2, one.batch.digest, b"two")
        three = arrival("amed", 3, two.batch.digest, b"three")
        assert await (await own.store(one)) == 1
        elsewhere = Writer(Database(other, Health()), lambda arrivals: None)
        running_elsewhere = asyncio.create_task(elsewhere.run())
        assert await (await elsewhere.store(two)) == 2
        await own.store(three)
        with pytest.raises(PermanentError) as stopped:
            await running
        assert stopped.value.code == "another_hub"
        elsewhere.stop()
        await running_elsewhere

    asyncio.run(scenario())
