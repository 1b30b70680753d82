"""What the applications know: which operations were committed, which were not, and of which nobody told them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import NamedTuple


class Operation(NamedTuple):
    """One transaction of a till. `deltas`: (row of `stock`, amount added to it)."""

    id: str
    outlet: str
    lines: int
    deltas: tuple[tuple[int, int], ...]


@dataclass
class Journal:
    """Written to by all tills."""

    committed: list[Operation] = field(default_factory=list)
    undone: list[Operation] = field(default_factory=list)
    """Rolled back, by the till or by its database."""
    unknown: list[Operation] = field(default_factory=list)
    """The connection failed: the outlet's own database says later what became of it."""
    keys: list[int] = field(default_factory=list)
    """Of notes, the last that some till has written, at whatever outlet; `gone`: the last that some till has deleted."""
    gone: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    KEPT_KEYS = 60
    """Few enough for the outlets to meet each other on them."""

    def note_written(self, key: int) -> None:
        with self.lock:
            self.keys = [*self.keys, key][-self.KEPT_KEYS :]

    def note_gone(self, key: int) -> None:
        with self.lock:
            self.gone = [*self.gone, key][-self.KEPT_KEYS :]

    def __str__(self) -> str:
        return f"{len(self.committed)} committed, {len(self.undone)} undone, {len(self.unknown)} unknown"
