"""What Subak's login lacks, each with its GRANT. A right that the server does not own up to is tried, and rolled back.

All of them together: `services.kernel.dialects.mssql.rights`.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.cli.doctor.finding import Finding, check, must
from services.cli.doctor.mssql_asking import SQL, Asking
from services.kernel.catalogue import Table, folded
from services.kernel.dialects.mssql.catalogue import MAIN_SCHEMA
from services.kernel.dialects.mssql.expressions import identifier, literal

TRIAL = "subak_doctor"


def rights(asking: Asking) -> Iterator[Finding]:
    user = identifier(str(asking.one("user")))
    yield from _own_tables(asking, user)
    if asking.one("may_database", right="VIEW DEFINITION") == 0:
        yield check(
            "privilege",
            "this database",
            f"{user} sees only what it has a right on: a foreign key to another table would be overlooked.",
            f"GRANT VIEW DEFINITION TO {user};",
        )
    captured = {folded(trigger.table) for trigger in asking.dialect.installed(asking.connection).values()}
    for table in asking.catalogue.tables:
        yield from _on(asking, table, user, folded(table.name) in captured)


def _own_tables(asking: Asking, user: str) -> Iterator[Finding]:
    there = asking.rows("there")[0]
    schema = there.schema_
    if there.tables_ is not None:
        if message := asking.refuses(SQL["try_own"]):
            yield _lacking("schema subak", message, f"GRANT SELECT, INSERT, UPDATE, DELETE ON SCHEMA::subak TO {user};")
        return
    if schema is None and (message := asking.refuses(SQL["try_schema"])):
        yield _lacking(
            "schema subak",
            message,
            "CREATE SCHEMA subak AUTHORIZATION dbo; GO "
            f"GRANT ALTER, REFERENCES, SELECT, INSERT, UPDATE, DELETE ON SCHEMA::subak TO {user}; GRANT CREATE "
            f"TABLE TO {user};",
        )
        return
    for name, todo in (
        ("try_create", f"GRANT CREATE TABLE TO {user}; GRANT ALTER ON SCHEMA::subak TO {user};"),
        ("try_sequence", f"GRANT ALTER, REFERENCES ON SCHEMA::subak TO {user};"),
    ):
        if message := _refuses_with_schema(asking, name, make=schema is None):
            yield _lacking("schema subak", message, todo)


def _refuses_with_schema(asking: Asking, name: str, *, make: bool) -> str | None:
    """In a schema that is there, or that is made for the trial."""
    if make:
        asking.connection.exec_driver_sql(SQL["try_schema"])
    return asking.refuses(SQL[name])


def _on(asking: Asking, table: Table, user: str, captured: bool) -> Iterator[Finding]:
    name = asking.dialect.relation(table)
    for right, trial in _trials(asking, table):
        if asking.one("may_table", name=name, right=right) == 1:
            continue
        if message := asking.refuses(trial):
            if right == "ALTER" and captured and not any(column.generated for column in table.columns):
                yield check(
                    "privilege",
                    table.name,
                    f"{user} cannot renew the trigger when the table's columns change. ({message}.)",
                    f"Run `subak triggers install` as an administrator then; or GRANT ALTER ON {name} TO {user};",
                )
            else:
                yield _lacking(table.name, message, f"GRANT {right} ON {name} TO {user};")
    if any(column.generated for column in table.columns):
        # Without the N of a Unicode literal, which not every server takes here.
        message = asking.refuses(f"DBCC CHECKIDENT ({literal(name)[1:]}, NORESEED) WITH NO_INFOMSGS")
        if message:
            yield _lacking(
                table.name,
                f"{message}. It has an IDENTITY, which is set back after rows from other outlets",
                f"ALTER ROLE db_ddladmin ADD MEMBER {user}; DBCC CHECKIDENT cannot be granted otherwise.",
            )


def _trials(asking: Asking, table: Table) -> Iterator[tuple[str, str]]:
    """Statements that need a right on the table and touch no row of it."""
    name, schema = asking.dialect.relation(table), identifier(table.schema or MAIN_SCHEMA)
    given = [identifier(column.name) for column in table.columns if not column.immutable]
    columns = ", ".join(given)
    yield "SELECT", f"SELECT TOP (0) * FROM {name}"  # noqa: S608 - local catalogue
    if given:
        yield "INSERT", f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {name} WHERE 1 = 0"  # noqa: S608
        yield "UPDATE", f"UPDATE {name} SET {given[0]} = {given[0]} WHERE 1 = 0"  # noqa: S608
    yield "DELETE", f"DELETE FROM {name} WHERE 1 = 0"  # noqa: S608
    yield "ALTER", f"CREATE TRIGGER {schema}.{identifier(TRIAL)} ON {name} AFTER INSERT AS RETURN"


def _lacking(subject: str, message: str, todo: str) -> Finding:
    return must("privilege", subject, f"{message}.", todo)
