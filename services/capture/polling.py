"""Polls: what one snapshot shows newly is cut into batches and stored, one commit for each batch. Runs in a thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.capture import reading, state, storing
from services.capture.cutting import Read, admitted, batches, units
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


class Known(NamedTuple):
    """All that was committed here before delivery `seen` was executed is in the batches up to `number` of the epoch."""

    number: int
    seen: int


class Cutter:
    """Cuts what waits. One thread at a time.

    `held`: the changes that the last poll left, since they, or one before them, are stamped after what `limit` gave. `known`: what
    the last poll with `looking` found to be cut; None when it cut less than it saw.
    """

    def __init__(
        self,
        database: Database,
        outlet: str,
        new_epoch: str,
        clock: Callable[[], int],
        done: Callable[[Cut], None],
        stopping: Callable[[], bool],
        limit: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`clock` gives µs since 1970 UTC; `done` is told of each batch, in the polling thread; `stopping` is asked after it;
        `limit` gives the time (in the same µs) that no stamp may be after, or None."""
        self._database = database
        self._images = reading.Images(database)
        self._outlet = outlet
        self._new_epoch = new_epoch
        self._clock = clock
        self._done = done
        self._stopping = stopping
        self._limit = limit
        self._last: Position | None = None
        self.held = 0
        self.known: Known | None = None

    def open(self) -> Position:
        """The last batch that was cut. Begins the epoch when there is none."""
        with self._database.transaction() as connection:
            self._last = state.open_position(connection, self._new_epoch)
        return self._last

    def poll(self, looking: bool = False) -> int:
        """Cuts what one snapshot shows to wait; the number of changes. Raises TransientError or PermanentError.

        `looking`: besides, whether the database is still at the batch that was cut last, and how far its applier has come.
        """
        last = self._last or self.open()
        self._last = None  # an error leaves open whether the last commit happened: then it is read again
        self.known, seen, limit = None, 0, self._limit()
        with self._database.snapshot() as connection:
            if looking:
                if state.position_of(state.read(connection)) != last:
                    raise state.another_capture()
                seen = reading.executed(
                    connection, self._database.dialect
                )  # before the rows: what was committed by then is among them
            found = units(reading.waiting(connection, self._database.dialect))
            ahead = frozenset[int]()
            if limit is not None:
                ahead = reading.ahead(connection, self._database.dialect, limit)
        ready = admitted(found, ahead)
        self.held = sum(len(unit.ids) for unit in found[len(ready) :])
        reads = reading.transactions(ready, self._images, self._outlet, self._wire_image)
        changes = 0
        for batch in batches(reads):
            last = self._store(last, batch)
            changes += sum(len(read.ids) for read in batch)
            if self._stopping():
                break
        else:
            if looking and not self.held:
                self.known = Known(last.number, seen)
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
