"""The outlet's database for asyncio: work runs in threads, and is tried again until the database is back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from services.kernel.dialects import Dialect, Purpose
from services.kernel.errors import TransientError

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.1
"""After a deadlock or a busy database: the cause is gone at once."""

LONGEST_PAUSE_SECONDS = 5.0
"""While the database is away: it is noticed within this time that it is back."""


class Stopped(Exception):
    """The service was told to stop while it waited for the database."""


class Database:
    def __init__(
        self, dialect: Dialect, url: URL, stop: asyncio.Event, health: Callable[[TransientError | None], None]
    ) -> None:
        """`health` is told what is wrong with the database (None: nothing) whenever an attempt has ended."""
        self.dialect = dialect
        self.reading = dialect.engine(url, Purpose.READ)
        self.writing = dialect.engine(url, Purpose.WRITE)
        self._one_writer = threading.Lock()
        self._stop = stop
        self._health = health

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One consistent snapshot, ended with the block. Raises TransientError or PermanentError."""
        with self._translated(), self.reading.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction for Subak's own tables, committed at the end of the block."""
        with self._one_writer, self._translated(), self.writing.begin() as connection:  # two would wait for each other
            yield connection

    async def read(self, work: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with self.snapshot() as connection:
                return work(connection)

        return await self.retried(attempt)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """`work` in one transaction. It may run again after a commit whose answer was lost."""

        def attempt() -> T:
            with self.transaction() as connection:
                return work(connection)

        return await self.retried(attempt)

    async def retried(self, attempt: Callable[[], T]) -> T:
        """Runs `attempt` in a thread until it does not raise TransientError. Raises PermanentError, or Stopped."""
        async for trial in AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_random_exponential(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
            sleep=self._pause,
            before_sleep=self._report,
        ):
            with trial:
                result = await asyncio.to_thread(attempt)
        self._health(None)
        return result

    def close(self) -> None:
        self.reading.dispose()
        self.writing.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise self.dialect.classify(error) from error

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return
        raise Stopped

    def _report(self, trial: RetryCallState) -> None:
        error = trial.outcome.exception() if trial.outcome else None
        if isinstance(error, TransientError):
            self._health(error)
