"""What the server is and can do: asked of it, never concluded from a URL."""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


def is_mariadb(connection: Connection) -> bool:
    return "mariadb" in str(connection.exec_driver_sql("SELECT VERSION()").scalar()).lower()


def product(connection: Connection) -> str:
    """'MariaDB 10.11.6', 'MySQL 9.7.4'."""
    version = str(connection.exec_driver_sql("SELECT VERSION()").scalar())
    return f"{'MariaDB' if 'mariadb' in version.lower() else 'MySQL'} {version.partition('-')[0]}"


def cascades_fire_triggers(connection: Connection) -> bool:
    """MySQL 9.7 and later, when told to: a cascading foreign key fires the triggers of the child."""
    row = connection.exec_driver_sql("SHOW GLOBAL VARIABLES LIKE 'enable_cascade_triggers'").first()
    return row is not None and str(row[1]).upper() in ("ON", "1")


def tells_transactions(connection: Connection) -> bool:
    """Whether a trigger can tell a statement that is a transaction by itself: MariaDB.

    https://mariadb.com/kb/en/server-system-variables/#in_transaction
    """
    return is_mariadb(connection)


def names_transactions(connection: Connection) -> bool:
    """Whether a trigger that this user defines can read the transaction's name: MySQL 8.0.16 and later, with the privilege.

    https://dev.mysql.com/doc/refman/8.4/en/performance-schema-events-transactions-current-table.html
    """
    if is_mariadb(connection):
        return False
    try:
        connection.exec_driver_sql(
            "SELECT 1 FROM subak_state LIMIT 1"
        )  # a transaction begins with its first look at a table
        row = connection.exec_driver_sql(
            "SELECT EVENT_ID FROM performance_schema.events_transactions_current"
            " WHERE THREAD_ID = PS_CURRENT_THREAD_ID() AND STATE = 'ACTIVE'"
        ).first()
    except DBAPIError:
        return False
    return row is not None
