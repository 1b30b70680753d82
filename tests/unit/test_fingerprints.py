"""Two outlets' tables have one fingerprint exactly when they have the same columns and the same key."""

from __future__ import annotations

from dataclasses import replace

from services.kernel.catalogue import Catalogue, Column, Kind, Table, fingerprints

STOCK = Table("Stock", (Column("Sku", Kind.TEXT), Column("OnHand", Kind.INTEGER), Column("Note", Kind.TEXT)), ("Sku",))


def _of(table: Table) -> dict[str, str]:
    return fingerprints(Catalogue((table,)))


def test_order_case_and_types_do_not_count() -> None:
    columns = (Column("NOTE", Kind.CHAR, nullable=False), Column("sku", Kind.UUID), Column("onhand", Kind.DECIMAL))
    assert _of(Table("STOCK", columns, ("SKU",))) == _of(STOCK)


def test_names_and_the_key_count() -> None:
    others = (
        replace(STOCK, columns=STOCK.columns[:2]),
        replace(STOCK, columns=(*STOCK.columns, Column("Colour", Kind.TEXT))),
        replace(STOCK, key=("Sku", "Note")),
        Table("Stock", (Column("Sku", Kind.TEXT), Column("OnHandNote", Kind.TEXT)), ("Sku",)),
    )
    found = [_of(table)["stock"] for table in (STOCK, *others)]
    assert len(set(found)) == len(found)
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in found)
