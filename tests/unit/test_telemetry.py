"""Log lines without row values, health and figures over HTTP, exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy
import structlog

from services.kernel.errors import PermanentError
from services.kernel.seldom import BURST
from services.kernel.settings import Address
from services.kernel.telemetry import MAX_REQUESTS, Health, configure_logging, logger, serve_metrics

Lines = Callable[[], list[dict[str, object]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """Everything logged, as JSON."""
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    configure_logging("capture")
    yield lambda: [json.loads(line) for line in errors.getvalue().splitlines()]
    structlog.reset_defaults()


def test_a_line_is_json_and_says_who_when_and_what(lines: Lines) -> None:
    logger("link").warning("unreachable", hub="h:1", text="sawah 🌾")
    (line,) = lines()
    assert list(line)[:5] == ["timestamp", "level", "service", "part", "event"]
    assert (line["level"], line["service"], line["part"], line["event"]) == (
        "warning",
        "capture",
        "link",
        "unreachable",
    )
    assert line["text"] == "sawah 🌾"


def test_an_error_of_the_database_is_told_without_the_values_it_quotes(lines: Lines) -> None:
    def insert(secret: str) -> None:
        engine = sqlalchemy.create_engine("sqlite://")
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (a TEXT CHECK (a <> 'geheim'))")
            connection.exec_driver_sql("INSERT INTO t VALUES (?)", (secret,))

    for wrap in (False, True):
        try:
            try:
                insert("geheim")
            except sqlalchemy.exc.IntegrityError as error:
                if wrap:
                    raise RuntimeError(f"wrapped: {error}") from error
                raise
        except (RuntimeError, sqlalchemy.exc.IntegrityError):
            logger("sending").exception("fault")
    with pytest.raises(sqlite3.Error) as plain:
        sqlite3.connect(":memory:").execute("SELECT geheim")
    logger("sending").error("fault", exc_info=plain.value)
    names: dict[str, int] = {}
    faults: list[Callable[[], int]] = [lambda: int("geheim"), lambda: names["geheim"]]
    for wrong in faults:
        try:
            wrong()
        except (ValueError, KeyError) as error:
            logger("sending").exception("fault")
            logger("sending").error("fault", exc_info=ExceptionGroup("tasks", [error]))
    told = lines()
    assert len(told) == 7
    assert "geheim" not in json.dumps(told)
    assert "test_telemetry.py" in json.dumps(told[0]), "the place is told"
    assert "IntegrityError" in json.dumps(told[0])


def test_any_other_error_is_told_in_full_and_without_local_variables(lines: Lines) -> None:
    def fail(local: str) -> None:
        raise ZeroDivisionError("by zero")

    try:
        fail("geheim")
    except ZeroDivisionError:
        logger("x").exception("fault")
    text = json.dumps(lines())
    assert "by zero" in text
    assert '"geheim"' not in text


# ---- HTTP


def get(port: int, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_figures_over_http() -> None:
    health = Health(link="not linked yet")
    server = serve_metrics(Address("127.0.0.1", 0), health, "hub")
    assert server is not None
    port = server.server_port
    assert get(port, "/healthz")[0] == 200
    assert get(port, "/readyz") == (503, "starting\n")
    health.ready = True
    assert get(port, "/readyz") == (503, "not linked yet\n")
    health.link = ""
    assert get(port, "/readyz")[0] == 200
    assert "python_info" in get(port, "/metrics")[1]
    assert get(port, "/../etc/passwd")[0] == 404
    with pytest.raises(PermanentError) as taken:
        serve_metrics(Address("127.0.0.1", port), health, "hub")
    assert taken.value.code == "metrics_listen"
    server.shutdown()
    server.server_close()
    assert serve_metrics(None, health, "hub") is None


def test_who_sends_a_byte_now_and_then_takes_nobodys_place() -> None:
    """Each such connection costs a thread and a file descriptor: there is an end to them, and whoever asks in earnest is answered."""
    health = Health()
    health.ready = True
    server = serve_metrics(Address("127.0.0.1", 0), health, "hub")
    assert server is not None
    threads = threading.active_count()
    drips = []
    try:
        for _ in range(3 * MAX_REQUESTS):
            drip = socket.create_connection(server.server_address[:2], 5)
            drip.sendall(b"GET / HTTP/1.1\r\nX: ")
            drips.append(drip)
        for _ in range(3):
            assert get(server.server_port, "/readyz")[0] == 200
        assert threading.active_count() <= threads + MAX_REQUESTS + 1
        drips[0].settimeout(5)
        assert drips[0].recv(1) == b"", "the oldest has been ended"
    finally:
        for drip in drips:
            drip.close()
        server.shutdown()
        server.server_close()


def test_ipv6_is_an_address_too() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    server = serve_metrics(Address("::1", 0), Health(), "hub")
    assert server is not None
    server.shutdown()
    server.server_close()


# ---- the end

PROGRAM = """
import asyncio, sys, time
from services.kernel import telemetry
from services.kernel.errors import PermanentError
telemetry.STOP_SECONDS = 1.0

async def until_told(stop, nudge):
    print("up", flush=True)
    while not stop.is_set():
        await nudge.wait()
        nudge.clear()
        print("nudged", flush=True)
        await stop.wait()

async def never(stop, nudge):
    print("up", flush=True)
    await stop.wait()
    await asyncio.to_thread(time.sleep, 60)

async def wrong(stop, nudge):
    raise PermanentError("newer_schema", "It is newer.", "Run the newer Subak.")

async def fault(stop, nudge):
    raise ZeroDivisionError

async def accepting(stop, nudge):
    for _ in range(20):
        asyncio.get_running_loop().call_exception_handler(
            {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}
        )

sys.exit(telemetry.run_service("hub", globals()[sys.argv[1]]))
"""


def started(what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_what_asyncio_comes_upon_is_a_line_of_json_and_not_one_for_each_time() -> None:
    _, errors = started("accepting").communicate(timeout=20)
    told = [line for line in map(json.loads, errors.splitlines()) if line["event"] == "not foreseen"]
    assert len(told) == BURST and all("accept" in line["what"] for line in told)


def test_a_service_hears_sighup_and_ends_with_0_on_sigterm() -> None:
    process = started("until_told")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    os.kill(process.pid, signal.SIGHUP)
    assert process.stdout.readline() == "nudged\n"
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert [json.loads(line)["event"] for line in errors.splitlines()] == ["stopping", "stopped"]


def test_a_service_that_does_not_stop_is_ended() -> None:
    process = started("never")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    begun = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert time.monotonic() - begun < 5
    assert process.returncode == 1
    assert "not stopped in time" in errors


@pytest.mark.parametrize(("what", "told"), [("wrong", "newer_schema"), ("fault", "ZeroDivisionError")])
def test_an_error_ends_a_service_with_1_and_one_line(what: str, told: str) -> None:
    process = started(what)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert told in errors
    assert errors.count("\n") == 1
