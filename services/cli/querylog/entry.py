"""One line of the query log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from services.cli.console import instant


@dataclass(frozen=True)
class Entry:
    """`at`: µs since 1970 UTC. `outlet`: where it went, at the hub; elsewhere empty. `sender`: the change's origin."""

    at: int
    message: str
    status: str
    sender: str
    outlet: str = ""

    def document(self) -> dict[str, Any]:
        shown = {"date": instant(self.at), "message": self.message, "status": self.status, "sender": self.sender}
        return shown | ({"outlet": self.outlet} if self.outlet else {})
