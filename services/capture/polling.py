"""Polls: what one snapshot shows newly is cut into batches and stored, one commit for each batch. Runs in a thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.capture import reading, state, storing
from services.capture.cutting import Read, batches, units
from services.capture.database import Database
from services.capture.state import Position
from services.kernel.change import Op
from services.kernel.failpoint import reach

SHORTEST_PAUSE_SECONDS = 0.02
"""Between two polls: half of it is a change's mean delay; shorter would cost the database more than it gains."""

LONGEST_PAUSE_SECONDS = 0.5
"""A change may always be on its way within half a second."""

QUIET_SHARE = 1 / 600
"""The pause grows to this share of the time without a change: 20 ms for 12 s, half a second after 5 minutes."""

WORK_SHARE = 10
"""The pause is at least so many idle polls long: polling takes a tenth of a slow database's time at most."""

BEHIND_SECONDS = 0.005
"""The pause grows by this, about what a hub needs for a batch, with each batch that waits for it: cutting faster would only
make more and smaller batches, above all while the link is down."""


class Cut(NamedTuple):
    """One batch that has become durable."""

    position: Position
    changes: Counter[tuple[str, Op]]
    bytes: int


class Cutter:
    """Cuts what waits. One thread at a time."""

    def __init__(
        self,
        database: Database,
        outlet: str,
        new_epoch: str,
        clock: Callable[[], int],
        done: Callable[[Cut], None],
        stopping: Callable[[], bool],
    ) -> None:
        """`clock` gives µs since 1970 UTC; `done` is told of each batch, in the polling thread; `stopping` is asked after it."""
        self._database = database
        self._images = reading.Images(database)
        self._outlet = outlet
        self._new_epoch = new_epoch
        self._clock = clock
        self._done = done
        self._stopping = stopping
        self._last: Position | None = None

    def open(self) -> Position:
        """The last batch that was cut. Begins the epoch when there is none."""
        with self._database.transaction() as connection:
            self._last = state.open_position(connection, self._new_epoch)
        return self._last

    def poll(self) -> int:
        """Cuts what one snapshot shows to wait; the number of changes. Raises TransientError or PermanentError."""
        last = self._last or self.open()
        self._last = None  # an error leaves open whether the last commit happened: then it is read again
        with self._database.snapshot() as connection:
            found = units(reading.waiting(connection, self._database.dialect))
        reads = reading.transactions(found, self._images, self._outlet, self._wire_image)
        changes = 0
        for batch in batches(reads):
            last = self._store(last, batch)
            changes += sum(len(read.ids) for read in batch)
            if self._stopping():
                break
        self._last = last
        return changes

    def _wire_image(self, table: str, image: str) -> str:
        dialect = self._database.dialect
        if not dialect.needs_table(image):
            return dialect.wire_image(image, None)
        with self._database.snapshot() as connection:  # seldom: between an ALTER TABLE and the renewal of the triggers
            return dialect.wire_image(image, dialect.catalogue(connection, ("*",)).table(table))

    def _store(self, last: Position, batch: Sequence[Read]) -> Position:
        with self._database.transaction() as connection:
            position, size = storing.cut(connection, self._outlet, last, batch, self._clock())
            reach("capture.before_cut_commit")
        reach("capture.after_cut_commit")
        counts = Counter((change.table, change.op) for read in batch for change in read.transaction.changes)
        self._done(Cut(position, counts, size))
        return position


def pause(quiet: float, poll: float, behind: int) -> float:
    """Seconds to wait before the next poll.

    `quiet` s ago the last change came, an idle poll took `poll` s, and `behind` batches wait for the hub.
    """
    wanted = max(SHORTEST_PAUSE_SECONDS, quiet * QUIET_SHARE, poll * WORK_SHARE, behind * BEHIND_SECONDS)
    return min(wanted, LONGEST_PAUSE_SECONDS)
