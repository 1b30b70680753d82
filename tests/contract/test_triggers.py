"""What the triggers capture, on every engine: each effective change of a row once, in order, with its version; nothing else."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError

from services.kernel.change import NEVER, Stamp
from services.kernel.dialects import dialect_for
from tests.contract.captured import OUTLET, Captured, replayed
from tests.stack.application import application_engine, takes

Make = Callable[..., Captured]

HOUR = 3_600_000_000


@pytest.fixture
def make(database_url: URL) -> Iterator[Make]:
    made: list[Captured] = []

    def making(*tables: str, **more: tuple[str, ...]) -> Captured:
        made.append(Captured(database_url, *tables, **more))
        return made[-1]

    yield making
    for captured in made:
        captured.close()


PRODUCT = "CREATE TABLE product (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40), price DECIMAL(10,2))"
SKU = "CREATE TABLE item (sku VARCHAR(20) NOT NULL PRIMARY KEY, amount INTEGER)"


def micros() -> int:
    return time.time_ns() // 1000


def test_insert_update_delete(make: Make) -> None:
    outlet = make(PRODUCT)
    started = micros()
    outlet.run("INSERT INTO product VALUES (1, 'tea', 1.50)")
    outlet.run("UPDATE product SET price = 2 WHERE id = 1")
    outlet.run("DELETE FROM product")
    first, second, third = outlet.seen()
    cheap: dict[str, object] = {"id": 1, "name": "tea", "price": "1.5"}
    dear = {**cheap, "price": "2"}
    assert [(c.op, c.before, c.after) for c in (first, second, third)] == [
        ("I", None, cheap),
        ("U", cheap, dear),
        ("D", dear, None),
    ]
    assert {c.key for c in (first, second, third)} == {"1"}
    assert [first.base, second.base, third.base] == [NEVER, first.stamp, second.stamp]
    assert started - 1_000_000 <= first.stamp.time < second.stamp.time < third.stamp.time <= micros() + 1_000_000
    assert outlet.version("product", "1") == (third.stamp, True, dear)


def test_an_insert_after_a_deletion_knows_the_deletion(make: Make) -> None:
    outlet = make(PRODUCT)
    outlet.run(
        "INSERT INTO product VALUES (1, 'tea', 1)", "DELETE FROM product", "INSERT INTO product VALUES (1, 'tea', 1)"
    )
    *_, deleted, inserted = outlet.seen()
    assert inserted.base == deleted.stamp
    assert inserted.before == deleted.before
    assert outlet.version("product", "1")[:2] == (inserted.stamp, False)
    outlet.run("UPDATE product SET price = 2")
    (updated,) = outlet.seen()
    assert outlet.version("product", "1") == (updated.stamp, False, None)


def test_an_update_that_changes_nothing_is_no_change(make: Make) -> None:
    outlet = make(PRODUCT)
    outlet.run("INSERT INTO product VALUES (1, 'tea', 1.5), (2, NULL, NULL)")
    outlet.seen()
    outlet.run("UPDATE product SET name = name, price = price", "UPDATE product SET price = 1.50 WHERE id = 1")
    assert outlet.seen() == []


@pytest.mark.parametrize(("old", "new"), [("abc", "ABC"), ("abc", "abc "), ("e", "é"), ("", None), ("a", "a\\")])
def test_texts_are_compared_as_bytes(make: Make, old: str, new: str | None) -> None:
    outlet = make(PRODUCT)
    outlet.execute("INSERT INTO product (id, name) VALUES (1, :name)", name=old)
    outlet.execute("UPDATE product SET name = :name", name=new)
    _, change = outlet.seen()
    assert change.before is not None and change.after is not None
    assert (change.op, change.before["name"], change.after["name"]) == ("U", old, new)


@pytest.mark.parametrize(("old", "new"), [("a", "b"), ("a", "A"), ("a", "a|\\")])
def test_a_changed_key_is_a_pair(make: Make, old: str, new: str) -> None:
    outlet = make(SKU)
    outlet.run(f"INSERT INTO item VALUES ('{old}', 7)")
    (inserted,) = outlet.seen()
    outlet.execute("UPDATE item SET sku = :new", new=new)
    deletion, insertion = outlet.seen()
    assert (deletion.op, deletion.paired, deletion.before) == ("D", True, {"sku": old, "amount": 7})
    assert (insertion.op, insertion.paired, insertion.after) == ("I", False, {"sku": new, "amount": 7})
    assert (deletion.base, insertion.base) == (inserted.stamp, NEVER)
    assert outlet.version("item", deletion.key) == (deletion.stamp, True, deletion.before)
    assert outlet.version("item", insertion.key) == (insertion.stamp, False, None)


def test_each_row_of_a_statement_is_a_change(make: Make) -> None:
    outlet = make(PRODUCT)
    outlet.run("INSERT INTO product VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)")
    outlet.run("UPDATE product SET price = price * 2 WHERE id <> 2")
    outlet.run("DELETE FROM product")
    assert [(c.op, c.key) for c in outlet.seen()][:5] == [("I", "1"), ("I", "2"), ("I", "3"), ("U", "1"), ("U", "3")]


def test_what_the_application_takes_back_was_never_there(make: Make) -> None:
    outlet = make(PRODUCT)
    with outlet.application.connect() as connection:
        connection.exec_driver_sql("INSERT INTO product VALUES (1, 'a', 1)")
        connection.rollback()
    assert outlet.seen() == []
    assert outlet.version("product", "1")[0] == NEVER


def test_the_applier_is_not_captured(make: Make) -> None:
    outlet = make(PRODUCT)
    outlet.run("INSERT INTO product VALUES (1, 'a', 1)")
    outlet.seen()
    with outlet.applier() as connection:
        connection.exec_driver_sql("INSERT INTO product VALUES (2, 'b', 2)")
        connection.exec_driver_sql("UPDATE product SET price = 9")
        connection.exec_driver_sql("UPDATE product SET id = 3 WHERE id = 2")
        connection.exec_driver_sql("DELETE FROM product WHERE id = 1")
    assert outlet.seen() == []
    assert set(outlet.rows("product")) == {"3"}
    outlet.run("UPDATE product SET price = 10")
    assert [c.op for c in outlet.seen()] == ["U"]


def test_a_stamp_beats_what_it_overwrites_whatever_the_clock_says(make: Make) -> None:
    outlet = make(PRODUCT)
    outlet.run("INSERT INTO product VALUES (1, 'a', 1)")
    ahead = Stamp(micros() + HOUR, "medan")
    outlet.set_version("product", "1", ahead)
    outlet.run("UPDATE product SET price = 2", "UPDATE product SET price = 3", "DELETE FROM product")
    _, *changes = outlet.seen()
    assert changes[0].base == ahead
    assert [c.stamp for c in changes] == [Stamp(ahead.time + n, OUTLET) for n in (1, 2, 3)]


def test_names_that_need_quoting(make: Make, database_url: URL, engine_name: str) -> None:
    name, key = "odd ' %s {{now}} :y", "a ' % :b {{table}}"
    if takes(application_engine(database_url), "SELECT 1 AS [a]]b]"):
        name, key = f"{name} [select]", f"{key} ]from["
    q = dialect_for(database_url).identifier
    outlet = make(f"CREATE TABLE {q(name)} ({q(key)} INTEGER NOT NULL PRIMARY KEY, c INTEGER)")
    outlet.run(f"INSERT INTO {q(name)} VALUES (1, 2)")
    (change,) = outlet.seen()
    assert (change.table, change.key, change.after) == (name, "1", {key: 1, "c": 2})


def test_installing_again_changes_nothing(make: Make) -> None:
    outlet = make(PRODUCT, SKU)
    with outlet.subak.connect() as connection:
        there = outlet.dialect.installed(connection)
        for table in outlet.catalogue.tables:
            for trigger in outlet.dialect.triggers(connection, table, outlet.catalogue, OUTLET):
                assert outlet.dialect.same(trigger, there.pop(trigger.name))
            for trigger in outlet.dialect.triggers(connection, table, outlet.catalogue, "medan"):
                assert trigger.name not in there
        assert there == {}


def test_a_trigger_for_another_outlet_or_table_is_not_the_same(make: Make) -> None:
    outlet = make(PRODUCT)
    with outlet.subak.connect() as connection:
        there = outlet.dialect.installed(connection)
        for trigger in outlet.dialect.triggers(connection, outlet.table("product"), outlet.catalogue, "medan"):
            assert outlet.dialect.same(trigger, there[trigger.name]) == (
                "replaced" in trigger.name or "before" in trigger.name
            )
    outlet.run("ALTER TABLE product ADD COLUMN colour VARCHAR(10)")
    catalogue = outlet.read_catalogue()
    with outlet.subak.connect() as connection:
        wanted = outlet.dialect.triggers(connection, catalogue.tables[0], catalogue, OUTLET)
        assert not any(outlet.dialect.same(trigger, there[trigger.name]) for trigger in wanted)


def test_random_statements_replayed_give_the_same_rows(make: Make) -> None:
    """Whatever the application says: who executes the changes one by one ends with the same rows, and each change knows its base."""
    outlet = make(
        "CREATE TABLE shelf (id INTEGER NOT NULL PRIMARY KEY, place VARCHAR(5) UNIQUE, a INTEGER, b INTEGER, UNIQUE (a, b))",
        and_then=("INSERT INTO shelf VALUES (1, 'p1', 1, 1), (2, 'p2', 1, 2), (3, NULL, NULL, 3)",),
    )
    seed = random.randrange(10**6)
    choose = random.Random(seed)
    flavour = outlet.dialect.name
    if flavour == "mssql" and not takes(outlet.application, MERGE.format(values="(1, 'p1', 1, 1)")):
        flavour = "tsql without merge"
    rows = outlet.rows("shelf")
    for _ in range(12):
        for _ in range(10):
            _attempt(outlet, random_statement(choose, flavour))
        changes = outlet.seen()
        rows = replayed(rows, changes)
        assert rows == outlet.rows("shelf"), f"seed {seed}"
        for key in {change.key for change in changes}:
            mine = [change for change in changes if change.key == key]
            assert all(later.base == earlier.stamp < later.stamp for earlier, later in pairwise(mine)), f"seed {seed}"
            stamp, deleted, last_image = outlet.version("shelf", key)
            assert (stamp, deleted, last_image) == (
                mine[-1].stamp,
                mine[-1].op == "D",
                None if mine[-1].op == "U" else mine[-1].before,
            )
            assert deleted == (key not in rows), f"seed {seed}"


MERGE = (
    "MERGE shelf AS t USING (VALUES {values}) AS s (id, place, a, b) ON t.id = s.id"
    " WHEN MATCHED THEN UPDATE SET b = t.b + 1 WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.place, s.a, s.b);"
)


def _attempt(outlet: Captured, statement: str) -> None:
    with suppress(IntegrityError):
        outlet.run(statement)


def random_statement(choose: random.Random, flavour: str) -> str:
    key, other = choose.randint(1, 6), choose.randint(1, 6)
    place = choose.choice([None, "p1", "p2", "P2", "p3"])
    values = f"({key}, {repr(place) if place else 'NULL'}, {choose.randint(1, 2)}, {choose.randint(1, 3)})"
    words = {
        "sqlite": ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "REPLACE"],
        "mysql": ["INSERT", "REPLACE", "INSERT IGNORE"],
    }.get(flavour, ["INSERT"])
    upsert = {
        "sqlite": f"INSERT INTO shelf VALUES {values} ON CONFLICT (id) DO UPDATE SET b = b + 1",
        "mysql": f"INSERT INTO shelf VALUES {values} ON DUPLICATE KEY UPDATE b = b + 1",
        "mssql": MERGE.format(values=values),
    }.get(flavour, "UPDATE shelf SET b = b + 1")
    updates = {
        "sqlite": ["UPDATE OR REPLACE", "UPDATE OR IGNORE", "UPDATE"],
        "mysql": ["UPDATE", "UPDATE IGNORE"],
    }
    update = choose.choice(updates.get(flavour, ["UPDATE"]))
    return choose.choice(
        [
            f"{choose.choice(words)} INTO shelf VALUES {values}",
            f"{choose.choice(words)} INTO shelf VALUES {values}",
            upsert,
            f"{update} shelf SET id = {other} WHERE id = {key}",
            f"{update} shelf SET b = {other % 3 + 1} WHERE id = {key}",
            f"{update} shelf SET place = 'p{other % 4}' WHERE id = {key}",
            f"{update} shelf SET a = 3 - a",
            f"DELETE FROM shelf WHERE id = {key}",
        ]
    )
