"""The errors of PyMySQL, MySQL and MariaDB as ours, by number."""

from __future__ import annotations

import re

import pymysql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from services.kernel.errors import PermanentError, SubakError, TransientError

_AGAIN = "It is tried again by itself."
_CORRECT = "Correct the row or the schema, then retry."

_TRANSIENT = {
    "lock_timeout": ("A row or table is locked by another transaction.", _AGAIN, "1205 3572 1099 1100"),
    "deadlock": ("The transaction was chosen to end a deadlock.", _AGAIN, "1213 1479 1614"),
    "connection": (
        "The connection to the database is lost or refused.",
        "Check that the server runs and can be reached.",
        "1040 1041 1042 1043 1053 1077 1079 1080 1152 1158 1159 1160 1161 1184 1203 1226 1317 1927"
        " 2000 2002 2003 2006 2013 2014 2055 4031",
    ),
    "changed": ("The row or table changed meanwhile.", _AGAIN, "1020 1412 1615 1637 4092"),
    "timeout": ("The statement took longer than the server lets it.", _AGAIN, "1028 1969 3024"),
    "read_only": (
        "The server takes no writes now.",
        "Make it writable; it is tried again by itself.",
        "1290 1836 3100",
    ),
    "disk_full": ("The server has no room left.", "Make room; it is tried again by itself.", "3 28 1021 1026 1114"),
}

_PERMANENT = {
    "foreign_key": ("A foreign key would be broken.", _CORRECT, "1216 1217 1451 1452 1761 1762"),
    "check": ("A constraint or trigger of the application refuses the row.", _CORRECT, "1369 1644 3819 4025"),
    "not_null": ("A column must not be NULL.", _CORRECT, "1048 1263 1364"),
    "value": (
        "A value does not fit its column.",
        "Give the column the same type as at the other outlets, or correct the row, then retry.",
        "1118 1264 1265 1292 1366 1367 1406 1411 1416 1690 3140 3141 3143 3156 3854",
    ),
    "packet": (
        "A value is longer than max_allowed_packet.",
        "Raise max_allowed_packet on the server, then retry.",
        "1153 1301",
    ),
    "missing_table": ("A table is missing.", "Create it as the other outlets have it, then retry.", "1051 1146"),
    "missing_column": ("A column is missing.", "Add it as the other outlets have it, then retry.", "1054 1072"),
    "denied": (
        "The database user may not do this.",
        "Check name and password; `subak doctor` names the privileges that are needed.",
        "1044 1045 1142 1143 1227 1410 1419 1698 3118",
    ),
}

_BY_NUMBER: dict[int, tuple[type[TransientError] | type[PermanentError], str, str, str]] = {
    int(number): (kind, code, what, todo)
    for kind, codes in ((PermanentError, _PERMANENT), (TransientError, _TRANSIENT))
    for code, (what, todo, numbers) in codes.items()
    for number in numbers.split()
}

_DUPLICATE = {1022, 1062, 1169, 1586, 1859}
_PRIMARY = re.compile(r"for key '(?:[^']*\.)?PRIMARY'")


def classify(error: Exception) -> SubakError:
    if isinstance(error, SubakError):
        return error
    if isinstance(error, PoolTimeoutError):
        return TransientError("connection", "No connection to the database became free.")
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    number = cause.args[0] if cause.args and isinstance(cause.args[0], int) else 0
    said = f"{number}: {cause.args[1]}" if len(cause.args) > 1 else str(cause)
    if number in _DUPLICATE:
        if _PRIMARY.search(said):
            return TransientError("duplicate_key", f"A row of that primary key was written meanwhile. ({said})", _AGAIN)
        return PermanentError("unique", f"Another row has that value in a unique column. ({said})", _CORRECT)
    if number in _BY_NUMBER:
        kind, code, what, todo = _BY_NUMBER[number]
        return kind(code, f"{what} ({said})", todo)
    if isinstance(cause, (pymysql.err.InterfaceError, ConnectionError, TimeoutError)):
        return TransientError("connection", f"The connection to the database is lost. ({said})", _AGAIN)
    if isinstance(cause, (OverflowError, UnicodeError, pymysql.err.DataError)):
        return PermanentError("value", f"A value does not fit its column. ({said})", _CORRECT)
    return PermanentError("database", f"The database refused. ({said})", "Look the error up in the server's manual.")
