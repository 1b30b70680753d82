"""The queue as asyncio sees it: in threads, and tried again with growing pauses while its database is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from services.hub import metrics
from services.hub.queue import Group, Queue, Results
from services.kernel.errors import TransientError
from services.kernel.metrics import DATABASE_UP
from services.kernel.telemetry import Health, logger

READERS = 4
"""Threads that read: more than a hub's two or three busy cores need, few enough for any server's connection limit."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
"""A database that is back is noticed within this."""

P = ParamSpec("P")
T = TypeVar("T")

log = logger("database")


class Database:
    """One thread writes, a few read. Nothing is acknowledged while a call here is being tried again."""

    def __init__(self, queue: Queue, health: Health) -> None:
        self._queue = queue
        self._health = health
        self._away = False
        self._writer = ThreadPoolExecutor(1, "hub-write")
        self._readers = ThreadPoolExecutor(READERS, "hub-read")

    @property
    def now(self) -> int:
        """µs since 1970 UTC."""
        return self._queue.now

    async def start(self) -> None:
        """Raises PermanentError."""
        await self._patiently(self._writer, self._queue.start)

    async def commit(self, group: Group) -> Results:
        """Raises PermanentError."""
        return await self._patiently(self._writer, partial(self._queue.commit, group))

    async def read(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Raises PermanentError."""
        return await self._patiently(self._readers, partial(self._queue.read, function, *args, **kwargs))

    def close(self) -> None:
        """Waits for what is running in the threads."""
        for threads in (self._writer, self._readers):
            threads.shutdown(cancel_futures=True)
        self._queue.close()

    async def _patiently(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        async def attempt() -> T:
            return await asyncio.get_running_loop().run_in_executor(threads, work)

        tries = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_random_exponential(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS),
            before_sleep=self._report,
            reraise=True,
        )
        result: T = await tries(attempt)
        DATABASE_UP.set(1)
        if self._away:
            self._away = False
            self._health.ready, self._health.detail = self._before
            log.info("hub database answers again")
        return result

    def _report(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, TransientError):
            metrics.DATABASE_FAILURES.labels(error.code).inc()
        if isinstance(error, TransientError) and state.attempt_number > 1:
            DATABASE_UP.set(0)
            if not self._away:
                self._away, self._before = True, (self._health.ready, self._health.detail)
            self._health.ready, self._health.detail = False, str(error)
            log.warning(
                "hub database does not answer; trying again",
                code=error.code,
                what=error.what,
                tries=state.attempt_number,
            )
