"""What a service tells about itself: log lines on stderr, figures and health on a small HTTP server, an exit code.

Log lines are JSON, or readable on a terminal. They never contain row values: the text of a database's error, or of one about
a value or a key, may quote them, so only its kind and place are shown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from services.kernel.errors import PermanentError, SubakError
from services.kernel.metrics import figures
from services.kernel.seldom import Seldom
from services.kernel.settings import Address

STOP_SECONDS = 9.5
"""A service that was told to stop and has not by then ends at once: whoever told it waits ten seconds."""

REQUEST_SECONDS = 5.0
"""A client that has not sent its request by then is cut off, so that idle connections cannot pile up."""

MAX_REQUESTS = 16
"""At once: each costs a thread and a file descriptor, which the service needs itself. One more ends the oldest."""

FIRST = ("timestamp", "level", "service", "part", "event")
"""A line begins with these."""

QUOTES_VALUES = ("sqlalchemy.", "pymysql.", "sqlite3")
"""Modules whose errors may quote a row's values, besides every ValueError and LookupError."""


def configure_logging(service: str) -> None:
    """Every line carries the service's name. Call once, first."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lambda _logger, _method, event: _in_order({**event, "service": service}),
            _hide_values,
            *_renderers(terminal),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _renderers(terminal: bool) -> list[Any]:
    if terminal:
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    exceptions = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    return [exceptions, structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]


def logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines say which part of the service they come from."""
    bound: FilteringBoundLogger = structlog.get_logger(part=name)
    return bound


def _in_order(event: EventDict) -> EventDict:
    return {name: event[name] for name in FIRST if name in event} | dict(event)


class _HiddenError(Exception):
    """Stands in for an error whose text is not shown."""


def _hide_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    error = event.get("exc_info")
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exc_info"] = _without_values(error)
    return event


def _without_values(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    shown, chain = error, _chain(error)
    if any(_quotes_values(one) for one in chain):
        kinds = " from ".join(f"{type(one).__module__}.{type(one).__qualname__}" for one in chain)
        shown = _HiddenError(f"{kinds}: text not shown, it may hold row values")
    return type(shown), shown, error.__traceback__


def _quotes_values(error: BaseException) -> bool:
    if isinstance(error, SubakError):
        return False
    return isinstance(error, ValueError | LookupError) or f"{type(error).__module__}.".startswith(QUOTES_VALUES)


def _chain(error: BaseException) -> list[BaseException]:
    """The error, what led to it, and the members of a group."""
    chain: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one in chain:
            continue
        chain.append(one)
        waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        waiting += (led for led in (one.__cause__, one.__context__) if led is not None)
    return chain


class Health:
    """What /readyz answers: ready when the service's own work is (`ready`) and, at an outlet, the hub is linked (`link` empty)."""

    def __init__(self, link: str = "") -> None:
        self.ready = False
        self.detail = "starting"
        self.link = link
        """Why there is no link to the hub; set by `link.keep_linked`, empty where there is one or none is needed."""

    def status(self) -> tuple[bool, str]:
        if not self.ready:
            return False, self.detail
        return not self.link, self.link or self.detail or "ready"


def serve_metrics(
    address: Address | None, health: Health, service: str, outlet: str = ""
) -> ThreadingHTTPServer | None:
    """/metrics, /healthz (the process lives) and /readyz, from a thread of its own. None when no address is set.

    Raises PermanentError `metrics_listen` when the address cannot be listened on.
    """
    if address is None:
        return None
    try:
        server = _Server(address, health, figures(service, outlet))
    except OSError as error:
        raise PermanentError(
            "metrics_listen",
            f"Cannot listen on {address} for metrics: {error.strerror or error}.",
            "Set SUBAK_METRICS_LISTEN to an address of this machine and a free port.",
        ) from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    """A client that sends nothing, or a byte now and then, keeps its place only until somebody else needs it."""

    daemon_threads = True

    def __init__(self, address: Address, health: Health, registry: CollectorRegistry) -> None:
        self.health = health
        self.registry = registry
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._served: list[socket.socket] = []
        """Oldest first; touched by the serving thread and those of the requests."""
        self._turn = threading.Lock()
        super().__init__((address.host, address.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._turn:
            if len(self._served) >= MAX_REQUESTS:
                with suppress(OSError):
                    self._served.pop(0).shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it
            self._served.append(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._turn:
            if request in self._served:
                self._served.remove(request)
        super().shutdown_request(request)

    def server_bind(self) -> None:
        """As HTTPServer's, but for its look-up of this host's name, which takes seconds where no name server answers."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, kind, encode(self.server.registry))
        elif self.path == "/healthz":
            self._answer(HTTPStatus.OK, "text/plain", b"alive\n")
        elif self.path == "/readyz":
            ready, detail = self.server.health.status()
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "text/plain; charset=utf-8", f"{detail}\n".encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics /healthz /readyz\n")

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Scrapes are not logged."""


def run_service(name: str, main: Callable[[asyncio.Event, asyncio.Event], Awaitable[None]]) -> int:
    """Runs `main(stop, nudge)`; SIGTERM and SIGINT set `stop`, SIGHUP sets `nudge`. Returns the exit code.

    0: ended in order; 1: an error ended it, which is logged. A service that does not end within STOP_SECONDS of being
    told to is ended with 1; nothing is lost, since nothing is acknowledged before it is durable.
    """
    configure_logging(name)
    log = logger(name)

    def overdue() -> None:
        log.error("not stopped in time", seconds=STOP_SECONDS)
        os._exit(1)

    limit = threading.Timer(STOP_SECONDS, overdue)
    limit.daemon = True

    async def run() -> None:
        stop, nudge = asyncio.Event(), asyncio.Event()

        def told() -> None:
            if not stop.is_set():
                log.info("stopping")
                stop.set()
                limit.start()

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_unhandled(log))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told)
        loop.add_signal_handler(signal.SIGHUP, nudge.set)
        await main(stop, nudge)

    try:
        asyncio.run(run())
    except SubakError as error:
        log.error("ended", code=error.code, what=error.what, todo=error.todo)
        return 1
    except Exception:
        log.exception("ended by a fault of this program")
        return 1
    finally:
        limit.cancel()
    log.info("stopped")
    return 0


def _unhandled(log: FilteringBoundLogger) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """For what asyncio itself comes upon, such as a machine that has no file descriptors left, which it then finds ever again."""
    seldom = Seldom()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        kept_back = seldom.ask((context["message"], repr(error)), loop.time())
        if kept_back is not None:
            log.error("not foreseen", what=context["message"], kept_back=kept_back, exc_info=error)

    return handle
