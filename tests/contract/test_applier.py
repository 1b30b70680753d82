"""The applier on real databases: once, whole, under locks, with its traces; what it refuses and when it takes it back."""

from __future__ import annotations

import threading

import pymysql
import pytest
import sqlalchemy as sa

from services.applier import applying
from services.applier.applying import PATIENCE
from services.kernel.change import NEVER, Batch, BatchId, Change, Op, Stamp, Transaction, decode_body
from services.kernel.errors import PermanentError, ProtocolError, TransientError
from services.kernel.schema import STATE
from tests.contract.outlets import Make, MakeOutlet, Outlet, Outlets, delivery_of

SCHEMA = (
    "CREATE TABLE product (sku VARCHAR(20) NOT NULL PRIMARY KEY, name VARCHAR(40), stock INTEGER,"
    " code VARCHAR(20) UNIQUE, CHECK (stock >= 0))",
    "CREATE TABLE sale (id VARCHAR(20) NOT NULL PRIMARY KEY, sku VARCHAR(20), n INTEGER,"
    " CONSTRAINT sale_product FOREIGN KEY (sku) REFERENCES product (sku))",
    "CREATE TABLE node (id INTEGER NOT NULL, parent INTEGER, PRIMARY KEY (id),"
    " CONSTRAINT node_parent FOREIGN KEY (parent) REFERENCES node (id))",
    "INSERT INTO product (sku, name, stock, code) VALUES ('a', 'Arak', 10, 'x'), ('b', 'Brem', 10, 'y')",
)
TICKET = {
    "sqlite": "CREATE TABLE ticket (id INTEGER PRIMARY KEY, what TEXT)",
    "mysql": "CREATE TABLE ticket (id INTEGER NOT NULL AUTO_INCREMENT PRIMARY KEY, what TEXT)",
    "mariadb": "CREATE TABLE ticket (id INTEGER NOT NULL AUTO_INCREMENT PRIMARY KEY, what TEXT)",
    "mssql": "CREATE TABLE ticket (id INTEGER NOT NULL IDENTITY(1, 1) PRIMARY KEY, what TEXT)",
}
PRODUCTS = "SELECT sku, name, stock, code FROM product"


@pytest.fixture
def outlet(make_outlet: MakeOutlet, engine_name: str) -> Make:
    return lambda name: make_outlet(name, (*SCHEMA, TICKET[engine_name]))


@pytest.fixture
def three(outlet: Make) -> Outlets:
    return Outlets(outlet("amed"), outlet("bali"), outlet("candi"))


def test_once(outlet: Make) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    amed.write("UPDATE product SET stock = stock - 3 WHERE sku = 'a'")
    batch = amed.take()
    assert batch is not None
    assert bali.apply(batch, 1).changes == 1
    bali.write("UPDATE product SET stock = 1 WHERE sku = 'a'")
    again = bali.applier.apply(delivery_of(batch, 1, 0), batch.body)
    assert again.duplicate
    assert bali.read("SELECT stock FROM product WHERE sku = 'a'") == [(1,)]


def test_a_hub_that_numbers_anew_changes_nothing(outlet: Make) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    amed.write("UPDATE product SET stock = 3 WHERE sku = 'a'")
    batch = amed.take()
    assert batch is not None
    bali.apply(batch, 1)
    assert bali.apply(batch, 7).duplicate
    assert bali.applier.position()[0] == 7


def test_a_gap_is_refused(outlet: Make) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    amed.write("UPDATE product SET stock = 3 WHERE sku = 'a'")
    batch = amed.take()
    assert batch is not None
    with pytest.raises(ProtocolError, match="gap"):
        bali.applier.apply(delivery_of(batch, 5, 4), batch.body)
    with pytest.raises(ProtocolError, match="digest"):
        bali.applier.apply(delivery_of(batch, 1, 0), batch.body + b"x")
    assert bali.read("SELECT stock FROM product WHERE sku = 'a'") == [(10,)]


def test_several_deliveries_share_a_transaction_or_none_of_them_counts(outlet: Make) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    batches = []
    for number in range(3):
        amed.write(
            f"INSERT INTO sale (id, sku, n) VALUES ('s{number}', 'a', {number})",
            f"UPDATE product SET stock = {number} WHERE sku = 'a'",
        )
        batches.append(amed.take())
    deliveries = [
        (delivery_of(batch, 5 + i, 4 + i if i else 0), batch.body) for i, batch in enumerate(batches) if batch
    ]
    with pytest.raises(ProtocolError, match="gap"):
        bali.applier.apply_together([deliveries[0], deliveries[2]])
    assert bali.read("SELECT COUNT(*) FROM sale") == [(0,)]
    bali.applier.apply(*deliveries[0])
    outcomes = bali.applier.apply_together(deliveries)
    assert [(outcome.duplicate, outcome.changes) for outcome in outcomes] == [(True, 0), (False, 2), (False, 2)]
    assert bali.read("SELECT id FROM sale ORDER BY id") == [("s0",), ("s1",), ("s2",)]
    assert bali.read("SELECT stock FROM product WHERE sku = 'a'") == [(2,)]
    assert bali.applier.position()[0] == 7
    image = '{"sku":"z","stock":-1}'
    poison = Change("product", Op.INSERT, "z", None, image, Stamp(2**41, "amed"), NEVER)
    bad, amed.sequence = amed.batch(Transaction("", (poison,))), 0
    with pytest.raises(PermanentError):
        bali.applier.apply_together([(delivery_of(bad, 8, 7), bad.body)])
    assert bali.applier.position()[0] == 7
    assert bali.applier.apply(delivery_of(bad, 8, 7), bad.body).quarantined[0].code == "check"


def test_what_ends_before_the_commit_leaves_neither_rows_nor_ledger(
    outlet: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill there would: what the ledger says was done is done in the same transaction."""
    amed, bali = outlet("amed"), outlet("bali")
    amed.write("UPDATE product SET stock = 3 WHERE sku = 'a'")
    batch = amed.take()
    assert batch is not None

    def die(point: str) -> None:
        if point == "applier.before_commit":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(applying, "reach", die)
        bali.apply(batch, 1)
    assert bali.applier.position() == (0, b"")
    assert bali.read("SELECT stock FROM product WHERE sku = 'a'") == [(10,)]
    assert bali.apply(batch, 1).changes == 1
    assert bali.applier.position()[0] == 1
    assert bali.read("SELECT stock FROM product WHERE sku = 'a'") == [(3,)]


def test_nothing_applied_is_captured(three: Outlets) -> None:
    amed, bali, _ = three.outlets
    amed.write("UPDATE product SET stock = 3 WHERE sku = 'a'", "INSERT INTO product (sku) VALUES ('c')")
    three.spread()
    assert bali.read("SELECT COUNT(*) FROM CloudQuery") == [(0,)]
    bali.write("UPDATE product SET stock = 4 WHERE sku = 'a'")
    assert bali.read("SELECT COUNT(*) FROM CloudQuery") == [(1,)]
    three.spread()
    assert ("a", "Arak", 4, "x") in three.same(PRODUCTS)


def test_the_later_of_two_wins_and_leaves_a_trace(three: Outlets) -> None:
    amed, bali, candi = three.outlets
    amed.write("UPDATE product SET name = 'early' WHERE sku = 'a'")
    bali.write("UPDATE product SET name = 'late' WHERE sku = 'a'")
    three.spread()
    assert ("a", "late", 10, "x") in three.same(PRODUCTS)
    (trace,) = candi.read("SELECT RowKey, Rule, Winner, LocalOrigin, IncomingOrigin FROM subak_conflict")
    assert trace == ("a", "row", "incoming", "amed", "bali")
    assert bali.read("SELECT Winner FROM subak_conflict") == [("local",)]


def test_poison_is_put_aside_and_the_rest_flows(three: Outlets) -> None:
    amed, bali, _ = three.outlets
    key = Stamp(2**41, "amed")

    def sale(number: int) -> Transaction:
        image = f'{{"id":"s{number}","sku":"a","n":{number}}}'
        return Transaction("", (Change("sale", Op.INSERT, f"s{number}", None, image, key, NEVER),))

    poison = Change("product", Op.INSERT, "z", None, '{"sku":"z","stock":-1}', key, NEVER)
    missing = Change("nowhere", Op.INSERT, "z", None, '{"sku":"z"}', key, NEVER)
    wrong = Change("product", Op.INSERT, "y", None, '{"sku":"y","colour":"red"}', key, NEVER)
    good = sale(2).changes[0]
    transactions = [
        sale(1),
        *(Transaction("", (good, bad)) for bad in (poison, missing, wrong)),
        sale(3),
    ]
    outcome = bali.apply(amed.batch(*transactions), 1)
    assert [(report.position, report.code) for report in outcome.quarantined] == [
        (1, "check"),
        (2, "missing_table"),
        (3, "missing_column"),
    ]
    assert bali.read("SELECT id FROM sale ORDER BY id") == [("s1",), ("s3",)]
    waiting = bali.applier.waiting()
    assert [entry.state for entry in waiting] == ["waiting"] * 3
    with pytest.raises(PermanentError, match="nowhere"):
        bali.applier.retry(waiting[1].id)
    assert bali.applier.waiting()[1].attempts == 2
    bali.write("CREATE TABLE nowhere (sku VARCHAR(20) NOT NULL PRIMARY KEY)")
    bali.applier.refresh()
    bali.applier.retry(waiting[1].id)
    assert bali.read("SELECT id FROM sale ORDER BY id") == [("s1",), ("s2",), ("s3",)]
    bali.applier.discard(waiting[0].id)
    assert [entry.id for entry in bali.applier.waiting()] == [waiting[2].id]
    assert bali.applier.totals()[1] == 1


REFUSING = {
    "sqlite": "CREATE TRIGGER rule AFTER INSERT ON sale WHEN NEW.n = 2 OR NEW.n = 4 BEGIN SELECT RAISE(ABORT, 'not two'); END",
    "mysql": "CREATE TRIGGER rule AFTER INSERT ON sale FOR EACH ROW BEGIN"
    " IF NEW.n IN (2, 4) THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not two'; END IF; END",
    "mssql": "CREATE TRIGGER rule_ ON sale AFTER INSERT AS"
    " IF EXISTS (SELECT 1 FROM inserted WHERE n IN (2, 4)) THROW 50001, 'not two', 1",
}
"""A rule of the application's. On SQL Server an error in a trigger ends the transaction."""


def test_a_trigger_that_refuses_a_row_stops_nothing(outlet: Make) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    bali.write(REFUSING[bali.dialect.name])
    sales = []
    for number in range(1, 6):
        amed.write(f"INSERT INTO sale (id, sku, n) VALUES ('s{number}', 'a', {number})")
        taken = amed.take()
        assert taken is not None
        sales += decode_body(taken.body)
    outcome = bali.apply(amed.batch(*sales), 1)
    assert [report.position for report in outcome.quarantined] == [1, 3]
    assert all("not two" in report.reason for report in outcome.quarantined)
    assert bali.read("SELECT id FROM sale ORDER BY id") == [("s1",), ("s3",), ("s5",)]
    assert len(bali.applier.waiting()) == 2


@pytest.mark.parametrize("engine_name", ["mssql"])
def test_a_transaction_that_ended_on_the_way_is_not_committed_in_part(outlet: Make) -> None:
    """As a trigger of the application does that hides its ROLLBACK: what comes after it is a transaction of its own."""
    amed = outlet("amed")
    insert = "INSERT INTO dbo.sale (id, n) VALUES ('{}', 1)"
    with pytest.raises(TransientError, match="ended"), amed.engine.begin() as connection:
        connection.exec_driver_sql(insert.format("before"))
        connection.exec_driver_sql("ROLLBACK TRANSACTION; BEGIN TRANSACTION")
        connection.exec_driver_sql(insert.format("after"))
    assert amed.read("SELECT id FROM sale") == []
    with amed.engine.begin() as connection:
        connection.exec_driver_sql(insert.format("again"))
    assert amed.read("SELECT id FROM sale") == [("again",)]


def test_one_bad_row_of_many_is_told(outlet: Make) -> None:
    """A driver that is given many rows at once must not keep to itself that one of them was refused."""
    amed = outlet("amed")
    rows = [{"Name": name, "Value": "v"} for name in ("one", "two", "one", "three")]
    with pytest.raises(sa.exc.IntegrityError), amed.engine.begin() as connection:
        connection.execute(sa.insert(STATE), rows)
    with amed.engine.begin() as connection:
        assert connection.scalar(sa.select(sa.func.count()).where(STATE.c.Name == "three")) == 0


def test_what_nobody_can_apply_stops_nothing(outlet: Make) -> None:
    amed, bali = outlet("amed"), outlet("bali")

    def insert(sku: str, image: str, stamp: Stamp) -> Transaction:
        return Transaction("", (Change("product", Op.INSERT, sku, None, image, stamp, NEVER),))

    key = Stamp(2**41, "amed")
    outcome = bali.apply(
        amed.batch(
            insert("p", '{"sku":"p"}', key),
            insert("q", '{"sku":"q"}', Stamp(2**41, "candi")),  # speaks for another
            insert("r", '{"sku":"r","stock":' + "9" * 30 + "}", key),  # no column holds it
            insert("s", "[1]", key),
            insert("t", '{"stock":1}', key),
            insert("u", '{"sku":null}', key),
            insert("w", '{"sku":{"nested":1}}', key),
            Transaction("", (Change("product", Op.UPDATE, "x", None, None, key, NEVER),)),
            Transaction("", (Change("ticket", Op.INSERT, "9" * 30, None, '{"id":' + "9" * 30 + "}", key, NEVER),)),
            insert("y", '{"sku":"y","code":"z"}', key),
        ),
        1,
    )
    codes = {report.position: report.code for report in outcome.quarantined}
    assert codes.pop(1) == "origin"
    assert set(codes) == {2, 3, 4, 5, 6, 7, 8}
    assert {sku for (sku,) in bali.read("SELECT sku FROM product")} == {"a", "b", "p", "y"}
    impossible = amed.batch(insert("v", '{"sku":"v"}', Stamp(2**64 - 1, "amed")))
    garbage = Batch(BatchId("amed", "e", 3), amed.previous, b"\xc1garbage", 1, 1)
    for sequence, batch in enumerate((impossible, garbage), start=2):
        assert [report.code for report in bali.apply(batch, sequence).quarantined] == ["unreadable"]
    for entry in bali.applier.waiting():
        with pytest.raises(PermanentError):
            bali.applier.retry(entry.id)
    assert len(bali.applier.waiting()) == 10


def test_two_keys_with_one_unique_value(three: Outlets) -> None:
    amed, bali, candi = three.outlets
    amed.write("INSERT INTO product (sku, code) VALUES ('p', 'same')")
    bali.write("INSERT INTO product (sku, code) VALUES ('q', 'same')")
    three.spread()
    assert [entry.code for entry in amed.applier.waiting()] == ["unique"]
    assert [entry.code for entry in bali.applier.waiting()] == ["unique"]
    assert amed.read("SELECT sku FROM product WHERE code = 'same'") == [("p",)]
    assert bali.read("SELECT sku FROM product WHERE code = 'same'") == [("q",)]
    # Whoever changes one of the two heals all: the newer image supersedes the quarantined one.
    amed.write("UPDATE product SET code = 'other' WHERE sku = 'p'")
    three.spread()
    for outlet in (amed, bali, candi):
        for entry in outlet.applier.waiting():
            outlet.applier.retry(entry.id)
    assert {("p", "other"), ("q", "same")} <= set(three.same("SELECT sku, code FROM product"))


def test_two_rows_under_one_generated_key(three: Outlets) -> None:
    amed, bali, _ = three.outlets
    amed.write("INSERT INTO ticket (what) VALUES ('amed')")
    bali.write("INSERT INTO ticket (what) VALUES ('bali')")
    three.spread()
    amed.write("UPDATE ticket SET what = 'amed again'")
    bali.write("UPDATE ticket SET what = 'bali again'")
    three.spread()
    assert amed.read("SELECT what FROM ticket") == [("amed again",)]
    assert bali.read("SELECT what FROM ticket") == [("bali again",)]
    for outlet in (amed, bali):
        assert [entry.code for entry in outlet.applier.waiting()] == ["generated_key"] * 2


def test_a_child_puts_its_deleted_parent_back(three: Outlets) -> None:
    amed, bali, _ = three.outlets
    amed.write("UPDATE product SET name = 'Arak 🥃 漢' WHERE sku = 'a'")
    three.spread()
    amed.write("DELETE FROM product WHERE sku = 'a'")
    bali.write("INSERT INTO sale (id, sku, n) VALUES ('s', 'a', 1)")
    three.spread()
    assert ("a", "Arak 🥃 漢", 10, "x") in three.same(PRODUCTS)
    assert three.same("SELECT id, sku, n FROM sale") == [("s", "a", 1)]
    assert not any(outlet.applier.waiting() for outlet in three.outlets)


def test_update_against_delete_and_reinsert(three: Outlets) -> None:
    amed, bali, candi = three.outlets
    amed.write("DELETE FROM product WHERE sku = 'b'")
    bali.write("UPDATE product SET stock = 7 WHERE sku = 'b'")
    three.spread()
    assert ("b", "Brem", 7, "y") in three.same(PRODUCTS)
    candi.write("DELETE FROM product WHERE sku = 'b'", "INSERT INTO product (sku, stock) VALUES ('b', 1)")
    for stock in (5, 8, 9):  # three, for the latest stamp even where the clock has only milliseconds
        amed.write(f"UPDATE product SET stock = {stock} WHERE sku = 'b'")
    three.spread()
    assert [row[2] for row in three.same(PRODUCTS) if row[0] == "b"] == [9]


def test_an_older_change_that_comes_late_does_not_bring_a_deleted_row_back(outlet: Make) -> None:
    """The version of the deleted row stays, and says when it was deleted."""
    amed, bali, candi = outlet("amed"), outlet("bali"), outlet("candi")
    amed.write("UPDATE product SET stock = 7 WHERE sku = 'b'")
    older = amed.take()
    for stock in (1, 2):  # for the latest stamp even where the clock has only milliseconds
        bali.write(f"UPDATE product SET stock = {stock} WHERE sku = 'b'")
    bali.write("DELETE FROM product WHERE sku = 'b'")
    deletion = bali.take()
    assert older is not None and deletion is not None
    candi.apply(deletion, 1)
    assert candi.apply(older, 2).conflicts == 1
    assert candi.read("SELECT sku FROM product") == [("a",)]


def test_a_tree_is_deleted_leaves_first(three: Outlets) -> None:
    amed, bali, _ = three.outlets
    amed.write("INSERT INTO node (id, parent) VALUES (2, NULL), (3, 2), (4, 3), (1, 4)")
    three.spread()
    bali.write(*(f"DELETE FROM node WHERE id = {number}" for number in (1, 4, 3, 2)))
    three.spread()
    assert three.same("SELECT id FROM node") == []
    assert not any(outlet.applier.waiting() for outlet in three.outlets)


def test_a_swap_of_two_unique_values(three: Outlets) -> None:
    amed, bali, _ = three.outlets
    amed.write("UPDATE product SET code = 'y' WHERE sku = 'b'")
    three.spread()
    bali.write(
        "UPDATE product SET code = NULL WHERE sku = 'a'",
        "UPDATE product SET code = 'x' WHERE sku = 'b'",
        "UPDATE product SET code = 'y' WHERE sku = 'a'",
    )
    three.spread()
    assert set(three.same("SELECT sku, code FROM product")) == {("a", "y"), ("b", "x")}


def test_half_of_a_changed_key_makes_no_pair_with_another_tables_row(outlet: Make) -> None:
    """As older captures sent it, when another session's row came between the two halves."""
    amed, bali = outlet("amed"), outlet("bali")
    bali.write("INSERT INTO node (id, parent) VALUES (1, NULL)")

    def change(table: str, op: Op, key: str, image: str, paired: bool = False) -> Change:
        before, after = (image, None) if op is Op.DELETE else (None, image)
        return Change(table, op, key, before, after, Stamp(2**52, "amed"), NEVER, paired)

    interleaved = Transaction(
        "",
        (
            change("node", Op.DELETE, "1", '{"id":1,"parent":null}', paired=True),
            change("sale", Op.INSERT, "s", '{"id":"s","sku":"a","n":1}'),
            change("node", Op.INSERT, "2", '{"id":2,"parent":null}'),
        ),
    )
    assert bali.apply(amed.batch(interleaved), 1).quarantined == []
    assert bali.read("SELECT id FROM sale") == [("s",)]
    assert bali.read("SELECT id FROM node") == [(2,)]


def test_a_changed_key_is_an_update_of_the_key(three: Outlets) -> None:
    amed, bali, _ = three.outlets
    bali.write("INSERT INTO sale (id, sku, n) VALUES ('s', 'b', 1)")
    three.spread()
    amed.write(
        "UPDATE product SET sku = 'aa' WHERE sku = 'a'"
    )  # its unique code goes along: not an insert and a delete
    three.spread()
    assert {row[0] for row in three.same(PRODUCTS)} == {"aa", "b"}
    assert not any(outlet.applier.waiting() for outlet in three.outlets)


MYSQL = pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
ISOLATION = pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])


def _session(outlet: Outlet, isolation: str) -> pymysql.Connection:
    url = outlet.url
    session = pymysql.connect(
        host=url.host, port=url.port or 3306, user=url.username, password=url.password or "", database=url.database
    )
    with session.cursor() as cursor:
        cursor.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
    return session


@MYSQL
@ISOLATION
def test_a_local_write_racing_the_applier_on_a_row_without_version(outlet: Make, isolation: str) -> None:
    """Whoever is first, the other sees it: the local write that comes after the applied one beats it, and is based on it."""
    amed, bali = outlet("amed"), outlet("bali")
    amed.write("UPDATE product SET stock = 3 WHERE sku = 'a'")
    batch = amed.take()
    assert batch is not None
    with _session(bali, isolation) as session, session.cursor() as cursor:
        cursor.execute(
            "SELECT stock FROM product WHERE sku = 'b'"
        )  # the snapshot is older than what the applier commits
        session.commit() if isolation == "SERIALIZABLE" else None
        bali.apply(batch, 1)
        cursor.execute("UPDATE product SET stock = stock + 100 WHERE sku = 'a'")
        session.commit()
    (found,) = bali.read("SELECT Stamp, BaseStamp, BaseOrigin FROM CloudQuery")
    (theirs,) = amed.read("SELECT Stamp FROM CloudQuery")
    assert found[0] > theirs[0] == found[1] and found[2] == "amed"
    assert bali.read("SELECT stock FROM product WHERE sku = 'a'") == [(103,)]


@MYSQL
@ISOLATION
def test_nobody_waits_for_the_applier_and_it_waits_for_nobody(outlet: Make, isolation: str) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    amed.write("UPDATE product SET stock = 3 WHERE sku = 'a'", "INSERT INTO sale (id, sku, n) VALUES ('s', 'b', 1)")
    batch = amed.take()
    assert batch is not None
    for held in (
        "UPDATE product SET stock = 5 WHERE sku = 'a'",  # the row itself
        "UPDATE product SET stock = 5 WHERE sku = 'b'",  # the parent of the row to be inserted
        "INSERT INTO sale (id, sku, n) VALUES ('s', 'a', 2)",  # the row to be inserted
    ):
        with _session(bali, isolation) as session, session.cursor() as cursor:
            cursor.execute(held)
            with pytest.raises(TransientError) as caught:
                bali.apply(batch, 1)
            assert caught.value.code == "lock_timeout"
            cursor.execute("UPDATE product SET name = 'mine' WHERE sku IN ('a', 'b')")  # nothing is held against it
            session.rollback()
    assert bali.apply(batch, 1).changes == 2


@MYSQL
@pytest.mark.parametrize("known", [False, True], ids=["without a version", "with a version"])
def test_a_local_write_just_before_the_row_is_locked_waits_for_nothing_and_is_seen(outlet: Make, known: bool) -> None:
    """First the data row, then its version under that lock: the order an application's write takes."""
    amed, bali = outlet("amed"), outlet("bali")
    if known:
        bali.write("UPDATE product SET stock = 2 WHERE sku = 'a'")
    amed.write("UPDATE product SET stock = 3 WHERE sku = 'a'")
    batch = amed.take()
    assert batch is not None
    wrote: list[str] = []
    with _session(bali, "READ COMMITTED") as session, session.cursor() as cursor:
        cursor.execute("SET innodb_lock_wait_timeout = 2")

        @sa.event.listens_for(bali.engine, "before_cursor_execute")
        def write(_c: object, _cu: object, statement: str, _values: object, _context: object, _many: bool) -> None:
            if not wrote and "FOR UPDATE" in statement and "product AS r" in statement:
                wrote.append(statement)
                cursor.execute("UPDATE product SET stock = 77 WHERE sku = 'a'")
                session.commit()

        assert bali.apply(batch, 1).conflicts == 1
    assert wrote
    assert bali.read("SELECT stock FROM product WHERE sku = 'a'") == [(77,)]


@pytest.mark.parametrize("engine_name", ["mysql"])
def test_after_enough_attempts_locks_are_waited_for(outlet: Make) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    amed.write("UPDATE product SET stock = 3 WHERE sku = 'a'")
    batch = amed.take()
    assert batch is not None
    with _session(bali, "READ COMMITTED") as session, session.cursor() as cursor:
        cursor.execute("UPDATE product SET stock = 5 WHERE sku = 'a'")
        done = threading.Thread(target=bali.apply, args=(batch, 1, PATIENCE + 1))
        done.start()
        waiting = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        while pymysql_scalar(bali, waiting) == 0 and done.is_alive():
            pass
        session.rollback()
        done.join(10)
    assert bali.read("SELECT stock FROM product WHERE sku = 'a'") == [(3,)]


def pymysql_scalar(outlet: Outlet, query: str) -> object:
    try:
        with outlet.application.begin() as connection:
            return connection.scalar(sa.text(query))
    except sa.exc.OperationalError:
        return 1  # no right to look: the other thread is waited for instead
