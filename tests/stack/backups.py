"""Backups of an outlet's or the hub's database, as a DBA would take and restore them: one moment of it, Subak's own tables and triggers too."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pymysql
from sqlalchemy.engine import URL

ROWS_AT_ONCE = 500


def take(url: URL, folder: Path, name: str) -> Backup:
    """What is committed at this moment. Nobody is stopped for it."""
    if url.get_backend_name() == "sqlite":
        return SqliteBackup(url, folder / f"{name}.backup")
    return MysqlBackup(url)


class SqliteBackup:
    def __init__(self, url: URL, path: Path) -> None:
        self._path = path
        with closing(sqlite3.connect(str(url.database))) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)

    def restore(self, url: URL) -> None:
        """Over whatever is there. Nobody may have the file open."""
        for suffix in ("-wal", "-shm", "-journal"):
            Path(f"{url.database}{suffix}").unlink(missing_ok=True)
        shutil.copy(self._path, str(url.database))


class MysqlBackup:
    """MySQL and MariaDB: definitions, rows and triggers, read in one snapshot."""

    def __init__(self, url: URL) -> None:
        self._tables: list[tuple[str, str, list[str], list[tuple[Any, ...]]]] = []
        self._triggers: list[str] = []
        with _connected(url) as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            for table in _all(cursor, "SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'"):
                ((_, definition),) = _rows(cursor, f"SHOW CREATE TABLE `{table}`")
                columns = [row[0] for row in _rows(cursor, f"SHOW COLUMNS FROM `{table}`") if "GENERATED" not in row[5]]
                names = ", ".join(f"`{column}`" for column in columns)
                self._tables.append((table, definition, columns, _rows(cursor, f"SELECT {names} FROM `{table}`")))
            for name in _all(cursor, "SHOW TRIGGERS"):
                (row,) = _rows(cursor, f"SHOW CREATE TRIGGER `{name}`")
                self._triggers.append(re.sub(r"\ACREATE DEFINER=\S+ ", "CREATE ", row[2]))

    def restore(self, url: URL) -> None:
        """Over whatever is there."""
        with _connected(url) as cursor:
            cursor.execute(
                "SET FOREIGN_KEY_CHECKS = 0, SESSION sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_VALUE_ON_ZERO')"
            )
            for table in _all(cursor, "SHOW FULL TABLES WHERE Table_type = 'BASE TABLE'"):
                cursor.execute(f"DROP TABLE `{table}`")
            for table, definition, columns, rows in self._tables:
                cursor.execute(definition)
                names = ", ".join(f"`{column}`" for column in columns)
                insert = f"INSERT INTO `{table}` ({names}) VALUES ({', '.join(['%s'] * len(columns))})"
                for start in range(0, len(rows), ROWS_AT_ONCE):
                    cursor.executemany(insert, rows[start : start + ROWS_AT_ONCE])
            for trigger in self._triggers:
                cursor.execute(trigger)


Backup = SqliteBackup | MysqlBackup


@contextmanager
def _connected(url: URL) -> Iterator[pymysql.cursors.Cursor]:
    connection = pymysql.connect(
        host=url.host or "127.0.0.1",
        port=url.port or 3306,
        user=url.username or "",
        password=str(url.password or ""),
        database=url.database,
        charset="utf8mb4",
        autocommit=True,
    )
    with closing(connection), connection.cursor() as cursor:
        yield cursor


def _rows(cursor: pymysql.cursors.Cursor, sql: str) -> list[tuple[Any, ...]]:
    cursor.execute(sql)
    return list(cursor.fetchall())


def _all(cursor: pymysql.cursors.Cursor, sql: str) -> list[str]:
    return [str(row[0]) for row in _rows(cursor, sql)]
