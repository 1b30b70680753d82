"""The folder of a remote outlet, written to the disk or, as a tar, to standard output: what a container cannot write it can say."""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from services.cli import pki
from services.cli.joining.rendering import site
from services.cli.setup.engines import Product
from services.kernel.authority import LEAF_DAYS
from services.kernel.errors import PermanentError
from services.kernel.wire.session import Side

USER = 10001
"""That of the containers: unpacked by root, the key is theirs to read."""

SECRET, PUBLIC = 0o600, 0o644
SECRETS = {"outlet.env", "tls/key.pem"}
STANDARD_OUTPUT = "-"


def write(name: str, engine: Product, hub: str, target: str) -> None:
    """Raises PermanentError `folder` when there is such a folder with something in it, and what issuing a certificate raises."""
    if target != STANDARD_OUTPUT:
        _require_free(Path(target))
    files = {path: text.encode() for path, text in site(name, engine, hub).items()} | _certificate(name)
    if target == STANDARD_OUTPUT:
        sys.stdout.buffer.write(_packed(name, files))
        sys.stdout.flush()
        return
    for path, content in files.items():
        file = Path(target) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(SECRET)  # before there is anything in it to read
        file.write_bytes(content)
        file.chmod(_mode(path))


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PermanentError(
            "folder", f"{folder} is there already, with something in it.", "Name a folder that is new, or empty."
        )


def _certificate(name: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pki.authority_at(None).issue(name, Side.OUTLET, folder, (), timedelta(days=LEAF_DAYS))
        return {f"tls/{file}": (folder / file).read_bytes() for file in ("ca.pem", "cert.pem", "key.pem")}


def _packed(name: str, files: Mapping[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode, entry.mtime = len(content), _mode(path), int(time.time())
            entry.uid = entry.gid = USER
            tar.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def _mode(path: str) -> int:
    return SECRET if path in SECRETS else PUBLIC
