"""A lease on an SQL Server database: a session's application lock on a connection of its own, which goes with the session."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from services.kernel.dialects.mssql import driver

ANSWER_SECONDS = 5
"""A server that does not answer on this connection by then may have given the lease to somebody else."""

_TAKE = (
    "DECLARE @got INT; EXEC @got = sp_getapplock @Resource = '{}', @LockMode = 'Exclusive', @LockOwner = 'Session',"
    " @LockTimeout = 0; SELECT @got"
)
_HELD = "SELECT APPLOCK_MODE('public', '{}', 'Session')"
"""Such locks belong to their database."""


class SessionLease:
    """See `services.kernel.dialects.Lease`."""

    def __init__(self, connection: Connection, resource: str) -> None:
        self._connection = connection
        self._resource = resource

    def holds(self) -> bool:
        try:
            return self._connection.exec_driver_sql(_HELD.format(self._resource)).scalar() == "Exclusive"
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
    resource = f"subak.{role}"
    try:
        connection.connection.driver_connection.timeout = ANSWER_SECONDS  # type: ignore[union-attr]
        connection.exec_driver_sql("SET NOCOUNT ON")  # or the lock's own statements would be the first result
        got = connection.exec_driver_sql(_TAKE.format(resource)).scalar()
        if got is not None and got >= 0:
            return SessionLease(connection, resource)
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None
