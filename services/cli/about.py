"""`subak about`."""

from __future__ import annotations

import platform
import sqlite3
from importlib.metadata import metadata

from services.cli.console import console, grid
from services.kernel.schema import SCHEMA_VERSION
from services.kernel.wire.messages import PROTOCOL_VERSION


def command() -> None:
    """What this program is, and its versions."""
    package = metadata("subak")
    rows = [
        ["version", package["Version"]],
        ["protocol", str(PROTOCOL_VERSION)],
        ["schema", str(SCHEMA_VERSION)],
        ["Python", platform.python_version()],
        ["SQLite", sqlite3.sqlite_version],
        ["license", package["License-Expression"] or "Apache-2.0"],
    ]
    console.print(f"Subak: {package['Summary']}")
    console.print(grid(["", ""], rows))
