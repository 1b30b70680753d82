"""Who is connected. Admits outlets, tells everybody who comes and goes, wakes who is owed something, watches the operator."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy

from services.hub import certificates, metrics, outlets, state
from services.hub.admission import Admission, admit, check_identity, removed
from services.hub.bodies import Bodies
from services.hub.connection import Connection
from services.hub.controls import Voice
from services.hub.database import Database
from services.hub.forking import Forks
from services.hub.housekeeping import Housekeeping, Terms
from services.hub.receiving import Receiving
from services.hub.returning import resync
from services.hub.sending import Sending
from services.hub.status import status
from services.hub.storing import Arrival
from services.hub.writer import Writer
from services.kernel.credentials import LOOK_SECONDS, Credentials
from services.kernel.errors import ProtocolError
from services.kernel.link import Channel
from services.kernel.telemetry import logger
from services.kernel.wire.messages import Hello, OutletInfo, Progress, Role, Roster, Welcome

WATCH_SECONDS = 0.5
"""How soon `subak hub pause`, `outlet add` and `outlet remove`, which write to the database, are noticed here."""

BEATS = 10
"""Every so many watches the hub leaves a sign of life and counts what waits."""

STOP_SECONDS = 6.0
"""For what is in flight when the hub stops, while its database may be away; the whole stop may take ten."""

log = logger("broker")


@dataclass(frozen=True)
class View:
    """What the outlets are told of each other, and who is no longer one."""

    roster: tuple[OutletInfo, ...] = ()
    removed: frozenset[str] = frozenset()
    paused: bool = False

    @classmethod
    def of(cls, known: list[outlets.Outlet], paused: bool) -> View:
        return cls(
            tuple(outlet.info for outlet in known if not outlet.removed),
            frozenset(outlet.name for outlet in known if outlet.removed),
            paused,
        )

    @property
    def message(self) -> Roster:
        return Roster(outlets=list(self.roster), paused=self.paused)


class Broker:
    def __init__(
        self, database: Database, enrol: bool, credentials: Credentials | None, terms: Terms, voice: Voice
    ) -> None:
        self._database = database
        self._enrol = enrol
        self._credentials = credentials
        self._bodies = Bodies(database)
        self._connections: dict[tuple[str, Role], Connection] = {}
        self._view = View()
        self._stopping = False
        self._forks = Forks()
        self.writer = Writer(database, self._stored)
        self.housekeeping = Housekeeping(database, self.writer, voice, terms, self._progress, self._give_up)

    async def handle(self, channel: Channel) -> None:
        """One connection, from its hello to its end. Raises SubakError; a ProtocolError is told to the outlet."""
        hello = await channel.receive()
        if not isinstance(hello, Hello):
            return
        if self._stopping:
            raise _stopping()
        check_identity(hello, channel.certificate_name, self._credentials is not None)
        connection = Connection(channel, hello.outlet, hello.role, hello.instance)
        await self._replace(connection)
        try:
            await self._serve(connection, hello)
        finally:
            connection.gone.set()
            self._leave(connection)

    async def _serve(self, connection: Connection, hello: Hello) -> None:
        admission = await self._admit(hello)
        if self._stopping:
            raise _stopping()
        connection.admitted, connection.paused = True, admission.paused
        metrics.connected(hello.outlet, hello.role)
        log.info("outlet connected", outlet=hello.outlet, role=hello.role.value, peer=connection.channel.peer)
        self._show(View.of(admission.outlets, admission.paused))
        await connection.channel.send(
            Welcome(
                hub=admission.hub,
                position=admission.head.number,
                digest=admission.head.digest,
                roster=list(self._view.roster),
                paused=admission.paused,
                time=self._database.now,
            )
        )
        connection.tell(self._view.message)
        shown = connection.channel.certificate
        await self.writer.call(certificates.keep, hello.outlet, hello.role, _micros(shown.ends) if shown else None)
        if hello.role is Role.CAPTURE:
            await Receiving(connection, self.writer, admission.head).run()
        else:
            await Sending(connection, self.writer, self._database, self._bodies, hello.position).run()
        await connection.channel.close()

    async def _admit(self, hello: Hello) -> Admission:
        try:
            admission = await self.writer.call(admit, hello, self._enrol, self._forks, self._database.now)
        except ProtocolError as refusal:
            applier = self._connections.get((hello.outlet, Role.APPLIER))
            if refusal.code == "catching_up" and applier is not None and self._forks.must_greet(hello.outlet):
                applier.end(None)
            raise
        if hello.role is Role.APPLIER:
            self._forks.greeted(hello.outlet, hello.epoch)
        if hello.time:
            metrics.SKEW.labels(hello.outlet).set((self._database.now - hello.time) / 1e6)
        return admission

    async def watch(self) -> None:
        """On and on: notices what the operator did in the database, and counts what waits."""
        beat = 0
        while True:
            if beat == 0:
                await self.writer.call(state.put, state.SEEN, str(self._database.now))
                own = self._credentials.own() if self._credentials is not None else None
                await self.writer.call(certificates.keep_own, _micros(own.ends) if own else None)
                await self._count()
            beat = (beat + 1) % BEATS
            self._show(await self._database.read(_view))
            await asyncio.sleep(WATCH_SECONDS)

    async def watch_certificates(self) -> None:
        """On and on, also while the database is away: whose certificate was revoked, or has expired, is told so and leaves."""
        while True:
            for connection in self._connections.values():
                distrusted = connection.channel.distrusted()
                if distrusted is not None:
                    connection.end(distrusted)
            await asyncio.sleep(LOOK_SECONDS)

    async def stop(self) -> None:
        """Says bye to everybody once what is in flight is answered; whoever takes longer than STOP_SECONDS is cut off."""
        self._stopping = True
        connections = list(self._connections.values())
        for connection in connections:
            connection.end(None)
        if connections:
            await asyncio.wait(
                [asyncio.create_task(connection.gone.wait()) for connection in connections], timeout=STOP_SECONDS
            )

    async def _replace(self, connection: Connection) -> None:
        """Takes the place of an older connection, once that one has submitted the last to the writer.

        Raises ProtocolError `standby` when the older one is another process's: two services that take turns help nobody.
        """
        key = connection.outlet, connection.role
        older = self._connections.get(key)
        if older is not None and older.alive and older.is_another_process_than(connection):
            raise ProtocolError(
                "standby",
                f"Another {connection.role.value} service of {connection.outlet} is connected.",
                "This one stands by, and takes over when that one ends.",
            )
        self._connections[key] = connection
        if older is not None:
            older.end(
                ProtocolError(
                    "replaced",
                    f"Another {connection.role.value} service of {connection.outlet} has connected.",
                    "Run one such service per outlet.",
                )
            )
            await older.gone.wait()
            if older.admitted:  # it is not in the table any more when it leaves, and the newer one may yet be refused
                metrics.disconnected(older.outlet, older.role)

    def _leave(self, connection: Connection) -> None:
        """Waits for nothing: the outlet may yet have to be told why, also while the database is away."""
        key = connection.outlet, connection.role
        if self._connections.get(key) is not connection:
            return
        del self._connections[key]
        if connection.admitted:
            metrics.disconnected(connection.outlet, connection.role)
            log.info("outlet disconnected", outlet=connection.outlet, role=connection.role.value)
        if self._stopping:
            return  # the database is told of all at once, or it is away
        online = any(outlet == connection.outlet for outlet, _ in self._connections)
        told = self.writer.call(outlets.set_online, connection.outlet, online, self._database.now)
        told.add_done_callback(_heed_not)

    def _progress(self) -> dict[str, Progress]:
        """What captures told since this was asked last."""
        told: dict[str, Progress] = {}
        for connection in self._connections.values():
            if connection.progress is not None:
                told[connection.outlet], connection.progress = connection.progress, None
        return told

    def _give_up(self, outlet: str, why: str) -> None:
        applier = self._connections.get((outlet, Role.APPLIER))
        if applier is not None:
            applier.end(resync(f"{outlet} was given up: {why}"))

    def _show(self, view: View) -> None:
        """Tells everybody what has changed since they were told last."""
        if view == self._view:
            return
        self._view = view
        metrics.PAUSED.set(view.paused)
        for connection in self._connections.values():
            if connection.outlet in view.removed:
                connection.end(removed(connection.outlet))
            else:
                connection.tell(view.message)

    def _stored(self, arrivals: list[Arrival]) -> None:
        metrics.stored(arrivals)
        self._bodies.keep(arrivals)
        for connection in self._connections.values():
            if connection.role is Role.APPLIER:
                connection.stored()

    async def _count(self) -> None:
        metrics.outlets(await self._database.read(status, self._database.now, sizes=False))


def _view(connection: sqlalchemy.Connection) -> View:
    return View.of(outlets.known(connection), state.is_paused(connection))


def _heed_not(done: asyncio.Future[None]) -> None:
    """What became of it is nobody's concern here: an error was logged where it happened."""
    if not done.cancelled():
        done.exception()


def _micros(when: datetime) -> int:
    return int(when.timestamp() * 1e6)


def _stopping() -> ProtocolError:
    return ProtocolError("stopping", "The hub is stopping.", "Try again: it comes back under the same address.")
