"""What the doctor reads out of the text of an application's trigger."""

from __future__ import annotations

import pytest

from services.cli.doctor.application_triggers import ApplicationTrigger, findings, writes
from services.cli.doctor.finding import Urgency
from services.kernel.catalogue import Catalogue, Column, Kind, Table

CATALOGUE = Catalogue(
    tuple(Table(name, (Column("id", Kind.INTEGER),), ("id",)) for name in ("Orders", "Stock", "Audit"))
)


@pytest.mark.parametrize(
    ("body", "tables"),
    [
        ("INSERT INTO audit (id) VALUES (1)", ["audit"]),
        ("insert ignore into `audit` values (1)", ["audit"]),
        ("INSERT audit VALUES (1)", ["audit"]),
        ("REPLACE INTO shop.audit VALUES (1)", ["audit"]),
        ('INSERT OR REPLACE INTO "audit" VALUES (1)', ["audit"]),
        ("UPDATE stock SET n = 1", ["stock"]),
        ("UPDATE stock AS s SET n = 1", ["stock"]),
        ("update or ignore [stock] set n = 1", ["stock"]),
        ("DELETE FROM `shop`.`stock` WHERE 1", ["stock"]),
        ("BEGIN UPDATE stock SET n = 1; INSERT INTO audit VALUES (1); UPDATE Stock SET n = 2; END", ["stock", "audit"]),
        ("-- INSERT INTO audit\nSELECT 1", []),
        ("/* UPDATE stock SET n = 1 */ SELECT 'DELETE FROM stock'", []),
        ("SELECT 1 FROM stock", []),
        ("CREATE TRIGGER t AFTER INSERT ON stock BEGIN SELECT 1; END", []),
        ("CREATE TRIGGER t AFTER UPDATE OF n ON stock BEGIN DELETE FROM audit; END", ["audit"]),
        ("SET @x = (SELECT n FROM stock)", []),
    ],
)
def test_writes(body: str, tables: list[str]) -> None:
    assert writes(body) == tables


def found(body: str, table: str = "orders") -> list[tuple[Urgency, str]]:
    trigger = ApplicationTrigger("trg", table, body)
    return [(it.urgency, it.code) for it in findings(trigger, CATALOGUE, "@subak_applier", "guard")]


def test_a_trigger_that_writes_to_a_synchronised_table_acts_twice() -> None:
    assert found("BEGIN UPDATE stock SET n = n - 1; END") == [(Urgency.MUST, "acts_twice")]


def test_a_guarded_trigger_does_not() -> None:
    assert found("BEGIN IF COALESCE(@subak_applier, 0) = 0 THEN UPDATE stock SET n = n - 1; END IF; END") == []


def test_a_guard_in_a_comment_guards_nothing() -> None:
    assert found("BEGIN /* @subak_applier */ UPDATE stock SET n = n - 1; END") == [(Urgency.MUST, "acts_twice")]


def test_a_local_table_may_be_written() -> None:
    assert found("INSERT INTO local_notes VALUES (1)") == []


def test_a_trigger_of_a_local_table_does_not_run_for_what_subak_applies() -> None:
    assert found("UPDATE stock SET n = 1", table="local_notes") == []


def test_what_may_differ_is_to_be_looked_at() -> None:
    assert found("SET NEW.changed = NOW()") == [(Urgency.CHECK, "rewrites_row")]
    assert found("CALL bookkeeping(NEW.id)") == [(Urgency.CHECK, "calls")]
