"""The generator of a table's rowid, where it has one of its own: AUTOINCREMENT."""

from __future__ import annotations

from sqlalchemy import Connection, column, func, insert, select, table, update

from services.kernel.catalogue import Table
from services.kernel.dialects.sqlite.expressions import identifier

_SCHEMA = table("sqlite_master", column("name"), column("sql"))
_SEQUENCE = table("sqlite_sequence", column("name"), column("seq"))


def keys_from(connection: Connection, table: Table, first: int) -> int | None:
    """See `Dialect.keys_from`. Without AUTOINCREMENT the next key is the greatest plus one: nothing can be set."""
    generated = next((one for one in table.columns if one.generated), None)
    made_by = connection.scalar(select(_SCHEMA.c.sql).where(_SCHEMA.c.name == table.name)) or ""
    if generated is None or "AUTOINCREMENT" not in made_by.upper():
        return None
    greatest = connection.exec_driver_sql(
        f"SELECT MAX({identifier(generated.name)}) FROM {identifier(table.name)}"  # noqa: S608 - local catalogue
    ).scalar()
    given = max(first, (greatest or 0) + 1)
    mine = func.lower(_SEQUENCE.c.name) == table.name.lower()
    if not connection.execute(update(_SEQUENCE).where(mine).values(seq=given - 1)).rowcount:
        connection.execute(insert(_SEQUENCE).values(name=table.name, seq=given - 1))
    return given
