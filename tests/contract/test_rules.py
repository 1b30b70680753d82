"""Rules other than `row` on real databases: sums that every change adds to, and columns that each keep their latest change.

Thousands of interleavings run in tests/unit/test_simulation.py; here triggers, images and locks are real.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from services.applier import rules
from services.kernel.control import Policy
from services.kernel.schema import CONFLICT
from tests.conftest import FreshDatabase
from tests.contract.outlets import MakeOutlet, Outlet, Outlets

NAMES = ("amed", "bali", "candi")
SCHEMA = (
    "CREATE TABLE stock (sku VARCHAR(20) NOT NULL PRIMARY KEY, on_hand INTEGER NOT NULL, value DECIMAL(12,2) NOT NULL,"
    " shelf VARCHAR(20), note VARCHAR(20))",
    "CREATE TABLE held (sku VARCHAR(20) NOT NULL PRIMARY KEY, on_hand INTEGER NOT NULL, CHECK (on_hand >= 0))",
    "CREATE TABLE loose (sku VARCHAR(20) NOT NULL PRIMARY KEY, on_hand INTEGER)",
    "INSERT INTO stock VALUES ('a', 10, 1.50, 's1', 'n1'), ('b', 10, 0, NULL, NULL)",
    "INSERT INTO held VALUES ('a', 5)",
)
DELTA = '[tables.stock]\ndelta = ["on_hand", "value"]\n[tables.held]\ndelta = ["on_hand"]\n'
COLUMN = DELTA.replace("[tables.held]", 'rule = "column"\n[tables.held]')
STOCK = "SELECT sku, on_hand, value, shelf, note FROM stock"
MIXED = ("sqlite", "mariadb", "mysql")

Make = Callable[[str], Outlets]


@pytest.fixture
def make(make_outlet: MakeOutlet) -> Make:
    def make_outlets(text: str) -> Outlets:
        outlets = [make_outlet(name, SCHEMA) for name in NAMES]
        for outlet in outlets:
            give(outlet, text, 1)
        return Outlets(*outlets)

    return make_outlets


def give(outlet: Outlet, text: str, generation: int) -> None:
    with outlet.engine.begin() as connection:
        rules.take_up(connection, Policy(generation, text), 0)
    outlet.applier.refresh()


def test_two_outlets_sell_from_one_stock_and_both_sales_count(make: Make) -> None:
    three = make(DELTA)
    amed, bali, _ = three.outlets
    amed.write("UPDATE stock SET on_hand = on_hand - 3, value = value - 0.25 WHERE sku = 'a'")
    bali.write(
        "UPDATE stock SET on_hand = on_hand - 4, value = value + 1 WHERE sku = 'a'",
        "UPDATE stock SET on_hand = 11 WHERE sku = 'b'",
    )
    three.spread()
    assert [(row[0], row[1], Decimal(str(row[2]))) for row in three.same(STOCK)] == [
        ("a", 3, Decimal("2.25")),
        ("b", 11, Decimal(0)),
    ]


def test_different_columns_of_one_row_both_stay_and_of_the_same_the_later_one(make: Make) -> None:
    three = make(COLUMN)
    amed, bali, candi = three.outlets
    amed.write("UPDATE stock SET shelf = 's2' WHERE sku = 'a'")
    bali.write("UPDATE stock SET note = 'n2', on_hand = on_hand + 1 WHERE sku = 'a'")
    candi.write("UPDATE stock SET shelf = 's3' WHERE sku = 'a'")
    three.spread()
    assert three.same(STOCK)[0][3:] == ("s3", "n2")
    found = []
    for outlet in three.outlets:
        with outlet.engine.begin() as connection:
            found += connection.execute(sa.select(CONFLICT.c.Rule, CONFLICT.c.Winner)).all()
    assert {row.Rule for row in found} == {"column"}
    assert "both" in {row.Winner for row in found}


def test_both_insert_one_row(make: Make) -> None:
    """Neither knew the other: both contribute."""
    three = make(DELTA)
    amed, bali, _ = three.outlets
    amed.write("INSERT INTO stock VALUES ('c', 5, 0, 'amed', NULL)")
    bali.write("INSERT INTO stock VALUES ('c', 7, 0, 'bali', NULL)")
    three.spread()
    assert [row[1:] for row in three.same(STOCK) if row[0] == "c"] == [(12, 0, "bali", None)]


def test_a_sale_of_a_row_that_is_deleted_counts_when_it_comes_again(make: Make) -> None:
    three = make(DELTA)
    amed, bali, candi = three.outlets
    bali.write("UPDATE stock SET on_hand = on_hand - 4 WHERE sku = 'a'")
    amed.write("DELETE FROM stock WHERE sku = 'a'")
    three.spread()
    assert [row[0] for row in three.same(STOCK)] == ["b"]
    candi.write("INSERT INTO stock VALUES ('a', 100, 0, NULL, NULL)")
    three.spread()
    assert three.same(STOCK)[0][1] == 100
    amed.write("DELETE FROM stock WHERE sku = 'a'")
    bali.write("UPDATE stock SET on_hand = on_hand - 1 WHERE sku = 'a'")
    amed.write("INSERT INTO stock VALUES ('a', 50, 0, NULL, NULL)")
    three.spread()
    assert three.same(STOCK)[0][1] == 49


def test_below_a_check_it_waits_and_counts_when_there_is_enough(make: Make) -> None:
    three = make(DELTA)
    amed, bali, candi = three.outlets
    amed.write("UPDATE held SET on_hand = on_hand - 4")
    bali.write("UPDATE held SET on_hand = on_hand - 3")
    outcomes = three.spread()
    assert {report.code for outcome in outcomes["candi"] for report in outcome.quarantined} == {"check"}
    candi.write("UPDATE held SET on_hand = on_hand + 10")
    three.spread()
    for outlet in three.outlets:
        for entry in outlet.applier.waiting():
            outlet.applier.retry(entry.id)
    assert three.same("SELECT on_hand FROM held") == [(8,)]


def test_below_the_files_minimum_it_waits(make: Make) -> None:
    three = make(DELTA.replace("[tables.held]", "minimum = { on_hand = 0 }\n[tables.held]"))
    amed, bali, _ = three.outlets
    amed.write("UPDATE stock SET on_hand = 1 WHERE sku = 'a'")
    bali.write("UPDATE stock SET on_hand = 2 WHERE sku = 'a'")
    outcomes = three.spread()
    assert {report.code for outcome in outcomes["candi"] for report in outcome.quarantined} == {"minimum"}
    assert min(row[1] for outlet in three.outlets for row in outlet.read(STOCK)) >= 0


def test_rules_that_do_not_fit_hold_the_table_and_no_other(make: Make) -> None:
    three = make(DELTA + '[tables.loose]\ndelta = ["on_hand"]\n')
    amed, bali, _ = three.outlets
    amed.write("INSERT INTO loose VALUES ('a', 1)")
    (outcome,) = three.spread()["bali"]
    assert [(report.code, "NOT NULL" in report.reason) for report in outcome.quarantined] == [("policy", True)]
    amed.write("UPDATE stock SET on_hand = 3 WHERE sku = 'a'")
    three.spread()
    assert three.same(STOCK)[0][1] == 3
    give(bali, DELTA, 2)
    (entry,) = bali.applier.waiting()
    bali.applier.retry(entry.id)
    assert bali.read("SELECT * FROM loose") == [("a", 1)]


@pytest.mark.parametrize("rule", ["row", "column"])
def test_whatever_is_written_all_agree_and_every_sum_is_right(make: Make, rule: str) -> None:
    _any_writes(make(COLUMN if rule == "column" else DELTA))


def test_outlets_on_different_engines_agree(fresh_database: FreshDatabase) -> None:
    outlets = [Outlet(name, fresh_database(engine, name), SCHEMA) for name, engine in zip(NAMES, MIXED, strict=True)]
    try:
        for outlet in outlets:
            give(outlet, COLUMN, 1)
        _any_writes(Outlets(*outlets))
    finally:
        for outlet in outlets:
            outlet.close()


def _any_writes(three: Outlets) -> None:
    seed = random.randrange(10**6)
    choose = random.Random(seed)
    # What there is to begin with has no version: written once, everybody knows the same of it.
    three.outlets[0].write("UPDATE stock SET note = 'begun'")
    three.spread()
    committed: dict[str, int] = {"a": 10, "b": 10, "c": 0}
    for _ in range(12):
        for outlet in three.outlets:
            for _ in range(choose.randrange(4)):
                _attempt(outlet, choose, committed)
        for outlet in choose.sample(three.outlets, len(three.outlets)):
            if choose.random() < 0.6:
                three.spread_from(outlet)
    three.spread()
    found = {row[0]: row[1] for row in three.same(STOCK)}
    assert found == {sku: committed[sku] for sku in found}, f"seed {seed}"


def _attempt(outlet: Outlet, choose: random.Random, committed: dict[str, int]) -> None:
    sku, amount, text = choose.choice("abc"), choose.randrange(-5, 6), str(choose.randrange(100))
    insert = f"INSERT INTO stock VALUES ('{sku}', {amount}, 0, '{text}', NULL)"
    statement = choose.choice(
        [
            f"UPDATE stock SET on_hand = on_hand + {amount} WHERE sku = '{sku}'",
            f"UPDATE stock SET on_hand = on_hand + {amount}, shelf = '{text}' WHERE sku = '{sku}'",
            f"UPDATE stock SET shelf = '{text}' WHERE sku = '{sku}'",
            f"UPDATE stock SET note = '{text}' WHERE sku = '{sku}'",
            f"DELETE FROM stock WHERE sku = '{sku}'",
            insert,
        ]
    )
    there = bool(outlet.read(f"SELECT 1 FROM stock WHERE sku = '{sku}'"))
    buried = 0
    if statement == insert and not there:
        with outlet.engine.begin() as connection:
            image = connection.scalar(_tombstone(outlet, sku))
        buried = json.loads(image)["on_hand"] if image else 0
    try:
        outlet.write(statement)
    except DBAPIError:
        return  # the row is there already
    if statement == insert:
        committed[sku] += amount - int(buried)
    elif "on_hand +" in statement and there:
        committed[sku] += amount


def _tombstone(outlet: Outlet, sku: str) -> sa.Select[tuple[str]]:
    version = sa.table(
        "subak_version",
        *(sa.column(name) for name in ("TableName", "RowId", "Deleted", "LastImage")),
        schema=outlet.dialect.schema,
    )
    name = outlet.catalogue.table("stock")
    assert name is not None
    return sa.select(version.c.LastImage).where(
        version.c.TableName == name.name, version.c.RowId == outlet.dialect.row_id(sku), version.c.Deleted == 1
    )
