"""The test tools themselves: the writer writes something of every kind, the auditor sees what differs."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from tests.conftest import FreshDatabase
from tests.stack.application import application_engine
from tests.stack.audit import audit
from tests.stack.schemas import SHOP, load, shop_rows
from tests.stack.workload import Writer


def _execute(url: URL, sql: str) -> None:
    engine = application_engine(url)
    with engine.begin() as connection:
        connection.execute(text(sql))
    engine.dispose()


def test_writer_does_something_of_every_kind(database_url: URL) -> None:
    load(database_url, SHOP, shop_rows())
    writer = Writer(database_url, 1, seed=7)
    writer.run(150)
    writer.close()
    kinds = {"insert", "update", "delete", "re-insert", "key change", "rolled back", "transactions"}
    if database_url.get_backend_name() == "mssql":
        kinds.remove("key change")  # an IDENTITY is never changed there
    for kind in kinds:
        assert writer.counts[kind] > 0, writer.counts


@pytest.mark.parametrize("other", ["mariadb", "mysql"])
def test_auditor_finds_two_engines_equal_and_then_each_difference(fresh_database: FreshDatabase, other: str) -> None:
    urls = {"ubud": fresh_database("sqlite"), "kuta": fresh_database(other)}
    for url in urls.values():
        load(url, SHOP, shop_rows())
    same = audit(urls)
    assert same.identical, str(same)
    assert same.counts == {"category": 8, "customer": 15, "product": 30, "sale": 20, "sale_line": 40}

    _execute(urls["kuta"], "UPDATE product SET title = 'kopi ubud 1 ☕' WHERE id = 1")
    _execute(urls["ubud"], "DELETE FROM sale_line WHERE sale_id = 3 AND product_id = 4")
    _execute(urls["kuta"], "UPDATE sale SET made_at = '2024-05-01 10:00:00.000009' WHERE id = 8")
    found = {(difference.table, difference.key) for difference in audit(urls).differences}
    assert found == {("product", (1,)), ("sale_line", (4, 3)), ("sale", (8,))}
