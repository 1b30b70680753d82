"""What is quarantined is kept whole, leaves when its cause passes, and what is given up is remembered until it is written again."""

from __future__ import annotations

import msgspec
import pytest
import sqlalchemy as sa

from services.applier import quarantine, rules
from services.kernel.change import NEVER, Change, Op, Stamp, Transaction
from services.kernel.control import Policy
from services.kernel.errors import TransientError
from services.kernel.schema import CLOUD_QUERY, POLICY, STATE
from services.kernel.wire.messages import MAX_CONFLICTS_TOLD, MAX_FRAME_BYTES, MAX_IMAGE_TOLD, Executed
from tests.contract.outlets import Make, MakeOutlet, Outlet, Outlets

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite", "mariadb", "mysql"])

SHOP = (
    "CREATE TABLE product (sku VARCHAR(20) NOT NULL PRIMARY KEY, name VARCHAR(9000), stock INTEGER)",
    "CREATE TABLE sale (id VARCHAR(20) NOT NULL PRIMARY KEY, sku VARCHAR(20), n INTEGER,"
    " CONSTRAINT sale_product FOREIGN KEY (sku) REFERENCES product (sku))",
)
STRICT = (SHOP[0].removesuffix(")") + ", CONSTRAINT some CHECK (stock >= 0))", SHOP[1])
"""As at the outlet that refuses."""

PRODUCTS = "SELECT sku, name, stock FROM product"


@pytest.fixture
def outlet(make_outlet: MakeOutlet) -> Make:
    return lambda name: make_outlet(name, STRICT if name == "bali" else SHOP)


@pytest.fixture
def two(outlet: Make) -> Outlets:
    return Outlets(outlet("amed"), outlet("bali"))


def _different(outlet: Outlet) -> list[tuple[str, str]]:
    with outlet.engine.begin() as connection:
        return [(row.TableName, row.RowKey) for row in connection.execute(quarantine.differing())]


def test_a_transaction_is_kept_whole(two: Outlets) -> None:
    amed, bali = two.outlets
    amed.write(
        "INSERT INTO product VALUES ('a', 'good', 1)",
        "INSERT INTO product VALUES ('b', 'bad', -1)",
        "INSERT INTO sale VALUES ('s', 'a', 1)",
    )
    two.spread()
    assert bali.read(PRODUCTS) == [] and bali.read("SELECT id FROM sale") == []
    (entry,) = bali.applier.waiting()
    with bali.engine.begin() as connection:
        kept = quarantine.transaction_of(connection, entry)
    assert [change.key for change in kept.changes] == ["a", "b", "s"]
    assert entry.tables == {"product", "sale"}


def test_a_newer_image_supersedes_what_is_quarantined(two: Outlets) -> None:
    amed, _ = two.outlets
    amed.write("INSERT INTO product VALUES ('a', 'one', 1)", "INSERT INTO product VALUES ('b', 'bad', -1)")
    two.spread()
    amed.write("UPDATE product SET stock = 2 WHERE sku = 'b'")
    two.settle()
    assert two.waiting() == []
    assert two.same(PRODUCTS) == [("a", "one", 1), ("b", "bad", 2)]


def test_the_children_of_a_missing_parent_come_with_it(two: Outlets) -> None:
    amed, _ = two.outlets
    amed.write("INSERT INTO product VALUES ('b', 'bad', -1)")
    two.spread()
    for number in range(3):
        amed.write(f"INSERT INTO sale VALUES ('s{number}', 'b', 1)")
        two.spread()
    assert [code for _, code in two.waiting()] == ["check"] + ["missing_parent"] * 3
    amed.write("UPDATE product SET stock = 0 WHERE sku = 'b'")
    two.settle()
    assert two.waiting() == []
    assert len(two.same("SELECT id FROM sale")) == 3


@pytest.mark.parametrize("where", ["here", "elsewhere", "deleted"])
def test_discarded_rows_are_different_until_they_are_written_again(two: Outlets, where: str) -> None:
    amed, bali = two.outlets
    amed.write("INSERT INTO product VALUES ('a', 'one', 1)", "INSERT INTO product VALUES ('b', 'bad', -1)")
    two.spread()
    assert _different(bali) == []  # it waits still
    bali.applier.discard(bali.applier.waiting()[0].id)
    assert set(_different(bali)) == {("product", "a"), ("product", "b")}
    if where == "here":
        bali.write("INSERT INTO product VALUES ('b', 'mine', 5)")
    else:
        amed.write(
            "UPDATE product SET stock = 3 WHERE sku = 'b'"
            if where == "elsewhere"
            else "DELETE FROM product WHERE sku = 'b'"
        )
    two.settle()
    assert _different(bali) == [("product", "a")]
    amed.write("UPDATE product SET name = 'again' WHERE sku = 'a'")
    two.settle()
    assert _different(bali) == []
    two.same(PRODUCTS)


def test_what_was_unreadable_is_listed_once_it_can_be_read(two: Outlets, monkeypatch: pytest.MonkeyPatch) -> None:
    amed, bali = two.outlets
    change = Change("product", Op.INSERT, "b", None, '{"sku":"b","stock":-1}', Stamp(2**41, "amed"), NEVER)
    batch = amed.batch(Transaction("", (change,)))

    def unreadable(_: bytes) -> object:
        raise msgspec.DecodeError("of a newer version")

    with monkeypatch.context() as older:
        older.setattr("services.applier.applying.decode_body", unreadable)
        assert [report.code for report in bali.apply(batch, 1).quarantined] == ["unreadable"]
    assert not bali.retry()  # by this version it is read, and refused for what is in it
    assert [entry.code for entry in bali.applier.waiting()] == ["check"]
    bali.applier.discard(bali.applier.waiting()[0].id)
    assert _different(bali) == [("product", "b")]


def test_a_table_that_does_not_fit_is_held_and_flows_once_it_does(two: Outlets) -> None:
    amed, bali = two.outlets
    amed.write("ALTER TABLE product ADD COLUMN colour VARCHAR(9)")
    amed.renew()
    amed.write("INSERT INTO product (sku, colour) VALUES ('a', 'red')")
    two.spread()
    amed.write("INSERT INTO sale VALUES ('s', NULL, 1)")  # other tables flow
    two.spread()
    assert [code for _, code in two.waiting()] == ["missing_column"]
    assert two.same("SELECT id FROM sale") == [("s",)]
    bali.write("ALTER TABLE product ADD COLUMN colour VARCHAR(9)")
    bali.applier.refresh()
    two.settle()
    assert two.waiting() == []
    assert two.same("SELECT sku, colour FROM product") == [("a", "red")]


def test_the_hub_is_told_of_conflicts_with_both_rows(two: Outlets) -> None:
    amed, bali = two.outlets
    amed.write(*(f"INSERT INTO product VALUES ('{number}', 'x', 1)" for number in range(MAX_CONFLICTS_TOLD + 5)))
    two.spread()
    amed.write("UPDATE product SET name = 'amed'")
    bali.write(f"UPDATE product SET name = '{'b' * 2 * MAX_IMAGE_TOLD}'")
    (outcome,) = two.spread()["bali"]
    assert (outcome.conflicts, len(outcome.told)) == (MAX_CONFLICTS_TOLD + 5, MAX_CONFLICTS_TOLD)
    told = outcome.told[0]
    assert (told.table, told.local_origin, told.incoming_origin) == ("product", "bali", "amed")
    assert told.local_image is not None and len(told.local_image) == MAX_IMAGE_TOLD
    assert told.incoming_image is not None and '"amed"' in told.incoming_image


def test_what_the_hub_is_told_of_conflicts_fits_a_frame(two: Outlets) -> None:
    amed, bali = two.outlets
    amed.write(*(f"INSERT INTO product VALUES ('{number}', 'x', 1)" for number in range(MAX_CONFLICTS_TOLD)))
    two.spread()
    for one in (amed, bali):
        one.write(f"UPDATE product SET name = '{'🥃' * MAX_IMAGE_TOLD}', stock = {len(one.name)}")
    (outcome,) = two.spread()["bali"]
    assert outcome.conflicts == MAX_CONFLICTS_TOLD > len(outcome.told) > 10
    assert len(msgspec.msgpack.encode(Executed(1, 1, [], outcome.told))) < MAX_FRAME_BYTES / 2


def test_rules_and_the_cutting_of_a_batch_exclude_one_another(outlet: Make) -> None:
    """So that a batch is cut knowing the rules of all that is in it."""
    amed = outlet("amed")
    with amed.engine.begin() as connection:
        connection.execute(sa.insert(STATE), [{"Name": rules.CUTTER, "Value": "0"}])
    locked = sa.update(STATE).where(STATE.c.Name == rules.CUTTER).values(Value="1")
    with amed.application.begin() as cutter:
        cutter.execute(locked)
        with pytest.raises(TransientError):
            amed.hear(Policy(1, ""), 1)
    amed.write("INSERT INTO product VALUES ('a', 'x', 1)")
    amed.hear(Policy(1, ""), 1)
    with amed.engine.begin() as connection:
        boundary = connection.scalar(sa.select(POLICY.c.Boundary))
        assert boundary == connection.scalar(sa.select(sa.func.max(CLOUD_QUERY.c.Id)))
        connection.execute(sa.delete(CLOUD_QUERY))  # exported, and forgotten
    amed.hear(Policy(2, ""), 2)
    with amed.engine.begin() as connection:
        assert list(connection.scalars(sa.select(POLICY.c.Boundary))) == [boundary, boundary]
