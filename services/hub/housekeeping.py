"""What the hub does by the clock: it notes how far everybody is, gives up who is away for too long, tells when to forget, and forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.hub import metrics, purging
from services.hub.controls import Voice, new_policy
from services.hub.database import Database
from services.hub.limits import WARNING_RATIO, Backlog, Limits, backlogs, drop, give_up, keep_limits
from services.hub.outlets import known
from services.hub.state import is_paused
from services.hub.writer import Writer
from services.kernel.telemetry import logger
from services.kernel.wire.messages import Progress

ROUND_SECONDS = 5.0
"""How soon what captures told is taken up."""

LIMIT_ROUNDS = 12
"""Every so many rounds, once a minute, what waits for each outlet is measured: that reads all of it."""

PATIENT_ROUNDS = 720
"""For an hour after its start the hub gives nobody up for having been away: it was away itself, perhaps for as long."""

NEARLY = 0.999

STEP_PAUSE_SECONDS = 0.05
"""Between two steps of removing rows: the outlets' batches go first."""

WARNING_SECONDS = 3600.0
"""How often the log says that an outlet nears its limit."""

log = logger("housekeeping")


@dataclass(frozen=True)
class Terms:
    """What the operator has set."""

    keep_seconds: float
    """How long executed batches are kept at least: an outlet put back to a backup no older than that gets again what it lost."""
    limits: Limits
    rules: str
    """The text of the policy file."""


class Housekeeping:
    def __init__(
        self,
        database: Database,
        writer: Writer,
        voice: Voice,
        terms: Terms,
        told: Callable[[], Mapping[str, Progress]],
        given_up: Callable[[str, str], None],
    ) -> None:
        """`told` gives what captures told since it was asked last; `given_up` hears of an outlet, and why."""
        self._database = database
        self._writer = writer
        self._voice = voice
        self._terms = terms
        self._told = told
        self._given_up = given_up
        self._warned: dict[str, int] = {}
        self._rounds = 0

    async def begin(self) -> None:
        """Before any outlet is admitted: the conflict rules, if they are new, come before all that is sent under them."""
        await self._writer.call(keep_limits, self._terms.limits)
        policy = await self._writer.call(new_policy, self._terms.rules, self._database.now)
        if policy is not None:
            sequence = await (await self._writer.store(self._voice.say(policy)))
            log.info("conflict rules are given out", generation=policy.generation, sequence=sequence)

    async def run(self) -> None:
        """On and on."""
        while True:
            await self.once()
            await asyncio.sleep(ROUND_SECONDS)

    async def once(self) -> None:
        """One round. Raises PermanentError."""
        await self._writer.call(purging.note, self._told())
        if self._rounds % LIMIT_ROUNDS == 0:
            await self._watch_limits()
        self._rounds += 1
        await self._in_steps(drop)
        purge = await self._writer.call(purging.due, self._terms.keep_seconds, self._database.now)
        if purge is not None:
            await (await self._writer.store(self._voice.say(purge)))
            log.info("everybody may forget what is executed everywhere", up_to=purge.sequence)
        await self._in_steps(purging.sweep)

    async def _in_steps(self, step: Callable[..., bool]) -> None:
        more = await self._writer.call(step)
        while more:
            await asyncio.sleep(STEP_PAUSE_SECONDS)
            more = await self._writer.call(step)

    async def _watch_limits(self) -> None:
        now, limits = self._database.now, self._terms.limits
        waiting = await self._database.read(backlogs, now)
        patient = self._rounds < PATIENT_ROUNDS or await self._database.read(is_paused)
        for outlet in await self._database.read(known):
            if outlet.removed:
                continue
            backlog = waiting.get(outlet.name, Backlog()) if outlet.resync_at is None else Backlog()
            ratio = backlog.ratio(limits)
            metrics.LIMIT.labels(outlet.name).set(ratio)
            metrics.WAITING_BYTES.labels(outlet.name).set(backlog.bytes)
            if patient and backlog.bytes < limits.bytes:
                ratio = min(ratio, NEARLY)
            if ratio >= 1:
                why = await self._writer.call(give_up, outlet.name, limits, backlog, now)
                log.error("outlet is given up: its database must be replaced", outlet=outlet.name, why=why)
                self._given_up(outlet.name, why)
            elif ratio >= WARNING_RATIO and now - self._warned.get(outlet.name, 0) >= WARNING_SECONDS * 1e6:
                self._warned[outlet.name] = now
                log.warning(
                    "outlet nears the limit at which it is given up",
                    outlet=outlet.name,
                    part=round(ratio, 2),
                    waiting_bytes=backlog.bytes,
                    oldest_seconds=round(backlog.seconds),
                )
