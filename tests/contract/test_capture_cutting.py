"""Batches cut from real databases: late commits, interleaved transactions, large ones, crashes, a second capture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from services.capture import storing, triggers
from services.capture.cutting import MAX_ROWS
from services.kernel.change import Op
from services.kernel.dialects import Purpose
from services.kernel.errors import PermanentError
from tests.contract.capture_outlet import Outlet, in_thread, until
from tests.stack.servers import Servers

PRODUCT = "CREATE TABLE product (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL, stock INTEGER NOT NULL)"
SALE = (
    "CREATE TABLE sale (id INTEGER NOT NULL PRIMARY KEY, product_id INTEGER NOT NULL,"
    " CONSTRAINT sale_product FOREIGN KEY (product_id) REFERENCES product (id))"
)

SERVERS = pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
"""SQLite has one writer at a time: there nothing is interleaved, nothing waits, and there is no connection to break."""


@pytest.fixture
def outlet(database_url: URL) -> Iterator[Outlet]:
    outlet = Outlet(database_url, PRODUCT, SALE)
    report = outlet.install()
    assert not report.refusals and report.installed
    yield outlet
    outlet.close()


def product(number: int) -> str:
    return f"INSERT INTO product VALUES ({number}, 'teh {number}', 10)"


def test_a_change_is_cut_once(outlet: Outlet) -> None:
    cutter = outlet.cutter()
    assert cutter.poll() == 0
    outlet.execute(product(1))
    assert cutter.poll() == 1
    assert cutter.poll() == 0
    assert outlet.row_keys() == [[["1"]]]
    outlet.execute("UPDATE product SET stock = 9 WHERE id = 1", "DELETE FROM product WHERE id = 1")
    assert cutter.poll() == 2
    assert [[change.op.value for change in one.changes] for one in outlet.batches()[1]] == [["U", "D"]]


def test_batches_are_chained_over_restarts(outlet: Outlet) -> None:
    for number in range(1, 4):
        outlet.execute(product(number))
        assert outlet.cutter().poll() == 1
    assert outlet.row_keys() == [[["1"]], [["2"]], [["3"]]]


def two_transactions_of_one_session(outlet: Outlet) -> list[list[list[str]]]:
    cutter = outlet.cutter()
    with outlet.application.connect() as connection:
        for number in (1, 3):
            connection.execute(text(product(number)))
            connection.execute(text(product(number + 1)))
            connection.commit()
    assert cutter.poll() == 4
    return outlet.row_keys()


@pytest.mark.parametrize("engine_name", ["sqlite", "mariadb"])
def test_where_transactions_have_no_names_what_a_session_did_between_two_polls_is_one(outlet: Outlet) -> None:
    assert two_transactions_of_one_session(outlet) == [[["1", "2", "3", "4"]]]


@pytest.mark.parametrize("engine_name", ["mysql"])
def test_where_the_server_names_transactions_they_stay_apart(outlet: Outlet) -> None:
    assert two_transactions_of_one_session(outlet) == [[["1", "2"], ["3", "4"]]]


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_statements_outside_of_a_transaction_stay_apart(outlet: Outlet) -> None:
    cutter = outlet.cutter()
    with outlet.application.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(product(1)))
        connection.execute(text(product(2)))
        connection.execute(text("UPDATE product SET stock = 9"))
    assert cutter.poll() == 4
    assert outlet.row_keys() == [[["1"], ["2"], ["1", "2"]]]


@pytest.mark.parametrize("engine_name", ["mysql"])
def test_a_user_who_may_not_read_the_names_gets_triggers_without_them(
    outlet: Outlet, servers: Servers, engine_name: str
) -> None:
    user = f"clerk_{outlet.url.database}"[:32]
    engine = outlet.dialect.engine(outlet.url.set(username=user, password="secret"), Purpose.WRITE)
    with servers.server(engine_name).administrator() as administrator:  # type: ignore[attr-defined]
        administrator.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'secret'")
        administrator.execute(f"GRANT ALL ON {outlet.url.database}.* TO '{user}'@'%'")
        try:
            report = triggers.install(engine, outlet.dialect, ("*",), outlet.name)
            assert report.rebuilt and not report.installed
            assert not triggers.install(engine, outlet.dialect, ("*",), outlet.name).changed
            assert two_transactions_of_one_session(outlet) == [[["1", "2", "3", "4"]]]
        finally:
            engine.dispose()
            administrator.execute(f"DROP USER '{user}'@'%'")


@SERVERS
def test_a_smaller_id_that_becomes_visible_later_is_not_missed(outlet: Outlet) -> None:
    cutter = outlet.cutter()
    with outlet.application.connect() as late:
        late.execute(text(product(1)))
        outlet.execute(product(2))
        assert cutter.poll() == 1
        late.execute(text(product(3)))
        outlet.execute(product(4))
        assert cutter.poll() == 1
        late.commit()
    assert cutter.poll() == 2
    assert outlet.row_keys() == [[["2"]], [["4"]], [["1", "3"]]]


@SERVERS
def test_a_smaller_id_that_becomes_visible_while_a_batch_is_cut_is_not_taken_with_it(
    outlet: Outlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutter, cut = outlet.cutter(), storing.cut
    with outlet.application.connect() as late:
        late.execute(text(product(1)))
        outlet.execute(product(2))

        def cut_late(*arguments: Any) -> Any:
            late.commit()
            return cut(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(storing, "cut", cut_late)
            assert cutter.poll() == 1
    assert cutter.poll() == 1
    assert outlet.row_keys() == [[["2"]], [["1"]]]


def test_a_transaction_that_is_rolled_back_is_never_seen(outlet: Outlet) -> None:
    cutter = outlet.cutter()
    with outlet.application.connect() as connection:
        connection.execute(text(product(1)))
        connection.rollback()
    outlet.execute(product(2))
    assert cutter.poll() == 1
    assert outlet.row_keys() == [[["2"]]]


@SERVERS
def test_interleaved_transactions_on_the_same_rows_come_in_the_order_of_their_commits(outlet: Outlet) -> None:
    outlet.execute(product(1), product(2))
    cutter = outlet.cutter()
    cutter.poll()
    with outlet.application.connect() as one, outlet.application.connect() as two:
        two.execute(text("UPDATE product SET stock = 1 WHERE id = 2"))  # two's first id is the smallest
        one.execute(text("UPDATE product SET stock = 1 WHERE id = 1"))

        def wait_for_one() -> None:
            two.execute(text("UPDATE product SET stock = 2 WHERE id = 1"))  # waits for one's lock
            two.commit()

        thread = in_thread(wait_for_one)
        one.execute(text(product(3)))
        one.commit()
        thread.join()
    cutter.poll()
    images = [
        change.after for batch in outlet.batches()[1:] for one in batch for change in one.changes if change.key == "1"
    ]
    assert ['"stock":1' in (image or "").replace(" ", "") for image in images] == [True, False]


@SERVERS
def test_a_child_never_comes_before_its_parent(outlet: Outlet) -> None:
    cutter = outlet.cutter()
    with outlet.application.connect() as parent, outlet.application.connect() as child:
        child.execute(text(product(7)))  # child's first id is the smallest of all
        parent.execute(text(product(1)))

        def sell() -> None:
            child.execute(text("INSERT INTO sale VALUES (1, 1)"))  # waits for the parent's row
            child.commit()

        thread = in_thread(sell)
        parent.execute(text(product(2)))
        parent.commit()
        thread.join()
    cutter.poll()
    flat = [(change.table, change.key) for batch in outlet.batches() for one in batch for change in one.changes]
    assert flat.index(("product", "1")) < flat.index(("sale", "1"))
    assert len(flat) == 4


def test_fifty_thousand_rows_of_one_transaction_are_one_transaction(outlet: Outlet) -> None:
    cutter = outlet.cutter()
    outlet.execute(product(1))
    cutter.poll()
    with outlet.application.begin() as connection:
        for start in range(2, 50_002, 1_000):
            rows = ", ".join(f"({number}, 'kopi', 0)" for number in range(start, start + 1_000))
            connection.execute(text(f"INSERT INTO product VALUES {rows}"))
    assert cutter.poll() == 50_000
    _, large = outlet.batches()
    assert [len(one.changes) for one in large] == [50_000]


@SERVERS
def test_many_small_transactions_of_many_sessions_make_batches_of_a_size(outlet: Outlet) -> None:
    cutter = outlet.cutter()
    transactions = 25
    for number in range(transactions):  # each in a session of its own, one after the other
        rows = ", ".join(f"({number * 100 + row}, 'kopi', 0)" for row in range(100))
        outlet.execute(f"INSERT INTO product VALUES {rows}")
        outlet.application.dispose()
    assert cutter.poll() == transactions * 100
    assert [len(batch) for batch in outlet.batches()] == [MAX_ROWS // 100, MAX_ROWS // 100, 5]


def test_large_images_do_not_add_up(outlet: Outlet) -> None:
    outlet.execute("CREATE TABLE photo (id INTEGER NOT NULL PRIMARY KEY, picture LONGTEXT)")
    outlet.install()
    cutter = outlet.cutter()
    for number in range(6):
        with outlet.application.begin() as connection:
            connection.execute(
                text("INSERT INTO photo VALUES (:id, :picture)"), {"id": number, "picture": "x" * 700_000}
            )
        outlet.application.dispose()
    assert cutter.poll() == 6
    assert [key for batch in outlet.row_keys() for one in batch for key in one] == [str(number) for number in range(6)]
    if not outlet.is_sqlite:
        assert [len(batch) for batch in outlet.batches()] == [1] * 6


def test_a_crash_before_the_commit_of_a_cut_leaves_nothing_and_the_next_start_cuts_it(
    outlet: Outlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutter = outlet.cutter()
    outlet.execute(product(1))
    with monkeypatch.context() as patched:
        patched.setattr("services.capture.polling.reach", _die_at("capture.before_cut_commit"))
        with pytest.raises(_DiedError):
            cutter.poll()
    assert outlet.batches() == [] and outlet.waiting() == 1
    assert cutter.poll() == 1 and outlet.cutter().poll() == 0
    assert outlet.row_keys() == [[["1"]]]


def test_what_was_cut_stays_as_it_is_whatever_becomes_visible_later(
    outlet: Outlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutter = outlet.cutter()
    outlet.execute(product(1))
    with monkeypatch.context() as patched:
        patched.setattr("services.capture.polling.reach", _die_at("capture.after_cut_commit"))
        with pytest.raises(_DiedError):
            cutter.poll()
    with outlet.reading() as connection:
        (header,) = storing.headers(connection, "0123456789abcdef", 0)
        body = storing.part(connection, "0123456789abcdef", 1, 0)
    outlet.execute(product(2))
    assert outlet.cutter().poll() == 1
    with outlet.reading() as connection:
        first, second = storing.headers(connection, "0123456789abcdef", 0)
        assert first == header and second.previous == header.digest
        assert storing.part(connection, "0123456789abcdef", 1, 0) == body


def test_marks_exactly_the_rows_of_the_batches_that_were_stored(outlet: Outlet) -> None:
    cutter = outlet.cutter()
    for number in range(1, 4):
        outlet.execute(product(number))
        cutter.poll()
    outlet.execute(product(4))
    epoch = "0123456789abcdef"
    with outlet.reading() as connection:
        assert storing.unmarked(connection, [1, 2]) == {("product", Op.INSERT): 2}
        oldest = storing.oldest_unmarked(connection, 0)
    outlet.mark_stored(epoch, 1, 2)
    assert outlet.flags() == {(1, 1): 1, (2, 1): 1, (3, 0): 1, (None, 0): 1}
    with outlet.reading() as connection:
        assert storing.last_stored(connection, epoch) == 2
        assert storing.unmarked(connection, [1, 2]) == {}
        later = storing.oldest_unmarked(connection, 2)
        assert oldest is not None and later is not None and oldest < later
    outlet.mark_stored(epoch, 3)
    with outlet.reading() as connection:
        last = storing.oldest_unmarked(connection, 3)
        assert last is not None and last > later, "what is in no batch yet waits too"
    cutter.poll()
    outlet.mark_stored(epoch, 4)
    with outlet.reading() as connection:
        assert storing.oldest_unmarked(connection, 4) is None


def test_a_second_capture_is_fenced_off(outlet: Outlet) -> None:
    one, two = outlet.cutter(), outlet.cutter()
    outlet.execute(product(1))
    assert one.poll() == 1
    outlet.execute(product(2))
    with pytest.raises(PermanentError) as raised:
        two.poll()
    assert raised.value.code == "another_capture" and "another capture" in raised.value.what
    assert one.poll() == 1
    assert outlet.row_keys() == [[["1"]], [["2"]]]


@SERVERS
def test_cutting_neither_waits_for_the_application_nor_makes_it_wait(
    outlet: Outlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The open transaction's row lies between and after those that are cut; while the cut is open, others insert."""
    cutter = outlet.cutter()
    inserted: list[int] = []

    def insert_meanwhile(point: str) -> None:
        if point == "capture.before_cut_commit":
            with outlet.application.begin() as connection:
                connection.execute(text("SET innodb_lock_wait_timeout = 1"))
                connection.execute(text(product(100)))
                connection.execute(text("UPDATE product SET stock = 8 WHERE id = 1"))
            inserted.append(100)

    with outlet.application.connect() as open_one:
        for number in range(1, 4):
            outlet.execute(product(number))
        open_one.execute(text(product(50)))
        for number in range(4, 7):
            outlet.execute(product(number))
        open_one.execute(text(product(51)))
        with monkeypatch.context() as patched:
            patched.setattr("services.capture.polling.reach", insert_meanwhile)
            assert cutter.poll() == 6
        assert inserted == [100]
        open_one.commit()
    assert cutter.poll() == 4


@SERVERS
def test_marking_does_not_make_the_application_wait(outlet: Outlet) -> None:
    cutter = outlet.cutter()
    for number in range(1, 4):
        outlet.execute(product(number))
        cutter.poll()
    outlet.execute(product(4))
    with outlet.database.transaction() as connection:
        storing.mark_stored(connection, "0123456789abcdef", [1, 3], 0)
        outlet.execute("SET innodb_lock_wait_timeout = 1", product(100), "UPDATE product SET stock = 8 WHERE id = 1")
    assert cutter.poll() == 3


@SERVERS
def test_the_database_away_and_back(outlet: Outlet) -> None:
    """A broken connection is transient, and the cutter goes on after it with the number it finds."""
    cutter = outlet.cutter()
    outlet.execute(product(1))
    cutter.poll()
    with outlet.application.connect() as connection:
        mine = connection.scalar(text("SELECT CONNECTION_ID()"))
        for (other,) in connection.execute(text("SELECT ID FROM information_schema.PROCESSLIST")).all():
            if other != mine:
                connection.execute(text(f"KILL {int(other)}"))
    outlet.execute(product(2))

    def polled() -> bool:
        try:
            return cutter.poll() == 1
        except Exception as error:
            assert getattr(error, "code", None) == "connection", error
            return False

    until(polled, "the cutter works again")
    assert outlet.row_keys() == [[["1"]], [["2"]]]


class _DiedError(Exception):
    pass


def _die_at(point: str) -> object:
    def reach(name: str) -> None:
        if name == point:
            raise _DiedError

    return reach
