"""What the server is and can do: asked of it, never concluded from its name."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


def product(connection: Connection) -> str:
    """'SQL Server 16.0.4135', 'Babelfish for PostgreSQL 12.0.2000'."""
    told = str(connection.exec_driver_sql("SELECT @@VERSION").scalar())
    version = str(connection.exec_driver_sql("SELECT CAST(SERVERPROPERTY('ProductVersion') AS NVARCHAR(64))").scalar())
    name = "Babelfish" if "babelfish" in told.lower() else "SQL Server"
    return f"{name} {'.'.join(version.split('.')[:3])}"


def allows_snapshots(cursor: Any) -> bool:
    """Whether a transaction may read one consistent snapshot (ALTER DATABASE ... SET ALLOW_SNAPSHOT_ISOLATION ON)."""
    cursor.execute("SELECT snapshot_isolation_state FROM sys.databases WHERE database_id = DB_ID()")
    row = cursor.fetchone()
    return row is not None and row[0] == 1


def reads_are_statements(connection: Connection) -> bool:
    """Whether one SELECT under READ COMMITTED sees one moment (ALTER DATABASE ... SET READ_COMMITTED_SNAPSHOT ON)."""
    query = "SELECT is_read_committed_snapshot_on FROM sys.databases WHERE database_id = DB_ID()"
    return bool(connection.exec_driver_sql(query).scalar())


def answers(connection: Connection, query: str) -> bool:
    """Whether the server can execute this. The transaction is as it was, whichever it is."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(query).all()
    except DBAPIError:
        return False
    return True
