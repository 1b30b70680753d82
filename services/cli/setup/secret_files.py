"""Passwords in files: made once, at random, and left alone ever after."""

from __future__ import annotations

import os
import secrets
import string
import tempfile
from pathlib import Path

from services.kernel.errors import PermanentError

LETTERS = string.ascii_letters + string.digits
"""Nothing that a shell, a URL or an SQL string would want quoted."""

LENGTH = 32
"""About 190 bits."""

READABLE = 0o444
"""A database server reads its password under a user of its own: what keeps others out is that nobody else mounts the volume."""


def password(path: Path) -> str:
    """The one in the file; a new one where there is none. Raises PermanentError `setup_file`."""
    try:
        if found := path.read_text("utf-8").strip() if path.exists() else "":
            return found
    except OSError as error:
        raise _unusable(path, error) from error
    made = new_password()
    put(path, made)
    return made


def put(path: Path, text: str) -> None:
    """Writes the file whole, or not at all. Raises PermanentError `setup_file`."""
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as file:
            file.write(f"{text}\n")
            file.flush()
            os.fchmod(file.fileno(), READABLE)
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    except OSError as error:
        raise _unusable(path, error) from error


def new_password() -> str:
    """Capitals, small letters and digits, as SQL Server wants them of its administrator."""
    while True:
        made = "".join(secrets.choice(LETTERS) for _ in range(LENGTH))
        if any(map(str.isupper, made)) and any(map(str.islower, made)) and any(map(str.isdigit, made)):
            return made


def _unusable(path: Path, error: OSError) -> PermanentError:
    return PermanentError(
        "setup_file",
        f"{path} cannot be read or written: {error.strerror}.",
        "Let its folder belong to the user that this runs as (10001 in the containers).",
    )
