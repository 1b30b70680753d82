"""The service: triggers first, then four tasks side by side: cutting, sending, and watching over triggers and age."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from functools import partial
from importlib.metadata import version
from typing import Any

from services.capture import metrics, storing, triggers
from services.capture.database import Database, Stopped
from services.capture.polling import Cut, Cutter, pause
from services.capture.progress import Progress
from services.capture.sending import Sender
from services.capture.triggers import Report
from services.kernel.catalogue import Refusal
from services.kernel.dialects import dialect_for, require_file
from services.kernel.errors import PermanentError, TransientError
from services.kernel.link import keep_linked
from services.kernel.settings import OutletSettings
from services.kernel.telemetry import Health, logger, serve_metrics

CATALOGUE_SECONDS = 3.0
"""How often the triggers are compared with the tables: a changed table is captured as it was for so long at most."""

CATALOGUE_SHARE = 20
"""Where that comparison takes long (thousands of tables, a slow server), it is made so much less often than it takes."""

REFUSED_SECONDS = 30.0
"""How soon they are tried again where the database refused them: a CREATE TRIGGER waits for the table's writers, and they for it."""

AGE_SECONDS = 2.0
"""How often the age of the oldest change that is not confirmed is looked up."""

log = logger("capture")


def now() -> int:
    """µs since 1970 UTC."""
    return time.time_ns() // 1000


class Service:
    def __init__(self, settings: OutletSettings, stop: asyncio.Event, nudge: asyncio.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._nudge = nudge
        self.health = Health(link="not linked with the hub yet")
        self._database = Database(
            dialect_for(settings.database_url), settings.database_url, stop, self._database_health
        )
        self._refusals: tuple[Refusal, ...] = ()
        self._away = False

    async def run(self) -> None:
        """Until the service is told to stop. Raises PermanentError when somebody must act first."""
        require_file(self._settings.database_url, may_be_away=True)
        serve_metrics(self._settings.metrics_listen, self.health)
        try:
            await self._serve()
        except Stopped:
            log.info("stopped while the database was away")
        finally:
            self._database.close()

    async def _serve(self) -> None:
        install = partial(triggers.install, self._database.writing, self._database.dialect)
        report = await self._database.retried(partial(install, self._settings.tables, self._settings.outlet))
        self._tell(report)
        cutter, progress = await self._open()
        sender = Sender(self._database, self._settings.outlet, f"subak {version('subak')}", progress, now, self._stop)
        log.info(
            "started",
            outlet=self._settings.outlet,
            database=await self._database.read(self._database.dialect.server),
            epoch=progress.cut.epoch,
            cut=progress.cut.number,
            stored=progress.stored,
            triggers=len(report.installed) + len(report.rebuilt) + len(report.unchanged),
        )
        await _together(
            keep_linked(self._settings, sender.hello, sender.run, self._stop, self._nudge, self.health),
            self._cut(cutter, progress),
            self._watch_triggers(),
            self._watch_age(progress),
        )

    async def _open(self) -> tuple[Cutter, Progress]:
        loop = asyncio.get_running_loop()
        progress: Progress

        def done(cut: Cut) -> None:
            loop.call_soon_threadsafe(lambda: progress.has_cut(cut))

        cutter = Cutter(self._database, self._settings.outlet, secrets.token_hex(8), now, done, self._stop.is_set)
        position = await self._database.retried(cutter.open)
        stored = await self._database.read(partial(storing.last_stored, epoch=position.epoch))
        progress = Progress(position, stored)
        return cutter, progress

    async def _cut(self, cutter: Cutter, progress: Progress) -> None:
        worked = time.monotonic()
        while not self._stop.is_set():
            begun = time.monotonic()
            changes = await self._database.retried(cutter.poll)
            metrics.POLLS.inc()
            ended = time.monotonic()
            if changes:
                worked = ended
            await self._sleep(
                pause(ended - worked, 0.0 if changes else ended - begun, progress.cut.number - progress.stored)
            )

    async def _watch_triggers(self) -> None:
        arguments = (self._database.dialect, self._settings.tables, self._settings.outlet)
        wait = CATALOGUE_SECONDS
        while not self._stop.is_set():
            await self._sleep(wait)
            began, wait = time.monotonic(), REFUSED_SECONDS
            try:
                report = await self._database.retried(partial(triggers.check, self._database.reading, *arguments))
                wanted = report.changed
                if wanted:
                    report = await self._database.retried(partial(triggers.install, self._database.writing, *arguments))
            except PermanentError as error:
                log.error("triggers", code=error.code, what=error.what, todo=error.todo)
            else:
                self._tell(report)
                if report.changed or not wanted:
                    wait = max(CATALOGUE_SECONDS, (time.monotonic() - began) * CATALOGUE_SHARE)

    async def _watch_age(self, progress: Progress) -> None:
        while not self._stop.is_set():
            oldest = await self._database.read(
                partial(storing.cut_at, epoch=progress.cut.epoch, number=progress.stored + 1)
            )
            metrics.OLDEST.set(0 if oldest is None else max(0, now() - oldest) / 1e6)
            await self._sleep(AGE_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

    def _tell(self, report: Report) -> None:
        """One line for what changed, and one for each refusal that is new."""
        if report.changed:
            log.info("triggers", installed=report.installed, rebuilt=report.rebuilt, removed=report.removed)
        for refusal in report.refusals:
            if refusal not in self._refusals:
                log.warning(
                    "table left out", table=refusal.table, code=refusal.code, what=refusal.what, todo=refusal.todo
                )
        self._refusals = report.refusals
        metrics.REFUSED_TABLES.set(len({refusal.table for refusal in report.refusals}))

    def _database_health(self, wrong: TransientError | None) -> None:
        if wrong is not None and not self._away:
            log.warning("trying the database again", code=wrong.code, what=wrong.what, todo=wrong.todo)
        elif wrong is None and self._away:
            log.info("the database answers again")
        self._away = wrong is not None
        self.health.ready = wrong is None
        self.health.detail = "" if wrong is None else f"database: {wrong.what}"


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """Runs all to their end. When one raises, ends the others and raises it."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
