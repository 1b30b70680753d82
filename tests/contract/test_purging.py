"""What every outlet has executed is forgotten, and nothing else: by small transactions that may be interrupted anywhere."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from services.applier import purging
from services.kernel.change import NEVER, Batch, Change, Op, Stamp, Transaction
from services.kernel.control import Own, Policy, Purge
from services.kernel.errors import PermanentError, ProtocolError
from services.kernel.schema import BATCH, CLOUD_QUERY, CONFLICT, LEDGER, LEDGER_PART, QUARANTINE, STATE, VERSION
from services.kernel.wire.messages import Delivery
from tests.contract.outlets import Make, MakeOutlet, Outlet, delivery_of, said_by_hub
from tests.stack.command import subak

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite", "mariadb", "mysql", "mssql"])

STOCK = (
    "CREATE TABLE stock (sku VARCHAR(20) NOT NULL PRIMARY KEY, on_hand INTEGER NOT NULL, CHECK (on_hand < 100))",
    "CREATE TABLE tag (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL UNIQUE)",
    "INSERT INTO stock VALUES ('a', 10), ('b', 0), ('c', 10)",
)
DELTA = '[tables.stock]\ndelta = ["on_hand"]'

ENDED = object()


@pytest.fixture
def outlet(make_outlet: MakeOutlet) -> Make:
    return lambda name: make_outlet(name, STOCK)


@pytest.fixture
def two(outlet: Make) -> tuple[Outlet, Outlet]:
    return outlet("amed"), outlet("bali")


def _batch(outlet: Outlet, *statements: str) -> Batch:
    outlet.write(*statements)
    batch = outlet.take()
    assert batch is not None
    outlet.keep(batch, stored=True)
    return batch


def _all(outlet: Outlet, column: sa.ColumnElement[object]) -> list[object]:
    with outlet.engine.begin() as connection:
        return list(connection.scalars(sa.select(column).order_by(column)))


def _tombstones(outlet: Outlet) -> int:
    with outlet.engine.begin() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(VERSION).where(VERSION.c.Deleted == 1)) or 0


def test_batches_tombstones_and_exported_changes_go_and_the_last_batch_stays(two: tuple[Outlet, Outlet]) -> None:
    amed, bali = two
    bali.apply(_batch(amed, "DELETE FROM stock WHERE sku = 'a'", "UPDATE stock SET on_hand = 1 WHERE sku = 'b'"), 1)
    bali.apply(_batch(amed, "DELETE FROM stock WHERE sku = 'c'"), 2)
    bali.apply(_batch(amed, "UPDATE stock SET on_hand = 2 WHERE sku = 'b'"), 3)
    purge = Purge(2, {"amed": Own("e", 2)})
    assert (_tombstones(amed), _tombstones(bali)) == (2, 2)
    for one in two:
        one.hear(purge, 4)
        assert _tombstones(one) == 0
    assert _all(bali, LEDGER.c.Sequence) == [3, 4]
    assert set(_all(bali, LEDGER_PART.c.Sequence)) == {3, 4}
    assert _all(amed, BATCH.c.Number) == [3]
    assert _all(amed, CLOUD_QUERY.c.BatchNumber) == [3]
    assert bali.applier.position()[0] == 4
    assert bali.hear(purge, 4).duplicate
    bali.write("INSERT INTO stock VALUES ('a', 5)")
    after = bali.take()
    assert after is not None
    amed.apply(after, 5)
    assert amed.read("SELECT * FROM stock ORDER BY sku") == bali.read("SELECT * FROM stock ORDER BY sku")


def test_the_last_of_everything_stays(two: tuple[Outlet, Outlet]) -> None:
    """By it the outlet knows where it stands, and where its own batches do."""
    amed, bali = two
    bali.apply(_batch(amed, "UPDATE stock SET on_hand = 1 WHERE sku = 'b'"), 1)
    for one in two:
        with pytest.raises(ProtocolError, match="gap"):
            one.applier.apply(*_delivered(Purge(1, {"amed": Own("e", 1)}), 7, 6))
        list(one.applier.forgetting(*_delivered(Purge(1, {"amed": Own("e", 1)}), 2, one.sequence)))
    assert _all(bali, LEDGER.c.Sequence) == [1]
    assert _all(amed, BATCH.c.Number) == [1]
    assert bali.applier.position()[0] == 1


def _delivered(said: Purge, sequence: int, previous: int) -> tuple[Delivery, bytes]:
    batch = said_by_hub(said, sequence)
    return delivery_of(batch, sequence, previous), batch.body


def test_interrupted_anywhere_it_goes_on(two: tuple[Outlet, Outlet], monkeypatch: pytest.MonkeyPatch) -> None:
    amed, bali = two
    monkeypatch.setattr(purging, "ROWS", 2)
    bali.write("INSERT INTO stock VALUES ('x', 1)")
    for sequence, skus in enumerate((["a", "c"], ["d", "e", "f", "g", "h"], ["i"]), start=1):
        statements = [f"INSERT INTO stock VALUES ('{sku}', 1)" for sku in skus if sku > "c"]
        bali.apply(_batch(amed, *statements, *(f"DELETE FROM stock WHERE sku = '{sku}'" for sku in skus)), sequence)
    bali.apply(_batch(amed, "UPDATE stock SET on_hand = 2 WHERE sku = 'b'"), 4)
    for one in two:
        delivery = _delivered(Purge(3, {"amed": Own("e", 3)}), 5, one.sequence)
        killed = 0
        while next(one.applier.forgetting(*delivery), ENDED) is not ENDED:
            killed += 1  # after each step
            assert killed < 50, "it does not get on"
        assert killed > 5
        assert _tombstones(one) == 0
    assert _all(bali, LEDGER.c.Sequence) == [4]
    assert _all(bali, CLOUD_QUERY.c.RowKey) == ["x"]
    assert _all(amed, BATCH.c.Number) == [4]


def test_a_tombstone_of_a_later_delete_stays(two: tuple[Outlet, Outlet]) -> None:
    amed, bali = two
    bali.apply(_batch(amed, "DELETE FROM stock WHERE sku = 'a'"), 1)
    bali.apply(_batch(amed, "INSERT INTO stock VALUES ('a', 3)", "DELETE FROM stock WHERE sku = 'a'"), 2)
    bali.apply(_batch(amed, "UPDATE stock SET on_hand = 2 WHERE sku = 'b'"), 3)
    for one in two:
        one.hear(Purge(1, {"amed": Own("e", 1)}), 4)
        assert _tombstones(one) == 1


def test_a_tombstone_that_holds_a_sum_stays(two: tuple[Outlet, Outlet]) -> None:
    amed, bali = two
    for one in two:
        one.hear(Policy(1, DELTA), 1)
    bali.apply(_batch(amed, "DELETE FROM stock WHERE sku = 'a'", "DELETE FROM stock WHERE sku = 'b'"), 2)
    bali.apply(_batch(amed, "UPDATE stock SET on_hand = 2 WHERE sku = 'c'"), 3)
    for one in two:
        one.hear(Purge(2, {"amed": Own("e", 1)}), 4)
        with one.engine.begin() as connection:
            left = connection.execute(sa.select(VERSION.c.LastImage).where(VERSION.c.Deleted == 1)).scalars().all()
        assert len(left) == 1 and '"a"' in left[0]


def test_what_waits_in_quarantine_keeps_its_batch(two: tuple[Outlet, Outlet]) -> None:
    amed, bali = two
    bad = Change("stock", Op.INSERT, "z", None, '{"sku":"z","on_hand":500}', Stamp(2**41, "amed"), NEVER)
    bali.apply(amed.batch(Transaction("", (bad,))), 1)
    bali.apply(_batch(amed, "UPDATE stock SET on_hand = 2 WHERE sku = 'b'"), 2)
    bali.hear(Purge(2, {}), 3)
    assert _all(bali, LEDGER.c.Sequence) == [1, 2, 3]
    bali.write("UPDATE stock SET on_hand = 3 WHERE sku = 'c'")
    (entry,) = bali.applier.waiting()
    with pytest.raises(PermanentError, match="check"):
        bali.applier.retry(entry.id)
    bali.applier.discard(entry.id)
    assert len(_all(bali, QUARANTINE.c.Id)) == 1
    bali.hear(Purge(3, {}), 4)
    assert len(_all(bali, QUARANTINE.c.Id)) == 1  # it is different still, and that is remembered
    shown = subak({"SUBAK_DATABASE_URL": bali.url.render_as_string(hide_password=False)}, "quarantine", "show", "1")
    assert "discarded" in shown and "500" in shown
    bali.write("INSERT INTO stock VALUES ('z', 1)")
    bali.hear(Purge(4, {}), 5)
    assert _all(bali, QUARANTINE.c.Id) == []
    assert _all(bali, LEDGER.c.Sequence) == [2, 4, 5]  # of what the outlet sent, the last: it tells what came before


def test_what_is_on_the_list_has_its_batch_whatever_is_written_meanwhile(two: tuple[Outlet, Outlet]) -> None:
    """What was discarded is looked up there when somebody decides elsewhere: `superseding.py`."""
    amed, bali = two
    bad = Change("stock", Op.INSERT, "z", None, '{"sku":"z","on_hand":500}', Stamp(2**41, "amed"), NEVER)
    bali.apply(amed.batch(Transaction("", (bad,))), 1)
    bali.write("UPDATE stock SET on_hand = 3 WHERE sku = 'b'")
    bali.apply(_batch(amed, "UPDATE stock SET on_hand = 2 WHERE sku = 'b'"), 2)
    bali.applier.discard(bali.applier.waiting()[0].id)
    delivery = _delivered(Purge(2, {}), 3, 2)
    forgetting = bali.applier.forgetting(*delivery)
    next(forgetting)  # quarantine was gone through, the conflict is gone
    assert _all(bali, CONFLICT.c.Id) == []
    bali.write("INSERT INTO stock VALUES ('z', 1)")  # what was discarded is different no more
    list(forgetting)
    assert (len(_all(bali, QUARANTINE.c.Id)), _all(bali, LEDGER_PART.c.Sequence)) == (1, [1, 2])
    bali.hear(Purge(2, {}), 3)
    assert (_all(bali, QUARANTINE.c.Id), 1 in _all(bali, LEDGER_PART.c.Sequence)) == ([], False)


def test_a_batch_that_was_forgotten_and_comes_again_changes_nothing(two: tuple[Outlet, Outlet]) -> None:
    """A hub that was put back to a backup is sent by others what it had, and numbers it anew."""
    amed, bali = two
    first = _batch(amed, "UPDATE stock SET on_hand = 2 WHERE sku = 'b'")
    bali.apply(first, 1)
    bali.apply(_batch(amed, "UPDATE stock SET on_hand = 7 WHERE sku = 'c'"), 2)
    bali.hear(Purge(2, {}), 3)
    assert _all(bali, LEDGER.c.Sequence) == [2, 3]
    with bali.engine.begin() as connection:
        connection.execute(VERSION.delete())  # nothing but the ledger can know it
    assert bali.apply(first, 8).duplicate
    assert bali.applier.position()[0] == 8


def test_conflicts_go_and_are_counted_all_the_same(two: tuple[Outlet, Outlet]) -> None:
    amed, bali = two
    bali.write("UPDATE stock SET on_hand = 3 WHERE sku = 'b'")
    bali.apply(_batch(amed, "UPDATE stock SET on_hand = 2 WHERE sku = 'b'"), 1)
    assert bali.applier.totals()[0] == 1
    bali.hear(Purge(1, {}), 2)
    assert _all(bali, CONFLICT.c.Id) == []
    assert bali.applier.totals()[0] == 1


def test_what_is_not_acknowledged_and_other_epochs_stay(two: tuple[Outlet, Outlet]) -> None:
    amed, _ = two
    _batch(amed, "UPDATE stock SET on_hand = 1 WHERE sku = 'b'")
    amed.write("UPDATE stock SET on_hand = 2 WHERE sku = 'b'")
    unheard = amed.take()
    assert unheard is not None
    amed.keep(unheard, stored=False)
    with amed.engine.begin() as connection:
        connection.execute(sa.update(STATE).where(STATE.c.Name == "epoch").values(Value="f"))
    amed.hear(Purge(9, {"amed": Own("g", 9)}), 10)
    assert (_all(amed, BATCH.c.Number), _all(amed, CLOUD_QUERY.c.BatchNumber)) == ([1, 2], [1, 2])
    amed.hear(Purge(11, {"amed": Own("f", 9)}), 12)  # epoch e is over: what of it was stored is executed everywhere
    assert (_all(amed, BATCH.c.Number), _all(amed, CLOUD_QUERY.c.BatchNumber)) == ([2], [2])


def test_a_copy_keeps_what_its_source_may_still_send(two: tuple[Outlet, Outlet]) -> None:
    amed, bali = two
    _batch(amed, "UPDATE stock SET on_hand = 1 WHERE sku = 'b'")
    amed.write("UPDATE stock SET on_hand = 2 WHERE sku = 'b'")
    unsent = amed.take()
    assert unsent is not None
    amed.keep(unsent, stored=False)
    bali.restore(amed.backup())
    with bali.engine.begin() as connection:
        connection.execute(sa.insert(STATE), [{"Name": "source", "Value": "amed"}])
        connection.execute(sa.update(STATE).where(STATE.c.Name == "epoch").values(Value="f"))
        connection.execute(
            sa.update(CLOUD_QUERY).where(CLOUD_QUERY.c.ExportFlag == 0).values(ExportFlag=1, BatchNumber=0)
        )
        connection.execute(sa.update(BATCH).values(StoredAt=1))
    bali.applier.refresh()
    bali.hear(Purge(9, {"bali": Own("f", 3), "amed": Own("e", 1)}), 10)
    assert (_all(bali, BATCH.c.Number), _all(bali, CLOUD_QUERY.c.BatchNumber)) == ([2], [0])
    assert bali.apply(unsent, 11).duplicate


def test_what_a_quarantined_transaction_will_need_stays(two: tuple[Outlet, Outlet]) -> None:
    """It is applied in the end: then a row that was deleted since must not come back, though everybody has forgotten the deletion."""
    amed, bali = two
    bali.write("INSERT INTO tag VALUES (9, 7)")
    assert bali.apply(_batch(amed, "INSERT INTO tag VALUES (1, 7)", "INSERT INTO stock VALUES ('r', 1)"), 1).quarantined
    for sequence, statement in enumerate(
        (
            "UPDATE stock SET on_hand = 2 WHERE sku = 'r'",
            "DELETE FROM stock WHERE sku = 'r'",
            "DELETE FROM stock WHERE sku = 'c'",
        ),
        start=2,
    ):
        bali.apply(_batch(amed, statement), sequence)
    bali.hear(Purge(4, {"amed": Own("e", 4)}), 5)
    bali.write("UPDATE tag SET n = 8 WHERE id = 9")  # the clash has ended
    (entry,) = bali.applier.waiting()
    bali.applier.retry(entry.id)
    assert bali.read("SELECT id FROM tag ORDER BY id") == [(1,), (9,)]
    assert bali.read("SELECT sku FROM stock ORDER BY sku") == [("a",), ("b",)]
