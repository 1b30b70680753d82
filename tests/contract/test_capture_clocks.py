"""Clocks that are wrong: what they stamped is held here, and stamped anew once they are right."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.engine import URL

from services.capture import state
from services.capture.restamping import Restamped, restamp
from services.cli.status import outlet_status
from services.kernel.change import Stamp
from services.kernel.dialects import Purpose
from services.kernel.schema import CLOUD_QUERY, CONFLICT, VERSION
from tests.contract.capture_hub import FakeHub, Running, all_marked, play, running, until
from tests.contract.capture_outlet import Outlet, now

PRODUCT = "CREATE TABLE product (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL)"
SECOND = 1_000_000
HOUR = 3600 * SECOND
LIMIT = 5 * SECOND

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite", "mariadb", "mysql"])


@pytest.fixture
def outlet(database_url: URL) -> Iterator[Outlet]:
    outlet = Outlet(database_url, PRODUCT)
    outlet.install()
    yield outlet
    outlet.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.capture.turn.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("services.capture.clock.STALE_SECONDS", 0.5)


def product(number: int) -> str:
    return f"INSERT INTO product VALUES ({number}, 'teh {number}')"


def test_every_engine_tells_the_clock_that_its_triggers_go_by(outlet: Outlet) -> None:
    with outlet.reading() as connection:
        before = outlet.dialect.now(connection)
    outlet.execute(product(1))
    with outlet.reading() as connection:
        stamp = connection.scalar(select(CLOUD_QUERY.c.Stamp))
        assert before <= stamp <= outlet.dialect.now(connection)
    assert abs(before - now()) < 10 * SECOND  # here, database and test have one clock


def test_what_is_stamped_too_far_ahead_of_the_hub_is_held_until_the_hub_says_otherwise(outlet: Outlet) -> None:
    async def scene() -> None:
        behind = [HOUR]
        hub = FakeHub(clock=lambda: now() - behind[0])
        async with hub.listening(), running(outlet, hub) as capture:
            await until(lambda: bool(hub.progress), "it is linked, and has looked")
            await asyncio.to_thread(outlet.execute, product(1), product(2))
            await until(lambda: "changes held: 2," in capture.service.health.status()[1], "it is told")
            assert outlet.waiting() == 2 and hub.received == []
            assert capture.service.health.status()[0], "it goes on with its work"
            behind[0] = 0
            await until(
                lambda: all_marked(outlet) and outlet.waiting() == 0, "the hub's clock is right, and they go out"
            )
            await until(lambda: capture.service.health.status() == (True, "ready"), "nothing is held")
        assert hub.keys == ["1", "2"] and len(hub.hellos) > 1
        assert all(abs(hello.time - now()) < 60 * SECOND for hello in hub.hellos)

    play(scene)


def test_a_difference_once_found_counts_after_a_start_without_the_hub(outlet: Outlet) -> None:
    async def scene() -> None:
        hub = FakeHub(clock=lambda: now() - HOUR)
        async with hub.listening(), running(outlet, hub):
            await until(lambda: bool(hub.progress), "it is linked, and has looked")
        await asyncio.to_thread(outlet.execute, product(1))
        capture = Running(outlet, hub)
        await until(lambda: "changes held: 1," in capture.service.health.detail, "it is held")
        await capture.end()
        with outlet.reading() as connection:
            assert abs(int(state.read(connection)[state.CLOCK_SKEW]) + HOUR) < 60 * SECOND
        assert outlet.waiting() == 1

    play(scene)


def set_ahead(outlet: Outlet, by: int) -> None:
    """As if the database's clock had been so far ahead when the row was written last."""
    with outlet.database.transaction() as connection:
        last = connection.execute(select(CLOUD_QUERY).order_by(CLOUD_QUERY.c.Id.desc()).limit(1)).one()
        connection.execute(update(CLOUD_QUERY).where(CLOUD_QUERY.c.Id == last.Id).values(Stamp=last.Stamp + by))
        here = (VERSION.c.TableName == last.TableName) & (VERSION.c.RowId == outlet.dialect.row_id(last.RowKey))
        connection.execute(update(VERSION).where(here).values(Stamp=last.Stamp + by))


def stamped_anew(outlet: Outlet) -> Restamped:
    engine = outlet.engine(Purpose.WRITE)
    try:
        return restamp(engine, outlet.dialect, LIMIT)
    finally:
        engine.dispose()


def changes(outlet: Outlet) -> list[tuple[str, Stamp, Stamp]]:
    """Row key, stamp and base."""
    with outlet.reading() as connection:
        return [
            (row.RowKey, Stamp(row.Stamp, outlet.name), Stamp(row.BaseStamp, row.BaseOrigin))
            for row in connection.execute(select(CLOUD_QUERY).order_by(CLOUD_QUERY.c.Id))
        ]


def version(outlet: Outlet, key: str) -> tuple[Stamp, Stamp, str | None]:
    with outlet.reading() as connection:
        here = (VERSION.c.TableName == "product") & (VERSION.c.RowId == outlet.dialect.row_id(key))
        row = connection.execute(select(VERSION).where(here)).one()
        return Stamp(row.Stamp, row.Origin), Stamp(row.BaseStamp, row.BaseOrigin), row.ColumnStamps


def test_the_outlets_status_says_so(outlet: Outlet) -> None:
    outlet.execute(product(1))
    outlet.execute(product(2))
    set_ahead(outlet, HOUR)
    with outlet.reading() as connection:
        found = outlet_status(connection, now())
    assert (found["changes_waiting"], found["changes_ahead"], found["clock_skew_seconds"]) == (2, 1, 0)
    with outlet.database.transaction() as connection:
        state.put(connection, state.CLOCK_SKEW, str(2 * HOUR))
    with outlet.reading() as connection:
        found = outlet_status(connection, now())
    assert (found["changes_ahead"], found["clock_skew_seconds"]) == (0, 7200)


def test_changes_of_a_row_keep_their_order_and_their_chain(outlet: Outlet) -> None:
    outlet.execute(product(1))
    outlet.cutter().poll()
    outlet.execute("UPDATE product SET name = 'kopi' WHERE id = 1")
    set_ahead(outlet, HOUR)
    outlet.execute("UPDATE product SET name = 'kopi susu' WHERE id = 1")  # pushed past the one before
    outlet.execute(product(2))
    begun = now()
    assert stamped_anew(outlet) == Restamped(2, 0)
    (_, sent, _), (_, first, base), (_, second, chained), (_, other, _) = changes(outlet)
    assert base == sent and chained == first and sent < first < second
    assert begun - SECOND <= first.time <= now() and second.time == first.time + 1
    assert version(outlet, "1")[:2] == (second, first) and version(outlet, "2")[0] == other
    outlet.execute("UPDATE product SET name = 'kopi tubruk' WHERE id = 1")
    assert changes(outlet)[-1][2] == second and second.time < changes(outlet)[-1][1].time < now() + SECOND
    assert stamped_anew(outlet) == Restamped(0, 0)


def test_what_follows_a_version_that_is_out_already_stays_ahead_and_holds_nobody(outlet: Outlet) -> None:
    outlet.execute(product(1))
    set_ahead(outlet, HOUR)
    cutter = outlet.cutter()
    assert cutter.poll() == 1
    outlet.execute("UPDATE product SET name = 'kopi' WHERE id = 1")
    assert stamped_anew(outlet) == Restamped(0, 1)
    assert cutter.poll() == 1


def test_it_wins_elsewhere_what_it_has_won_here(outlet: Outlet) -> None:
    outlet.execute(product(1))
    set_ahead(outlet, HOUR)
    ((_, stamp, _),) = changes(outlet)
    loser = now() + 3 * SECOND
    columns = {"at": stamp, "rest": [loser, "kuta"], "of": {"name": stamp}}
    with outlet.database.transaction() as connection:
        connection.execute(
            insert(CONFLICT).values(
                Sequence=1,
                TableName="product",
                RowKey="1",
                Rule="row",
                Winner="local",
                LocalStamp=stamp.time,
                LocalOrigin=outlet.name,
                IncomingStamp=loser,
                IncomingOrigin="kuta",
                DecidedAt=1,
            )
        )
        connection.execute(update(VERSION).values(ColumnStamps=json.dumps(columns)))
    assert stamped_anew(outlet) == Restamped(1, 0)
    ((_, new, _),) = changes(outlet)
    assert new.time == loser + 1 > time.time_ns() // 1000
    assert version(outlet, "1")[0] == new
    assert json.loads(version(outlet, "1")[2] or "") == {
        "at": list(new),
        "rest": [loser, "kuta"],
        "of": {"name": list(new)},
    }
