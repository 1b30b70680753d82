"""A copy of an outlet's database is given to another outlet: by the command, on every engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import URL

from services.applier import standing
from services.capture import state, storing
from services.kernel.change import GENESIS
from services.kernel.dialects import Purpose
from services.kernel.schema import BATCH, CLOUD_QUERY
from tests.contract.capture_outlet import Outlet
from tests.stack.command import subak

GENERATED = {"sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT", "mysql": "INTEGER NOT NULL AUTO_INCREMENT PRIMARY KEY"}
OLD = "0123456789abcdef"

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite", "mariadb", "mysql"])


@pytest.fixture
def outlet(database_url: URL) -> Iterator[Outlet]:
    """Jakarta's, as it was copied: one batch stored, one cut, one change not cut."""
    key = GENERATED["sqlite" if database_url.get_backend_name() == "sqlite" else "mysql"]
    outlet = Outlet(
        database_url,
        "CREATE TABLE product (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL)",
        f"CREATE TABLE sale (id {key}, total INTEGER NOT NULL)",
    )
    outlet.install()
    cutter = outlet.cutter()
    for number in (1, 2):
        outlet.execute(f"INSERT INTO product VALUES ({number}, 'teh')")
        cutter.poll()
    outlet.mark_stored(OLD, 1)
    outlet.execute("INSERT INTO product VALUES (3, 'teh')")
    yield outlet
    outlet.close()


def adopt(outlet: Outlet, *arguments: str, code: int = 0) -> str:
    url = outlet.url.render_as_string(hide_password=False)
    return subak({"SUBAK_DATABASE_URL": url}, "outlet", "adopt", *arguments, code=code)


def known(outlet: Outlet) -> dict[str, str]:
    with outlet.reading() as connection:
        return state.read(connection)


def test_what_the_source_has_yet_to_send_is_left_to_it(outlet: Outlet) -> None:
    told = adopt(outlet, "kuta")
    assert "2 changes jakarta has yet to send" in told and "SUBAK_OUTLET=kuta" in told
    found = known(outlet)
    position = state.position_of(found)
    assert position is not None and position.epoch != OLD and (position.number, position.digest) == (0, GENESIS)
    assert (found[state.OUTLET], found[state.SOURCE], found[state.CATCHING_UP]) == ("kuta", "jakarta", "1")
    assert outlet.flags() == {(1, 1): 1, (0, 1): 2}
    with outlet.reading() as connection:
        assert sorted(connection.scalars(select(BATCH.c.Number))) == [1, 2], "they are known by their digests"
    with outlet.database.transaction() as connection:
        assert not storing.dissolve(connection, position.epoch)


def test_from_then_on_changes_are_those_of_the_new_outlet(outlet: Outlet) -> None:
    adopt(outlet, "kuta")
    outlet.name = "kuta"
    assert not outlet.check().changed
    outlet.execute("UPDATE product SET name = 'kopi' WHERE id = 1")
    assert outlet.cutter().poll() == 1
    with outlet.reading() as connection:
        last = connection.execute(select(CLOUD_QUERY).order_by(CLOUD_QUERY.c.Id.desc()).limit(1)).one()
        assert (last.BaseOrigin, last.BatchNumber) == ("jakarta", 1)
        batches = [tuple(row) for row in connection.execute(select(BATCH.c.Epoch, BATCH.c.Number))]
    assert sorted(batches) == sorted([(OLD, 1), (OLD, 2), (known(outlet)[state.EPOCH], 1)])


def test_the_applier_says_whose_copy_it_is_and_earlier_sources_are_kept(outlet: Outlet) -> None:
    adopt(outlet, "kuta")
    first = known(outlet)[state.EPOCH]
    adopt(outlet, "ubud")
    assert known(outlet)[state.SOURCE] == "jakarta,kuta" and known(outlet)[state.EPOCH] != first
    engine = outlet.engine(Purpose.READ)
    found = standing.read(engine, outlet.dialect)
    engine.dispose()
    assert (found.source, found.epoch, found.stored, found.sequence) == ("kuta", known(outlet)[state.EPOCH], 0, 0)
    assert found.time > 1_700_000_000_000_000


def test_called_again_it_ends_what_it_began(outlet: Outlet) -> None:
    adopt(outlet, "kuta")
    before = known(outlet)
    outlet.execute(f"DROP TRIGGER {outlet.dialect.identifier('subak_product_insert')}")
    adopt(outlet, "kuta")
    outlet.name = "kuta"
    assert known(outlet) == before and not outlet.check().changed


def test_generated_keys_go_on_in_the_new_outlets_range(outlet: Outlet) -> None:
    outlet.execute("INSERT INTO sale (total) VALUES (10)")
    assert adopt(outlet, "kuta", "--keys-from", "2000000").count("keys go on from") == 0
    outlet.execute("INSERT INTO sale (total) VALUES (20)")
    with outlet.application.begin() as connection:
        assert list(connection.scalars(text("SELECT id FROM sale ORDER BY id"))) == [1, 2_000_000]
    assert "sale: keys go on from 2000001" in adopt(outlet, "ubud", "--keys-from", "500000")
    outlet.execute("INSERT INTO sale (total) VALUES (30)")
    with outlet.application.begin() as connection:
        assert connection.scalar(text("SELECT MAX(id) FROM sale")) == 2_000_001


def test_what_cannot_be_adopted(outlet: Outlet) -> None:
    before = known(outlet)
    for name in ("jakarta", "_hub", "no good"):
        adopt(outlet, name, code=2)
    lease = outlet.dialect.lease(outlet.url, "applier")
    assert lease is not None
    adopt(outlet, "kuta", code=2)
    subak({"SUBAK_DATABASE_URL": outlet.url.render_as_string(hide_password=False)}, "outlet", "restamp", code=2)
    lease.release()
    assert known(outlet) == before
    adopt(outlet, "kuta")
    told = subak({"SUBAK_DATABASE_URL": outlet.url.render_as_string(hide_password=False)}, "outlet", "restamp")
    assert "0 changes" in told


def test_where_the_changes_of_the_source_end_is_written_down(outlet: Outlet) -> None:
    """Two outlets may give one row the same time: what is the source's is told by its Id."""
    adopt(outlet, "kuta")
    with outlet.reading() as connection:
        last = connection.scalar(select(CLOUD_QUERY.c.Id).order_by(CLOUD_QUERY.c.Id.desc()).limit(1))
    assert known(outlet)[state.SOURCE_ENDS] == str(last)
    adopt(outlet, "sanur")
    assert (known(outlet)[state.SOURCE], known(outlet)[state.SOURCE_ENDS]) == ("jakarta,kuta", f"{last},{last}")
