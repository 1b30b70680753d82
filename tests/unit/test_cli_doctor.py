"""What the doctor reads out of the text of an application's trigger."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.cli.doctor.application_triggers import ApplicationTrigger, findings, writes
from services.cli.doctor.finding import Urgency
from services.cli.doctor.tsql import effects
from services.kernel.catalogue import Catalogue, Column, Kind, Table
from services.kernel.dialects.mssql import rights

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


@pytest.mark.parametrize(
    ("body", "tables"),
    [
        ("AFTER INSERT AS INSERT INTO dbo.audit SELECT id FROM inserted", ["audit"]),
        ("AFTER INSERT, UPDATE AS SET NOCOUNT ON; insert [audit] values (1)", ["audit"]),
        ("AFTER INSERT AS INSERT TOP (1) INTO shop.dbo.audit VALUES (1)", ["audit"]),
        ("FOR UPDATE AS UPDATE s SET n = 1 FROM dbo.stock AS s JOIN inserted i ON i.id = s.id", ["stock"]),
        ("FOR UPDATE AS UPDATE S SET n = 1 FROM inserted i, [stock] s WHERE i.id = s.id", ["stock"]),
        ("FOR UPDATE AS UPDATE TOP (5) [dbo].[Order Lines] WITH (ROWLOCK) SET n = 1", ["Order Lines"]),
        ("AFTER DELETE NOT FOR REPLICATION AS DELETE s FROM stock s WHERE 1 = 1", ["stock"]),
        ("AFTER DELETE AS DELETE stock WHERE id IN (SELECT id FROM deleted)", ["stock"]),
        ("AFTER INSERT AS DELETE FROM sales.stock", ["sales.stock"]),
        (
            "AFTER INSERT AS INSERT INTO #t VALUES (1); UPDATE stock SET n = '\\'; DELETE FROM audit",
            ["#t", "stock", "audit"],
        ),
        (
            "AFTER INSERT AS MERGE stock AS t USING inserted AS i ON 1 = 0 WHEN MATCHED THEN UPDATE SET n = 1;",
            ["stock"],
        ),
        ("AFTER INSERT AS UPDATE orders SET n = 1 OUTPUT deleted.id INTO audit", ["audit", "orders"]),
        ("AFTER INSERT AS IF UPDATE(n) SELECT 1 FROM stock -- UPDATE stock SET n = 1", []),
        ("WITH EXECUTE AS OWNER AFTER UPDATE AS SET NOCOUNT ON /* DELETE FROM stock */", []),
    ],
)
def test_writes_in_tsql(body: str, tables: list[str]) -> None:
    found = effects(f"CREATE TRIGGER dbo.t ON dbo.orders {body}", "dbo")
    assert sorted(found.written) == sorted(tables)
    assert found.calls == ()


def test_a_name_without_schema_in_tsql_may_be_in_two() -> None:
    assert effects("CREATE TRIGGER sales.t ON sales.x AFTER INSERT AS DELETE FROM stock", "sales").written == (
        "sales.stock",
        "stock",
    )


def test_calls_in_tsql() -> None:
    body = "AFTER INSERT AS EXEC @r = dbo.bookkeeping 1; EXECUTE (@sql); EXEC [stock take]"
    assert effects(f"CREATE TRIGGER t ON orders WITH EXECUTE AS OWNER {body}", "dbo").calls == (
        "dbo.bookkeeping",
        "dynamic SQL",
        "stock take",
    )


def test_the_readme_gives_the_rights_that_are_advised() -> None:
    readme = " ".join((Path(__file__).parents[2] / "README.md").read_text("utf-8").split())
    for line in rights.SETUP.replace("[<database>]", "shop").splitlines():
        assert " ".join(line.split()) in readme
