"""MySQL and MariaDB connections, each set up for one purpose when it is made."""

from __future__ import annotations

from math import ceil
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

from services.kernel.dialects import Purpose

SQL_MODE = "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO"
"""Strict, so that a value is refused rather than changed. Without NO_ZERO_DATE: a date of zeros that an application wrote at
one outlet is written at the others as it is. A key of 0 stays 0. The triggers keep this mode, whatever the application's is."""

CONNECT_SECONDS = 10
"""A server that does not answer by then is taken for unreachable."""


def engine(url: URL, purpose: Purpose, lock_seconds: float) -> Engine:
    """See `Dialect.engine`. The driver is PyMySQL, whatever driver the URL names."""
    query = {**url.query, "charset": "utf8mb4"}
    made = create_engine(
        url.set(drivername="mysql+pymysql", query=query),
        isolation_level="REPEATABLE READ" if purpose is Purpose.READ else "READ COMMITTED",
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )
    seconds = max(1, ceil(lock_seconds))  # the server counts whole seconds
    settings = [
        f"SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = '{SQL_MODE}',"
        f" innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}"
    ]
    if purpose is Purpose.READ:
        settings.append("SET SESSION TRANSACTION READ ONLY")
    if purpose is Purpose.APPLY:
        settings.append("SET @subak_applier = 1")

    def set_up(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            for setting in settings:
                cursor.execute(setting)
            if purpose is Purpose.APPLY:
                # MariaDB can be told never to wait for a row's lock: who never waits is in no deadlock, so that the
                # application is never made the victim of one. MySQL waits for a second at least.
                cursor.execute("SELECT VERSION()")
                if "mariadb" in str(cursor.fetchone()).lower():
                    cursor.execute("SET innodb_lock_wait_timeout = 0")

    event.listen(made, "connect", set_up)
    return made
