"""What is sent to SQL Server is T-SQL for two parsers that know nothing of each other, sqlglot and sqlfluff, whatever the table is like."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlglot
from sqlfluff.core import FluffConfig, Linter
from sqlglot import exp
from sqlglot.errors import ParseError

from services.kernel.catalogue import Column, Kind, Table
from services.kernel.dialects.mssql.triggers import rendered
from services.kernel.dialects.template import SQL, statements
from services.kernel.schema import statements as of_file

FOLDER = SQL / "mssql"
COLUMNS = (
    Column("id", Kind.INTEGER, nullable=False, declared="bigint"),
    Column("Nama lengkap", Kind.TEXT, nullable=False, declared="nvarchar(40)"),
    Column("order", Kind.CHAR, nullable=False, declared="char(3)"),
    Column("o'clock", Kind.DATETIME, nullable=False, declared="datetime2(6)"),
    Column("price", Kind.DECIMAL, nullable=False, declared="decimal(10,2)", precision=10, scale=2),
    Column("row", Kind.BINARY, nullable=False, declared="varbinary(16)"),
    Column("money", Kind.DECIMAL, declared="money", precision=19, scale=4),
    Column("weight", Kind.FLOAT, declared="float"),
    Column("width", Kind.FLOAT, declared="real", single=True),
    Column("day", Kind.DATE, declared="date"),
    Column("hour", Kind.TIME, declared="time(6)"),
    Column("seen", Kind.DATETIME, declared="datetimeoffset(7)"),
    Column("on", Kind.BOOLEAN, declared="bit"),
    Column("uuid", Kind.UUID, declared="uniqueidentifier"),
    Column("xml", Kind.TEXT, declared="xml"),
    Column("json", Kind.JSON, declared="nvarchar(max)"),
)
TABLES = (
    Table("Order Details", COLUMNS, ("id", "Nama lengkap", "order", "o'clock", "price", "row"), schema="dbo"),
    Table("sales.it's", COLUMNS, ("id",), schema="sales"),
    Table("one", COLUMNS[:1], ("id",), schema="dbo"),
)
TRIGGERS = [rendered(table, "o'utlet", 16, name) for table in TABLES for name in ("NULL", "CONCAT(N'a', @@SPID)")]
BRACKETS = rendered(
    Table("[it]", (*COLUMNS, Column("[a]", Kind.TEXT, declared="ntext")), ("id", "[a]"), schema="]"), "a", 1, "NULL"
)
OWN = [*of_file(FOLDER / "tables.sql"), *of_file(FOLDER / "upgrade_2.sql"), *statements("mssql", "replace_version")]

_TRIGGER = re.compile(
    r"\ACREATE TRIGGER \[.*\] ON \[.*\] AFTER INSERT, UPDATE, DELETE AS\nBEGIN\n(.*)\nEND\Z", re.DOTALL
)
_CALL = re.compile(r"\AIF [^\n]*\n    EXEC\b[^;]*\Z")


@pytest.mark.parametrize("sql", [*OWN, *TRIGGERS, BRACKETS])
def test_sqlglot_reads_it(sql: str) -> None:
    """It knows no CREATE TRIGGER (its body it does), no ELSE BEGIN, no NONCLUSTERED behind PRIMARY KEY, and no EXEC behind IF."""
    if call := _CALL.match(sql):
        sql = call[0].partition("\n")[2]
    if trigger := _TRIGGER.match(sql):
        sql = re.sub(r"END\s+ELSE(?=\s+BEGIN)", "END; IF 1 = 1", trigger[1])
    assert "CREATE TRIGGER" not in sql
    parsed = sqlglot.parse(re.sub(r"(PRIMARY KEY|UNIQUE) NONCLUSTERED", r"\1", sql), read="tsql")
    assert list(parsed)
    for statement in parsed:
        assert statement is not None
        unread = [str(one) for one in statement.find_all(exp.Command) if one.name.upper() not in ("EXEC", "DECLARE")]
        assert not unread


@pytest.fixture(scope="module")
def linter() -> Iterator[Linter]:
    logging.disable(logging.WARNING)
    yield Linter(FluffConfig.from_kwargs(dialect="tsql"))
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("sql", [*OWN, *TRIGGERS])
def test_sqlfluff_reads_it(linter: Linter, sql: str) -> None:
    """It knows no ]] in a name."""
    assert [str(one) for one in linter.parse_string(re.sub(r":(\w+)", r"@\1", sql)).violations] == []


@pytest.mark.parametrize("word", ["INSERT INTO subak.CloudQuery", "SET ROWCOUNT 0", "FROM @change AS c", "CROSS APPLY"])
def test_a_slip_is_found(linter: Linter, word: str) -> None:
    """Both would see it: a parser that reads anything proves nothing."""
    broken = TRIGGERS[0].replace(word, word[:-1] + " (", 1)
    assert broken != TRIGGERS[0]
    assert linter.parse_string(broken).violations
    with pytest.raises((ParseError, AssertionError)):
        test_sqlglot_reads_it(broken)


def test_nothing_else_is_there() -> None:
    assert {path.name for path in Path(FOLDER).glob("*.sql")} == {
        "tables.sql", "upgrade_2.sql", "trigger_change.sql", "changes.sql", "replace_version.sql",
    }  # fmt: skip
