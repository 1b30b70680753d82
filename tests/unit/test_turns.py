"""Turns at a lease: who has it works, who has not stands by, and who loses it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from sqlalchemy import make_url

from services.kernel.dialects import Dialect, Lease
from services.kernel.errors import PermanentError, SubakError, TransientError
from services.kernel.lease import Again, Turns
from services.kernel.telemetry import Health

URL = make_url("sqlite:////nowhere.db")
LIMIT_SECONDS = 5.0


class FakeDatabase:
    """Gives one lease at a time; `cut` is a connection that breaks, `away` what it answers nobody with."""

    def __init__(self) -> None:
        self.holder: object | None = None
        self.away: SubakError | None = None

    def lease(self, url: object, role: str) -> Lease | None:
        if self.away:
            raise self.away
        if self.holder is not None:
            return None
        self.holder = lease = FakeLease(self)
        return lease

    def cut(self) -> None:
        self.holder = None


class FakeLease:
    def __init__(self, database: FakeDatabase) -> None:
        self._database = database

    def holds(self) -> bool:
        return self._database.away is None and self._database.holder is self

    def release(self) -> None:
        if self._database.holder is self:
            self._database.holder = None


class Running:
    """`begun` and `ended`: turns; `fault`: what the work raises next."""

    def __init__(self, database: FakeDatabase) -> None:
        self.begun = self.ended = 0
        self.fault: Exception | None = None
        self.deaf = False
        self.stop = asyncio.Event()
        self.health = Health()
        turns = Turns(cast(Dialect, database), URL, "capture", self._work, self.stop, self.health)
        self.task = asyncio.create_task(turns.run())

    async def _work(self, over: asyncio.Event) -> None:
        self.begun += 1
        self.health.ready = True
        try:
            while self.deaf or not over.is_set():
                if self.fault is not None:
                    fault, self.fault = self.fault, None
                    raise fault
                await asyncio.sleep(0.005)
        finally:
            self.ended += 1


async def until(holds: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + LIMIT_SECONDS
    while not holds():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kernel.lease.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("services.kernel.lease.END_SECONDS", 0.2)


def play(scene: Callable[[FakeDatabase], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(cast(Any, scene(FakeDatabase())), 20))


def test_one_works_and_the_other_takes_over() -> None:
    async def scene(database: FakeDatabase) -> None:
        first = Running(database)
        await until(lambda: first.begun == 1)
        second = Running(database)
        await until(lambda: second.health.detail.startswith("standby"))
        assert not second.health.status()[0] and second.begun == 0
        first.stop.set()
        await first.task
        await until(lambda: second.begun == 1)
        assert first.ended == 1
        second.stop.set()
        await second.task
        assert database.holder is None

    play(scene)


def test_a_lease_lost_with_its_connection_ends_the_turn_and_the_next_begins_when_the_database_is_back() -> None:
    async def scene(database: FakeDatabase) -> None:
        one = Running(database)
        await until(lambda: one.begun == 1)
        database.cut()
        await until(lambda: one.begun == 2)
        database.away = TransientError("connection", "It is away.")
        await until(lambda: one.ended == 2 and one.health.detail == "database: It is away.")
        database.cut()
        database.away = None
        await until(lambda: one.begun == 3 and one.health.ready)
        one.stop.set()
        await one.task
        assert (one.begun, one.ended, database.holder) == (3, 3, None)

    play(scene)


@pytest.mark.parametrize("deaf", [False, True], ids=["ends", "is ended"])
def test_when_another_was_quicker_the_turn_is_over(deaf: bool) -> None:
    async def scene(database: FakeDatabase) -> None:
        one = Running(database)
        one.deaf = deaf
        await until(lambda: one.begun == 1)
        database.holder = "another"
        await until(lambda: one.ended == 1 and one.health.detail.startswith("standby"))
        one.deaf = False
        database.cut()
        await until(lambda: one.begun == 2)
        one.stop.set()
        await one.task
        assert database.holder is None

    play(scene)


def test_again_begins_a_new_turn_and_anything_else_is_raised() -> None:
    async def scene(database: FakeDatabase) -> None:
        one = Running(database)
        await until(lambda: one.begun == 1)
        one.fault = Again("the database was put back")
        await until(lambda: one.begun == 2)
        one.fault = PermanentError("denied", "Not allowed.")
        with pytest.raises(PermanentError, match="Not allowed"):
            await one.task
        assert database.holder is None

    play(scene)


def test_a_database_that_is_away_is_waited_for_and_one_that_refuses_is_not() -> None:
    async def scene(database: FakeDatabase) -> None:
        database.away = TransientError("connection", "It is away.")
        one = Running(database)
        await until(lambda: one.health.detail == "database: It is away.")
        database.away = None
        await until(lambda: one.begun == 1)
        one.stop.set()
        await one.task
        database.away = PermanentError("denied", "Not allowed.")
        with pytest.raises(PermanentError, match="Not allowed"):
            await Running(database).task

    play(scene)
