"""What an application may well write, and no other outlet can take: it is shown, and everything else goes on."""

from __future__ import annotations

import pytest

from services.applier.recording import Outcome
from services.kernel.catalogue import Column, Kind
from services.kernel.errors import PermanentError
from services.kernel.values import canonical
from tests.conftest import FreshDatabase
from tests.contract.capture_outlet import Outlet as Captured
from tests.contract.outlets import Outlet, Outlets

THING = "CREATE TABLE thing (id INTEGER NOT NULL PRIMARY KEY, v {type})"


def test_a_text_that_is_not_utf_8_leaves_its_outlet_as_the_bytes_it_is(fresh_database: FreshDatabase) -> None:
    outlet = Captured(fresh_database("sqlite"), THING.format(type="TEXT"))
    try:
        outlet.install()
        outlet.execute("INSERT INTO thing VALUES (1, CAST(x'66ff6f' AS TEXT))", "INSERT INTO thing VALUES (2, 'padi')")
        outlet.cutter().poll()
        ((transaction,),) = outlet.batches()
        assert [change.after for change in transaction.changes] == [
            '{"id":1,"v":{"blob":"66FF6F"}}',
            '{"id":2,"v":"padi"}',
        ]
    finally:
        outlet.close()


@pytest.mark.parametrize(
    ("kind", "value", "held"),
    [
        ("JSON", "[" * 100_000 + "]" * 100_000, 1),
        ("DECIMAL_TEXT(10,2)", "1e999999999999999999", 0),  # a column that holds anything takes it as it is
    ],
)
def test_what_cannot_be_read_is_held_or_carried_as_it_is_and_the_rest_flows(
    fresh_database: FreshDatabase, kind: str, value: str, held: int
) -> None:
    outlets = Outlets(*(Outlet(name, fresh_database("sqlite", name), [THING.format(type=kind)]) for name in ("a", "b")))
    a, b = outlets.outlets
    try:
        outcomes: dict[str, list[Outcome]] = {"b": []}
        a.write(f"INSERT INTO thing VALUES (1, '{value}')")
        outlets.spread_from(a, outcomes)
        a.write("INSERT INTO thing VALUES (2, '2')")
        outlets.spread_from(a, outcomes)
        assert [len(outcome.quarantined) for outcome in outcomes["b"]] == [held, 0]
        rows = [(number, str(found)) for number, found in b.read("SELECT id, v FROM thing ORDER BY id")]
        assert rows == ([] if held else [(1, value)]) + [(2, "2")]
    finally:
        for outlet in outlets.outlets:
            outlet.close()


def test_a_decimal_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(PermanentError, match="digits"):
        canonical(Column("c", Kind.DECIMAL), "1e999999999")


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_a_table_may_be_called_by_a_word_of_the_trigger(fresh_database: FreshDatabase, engine_name: str) -> None:
    outlet = Captured(fresh_database(engine_name), "CREATE TABLE BEGINNING_STOCK (id INT NOT NULL PRIMARY KEY, v INT)")
    try:
        assert len(outlet.install().installed) == 3
        assert not outlet.install().changed
    finally:
        outlet.close()
