"""A real hub process and outlets that stand by, were put back, are away for too long; conflict rules and purging."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.hub import administration
from services.kernel.control import HUB, Policy, Purge, decode_control
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.errors import SubakError
from services.kernel.link import RefusedError
from services.kernel.wire.messages import ConflictReport, Executed, Progress, Report
from tests.conftest import FreshDatabase
from tests.stack.network import wait_for
from tests.system.test_hub_protocol import ENGINES, LIMIT, Applier, Hub, talk

RULES = '[tables.stock]\ndelta = ["on_hand"]\n'
SQLITE = pytest.mark.parametrize("engine_name", ["sqlite"])


@pytest.fixture
def hub(fresh_database: FreshDatabase, engine_name: str, tmp_path: Path) -> Iterator[Hub]:
    """Not started yet."""
    hub = Hub(fresh_database(engine_name, "hub"), tmp_path)
    yield hub
    if hub.process.alive:
        hub.kill()
    print(hub.process.tail())


async def code_of(hub: Hub, role: str, outlet: str, position: int = 0, **more: str) -> str:
    """What a hello is refused with."""
    with pytest.raises(RefusedError) as refused:
        await (hub.capture if role == "capture" else hub.applier)(outlet, position, **more)
    return refused.value.code


async def control(applier: Applier) -> Policy | Purge:
    """The next delivery, which is one of the hub's own; it is confirmed."""
    delivery, body = await applier.receive()
    assert (delivery.origin, delivery.previous_sequence) == (HUB, applier.position)
    applier.position = delivery.sequence
    await applier.channel.send(Executed(delivery.sequence))
    return decode_control(body)


@ENGINES
def test_a_second_process_stands_by_until_the_first_is_gone(hub: Hub) -> None:
    hub.start()

    async def conversation() -> None:
        for role in ("capture", "applier"):
            first = await (hub.capture if role == "capture" else hub.applier)("amed", instance="p1")
            assert await code_of(hub, role, "amed", instance="p2") == "standby"
            again = await (hub.capture if role == "capture" else hub.applier)("amed", instance="p1")
            with pytest.raises(SubakError) as replaced:
                while True:
                    await first.channel.receive()
            assert replaced.value.code == "replaced"
            await again.channel.close()
            await (hub.capture if role == "capture" else hub.applier)("amed", instance="p2")

    talk(conversation)


@SQLITE
def test_an_outlet_whose_newer_connection_is_refused_is_not_connected(hub: Hub) -> None:
    """By its figures: the older one had to make room."""
    hub.start()
    figure = 'subak_hub_connected{outlet="amed",role="capture"} '

    def connected(wanted: str) -> bool:
        return f"{figure}{wanted}" in _metrics(hub)

    async def conversation() -> None:
        first = await hub.capture("amed", instance="p1")
        await first.store(b"one")
        await asyncio.to_thread(wait_for, "it to be on show", lambda: connected("1.0"), LIMIT)
        with pytest.raises(RefusedError):
            await hub.capture("amed", 1, bytes(32), instance="p1")  # another history under that number
        await asyncio.to_thread(wait_for, "it to be gone", lambda: connected("0.0"), LIMIT)

    talk(conversation)


@ENGINES
def test_a_capture_with_a_new_epoch_waits_for_its_applier(hub: Hub) -> None:
    """The applier is connected all the while: the hub makes it say hello again."""
    hub.start()

    async def conversation() -> None:
        applier = await hub.applier("amed", instance="a")
        capture = await hub.capture("amed", instance="c")
        await capture.store(b"one")
        await capture.store(b"two")
        await capture.channel.close()
        assert await code_of(hub, "capture", "amed", epoch="e2", instance="c") == "catching_up"
        async with asyncio.timeout(LIMIT):
            while await applier.channel.receive() is not None:
                pass
        applier = await hub.applier("amed", epoch="e2", instance="a")
        assert await code_of(hub, "capture", "amed", epoch="e2", instance="c") == "catching_up"
        assert [await applier.execute(), await applier.execute()] == [b"one", b"two"]
        await applier.channel.send(Report(0, 0))
        while True:
            try:
                capture = await hub.capture("amed", epoch="e2", instance="c")
                break
            except RefusedError as refused:  # the commit of the second is still under way
                assert refused.code == "catching_up"
        await capture.store(b"three")
        assert await applier.nothing_comes()

    talk(conversation)


@ENGINES
def test_rules_come_first_and_what_all_have_is_forgotten(hub: Hub, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(RULES)
    hub.start(SUBAK_POLICY_FILE=str(policy), SUBAK_KEEP_DAYS="0")

    async def conversation() -> None:
        amed, bedugul = await hub.applier("amed"), await hub.applier("bedugul")
        captures = {"amed": await hub.capture("amed"), "bedugul": await hub.capture("bedugul")}
        for applier in (amed, bedugul):
            told = await control(applier)
            assert isinstance(told, Policy) and told.rules == RULES
        await captures["amed"].store(b"one")
        await captures["amed"].store(b"two")
        assert [await bedugul.execute(), await bedugul.execute()] == [b"one", b"two"]
        await captures["amed"].channel.send(Progress("e1", 2, amed.position))
        await captures["bedugul"].channel.send(Progress("e1", 0, bedugul.position))
        for applier in (amed, bedugul):
            purge = await control(applier)
            assert isinstance(purge, Purge)
            assert purge.own["amed"].number == 2
            assert "bedugul" not in purge.own
        engine = dialect_for(hub.database_url).engine(hub.database_url, Purpose.READ)
        try:
            await asyncio.to_thread(
                wait_for,
                "the hub to forget",
                lambda: [row.origin for row in administration.log(engine, 9) if row.outlet == "bedugul"] == [HUB, HUB],
                LIMIT,
            )
            assert [row.message for row in administration.log(engine, 9) if row.outlet == "amed"] == [
                "new conflict rules",
                f"forget what is executed everywhere, up to {purge.sequence}",
            ]
        finally:
            engine.dispose()
        await bedugul.channel.close()
        assert await code_of(hub, "applier", "bedugul", 0) == "resync"
        await hub.applier("bedugul", bedugul.position)
        again = await hub.capture("amed", 2, captures["amed"].digest)
        assert again.welcome.position == 2

    talk(conversation)
    assert hub.stop() == 0
    policy.write_text("")
    hub.start(SUBAK_POLICY_FILE=str(policy))

    async def afterwards() -> None:
        candi = await hub.applier("candi")
        first, second = await control(candi), await control(candi)
        assert isinstance(first, Policy) and isinstance(second, Policy)
        assert (first.rules, second.rules) == (RULES, "")
        assert first.generation < second.generation

    talk(afterwards)


@SQLITE
def test_a_wrong_policy_file_ends_the_hub_before_it_begins(hub: Hub, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[tables.stock]\nrule = "newest"\n')
    hub.process.start({"SUBAK_POLICY_FILE": str(policy)})
    assert hub.wait() == 2
    assert "tables.stock.rule" in hub.process.tail()


@SQLITE
def test_an_outlet_that_takes_nothing_is_given_up(hub: Hub) -> None:
    hub.start(SUBAK_OFFLINE_BYTES="1000")

    async def fill() -> None:
        amed, candi = await hub.applier("amed"), await hub.capture("candi")
        await candi.store(b"x" * 600)
        await candi.store(b"y" * 600)
        await amed.channel.close()

    talk(fill)
    assert hub.stop() == 0
    hub.start(SUBAK_OFFLINE_BYTES="1000")

    async def refused() -> None:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                amed = await hub.applier("amed")
                await amed.channel.close()
            except RefusedError as refusal:
                assert refusal.code == "resync"
                assert "subak outlet adopt" in refusal.todo
                return
        raise AssertionError("it was not given up")

    talk(refused)
    engine = dialect_for(hub.database_url).engine(hub.database_url, Purpose.READ)
    amed = next(it for it in administration.status(engine) if it.name == "amed")
    engine.dispose()
    assert amed.resync_at and "1,200 bytes" in amed.resync_reason
    assert amed.waiting == 0


@SQLITE
def test_what_outlets_tell_is_kept_for_all_to_see(hub: Hub) -> None:
    hub.start()
    conflict = ConflictReport("product", "[5]", "row", "incoming", 1, "amed", '{"price":1}', 2, "candi", None)

    async def conversation() -> None:
        behind = time.time_ns() // 1000 - 3_000_000
        amed = await hub.applier("amed", time=behind, tables={"product": "a1", "sale": "b"})
        bedugul = await hub.applier("bedugul", tables={"product": "a2"})
        candi = await hub.capture("candi")
        await candi.store(b"one")
        delivery, _ = await amed.receive()
        await amed.channel.send(Executed(delivery.sequence, 1, [], [conflict]))
        await bedugul.channel.send(Report(0, 0, ["stock.on_hand may be NULL."]))
        engine = dialect_for(hub.database_url).engine(hub.database_url, Purpose.READ)
        try:
            await asyncio.to_thread(wait_for, "the conflict", lambda: bool(administration.conflicts(engine)), LIMIT)
            (told,) = administration.conflicts(engine)
            assert (told.outlet, told.conflict) == ("amed", conflict)
            status = {it.name: it for it in administration.status(engine)}
            await asyncio.to_thread(
                wait_for,
                "the misfit",
                lambda: any(it.misfits for it in administration.status(engine)),
                LIMIT,
            )
            skew = status["amed"].skew_seconds
            assert skew is not None and 2.9 < skew < 10
            found = [(it.table, it.kinds, it.missing) for it in administration.differences(engine)]
            assert found == [("product", (("amed",), ("bedugul",)), ()), ("sale", (("amed",),), ("bedugul",))]
        finally:
            engine.dispose()
        metrics = await asyncio.to_thread(_metrics, hub)
        assert 'subak_hub_clock_skew_seconds{outlet="amed"}' in metrics

    talk(conversation)


def _metrics(hub: Hub) -> str:
    with urllib.request.urlopen(f"http://{hub.process.environment['SUBAK_METRICS_LISTEN']}/metrics", timeout=5) as page:
        return str(page.read(), "utf-8")
