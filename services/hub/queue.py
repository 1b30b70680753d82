"""The hub's durable queue. Synchronous: the broker calls it in threads, the command line and the tests directly.

Writes come in groups, one transaction each: whatever gathered while the last commit ran (group commit).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from services.hub import state
from services.hub.delivering import Ack, mark_executed
from services.hub.outlets import nobody_online
from services.hub.storing import Arrival, Outcome, another_hub, lock_counter, number_from, store
from services.kernel.dialects import Dialect, Purpose, dialect_for
from services.kernel.errors import PermanentError, SubakError
from services.kernel.failpoint import reach
from services.kernel.schema import Side, prepare

LOCK_SECONDS = 5.0
"""Locks in the hub's database are held by the operator's commands, for milliseconds: more means something is wrong."""

Clock = Callable[[], int]
"""µs since 1970 UTC."""

P = ParamSpec("P")
T = TypeVar("T")
Call = Callable[[Connection], object]
"""Something else to be done in the group's transaction. When it raises a SubakError, all it did is undone, and nothing else."""


@dataclass
class Group:
    """What one transaction does, in this order."""

    arrivals: list[Arrival] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


@dataclass
class Results:
    """The outcomes of a group's arrivals and calls, each in its order."""

    stored: list[Outcome] = field(default_factory=list)
    returned: list[object] = field(default_factory=list)
    """What a call returned, or the SubakError it raised."""


class Queue:
    """Every method raises TransientError or PermanentError as the database's dialect sees it."""

    def __init__(self, dialect: Dialect, reading: Engine, writing: Engine, clock: Clock) -> None:
        self.dialect = dialect
        self._reading = reading
        self._writing = writing
        self._clock = clock
        self._last: int | None = None

    @property
    def now(self) -> int:
        return self._clock()

    def prepare(self) -> None:
        """Creates or upgrades the tables, and the rows that every hub database has."""
        with self._classified():
            if self.dialect.name == "sqlite":
                _let_readers_in(self._writing)
            with self._writing.connect() as connection:
                prepare(connection, self.dialect, Side.HUB)
        self.write(state.ensure, uuid.uuid4().hex)

    def start(self) -> None:
        """At a hub's start: as `prepare`, and nobody is online yet. See `storing.number_from`."""
        self.prepare()
        self.write(nobody_online)
        self.write(number_from, self.now)
        self._last = None

    def commit(self, group: Group) -> Results:
        """All of the group in one transaction. Raises PermanentError `another_hub` when somebody else gave sequences.

        When this raises TransientError it is unknown whether the group was committed. Committing it again is safe.
        """
        results = Results()
        expected, self._last = self._last, None
        with self._classified(), self._writing.begin() as connection:
            last = expected
            if group.arrivals:
                last = lock_counter(connection)
                if expected not in (None, last):
                    raise another_hub()
                results.stored = store(connection, group.arrivals, last, self.now)
                last = max([last, *(outcome for outcome in results.stored if isinstance(outcome, int))])
            if group.acks:
                mark_executed(connection, group.acks, self.now)
            for call in group.calls:
                try:
                    with connection.begin_nested():
                        results.returned.append(call(connection))
                except SubakError as error:
                    results.returned.append(error)
            if group.arrivals:
                reach("hub.before_store_commit")
            if group.acks:
                reach("hub.before_executed_commit")
        self._last = last
        if group.arrivals:
            reach("hub.after_store_commit")
        if group.acks:
            reach("hub.after_executed_commit")
        return results

    def write(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function` in a transaction of its own, committed when it returns."""
        with self._classified(), self._writing.begin() as connection:
            return function(connection, *args, **kwargs)

    def read(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function` in one consistent snapshot."""
        with self._classified(), self._reading.connect() as connection:
            return function(connection, *args, **kwargs)

    def close(self) -> None:
        self._reading.dispose()
        self._writing.dispose()

    @contextmanager
    def _classified(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            classified = self.dialect.classify(error)
            if classified.code == "duplicate_key":  # a race at an outlet; here one thread of one process writes
                classified = PermanentError("duplicate_key", classified.what, "Report this: the hub's tables disagree.")
            raise classified from error


def _let_readers_in(sqlite: Engine) -> None:
    """The hub's own file is in write-ahead mode, so that who reads and who commits do not wait for each other."""
    connection = sqlite.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def open_queue(url: URL, clock: Clock) -> Queue:
    """Connects to nothing yet. Raises PermanentError `engine` for an engine that is not supported."""
    dialect = dialect_for(url)
    reading = dialect.engine(url, Purpose.READ, lock_seconds=LOCK_SECONDS)
    writing = dialect.engine(url, Purpose.WRITE, lock_seconds=LOCK_SECONDS)
    return Queue(dialect, reading, writing, clock)
