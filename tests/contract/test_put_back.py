"""An outlet's database that was put back, or is a copy of another's: what it has lost comes again, and what it has does not count twice."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from services.applier.resolving import Choice
from services.kernel.change import NEVER, Batch, BatchId, Change, Op, Transaction, decode_body
from services.kernel.control import Policy
from services.kernel.schema import BATCH, CLOUD_QUERY, LEDGER, STATE, VERSION
from tests.contract.outlets import Make, MakeOutlet, Outlet

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite", "mariadb", "mysql", "mssql"])

STOCK = (
    "CREATE TABLE stock (sku VARCHAR(20) NOT NULL PRIMARY KEY, on_hand INTEGER NOT NULL)",
    "INSERT INTO stock VALUES ('a', 10), ('b', 10)",
)
GENERATED = {"sqlite": "INTEGER PRIMARY KEY", "mssql": "INTEGER NOT NULL IDENTITY(1, 1) PRIMARY KEY"}
ROWS = "SELECT sku, on_hand FROM stock ORDER BY sku"
SUM = Policy(1, '[tables.stock]\ndelta = ["on_hand"]')


@pytest.fixture
def outlet(make_outlet: MakeOutlet) -> Make:
    return lambda name: make_outlet(name, STOCK)


def _sold(outlet: Outlet, number: int, sku: str = "a", *, stored: bool = True) -> Batch:
    outlet.write(f"UPDATE stock SET on_hand = on_hand - {number} WHERE sku = '{sku}'")
    batch = outlet.take()
    assert batch is not None
    outlet.keep(batch, stored=stored)
    return batch


def _exported(outlet: Outlet) -> list[tuple[int, int | None]]:
    with outlet.engine.begin() as connection:
        query = sa.select(CLOUD_QUERY.c.ExportFlag, CLOUD_QUERY.c.BatchNumber).order_by(CLOUD_QUERY.c.Id)
        return [(row[0], row[1]) for row in connection.execute(query)]


def test_what_was_lost_comes_again(outlet: Make) -> None:
    amed = outlet("amed")
    backup = amed.backup()
    batches = [_sold(amed, 1), _sold(amed, 2)]
    amed.restore(backup)
    assert amed.read(ROWS) == [("a", 10), ("b", 10)]
    for sequence, batch in enumerate(batches, start=4):
        assert not amed.apply(batch, sequence).duplicate
    assert amed.read(ROWS) == [("a", 7), ("b", 10)]
    assert amed.apply(batches[1], 5 + 1).duplicate  # and once only


def test_what_was_stored_unheard_is_known_by_its_digest(outlet: Make) -> None:
    """The hub has a batch, and capture did not hear so before the backup was made."""
    amed = outlet("amed")
    amed.hear(SUM, 1)
    batch = _sold(amed, 3, stored=False)
    amed.write("UPDATE stock SET on_hand = on_hand - 1 WHERE sku = 'a'")
    assert amed.apply(batch, 2).duplicate
    assert amed.read(ROWS) == [("a", 6), ("b", 10)]
    assert [flag for flag, _ in _exported(amed)] == [1, 0]  # nothing dissolves it now
    with amed.engine.begin() as connection:
        assert connection.scalar(sa.select(BATCH.c.StoredAt)) is not None
        assert connection.scalar(sa.select(sa.func.max(LEDGER.c.Sequence))) == 2


def test_a_change_that_is_here_is_passed_over_and_the_others_are_applied(outlet: Make) -> None:
    """It was cut into another batch than the one the hub has, or into none."""
    amed = outlet("amed")
    amed.hear(SUM, 1)
    amed.write("UPDATE stock SET on_hand = on_hand - 1 WHERE sku = 'a'")
    backup = amed.backup()
    amed.write("UPDATE stock SET on_hand = on_hand - 2 WHERE sku = 'b'")
    batch = amed.take()
    assert batch is not None and batch.changes == 2
    amed.restore(backup)
    amed.write("UPDATE stock SET on_hand = on_hand - 4 WHERE sku = 'a'")  # the application's life after that
    outcome = amed.apply(batch, 2)
    assert (outcome.changes, outcome.duplicate) == (1, False)
    assert amed.read(ROWS) == [("a", 5), ("b", 8)]
    assert _exported(amed) == [(1, 0), (0, None)]


def test_a_batch_that_is_here_whole_but_under_no_digest_changes_nothing(outlet: Make) -> None:
    amed = outlet("amed")
    amed.hear(SUM, 1)
    amed.write("UPDATE stock SET on_hand = on_hand - 1 WHERE sku = 'a'", "DELETE FROM stock WHERE sku = 'b'")
    batch = amed.take()
    assert batch is not None
    amed.write("INSERT INTO stock VALUES ('b', 3)")
    assert amed.apply(batch, 2).changes == 0
    assert amed.read(ROWS) == [("a", 9), ("b", 3)]


def test_another_batch_under_the_same_number_is_not_taken_for_it(outlet: Make) -> None:
    amed = outlet("amed")
    backup = amed.backup()
    lost = _sold(amed, 1)
    amed.restore(backup)
    amed.previous, amed._number = lost.previous, 0
    mine = _sold(amed, 5, "b", stored=False)
    assert (mine.id, mine.digest != lost.digest) == (BatchId("amed", "e", 1), True)
    assert amed.apply(lost, 1).changes == 1
    assert amed.read(ROWS) == [("a", 9), ("b", 5)]
    assert _exported(amed) == [(0, 1)]


def test_a_copy_takes_nothing_of_its_source_twice(outlet: Make) -> None:
    """bali is made from amed's database; what amed had not sent yet, amed sends."""
    amed, bali = outlet("amed"), outlet("bali")
    amed.hear(SUM, 1)
    before = _sold(amed, 1)
    unsent = _sold(amed, 2, stored=False)
    bali.restore(amed.backup())
    with bali.engine.begin() as connection:
        connection.execute(sa.insert(STATE), [{"Name": "source", "Value": "amed"}])
        connection.execute(
            sa.update(CLOUD_QUERY).where(CLOUD_QUERY.c.ExportFlag == 0).values(ExportFlag=1, BatchNumber=0)
        )
    bali.applier.refresh()
    after = _sold(amed, 4)
    for sequence, batch in enumerate((before, unsent, after), start=2):
        bali.apply(batch, sequence)
    assert bali.read(ROWS) == amed.read(ROWS) == [("a", 3), ("b", 10)]


def test_a_retry_passes_over_what_is_here_too(outlet: Make) -> None:
    """A transaction of its former life that cannot be applied, half of which the database has."""
    amed = outlet("amed")
    amed.hear(SUM, 1)
    amed.write("UPDATE stock SET on_hand = on_hand - 1 WHERE sku = 'a'")
    taken = amed.take()
    assert taken is not None
    here = decode_body(taken.body)[0].changes[0]
    lost = Change("later", Op.INSERT, "1", None, '{"id":1}', here.stamp, NEVER)
    outcome = amed.apply(amed.batch(Transaction("", (here, lost))), 2)
    assert [report.code for report in outcome.quarantined] == ["missing_table"]
    amed.write("CREATE TABLE later (id INTEGER NOT NULL PRIMARY KEY)")
    amed.applier.refresh()
    assert amed.retry()
    assert amed.read("SELECT id FROM later") == [(1,)]
    assert amed.read(ROWS) == [("a", 9), ("b", 10)]


def _draws(outlet: Outlet, what: str) -> None:
    """A ticket 1, as if its generator had given the number."""
    given = f"INSERT INTO ticket (id, what) VALUES (1, '{what}')"
    if outlet.dialect.name == "mssql":
        outlet.write("SET IDENTITY_INSERT ticket ON", given, "SET IDENTITY_INSERT ticket OFF")
    else:
        outlet.write(given)


def test_a_generator_that_was_put_back_too_gives_one_key_to_two_rows(outlet: Make, engine_name: str) -> None:
    """The row of the former life comes back to its outlet, the new one goes to the others: neither overwrites the other."""
    generated = GENERATED.get(engine_name, "INTEGER NOT NULL AUTO_INCREMENT PRIMARY KEY")
    amed, bali = outlet("amed"), outlet("bali")
    for one in (amed, bali):
        one.write(f"CREATE TABLE ticket (id {generated}, what VARCHAR(20))")
        one.renew()
        one.applier.refresh()
    backup = amed.backup()
    _draws(amed, "former")
    former = amed.take()
    amed.restore(backup)
    _draws(amed, "new")
    new = amed.take()
    assert former is not None and new is not None
    bali.apply(former, 1)
    assert [report.code for report in bali.apply(new, 2).quarantined] == ["generated_key"]
    assert [report.code for report in amed.apply(former, 1).quarantined] == ["generated_key"]
    (entry,) = amed.applier.waiting()
    amed.applier.resolve(entry.id, Choice(new_keys=("70",)))
    decided = amed.take()
    assert decided is not None
    bali.apply(decided, 3)
    bali.retry()
    for one in (amed, bali):
        assert one.read("SELECT id, what FROM ticket ORDER BY id") == [(1, "new"), (70, "former")]
        assert one.applier.waiting() == []


def test_a_copy_and_its_source_give_one_row_the_same_time(outlet: Make) -> None:
    """Both write on a version that is ahead of their clocks. The two changes are two, and each is sold once."""
    amed, kuta = outlet("amed"), outlet("kuta")
    for one in (amed, kuta):
        one.hear(SUM, 1)
        one.write("UPDATE stock SET on_hand = 20 WHERE sku = 'a'")  # made at amed, and copied
        one.take()
    with kuta.engine.begin() as connection:
        last = connection.scalar(sa.select(sa.func.max(CLOUD_QUERY.c.Id)))
        copied = {"source": "amed", "source_ends": str(last)}
        connection.execute(sa.insert(STATE), [{"Name": name, "Value": value} for name, value in copied.items()])
    kuta.applier.refresh()
    for one in (amed, kuta):
        with one.engine.begin() as connection:
            connection.execute(sa.update(VERSION).values(Stamp=2**60, Origin="bali"))
    sold = [_sold(one, 1) for one in (amed, kuta)]
    assert [decode_body(batch.body)[0].changes[0].stamp.time for batch in sold] == [2**60 + 1] * 2
    kuta.apply(sold[0], 2)
    amed.apply(sold[1], 3)
    assert kuta.read(ROWS) == amed.read(ROWS) == [("a", 18), ("b", 10)]
