"""What the server is and can do: asked of it, never concluded from its name."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import ProgrammingError


def product(connection: Connection) -> str:
    """'SQL Server 16.0.4135', 'Babelfish for PostgreSQL 12.0.2000'."""
    told = str(connection.exec_driver_sql("SELECT @@VERSION").scalar())
    version = str(connection.exec_driver_sql("SELECT CAST(SERVERPROPERTY('ProductVersion') AS NVARCHAR(64))").scalar())
    name = "Babelfish" if "babelfish" in told.lower() else "SQL Server"
    return f"{name} {'.'.join(version.split('.')[:3])}"


def snapshots(cursor: Any) -> tuple[bool, bool]:
    """Whether a transaction may read one snapshot (ALTER DATABASE ... SET ALLOW_SNAPSHOT_ISOLATION ON), and whether each statement
    does so by itself under READ COMMITTED (SET READ_COMMITTED_SNAPSHOT ON)."""
    cursor.execute(
        "SELECT snapshot_isolation_state, is_read_committed_snapshot_on FROM sys.databases WHERE database_id = DB_ID()"
    )
    row = cursor.fetchone()
    return (False, False) if row is None else (row[0] == 1, bool(row[1]))


_answers: WeakKeyDictionary[Engine, dict[str, bool]] = WeakKeyDictionary()


def answers(engine: Engine, query: str) -> bool:
    """Whether the server can execute this. It is tried once, on a connection of its own: an error may end a transaction."""
    known = _answers.setdefault(engine, {})
    if query not in known:
        with engine.connect() as connection:
            try:
                connection.exec_driver_sql(query).all()
                known[query] = True
            except ProgrammingError:
                known[query] = False
    return known[query]
