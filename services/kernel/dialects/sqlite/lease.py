"""A lease on an SQLite database: a lock on a file beside it, which the system takes back when the process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sqlalchemy.engine import URL

from services.kernel.errors import TransientError


class FileLease:
    """See `services.kernel.dialects.Lease`. `file` is the open lock file at `path`."""

    def __init__(self, path: Path, file: int, database: Path) -> None:
        self._path = path
        self._file = file
        self._database = database
        self._there = _identity(database)

    def holds(self) -> bool:
        """Not when somebody has removed the lock file: the next one who asks makes another and locks that. Nor when another database file
        was put in the place of ours: connections that are open go on with the one that is gone."""
        ours = os.fstat(self._file)
        return _identity(self._path) == (ours.st_dev, ours.st_ino) and _identity(self._database) == self._there

    def release(self) -> None:
        os.close(self._file)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def take(url: URL, role: str) -> FileLease | None:
    """See `Dialect.lease`. The file stays when the lease is given back: it is the lock on it that counts."""
    database = Path(url.database or "").resolve()
    path = database.with_name(f"{database.name}-subak-{role}.lock")
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o660)
    except OSError as error:
        raise TransientError(
            "connection",
            f"The file {path} cannot be opened: {error.strerror}.",
            "Check the folder and its permissions.",
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return FileLease(path, file, database)
