"""A bad line: a TCP proxy that, on command, refuses, delays, cuts, swallows, repeats, swaps and damages what goes through.

    with Proxy(hub_port, seed=7) as line:      # dial 127.0.0.1:line.port
        line.cut(reset=True)
        line.stall(Way.DOWN)

Its commands may be called from any thread and have taken effect when they return. Where chance decides (which byte, which
chunk), it is drawn from the seed; how bytes come in chunks is the kernel's business, so that a seed does not repeat a run
exactly. Of each connection it holds CHUNK_BYTES and what asyncio buffers for a peer that does not read (BUFFER_BYTES).
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from tests.stack.servers import free_port

CHUNK_BYTES = 16 * 1024
BUFFER_BYTES = 64 * 1024
COMMAND_SECONDS = 10.0
"""A command that takes longer has met a fault of the proxy's own."""

_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: a close sends RST and forgets what was on its way."""


class Way(StrEnum):
    UP = "up"
    """From an outlet to the hub."""
    DOWN = "down"


BOTH = (Way.UP, Way.DOWN)


@dataclass
class Weather:
    """What one direction suffers. `corrupt`, `duplicate`, `reorder`: the share of chunks to which that happens."""

    delay: float = 0.0
    """Seconds that a chunk is held."""
    rate: float = 0.0
    """Bytes per second; 0: as they come."""
    corrupt: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0


@dataclass
class Counts:
    connections: int = 0
    damaged: int = 0
    """Chunks that were corrupted, duplicated or reordered."""
    forwarded: dict[Way, int] = field(default_factory=lambda: dict.fromkeys(BOTH, 0))
    """Bytes taken in."""


Pair = tuple[asyncio.StreamWriter, asyncio.StreamWriter]


class Proxy:
    """Between whoever dials `port` and the hub at `target`, both on this machine. Runs in a thread of its own."""

    def __init__(self, target: int, seed: object) -> None:
        self.port = free_port()
        self.counts = Counts()
        self._target = target
        self._random = random.Random(f"{seed}-proxy")
        self._weather = {way: Weather() for way in BOTH}
        self._loop = asyncio.new_event_loop()
        self._flowing: dict[Way, asyncio.Event] = {}
        self._door: tuple[socket.socket, asyncio.Task[None]] | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._pairs: set[Pair] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name=f"proxy-{self.port}")

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(COMMAND_SECONDS)
        self._loop.close()

    # Commands

    def refuse(self) -> None:
        """New connections are refused; those that there are stay."""
        self._do(self._close_door())

    def admit(self) -> None:
        """New connections are taken again."""
        self._do(self._open_door())

    def cut(self, *, reset: bool) -> int:
        """Ends every connection at both ends, with RST or with FIN; how many there were. New ones are taken."""
        return self._do(self._cut(reset))

    def stall(self, *ways: Way) -> None:
        """Half-open: connections are taken and kept, and nothing goes through (none named: either way), until `flow`."""
        self._do(self._stall(ways or BOTH))

    def flow(self) -> None:
        """What was held goes on."""
        self._do(self._flow())

    def weather(self, *ways: Way, **what: float) -> None:
        """Sets what the named directions (none: both) suffer from now on; see Weather. Nothing given: fair again."""
        self._do(self._become(ways or BOTH, Weather(**what)))

    def calm(self) -> None:
        """Everything is well from now on; connections that were damaged stay damaged."""
        self.weather()
        self.flow()
        self.admit()

    # In the loop's thread

    def _do(self, command: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(command, self._loop).result(COMMAND_SECONDS)

    async def _begin(self) -> None:
        self._flowing = {way: asyncio.Event() for way in BOTH}
        await self._flow()
        await self._open_door()

    async def _end(self) -> None:
        await self._close_door()
        await self._cut(reset=True)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _open_door(self) -> None:
        if self._door is None:
            listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
            listener.setblocking(False)
            self._door = listener, asyncio.create_task(self._accept(listener))

    async def _close_door(self) -> None:
        if self._door is not None:
            (listener, accepting), self._door = self._door, None
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        # Not asyncio's own server: closed in the moment somebody comes, it leaves that connection hanging.
        while True:
            connection, _ = await self._loop.sock_accept(listener)
            task = self._loop.create_task(self._connect(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _cut(self, reset: bool) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            _hang_up(pair, reset)
        return len(pairs)

    async def _stall(self, ways: Iterable[Way]) -> None:
        for way in ways:
            self._flowing[way].clear()

    async def _flow(self) -> None:
        for flowing in self._flowing.values():
            flowing.set()

    async def _become(self, ways: Iterable[Way], weather: Weather) -> None:
        self._weather |= dict.fromkeys(ways, weather)

    async def _connect(self, connection: socket.socket) -> None:
        self.counts.connections += 1
        reader, writer = await asyncio.open_connection(sock=connection, limit=CHUNK_BYTES)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target, limit=CHUNK_BYTES)
        except OSError:
            _abort(writer)
            return
        pair = (writer, back)
        self._pairs.add(pair)
        for one in pair:
            one.transport.set_write_buffer_limits(BUFFER_BYTES)
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back, Way.UP))
                group.create_task(self._pump(there, writer, Way.DOWN))
            _hang_up(pair, reset=False)
        except* OSError:  # one end has gone: the other learns it as it was said
            _hang_up(pair, reset=True)
        finally:
            self._pairs.discard(pair)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        while data := await reader.read(CHUNK_BYTES):
            self.counts.forwarded[way] += len(data)
            weather = self._weather[way]
            if seconds := weather.delay + (len(data) / weather.rate if weather.rate else 0.0):
                await asyncio.sleep(seconds)
            await self._flowing[way].wait()
            writer.write(self._mangled(data, weather))
            await writer.drain()
        await self._flowing[way].wait()
        if writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()

    def _mangled(self, data: bytes, weather: Weather) -> bytes:
        if not (weather.corrupt or weather.duplicate or weather.reorder):
            return data
        draw, before = self._random, data
        if draw.random() < weather.corrupt:
            at = draw.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        if draw.random() < weather.duplicate:
            start = draw.randrange(len(data))
            data = data[: start + 1] + data[start:]
        if draw.random() < weather.reorder:
            middle = draw.randrange(len(data))
            data = data[middle:] + data[:middle]
        self.counts.damaged += data != before
        return data


def _hang_up(pair: Pair, reset: bool) -> None:
    for writer in pair:
        if reset:
            _abort(writer)
        else:
            writer.close()


def _abort(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError):  # it was closed in this very moment
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()
