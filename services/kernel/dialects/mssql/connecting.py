"""SQL Server connections through pyodbc, each set up for one purpose when it is made, and marked in every transaction of the applier's."""

from __future__ import annotations

import re
from typing import Any

import pyodbc
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL

from services.kernel.dialects import Purpose
from services.kernel.dialects.mssql import driver, identity, server
from services.kernel.errors import TransientError

SCHEMA = "subak"
"""Where Subak's own tables are: SQLAlchemy puts it before the names that `services.kernel.schema` gives."""

MARK = "0x537562616B2D6170706C696572000000"
"""'Subak-applier' as CONTEXT_INFO of the session: the triggers do nothing while it is there."""

SNAPSHOTS = "subak_snapshots"
"""In a connection's `info`: whether one SELECT sees one moment."""

NO_MARK = "0x00"

CONNECT_SECONDS = 10
"""A server that does not answer by then is taken for unreachable."""

_BEGIN = "SELECT TOP (0) object_id FROM sys.objects"
"""Where transactions begin by themselves, a statement that reads a table begins one."""

_HOLD = "EXEC sp_getapplock @Resource = 'subak.applying', @LockMode = 'Shared', @LockOwner = 'Transaction', @LockTimeout = 0"
_HELD = "SELECT APPLOCK_MODE('public', 'subak.applying', 'Transaction')"
"""A lock that nobody waits for, and that goes with its transaction: 'NoLock' when that is not the one that took it."""

_OWN = re.compile(rf"(INSERT INTO|UPDATE|DELETE FROM) {SCHEMA}\.")
"""A statement that writes to one of our tables."""

_ARRAYS = "subak_arrays"
"""In a connection's `info`: whether its driver may be given many rows at once. With FreeTDS the process would end by a memory fault."""

MICROSOFTS = "msodbcsql"
"""In the file name of Microsoft's driver."""

_NOT_HELD = "NoLock"
_HOLDS = "subak_holds"
"""In a connection's `info`: whether its transaction holds that lock."""

pyodbc.pooling = False
"""The driver manager's own pool would hand a session that is marked to whoever asks next."""


NO_TRANSACTION = "(3903)"


def _rollback(connection: Any) -> None:
    """An error may have ended the transaction already: that must not hide it behind another."""
    try:
        connection.rollback()
    except pyodbc.Error as error:
        if NO_TRANSACTION not in str(error):
            raise


def engine(url: URL, purpose: Purpose, lock_seconds: float) -> Engine:
    """See `Dialect.engine`."""
    made = create_engine(
        driver.with_driver(url),
        connect_args={"timeout": CONNECT_SECONDS},
        execution_options={"schema_translate_map": {None: SCHEMA}},
        use_setinputsizes=False,  # it would send a Text as varchar, in a code page: the driver alone sends Unicode
        use_insertmanyvalues=False,  # its ORDER BY says nothing that we need, and not every server takes it
    )
    made.dialect.do_rollback = _rollback  # type: ignore[method-assign, assignment]
    settings = [
        f"SET LOCK_TIMEOUT {int(lock_seconds * 1000)}",
        "SET DEADLOCK_PRIORITY LOW",  # when one of two must go it is Subak, never the application
        "SET XACT_ABORT OFF",
        "SET NOCOUNT OFF",  # how many rows a statement met is counted on
        "SET ANSI_NULLS, ANSI_PADDING, ANSI_WARNINGS, ARITHABORT, CONCAT_NULL_YIELDS_NULL, QUOTED_IDENTIFIER ON",
        "SET DATEFORMAT ymd",
    ]

    def set_up(connection: Any, record: Any) -> None:
        record.info[_ARRAYS] = MICROSOFTS in connection.getinfo(pyodbc.SQL_DRIVER_NAME)
        cursor = connection.cursor()
        for setting in settings:
            cursor.execute(setting)
        snapshots, statements = server.snapshots(cursor)
        isolation = "SNAPSHOT" if purpose is Purpose.READ and snapshots else "READ COMMITTED"
        record.info[SNAPSHOTS] = isolation == "SNAPSHOT" or statements
        connection.commit()
        cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        cursor.close()
        connection.commit()

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET CONTEXT_INFO {MARK}")
        connection.exec_driver_sql(_BEGIN).all()
        connection.exec_driver_sql(_HOLD)
        connection.info[_HOLDS] = connection.exec_driver_sql(_HELD).scalar() != _NOT_HELD

    def on_commit(connection: Connection) -> None:
        """An error that nobody told may have ended the transaction, and another begun by itself: half of it must not be committed."""
        identity.settle(connection.exec_driver_sql, connection.info)
        if connection.info.pop(_HOLDS, False) and connection.exec_driver_sql(_HELD).scalar() == _NOT_HELD:
            raise TransientError(
                "ended", "The database ended the transaction on the way.", "It is tried again by itself."
            )

    def on_execute(connection: Connection, cursor: Any, sql: str, _parameters: Any, _context: Any, many: bool) -> None:
        """All rows in one message, into our own tables: of the application's columns the driver would have to guess what they hold."""
        cursor.fast_executemany = many and connection.info[_ARRAYS] and _OWN.match(sql) is not None

    def on_reset(connection: Any, record: Any, _state: Any) -> None:
        """A session that goes back to our pool is nobody's until its next transaction."""
        _rollback(connection)  # SQLAlchemy leaves it open, and takes it for ended, when `on_commit` raises
        cursor = connection.cursor()
        if identity.settle(cursor.execute, record.info):
            connection.commit()
        cursor.execute(f"SET CONTEXT_INFO {NO_MARK}")
        cursor.close()
        connection.commit()  # SQLAlchemy has ended the transaction before this, and does not end another

    event.listen(made, "connect", set_up)
    if purpose is Purpose.APPLY:
        event.listen(made, "before_cursor_execute", on_execute)
        event.listen(made, "begin", on_begin)
        event.listen(made, "commit", on_commit)
        event.listen(made, "reset", on_reset)
    return made
