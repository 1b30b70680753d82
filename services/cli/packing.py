"""Files for somewhere else, as a tar on standard output: what a container cannot write, it can say."""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from services.kernel.authority import Authority, Handed
from services.kernel.errors import PermanentError
from services.kernel.wire.session import Side

USER = 10001
"""That of the containers: unpacked by root, the key is theirs to read."""

SECRET, PUBLIC = 0o600, 0o644
STANDARD_OUTPUT = "-"
KEY = "key.pem"
TLS_FILES = ("ca.pem", "cert.pem", KEY)


def mode(path: str, secrets: Collection[str]) -> int:
    return SECRET if path in secrets else PUBLIC


def say(files: Mapping[str, bytes], secrets: Collection[str]) -> None:
    """Writes a tar of them, by path, to standard output; `secrets`: the paths that nobody else may read.

    Raises PermanentError `terminal`.
    """
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(content), mode(path, secrets), int(time.time())
            entry.uid = entry.gid = USER
            tar.addfile(entry, io.BytesIO(content))
    if sys.stdout.isatty():
        raise PermanentError(
            "terminal", "A tar with a private key in it is not for the screen.", "Send it to a file, or to `tar -x`."
        )
    sys.stdout.buffer.write(whole.getvalue())
    sys.stdout.flush()


def certificate(
    authority: Authority, name: str, side: Side, hosts: Sequence[str], lifetime: timedelta
) -> tuple[Handed, dict[str, bytes]]:
    """A new one, with a new key, that stands in no folder of this machine: by name, its files. Raises what issuing does."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        handed = authority.issue(name, side, folder, hosts, lifetime)
        return handed, {file: (folder / file).read_bytes() for file in TLS_FILES}
