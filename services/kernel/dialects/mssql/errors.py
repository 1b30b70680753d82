"""SQL Server's errors as ours: by their number, which the driver puts into the message, and by SQLSTATE where that says enough.

https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors
"""

from __future__ import annotations

import re

import pyodbc
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from services.kernel.errors import PermanentError, SubakError, TransientError

_AGAIN = "It is tried again by itself."
_CORRECT = "Correct the row or the schema, then retry."

_TRANSIENT = {
    "deadlock": ("It was the victim of a deadlock.", _AGAIN, "1205"),
    "lock_timeout": ("A lock was not given in time.", _AGAIN, "1222"),
    "changed": ("A row was changed meanwhile.", _AGAIN, "3960 3961 41302 41305 41325"),
    "connection": (
        "The connection to the database is lost, or the server does not take one.",
        "Check that it runs; it is tried again by itself.",
        "233 596 913 921 922 924 927 942 945 976 983 6005 10053 10054 10060 10928 10929 17142 18401 40197 40501 40540 40613 49918 49919"
        " 49920",
    ),
    "timeout": ("The server took too long.", _AGAIN, "-2 258"),
    "read_only": ("The database is read-only now.", "Make it writable; it is tried again by itself.", "3906 3908"),
    "disk_full": ("The disk, or the log, is full.", "Make room; it is tried again by itself.", "1101 1105 9002 9001"),
}

_PERMANENT = {
    "unique": ("Another row has that value in a unique column.", _CORRECT, "2601 2627"),
    "foreign_key": ("A foreign key would be broken.", _CORRECT, "547"),
    "not_null": ("A column must not be NULL.", _CORRECT, "515"),
    "check": ("The application's own rules refuse the row.", _CORRECT, "3609 3616 50000"),
    "value": (
        "A value does not fit its column.",
        "Give the column the same type as at the other outlets, or correct the row, then retry.",
        "220 232 241 242 244 245 248 257 295 296 402 517 529 2628 8114 8115 8152 8169 9803 9807 13609",
    ),
    "missing_table": ("A table is missing.", "Create it as the other outlets have it, then retry.", "208 3701 4902"),
    "missing_column": ("A column is missing.", "Add it as the other outlets have it, then retry.", "207 1911 213"),
    "denied": (
        "The database user may not do this.",
        "Check name and password; `subak doctor` names the permissions that are needed.",
        "229 230 262 297 300 916 1088 2557 2571 2760 4060 8197 15247 18456 15151",
    ),
}

_BY_NUMBER: dict[int, tuple[type[TransientError] | type[PermanentError], str, str, str]] = {
    int(number): (kind, code, what, todo)
    for kind, codes in ((PermanentError, _PERMANENT), (TransientError, _TRANSIENT))
    for code, (what, todo, numbers) in codes.items()
    for number in numbers.split()
}

_BY_TEXT: tuple[tuple[str, int], ...] = (
    # Babelfish gives one number (33557097) for whatever PostgreSQL says and SQL Server has no number for.
    (r"deadlock detected", 1205),
    (r"lock timeout|could not obtain lock", 1222),
    (r"could not serialize access", 3960),
    (r"column .* does not exist|[Ii]nvalid column name", 207),
    (r"(?:relation|table) .* does not exist|[Ii]nvalid object name", 208),
    (r"permission denied", 229),
    (
        r"value too long|out of range|field overflow|invalid input syntax|cannot be represented|invalid byte sequence",
        8152,
    ),
    (r"violates check constraint", 547),
    (r"terminating connection|server closed the connection|the database system is", 233),
    (r"transaction is aborted", 3609),
)

_NUMBER = re.compile(r"\((-?\d+)\)")
_CHECK = re.compile(r"CHECK constraint|check constraint", re.IGNORECASE)
_KEY = re.compile(r"PRIMARY KEY|_pkey", re.IGNORECASE)

LOST = {"08S01", "08001", "08003", "08007", "HYT01", "01002"}
"""SQLSTATEs of a connection that is gone or was never had."""

TIMED_OUT = {"HYT00"}


def number_of(error: BaseException) -> int:
    """The server's number of an error that pyodbc raised; 0 when it has none."""
    for found in _NUMBER.findall(str(error.args[1]) if len(error.args) > 1 else ""):
        if int(found) in _BY_NUMBER:
            return int(found)
    return next((number for pattern, number in _BY_TEXT if re.search(pattern, str(error))), 0)


def classify(error: Exception) -> SubakError:
    if isinstance(error, SubakError):
        return error
    if isinstance(error, PoolTimeoutError):
        return TransientError("connection", "No connection to the database became free.")
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = str(cause.args[1]) if len(cause.args) > 1 else str(cause)
    state = str(cause.args[0]) if cause.args else ""
    number = number_of(cause)
    if number == 2627 and _KEY.search(said):
        return TransientError("duplicate_key", f"A row of that primary key was written meanwhile. ({said})", _AGAIN)
    if number == 547 and _CHECK.search(said):
        return PermanentError("check", f"A check constraint refuses the row. ({said})", _CORRECT)
    if number in _BY_NUMBER:
        kind, code, what, todo = _BY_NUMBER[number]
        return kind(code, f"{what} ({said})", todo)
    if state in LOST or isinstance(cause, (pyodbc.InterfaceError, ConnectionError)):
        return TransientError("connection", f"The connection to the database is lost. ({said})", _AGAIN)
    if state in TIMED_OUT or isinstance(cause, TimeoutError):
        return TransientError("timeout", f"The server did not answer in time. ({said})", _AGAIN)
    if isinstance(cause, (OverflowError, UnicodeError, pyodbc.DataError)) or state.startswith("22"):
        return PermanentError("value", f"A value does not fit its column. ({said})", _CORRECT)
    return PermanentError("database", f"The database refused. ({said})", "Look the error up in the server's manual.")
