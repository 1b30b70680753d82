"""A lease on a MySQL or MariaDB database: GET_LOCK on a connection of its own, which the server takes back with the connection."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

ANSWER_SECONDS = 5
"""A server that does not answer on this connection by then may have given the lease to somebody else."""

SILENT_SECONDS = 15
"""A session that has said nothing for so long is ended by the server: of a machine that is switched off it would not know otherwise."""

_NAME = (
    "CONCAT('subak.', %s, '.', LEFT(SHA2(IF(@@lower_case_table_names = 0, DATABASE(), LOWER(DATABASE())), 256), 40))"
)
"""Such locks belong to the whole server, and their names have at most 64 characters."""


class SessionLease:
    """See `services.kernel.dialects.Lease`."""

    def __init__(self, connection: Connection, role: str) -> None:
        self._connection = connection
        self._role = role

    def holds(self) -> bool:
        try:
            held = self._connection.exec_driver_sql(f"SELECT IS_USED_LOCK({_NAME}) = CONNECTION_ID()", (self._role,))
            return bool(held.scalar())
        except DBAPIError:
            return False

    def release(self) -> None:
        with suppress(DBAPIError):  # then the server has ended the session, and the lease with it
            self._connection.close()


def take(url: URL, role: str) -> SessionLease | None:
    """See `Dialect.lease`."""
    engine = create_engine(
        url.set(drivername="mysql+pymysql", query={**url.query, "charset": "utf8mb4"}),
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,
        connect_args={
            "connect_timeout": ANSWER_SECONDS,
            "read_timeout": ANSWER_SECONDS,
            "write_timeout": ANSWER_SECONDS,
        },
    )
    connection = engine.connect()
    try:
        connection.exec_driver_sql(f"SET SESSION wait_timeout = {SILENT_SECONDS}")
        if connection.exec_driver_sql(f"SELECT GET_LOCK({_NAME}, 0)", (role,)).scalar() == 1:
            return SessionLease(connection, role)
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None
