"""Renders, lists and replaces the triggers of a SQL Server outlet. What they do stands in `sql/outlet/mssql/*.sql`."""

from __future__ import annotations

import hashlib
import re

from sqlalchemy import Connection

from services.kernel.catalogue import Table
from services.kernel.dialects import Trigger
from services.kernel.dialects.mssql import server
from services.kernel.dialects.mssql.catalogue import MAIN_SCHEMA, called
from services.kernel.dialects.mssql.connecting import MARK
from services.kernel.dialects.mssql.expressions import any_image_sql, identifier, image_sql, key_sql, literal, relation
from services.kernel.dialects.template import PREFIX, render, trigger_name

EVENTS = ("INSERT", "UPDATE", "DELETE")

NOW = "DATEDIFF_BIG(MICROSECOND, '1970-01-01', SYSUTCDATETIME())"
"""Microseconds since 1970 UTC."""

_DIGEST = re.compile(r"BEGIN /\* Subak ([0-9a-f]{16}) \*/")


def triggers(connection: Connection, table: Table, outlet: str) -> tuple[Trigger, ...]:
    query = f"SELECT MAX(column_id) FROM sys.columns WHERE object_id = OBJECT_ID({literal(relation(table))})"  # noqa: S608 - local catalogue
    last = int(connection.exec_driver_sql(query).scalar() or 0)
    name = trigger_name(table.name, "change")
    return (Trigger(name, table.name, _marked(rendered(table, outlet, last, _transaction_name(connection)))),)


def rendered(table: Table, outlet: str, last_column: int, transaction_name: str) -> str:
    """The trigger's statement for a table whose greatest column_id is `last_column`."""
    values = {
        "trigger": f"{identifier(table.schema or MAIN_SCHEMA)}.{identifier(trigger_name(table.name, 'change'))}",
        "table": relation(table),
        "table_name": literal(table.name),
        "outlet": literal(outlet),
        "mark": MARK,
        "now": NOW,
        "transaction_name": transaction_name,
        "key": key_sql(table, "r"),
        "image": image_sql(table, "r"),
        "columns_differ": _columns_differ(table, last_column),
    }
    named = {"inserted_rows": _named(table, "inserted"), "deleted_rows": _named(table, "deleted")}
    values["changes"] = render("mssql", "changes", values | named)
    as_they_are = {"image": any_image_sql("r"), "inserted_rows": "inserted AS r", "deleted_rows": "deleted AS r"}
    values["any_changes"] = render("mssql", "changes", values | as_they_are)
    return render("mssql", "trigger_change", values)


def _named(table: Table, rows: str) -> str:
    """The rows with the columns named one by one: a name without its table that `rows` has no more is one of `missing`."""
    names = [identifier(column.name) for column in table.columns]
    missing = ", ".join(f"CAST(NULL AS NVARCHAR(1)) AS {name}" for name in names)
    return f"(SELECT {missing}) AS missing CROSS APPLY (SELECT {', '.join(names)} FROM {rows}) AS r"  # noqa: S608


def _columns_differ(table: Table, last_column: int) -> str:
    """Whether a column is gone, or one has come. Who may not see the table's definition sees no column at all, and no difference."""
    name = literal(relation(table))
    gone = "\n            OR ".join(f"COL_LENGTH({name}, {literal(column.name)}) IS NULL" for column in table.columns)
    key = f"COL_LENGTH({name}, {literal(table.key[0])}) IS NOT NULL"
    come = f"COL_NAME(OBJECT_ID({name}), {last_column + 1}) IS NOT NULL"
    return f"(\n        {come}\n        OR {key} AND (\n            {gone}\n        )\n    )"


def _transaction_name(connection: Connection) -> str:
    """CURRENT_TRANSACTION_ID() begins anew when the server does: together with the session it is not met again while it matters."""
    if server.answers(connection.engine, "SELECT CURRENT_TRANSACTION_ID()"):
        return "CONCAT(CURRENT_TRANSACTION_ID(), N'-', @@SPID)"
    return "NULL"


def installed(connection: Connection) -> dict[str, Trigger]:
    rows = connection.exec_driver_sql(
        "SELECT g.name AS name, t.name AS table_name_, s.name AS schema_name_, m.definition AS body"
        " FROM sys.triggers AS g INNER JOIN sys.tables AS t ON t.object_id = g.parent_id"
        " INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id"
        " LEFT JOIN sys.sql_modules AS m ON m.object_id = g.object_id"
        " WHERE g.parent_class = 1"
    ).all()
    found = {}
    for row in rows:
        if row.name.lower().startswith(PREFIX):
            found[row.name] = Trigger(row.name, called(row.schema_name_, row.table_name_), row.body or "")
    return found


def create(connection: Connection, trigger: Trigger) -> None:
    """In the transaction of `connection`: the table is locked from the DROP to the commit, and nobody writes in between."""
    drop(connection, trigger)
    _execute(connection, trigger.sql)
    if connection.exec_driver_sql("SELECT OBJECT_ID('sys.sp_settriggerorder')").scalar() is not None:
        for event in EVENTS:
            _execute(
                connection,
                f"EXEC sp_settriggerorder @triggername = {literal(_name(trigger))}, @order = 'First', @stmttype = '{event}'",
            )


def drop(connection: Connection, trigger: Trigger) -> None:
    _execute(connection, f"DROP TRIGGER IF EXISTS {_name(trigger)}")


def _name(trigger: Trigger) -> str:
    schema, dot, _ = trigger.table.partition(".")
    return f"{identifier(schema if dot else MAIN_SCHEMA)}.{identifier(trigger.name)}"


def same(wanted: Trigger, there: Trigger) -> bool:
    """By the digest in the text."""
    marks = [_DIGEST.search(trigger.sql) for trigger in (wanted, there)]
    return all(marks) and len({mark[1] for mark in marks if mark}) == 1


def _marked(sql: str) -> str:
    return sql.replace("\nBEGIN\n", f"\nBEGIN /* Subak {hashlib.sha256(sql.encode()).hexdigest()[:16]} */\n", 1)


def _execute(connection: Connection, sql: str) -> None:
    """As it is: a `?` or a `%` in it is no placeholder."""
    connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
