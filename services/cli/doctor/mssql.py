"""What only SQL Server can have wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from services.cli.doctor.application_triggers import ApplicationTrigger, findings
from services.cli.doctor.checks import clock
from services.cli.doctor.finding import Finding, check, must, note
from services.cli.doctor.mssql_asking import SQL, Asking
from services.cli.doctor.mssql_rights import rights
from services.cli.doctor.mssql_tables import tables
from services.cli.doctor.tsql import effects
from services.kernel.catalogue import Catalogue, folded
from services.kernel.dialects import Dialect
from services.kernel.dialects.mssql.catalogue import called
from services.kernel.dialects.mssql.connecting import MARK
from services.kernel.dialects.mssql.expressions import identifier, literal

GUARD = f"Add as the first line of its body: IF SUBSTRING(CONTEXT_INFO(), 1, 16) = {MARK} RETURN;"

STANDING = (
    note(
        "around_triggers",
        "TRUNCATE, bcp, BULK INSERT",
        "TRUNCATE TABLE and ALTER TABLE ... SWITCH fire no trigger, nor do bcp, BULK INSERT and SqlBulkCopy of "
        "themselves: "
        "what they change reaches no other outlet.",
        "DELETE instead of TRUNCATE; bcp -h FIRE_TRIGGERS, BULK INSERT ... WITH (FIRE_TRIGGERS), "
        "SqlBulkCopyOptions.FireTriggers.",
    ),
    note(
        "output",
        "OUTPUT without INTO",
        "On a table with triggers SQL Server refuses it (error 334): INSERT ... OUTPUT inserted.id, as some "
        "libraries write it.",
        "OUTPUT ... INTO a table variable. SQLAlchemy: Table(..., implicit_returning=False) and "
        "use_insertmanyvalues=False. "
        "EF Core 7 and later: ToTable(t => t.HasTrigger(...)); from 8 also UseSqlOutputClause(false).",
    ),
)
"""What cannot be looked for in a database, and should be known before."""


def examine(connection: Connection, dialect: Dialect, catalogue: Catalogue) -> Iterator[Finding]:
    asking = Asking(connection, dialect, catalogue)
    if asking.refuses(SQL["version"]):
        product = dialect.server(connection)
        yield must("version", product, f"This is {product}.", "Subak needs SQL Server 2017 or later.")
    yield from rights(asking)
    yield from _owners(asking)
    triggers = asking.rows("triggers")
    yield from _triggers(asking, triggers)
    yield from _settings(asking, triggers)
    yield from _database(asking)
    yield from tables(asking)
    microseconds = asking.one("clock")
    connection.rollback()
    yield from clock(int(microseconds) / 1_000_000)
    yield from STANDING


def _owners(asking: Asking) -> Iterator[Finding]:
    """Once Subak's schema is there: whether the triggers may write to it for everybody who may write to their tables."""
    own = asking.one("own_owner")
    others: dict[str, list[str]] = {}
    for row in asking.rows("owners") if own else ():
        if (table := asking.table(row)) and row.owner_ != own:
            others.setdefault(row.owner_, []).append(table.name)
    for owner, names in others.items():
        yield check(
            "owner",
            ", ".join(names),
            f"They belong to {owner}, Subak's tables to {own}: a trigger writes there with the rights of whoever "
            "changes a row, "
            "and an application's login without them can write no longer.",
            f"ALTER AUTHORIZATION ON SCHEMA::subak TO {identifier(owner)}; or GRANT SELECT, INSERT, UPDATE ON "
            "SCHEMA::subak "
            "to every user who writes to these tables.",
        )


def _triggers(asking: Asking, rows: Sequence[Row[Any]]) -> Iterator[Finding]:
    own = {folded(name) for name in asking.dialect.installed(asking.connection)}
    for row in rows:
        table = called(row.schema_name_, row.table_name_)
        if folded(row.name) in own:
            if row.is_disabled:
                yield must(
                    "disabled",
                    row.name,
                    f"Subak's trigger of {table} is disabled: no change to it is captured.",
                    f"ENABLE TRIGGER {_qualified(row)} ON "
                    f"{identifier(row.schema_name_)}.{identifier(row.table_name_)}; then "
                    "compare the outlets (`subak compare`).",
                )
        elif asking.table(row) and not row.is_disabled:
            yield from _trigger(asking, row, table)
    for row in asking.rows("first_triggers"):
        if folded(row.name) not in own and asking.table(row):
            yield must(
                "first_trigger",
                row.name,
                f"It is declared the first of {called(row.schema_name_, row.table_name_)} on {row.event_}, where "
                "Subak's must be: "
                "what it changes would be sent before the change it answers.",
                f"EXEC sp_settriggerorder {literal(_qualified(row))}, 'None', '{row.event_}';",
            )


def _trigger(asking: Asking, row: Row[Any], table: str) -> Iterator[Finding]:
    """An application's own, that acts."""
    if row.body is None:
        yield check(
            "unreadable",
            row.name,
            f"The text of this trigger of {table} is encrypted, or may not be seen: its writes are not looked into.",
            f"If it writes to a synchronised table: {GUARD}",
        )
        return
    does = effects(row.body, row.schema_name_)
    if not row.instead_of:
        yield from findings(ApplicationTrigger(row.name, table, row.body), asking.catalogue, MARK, GUARD, does)
    elif folded(MARK) in folded(does.text):
        yield check(
            "instead_of",
            row.name,
            f"It acts instead of what is written to {table}, also of what Subak applies, which it tells by the mark.",
            "See that it then writes the rows to the table as they are.",
        )
    else:
        yield must(
            "instead_of",
            row.name,
            f"It acts instead of what is written to {table}, so that rows from other outlets would not arrive as "
            "they are.",
            f"Move it to a view, or make it an AFTER trigger; or let it write the rows as they are, and RETURN, when "
            f"SUBSTRING(CONTEXT_INFO(), 1, 16) = {MARK}.",
        )


def _qualified(row: Row[Any]) -> str:
    return f"{identifier(row.schema_name_)}.{identifier(row.name)}"


def _settings(asking: Asking, triggers: Sequence[Row[Any]]) -> Iterator[Finding]:
    settings = {row.setting: row.value_ for row in asking.rows("settings")}
    own = {folded(name) for name in asking.dialect.installed(asking.connection)}
    if settings.get("nested triggers") == 0:
        others = [row.name for row in triggers if folded(row.name) not in own]
        yield (must if others else note)(
            "nested_triggers",
            "nested triggers",
            "It is 0: what a trigger writes fires no trigger, and is not captured"
            + (f" ({', '.join(others)})." if others else ". There is no such trigger now."),
            "EXEC sp_configure 'nested triggers', 1; RECONFIGURE;",
        )
    if asking.one("nocount"):
        yield must(
            "nocount",
            "user options",
            "NOCOUNT is on for every session: nobody learns how many rows a statement changed, and Subak checks that.",
            "EXEC sp_configure 'user options', with its present value less 512; RECONFIGURE;",
        )
    if settings.get("disallow results from triggers") == 1:
        yield note("results", "disallow results from triggers", "It is 1. Subak's triggers return none.")


def _database(asking: Asking) -> Iterator[Finding]:
    if asking.rows("cdc"):
        yield note(
            "cdc",
            "change data capture",
            "It is on, and sees what Subak applies here as any other change.",
            "Nothing, unless its reader sends rows to another outlet.",
        )
    for row in asking.rows("database"):
        if row.recursive_:
            yield note(
                "recursive_triggers",
                "RECURSIVE_TRIGGERS",
                "It is on: a trigger that writes to its own table fires itself, also for rows that Subak "
                "applies. Subak's does not.",
            )
        if row.snapshots != 1 and not row.committed:
            what = (
                "Neither is on: capture passes by what is not committed and reads twice to be certain; `subak compare` and "
                "`subak status` wait for the application's transactions."
            )
        elif row.snapshots != 1:
            what = "The first is off: what several statements read, as in `subak compare`, is of several moments."
        else:
            continue
        yield note(
            "snapshots",
            "ALLOW_SNAPSHOT_ISOLATION, READ_COMMITTED_SNAPSHOT",
            f"{what} Nothing is lost by it.",
            "ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON; it keeps old rows in tempdb while they are read.",
        )
