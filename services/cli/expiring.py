"""What `subak status` says of certificates: until when they are good, loudly when that is soon."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from rich.text import Text

from services.cli.console import console
from services.kernel.certificates import NEARLY, certificate_in
from services.kernel.environment import Fault, given

VARIABLE = "SUBAK_TLS_CERT"


def own_ends() -> int | None:
    """µs since 1970 UTC: the end of the certificate that this environment names; None: it names none that can be read."""
    faults: list[Fault] = []
    path = given(os.environ, VARIABLE, faults)
    if path is None:
        return None
    try:
        return int(certificate_in(Path(path)).ends.timestamp() * 1e6)
    except (OSError, ValueError):
        return None


def day(expires: str | None) -> str:
    return expires[:10] if expires else "-"


def warning(whose: str, expires: str | None, renewal: str) -> str | None:
    """What somebody must do about a certificate that ends at `expires` (ISO 8601), if it is time."""
    if expires is None:
        return None
    left = datetime.fromisoformat(expires.replace("Z", "+00:00")) - datetime.now(UTC)
    if left >= NEARLY:
        return None
    when = (
        f"EXPIRED on {day(expires)}" if left.total_seconds() <= 0 else f"EXPIRES in {left.days} days, on {day(expires)}"
    )
    return f"{whose} certificate {when}. Have a new one made (`subak pki issue {renewal}`) and put it in place; it is taken up by itself."


def print_warning(whose: str, expires: str | None, renewal: str) -> None:
    said = warning(whose, expires, renewal)
    if said is not None:
        console.print(Text(said, style="bold red"), soft_wrap=True)
