"""Renders, lists and replaces the triggers of a SQLite outlet. What they do stands in `sql/outlet/sqlite/*.sql`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from services.kernel.catalogue import Kind, Table
from services.kernel.dialects import Trigger
from services.kernel.dialects.sqlite.expressions import (
    changed,
    found_again,
    identifier,
    image_sql,
    key_sql,
    key_values_sql,
    literal,
    same_key,
)
from services.kernel.dialects.template import PREFIX, render, trigger_name

NOW = "(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)"
"""Microseconds since 1970 UTC, exact to the millisecond, which is what SQLite's clock has."""


@dataclass(frozen=True)
class _Unique:
    """A unique index other than the primary key: its columns with the collation they are compared in."""

    columns: tuple[tuple[str, str], ...]
    whole: bool
    """Whether only an UPDATE that names one of its columns can bring a row into it: not so for a partial index."""


def triggers(connection: Connection, table: Table, outlet: str) -> tuple[Trigger, ...]:
    uniques = _uniques(connection, table)
    common = _values(table, outlet)
    causes = _causes(table, uniques)
    replaces_others = bool(uniques) or any(column.kind is not Kind.INTEGER for column in table.key_columns)

    def replaced_rows(own_is_void: bool) -> str:
        others = {
            "causes": causes,
            "note_is_of_itself": f"subak_replaced.RowKey = {common['old_key']}" if own_is_void else "0",
            "note_is_of_another": "1" if own_is_void else f"n.RowKey <> {common['new_key']}",
            "void_note": "1" if own_is_void else f"RowKey <> {common['new_key']}",
        }
        return render("sqlite", "replaced_rows", common | others) + "\n"

    def made(which: str, template: str, **values: str) -> Trigger:
        name = trigger_name(table.name, which)
        sql = render("sqlite", template, common | {"trigger": identifier(name)} | values)
        return Trigger(name, table.name, sql)

    collide_on_update = ", ".join(identifier(name) for name in _update_columns(table, uniques))
    return (
        made(
            "before_insert",
            "trigger_replacing",
            event="INSERT",
            causes=causes,
            **_replacing(table, uniques, "NEW"),
        ),
        made(
            "before_update",
            "trigger_replacing",
            event=f"UPDATE OF {collide_on_update}" if collide_on_update else "UPDATE",
            causes=causes,
            **_replacing(table, uniques, "OLD"),
        ),
        made(
            "insert",
            "trigger_insert",
            causes=causes,
            replaced_rows=replaced_rows(False) if replaces_others else "",
        ),
        made("update", "trigger_update", replaced_rows=replaced_rows(False) if uniques else ""),
        made("rekey", "trigger_rekey", replaced_rows=replaced_rows(True)),
        made("delete", "trigger_delete"),
    )


def _values(table: Table, outlet: str) -> dict[str, str]:
    quoted = identifier(table.name)
    new_key, old_key, row_key = key_sql(table, "NEW"), key_sql(table, "OLD"), key_sql(table, "r")
    row_is_new = same_key(table, "r", "NEW")
    nullable = [identifier(column.name) for column in table.key_columns if column.nullable]
    null_key = ""
    if nullable:
        message = literal(
            f"Subak: a row of {table.name} needs a primary key without NULL, or it cannot reach the other outlets"
        )
        conditions = " OR ".join(f"NEW.{name} IS NULL" for name in nullable)
        null_key = f"SELECT RAISE(ABORT, {message}) WHERE {conditions};\n\n    "
    return {
        "table": quoted,
        "table_name": literal(table.name),
        "outlet": literal(outlet),
        "now": NOW,
        "new_key": new_key,
        "old_key": old_key,
        "row_key": row_key,
        "old_image": image_sql(table, "OLD"),
        "row_image": image_sql(table, "r"),
        "changed": changed(table),
        "row_is_new": row_is_new,
        "new_is_there": f"EXISTS (SELECT 1 FROM {quoted} AS r WHERE {row_is_new})",  # noqa: S608
        "old_is_there": f"EXISTS (SELECT 1 FROM {quoted} AS r WHERE {same_key(table, 'r', 'OLD')} AND {row_key} = {old_key})",  # noqa: S608
        "row_is_noted": found_again(table, "r", "subak_replaced.KeyValues"),
        "key_cause": _key_cause(table),
        "null_key": null_key,
    }


def _key_cause(table: Table) -> str:
    return f"('key:' || {key_sql(table, 'NEW')})"


def _unique_cause(number: int, unique: _Unique) -> str:
    values = " || ',' || ".join(f"quote(NEW.{identifier(name)})" for name, _ in unique.columns)
    return f"('{number}:' || {values})"


def _causes(table: Table, uniques: list[_Unique]) -> str:
    return ", ".join([_key_cause(table), *(_unique_cause(i, unique) for i, unique in enumerate(uniques))])


def _collisions(table: Table, uniques: list[_Unique], itself: str) -> list[tuple[str, str]]:
    """Why and when a row `r` collides with NEW, but for the row `itself` (OLD) that collides with its own old values."""
    own = f"{key_sql(table, 'r')} IS NOT {key_sql(table, itself)}"
    equal_key = same_key(table, "r", "NEW")
    found = [(_key_cause(table), equal_key if itself == "NEW" else f"{equal_key} AND {own}")]
    for number, unique in enumerate(uniques):
        equal = [f"r.{identifier(name)} = NEW.{identifier(name)} COLLATE {coll}" for name, coll in unique.columns]
        found.append((_unique_cause(number, unique), " AND ".join([*equal, own])))
    return found


def _replacing(table: Table, uniques: list[_Unique], itself: str) -> dict[str, str]:
    """What trigger_replacing.sql needs."""
    quoted, row = identifier(table.name), f"{key_sql(table, 'r')} AS RowKey, {key_values_sql(table, 'r')} AS KeyValues"
    image = image_sql(table, "r")
    collisions = _collisions(table, uniques, itself)
    there = [f"EXISTS (SELECT 1 FROM {quoted} AS r WHERE {when})" for _, when in collisions]  # noqa: S608
    rows = [
        f"SELECT {cause} AS Cause, {row}, {image} AS Image FROM {quoted} AS r WHERE {when}"  # noqa: S608
        for cause, when in collisions
    ]
    return {"collides": "\n    OR ".join(there), "candidates": "\n        UNION ALL ".join(rows)}


def _update_columns(table: Table, uniques: list[_Unique]) -> list[str]:
    """The columns that an UPDATE must name to collide with another row; empty: it may collide without naming any."""
    if not all(unique.whole for unique in uniques):
        return []
    return list(dict.fromkeys([*table.key, *(name for unique in uniques for name, _ in unique.columns)]))


def _uniques(connection: Connection, table: Table) -> list[_Unique]:
    indexes = connection.exec_driver_sql(
        "SELECT name, partial FROM pragma_index_list(?) WHERE \"unique\" AND origin <> 'pk' ORDER BY name",
        (table.name,),
    ).all()
    found = []
    for index in indexes:
        columns = connection.exec_driver_sql(
            "SELECT name, coll FROM pragma_index_xinfo(?) WHERE key ORDER BY seqno", (index.name,)
        ).all()
        whole = not index.partial and all(table.has(column.name) for column in columns)
        found.append(_Unique(tuple((column.name, column.coll) for column in columns), whole))
    return found


def installed(connection: Connection) -> dict[str, Trigger]:
    rows = connection.exec_driver_sql("SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger'").all()
    return {row.name: Trigger(row.name, row.tbl_name, row.sql) for row in rows if row.name.startswith(PREFIX)}


def create(connection: Connection, trigger: Trigger) -> None:
    """In the transaction of `connection`, which holds the only write lock: nobody writes in between."""
    drop(connection, trigger)
    connection.exec_driver_sql(trigger.sql)


def drop(connection: Connection, trigger: Trigger) -> None:
    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {identifier(trigger.name)}")


def same(wanted: Trigger, there: Trigger) -> bool:
    return wanted.sql.split() == there.sql.split()
