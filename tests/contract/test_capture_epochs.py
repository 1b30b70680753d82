"""A database that was put back to an older state, and what is told of how far an outlet has come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import delete, insert, select
from sqlalchemy.engine import URL

from services.capture import state, storing
from services.kernel.change import GENESIS
from services.kernel.link import RefusedError
from services.kernel.schema import BATCH, BATCH_PART, CLOUD_QUERY, LEDGER
from services.kernel.wire.messages import Hello
from tests.contract.capture_hub import FakeHub, all_marked, play, running, until
from tests.contract.capture_outlet import Outlet

PRODUCT = "CREATE TABLE product (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL)"

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite", "mariadb", "mysql"])


@pytest.fixture
def outlet(database_url: URL) -> Iterator[Outlet]:
    outlet = Outlet(database_url, PRODUCT)
    yield outlet
    outlet.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.capture.turn.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("services.kernel.lease.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("services.kernel.link.IN_LINE_SECONDS", 0.1)


def product(number: int) -> str:
    return f"INSERT INTO product VALUES ({number}, 'teh {number}')"


def known(outlet: Outlet) -> dict[str, str]:
    with outlet.reading() as connection:
        return state.read(connection)


def numbers(outlet: Outlet) -> list[tuple[str, int]]:
    with outlet.reading() as connection:
        return [tuple(row) for row in connection.execute(select(BATCH.c.Epoch, BATCH.c.Number).order_by(BATCH.c.CutAt))]


async def write(outlet: Outlet, hub: FakeHub, *rows: int) -> None:
    """One batch for each row, confirmed and marked."""
    for row in rows:
        await asyncio.to_thread(outlet.execute, product(row))
        await until(lambda: outlet.waiting() == 0 and all_marked(outlet), "it is marked")
    assert hub.position >= len(rows)


def put_back(outlet: Outlet, number: int) -> None:
    """The database's own tables as they were when batch `number` was the last one."""
    with outlet.database.transaction() as connection:
        epoch = state.read(connection)[state.EPOCH]
        digest = storing.digest_of(connection, epoch, number) or GENESIS
        for table in (BATCH, BATCH_PART):
            connection.execute(delete(table).where(table.c.Number > number))
        connection.execute(delete(CLOUD_QUERY).where(CLOUD_QUERY.c.BatchNumber > number))
        state.put(connection, state.LAST_NUMBER, str(number))
        state.put(connection, state.LAST_DIGEST, digest.hex())


def test_after_a_fork_what_was_not_stored_goes_out_in_a_new_epoch_once_the_hub_lets_it(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub()
        async with hub.listening(), running(outlet, hub) as capture:
            await write(outlet, hub, 1)
            hub.confirming = False
            for row in (2, 3):
                await asyncio.to_thread(outlet.execute, product(row))
                await until(lambda row=row: hub.numbers[-1] == row, "it is sent")
            old = hub.epoch
            ready: list[bool] = []

            def judge(hello: Hello) -> RefusedError | None:
                if hello.epoch == old:
                    return RefusedError("fork", "The hub has more of it.")
                return None if ready else RefusedError("catching_up", "Your applier is owed your own batches.")

            hub.judge = judge
            await capture.relinked(hub)
            await until(
                lambda: sum(one.epoch != old for one in hub.hellos) > 2, "the new epoch is asked for, and again"
            )
            await asyncio.to_thread(outlet.execute, product(4))
            assert numbers(outlet) == [(old, 1)] and outlet.waiting() == 3, "nothing is cut meanwhile"
            assert known(outlet)[state.CATCHING_UP] == "1"
            assert capture.service.health.status()[0] is False and "catching_up" in capture.service.health.status()[1]
            ready.append(True)
            hub.confirming = True
            await until(lambda: outlet.waiting() == 0 and all_marked(outlet), "everything is cut and marked")
        assert hub.epoch != old and state.CATCHING_UP not in known(outlet)
        new = [batch for batch, _ in hub.received if batch.epoch == hub.epoch]
        assert [batch.number for batch in new] == list(range(1, len(new) + 1)) and new[0].previous == GENESIS
        assert {hello.position for hello in hub.hellos if hello.epoch == hub.epoch} == {0}
        assert hub.keys == ["1", "2", "3", "2", "3", "4"]

    play(scene)


def test_a_hub_with_another_batch_of_that_number_begins_a_new_epoch(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub()
        async with hub.listening(), running(outlet, hub) as capture:
            await write(outlet, hub, 1)
            old, hub.digest = hub.epoch, b"\1" * 32
            await capture.relinked(hub)
            await until(lambda: hub.epoch != old, "a new epoch has begun")
            await asyncio.to_thread(outlet.execute, product(2))
            await until(lambda: outlet.waiting() == 0 and all_marked(outlet), "it is marked")
        assert [(batch.epoch == old, batch.number) for batch, _ in hub.received] == [(True, 1), (False, 1)]
        assert hub.keys == ["1", "2"]

    play(scene)


def test_a_crash_between_the_new_epoch_and_the_undoing_of_what_was_cut(outlet: Outlet) -> None:
    outlet.install()
    cutter = outlet.cutter()
    for row in (1, 2, 3):
        outlet.execute(product(row))
        cutter.poll()
    outlet.mark_stored("0123456789abcdef", 1)
    with outlet.database.transaction() as connection:
        state.begin_epoch(connection, "new", "0123456789abcdef")
        state.begin_epoch(connection, "never", "0123456789abcdef")

    async def scene() -> None:
        hub = FakeHub()
        async with hub.listening(), running(outlet, hub):
            await until(lambda: outlet.waiting() == 0 and all_marked(outlet), "everything is marked")
        assert [hello.epoch for hello in hub.hellos] == ["new"]
        assert hub.keys == ["2", "3"]

    play(scene)


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_a_database_that_is_put_back_while_it_runs_is_read_again(outlet: Outlet, busy: bool) -> None:
    async def scene() -> None:
        hub = FakeHub()
        async with hub.listening(), running(outlet, hub) as capture:
            await write(outlet, hub, 1, 2, 3)
            old = hub.epoch

            def judge(hello: Hello) -> RefusedError | None:
                behind = hello.epoch == old and hello.position < 3
                return RefusedError("fork", "The hub has more of it.") if behind else None

            hub.judge = judge
            await asyncio.to_thread(put_back, outlet, 1)
            if busy:
                await asyncio.to_thread(outlet.execute, product(4))
            await until(lambda: hub.epoch != old, "a new epoch has begun")
            assert not capture.task.done()
            await asyncio.to_thread(outlet.execute, product(5))
            await until(lambda: outlet.waiting() == 0 and all_marked(outlet), "everything is marked")
        assert {1, 2} & {hello.position for hello in hub.hellos if hello.epoch == old}, "it was asked again from there"
        assert sorted(hub.keys) == ["1", "2", "3", *(["4"] if busy else []), "5"]

    play(scene)


def execute(outlet: Outlet, sequence: int) -> None:
    """As the applier would: a delivery stands in the ledger."""
    with outlet.database.transaction() as connection:
        connection.execute(
            insert(LEDGER).values(
                Sequence=sequence,
                Origin="kuta",
                Epoch="e",
                Number=sequence,
                Digest=GENESIS,
                Changes=1,
                Quarantined=0,
                AppliedAt=1,
            )
        )


def test_the_hub_is_told_how_far_the_outlet_has_come_once_all_that_is_stored(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub()

        def told() -> list[tuple[int, int]]:
            return [(one.number, one.seen) for one in hub.progress]

        async with hub.listening(), running(outlet, hub) as capture:
            await until(lambda: told() == [(0, 0)], "it is told at first")
            await asyncio.to_thread(execute, outlet, 7)
            await until(lambda: told()[-1] == (0, 7), "a delivery was executed")
            hub.confirming = False
            await asyncio.to_thread(outlet.execute, product(1))
            await until(lambda: hub.numbers == [1], "it is sent")
            await asyncio.to_thread(execute, outlet, 9)
            await asyncio.to_thread(outlet.execute, product(2))
            await until(lambda: hub.numbers == [1, 2], "it is sent too")
            assert all(number == 0 for number, _ in told()), "nothing is told of what is not stored"
            hub.confirming = True
            await hub.confirm()
            await until(lambda: told()[-1] == (2, 9), "both are told when all is stored")
            count = len(told())
            await capture.relinked(hub)
            await until(lambda: len(told()) > count, "a new connection is told at once")
        assert told()[-1] == (2, 9) and len(told()) == count + 1, "what has not changed is told once"
        assert all(one.epoch == hub.epoch for one in hub.progress)

    play(scene)
