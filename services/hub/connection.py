"""One outlet's connection in one role: what the broker and the session that serves it say to each other."""

from __future__ import annotations

import asyncio

from services.kernel.errors import SubakError
from services.kernel.link import Channel
from services.kernel.wire.messages import Progress, Role, Roster
from services.kernel.wire.session import State


class Connection:
    """Everything the hub sends on it goes through the one task that waits for `wake`, so that parts are never interrupted."""

    def __init__(self, channel: Channel, outlet: str, role: Role, instance: str) -> None:
        self.channel = channel
        self.outlet = outlet
        self.role = role
        self.instance = instance
        """Of the process at the other end; empty: it has not said."""
        self.progress: Progress | None = None
        """What a capture told last, until housekeeping takes it."""
        self.wake = asyncio.Event()
        self.gone = asyncio.Event()
        """Set when its session has ended and will submit nothing more to the writer."""
        self.admitted = False
        self.paused = False
        self.news = True
        """Whether something may be owed to the outlet that its session has not seen yet."""
        self._roster: Roster | None = None
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def alive(self) -> bool:
        """Whether the outlet may still say something: one that has said bye stands in nobody's way, also before its session has noticed."""
        return self.channel.state is not State.CLOSED

    def is_another_process_than(self, other: Connection) -> bool:
        """So far as both have said."""
        return bool(self.instance and other.instance) and self.instance != other.instance

    def tell(self, roster: Roster) -> None:
        """The outlet is told, or, if several come before it can be, the last of them."""
        self._roster = roster
        self.paused = roster.paused
        self.wake.set()

    def stored(self) -> None:
        """Something was stored that may be owed to the outlet."""
        self.news = True
        self.wake.set()

    def end(self, why: SubakError | None) -> None:
        """Ends the session: at once with an error, which the outlet is told, or (None) when what is in flight is done."""
        if self._end.done():
            return
        if why is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(why)
            self._end.exception()  # it is no fault if nobody waits for it any more

    async def ended(self) -> None:
        """Returns, or raises the error, when `end` is called."""
        await asyncio.wait({self._end})
        self._end.result()

    async def send_roster(self) -> None:
        """If there is news in it."""
        if self._roster is not None:
            roster, self._roster = self._roster, None
            await self.channel.send(roster)
