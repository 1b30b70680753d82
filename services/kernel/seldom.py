"""Keeps what strangers can cause from filling a log: a few lines of one kind a minute, then only how many there were. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

BURST = 5
"""Of one kind a minute: enough to see what it is, and that it goes on."""

MINUTE = 60.0

MOST = 1000
"""Kinds that are remembered, the latest: whoever comes from ever new addresses must not fill the memory instead."""


@dataclass
class _Kind:
    since: float
    lines: int = 0
    kept_back: int = 0


class Seldom:
    def __init__(self) -> None:
        self._kinds: OrderedDict[object, _Kind] = OrderedDict()

    def ask(self, kind: object, now: float) -> int | None:
        """Whether a line of that kind may be written at `now` (s): how many were kept back before it; None: it may not."""
        known = self._kinds.setdefault(kind, _Kind(now))
        self._kinds.move_to_end(kind)
        if len(self._kinds) > MOST:
            self._kinds.popitem(last=False)
        kept_back = 0
        if now - known.since >= MINUTE:
            kept_back = known.kept_back
            known.since, known.lines, known.kept_back = now, 0, 0
        if known.lines >= BURST:
            known.kept_back += 1
            return None
        known.lines += 1
        return kept_back
