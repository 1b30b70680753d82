"""A lease on an SQL Server database: a session's application lock on a connection of its own, which goes with the session."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from services.kernel.dialects.mssql import driver

ANSWER_SECONDS = 5
"""A server that does not answer on this connection by then may have given the lease to somebody else."""

_NAMED = "DECLARE @resource NVARCHAR(255) = CONCAT('subak.{}.', DB_NAME());"
"""With the database's name: SQL Server's locks belong to their database, but not every server that takes them keeps to that."""

_TAKE = f"{_NAMED} EXEC sp_getapplock @Resource = @resource, @LockMode = 'Exclusive', @LockOwner = 'Session', @LockTimeout = 0"
"""What it returns is not asked for: a server may say in a result of its own, which comes before that, that somebody has the lock."""

_HELD = f"{_NAMED} SELECT APPLOCK_MODE('public', @resource, 'Session')"


class SessionLease:
    """See `services.kernel.dialects.Lease`."""

    def __init__(self, connection: Connection, role: str) -> None:
        self._connection = connection
        self._role = role

    def holds(self) -> bool:
        try:
            return self._connection.exec_driver_sql(_HELD.format(self._role)).scalar() == "Exclusive"
        except DBAPIError:
            return False

    def release(self) -> None:
        with suppress(DBAPIError):  # then the server has ended the session, and the lease with it
            self._connection.close()


def take(url: URL, role: str) -> SessionLease | None:
    """See `Dialect.lease`."""
    engine = create_engine(
        driver.with_driver(url),
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,
        connect_args={"timeout": ANSWER_SECONDS},
    )
    connection = engine.connect()
    try:
        connection.connection.driver_connection.timeout = ANSWER_SECONDS  # type: ignore[union-attr]
        connection.exec_driver_sql("SET NOCOUNT ON")  # or the name's own statement would be the first result
        connection.exec_driver_sql(_TAKE.format(role))
        lease = SessionLease(connection, role)
        if lease.holds():
            return lease
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None
