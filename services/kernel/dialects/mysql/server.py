"""What the server is and can do: asked of it, never concluded from a URL."""

from __future__ import annotations

from sqlalchemy import Connection


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
