"""sqlite3's errors as ours."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from services.kernel.errors import PermanentError, SubakError, TransientError

_TRANSIENT = {
    "SQLITE_BUSY": ("busy", "Another connection is writing to the database.", "It is tried again by itself."),
    "SQLITE_LOCKED": ("busy", "Another connection holds a table of the database.", "It is tried again by itself."),
    "SQLITE_FULL": ("disk_full", "The disk is full.", "Make room; it is tried again by itself."),
    "SQLITE_IOERR": ("connection", "The database file cannot be read or written.", "Check the disk."),
    "SQLITE_CANTOPEN": ("connection", "The database file cannot be opened.", "Check the path and its permissions."),
    "SQLITE_SCHEMA": ("busy", "The schema changed meanwhile.", "It is tried again by itself."),
    "SQLITE_CONSTRAINT_PRIMARYKEY": ("duplicate_key", "A row of that primary key was written meanwhile.", ""),
    "SQLITE_CONSTRAINT_ROWID": ("duplicate_key", "A row of that primary key was written meanwhile.", ""),
}

_PERMANENT = {
    "SQLITE_CONSTRAINT_UNIQUE": ("unique", "Another row has that value in a unique column."),
    "SQLITE_CONSTRAINT_FOREIGNKEY": ("foreign_key", "A foreign key would be broken."),
    "SQLITE_CONSTRAINT_CHECK": ("check", "A check constraint refuses the row."),
    "SQLITE_CONSTRAINT_TRIGGER": ("check", "A trigger of the application refuses the row."),
    "SQLITE_CONSTRAINT_NOTNULL": ("not_null", "A column must not be NULL."),
    "SQLITE_CONSTRAINT_DATATYPE": ("value", "A value does not fit its column."),
    "SQLITE_MISMATCH": ("value", "A value does not fit its column."),
    "SQLITE_TOOBIG": ("value", "A value is longer than SQLite takes."),
}


def classify(error: Exception) -> SubakError:
    if isinstance(error, SubakError):
        return error
    if isinstance(error, PoolTimeoutError):
        return TransientError("connection", "No connection to the database became free.")
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    name = getattr(cause, "sqlite_errorname", "") or ""
    said = str(cause)
    # An extended code (SQLITE_BUSY_SNAPSHOT) that is not listed counts as its primary one.
    for known in (name, "_".join(name.split("_")[:2])):
        if known in _TRANSIENT:
            code, what, todo = _TRANSIENT[known]
            return TransientError(code, f"{what} ({said})", todo)
        if known in _PERMANENT:
            code, what = _PERMANENT[known]
            return PermanentError(code, f"{what} ({said})", "Correct the row or the schema, then retry.")
    if "no such table" in said:
        return PermanentError(
            "missing_table", f"A table is missing: {said}.", "Create it as the other outlets have it."
        )
    if "no such column" in said or "has no column named" in said:
        return PermanentError("missing_column", f"A column is missing: {said}.", "Add it as the other outlets have it.")
    if isinstance(cause, (OverflowError, UnicodeError)):
        return PermanentError("value", f"A value does not fit its column: {said}.", "Correct the row at its origin.")
    if isinstance(cause, sqlite3.OperationalError) and "locked" in said:
        return TransientError("busy", f"The database is in use: {said}.", "It is tried again by itself.")
    return PermanentError(
        "database", f"The database refused: {said}.", "See the database's documentation for the error."
    )
