"""Who holds connections open, or opens ever new ones, and shows no certificate: shuts out nobody, fills no log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.kernel import entrance
from services.kernel.link import dial
from services.kernel.seldom import BURST, MINUTE, MOST, Seldom
from services.kernel.wire.messages import Stored
from services.kernel.wire.session import Side
from tests.unit.certificates import Certificates
from tests.unit.test_link import HELLO, batch, hub, talk, welcoming

SOON = 0.3
"""Seconds after which whoever is to be closed is."""


def test_too_many_strangers_are_closed_and_those_inside_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "MAX_STRANGERS", 3)

    async def conversation() -> None:
        async with hub(welcoming) as address:
            channel, _ = await dial(address, None, HELLO)
            strangers = [await asyncio.open_connection(*address) for _ in range(6)]
            ended = [asyncio.create_task(reader.read()) for reader, _ in strangers]
            done, _ = await asyncio.wait(ended, timeout=SOON)
            assert done == {*ended[:3]}, "the oldest make room"
            await channel.send(*batch(1, b"x"))
            assert await channel.receive() == Stored("e1", 1)
            await channel.close()
            again, _ = await dial(address, None, HELLO)
            await again.close()
            for _, writer in strangers:
                writer.close()
            await asyncio.wait(ended)

    talk(conversation)


def test_one_address_does_not_shut_out_the_others_nor_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "MAX_STRANGERS_OF_ONE", 3)

    async def conversation() -> None:
        async with hub(welcoming) as address:
            strangers = [await asyncio.open_connection(*address, local_addr=("127.0.0.1", 0)) for _ in range(6)]
            ended = [asyncio.create_task(reader.read()) for reader, _ in strangers]
            done, _ = await asyncio.wait(ended, timeout=SOON)
            assert len(done) == 3
            channel, _ = await dial(address, None, HELLO)
            await channel.close()
            for _, writer in strangers:
                writer.close()
            await asyncio.wait(ended)

    talk(conversation)


def test_whoever_holds_most_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "MAX_STRANGERS", 4)

    async def conversation() -> None:
        async with hub(welcoming) as address:
            few = await asyncio.open_connection(*address, local_addr=("127.0.0.3", 0))
            kept = asyncio.create_task(few[0].read())
            many = [await asyncio.open_connection(*address, local_addr=("127.0.0.2", 0)) for _ in range(9)]
            ended = [asyncio.create_task(reader.read()) for reader, _ in many]
            await asyncio.wait(ended, timeout=SOON)
            assert not kept.done() and [task.done() for task in ended] == [True] * 6 + [False] * 3
            for _, writer in (few, *many):
                writer.close()
            await asyncio.wait([kept, *ended])

    talk(conversation)


def test_who_has_gone_crowds_nobody_though_its_hello_is_not_answered_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As while the hub's database is away: nobody can be admitted."""
    monkeypatch.setattr(entrance, "MAX_STRANGERS_OF_ONE", 2)
    greeted = 0

    async def never_welcoming(channel: object) -> None:
        nonlocal greeted
        await channel.receive()  # type: ignore[attr-defined]
        greeted += 1
        await asyncio.Event().wait()

    async def conversation() -> None:
        with capture_logs() as lines:
            async with hub(never_welcoming) as address:
                for number in range(5):
                    dialling = asyncio.create_task(dial(address, None, HELLO))
                    while greeted <= number:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                    dialling.cancel()
                    await asyncio.wait([dialling])
                    await asyncio.sleep(0.05)
        assert [line for line in lines if line.get("code") == entrance.CROWDED] == []

    talk(conversation)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_an_ipv6_site_counts_once(one: str, other: str, same: bool) -> None:
    assert (entrance._site(one) == entrance._site(other)) is same


def test_what_a_stranger_causes_does_not_fill_the_log(tmp_path: Path) -> None:
    tls = Certificates(tmp_path).issue("hub", Side.HUB)._replace(crl=None)

    async def conversation() -> None:
        with capture_logs() as lines:
            async with hub(welcoming, tls) as address:
                for _ in range(30):
                    reader, writer = await asyncio.open_connection(*address)
                    writer.write(b"GET / HTTP/1.1\r\n\r\n")
                    await reader.read()
                    writer.close()
        refused = [line for line in lines if line["event"] == "connection refused"]
        assert len(refused) == BURST and "TLS is not spoken" in refused[0]["what"]

    talk(conversation)


def test_lines_that_were_kept_back_are_counted() -> None:
    seldom = Seldom()
    assert [seldom.ask("a", now) for now in range(7)] == [0] * BURST + [None] * (7 - BURST)
    assert seldom.ask("b", 8) == 0
    assert seldom.ask("a", MINUTE) == 7 - BURST
    for number in range(MOST + 1):
        seldom.ask(number, MINUTE)
    assert len(seldom._kinds) == MOST
