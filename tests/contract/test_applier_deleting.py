"""Rows that go, on real databases: many of them at once, and what refers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from services.kernel.change import NEVER, Change, Op, Stamp, Transaction
from tests.conftest import FreshDatabase
from tests.contract.outlets import Outlet

SCHEMA = (
    "CREATE TABLE product (sku VARCHAR(20) NOT NULL PRIMARY KEY, stock INTEGER, CHECK (stock >= 0))",
    "CREATE TABLE sale (id VARCHAR(20) NOT NULL PRIMARY KEY, sku VARCHAR(20),"
    " CONSTRAINT sale_product FOREIGN KEY (sku) REFERENCES product (sku))",
)
FEW, MANY = 10, 200
"""Rows; both fewer than are asked for in one statement."""

Make = Callable[[str], Outlet]


@pytest.fixture
def outlet(fresh_database: FreshDatabase, engine_name: str) -> Iterator[Make]:
    made: list[Outlet] = []

    def make(name: str) -> Outlet:
        made.append(Outlet(name, fresh_database(engine_name, name), SCHEMA))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_many_rows_that_go_are_read_together(outlet: Make) -> None:
    """Not each by itself: a shop that clears a table out would keep its outlets busy for minutes."""
    amed, bali = outlet("amed"), outlet("bali")
    asked: list[str] = []

    @sa.event.listens_for(bali.engine, "before_cursor_execute")
    def note(_c: object, _cu: object, statement: str, _values: object, _context: object, _many: bool) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            asked.append(statement)

    queries = {}
    for sequence, count in enumerate((FEW, MANY)):
        rows = ", ".join(f"('p{number}', 1)" for number in range(count))
        amed.write(f"INSERT INTO product (sku, stock) VALUES {rows}")
        inserted = amed.take()
        amed.write("DELETE FROM product")
        deleted = amed.take()
        assert inserted is not None and deleted is not None
        bali.apply(inserted, 2 * sequence + 1)
        asked.clear()
        assert bali.apply(deleted, 2 * sequence + 2).changes == count
        queries[count] = len(asked)
        assert bali.read("SELECT COUNT(*) FROM product") == [(0,)]
    assert queries[MANY] == queries[FEW]


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
