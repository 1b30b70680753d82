"""IDENTITY keys on SQL Server: rows from elsewhere bring theirs along, and the application's next one is as if they had not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from services.kernel.dialects.mssql import identity
from services.kernel.errors import TransientError
from tests.conftest import FreshDatabase
from tests.contract.outlets import Outlet, Outlets
from tests.stack.application import takes

Make = Callable[..., Outlet]

FAR = 5_000_000
TICKET = "CREATE TABLE ticket (id INT NOT NULL IDENTITY({}) PRIMARY KEY, what NVARCHAR(40))"


@pytest.fixture
def make(fresh_database: FreshDatabase) -> Iterator[Make]:
    made: list[Outlet] = []

    def making(name: str = "amed", generator: str = "1, 1", *, start: int | None = None) -> Outlet:
        outlet = Outlet(name, fresh_database("mssql", name), [TICKET.format(generator)])
        made.append(outlet)
        if start is not None:
            begin_at(outlet, start)
        return outlet

    yield making
    for outlet in made:
        outlet.close()


def begin_at(outlet: Outlet, start: int) -> None:
    """As a DBA gives an outlet its range. Some servers do not take what is below the seed; there it begins with the seed."""
    statement = f"DBCC CHECKIDENT (ticket, RESEED, {start}) WITH NO_INFOMSGS"
    if takes(outlet.application, statement):
        outlet.write(statement)


def drawn(outlet: Outlet) -> int:
    """The key that the application's next row gets."""
    with outlet.application.begin() as connection:
        query = "SET NOCOUNT ON; INSERT INTO ticket (what) VALUES (N'own'); SELECT CAST(SCOPE_IDENTITY() AS INT)"
        return int(connection.exec_driver_sql(query).scalar_one())


def put(outlet: Outlet, connection: Connection, *keys: int) -> None:
    """As the applier writes rows from elsewhere."""
    table = outlet.catalogue.table("ticket")
    assert table is not None
    with identity.inserting(connection, table):
        for key in keys:
            connection.exec_driver_sql(f"INSERT INTO dbo.ticket (id, what) VALUES ({key}, N'theirs')")


def locks_a_table(outlet: Outlet) -> bool:
    """Whether a table that one session has locked by a hint is not written by another."""
    with outlet.engine.connect() as holder, outlet.application.connect() as writer:
        holder.exec_driver_sql("SELECT TOP (0) 1 FROM dbo.ticket WITH (TABLOCKX, HOLDLOCK)").all()
        try:
            writer.exec_driver_sql("SET LOCK_TIMEOUT 0")
            writer.exec_driver_sql("INSERT INTO ticket (what) VALUES (N'meanwhile')")
        except DBAPIError:
            return True
        finally:
            writer.rollback()
            writer.exec_driver_sql("SET LOCK_TIMEOUT 60000")
            writer.commit()
    return False


def keys(outlet: Outlet) -> list[int]:
    return [int(key) for (key,) in outlet.read("SELECT id FROM ticket ORDER BY id")]


@pytest.mark.parametrize(("generator", "theirs"), [("1, 1", FAR), ("100, 10", FAR), ("-1, -1", -FAR)])
def test_it_goes_on_where_it_stood(make: Make, generator: str, theirs: int) -> None:
    outlet = make(generator=generator)
    first, second = drawn(outlet), drawn(outlet)
    for number in (0, 1):
        with outlet.engine.begin() as connection:
            put(outlet, connection, theirs + 2 * number, theirs + 2 * number + 1)
            put(outlet, connection, theirs + 100 + number)
    assert drawn(outlet) == second + (second - first)


def test_keys_that_come_right_behind_are_passed_over(make: Make) -> None:
    """Outlets without ranges of their own give the same keys."""
    outlet = make()
    begin = drawn(outlet)
    for theirs in ((1, 2), (3,), (FAR,)):
        with outlet.engine.begin() as connection:
            put(outlet, connection, *(begin + number for number in theirs))
    assert drawn(outlet) == begin + 4


def test_a_key_below_moves_nothing(make: Make) -> None:
    outlet = make(start=FAR)
    own = drawn(outlet)
    with outlet.engine.begin() as connection:
        put(outlet, connection, 7)
    assert drawn(outlet) == own + 1


@pytest.mark.parametrize("theirs", [(7,), (7, 2 * FAR), (2 * FAR,)])
def test_a_range_that_was_given_to_a_table_never_used(make: Make, theirs: tuple[int, ...]) -> None:
    """A server may or may not tell that nothing was drawn yet: then one number is left out."""
    outlet = make(start=FAR)
    with outlet.engine.begin() as connection:
        put(outlet, connection, *theirs)
    own = drawn(outlet)
    assert own in (FAR, FAR + 1)
    assert drawn(outlet) == own + 1


def test_a_table_never_used(make: Make) -> None:
    outlet = make()
    with outlet.engine.begin() as connection:
        put(outlet, connection, FAR)
    assert drawn(outlet) in (1, 2)


@pytest.mark.parametrize("undone", [False, True])
def test_after_a_rollback(make: Make, undone: bool) -> None:
    """`undone`: a server that takes the setting back with the transaction, but not the move, stands at the greatest key again."""
    outlet = make()
    own = drawn(outlet)
    with suppress(InterruptedError), outlet.engine.begin() as connection:
        put(outlet, connection, FAR)
        if undone:
            connection.exec_driver_sql(f"DBCC CHECKIDENT (ticket, RESEED, {FAR}) WITH NO_INFOMSGS")
        raise InterruptedError
    assert drawn(outlet) == own + 1
    assert keys(outlet) == [own, own + 1]


@pytest.mark.parametrize("undone", [False, True])
def test_after_a_rollback_to_a_savepoint(make: Make, undone: bool) -> None:
    outlet = make()
    own = drawn(outlet)
    with outlet.engine.begin() as connection:
        savepoint = connection.begin_nested()
        put(outlet, connection, FAR)
        savepoint.rollback()
        if undone:
            connection.exec_driver_sql(f"DBCC CHECKIDENT (ticket, RESEED, {FAR}) WITH NO_INFOMSGS")
    assert drawn(outlet) == own + 1


def test_what_the_application_drew_since_a_rollback_is_kept(make: Make) -> None:
    outlet = make()
    own = drawn(outlet)
    connection = outlet.engine.connect()
    put(outlet, connection, FAR)
    connection.rollback()
    after = [drawn(outlet), drawn(outlet)]
    connection.close()
    assert [*after, drawn(outlet)] == [own + 1, own + 2, own + 3]


def test_a_row_that_is_refused(make: Make) -> None:
    outlet = make()
    own = drawn(outlet)
    with pytest.raises(DBAPIError), outlet.engine.begin() as connection:
        put(outlet, connection, FAR, FAR)
    assert drawn(outlet) == own + 1
    with outlet.engine.begin() as connection:
        put(outlet, connection, FAR)
    assert drawn(outlet) == own + 2


def test_two_outlets_with_ranges_of_their_own(make: Make) -> None:
    """10,000 rows each, in turns, each other's rows applied in between."""
    amed, bali = make("amed", start=0), make("bali", start=1_000_000)
    outlets = Outlets(amed, bali)
    for number in range(20):
        for outlet in outlets.outlets:
            for _ in range(5):
                rows = ", ".join(f"(N'{outlet.name} {number}')" for _ in range(100))
                outlet.write(f"INSERT INTO ticket (what) VALUES {rows}")
            outlets.spread_from(outlet)
    outlets.spread()
    rows = outlets.same("SELECT id, what FROM ticket")
    of_amed = [key for key, what in rows if what.startswith("amed")]
    of_bali = [key for key, what in rows if what.startswith("bali")]
    assert len(of_amed) == len(of_bali) == 10_000
    assert min(of_amed) >= 0 and max(of_amed) < 20_000
    assert min(of_bali) >= 1_000_000 and max(of_bali) < 1_020_000
    for outlet in outlets.outlets:
        assert outlet.read("SELECT COUNT(*) FROM subak_conflict") == [(0,)]
        assert outlet.read("SELECT COUNT(*) FROM subak_quarantine") == [(0,)]


def test_while_the_application_writes(make: Make) -> None:
    amed, bali = make("amed"), make("bali", start=FAR)
    if not locks_a_table(amed):
        pytest.skip("mssql: this server ignores TABLOCKX, and lets numbers be drawn meanwhile")
    outlets = Outlets(amed, bali)
    applied = threading.Event()
    own: list[int] = []

    def write() -> None:
        while not applied.is_set() or len(own) < 50:
            own.append(drawn(amed))

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(15):
        bali.write("INSERT INTO ticket (what) VALUES (N'bali'), (N'bali')")
        batch = bali.take()
        assert batch is not None
        outlets.sequence += 1
        for attempt in range(1, 50):
            with suppress(TransientError):
                amed.apply(batch, outlets.sequence, attempt)
                break
    applied.set()
    writer.join()
    assert len(own) == len(set(own)) and max(own) < FAR
    assert len([key for key in keys(amed) if key >= FAR]) == 30
