"""Rows that go, on real databases: many of them at once, and what refers to them."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from services.kernel.change import NEVER, Change, Op, Stamp, Transaction
from services.kernel.control import Policy
from tests.contract.outlets import Make, MakeOutlet, Outlet

SCHEMA = (
    "CREATE TABLE product (sku VARCHAR(20) NOT NULL PRIMARY KEY, stock INTEGER NOT NULL, CHECK (stock >= 0))",
    "CREATE TABLE sale (id VARCHAR(20) NOT NULL PRIMARY KEY, sku VARCHAR(20),"
    " CONSTRAINT sale_product FOREIGN KEY (sku) REFERENCES product (sku))",
)
FEW, MANY = 10, 200
"""Rows; both fewer than are asked for in one statement."""


@pytest.fixture
def outlet(make_outlet: MakeOutlet) -> Make:
    return lambda name: make_outlet(name, SCHEMA)


def queries_of(outlet: Outlet) -> list[str]:
    """Those that its applier asks from now on."""
    asked: list[str] = []

    @sa.event.listens_for(outlet.engine, "before_cursor_execute")
    def note(_c: object, _cu: object, statement: str, _values: object, _context: object, _many: bool) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            asked.append(statement)

    return asked


def clear_out(origin: Outlet, target: Outlet, count: int) -> list[str]:
    """So many products are inserted at the origin, and deleted; what the target asks then for those that go."""
    rows = ", ".join(f"('p{number}', 1)" for number in range(count))
    origin.write(f"INSERT INTO product (sku, stock) VALUES {rows}")
    inserted = origin.take()
    origin.write("DELETE FROM product")
    deleted = origin.take()
    assert inserted is not None and deleted is not None
    target.apply(inserted, target.sequence + 1)
    asked = queries_of(target)
    assert target.apply(deleted, target.sequence + 1).changes == count
    assert target.read("SELECT COUNT(*) FROM product") == [(0,)]
    return asked


def test_many_rows_that_go_are_read_together(outlet: Make) -> None:
    """Not each by itself: a shop that clears a table out would keep its outlets busy for minutes."""
    amed, bali = outlet("amed"), outlet("bali")
    few = len(clear_out(amed, bali, FEW))
    assert len(clear_out(amed, bali, MANY)) == few


@pytest.mark.parametrize("rule", ['rule = "column"', 'delta = ["stock"]'])
def test_a_row_that_goes_is_read_once_where_there_are_rules(outlet: Make, rule: str) -> None:
    amed, bali = outlet("amed"), outlet("bali")
    bali.hear(Policy(1, f"[tables.product]\n{rule}"), 1)
    image = bali.dialect.image_sql(bali.catalogue.table("product"), "r")
    images = [query for query in clear_out(amed, bali, MANY) if image in query.replace("%%", "%")]
    assert len(images) == 1


def test_a_row_that_had_no_children_may_have_got_some_by_an_earlier_transaction(outlet: Make) -> None:
    """Of one batch, one transaction after the other, because the first cannot be applied."""
    amed, bali = outlet("amed"), outlet("bali")
    bali.write("INSERT INTO product (sku, stock) VALUES ('b', 1)")
    times = iter(range(2**52, 2**53))

    def stamp() -> Stamp:
        return Stamp(next(times), "amed")

    def product(op: Op, sku: str, stock: int) -> Change:
        image = f'{{"sku":"{sku}","stock":{stock}}}'
        before, after = (image, None) if op is Op.DELETE else (None, image)
        return Change("product", op, sku, before, after, stamp(), NEVER)

    sale = Change("sale", Op.INSERT, "s", None, '{"id":"s","sku":"b"}', stamp(), NEVER)
    outcome = bali.apply(
        amed.batch(
            Transaction("", (product(Op.INSERT, "z", -1),)),
            Transaction("", (product(Op.DELETE, "b", 1),)),
            Transaction("", (product(Op.INSERT, "b", 2), sale)),
            Transaction("", (product(Op.DELETE, "b", 2),)),  # an outlet without that foreign key may say so
        ),
        1,
    )
    assert [report.position for report in outcome.quarantined] == [0]
    assert bali.read("SELECT sku, stock FROM product") == [("b", 2)]
    assert bali.read("SELECT id, sku FROM sale") == [("s", "b")]
