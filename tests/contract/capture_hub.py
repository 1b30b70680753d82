"""A hub that speaks the real protocol on loopback and does what the test wants, and captures that run against it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.capture.service import Service
from services.kernel.change import GENESIS, decode_body
from services.kernel.entrance import serve
from services.kernel.link import Channel, RefusedError
from services.kernel.settings import Address, OutletSettings, load
from services.kernel.wire.messages import MAX_PART_BYTES, Batch, Hello, Part, Progress, Stored, Welcome
from tests.contract.capture_outlet import Outlet
from tests.stack.servers import free_port

LIMIT_SECONDS = 20.0


@dataclass
class FakeHub:
    """Takes batches and confirms them while `confirming`; forgets nothing between connections."""

    port: int = field(default_factory=free_port)
    epoch: str = ""
    position: int = 0
    digest: bytes = GENESIS
    confirming: bool = True
    judge: Callable[[Hello], RefusedError | None] = lambda hello: None
    """What a hello is refused with."""
    clock: Callable[[], int] = lambda: 0
    """The time that it tells: µs since 1970 UTC; 0: none."""
    hellos: list[Hello] = field(default_factory=list)
    received: list[tuple[Batch, bytes]] = field(default_factory=list)
    unconfirmed: list[Batch] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    channel: Channel | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await serve(Address("127.0.0.1", self.port), None, self._handle)
        try:
            yield
        finally:
            server.close()
            await self.drop()

    async def drop(self) -> None:
        if self.channel is not None:
            await self.channel.close()

    async def confirm(self) -> None:
        """Everything that came over this connection and is not confirmed yet."""
        while self.unconfirmed:
            batch = self.unconfirmed.pop(0)
            self.position, self.digest = batch.number, batch.digest
            if self.channel is not None:
                await self.channel.send(Stored(batch.epoch, batch.number))

    async def _handle(self, channel: Channel) -> None:
        hello = await channel.receive()
        assert isinstance(hello, Hello)
        self.hellos.append(hello)
        if refusal := self.judge(hello):
            raise refusal
        self.channel = channel
        self.unconfirmed.clear()
        if self.epoch and hello.epoch != self.epoch:
            self.position, self.digest = 0, GENESIS
        self.epoch = hello.epoch
        position, digest = self.position, self.digest
        await channel.send(Welcome(hub="hub", position=position, digest=digest, roster=[], time=self.clock()))
        while (message := await channel.receive()) is not None:
            if isinstance(message, Progress):
                self.progress.append(message)
                continue
            assert isinstance(message, Batch)
            body = b""
            for _ in range(message.parts):
                part = await channel.receive()
                assert isinstance(part, Part) and len(part.body) <= MAX_PART_BYTES
                body += part.body
            self.received.append((message, body))
            self.unconfirmed.append(message)
            if self.confirming:
                await self.confirm()

    @property
    def numbers(self) -> list[int]:
        return [batch.number for batch, _ in self.received]

    @property
    def keys(self) -> list[str]:
        return [change.key for _, body in self.received for one in decode_body(body) for change in one.changes]


def variables(outlet: Outlet, hub: FakeHub) -> dict[str, str]:
    return {
        "SUBAK_OUTLET": outlet.name,
        "SUBAK_HUB": f"127.0.0.1:{hub.port}",
        "SUBAK_DATABASE_URL": outlet.url.render_as_string(hide_password=False),
        "SUBAK_TLS": "off",
    }


class Running:
    """A capture that runs in this loop."""

    def __init__(self, outlet: Outlet, hub: FakeHub) -> None:
        self.stop = asyncio.Event()
        self.nudge = asyncio.Event()
        self.service = Service(load(OutletSettings, variables(outlet, hub)), self.stop, self.nudge)
        self.task = asyncio.create_task(self.service.run())

    async def relinked(self, hub: FakeHub) -> None:
        """The hub hangs up; capture dials again, at once as after a SIGHUP."""
        known = len(hub.hellos)
        await hub.drop()

        def linked() -> bool:
            self.nudge.set()
            return len(hub.hellos) > known

        await until(linked, "capture is linked again")

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 10)


@asynccontextmanager
async def running(outlet: Outlet, hub: FakeHub) -> AsyncIterator[Running]:
    capture = Running(outlet, hub)
    try:
        await until(lambda: bool(hub.hellos) or capture.task.done(), "capture is linked")
        yield capture
    finally:
        if not capture.task.done():
            await capture.end()
    capture.task.result()


async def until(holds: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + LIMIT_SECONDS
    while not await asyncio.to_thread(holds):
        assert asyncio.get_running_loop().time() < deadline, f"waited {LIMIT_SECONDS} s for: {what}"
        await asyncio.sleep(0.01)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scene(), 60)

    asyncio.run(limited())


def all_marked(outlet: Outlet) -> bool:
    return all(flag == 1 for _, flag in outlet.flags())


async def started(outlet: Outlet, hub: FakeHub, more: dict[str, str]) -> asyncio.subprocess.Process:
    environment = {**os.environ, **variables(outlet, hub), **more}
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "services.capture", env=environment)
