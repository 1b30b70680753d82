"""A real hub process, talked to as an outlet's services would: what it stores, whom it tells, what it does not put up with."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from services.hub import administration
from services.kernel.change import GENESIS, BatchId, digest
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.errors import SubakError, TransientError
from services.kernel.link import Channel, RefusedError, dial
from services.kernel.settings import Address
from services.kernel.wire.messages import (
    WINDOW_BATCHES,
    AnyMessage,
    Batch,
    Delivery,
    Executed,
    Hello,
    Part,
    Role,
    Roster,
    Stored,
    Welcome,
)
from services.kernel.wire.session import Side
from tests.conftest import FreshDatabase
from tests.stack.network import Process, wait_for
from tests.stack.servers import MysqlServer, Servers, free_port
from tests.unit.certificates import Authority, trust

LIMIT = 20.0
"""Seconds within which the hub must do whatever it is waited for here."""

ENGINES = pytest.mark.parametrize("engine_name", ["sqlite", "mariadb"])
"""The protocol is the same on every engine; the queue's own tests run on all of them."""


class Hub:
    """The process, and clients for it."""

    def __init__(self, database_url: URL, folder: Path) -> None:
        self.address = Address("127.0.0.1", free_port())
        self.database_url = database_url
        metrics = free_port()
        environment = {
            "SUBAK_TLS": "off",
            "SUBAK_HUB_LISTEN": f"127.0.0.1:{self.address.port}",
            "SUBAK_HUB_DATABASE_URL": database_url.render_as_string(hide_password=False),
            "SUBAK_HUB_ENROL": "open",
            "SUBAK_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        }
        self.process = Process("hub", "services.hub", environment, metrics, folder / "hub.log")

    def start(self, **extra: str) -> None:
        self.process.start(extra)
        wait_for("the hub to be ready", self.process.ready, LIMIT)

    @property
    def pid(self) -> int:
        assert self.process.running is not None
        return self.process.running.pid

    def wait(self) -> int:
        assert self.process.running is not None
        return self.process.running.wait(LIMIT)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def dial(
        self, outlet: str, role: Role, position: int = 0, own: bytes = GENESIS, epoch: str = "e1", **more: Any
    ) -> tuple[Channel, Welcome]:
        """`more`: what else stands in the hello."""
        return await dial(self.address, None, Hello(1, role, outlet, epoch, position, own, **more))

    async def capture(self, outlet: str, cut: int = 0, own: bytes = GENESIS, epoch: str = "e1", **more: Any) -> Capture:
        channel, welcome = await self.dial(outlet, Role.CAPTURE, cut, own, epoch, **more)
        return Capture(outlet, channel, welcome, epoch)

    async def applier(self, outlet: str, position: int = 0, **more: Any) -> Applier:
        channel, welcome = await self.dial(outlet, Role.APPLIER, position, **more)
        return Applier(channel, welcome, position)


async def expect(channel: Channel, kind: type[AnyMessage]) -> AnyMessage:
    """The next message of that kind; the roster may come in between."""
    async with asyncio.timeout(LIMIT):
        while True:
            message = await channel.receive()
            assert message is not None, f"bye came instead of {kind.__name__}"
            if isinstance(message, kind):
                return message
            assert isinstance(message, Roster), message


class Capture:
    def __init__(self, outlet: str, channel: Channel, welcome: Welcome, epoch: str) -> None:
        self.outlet = outlet
        self.epoch = epoch
        self.channel = channel
        self.welcome = welcome
        self.number, self.digest = welcome.position, welcome.digest

    async def send(self, *bodies: bytes) -> int:
        """The next batch, in as many parts as there are bodies. Its number."""
        whole = b"".join(bodies)
        own = digest(BatchId(self.outlet, self.epoch, self.number + 1), self.digest, whole)
        batch = Batch(self.epoch, self.number + 1, self.digest, own, 1, 1, len(whole), len(bodies))
        await self.channel.send(batch, *(Part(index, body) for index, body in enumerate(bodies)))
        self.number, self.digest = batch.number, own
        return batch.number

    async def stored(self) -> int:
        message = await expect(self.channel, Stored)
        assert isinstance(message, Stored)
        return message.number

    async def store(self, *bodies: bytes) -> None:
        number = await self.send(*bodies)
        assert await self.stored() == number


class Applier:
    def __init__(self, channel: Channel, welcome: Welcome, position: int) -> None:
        self.channel = channel
        self.welcome = welcome
        self.position = position

    async def receive(self) -> tuple[Delivery, bytes]:
        delivery = await expect(self.channel, Delivery)
        assert isinstance(delivery, Delivery)
        body = b""
        for index in range(delivery.parts):
            part = await self.channel.receive()
            assert isinstance(part, Part) and part.index == index
            body += part.body
        name = BatchId(delivery.origin, delivery.epoch, delivery.number)
        assert digest(name, delivery.previous, body) == delivery.digest
        return delivery, body

    async def execute(self) -> bytes:
        """Takes the next delivery, which must follow the one before, and confirms it."""
        delivery, body = await self.receive()
        assert delivery.previous_sequence == self.position
        self.position = delivery.sequence
        await self.channel.send(Executed(delivery.sequence))
        return body

    async def nothing_comes(self, seconds: float = 0.3) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.receive()
                return False
        return True


def talk(conversation: Callable[[], Awaitable[None]]) -> None:
    async def within_limit() -> None:
        async with asyncio.timeout(3 * LIMIT):
            await conversation()

    asyncio.run(within_limit())


@pytest.fixture
def hub(fresh_database: FreshDatabase, engine_name: str, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(fresh_database(engine_name, "hub"), tmp_path)
    hub.start()
    yield hub
    if hub.process.alive:
        hub.kill()
    print(hub.process.tail())


@ENGINES
def test_a_batch_reaches_every_other_outlet(hub: Hub) -> None:
    async def conversation() -> None:
        amed, bedugul = await hub.applier("amed"), await hub.applier("bedugul")
        candi = await hub.capture("candi")
        await candi.store("one 🌾".encode())
        assert await amed.execute() == await bedugul.execute() == "one 🌾".encode()
        for number in range(200):
            await candi.send(b"%d" % number)
        assert [await candi.stored() for _ in range(200)] == list(range(2, 202))
        for number in range(200):
            assert await amed.execute() == await bedugul.execute() == b"%d" % number

    talk(conversation)
    assert hub.stop() == 0


@ENGINES
def test_a_large_batch_comes_and_goes_in_parts(hub: Hub) -> None:
    parts = [bytes([index]) * 1_000_000 for index in range(12)]

    async def conversation() -> None:
        amed = await hub.applier("amed")
        candi = await hub.capture("candi")
        await candi.store(*parts)
        await candi.store(b"small")
        assert await amed.execute() == b"".join(parts)
        assert await amed.execute() == b"small"

    talk(conversation)


@ENGINES
def test_the_window_is_kept_and_resumed(hub: Hub) -> None:
    count = WINDOW_BATCHES + 5

    async def conversation() -> None:
        await hub.applier("amed")
        candi = await hub.capture("candi")
        for number in range(count):
            await candi.send(b"%d" % number)
        for _ in range(count):
            await candi.stored()
        amed = await hub.applier("amed")
        sequences = []
        for number in range(WINDOW_BATCHES):
            delivery, body = await amed.receive()
            sequences.append(delivery.sequence)
            assert body == b"%d" % number
        assert await amed.nothing_comes()
        await amed.channel.send(Executed(sequences[0]))
        delivery, _ = await amed.receive()
        assert delivery.previous_sequence == sequences[-1]
        await amed.channel.send(Executed(sequences[1]))
        await amed.channel.close()

        amed = await hub.applier("amed", position=sequences[3])  # two acknowledgements were lost
        for number in range(4, count):
            assert await amed.execute() == b"%d" % number
        assert await amed.nothing_comes()

    talk(conversation)


@ENGINES
def test_a_window_is_bounded_in_bytes_too(hub: Hub) -> None:
    async def conversation() -> None:
        amed = await hub.applier("amed")
        candi = await hub.capture("candi")
        for _ in range(12):
            await candi.store(b"x" * 1_000_000)
        for _ in range(9):
            await amed.receive()
        assert await amed.nothing_comes()

    talk(conversation)


@ENGINES
def test_a_slow_outlet_holds_up_nobody(hub: Hub) -> None:
    async def conversation() -> None:
        await hub.applier("slow")  # never reads
        amed = await hub.applier("amed")
        candi = await hub.capture("candi")
        for number in range(40):
            await candi.send(b"%d" % number + b"x" * 500_000)
        for number in range(40):
            await candi.stored()
            assert (await amed.execute()).startswith(b"%d" % number)

    talk(conversation)


@ENGINES
def test_a_newer_connection_replaces_the_older(hub: Hub) -> None:
    async def conversation() -> None:
        await hub.applier("amed")
        older = await hub.capture("candi")
        await older.store(b"one")
        newer = await hub.capture("candi", older.number, older.digest)
        assert newer.welcome.position == 1
        with pytest.raises(SubakError) as refused:
            await older.stored()
        assert refused.value.code == "replaced"
        await newer.store(b"two")
        first = await hub.applier("amed")
        second = await hub.applier("amed")
        with pytest.raises(SubakError):
            while True:
                await first.receive()
        assert [await second.execute(), await second.execute()] == [b"one", b"two"]

    talk(conversation)


@ENGINES
def test_who_comes_and_goes_is_told_to_the_others(hub: Hub) -> None:
    async def until(channel: Channel, met: Callable[[Roster], bool]) -> None:
        while True:
            message = await expect(channel, Roster)
            assert isinstance(message, Roster)
            if met(message):
                return

    def online(roster: Roster) -> dict[str, bool]:
        return {outlet.name: outlet.online for outlet in roster.outlets}

    async def conversation() -> None:
        engine = dialect_for(hub.database_url).engine(hub.database_url, Purpose.WRITE)
        amed = await hub.applier("amed")
        await until(amed.channel, lambda roster: online(roster) == {"amed": True})
        candi = await hub.capture("candi")
        assert {outlet.name for outlet in candi.welcome.roster} == {"amed", "candi"}
        await until(amed.channel, lambda roster: online(roster) == {"amed": True, "candi": True})
        await candi.channel.close()
        await until(amed.channel, lambda roster: online(roster) == {"amed": True, "candi": False})
        await asyncio.to_thread(administration.add, engine, "bedugul", "Sawah", "Bedugul")
        await until(amed.channel, lambda roster: "bedugul" in online(roster))

        await asyncio.to_thread(administration.pause, engine)
        await until(amed.channel, lambda roster: roster.paused)
        candi = await hub.capture("candi")
        assert candi.welcome.paused
        await candi.store(b"one")
        assert await amed.nothing_comes()
        await asyncio.to_thread(administration.resume, engine)
        assert await amed.execute() == b"one"
        assert administration.hub_state(engine) is administration.HubState.RUNNING

        await asyncio.to_thread(administration.remove, engine, "candi")
        with pytest.raises(SubakError) as refused:
            await candi.stored()
        assert refused.value.code == "removed"
        with pytest.raises(RefusedError) as again:
            await hub.capture("candi", 1, candi.digest)
        assert again.value.code == "removed"
        engine.dispose()

    talk(conversation)


@pytest.mark.parametrize("engine_name", ["sqlite"])
def test_an_unknown_outlet_is_refused_when_enrolment_is_closed(hub: Hub) -> None:
    hub.stop()
    hub.start(SUBAK_HUB_ENROL="closed")

    async def conversation() -> None:
        with pytest.raises(RefusedError) as refused:
            await hub.applier("amed")
        assert refused.value.code == "unknown"
        assert "subak outlet add" in refused.value.todo

    talk(conversation)


@pytest.mark.parametrize("engine_name", ["sqlite"])
def test_what_breaks_the_rules_is_refused(hub: Hub) -> None:
    async def refusal(send: Callable[[Capture], Awaitable[object]]) -> str:
        capture = await hub.capture("candi", 10, b"d" * 32)
        await send(capture)
        with pytest.raises(SubakError) as refused:
            await capture.stored()
        return refused.value.code

    async def conversation() -> None:
        def batch(number: int, previous: bytes = GENESIS, size: int = 3) -> Callable[[Capture], Awaitable[object]]:
            async def send(capture: Capture) -> None:
                own = digest(BatchId("candi", "e1", number), previous, b"one")
                await capture.channel.send(Batch("e1", number, previous, own, 1, 1, size, 1), Part(0, b"one"))

            return send

        async def wrong_body(capture: Capture) -> None:
            await capture.channel.send(Batch("e1", 1, GENESIS, b"d" * 32, 1, 1, 3, 1), Part(0, b"one"))

        async def wrong_body_in_parts(capture: Capture) -> None:
            await capture.channel.send(Batch("e1", 1, GENESIS, b"d" * 32, 1, 1, 6, 2), Part(0, b"one"), Part(1, b"two"))

        async def for_another(capture: Capture) -> None:
            """Its digest is that of another outlet's batch: no batch can be passed off as somebody else's."""
            own = digest(BatchId("amed", "e1", 1), GENESIS, b"one")
            await capture.channel.send(Batch("e1", 1, GENESIS, own, 1, 1, 3, 1), Part(0, b"one"))

        async def executed(capture: Capture) -> None:
            await capture.channel.send(Executed(1))

        async def second_hello(capture: Capture) -> None:
            await capture.channel.send(Hello(1, Role.CAPTURE, "candi", "e1", 0, GENESIS))

        assert await refusal(batch(2)) == "gap"
        assert await refusal(batch(0)) in {"gap", "message"}
        assert await refusal(batch(1, b"p" * 32)) == "fork"
        assert await refusal(wrong_body) == "digest"
        assert await refusal(wrong_body_in_parts) == "digest"
        assert await refusal(for_another) == "digest"
        assert await refusal(executed) == "state"
        assert await refusal(second_hello) == "state"

        await (await hub.capture("candi")).store(b"one")
        with pytest.raises(RefusedError) as fork:
            await hub.capture("candi", 0)
        assert fork.value.code == "fork"
        amed = await hub.applier("amed")
        await amed.channel.send(Executed(1))
        with pytest.raises(SubakError) as early:
            await amed.receive()
        assert early.value.code == "state"
        with pytest.raises(RefusedError) as gap:
            await hub.applier("amed", 2**62)
        assert gap.value.code == "gap"

    talk(conversation)
    assert hub.process.alive


@pytest.mark.parametrize("engine_name", ["sqlite"])
def test_garbage_disturbs_nobody_and_costs_no_memory(hub: Hub) -> None:
    noise = [
        b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
        os.urandom(10_000),
        struct.pack(">IB", 2**32 - 1, 0) + b"x" * 100_000,
        struct.pack(">IB", 60_000, 0) + b"x" * 60_000,
        struct.pack(">IB", 10, 255) + b"x" * 10,
        struct.pack(">IB", 100, 0) + b"half",
        b"",
    ]

    async def annoy(bytes_: bytes) -> None:
        _, writer = await asyncio.open_connection(*hub.address)
        with suppress(OSError):
            writer.write(bytes_)
            await writer.drain()
            await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()

    async def conversation() -> None:
        amed = await hub.applier("amed")
        candi = await hub.capture("candi")
        await candi.store(b"before")
        before = hub.resident_bytes()
        for _ in range(60):
            await asyncio.gather(*(annoy(bytes_) for bytes_ in noise))
        await candi.store(b"after")
        assert [await amed.execute(), await amed.execute()] == [b"before", b"after"]
        assert hub.resident_bytes() - before < 20_000_000

    talk(conversation)


@ENGINES
@pytest.mark.parametrize(
    "point",
    [
        "hub.before_store_commit",
        "hub.after_store_commit",
        "hub.after_stored_sent",
        "hub.before_executed_commit",
        "hub.after_executed_commit",
    ],
)
def test_a_hub_killed_in_the_middle_loses_nothing(hub: Hub, point: str) -> None:
    """Each service resumes from what it knows: capture from its last digest, the applier from its ledger."""
    bodies = [b"%d" % number for number in range(30)]

    async def send_all(capture: Capture, answered: list[int]) -> None:
        for body in bodies[capture.number :]:
            await capture.send(body)
            answered.append(await capture.stored())

    async def take_all(applier: Applier, taken: list[bytes]) -> None:
        while len(taken) < len(bodies):
            delivery, body = await applier.receive()
            assert delivery.previous_sequence == applier.position
            applier.position = delivery.sequence
            taken.append(body)  # durable at the outlet
            await applier.channel.send(Executed(delivery.sequence))

    async def until_killed() -> tuple[Capture, int, int, list[bytes]]:
        answered: list[int] = []
        taken: list[bytes] = []
        amed, candi = await hub.applier("amed"), await hub.capture("candi")
        for result in await asyncio.gather(send_all(candi, answered), take_all(amed, taken), return_exceptions=True):
            assert result is None or isinstance(result, TransientError), result
        assert hub.wait() == -signal.SIGKILL
        return candi, len(answered), amed.position, taken

    async def afterwards(candi: Capture, answered: int, position: int, taken: list[bytes]) -> None:
        capture = await hub.capture("candi", candi.number, candi.digest)
        assert answered <= capture.number <= candi.number
        applier = await hub.applier("amed", position)
        await asyncio.gather(send_all(capture, []), take_all(applier, taken))
        assert taken == bodies
        assert await applier.nothing_comes()

    hub.stop()
    hub.start(SUBAK_FAILPOINT=f"{point}:10")
    killed: list[tuple[Capture, int, int, list[bytes]]] = []

    async def first() -> None:
        killed.append(await until_killed())

    talk(first)
    hub.start()
    talk(lambda: afterwards(*killed[0]))


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_the_database_goes_and_comes_back(hub: Hub, servers: Servers, engine_name: str) -> None:
    """Nothing is answered that is not durable; the outlets' connections hold meanwhile."""
    server = servers.server(engine_name)
    assert isinstance(server, MysqlServer)

    async def conversation() -> None:
        amed, candi = await hub.applier("amed"), await hub.capture("candi")
        await candi.store(b"0")
        server.process.kill()
        server.process.wait()
        for number in range(1, 10):
            await candi.send(b"%d" % number)
        await asyncio.to_thread(wait_for, "the hub to say so", lambda: not hub.process.ready(), LIMIT)
        server.kill_and_restart()  # in this thread: a server dies with the thread that started it
        assert [await candi.stored() for _ in range(1, 10)] == list(range(2, 11))
        assert [await amed.execute() for _ in range(10)] == [b"%d" % number for number in range(10)]
        assert await asyncio.to_thread(hub.process.ready)

    talk(conversation)


@pytest.mark.parametrize("engine_name", ["mariadb"])
def test_a_hub_whose_database_is_away_can_be_stopped(hub: Hub, servers: Servers) -> None:
    server = servers.server("mariadb")
    assert isinstance(server, MysqlServer)

    async def conversation() -> None:
        await hub.applier("amed")
        candi = await hub.capture("candi")
        await candi.store(b"0")
        server.process.kill()
        server.process.wait()
        await candi.send(b"1")
        await asyncio.to_thread(wait_for, "the hub to say so", lambda: not hub.process.ready(), LIMIT)

    try:
        talk(conversation)
        started = time.monotonic()
        assert hub.stop() == 0
        assert time.monotonic() - started < 10
    finally:
        server.kill_and_restart()


@pytest.mark.parametrize("engine_name", ["sqlite"])
def test_an_outlet_speaks_for_the_name_in_its_certificate(hub: Hub, tmp_path: Path) -> None:
    hub.stop()
    authority = Authority(tmp_path)
    own = authority.issue("hub")
    hub.start(SUBAK_TLS="", SUBAK_TLS_CA=str(own.ca), SUBAK_TLS_CERT=str(own.cert), SUBAK_TLS_KEY=str(own.key))
    amed, candi = authority.issue("amed"), authority.issue("candi")

    async def conversation() -> None:
        await dial(hub.address, trust(amed, Side.OUTLET), Hello(1, Role.APPLIER, "amed", "e1", 0, GENESIS))
        with pytest.raises(RefusedError) as refused:
            await dial(hub.address, trust(candi, Side.OUTLET), Hello(1, Role.CAPTURE, "amed", "e1", 0, GENESIS))
        assert refused.value.code == "identity"
        with pytest.raises(TransientError):
            await hub.applier("amed")

    talk(conversation)


@ENGINES
def test_stopping_answers_what_is_in_flight(hub: Hub) -> None:
    async def conversation() -> None:
        await hub.applier("amed")
        candi = await hub.capture("candi")
        await candi.store(b"first")
        for number in range(10):
            await candi.send(b"%d" % number)
        os.kill(hub.pid, signal.SIGTERM)
        answered = 1
        async with asyncio.timeout(LIMIT):
            while (message := await candi.channel.receive()) is not None:
                answered += isinstance(message, Stored)
        assert await asyncio.to_thread(hub.wait) == 0
        await asyncio.to_thread(hub.start)
        again = await hub.capture("candi", candi.number, candi.digest)
        assert again.welcome.position == answered

    talk(conversation)
