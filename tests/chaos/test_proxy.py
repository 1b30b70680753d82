"""The bad line by itself: what each command does to what goes through, seen from both ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.stack.proxy import BUFFER_BYTES, CHUNK_BYTES, Proxy, Way
from tests.stack.servers import free_port

LIMIT = 10.0


class Echo:
    """A server that sends everything back, or, deaf, reads nothing."""

    def __init__(self) -> None:
        self.deaf = False
        self.received = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            if not self.deaf:
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            while data := connection.recv(65536):
                self.received += data
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def line(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port, seed=1) as proxy:
        yield proxy


def dial(line: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=LIMIT)


def read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := connection.recv(count - len(data))):
        data += more
    return data


def said(connection: socket.socket, data: bytes) -> bytes:
    """What comes back for it."""
    connection.sendall(data)
    return read(connection, len(data))


def silent(connection: socket.socket, seconds: float = 0.3) -> bool:
    connection.settimeout(seconds)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(LIMIT)
    return False


def test_in_fair_weather_everything_goes_through_and_an_end_is_passed_on(line: Proxy) -> None:
    with dial(line) as connection:
        assert said(connection, b"x" * 300_000) == b"x" * 300_000
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert line.counts.forwarded == {Way.UP: 300_000, Way.DOWN: 300_000}
    assert line.counts.damaged == 0


def test_refused_and_admitted_again(line: Proxy) -> None:
    with dial(line) as before:
        assert said(before, b"there") == b"there"
        line.refuse()
        with pytest.raises(ConnectionRefusedError):
            dial(line)
        assert said(before, b"still there") == b"still there"
        line.admit()
        with dial(line) as after:
            assert said(after, b"again") == b"again"


def test_nobody_behind_it() -> None:
    with Proxy(free_port(), seed=1) as line, pytest.raises(ConnectionResetError), dial(line) as connection:
        connection.recv(1)


def test_cut_with_reset_and_with_fin(line: Proxy) -> None:
    with dial(line) as connection:
        assert said(connection, b"x") == b"x"
        assert line.cut(reset=True) == 1
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with dial(line) as connection:
        assert said(connection, b"x") == b"x"
        assert line.cut(reset=False) == 1
        assert connection.recv(1) == b""


@pytest.mark.parametrize("way", [Way.UP, Way.DOWN])
def test_half_open_nothing_comes_and_nothing_ends_until_it_flows_again(line: Proxy, echo: Echo, way: Way) -> None:
    with dial(line) as connection:
        assert said(connection, b"x") == b"x"
        line.stall(way)
        connection.sendall(b"held")
        assert silent(connection)
        assert bytes(echo.received) == (b"x" if way is Way.UP else b"xheld")
        with dial(line) as another:
            another.sendall(b"y")
            assert silent(another)
        line.flow()
        assert read(connection, 4) == b"held"


def test_late_and_slow(line: Proxy) -> None:
    with dial(line) as connection:
        line.weather(Way.UP, delay=0.2)
        begun = time.monotonic()
        assert said(connection, b"x") == b"x"
        assert time.monotonic() - begun >= 0.2
        line.weather(rate=100_000)
        begun = time.monotonic()
        assert said(connection, b"x" * 20_000) == b"x" * 20_000
        assert time.monotonic() - begun >= 0.2
        line.calm()
        assert said(connection, b"x") == b"x"


def test_one_bit_is_another(line: Proxy) -> None:
    with dial(line) as connection:
        line.weather(Way.UP, corrupt=1.0)
        sent = bytes(100)
        came = said(connection, sent)
        assert sum(byte.bit_count() for byte in came) == 1
        assert line.counts.damaged == 1


def test_some_bytes_come_twice(line: Proxy, echo: Echo) -> None:
    with dial(line) as connection:
        line.weather(Way.UP, duplicate=1.0)
        sent = bytes(range(100))
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        came = read(connection, 1000)
        assert len(came) > len(sent)
        assert any(came == sent[: at + 1] + sent[at:] for at in range(100))


def test_chunks_change_places(line: Proxy) -> None:
    with dial(line) as connection:
        line.weather(Way.UP, reorder=1.0)
        sent = bytes(range(100))
        came = said(connection, sent)
        assert sorted(came) == list(sent)
        assert any(came == sent[at:] + sent[:at] for at in range(100))


def test_what_it_holds_for_one_that_does_not_read_is_bounded(line: Proxy, echo: Echo) -> None:
    """What a deaf server leaves unread stands in the kernel's buffers and the proxy's; then the sender has to wait."""
    echo.deaf = True
    with dial(line) as connection:
        connection.settimeout(1.0)
        with pytest.raises(TimeoutError):
            while True:
                connection.sendall(b"x" * CHUNK_BYTES)
        taken = line.counts.forwarded[Way.UP]
        assert silent(connection)
        assert line.counts.forwarded[Way.UP] == taken
        (pair,) = line._pairs
        assert pair[1].transport.get_write_buffer_size() <= BUFFER_BYTES + CHUNK_BYTES
