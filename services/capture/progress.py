"""How far capture has come, shared by the tasks that cut, send and mark. Belongs to the event loop's thread."""

from __future__ import annotations

import asyncio

from services.capture import metrics
from services.capture.polling import Cut
from services.capture.state import Position


class Progress:
    def __init__(self, cut: Position, stored: int) -> None:
        """`stored`: the greatest number whose rows are marked."""
        self.cut = cut
        self.stored = stored
        self.news = asyncio.Event()
        """Set whenever a batch has been cut."""
        self._show()

    def has_cut(self, cut: Cut) -> None:
        self.cut = cut.position
        for (table, op), count in cut.changes.items():
            metrics.CHANGES.labels(table, op.name.lower()).inc(count)
        metrics.BATCHES.inc()
        metrics.BYTES.inc(cut.bytes)
        self._show()
        self.news.set()

    def has_stored(self, number: int) -> None:
        metrics.STORED.inc(max(0, number - self.stored))
        self.stored = max(self.stored, number)
        self._show()

    def _show(self) -> None:
        metrics.WAITING.set(self.cut.number - self.stored)
