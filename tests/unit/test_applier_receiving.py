"""What the applier tells the hub, and when: over a channel and a database that are made up."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any, ClassVar, cast

from services.applier.applying import Applier
from services.applier.receiving import Receiver
from services.applier.recording import Outcome
from services.applier.standing import Standing
from services.kernel.catalogue import Catalogue
from services.kernel.change import GENESIS
from services.kernel.errors import PermanentError, TransientError
from services.kernel.link import Channel
from services.kernel.telemetry import Health
from services.kernel.wire.messages import Delivery, Executed, Part, Welcome

LIMIT = 10.0
DELIVERIES = 3


class Line:
    """Gives out deliveries, ends when the last was executed, and keeps what it is told."""

    def __init__(self) -> None:
        self.executed: list[int] = []
        self._all = asyncio.Event()
        self._coming: list[Delivery | Part] = []
        for number in range(1, DELIVERIES + 1):
            self._coming.append(Delivery(number, number - 1, "amed", "e", number, GENESIS, GENESIS, 1, 1, 1, 1))
            self._coming.append(Part(0, b"x"))

    async def receive(self) -> Delivery | Part | None:
        if self._coming:
            return self._coming.pop(0)
        await self._all.wait()
        return None

    async def send(self, message: object) -> None:
        if isinstance(message, Executed):
            self.executed.append(message.sequence)
            if len(self.executed) == DELIVERIES:
                self._all.set()


class Database:
    """An applier whose commits are noted, with what had been said by then."""

    one_writer = False
    now = 0
    catalogue = Catalogue(())
    misfits: ClassVar[dict[str, str]] = {}

    def __init__(self, line: Line) -> None:
        self._line = line
        self.committed: list[int] = []
        self.said_by_then: list[list[int]] = []

    def standing(self) -> Standing:
        return Standing("e", 0, "", max(self.committed, default=0), 0)

    def waiting(self) -> list[Any]:
        return []

    def totals(self) -> tuple[int, int]:
        return 0, 0

    def refresh(self) -> None:
        pass

    def apply(self, delivery: Delivery, _body: bytes, _attempt: int = 1) -> Outcome:
        self.said_by_then.append(list(self._line.executed))
        self.committed.append(delivery.sequence)
        return Outcome()

    def apply_together(self, deliveries: list[tuple[Delivery, bytes]], attempt: int = 1) -> list[Outcome]:
        return [self.apply(delivery, body, attempt) for delivery, body in deliveries]


def test_executed_is_said_after_the_commit_in_order_and_once() -> None:
    async def conversation() -> Database:
        line = Line()
        database = Database(line)
        receiver = Receiver(cast(Applier, database), "bali", "process", database.standing, Health(link="up"))
        async with asyncio.timeout(LIMIT):
            await receiver.run(cast(Channel, line), Welcome("besakih", 0, GENESIS, []))
        assert line.executed == database.committed == list(range(1, DELIVERIES + 1))
        return database

    database = asyncio.run(conversation())
    for sequence, said in zip(database.committed, database.said_by_then, strict=True):
        assert all(earlier < sequence for earlier in said), "executed was said of what was not committed"


def test_told_to_stop_it_finishes_what_it_is_at_and_begins_nothing_more() -> None:
    """Of many deliveries that came together and must be applied one by one."""

    class Slow(Database):
        def apply(self, delivery: Delivery, _body: bytes, _attempt: int = 1) -> Outcome:
            receiver.stop()
            return super().apply(delivery, _body, _attempt)

        def apply_together(self, deliveries: list[tuple[Delivery, bytes]], attempt: int = 1) -> list[Outcome]:
            raise PermanentError("check", "One of them cannot be applied.")

    async def conversation() -> None:
        async with asyncio.timeout(LIMIT):
            await receiver.run(cast(Channel, line), Welcome("besakih", 0, GENESIS, []))

    line = Line()
    database = Slow(line)
    receiver = Receiver(cast(Applier, database), "bali", "process", database.standing, Health(link="up"))
    asyncio.run(conversation())
    assert database.committed == line.executed == [1]


def test_a_turn_that_is_cut_short_leaves_no_error_behind_that_nobody_asks_for() -> None:
    """The database hangs longer than a turn is waited for: what it says in the end is nobody's any more."""
    answers, asked = threading.Event(), threading.Event()

    class Hanging(Database):
        def apply_together(self, _deliveries: list[tuple[Delivery, bytes]], attempt: int = 1) -> list[Outcome]:
            asked.set()
            assert answers.wait(LIMIT)
            raise TransientError("connection", "The database is away.", "")

        def apply(self, delivery: Delivery, _body: bytes, attempt: int = 1) -> Outcome:
            self.apply_together([])
            raise AssertionError

    async def conversation() -> list[str]:
        unheard: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unheard.append(context["message"]))
        line = Line()
        database = Hanging(line)
        receiver = Receiver(cast(Applier, database), "bali", "process", database.standing, Health(link="up"))
        running = asyncio.create_task(receiver.run(cast(Channel, line), Welcome("besakih", 0, GENESIS, [])))
        async with asyncio.timeout(LIMIT):
            await asyncio.to_thread(asked.wait, LIMIT)
            receiver.stop()
            for _ in range(2):  # the link is given up, and then the turn
                running.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(running, return_exceptions=True)
            answers.set()
            await asyncio.get_running_loop().shutdown_default_executor()
            for _ in range(3):  # the thread's answer finds its way to whoever waits for it
                await asyncio.sleep(0)
            gc.collect()
        return unheard

    assert asyncio.run(conversation()) == []
