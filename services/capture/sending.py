"""Sends batches out of `subak_batch_part`, a window at a time, and marks their rows when the hub has confirmed them."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from services.capture import metrics, state, storing
from services.capture.clock import HubClock, elapsed
from services.capture.database import Database
from services.capture.polling import Known
from services.capture.progress import Progress
from services.capture.storing import Header
from services.kernel.change import GENESIS
from services.kernel.errors import TransientError
from services.kernel.failpoint import reach
from services.kernel.lease import Again
from services.kernel.link import Channel, RefusedError
from services.kernel.tasks import until_one_ends
from services.kernel.telemetry import logger
from services.kernel.wire.messages import (
    MAX_PART_BYTES,
    WINDOW_BATCHES,
    WINDOW_BYTES,
    Batch,
    Hello,
    Part,
    Stored,
    Welcome,
)
from services.kernel.wire.messages import (
    Progress as Told,
)

MARK_BATCHES = 64
"""Batches marked in one commit: some 64,000 rows, a second of work at most."""

DRAIN_SECONDS = 5.0
"""How long a service that was told to stop waits for `stored`; what comes later is learned at the next start."""

FORK = "fork"
"""The hub's refusal when its history of this outlet is not the database's."""

EPOCH_BYTES = 8
"""Of chance in an epoch's name: it is never given twice."""

log = logger("capture")


class Sender:
    """One connection's worth of sending; `run` begins anew with each connection."""

    def __init__(
        self,
        database: Database,
        me: Hello,
        progress: Progress,
        hub_clock: HubClock,
        clock: Callable[[], int],
        stop: asyncio.Event,
    ) -> None:
        """`me`: what every hello of this process says. `clock` gives µs since 1970 UTC."""
        self._database = database
        self._me = me
        self._progress = progress
        self._hub_clock = hub_clock
        self._clock = clock
        self._stop = stop
        self._database_offset = 0
        self._forget(0)

    def _forget(self, position: int) -> None:
        self._sent = self._confirmed = position
        self._told: Known | None = None
        self._ask_again = asyncio.Event()
        self._in_flight: deque[Header] = deque()
        self._room = asyncio.Event()
        self._confirmation = asyncio.Event()
        self._marked = asyncio.Event()

    async def hello(self) -> Hello:
        now = await self._database.read(self._database.dialect.now)
        self._database_offset = now - elapsed()
        cut = self._progress.cut
        first = await self._database.read(partial(storing.first_kept, epoch=cut.epoch))
        return replace(
            self._me,
            epoch=cut.epoch,
            position=cut.number,
            digest=cut.digest,
            time=now,
            forgotten=first.number - 1 if first else 0,
            forgotten_digest=first.previous if first else GENESIS,
        )

    async def run(self, channel: Channel, welcome: Welcome) -> None:
        """Sends until the connection ends or the service stops. Raises Again after a fork, and what ends the connection."""
        self._forget(welcome.position)
        await self._compare_clocks(welcome)
        await self._agree(welcome)
        await until_one_ends(self._transmit(channel), self._receive(channel), self._mark(), self._ask_again.wait())

    def doubt_clock(self) -> None:
        """Something hangs on what the hub's clock says: it is asked once more, by dialling again, if that was long ago."""
        if self._hub_clock.is_old:
            self._ask_again.set()

    async def refused(self, error: RefusedError) -> bool:
        """Raises Again when the hub's history of this outlet is another than its database's."""
        if error.code == FORK:
            await self._begin_epoch(error.what)
        return False

    async def _compare_clocks(self, welcome: Welcome) -> None:
        if not welcome.time:
            return  # a hub that does not tell
        self._hub_clock.tell(welcome.time)
        skew = welcome.time - (self._database_offset + elapsed())
        metrics.CLOCK_SKEW.set(skew / 1e6)
        await self._database.write(lambda connection: state.put(connection, state.CLOCK_SKEW, str(skew)))

    async def _agree(self, welcome: Welcome) -> None:
        """What the hub has is what was cut here: then it is marked. A hub that was put back to an older state has less."""
        cut = self._progress.cut
        if welcome.position == cut.number:
            ours: bytes | None = cut.digest
        elif welcome.position == 0:
            ours = GENESIS
        else:
            ours = await self._database.read(partial(storing.digest_of, epoch=cut.epoch, number=welcome.position))
        forgotten = ours is None and welcome.position < cut.number  # purged: every outlet has executed it
        if welcome.digest != ours and not forgotten:
            await self._begin_epoch(f"The hub's batch {welcome.position} is not the one that was cut here.")
        if self._progress.catching_up:
            await self._database.write(lambda connection: state.drop(connection, state.CATCHING_UP))
            self._progress.catching_up = False
            log.info("the new epoch is known to the hub: changes are cut again", epoch=cut.epoch)
        await self._mark_up_to(welcome.position)

    async def _begin_epoch(self, reason: str) -> None:
        """This database was put back to an older state, and what is cut in its name from now on is told apart from what was then."""
        old, new = self._progress.cut.epoch, secrets.token_hex(EPOCH_BYTES)
        await self._database.write(lambda connection: state.begin_epoch(connection, new, instead_of=old))
        log.warning("this database was put back to an older state: a new epoch begins", told=reason, old=old)
        raise Again("a new epoch has begun")

    async def _transmit(self, channel: Channel) -> None:
        epoch = self._progress.cut.epoch
        while not self._stop.is_set():
            self._progress.news.clear()
            await self._tell(channel)
            if self._sent == self._progress.cut.number:
                await self._wait(self._progress.news)
                continue
            for header in await self._database.read(partial(storing.headers, epoch=epoch, after=self._sent)):
                while self._window_is_full() and not self._stop.is_set():
                    self._room.clear()
                    await self._wait(self._room)
                if self._stop.is_set():
                    break
                if header.number != self._sent + 1:
                    raise _purged(self._sent + 1)
                await self._send(channel, epoch, header)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drained(), DRAIN_SECONDS)

    async def _tell(self, channel: Channel) -> None:
        """What is known, once its batches are stored; each fact once a connection."""
        known = self._progress.known
        if known is not None and known != self._told and known.number <= self._progress.stored:
            await channel.send(Told(self._progress.cut.epoch, known.number, known.seen))
            self._told = known

    def _window_is_full(self) -> bool:
        return len(self._in_flight) >= WINDOW_BATCHES or sum(one.bytes for one in self._in_flight) >= WINDOW_BYTES

    async def _send(self, channel: Channel, epoch: str, header: Header) -> None:
        self._in_flight.append(header)
        self._sent = header.number
        parts = -(-header.bytes // MAX_PART_BYTES)
        await channel.send(
            Batch(
                epoch=epoch,
                number=header.number,
                previous=header.previous,
                digest=header.digest,
                changes=header.changes,
                transactions=header.transactions,
                bytes=header.bytes,
                parts=parts,
            )
        )
        for index in range(parts):
            body = await self._database.read(partial(storing.part, epoch=epoch, number=header.number, index=index))
            await channel.send(Part(index, body))
        reach("capture.after_send")

    async def _receive(self, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            if not isinstance(message, Stored):
                continue  # the roster, and whether broadcasting is paused, change nothing here
            self._confirmed = self._in_flight.popleft().number  # the session sees to it that it is the next
            self._room.set()
            self._confirmation.set()

    async def _mark(self) -> None:
        while True:
            await self._confirmation.wait()
            self._confirmation.clear()
            await self._mark_up_to(self._confirmed)
            self._marked.set()

    async def _mark_up_to(self, number: int) -> None:
        epoch = self._progress.cut.epoch
        while self._progress.stored < number:
            first = self._progress.stored + 1
            some = range(first, min(number + 1, first + MARK_BATCHES))
            changes = await self._database.read(partial(storing.unmarked, numbers=some))
            await self._database.retried(partial(self._mark_some, epoch, some))
            self._progress.has_stored(some[-1], changes)

    def _mark_some(self, epoch: str, numbers: range) -> None:
        with self._database.transaction() as connection:
            storing.mark_stored(connection, epoch, numbers, self._clock())
            reach("capture.before_mark_commit")
        reach("capture.after_mark_commit")

    async def _drained(self) -> None:
        while self._progress.stored < self._sent:
            self._marked.clear()
            await self._marked.wait()

    async def _wait(self, event: asyncio.Event) -> None:
        """Until the event is set or the service is to stop."""
        await until_one_ends(event.wait(), self._stop.wait())


def _purged(number: int) -> TransientError:
    return TransientError(
        "purged",
        f"The hub asks for batch {number}, which was purged here a moment ago, after every outlet had executed it.",
        "It is asked again, and told so.",
    )
