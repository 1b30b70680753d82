"""SQLite connections: Subak says BEGIN itself, and a transaction of the applier is marked for as long as it lasts."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from services.kernel.dialects import Purpose


def _text(raw: bytes) -> str:
    """SQLite takes any bytes for a text. Those that are not UTF-8 stay recognisable (`expressions.wire_image`)."""
    return raw.decode("utf-8", "surrogateescape")


def engine(url: URL, purpose: Purpose, lock_seconds: float) -> Engine:
    """See `Dialect.engine`. The database's journal mode is left as the application has it."""
    made = create_engine(url, connect_args={"timeout": lock_seconds})
    begin = "BEGIN" if purpose is Purpose.READ else "BEGIN IMMEDIATE"

    def set_up(connection: sqlite3.Connection, _record: Any) -> None:
        connection.text_factory = _text
        connection.isolation_level = None  # or the driver would begin when and how it likes
        connection.execute("PRAGMA foreign_keys = ON")
        if purpose is Purpose.READ:
            connection.execute("PRAGMA query_only = ON")

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)
        if purpose is Purpose.APPLY:
            connection.exec_driver_sql("INSERT INTO subak_mark (Applier) VALUES (1)")

    def before_commit(connection: Connection) -> None:
        connection.exec_driver_sql("DELETE FROM subak_mark")

    event.listen(made, "connect", set_up)
    event.listen(made, "begin", on_begin)
    if purpose is Purpose.APPLY:
        event.listen(made, "commit", before_commit)
    return made
