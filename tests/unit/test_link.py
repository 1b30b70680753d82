"""Channels over real loopback sockets, with TLS and without: who gets in, what a bad peer costs, how a link is kept."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from services.kernel import channel as channel_module
from services.kernel import link, retry
from services.kernel.channel import INBOX_BYTES
from services.kernel.entrance import serve
from services.kernel.errors import PermanentError, ProtocolError, SubakError, TransientError
from services.kernel.link import Channel, RefusedError, dial, keep_linked
from services.kernel.settings import Address, OutletSettings
from services.kernel.telemetry import Health
from services.kernel.tls import TlsSettings
from services.kernel.wire import session
from services.kernel.wire.frames import frame
from services.kernel.wire.messages import (
    Batch,
    Bye,
    Delivery,
    Hello,
    Part,
    Refused,
    Report,
    Role,
    Roster,
    Stored,
    Welcome,
)
from services.kernel.wire.session import Side
from tests.unit.certificates import Authority, Certificates, trust

ZERO = b"\0" * 32
HELLO = Hello(1, Role.CAPTURE, "ubud", "e1", 0, ZERO)
WELCOME = Welcome("besakih", 0, ZERO, [])
MB = 1024 * 1024
LIMIT = 15.0
"""Seconds that any conversation here may take."""

Handler = Callable[[Channel], Awaitable[None]]


def talk(conversation: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(LIMIT):
            await conversation()

    asyncio.run(limited())


@asynccontextmanager
async def hub(handle: Handler, tls: TlsSettings | None = None) -> AsyncIterator[Address]:
    server = await serve(Address("127.0.0.1", 0), trust(tls, Side.HUB), handle)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def welcoming(channel: Channel) -> None:
    """A hub that confirms every batch once its parts are here, until bye."""
    assert isinstance(await channel.receive(), Hello)
    await channel.send(WELCOME)
    while (message := await channel.receive()) is not None:
        assert isinstance(message, Batch)
        for _ in range(message.parts):
            assert isinstance(await channel.receive(), Part)
        await channel.send(Stored(message.epoch, message.number))


def batch(number: int, *bodies: bytes) -> tuple[Batch | Part, ...]:
    size = sum(map(len, bodies))
    announced = Batch("e1", number, ZERO, ZERO, 1, 1, size, len(bodies))
    return (announced, *(Part(index, body) for index, body in enumerate(bodies)))


async def until(met: Callable[[], bool]) -> None:
    while not met():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


# ---- conversations


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsSettings]:
    ours = Certificates(tmp_path_factory.mktemp("ours"))
    theirs = Authority(tmp_path_factory.mktemp("theirs"))
    return {
        "hub": ours.issue("hub", Side.HUB)._replace(crl=None),
        "ubud": ours.issue("ubud")._replace(crl=None),
        "stranger": theirs.issue("ubud"),
    }


@pytest.mark.parametrize("secure", [False, True])
def test_batches_of_any_size_go_through(secure: bool, certificates: dict[str, TlsSettings]) -> None:
    names = []

    async def handle(channel: Channel) -> None:
        names.append(channel.certificate_name)
        await welcoming(channel)

    async def conversation() -> None:
        async with hub(handle, certificates["hub"] if secure else None) as address:
            channel, welcome = await dial(address, trust(certificates["ubud"] if secure else None, Side.OUTLET), HELLO)
            assert welcome == WELCOME
            await channel.send(*batch(1, b"x"), *batch(2, *[b"y" * MB] * 20), *batch(3, b"z"))
            assert [await channel.receive() for _ in range(3)] == [Stored("e1", number) for number in (1, 2, 3)]
            await channel.close()
            await channel.close()
            assert await channel.receive() is None
            with pytest.raises(TransientError):
                await channel.send(Report(0, 0))

    talk(conversation)
    assert names == (["ubud"] if secure else [None])


def test_small_messages_leave_at_once() -> None:
    async def conversation() -> None:
        async with hub(welcoming) as address:
            channel, _ = await dial(address, None, HELLO)
            assert channel._transport is not None
            connection = channel._transport.get_extra_info("socket")
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await channel.close()

    talk(conversation)


def test_another_tasks_message_waits_for_the_last_part() -> None:
    received = []

    async def handle(channel: Channel) -> None:
        await channel.receive()
        await channel.send(WELCOME)

        async def deliver() -> None:
            await channel.send(Delivery(1, 0, "kuta", "e1", 1, ZERO, ZERO, 1, 1, 3, 3))
            for index in range(3):
                await asyncio.sleep(0.01)
                await channel.send(Part(index, b"x"))

        delivering = asyncio.create_task(deliver())
        await asyncio.sleep(0.005)
        await asyncio.gather(delivering, channel.send(Roster([])))
        await channel.receive()

    async def conversation() -> None:
        async with hub(handle) as address:
            channel, _ = await dial(address, None, msgspec.structs.replace(HELLO, role=Role.APPLIER))
            received.extend([type(await channel.receive()).__name__ for _ in range(5)])
            await channel.close()

    talk(conversation)
    assert received == ["Delivery", "Part", "Part", "Part", "Roster"]


def test_a_side_that_does_not_read_slows_the_other_down_and_holds_little() -> None:
    slow: list[Channel] = []
    go_on = asyncio.Event()

    async def handle(channel: Channel) -> None:
        slow.append(channel)
        await channel.receive()
        await channel.send(WELCOME)
        await go_on.wait()
        for _ in range(25):
            await channel.receive()
        await channel.send(Stored("e1", 1))
        await channel.receive()

    async def conversation() -> None:
        async with hub(handle) as address:
            channel, _ = await dial(address, None, HELLO)
            sending = asyncio.create_task(channel.send(*batch(1, *[b"x" * MB] * 24)))
            await until(lambda: bool(slow) and not slow[0]._reading)
            done, _ = await asyncio.wait({sending}, timeout=0.2)
            assert not done, "24 MB were taken by a hub that does not read"
            assert slow[0]._inbox_bytes + slow[0]._session.held <= INBOX_BYTES + 2 * MB
            go_on.set()
            await sending
            assert await channel.receive() == Stored("e1", 1)
            await channel.close()

    talk(conversation)


def test_the_last_word_is_heard_though_input_is_still_coming() -> None:
    async def handle(channel: Channel) -> None:
        await channel.receive()
        await channel.send(WELCOME)
        await channel.receive()
        raise ProtocolError("gap", "Batch 1 came where 7 was due.", "Connect again.")

    async def conversation() -> None:
        async with hub(handle) as address:
            for _ in range(5):
                channel, _ = await dial(address, None, HELLO)
                with pytest.raises(SubakError) as refused:
                    await channel.send(*batch(1, *[b"x" * MB] * 64))
                    await channel.receive()
                assert isinstance(refused.value, RefusedError)
                assert (refused.value.code, refused.value.todo) == ("gap", "Connect again.")
                await channel.close()

    talk(conversation)


# ---- who does not get in: test_certificates.py has the rest


def test_a_hub_that_is_not_ours_is_not_talked_to(certificates: dict[str, TlsSettings]) -> None:
    heard = []

    async def handle(channel: Channel) -> None:
        heard.append(await channel.receive())

    async def conversation() -> None:
        async with hub(handle, certificates["stranger"]) as address:
            with pytest.raises(TransientError) as failed:
                await dial(address, trust(certificates["ubud"], Side.OUTLET), HELLO)
            assert failed.value.code == "certificate"
        async with hub(handle) as address:
            with pytest.raises(TransientError) as failed:
                await dial(address, trust(certificates["ubud"], Side.OUTLET), HELLO)
            assert failed.value.code == "certificate"
        async with hub(handle, certificates["hub"]) as address:
            with pytest.raises(TransientError) as failed:
                await dial(Address("127.0.0.2", address.port), trust(certificates["ubud"], Side.OUTLET), HELLO)
            assert failed.value.code in {"certificate", "unreachable"}  # made for 127.0.0.1; not listening on .2

    talk(conversation)
    assert heard == []


def test_nobody_there() -> None:
    async def conversation() -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            with pytest.raises(TransientError) as failed:
                await dial(Address("127.0.0.1", unused.getsockname()[1]), None, HELLO)
        assert failed.value.code == "unreachable"
        assert "SUBAK_HUB" in failed.value.todo
        with pytest.raises(TransientError) as failed:
            await dial(Address("no-such-host.invalid", 1), None, HELLO)
        assert failed.value.code == "unreachable"
        async with hub(welcoming) as address:
            with pytest.raises(PermanentError) as taken:
                await serve(address, None, welcoming)
            assert taken.value.code == "listen"

    talk(conversation)


# ---- bad peers


NOISE = [
    b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
    bytes(range(256)) * 40,
    struct.pack(">IB", 2**32 - 1, 0) + b"x" * 100_000,
    struct.pack(">IB", 10, 255) + b"x" * 10,
    struct.pack(">IB", 100, 0) + b"half",
    frame(msgspec.msgpack.encode(HELLO)) * 2,
    frame(msgspec.msgpack.encode(Bye())),
]


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("noise", NOISE)
def test_noise_costs_one_log_line(secure: bool, noise: bytes, certificates: dict[str, TlsSettings]) -> None:
    async def conversation() -> None:
        async with hub(welcoming, certificates["hub"] if secure else None) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(noise)
            writer.write_eof()
            await reader.read()
            writer.close()
            await until(lambda: len(logs) > 0)
            channel, _ = await dial(address, trust(certificates["ubud"] if secure else None, Side.OUTLET), HELLO)
            await channel.close()

    with capture_logs() as logs:
        talk(conversation)
    assert len(logs) == 1, logs
    assert logs[0]["log_level"] == "warning"
    assert logs[0]["code"] in {"limit", "flags", "frame", "message", "state", "certificate", "connection"}


def test_half_a_frame_and_then_silence_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HELLO_SECONDS", 0.2)

    async def conversation() -> None:
        async with hub(welcoming) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(frame(msgspec.msgpack.encode(HELLO))[:20])
            answer = await reader.read()
            assert msgspec.msgpack.decode(answer[5:], type=Refused).code == "silence"
            writer.close()

    with capture_logs() as logs:
        talk(conversation)
    assert [line["code"] for line in logs] == ["silence"]


def test_a_peer_that_vanishes_is_noticed_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay that stops relaying without closing: what a router that lost its power looks like."""
    monkeypatch.setattr(session, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(session, "DEAD_SECONDS", 1.0)
    ends: list[str] = []

    async def handle(channel: Channel) -> None:
        try:
            await welcoming(channel)
        except TransientError as error:
            ends.append(error.code)
            raise

    async def conversation() -> None:
        cut = False

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    if not cut:
                        target.write(data)

            there, back = await asyncio.open_connection(*address)
            await asyncio.gather(copy(reader, back), copy(there, writer))

        async with hub(handle) as address:
            relaying = await asyncio.start_server(relay, "127.0.0.1", 0)
            channel, _ = await dial(Address("127.0.0.1", relaying.sockets[0].getsockname()[1]), None, HELLO)
            waiting = asyncio.create_task(channel.receive())
            await asyncio.sleep(1.6)
            assert not waiting.done(), "a quiet link was taken for a dead one"
            cut = True
            with pytest.raises(TransientError):
                await waiting
            await until(lambda: ends == ["connection"])
            relaying.close()

    talk(conversation)


def test_a_fault_of_the_hub_ends_one_connection_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async def handle(channel: Channel) -> None:
        await channel.receive()
        raise ZeroDivisionError

    async def conversation() -> None:
        async with hub(handle) as address:
            with pytest.raises(RefusedError) as refused:
                await dial(address, None, HELLO)
            assert refused.value.code == "failed"

    with capture_logs() as logs:
        talk(conversation)
    assert [line["log_level"] for line in logs] == ["error"]


# ---- keeping a link


def outlet_settings(address: Address) -> OutletSettings:
    return OutletSettings(outlet="ubud", hub=address, database_url=make_url("sqlite:////x.db"))


class Keeping:
    """`keep_linked` against a hub that the test starts and stops."""

    def __init__(self, address: Address) -> None:
        self.stop, self.nudge = asyncio.Event(), asyncio.Event()
        self.health = Health(link="not yet")
        self.health.ready = True
        self.links = 0
        self.refusals: list[str] = []
        self.position = 0
        self.task = asyncio.create_task(
            keep_linked(
                outlet_settings(address), self.hello, self.run, self.stop, self.nudge, self.health, self.refused
            )
        )

    async def hello(self) -> Hello:
        return msgspec.structs.replace(HELLO, position=self.position)

    async def run(self, channel: Channel, welcome: Welcome) -> None:
        self.links += 1
        async with asyncio.TaskGroup() as group:  # what the applier does: errors come in a group
            group.create_task(self.read(channel))

    async def read(self, channel: Channel) -> None:
        while await channel.receive() is not None:
            pass

    async def refused(self, error: RefusedError) -> bool:
        self.refusals.append(error.code)
        self.position = 9
        return error.code == "fork"

    @property
    def ready(self) -> bool:
        return self.health.status()[0]

    async def end(self) -> None:
        self.stop.set()
        await self.task


@pytest.fixture(autouse=True)
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Keeping.run` does not look at `stop`, as a service's must."""
    monkeypatch.setattr(link, "FINISH_SECONDS", 0.3)


@pytest.fixture
def free_address() -> Address:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", free.getsockname()[1])


def test_a_hub_that_is_not_there_yet_is_tried_on_a_nudge(free_address: Address) -> None:
    async def conversation() -> None:
        keeping = Keeping(free_address)

        def tried(times: int) -> bool:
            return len(logs) >= times and not keeping.nudge.is_set()

        await until(partial(tried, 1))
        assert not keeping.ready
        for tries in (2, 3, 3):
            keeping.nudge.set()
            await until(partial(tried, tries))
        server = await serve(free_address, None, welcoming)
        await asyncio.sleep(0.05)
        keeping.nudge.set()
        await until(lambda: keeping.ready)
        await keeping.end()
        server.close()

    with capture_logs() as logs:
        talk(conversation)
    told = [line for line in logs if line.get("code") == "unreachable"]
    assert [line["log_level"] for line in told] == ["warning", "warning", "error"]
    assert "SIGHUP" in told[2]["event"]
    assert [line.get("again_in") for line in told] == [10.0, 10.0, None]


def test_a_link_that_breaks_is_there_again_at_once(free_address: Address) -> None:
    channels: list[Channel] = []

    async def handle(channel: Channel) -> None:
        channels.append(channel)
        await welcoming(channel)

    async def conversation() -> None:
        async with hub(handle) as address:
            keeping = Keeping(address)
            await until(lambda: keeping.ready)
            channels[0].abort()
            loop = asyncio.get_running_loop()
            broken = loop.time()
            await until(lambda: keeping.links == 2)
            assert loop.time() - broken < 0.5
            channels[1].abort()
            await until(lambda: keeping.links == 3)
            assert loop.time() - broken < 2
            await keeping.end()
            assert loop.time() - broken < 2 + link.FINISH_SECONDS + channel_module.LINGER_SECONDS

    talk(conversation)


def test_a_refusal_that_something_was_done_about_is_followed_by_another_try() -> None:
    async def handle(channel: Channel) -> None:
        hello = await channel.receive()
        assert isinstance(hello, Hello)
        if hello.position == 0:
            raise ProtocolError("fork", "Another history.", "Begin a new epoch.")
        await channel.send(WELCOME)
        await channel.receive()
        raise RefusedError("removed", "No longer an outlet.", "Add it.")

    async def conversation() -> None:
        async with hub(handle) as address:
            keeping = Keeping(address)
            await until(lambda: keeping.links == 1)
            assert keeping.refusals == ["fork"]
            await asyncio.sleep(0)
            keeping.stop.set()
            await keeping.task

    talk(conversation)


@pytest.mark.parametrize("code", ["standby", "catching_up"])
def test_who_must_wait_its_turn_asks_again_soon_and_tells_it_once(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "IN_LINE_SECONDS", 0.02)
    asked = 0

    async def handle(channel: Channel) -> None:
        nonlocal asked
        asked += 1
        if asked < 5:
            raise ProtocolError(code, "Somebody else first.")
        await welcoming(channel)

    async def conversation() -> None:
        async with hub(handle) as address:
            keeping = Keeping(address)
            await until(lambda: asked == 3)
            assert keeping.health.link.startswith(code) and not keeping.ready
            await until(lambda: keeping.links == 1 and keeping.ready)
            await keeping.end()
            assert keeping.refusals == []

    with capture_logs() as logs:
        talk(conversation)
    told = [line for line in logs if line.get("code") == code and "wait" in line["event"]]
    assert [line["log_level"] for line in told] == ["info"]


def test_what_is_no_error_of_ours_is_raised() -> None:
    async def conversation() -> None:
        async def hello() -> Hello:
            raise ZeroDivisionError

        async def run(channel: Channel, welcome: Welcome) -> None: ...

        stop = asyncio.Event()
        with pytest.raises(ZeroDivisionError):
            await keep_linked(
                outlet_settings(Address("127.0.0.1", 1)), hello, run, stop, asyncio.Event(), Health(), None
            )

    talk(conversation)


def test_the_pauses() -> None:
    first = retry.Pauses(lambda: 1.0)
    assert [first.after_failure() for _ in range(6)] == [10, 10, 20, 40, 60, 60]
    broken = retry.Pauses(lambda: 1.0)
    broken.after_failure()
    broken.linked_for(60)
    assert [broken.after_failure() for _ in range(6)] == [0, 1, 2, 4, 5, 5]
    broken.linked_for(0.1)  # hangs up at once: no loop
    assert broken.after_failure() == 5
    broken.linked_for(60)
    assert broken.after_failure() == 0
    refused = retry.Pauses(lambda: 0.0)
    assert [refused.after_refusal() for _ in range(5)] == [10, 20, 40, 60, 60]


@pytest.mark.parametrize("side", Side)
def test_a_name_that_is_not_this_machine_after_all_gets_no_plain_text(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`localhost` is what the files of a machine say that it is."""

    async def conversation() -> None:
        if side is Side.HUB:
            with pytest.raises(PermanentError) as error:
                await serve(Address("0.0.0.0", 0), None, welcoming)
            assert error.value.code == "listen" and "SUBAK_TLS is off" in error.value.what
            return
        async with hub(welcoming) as address:
            monkeypatch.setattr(link, "is_loopback", lambda host: False)
            with pytest.raises(TransientError, match="SUBAK_TLS is off"):
                await dial(address, None, HELLO)

    talk(conversation)
