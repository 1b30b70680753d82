"""The generator of a table's AUTO_INCREMENT column."""

from __future__ import annotations

from sqlalchemy import Connection

from services.kernel.catalogue import Table
from services.kernel.dialects.mysql.expressions import identifier


def keys_from(connection: Connection, table: Table, first: int) -> int | None:
    """See `Dialect.keys_from`. InnoDB gives no key that is not greater than all there are."""
    generated = next((one for one in table.columns if one.generated), None)
    if generated is None:
        return None
    name = identifier(table.name)
    connection.exec_driver_sql(f"ALTER TABLE {name} AUTO_INCREMENT = {int(first)}")
    greatest = connection.exec_driver_sql(f"SELECT MAX({identifier(generated.name)}) FROM {name}").scalar()  # noqa: S608 - local catalogue
    return max(first, int(greatest or 0) + 1)
