"""One turn at capturing, as long as this process has the lease: triggers first, then tasks side by side for cutting, sending, and
watching over triggers, age and clock."""

from __future__ import annotations

import asyncio
import secrets
import time
from functools import partial

from services.capture import metrics, state, storing, triggers
from services.capture.clock import HubClock
from services.capture.database import Database, Stopped
from services.capture.polling import Cut, Cutter, pause
from services.capture.progress import Progress
from services.capture.sending import EPOCH_BYTES, Sender
from services.capture.state import ANOTHER_CAPTURE, Position
from services.capture.triggers import Report
from services.kernel.catalogue import Refusal
from services.kernel.dialects import dialect_for
from services.kernel.errors import PermanentError, TransientError
from services.kernel.lease import Again
from services.kernel.link import keep_linked
from services.kernel.metrics import DATABASE_UP
from services.kernel.settings import OutletSettings
from services.kernel.tasks import until_all_end
from services.kernel.telemetry import Health, logger
from services.kernel.wire.messages import Hello

CATALOGUE_SECONDS = 3.0
"""How often the triggers are compared with the tables: a changed table is captured as it was for so long at most."""

CATALOGUE_SHARE = 20
"""Where that comparison takes long (thousands of tables, a slow server), it is made so much less often than it takes."""

REFUSED_SECONDS = 30.0
"""How soon they are tried again where the database refused them: a CREATE TRIGGER waits for the table's writers, and they for it."""

AGE_SECONDS = 2.0
"""How often the age of the oldest change that is not confirmed is looked up, and the database's clock."""

FIRST_WORD_SECONDS = 5.0
"""How long the first batch waits for the hub's first word: a link takes less. Without a hub, batches are cut by the difference of clocks that
was found last."""

FIRST_LOOK_SECONDS = 0.02

LOOK_SECONDS = 2.0
"""How often a poll looks, besides, whether the database is still the one that was left, and how far the applier has come."""

MOVED = {ANOTHER_CAPTURE, "missing_table"}
"""Errors that say that the database was put back: to where our last batch was not cut yet, or even our tables were not made."""

log = logger("capture")


def now() -> int:
    """µs since 1970 UTC."""
    return time.time_ns() // 1000


class Turn:
    def __init__(
        self,
        settings: OutletSettings,
        me: Hello,
        hub_clock: HubClock,
        over: asyncio.Event,
        nudge: asyncio.Event,
        health: Health,
    ) -> None:
        """`over`: set when the turn is over. `me`: see Sender."""
        self._settings = settings
        self._me = me
        self._hub_clock = hub_clock
        self._over = over
        self._nudge = nudge
        self._health = health
        self._database = Database(
            dialect_for(settings.database_url), settings.database_url, over, self._database_health
        )
        self._refusals: tuple[Refusal, ...] = ()
        self._wrong: TransientError | None = None
        self._held = 0

    async def run(self) -> None:
        """Until it is over. Raises Again when the database is not as it was left, PermanentError when somebody must act first."""
        try:
            await self._serve()
        except Stopped:
            log.info("stopped while the database was away")
        except PermanentError as error:
            if error.code not in MOVED:
                raise
            raise Again(error.what) from error
        finally:
            self._database.close()

    async def _serve(self) -> None:
        install = partial(triggers.install, self._database.writing, self._database.dialect)
        report = await self._database.retried(partial(install, self._settings.tables, self._settings.outlet))
        self._tell(report)
        cutter, progress = await self._open()
        sender = Sender(self._database, self._me, progress, self._hub_clock, now, self._over)
        log.info(
            "started",
            outlet=self._settings.outlet,
            database=await self._database.read(self._database.dialect.server),
            epoch=progress.cut.epoch,
            cut=progress.cut.number,
            stored=progress.stored,
            triggers=len(report.installed) + len(report.rebuilt) + len(report.unchanged),
        )
        await until_all_end(
            keep_linked(
                self._settings, sender.hello, sender.run, self._over, self._nudge, self._health, sender.refused
            ),
            self._cut(cutter, progress, sender),
            self._watch_triggers(),
            self._watch_age(progress),
        )

    async def _open(self) -> tuple[Cutter, Progress]:
        loop = asyncio.get_running_loop()
        progress: Progress

        def done(cut: Cut) -> None:
            loop.call_soon_threadsafe(lambda: progress.has_cut(cut))

        new_epoch = secrets.token_hex(EPOCH_BYTES)
        outlet = self._settings.outlet
        cutter = Cutter(self._database, outlet, new_epoch, now, done, self._over.is_set, self._limit)
        position = await self._database.retried(cutter.open)
        known = await self._database.read(state.read)
        catching_up = state.CATCHING_UP in known
        if catching_up:
            await self._dissolve(position)
        if not self._hub_clock.known:
            database_now = await self._database.read(self._database.dialect.now)
            self._hub_clock.guess(database_now + int(known.get(state.CLOCK_SKEW, "0")))
        stored = await self._database.read(partial(storing.last_stored, epoch=position.epoch))
        progress = Progress(position, stored, catching_up)
        return cutter, progress

    async def _dissolve(self, position: Position) -> None:
        """What was cut in an earlier epoch and not stored waits again: the hub has other batches of those numbers."""
        batches = 0
        while await self._database.write(partial(storing.dissolve, epoch=position.epoch)):
            batches += 1
        log.info("a new epoch has begun; nothing is cut until the hub says welcome", dissolved=batches)

    def _limit(self) -> int:
        return self._hub_clock.now() + int(self._settings.clock_limit * 1e6)

    async def _cut(self, cutter: Cutter, progress: Progress, sender: Sender) -> None:
        await self._hub_has_told()
        worked = time.monotonic()
        look_at = worked
        while not self._over.is_set():
            begun = time.monotonic()
            changes = 0
            if not progress.catching_up:
                looking = begun >= look_at
                if looking:
                    look_at = begun + LOOK_SECONDS
                changes = await self._database.retried(partial(cutter.poll, looking))
                metrics.POLLS.inc()
                self._hold(cutter.held)
                if cutter.held:
                    sender.doubt_clock()
                if cutter.known is not None:
                    progress.knows(cutter.known)
            ended = time.monotonic()
            if changes:
                worked = ended
            await self._sleep(
                pause(ended - worked, 0.0 if changes else ended - begun, progress.cut.number - progress.stored)
            )

    async def _hub_has_told(self) -> None:
        """Until the hub has told its clock to this process, FIRST_WORD_SECONDS at most: the database's may have been set meanwhile, and
        what is cut is not held any more."""
        end = time.monotonic() + FIRST_WORD_SECONDS
        while not (self._over.is_set() or self._hub_clock.told or time.monotonic() > end):
            await self._sleep(FIRST_LOOK_SECONDS)

    def _hold(self, held: int) -> None:
        metrics.HELD.set(held)
        if held and not self._held:
            log.warning(
                "changes are held: one is stamped too far ahead of the hub's clock",
                held=held,
                limit_seconds=self._settings.clock_limit,
                todo="Set the clock of the database's machine right, then run `subak outlet restamp` with the services stopped;"
                " or wait until that time has come.",
            )
        elif self._held and not held:
            log.info("no change is held any more")
        self._held = held
        self._show_health()

    async def _watch_triggers(self) -> None:
        arguments = (self._database.dialect, self._settings.tables, self._settings.outlet)
        wait = CATALOGUE_SECONDS
        while not self._over.is_set():
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
        while not self._over.is_set():
            oldest = await self._database.read(partial(storing.oldest_unmarked, stored=progress.stored))
            database_now = await self._database.read(self._database.dialect.now)
            metrics.OLDEST.set(0 if oldest is None else max(0, database_now - oldest) / 1e6)
            metrics.CLOCK_SKEW.set((self._hub_clock.now() - database_now) / 1e6)
            await self._sleep(AGE_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
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
        if wrong is not None and self._wrong is None:
            log.warning("trying the database again", code=wrong.code, what=wrong.what, todo=wrong.todo)
        elif wrong is None and self._wrong is not None:
            log.info("the database answers again")
        self._wrong = wrong
        self._show_health()

    def _show_health(self) -> None:
        if self._over.is_set():
            return
        self._health.ready = self._wrong is None
        DATABASE_UP.set(self._wrong is None)
        held = (
            f"changes held: {self._held}, one of them is stamped too far ahead of the hub's clock" if self._held else ""
        )
        self._health.detail = held if self._wrong is None else f"database: {self._wrong.what}"
