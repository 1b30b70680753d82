"""The folder of a remote outlet, written to the disk or, as a tar, to standard output."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from services.cli import packing, pki
from services.cli.joining.rendering import site
from services.cli.setup.engines import Product
from services.kernel.authority import LEAF_DAYS
from services.kernel.errors import PermanentError
from services.kernel.wire.session import Side

SECRETS = {"database-url", "grants.sql", f"tls/{packing.KEY}"}


def write(name: str, engine: Product, hub: str, database: str, target: str) -> None:
    """Raises PermanentError `folder` when there is such a folder with something in it, and as `site` and issuing a certificate do."""
    if target != packing.STANDARD_OUTPUT:
        _require_free(Path(target))
    files = {path: text.encode() for path, text in site(name, engine, hub, database).items()}
    lifetime = timedelta(days=LEAF_DAYS)
    _, certificate = packing.certificate(pki.authority_at(None), name, Side.OUTLET, (), lifetime)
    files |= {f"tls/{file}": content for file, content in certificate.items()}
    if target == packing.STANDARD_OUTPUT:
        packing.say({f"{name}/{path}": content for path, content in files.items()}, {f"{name}/{it}" for it in SECRETS})
        return
    for path, content in files.items():
        file = Path(target) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(packing.SECRET)  # before there is anything in it to read
        file.write_bytes(content)
        file.chmod(packing.mode(path, SECRETS))


def _require_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PermanentError(
            "folder", f"{folder} is there already, with something in it.", "Name a folder that is new, or empty."
        )
