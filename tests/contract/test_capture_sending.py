"""The whole capture against a hub that speaks the real protocol on loopback and does what the test wants."""

from __future__ import annotations

import asyncio
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from services.kernel.change import GENESIS, decode_body
from services.kernel.wire.messages import MAX_PART_BYTES, WINDOW_BATCHES
from tests.contract.capture_hub import (
    LIMIT_SECONDS,
    FakeHub,
    Running,
    all_marked,
    play,
    running,
    started,
    until,
)
from tests.contract.capture_outlet import Outlet
from tests.stack.servers import free_port

PRODUCT = "CREATE TABLE product (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL)"
PHOTO = "CREATE TABLE photo (id INTEGER NOT NULL PRIMARY KEY, picture LONGTEXT)"

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite", "mariadb"])


@pytest.fixture
def outlet(database_url: URL) -> Iterator[Outlet]:
    outlet = Outlet(database_url, PRODUCT, PHOTO)
    yield outlet
    outlet.close()


def product(number: int) -> str:
    return f"INSERT INTO product VALUES ({number}, 'teh {number}')"


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
    process = await started(outlet, hub, {"SUBAK_FAILPOINT": point})
    assert await asyncio.wait_for(process.wait(), LIMIT_SECONDS) == -signal.SIGKILL


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
    monkeypatch.setattr("services.capture.turn.CATALOGUE_SECONDS", 0.1)

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
        process = await started(outlet, FakeHub(), more)

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
            process = await started(outlet, hub, {})
            await until(lambda: bool(hub.hellos), "capture is linked")
            await asyncio.to_thread(outlet.execute, product(1))
            await until(lambda: hub.position == 1, "the batch is there")
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
        assert all_marked(outlet)

    play(scene)
