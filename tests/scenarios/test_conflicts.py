"""The fixed cases of conflict, on real databases: each outlet acts while apart from the others, then they meet."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import text

from tests.stack.application import application_engine
from tests.stack.audit import audit, quarantined
from tests.stack.network import Network, wait_for

A, B, C = "ubud", "kuta", "lovina"
TICK = 0.01
"""Between two writes of which one shall be the later by the clock as well."""


def _write(network: Network, outlet: str, *statements: str) -> None:
    network.outlets[outlet].execute(*statements)
    time.sleep(TICK)


def _met(network: Network, start: int, *, quarantine: bool = False) -> None:
    """All outlets hold the same rows; with `quarantine`, but for what is listed there of this test's rows."""
    network.settle()
    found = audit(network.urls, except_quarantined=True)
    assert found.identical, str(found)
    if not quarantine:
        mine = [difference for difference in found.excluded if start <= difference.key[0] < start + 10]
        assert mine == [], str(mine[0])


def _values(network: Network, sql: str) -> list[object]:
    """What the query gives at each outlet."""
    values = []
    for outlet in network.outlets.values():
        with outlet.reader.begin() as connection:
            values.append(connection.scalar(text(sql)))
    return values


def _everywhere(network: Network, sql: str, value: object) -> None:
    assert _values(network, sql) == [value] * len(network.outlets)


def _conflicts(network: Network, key: int) -> int:
    query = "SELECT COUNT(*) FROM subak_conflict WHERE RowKey = :key"
    return sum(outlet.count(query, key=str(key)) for outlet in network.outlets.values())


def test_update_against_update(network: Network, start: int) -> None:
    _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'new')")
    with network.apart():
        _write(network, B, f"UPDATE member SET name = 'earlier' WHERE id = {start}")
        _write(network, C, f"UPDATE member SET name = 'later' WHERE id = {start}")
    _met(network, start)
    _everywhere(network, f"SELECT name FROM member WHERE id = {start}", "later")
    assert _conflicts(network, start) > 0


@pytest.mark.parametrize("first", ["update", "delete"])
def test_update_against_delete(network: Network, start: int, first: str) -> None:
    _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'new')")
    update = (B, f"UPDATE member SET name = 'kept' WHERE id = {start}")
    delete = (C, f"DELETE FROM member WHERE id = {start}")
    with network.apart():
        for outlet, statement in (update, delete) if first == "update" else (delete, update):
            _write(network, outlet, statement)
    _met(network, start)
    _everywhere(network, f"SELECT COUNT(*) FROM member WHERE id = {start}", 0 if first == "update" else 1)
    if first == "delete":
        _everywhere(network, f"SELECT name FROM member WHERE id = {start}", "kept")


def test_delete_against_delete(network: Network, start: int) -> None:
    _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'new')")
    with network.apart():
        for outlet in (A, B, C):
            _write(network, outlet, f"DELETE FROM member WHERE id = {start}")
    _met(network, start)
    _everywhere(network, f"SELECT COUNT(*) FROM member WHERE id = {start}", 0)


@pytest.mark.parametrize("together", [True, False])
def test_delete_and_insert_again_against_update(network: Network, start: int, together: bool) -> None:
    _write(network, A, f"INSERT INTO member (id, name, points) VALUES ({start}, 'new', 1)")
    again = [
        f"DELETE FROM member WHERE id = {start}",
        f"INSERT INTO member (id, name, points) VALUES ({start}, 'again', 2)",
    ]
    with network.apart():
        _write(network, B, f"UPDATE member SET points = 5 WHERE id = {start}")
        for statements in [again] if together else [[statement] for statement in again]:
            _write(network, C, *statements)
    _met(network, start)
    _everywhere(network, f"SELECT name FROM member WHERE id = {start}", "again")


@pytest.mark.parametrize("first", ["child", "delete"])
def test_delete_of_a_parent_against_insert_of_a_child(network: Network, start: int, first: str) -> None:
    """A row that others refer to wins over its deletion, whichever came first."""
    _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'parent')")
    child = (B, f"INSERT INTO visit (id, member_id) VALUES ({start}, {start})")
    delete = (C, f"DELETE FROM member WHERE id = {start}")
    with network.apart():
        for outlet, statement in (child, delete) if first == "child" else (delete, child):
            _write(network, outlet, statement)
    _met(network, start)
    _everywhere(network, f"SELECT name FROM member WHERE id = {start}", "parent")
    _everywhere(network, f"SELECT COUNT(*) FROM visit WHERE id = {start}", 1)


def test_delete_of_a_family_against_a_new_child(network: Network, start: int) -> None:
    _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'parent')")
    _write(network, A, f"INSERT INTO visit (id, member_id) VALUES ({start}, {start})")
    with network.apart():
        _write(network, B, f"INSERT INTO visit (id, member_id) VALUES ({start + 1}, {start})")
        _write(network, C, f"DELETE FROM visit WHERE id = {start}", f"DELETE FROM member WHERE id = {start}")
    _met(network, start)
    _everywhere(network, f"SELECT COUNT(*) FROM visit WHERE id = {start + 1}", 1)


def test_child_moved_to_a_parent_that_is_deleted_elsewhere(network: Network, start: int) -> None:
    for n in (0, 1):
        _write(network, A, f"INSERT INTO member (id, name) VALUES ({start + n}, 'parent')")
    _write(network, A, f"INSERT INTO visit (id, member_id) VALUES ({start}, {start})")
    with network.apart():
        _write(network, B, f"UPDATE visit SET member_id = {start + 1} WHERE id = {start}")
        _write(network, C, f"DELETE FROM member WHERE id = {start + 1}")
    _met(network, start)
    _everywhere(network, f"SELECT member_id FROM visit WHERE id = {start}", start + 1)


def test_swap_of_two_unique_values(network: Network, start: int) -> None:
    one, two = f"one{start}@x.id", f"two{start}@x.id"
    _write(
        network,
        A,
        f"INSERT INTO member (id, email, name) VALUES ({start}, '{one}', 'a')",
        f"INSERT INTO member (id, email, name) VALUES ({start + 1}, '{two}', 'b')",
    )
    network.settle()
    _write(
        network,
        B,
        f"UPDATE member SET email = NULL WHERE id = {start}",
        f"UPDATE member SET email = '{one}' WHERE id = {start + 1}",
        f"UPDATE member SET email = '{two}' WHERE id = {start}",
    )
    _met(network, start)
    _everywhere(network, f"SELECT email FROM member WHERE id = {start}", two)
    _everywhere(network, f"SELECT email FROM member WHERE id = {start + 1}", one)


def test_unique_value_handed_over_by_a_delete(network: Network, start: int) -> None:
    email = f"mail{start}@x.id"
    _write(network, A, f"INSERT INTO member (id, email, name) VALUES ({start}, '{email}', 'a')")
    network.settle()
    _write(
        network,
        B,
        f"DELETE FROM member WHERE id = {start}",
        f"INSERT INTO member (id, email, name) VALUES ({start + 1}, '{email}', 'b')",
    )
    _met(network, start)
    _everywhere(network, f"SELECT email FROM member WHERE id = {start + 1}", email)


def test_one_unique_value_taken_twice_is_kept_and_shown_at_each(network: Network, start: int) -> None:
    email = f"both{start}@x.id"
    with network.apart():
        _write(network, A, f"INSERT INTO member (id, email, name) VALUES ({start}, '{email}', 'at a')")
        _write(network, B, f"INSERT INTO member (id, email, name) VALUES ({start + 1}, '{email}', 'at b')")
    _met(network, start, quarantine=True)
    for outlet, mine, other in ((A, start, start + 1), (B, start + 1, start)):
        assert network.outlets[outlet].count(f"SELECT id FROM member WHERE email = '{email}'") == mine
        assert ("member", str(other)) in quarantined(network.urls[outlet])


def test_one_natural_key_inserted_twice_is_one_row(network: Network, start: int) -> None:
    with network.apart():
        _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'first')")
        _write(network, B, f"INSERT INTO member (id, name) VALUES ({start}, 'second')")
    _met(network, start)
    _everywhere(network, f"SELECT name FROM member WHERE id = {start}", "second")


def test_one_generated_key_given_twice_is_two_rows_and_shown(network: Network, start: int) -> None:
    with network.apart():
        _write(network, A, f"INSERT INTO ticket (id, body) VALUES ({start}, 'of a')")
        _write(network, B, f"INSERT INTO ticket (id, body) VALUES ({start}, 'of b')")
    _met(network, start, quarantine=True)
    kept = _values(network, f"SELECT body FROM ticket WHERE id = {start}")
    assert kept[:2] == ["of a", "of b"], "last-write-wins has thrown away a row"
    for outlet in (A, B):
        assert ("ticket", str(start)) in quarantined(network.urls[outlet])


def test_generator_does_not_run_into_applied_rows(network: Network, start: int) -> None:
    """A key that came from elsewhere does not make the outlet's own next generated key collide with it."""
    big = start * 1000
    _write(network, A, f"INSERT INTO ticket (id, body) VALUES ({big}, 'explicit')")
    network.settle()
    for outlet in (A, B, C):
        _write(network, outlet, "INSERT INTO ticket (body) VALUES ('generated')")
        network.settle()
    _met(network, start, quarantine=True)


def test_key_change_against_update(network: Network, start: int) -> None:
    _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'new')")
    with network.apart():
        _write(network, B, f"UPDATE member SET id = {start + 1} WHERE id = {start}")
        _write(network, C, f"UPDATE member SET name = 'changed' WHERE id = {start}")
    _met(network, start)
    _everywhere(network, f"SELECT COUNT(*) FROM member WHERE id = {start + 1}", 1)


def test_key_changed_to_two_different_keys(network: Network, start: int) -> None:
    _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'new')")
    with network.apart():
        _write(network, B, f"UPDATE member SET id = {start + 1} WHERE id = {start}")
        _write(network, C, f"UPDATE member SET id = {start + 2} WHERE id = {start}")
    _met(network, start)


def test_a_tree_is_built_moved_and_deleted(network: Network, start: int) -> None:
    """Self-reference: parents before children on the way in, children before parents on the way out."""
    nodes = [(start, "NULL"), (start + 1, start), (start + 2, start + 1), (start + 3, start + 2)]
    _write(network, A, *(f"INSERT INTO node (id, parent_id, title) VALUES ({n}, {p}, 't')" for n, p in nodes))
    network.settle()
    _write(
        network,
        B,
        f"UPDATE node SET parent_id = NULL WHERE id = {start + 1}",
        f"UPDATE node SET parent_id = {start + 3} WHERE id = {start}",
        f"UPDATE node SET title = 'moved' WHERE id = {start + 2}",
    )
    _met(network, start)
    _write(
        network,
        C,
        f"DELETE FROM node WHERE id = {start}",
        *(f"DELETE FROM node WHERE id = {start + n}" for n in (3, 2, 1)),
    )
    _met(network, start)
    _everywhere(network, f"SELECT COUNT(*) FROM node WHERE id BETWEEN {start} AND {start + 9}", 0)


def test_two_outlets_hang_nodes_below_each_other(network: Network, start: int) -> None:
    for n in (0, 1):
        _write(network, A, f"INSERT INTO node (id, parent_id, title) VALUES ({start + n}, NULL, 't')")
    with network.apart():
        _write(network, B, f"UPDATE node SET parent_id = {start + 1} WHERE id = {start}")
        _write(network, C, f"UPDATE node SET parent_id = {start} WHERE id = {start + 1}")
    _met(network, start)


@pytest.mark.parametrize("offset", [-90, 90])
def test_a_change_made_after_seeing_another_wins_with_a_wrong_clock(network: Network, start: int, offset: int) -> None:
    outlet = network.outlets[B]
    if outlet.engine_name in ("sqlite", "mssql"):
        pytest.skip("the clock is the machine's")
    _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'seen')")
    network.settle()
    with outlet.application.begin() as connection:
        connection.exec_driver_sql(f"SET SESSION timestamp = UNIX_TIMESTAMP() + {offset}")
        connection.exec_driver_sql(f"UPDATE member SET name = 'answer' WHERE id = {start}")
        connection.exec_driver_sql("SET SESSION timestamp = DEFAULT")
    _met(network, start)
    _everywhere(network, f"SELECT name FROM member WHERE id = {start}", "answer")
    _write(network, C, f"UPDATE member SET name = 'last word' WHERE id = {start}")
    _met(network, start)
    _everywhere(network, f"SELECT name FROM member WHERE id = {start}", "last word")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_older_than_what_the_applier_committed(network: Network, start: int, isolation: str) -> None:
    outlet = network.outlets[B]
    if outlet.engine_name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    if outlet.engine_name == "mssql" and isolation != "READ COMMITTED":
        pytest.skip("SQL Server's other levels lock what they read, or end the application's transaction (3960)")
    _write(network, A, f"INSERT INTO member (id, name) VALUES ({start}, 'first')")
    network.settle()
    engine = application_engine(outlet.url, isolation=isolation)
    with engine.connect() as connection, connection.begin():
        # The snapshot is taken by a read of another table, so that a serializable session does not lock the row.
        connection.exec_driver_sql("SELECT COUNT(*) FROM team")
        _write(network, A, f"UPDATE member SET name = 'applied meanwhile' WHERE id = {start}")
        arrived = f"SELECT COUNT(*) FROM member WHERE id = {start} AND name = 'applied meanwhile'"
        wait_for("the change", lambda: outlet.count(arrived) == 1, 20)
        connection.exec_driver_sql(f"UPDATE member SET name = 'over it' WHERE id = {start}")
    engine.dispose()
    _met(network, start)
    _everywhere(network, f"SELECT name FROM member WHERE id = {start}", "over it")
