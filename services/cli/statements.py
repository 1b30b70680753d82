"""Named statements in .sql files beside the code that runs them."""

from __future__ import annotations

import re
from pathlib import Path


def named(path: Path) -> dict[str, str]:
    """The statements of a .sql file, each of which stands under a comment `-- name: what it is`."""
    parts = re.split(r"^-- (\w+): .*\n", path.read_text("utf-8"), flags=re.MULTILINE)
    return {name: body.strip().removesuffix(";") for name, body in zip(parts[1::2], parts[2::2], strict=True)}
