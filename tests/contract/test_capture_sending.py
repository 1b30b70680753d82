"""The whole capture against a hub that speaks the real protocol on loopback and does what the test wants."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from services.capture.service import Service
from services.kernel.change import GENESIS, decode_body
from services.kernel.link import Channel, serve
from services.kernel.settings import Address, OutletSettings, load
from services.kernel.wire.messages import MAX_PART_BYTES, WINDOW_BATCHES, Batch, Hello, Part, Stored, Welcome
from tests.contract.capture_outlet import Outlet
from tests.stack.servers import free_port

PRODUCT = "CREATE TABLE product (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL)"
PHOTO = "CREATE TABLE photo (id INTEGER NOT NULL PRIMARY KEY, picture LONGTEXT)"
LIMIT_SECONDS = 20.0

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite", "mariadb"])


@dataclass
class FakeHub:
    """Takes batches and confirms them while `confirming`; forgets nothing between connections."""

    port: int = field(default_factory=free_port)
    position: int = 0
    digest: bytes = GENESIS
    confirming: bool = True
    hellos: list[Hello] = field(default_factory=list)
    received: list[tuple[Batch, bytes]] = field(default_factory=list)
    unconfirmed: list[Batch] = field(default_factory=list)
    channel: Channel | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await serve(Address("127.0.0.1", self.port), None, self._handle)
        try:
            yield
        finally:
            server.close()
            await self.drop()

    async def drop(self) -> None:
        if self.channel is not None:
            await self.channel.close()

    async def confirm(self) -> None:
        """Everything that came over this connection and is not confirmed yet."""
        while self.unconfirmed:
            batch = self.unconfirmed.pop(0)
            self.position, self.digest = batch.number, batch.digest
            if self.channel is not None:
                await self.channel.send(Stored(batch.epoch, batch.number))

    async def _handle(self, channel: Channel) -> None:
        hello = await channel.receive()
        assert isinstance(hello, Hello)
        self.hellos.append(hello)
        self.channel = channel
        self.unconfirmed.clear()
        await channel.send(Welcome(hub="hub", position=self.position, digest=self.digest, roster=[]))
        while (message := await channel.receive()) is not None:
            assert isinstance(message, Batch)
            body = b""
            for _ in range(message.parts):
                part = await channel.receive()
                assert isinstance(part, Part) and len(part.body) <= MAX_PART_BYTES
                body += part.body
            self.received.append((message, body))
            self.unconfirmed.append(message)
            if self.confirming:
                await self.confirm()

    @property
    def numbers(self) -> list[int]:
        return [batch.number for batch, _ in self.received]

    @property
    def keys(self) -> list[str]:
        return [change.key for _, body in self.received for one in decode_body(body) for change in one.changes]


@pytest.fixture
def outlet(database_url: URL) -> Iterator[Outlet]:
    outlet = Outlet(database_url, PRODUCT, PHOTO)
    yield outlet
    outlet.close()


def variables(outlet: Outlet, hub: FakeHub) -> dict[str, str]:
    return {
        "SUBAK_OUTLET": outlet.name,
        "SUBAK_HUB": f"127.0.0.1:{hub.port}",
        "SUBAK_DATABASE_URL": outlet.url.render_as_string(hide_password=False),
        "SUBAK_TLS": "off",
    }


class Running:
    """A capture that runs in this loop."""

    def __init__(self, outlet: Outlet, hub: FakeHub) -> None:
        self.stop = asyncio.Event()
        self.nudge = asyncio.Event()
        self.service = Service(load(OutletSettings, variables(outlet, hub)), self.stop, self.nudge)
        self.task = asyncio.create_task(self.service.run())

    async def relinked(self, hub: FakeHub) -> None:
        """The hub hangs up; capture dials again, at once as after a SIGHUP."""
        known = len(hub.hellos)
        await hub.drop()

        def linked() -> bool:
            self.nudge.set()
            return len(hub.hellos) > known

        await until(linked, "capture is linked again")

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 10)


@asynccontextmanager
async def running(outlet: Outlet, hub: FakeHub) -> AsyncIterator[Running]:
    capture = Running(outlet, hub)
    try:
        await until(lambda: bool(hub.hellos) or capture.task.done(), "capture is linked")
        yield capture
    finally:
        if not capture.task.done():
            await capture.end()
    capture.task.result()


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + LIMIT_SECONDS
    while not await asyncio.to_thread(holds):
        assert asyncio.get_running_loop().time() < deadline, f"waited {LIMIT_SECONDS} s for: {what}"
        await asyncio.sleep(0.01)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scene(), 60)

    asyncio.run(limited())


def product(number: int) -> str:
    return f"INSERT INTO product VALUES ({number}, 'teh {number}')"


def all_marked(outlet: Outlet) -> bool:
    return all(flag == 1 for _, flag in outlet.flags())


def test_a_change_travels_is_confirmed_and_marked(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub()
        async with hub.listening(), running(outlet, hub):
            await asyncio.to_thread(outlet.execute, product(1), product(2))
            await until(lambda: hub.keys == ["1", "2"], "the batch is there")
            await until(lambda: outlet.flags() == {(1, 1): 2}, "its rows are marked")
        assert (hub.hellos[0].position, hub.hellos[0].digest) == (0, GENESIS)

    play(scene)


def test_nothing_is_marked_before_it_is_confirmed_and_a_window_is_in_flight(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub(confirming=False)
        async with hub.listening(), running(outlet, hub):
            for number in range(1, WINDOW_BATCHES + 6):
                await asyncio.to_thread(outlet.execute, product(number))
                await until(lambda: outlet.waiting() == 0, "it is cut")
            await until(lambda: len(hub.received) == WINDOW_BATCHES, "a window is in flight")
            assert len(outlet.batches()) == WINDOW_BATCHES + 5
            assert not any(flag for _, flag in outlet.flags())
            hub.confirming = True
            await hub.confirm()
            await until(lambda: all_marked(outlet), "all are marked")
        assert hub.numbers == list(range(1, WINDOW_BATCHES + 6))

    play(scene)


def test_a_lost_answer_is_learned_from_the_next_welcome_and_nothing_is_sent_twice(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub(confirming=False)
        async with hub.listening(), running(outlet, hub) as capture:
            await asyncio.to_thread(outlet.execute, product(1))
            await until(lambda: hub.numbers == [1], "it is sent")
            hub.position, hub.digest, hub.confirming = 1, hub.received[0][0].digest, True
            await capture.relinked(hub)
            await until(lambda: all_marked(outlet), "it is marked after the next welcome")
            await asyncio.to_thread(outlet.execute, product(2))
            await until(lambda: all_marked(outlet) and len(outlet.flags()) == 2, "the next one too")
        assert hub.numbers == [1, 2]
        assert (hub.hellos[-1].position, hub.hellos[-1].digest) == (1, hub.received[0][0].digest)

    play(scene)


def test_what_the_hub_does_not_have_is_sent_again_with_the_same_bytes(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub(confirming=False)
        async with hub.listening(), running(outlet, hub) as capture:
            await asyncio.to_thread(outlet.execute, product(1))
            await until(lambda: hub.numbers == [1], "it is sent")
            await asyncio.to_thread(outlet.execute, product(2))
            await until(lambda: hub.numbers == [1, 2], "both are sent")
            hub.confirming = True
            await capture.relinked(hub)
            await until(lambda: all_marked(outlet), "all are marked")
        assert hub.numbers == [1, 2, 1, 2]
        assert hub.received[:2] == hub.received[2:]

    play(scene)


def test_a_hub_that_was_put_back_is_refilled(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub()
        async with hub.listening(), running(outlet, hub) as capture:
            for number in range(1, 4):
                await asyncio.to_thread(outlet.execute, product(number))
                await until(lambda: all_marked(outlet) and outlet.waiting() == 0, "it is marked")
            hub.position, hub.digest = 1, hub.received[0][0].digest
            await capture.relinked(hub)
            await until(lambda: hub.position == 3, "the hub has all again")
        assert hub.numbers == [1, 2, 3, 2, 3]

    play(scene)


def test_batches_are_cut_while_the_hub_is_away(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub()
        capture = Running(outlet, hub)
        await until(outlet.has_triggers, "the triggers are there")
        for number in range(1, 4):
            await asyncio.to_thread(outlet.execute, product(number))
            await until(lambda: outlet.waiting() == 0, "it is cut")
        assert not any(flag for _, flag in outlet.flags())
        await capture.end()
        async with hub.listening(), running(outlet, hub):
            await until(lambda: all_marked(outlet), "all are marked")
        assert hub.numbers == [1, 2, 3]

    play(scene)


def test_a_large_transaction_travels_in_parts(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub()

        def shoot() -> None:
            with outlet.application.begin() as connection:
                for number in range(5):
                    picture = {"id": number, "picture": f"{number}" * 700_000}
                    connection.execute(text("INSERT INTO photo VALUES (:id, :picture)"), picture)

        async with hub.listening(), running(outlet, hub):
            await asyncio.to_thread(shoot)
            await until(lambda: hub.position == 1 and all_marked(outlet), "it is there and marked")
        ((batch, body),) = hub.received
        assert batch.parts == 4 and len(body) == batch.bytes > 3 * MAX_PART_BYTES
        assert [len(one.changes) for one in decode_body(body)] == [5]

    play(scene)


def test_a_hub_with_another_batch_of_that_number_is_a_fork_and_gets_nothing(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub()
        async with hub.listening():
            async with running(outlet, hub):
                await asyncio.to_thread(outlet.execute, product(1))
                await until(lambda: all_marked(outlet) and hub.position == 1, "it is marked")
            right, hub.digest = hub.digest, b"\1" * 32
            await asyncio.to_thread(outlet.execute, product(2))
            async with running(outlet, hub) as capture:
                await until(lambda: "[fork]" in capture.service.health.link, "the fork is told")
                await until(lambda: outlet.waiting() == 0, "cutting goes on")
                assert hub.numbers == [1]
                hub.digest = right
                capture.nudge.set()
                await until(lambda: hub.numbers == [1, 2], "the right state is back")

    play(scene)


def test_told_to_stop_it_waits_for_what_is_in_flight(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub(confirming=False)
        async with hub.listening(), running(outlet, hub) as capture:
            await asyncio.to_thread(outlet.execute, product(1))
            await until(lambda: hub.numbers == [1], "it is sent")
            capture.stop.set()
            await asyncio.sleep(0.2)
            assert not capture.task.done()
            await hub.confirm()
            await asyncio.wait_for(capture.task, 5)
            assert outlet.flags() == {(1, 1): 1}

    play(scene)


async def killed_at(outlet: Outlet, hub: FakeHub, point: str) -> None:
    """Runs capture as a process of its own until it kills itself at the named point."""
    process = await _process(outlet, hub, {"SUBAK_FAILPOINT": point})
    assert await asyncio.wait_for(process.wait(), LIMIT_SECONDS) == -signal.SIGKILL


async def _process(outlet: Outlet, hub: FakeHub, more: dict[str, str]) -> asyncio.subprocess.Process:
    environment = {**os.environ, **variables(outlet, hub), **more}
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "services.capture", env=environment)


@pytest.mark.parametrize(
    ("point", "sent_before"),
    [
        ("capture.before_cut_commit", []),
        ("capture.after_cut_commit", []),
        ("capture.after_send", [1]),
        ("capture.before_mark_commit", [1]),
        ("capture.after_mark_commit", [1]),
    ],
)
def test_killed_at_any_point_the_same_batch_takes_effect_once(
    outlet: Outlet, point: str, sent_before: list[int]
) -> None:
    async def scene() -> None:
        hub = FakeHub(confirming="mark" in point)
        await asyncio.to_thread(outlet.install)
        await asyncio.to_thread(outlet.execute, product(1), product(2))
        async with hub.listening():
            await killed_at(outlet, hub, point)
            if point == "capture.after_send":
                await until(lambda: hub.numbers == [1], "the sent batch has come")
            assert hub.numbers == sent_before
            await asyncio.to_thread(outlet.execute, product(3))
            hub.confirming = True
            async with running(outlet, hub):
                await until(lambda: all_marked(outlet), "all are marked")
        by_number = {batch.number: (batch, body) for batch, body in hub.received}
        assert all(by_number[batch.number] == (batch, body) for batch, body in hub.received), (
            "a number has two contents"
        )
        keys = [change.key for _, body in by_number.values() for one in decode_body(body) for change in one.changes]
        assert keys == ["1", "2", "3"]

    play(scene)


def test_triggers_that_are_dropped_or_out_of_date_are_noticed_while_it_runs(
    outlet: Outlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.capture.service.CATALOGUE_SECONDS", 0.1)

    async def scene() -> None:
        hub = FakeHub()
        async with hub.listening(), running(outlet, hub):
            drop = f"DROP TRIGGER {outlet.dialect.identifier('subak_product_insert')}"
            await asyncio.to_thread(outlet.execute, drop)
            await until(lambda: not outlet.check().changed, "it is put back")
            await asyncio.to_thread(outlet.execute, "ALTER TABLE product ADD COLUMN price INTEGER")
            await until(lambda: not outlet.check().changed, "it knows the new column")
            await asyncio.to_thread(outlet.execute, "INSERT INTO product VALUES (1, 'teh', 12000)")
            await until(lambda: hub.position == 1, "the change is there")
        ((change,),) = (one.changes for one in decode_body(hub.received[0][1]))
        assert "12000" in (change.after or "")

    play(scene)


def test_told_to_stop_while_the_database_is_away_it_ends_in_order(outlet: Outlet) -> None:
    async def scene() -> None:
        url = outlet.url
        url = url.set(database=f"{url.database}.d/none.db") if outlet.is_sqlite else url.set(port=free_port())
        away = url.render_as_string(hide_password=False)
        metrics = free_port()
        more = {"SUBAK_DATABASE_URL": away, "SUBAK_METRICS_LISTEN": f"127.0.0.1:{metrics}"}
        process = await _process(outlet, FakeHub(), more)

        def says_so() -> bool:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{metrics}/readyz", timeout=5)
            except urllib.error.HTTPError as error:
                return error.code == 503 and b"database" in error.read()
            except OSError:
                return False
            return False

        await until(says_so, "it says that the database is away")
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0

    play(scene)


def test_sigterm_ends_it_in_order(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub()
        async with hub.listening():
            process = await _process(outlet, hub, {})
            await until(lambda: bool(hub.hellos), "capture is linked")
            await asyncio.to_thread(outlet.execute, product(1))
            await until(lambda: hub.position == 1, "the batch is there")
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
        assert all_marked(outlet)

    play(scene)
