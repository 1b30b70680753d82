"""How far capture has come, shared by the tasks that cut, send and mark. Belongs to the event loop's thread."""

from __future__ import annotations

import asyncio
from collections import Counter

from services.capture import metrics
from services.capture.polling import Cut, Known
from services.capture.state import Position
from services.kernel.change import Op


class Progress:
    def __init__(self, cut: Position, stored: int, catching_up: bool = False) -> None:
        """`stored`: the greatest number whose rows are marked. `catching_up`: nothing is cut until the hub says welcome."""
        self.cut = cut
        self.stored = stored
        self.catching_up = catching_up
        self.known: Known | None = None
        self.news = asyncio.Event()
        """Set whenever there may be something to send."""
        self._show()

    def has_cut(self, cut: Cut) -> None:
        self.cut = cut.position
        metrics.count(metrics.CHANGES, cut.changes)
        metrics.BATCHES.inc()
        metrics.BYTES.inc(cut.bytes)
        self._show()
        self.news.set()

    def has_stored(self, number: int, changes: Counter[tuple[str, Op]]) -> None:
        """All up to `number` are marked; `changes` of these were not before."""
        metrics.STORED_BATCHES.inc(max(0, number - self.stored))
        metrics.count(metrics.STORED_CHANGES, changes)
        self.stored = max(self.stored, number)
        self._show()
        self.news.set()

    def knows(self, known: Known) -> None:
        """Of what is known only the newest is told, once its batches are stored: one that waits for that is kept."""
        if self.known is None or self.known.number <= self.stored:
            self.known = known
            self.news.set()

    def _show(self) -> None:
        metrics.WAITING.set(self.cut.number - self.stored)
