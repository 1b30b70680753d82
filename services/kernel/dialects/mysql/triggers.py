"""Renders, lists and replaces the triggers of a MySQL or MariaDB outlet. What they do stands in `sql/outlet/mysql/*.sql`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from sqlalchemy import Connection

from services.kernel.catalogue import Catalogue, Column, Table
from services.kernel.dialects import Trigger
from services.kernel.dialects.mysql import cascades
from services.kernel.dialects.mysql.expressions import identifier, image_sql, key_sql, literal, same_values
from services.kernel.dialects.mysql.server import (
    cascades_fire_triggers,
    is_mariadb,
    names_transactions,
    tells_transactions,
)
from services.kernel.dialects.template import PREFIX, render, trigger_name

NOW = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
"""Microseconds since 1970 UTC, as of the start of the application's statement."""

_MARK = re.compile(r"BEGIN /\* Subak ([0-9a-f]{16}) \*/")
_CREATE = re.compile(r"\ACREATE TRIGGER ")


def triggers(connection: Connection, table: Table, catalogue: Catalogue, outlet: str) -> tuple[Trigger, ...]:
    values = {
        "table": identifier(table.name),
        "table_name": literal(table.name),
        "outlet": literal(outlet),
        "now": NOW,
        "new_key": key_sql(table, "NEW"),
        "old_key": key_sql(table, "OLD"),
        "new_image": image_sql(table, "NEW"),
        "old_image": image_sql(table, "OLD"),
        "changed": f"NOT {same_values(table.columns, 'NEW', 'OLD')}",
        "executed": _executed(table) if is_mariadb(connection) else "",
        "transaction_name": _transaction_name(connection),
    }
    made = []
    follows = not cascades_fire_triggers(connection)
    for event in ("insert", "update", "delete"):
        cascade = cascades.cascade(table, catalogue, event.upper()) if follows and event != "insert" else None
        rows = ""
        if cascade:
            changed = cascades.referenced_changed(table, catalogue) if event == "update" else "TRUE"
            told = values | {"children_may_follow": changed, "notes": cascade.notes, "voids": cascade.voids}
            made.append(_made(table, f"before_{event}", "trigger_cascading", told | {"event": event.upper()}))
            rows = render("mysql", "cascaded_rows", told)
        first = _first_of_application(connection, table, event)
        order = f"PRECEDES {identifier(first)}" if first else ""
        made.append(_made(table, event, f"trigger_{event}", values | {"order": order, "cascaded_rows": rows}))
    return tuple(made)


def _made(table: Table, which: str, template: str, values: dict[str, str]) -> Trigger:
    name = trigger_name(table.name, which)
    return Trigger(name, table.name, _marked(render("mysql", template, values | {"trigger": identifier(name)})))


def _executed(table: Table) -> str:
    """MariaDB fires the trigger also for a row that UPDATE IGNORE gave up, because of another row's unique value or of a foreign
    key. Only an UPDATE of such columns can be given up: then the row is looked at. It is locked by this transaction already."""
    names = {*table.key, *(name for columns in table.uniques for name in columns)}
    names |= {name for foreign_key in table.foreign_keys for name in foreign_key.columns}
    guarded = [column for column in table.columns if column.name in names]
    return (
        f"\n    AND ({same_values(guarded, 'NEW', 'OLD')} OR {_is_there(table, guarded, 'NEW')})"
        f"\n    AND ({same_values(table.key_columns, 'NEW', 'OLD')} OR NOT {_is_there(table, table.key_columns, 'OLD')})"
    )


def _is_there(table: Table, columns: Sequence[Column], row: str) -> str:
    """Whether the table has a row of that key which agrees with `row` (NEW, OLD) in these columns."""
    key = " AND ".join(f"r.{identifier(name)} = {row}.{identifier(name)}" for name in table.key)
    there = f"SELECT 1 FROM {identifier(table.name)} AS r WHERE {key} AND {same_values(columns, 'r', row)}"  # noqa: S608
    return f"EXISTS ({there} LOCK IN SHARE MODE)"


def _transaction_name(connection: Connection) -> str:
    if names_transactions(connection):
        return render("mysql", "transaction_name", {})
    return render("mysql", "statement_name", {}) if tells_transactions(connection) else ""


def _first_of_application(connection: Connection, table: Table, event: str) -> str | None:
    """The application's own trigger that would run first: Subak's runs before it, and sees the row as the statement leaves it."""
    names = connection.exec_driver_sql(
        "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE() AND ACTION_TIMING = 'AFTER'"
        " AND EVENT_OBJECT_TABLE = %s AND EVENT_MANIPULATION = %s ORDER BY ACTION_ORDER",
        (table.name, event.upper()),
    ).scalars()
    return next((name for name in names if not name.startswith(PREFIX)), None)


def installed(connection: Connection) -> dict[str, Trigger]:
    rows = connection.exec_driver_sql(
        "SELECT TRIGGER_NAME AS name, EVENT_OBJECT_TABLE AS table_name_, ACTION_STATEMENT AS body"
        " FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()"
    ).all()
    return {row.name: Trigger(row.name, row.table_name_, row.body) for row in rows if row.name.startswith(PREFIX)}


def create(connection: Connection, trigger: Trigger) -> None:
    """MariaDB replaces a trigger in one statement. On MySQL the table is locked meanwhile, and a second trigger of the same
    text stands in between: should this process die half way, a change is captured twice, which does no harm, rather than not at all."""
    if is_mariadb(connection):
        _execute(connection, _CREATE.sub("CREATE OR REPLACE TRIGGER ", trigger.sql))
        return
    second = f"{trigger.name[:60]}_new"
    _execute(connection, f"LOCK TABLES {identifier(trigger.table)} WRITE")
    try:
        _execute(connection, f"DROP TRIGGER IF EXISTS {identifier(second)}")
        _execute(connection, trigger.sql.replace(identifier(trigger.name), identifier(second), 1))
        drop(connection, trigger)
        _execute(connection, trigger.sql)
        _execute(connection, f"DROP TRIGGER {identifier(second)}")
    finally:
        _execute(connection, "UNLOCK TABLES")


def drop(connection: Connection, trigger: Trigger) -> None:
    _execute(connection, f"DROP TRIGGER IF EXISTS {identifier(trigger.name)}")


def same(wanted: Trigger, there: Trigger) -> bool:
    """By the digest in the text: MariaDB keeps a text in which the escapes of strings are undone."""
    marks = [_MARK.search(trigger.sql) for trigger in (wanted, there)]
    return all(marks) and len({mark[1] for mark in marks if mark}) == 1


def _marked(sql: str) -> str:
    return sql.replace("\nBEGIN\n", f"\nBEGIN /* Subak {hashlib.sha256(sql.encode()).hexdigest()[:16]} */\n", 1)


def _execute(connection: Connection, sql: str) -> None:
    """As it is: a `%` in a trigger is none of the driver's placeholders."""
    connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
