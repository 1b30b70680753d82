"""What an outlet may be called: the name stands in certificates, files, tables and log lines."""

from __future__ import annotations

import re

from services.kernel.errors import PermanentError
from services.kernel.wire.messages import HUB, OUTLET_NAME
from services.kernel.wire.session import Side

TAKEN = (HUB, str(Side.HUB), ".", "..")
"""The hub's own, in batches and in certificates; and what is a folder's name by itself."""


def is_outlet_name(name: str) -> bool:
    return bool(re.search(OUTLET_NAME, name)) and name not in TAKEN


def check_outlet_name(name: str) -> None:
    """Raises PermanentError `outlet_name`."""
    if not is_outlet_name(name):
        raise PermanentError(
            "outlet_name",
            f"{name[:80]!r} is no name for an outlet.",
            f"Use 1 to 64 of the characters A-Z a-z 0-9 _ . - only; {', '.join(TAKEN)} are taken.",
        )
