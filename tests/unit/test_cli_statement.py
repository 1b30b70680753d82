"""Changes as statements for people: literals, key changes, what the local database lacks."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from services.cli.querylog.statement import VALUE_CHARACTERS, literal, statement, statements
from services.kernel.catalogue import Catalogue, Column, Kind, Table
from services.kernel.change import NEVER, Change, Op, Stamp, Transaction
from services.kernel.dialects import Dialect
from services.kernel.values import Value

TABLE = Table(
    "Product",
    (
        Column("Id", Kind.INTEGER),
        Column("Name", Kind.TEXT),
        Column("Price", Kind.DECIMAL),
        Column("Photo", Kind.BINARY),
    ),
    ("Id",),
)
CATALOGUE = Catalogue((TABLE,))


class Quoting:
    """What the renderer asks of a dialect."""

    name = "mysql"

    def identifier(self, name: str) -> str:
        return f"`{name}`"

    def relation(self, table: Table) -> str:
        return self.identifier(table.name)


DIALECT = cast(Dialect, Quoting())


def change(op: Op, before: dict[str, Any] | None, after: dict[str, Any] | None, *, paired: bool = False) -> Change:
    images = [None if image is None else json.dumps(image) for image in (before, after)]
    return Change("product", op, "1", *images, Stamp(1, "a"), NEVER, paired)


def rendered(*changes: Change) -> list[str]:
    return [sql for _, sql in statements(Transaction("", changes), CATALOGUE, DIALECT)]


def test_insert() -> None:
    row = {"id": 1, "name": "O'Brien \\ 抹茶", "price": "2.50", "photo": "AP8="}
    assert rendered(change(Op.INSERT, None, row)) == [
        "INSERT INTO `Product` (`Id`, `Name`, `Price`, `Photo`) VALUES (1, 'O''Brien \\\\ 抹茶', 2.5, X'00ff')"
    ]


def test_update_writes_the_whole_row_as_the_applier_does() -> None:
    old = {"id": 1, "name": "a", "price": "2.50", "photo": None}
    assert rendered(change(Op.UPDATE, old, old | {"price": "3"})) == [
        "UPDATE `Product` SET `Name` = 'a', `Price` = 3, `Photo` = NULL WHERE `Id` = 1"
    ]


def test_delete() -> None:
    old = {"id": 1, "name": "a", "price": "2.50", "photo": None}
    assert rendered(change(Op.DELETE, old, None)) == ["DELETE FROM `Product` WHERE `Id` = 1"]


def test_a_changed_key_is_one_statement() -> None:
    old = {"id": 1, "name": "a", "price": "2.50", "photo": None}
    new = old | {"id": 9}
    sql = rendered(change(Op.DELETE, old, None, paired=True), change(Op.INSERT, None, new))
    assert sql == ["UPDATE `Product` SET `Id` = 9, `Name` = 'a', `Price` = 2.5, `Photo` = NULL WHERE `Id` = 1"]


def test_a_table_that_is_not_here_is_shown_as_it_came() -> None:
    came = Change("ghost", Op.INSERT, "1", None, '{"id":1}', Stamp(1, "a"), NEVER)
    assert statement(came, None, CATALOGUE, DIALECT).startswith("INSERT INTO ghost (not in this database)")


def test_a_column_that_is_not_here_is_shown_as_it_came() -> None:
    assert "not in this database" in rendered(change(Op.INSERT, None, {"id": 1, "colour": "red"}))[0]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Kind.TEXT, None, "NULL"),
        (Kind.BOOLEAN, True, "1"),
        (Kind.FLOAT, 0.1, "0.1"),
        (Kind.DECIMAL, "12.5", "12.5"),
        (Kind.TEXT, "12.5", "'12.5'"),
        (Kind.DATE, "2024-02-29", "'2024-02-29'"),
        (Kind.TEXT, "a\\b", "'a\\b'"),
    ],
)
def test_literals(kind: Kind, value: Value, expected: str) -> None:
    assert literal(Column("c", kind), value, "sqlite") == expected


def test_long_values_are_cut() -> None:
    assert len(literal(Column("c", Kind.BINARY), b"x" * 10_000, "sqlite")) < VALUE_CHARACTERS + 10
