"""Takes deliveries from the hub, applies them one after the other, and says `executed` once they are durable."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import msgspec
import tenacity

from services.applier import metrics, quarantine
from services.applier.applying import Applier
from services.applier.recording import Outcome
from services.applier.standing import Standing
from services.kernel.catalogue import fingerprints
from services.kernel.change import GENESIS
from services.kernel.errors import PermanentError, ProtocolError, TransientError
from services.kernel.failpoint import reach
from services.kernel.link import Channel
from services.kernel.metrics import DATABASE_UP
from services.kernel.telemetry import Health, logger
from services.kernel.wire.messages import (
    HUB,
    PROTOCOL_VERSION,
    Delivery,
    Executed,
    Hello,
    Part,
    Report,
    Role,
    Roster,
    Welcome,
)

RETRY_SECONDS = 30.0
"""How often everything in quarantine is tried again, whatever happened meanwhile: the application may have made room."""

LOOK_SECONDS = 3.0
"""How often the schema is read again while something waits for a table to be altered: that flows within seconds then."""

GROUP_CHANGES = 1_000
"""Changes of several small batches that share one transaction: one commit for many when we are behind, and locks held as
long as for one large batch."""

RETRY_PAUSE = 0.01
"""Seconds before the second attempt at one quarantined transaction; doubled with each further one, up to RETRY_SECONDS."""

RETRIES_AT_ONCE = 50
"""Quarantined transactions tried in one go, so that the next delivery never waits long."""

LONGEST_PAUSE = 2.0
"""Seconds between attempts at most: a lock held for minutes is asked for often enough, and does not fill the log."""

LONGEST_TURN = 0.25
"""Seconds left to the application, at most, after a transaction of ours where one connection at a time can write: as long as
ours took, but no longer than its driver sleeps between two looks (SQLite: 0.1 s)."""

log = logger("applier")
Deliveries = asyncio.Queue[tuple[Delivery, bytes] | None]
Result = TypeVar("Result")


class Receiver:
    """One connection after the other, one database. `health` says whether the outlet's database can be reached."""

    def __init__(
        self, applier: Applier, outlet: str, instance: str, standing: Callable[[], Standing], health: Health
    ) -> None:
        """`instance`: made up by the process at its start. `standing` asks the database."""
        self._applier = applier
        self._outlet = outlet
        self._instance = instance
        self._standing = standing
        self._health = health
        self.told: Standing | None = None
        """As it stood at the last hello."""
        self.executed = 0
        """The greatest sequence of the ledger, as far as the hub was told."""
        self._stopped = threading.Event()
        self._waiting: list[quarantine.Quarantined] = []
        self._not_before: dict[int, float] = {}
        self._retry_at = 0.0
        self._look_at = 0.0
        self._succeeded = 0.0
        self._told: Report | None = None
        self._tables_told: dict[str, str] = {}
        self._fits: object = None
        self._deliveries: Deliveries = asyncio.Queue()

    async def open(self, prepare: Callable[[], None]) -> None:
        """Waits for the outlet's database, prepares it and reads its schema. Raises PermanentError."""
        await asyncio.to_thread(self._insist, lambda _: prepare())
        await asyncio.to_thread(self._insist, lambda _: self._applier.refresh())

    def stop(self) -> None:
        """No further attempt is begun; the one that runs is finished."""
        self._stopped.set()
        self._deliveries.put_nowait(None)

    async def hello(self) -> Hello:
        self.told = standing = await asyncio.to_thread(self._insist, lambda _: self._standing())
        sequence, digest = await asyncio.to_thread(self._insist, lambda _: self._applier.position())
        self.executed = sequence
        return Hello(
            protocol=PROTOCOL_VERSION,
            role=Role.APPLIER,
            outlet=self._outlet,
            epoch=standing.epoch,
            position=sequence,
            digest=digest or GENESIS,
            software="subak",
            instance=self._instance,
            time=standing.time,
            stored=standing.stored,
            source=standing.source,
        )

    async def run(self, channel: Channel, welcome: Welcome) -> None:
        """Serves one connection until it ends. Raises what ends it."""
        del welcome
        deliveries = self._deliveries = asyncio.Queue()  # bounded by the hub's window
        self._told = None
        self._tables_told = fingerprints(self._applier.catalogue)  # by hello
        reader = asyncio.create_task(self._read(channel, deliveries))
        worker = asyncio.create_task(self._work(channel, deliveries))
        try:
            await asyncio.wait({reader, worker}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # What is being applied is finished before the next connection asks how far the ledger goes.
            reader.cancel()
            while not deliveries.empty():
                deliveries.get_nowait()
            deliveries.put_nowait(None)
            # Cancelled again, because that takes too long: nobody is left whom the worker could tell.
            await asyncio.gather(reader, worker, return_exceptions=True)
        for task in (worker, reader):
            if not task.cancelled():
                task.result()

    async def _read(self, channel: Channel, deliveries: Deliveries) -> None:
        while (message := await channel.receive()) is not None:
            if isinstance(message, Delivery):
                parts = []
                for _ in range(message.parts):
                    part = await channel.receive()
                    if not isinstance(part, Part):
                        raise ProtocolError("state", "A part was owed, and something else came.")
                    parts.append(part.body)
                await deliveries.put((message, b"".join(parts)))
            elif isinstance(message, Roster):
                log.info("roster", outlets=[outlet.name for outlet in message.outlets], paused=message.paused)

    async def _work(self, channel: Channel, deliveries: Deliveries) -> None:
        self._waiting = await asyncio.to_thread(self._insist, lambda _: self._applier.waiting())
        await self._report(channel)
        while not self._stopped.is_set():
            now = time.monotonic()
            if now >= self._retry_at:
                self._retry_at, self._look_at = now + RETRY_SECONDS, now + LOOK_SECONDS
                await asyncio.to_thread(self._applier_refreshed)
                await asyncio.to_thread(self._retry, None)
                await self._report(channel)
            elif now >= self._next_look():
                self._look_at = now + LOOK_SECONDS
                await asyncio.to_thread(self._look)
                await self._report(channel)
            try:
                async with asyncio.timeout(max(0.0, min(self._retry_at, self._next_look()) - time.monotonic())):
                    item = await deliveries.get()
            except TimeoutError:
                continue
            if item is None:
                return
            group = [item, *_more(deliveries, item[0])]
            for (delivery, _), outcome in zip(group, await asyncio.to_thread(self._apply, group), strict=False):
                await channel.send(Executed(delivery.sequence, outcome.conflicts, outcome.quarantined, outcome.told))
                self.executed = delivery.sequence
                reach("applier.after_executed_sent")
                if outcome.quarantined:
                    self._waiting = await asyncio.to_thread(self._insist, lambda _: self._applier.waiting())
                if self._waiting and not self._stopped.is_set():
                    left = await asyncio.to_thread(self._retry, frozenset(outcome.tables))
                    if left:
                        await self._report(channel)
                if delivery.origin == HUB:
                    self._look_at = 0.0
                    await self._report(channel)

    def _next_look(self) -> float:
        """When the schema is to be read again, because something waits for it to change."""
        held = any(entry.code in quarantine.MISFITS for entry in self._waiting)
        return self._look_at if held else self._retry_at

    def _look(self) -> None:
        """Reads the schema again; when it has changed, or the conflict rules have, what waited for that is tried."""
        before = self._fits
        self._applier_refreshed()
        self._fits = self._applier.catalogue, self._applier.misfits
        if before != self._fits:
            self._not_before.clear()
            if self._retry(None):  # there may be more than are tried at once
                self._fits, self._look_at = None, 0.0

    def _applier_refreshed(self) -> None:
        self._insist(lambda _: self._applier.refresh())
        self._waiting = self._insist(lambda _: self._applier.waiting())

    def _apply(self, group: list[tuple[Delivery, bytes]]) -> list[Outcome]:
        """Together if that goes, else one after the other: then what cannot be applied is found and put aside.

        The outcomes of the first ones only, when the service is told to stop meanwhile.
        """
        outcomes: list[Outcome] = []
        for said_by_hub, some in groupby(group, lambda item: item[0].origin == HUB):
            if self._stopped.is_set():
                break
            run = list(some)
            outcomes += [self._take_up(*item) for item in run] if said_by_hub else self._apply_changes(run)
        return outcomes

    def _apply_changes(self, group: list[tuple[Delivery, bytes]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        begun = time.monotonic()
        if len(group) > 1:
            with suppress(PermanentError):
                outcomes = self._insist(lambda attempt: self._applier.apply_together(group, attempt))
                self._applied(group, outcomes, begun)
        for item in group[len(outcomes) :]:
            if self._stopped.is_set():
                break
            begun = time.monotonic()
            outcomes.append(self._insist(partial(self._applier.apply, *item)))
            self._applied([item], outcomes[-1:], begun)
        return outcomes

    def _applied(self, group: list[tuple[Delivery, bytes]], outcomes: list[Outcome], begun: float) -> None:
        """Tells, and counts, what is durable."""
        took, now = self._succeeded - begun, self._now_then()
        for (delivery, _), outcome in zip(group, outcomes, strict=True):
            metrics.applied(delivery, outcome, took, now)
            _tell(delivery, outcome)

    def _now_then(self) -> int:
        """When the last action succeeded, in µs since 1970 UTC."""
        return self._applier.now - int((time.monotonic() - self._succeeded) * 1e6)

    def _take_up(self, delivery: Delivery, body: bytes) -> Outcome:
        self._insist(lambda _: self._forget(delivery, body))
        begun = time.monotonic()
        outcome = self._insist(partial(self._applier.apply, delivery, body))
        self._applied([(delivery, body)], [outcome], begun)
        log.info("heard from the hub", sequence=delivery.sequence)
        return outcome

    def _forget(self, delivery: Delivery, body: bytes) -> None:
        """As long as there is something to be forgotten. Raises TransientError `stopping`: the rest is for the next time."""
        begun = time.monotonic()
        for _ in self._applier.forgetting(delivery, body):
            if self._stopped.is_set():
                raise TransientError(
                    "stopping", "The service is being stopped.", "It goes on with it when it is started."
                )
            self._leave_a_turn(begun)
            begun = time.monotonic()

    def _retry(self, tables: frozenset[str] | None) -> bool:
        """Tries what waits in quarantine and may have become possible. True when something left it."""
        chosen = [
            entry
            for entry in self._waiting
            if (tables is None or quarantine.touches(entry, list(tables), self._applier.catalogue))
            and self._not_before.get(entry.id, 0.0) <= time.monotonic()
        ]
        progress = False
        for entry in chosen[:RETRIES_AT_ONCE]:
            if self._stopped.is_set():
                break
            try:
                outcome = self._insist(partial(self._applier.retry, entry.id))
            except PermanentError:
                # One that keeps failing must not be tried with every batch that happens to touch its table.
                pause = min(RETRY_SECONDS, RETRY_PAUSE * 2 ** min(entry.attempts, 16))
                self._not_before[entry.id] = time.monotonic() + pause
                entry.attempts += 1
                continue
            self._not_before.pop(entry.id, None)
            metrics.executed(outcome, self._now_then())
            log.info("left quarantine", sequence=entry.sequence, position=entry.position, origin=entry.origin)
            progress = True
        if progress:
            self._waiting = self._insist(lambda _: self._applier.waiting())
        return progress

    async def _report(self, channel: Channel) -> None:
        totals = await asyncio.to_thread(self._insist, lambda _: self._applier.totals())
        misfits = [reason for _, reason in sorted(self._applier.misfits.items())]
        metrics.totals(totals[1], len(misfits))
        tables = fingerprints(self._applier.catalogue)
        report = Report(*totals, misfits, tables if tables != self._tables_told else {})
        if report != self._told:
            await channel.send(report)
            self._tables_told = tables
            self._told = msgspec.structs.replace(report, tables={})

    def _insist(self, action: Callable[[int], Result]) -> Result:
        """Runs `action(attempt)` until it does not fail for a reason that may pass, or the service stops."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=self._pause,
            stop=tenacity.stop_when_event_set(self._stopped),
            before_sleep=self._failed,
            reraise=True,
        )
        for attempt in retrying:
            with attempt:
                begun = time.monotonic()
                result = action(attempt.retry_state.attempt_number)
                self._succeeded = time.monotonic()
                self._health.ready = True
                DATABASE_UP.set(1)
        self._leave_a_turn(begun)
        return result

    def _leave_a_turn(self, begun: float) -> None:
        if self._applier.one_writer:
            # Others wait for the lock asleep, by the engine's own clock: they must find it free half of the time.
            self._stopped.wait(min(LONGEST_TURN, time.monotonic() - begun))

    def _pause(self, state: tenacity.RetryCallState) -> float:
        return random.uniform(0.005, min(LONGEST_PAUSE, 0.01 * 1.5 ** min(state.attempt_number, 30)))

    def _failed(self, state: tenacity.RetryCallState) -> None:
        error: Any = state.outcome.exception() if state.outcome else None
        if isinstance(error, TransientError):
            metrics.FAILED_ATTEMPTS.labels(error.code).inc()
            if error.code in ("connection", "disk_full"):
                self._health.ready = False
                self._health.detail = error.what
                DATABASE_UP.set(0)
            if state.attempt_number in (10, 100) or state.attempt_number % 1000 == 0:
                log.warning("trying again", attempt=state.attempt_number, code=error.code, what=error.what)


def _more(deliveries: Deliveries, first: Delivery) -> list[tuple[Delivery, bytes]]:
    """What has come meanwhile and may share a transaction with the first."""
    found: list[tuple[Delivery, bytes]] = []
    changes = first.changes
    while not deliveries.empty() and changes < GROUP_CHANGES:
        item = deliveries.get_nowait()
        if item is None:
            deliveries.put_nowait(None)
            break
        found.append(item)
        changes += item[0].changes
    return found


def _tell(delivery: Delivery, outcome: Outcome) -> None:
    for report in outcome.quarantined:
        log.warning(
            "quarantined",
            sequence=delivery.sequence,
            position=report.position,
            origin=delivery.origin,
            code=report.code,
            todo="`subak quarantine list` shows it; correct the cause, then `subak quarantine retry` or `discard`.",
        )
    if outcome.duplicate:
        log.info("applied before", sequence=delivery.sequence, origin=delivery.origin, number=delivery.number)
