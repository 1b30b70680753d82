"""A whole network of real processes: a hub, and a capture and an applier per outlet, as an operator would start them.

Only environment variables, signals, databases and the health endpoint are used, nothing of the product's code.
Process names: `hub`, `capture.<outlet>`, `applier.<outlet>`.
"""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tests.stack.application import application_engine, reading_engine, takes
from tests.stack.servers import die_with_parent, free_port

REPOSITORY = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
STOP_SECONDS = 15.0
LOG_TAIL_BYTES = 6000


OUTLET_SERVICES = ("capture", "applier")

FAILPOINTS = {
    "capture": ("before_cut_commit", "after_cut_commit", "after_send", "before_mark_commit", "after_mark_commit"),
    "hub": (
        "before_store_commit",
        "after_store_commit",
        "after_stored_sent",
        "before_executed_commit",
        "after_executed_commit",
    ),
    "applier": ("before_commit", "after_commit", "after_executed_sent"),
}
"""Service to the points at which it can be made to kill itself, to be named as `service.point`."""

BOOK_ROWS = 24
"""Of each table, the last ones are told when a test has failed."""

_HUB_BOOKS = (
    "SELECT Sequence, Origin, Number, Changes, Transactions FROM subak_batch ORDER BY Sequence DESC",
    "SELECT Outlet, Sequence, ExportFlag FROM subak_delivery ORDER BY Sequence DESC",
)
_OUTLET_BOOKS = (
    "SELECT Sequence, Origin, Number, Changes, Quarantined FROM subak_ledger ORDER BY Sequence DESC",
    "SELECT Id, Sequence, Position, Origin, Code, Reason, State FROM subak_quarantine ORDER BY Id DESC",
    "SELECT Id, TableName, Operation, RowKey, Stamp, BatchNumber, ExportFlag FROM CloudQuery ORDER BY Id DESC",
)


class UnsettledError(AssertionError):
    """The network did not come to rest in time; the text says what was still under way."""


def wait_for(what: str, met: Callable[[], bool], limit: float, pause: float = 0.05) -> None:
    """Raises AssertionError when the state is not there within `limit` seconds."""
    end = time.monotonic() + limit
    while not met():
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit:.0f} s in vain for: {what}")
        time.sleep(pause)


@dataclass
class Process:
    name: str
    module: str
    environment: dict[str, str]
    metrics_port: int
    log: Path
    running: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def alive(self) -> bool:
        return self.running is not None and self.running.poll() is None

    def start(self, extra: Mapping[str, str]) -> None:
        assert not self.alive, f"{self.name} runs already"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUBAK_")}
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env={**inherited, **self.environment, **extra},
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,
            )
        self.starts += 1

    def ready(self) -> bool:
        return self._answers("readyz")

    def healthy(self) -> bool:
        return self._answers("healthz")

    def _answers(self, page: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/{page}", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def tail(self) -> str:
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace") if self.log.exists() else ""


@dataclass
class Outlet:
    name: str
    url: URL
    application: Engine = field(init=False)
    """As the outlet's application connects."""
    reader: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.application = application_engine(self.url)
        self.reader = reading_engine(self.url)

    @property
    def engine_name(self) -> str:
        return self.url.get_backend_name()

    def count(self, sql: str, **values: object) -> int:
        with self.reader.begin() as connection:
            return int(connection.scalar(text(sql), values) or 0)

    def execute(self, *statements: str) -> None:
        """Runs each statement, all in one transaction, as the application."""
        with self.application.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def is_locked(self) -> bool:
        """Whether somebody holds a lock that an application's write would have to wait for."""
        if self.engine_name == "sqlite":
            connection = sqlite3.connect(str(self.url.database), timeout=0.1, isolation_level=None)
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            finally:
                connection.close()
            return False
        if self.engine_name == "mssql":
            return self._somebody_is_writing()
        with self.application.connect() as connection_, connection_.begin() as transaction:
            try:
                for table in inspect(connection_).get_table_names():
                    connection_.exec_driver_sql(f"SELECT COUNT(*) FROM `{table}` FOR UPDATE NOWAIT")
            except DBAPIError:
                return True
            finally:
                transaction.rollback()
        return False

    def _somebody_is_writing(self) -> bool:
        """By the server's own books: SQL Server's, or PostgreSQL's where it is one that speaks T-SQL."""
        by_sql_server = (
            "SELECT COUNT(*) FROM sys.dm_tran_session_transactions AS t INNER JOIN sys.dm_exec_sessions AS s"
        )
        by_postgresql = "SELECT COUNT(*) FROM pg_catalog.pg_stat_activity AS t INNER JOIN sys.dm_exec_sessions AS s"
        here = " WHERE s.database_id = DB_ID() AND s.session_id <> @@SPID"
        queries = (
            f"{by_sql_server} ON s.session_id = t.session_id{here}",
            f"{by_postgresql} ON s.session_id = t.pid{here} AND t.backend_xid IS NOT NULL",
        )
        known = [query for query in queries if takes(self.application, query)]
        with self.application.connect() as connection:
            return bool(connection.exec_driver_sql(known[0]).scalar())

    def close(self) -> None:
        self.application.dispose()
        self.reader.dispose()


def still_waiting(hub_reader: Engine, outlets: Mapping[str, Outlet]) -> dict[str, int]:
    """What is still under way: CloudQuery rows not exported per outlet, deliveries not executed per outlet."""
    found: dict[str, int] = {}
    for name, outlet in outlets.items():
        found[f"CloudQuery at {name}"] = outlet.count("SELECT COUNT(*) FROM CloudQuery WHERE ExportFlag = 0")
    with hub_reader.begin() as connection:
        for name, count in connection.execute(
            text("SELECT Outlet, COUNT(*) FROM subak_delivery WHERE ExportFlag = 0 GROUP BY Outlet")
        ):
            found[f"deliveries to {name}"] = count
    return {what: count for what, count in found.items() if count}


class Network:
    def __init__(
        self,
        folder: Path,
        hub_url: URL,
        outlets: Mapping[str, URL],
        *,
        tables: str = "*",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.hub_url = hub_url
        self.hub_reader = reading_engine(hub_url)
        self.hub_port = free_port()
        self.outlets = {name: Outlet(name, url) for name, url in outlets.items()}
        common = {"SUBAK_TLS": "off", **(environment or {})}
        self.processes: dict[str, Process] = {}
        hub = {
            "SUBAK_HUB_LISTEN": f"127.0.0.1:{self.hub_port}",
            "SUBAK_HUB_DATABASE_URL": hub_url.render_as_string(hide_password=False),
            "SUBAK_HUB_ENROL": "open",
        }
        self._add("hub", "services.hub", common | hub)
        self._common = common | {"SUBAK_HUB": f"127.0.0.1:{self.hub_port}", "SUBAK_TABLES": tables}
        for outlet in self.outlets.values():
            self._add_services(outlet)

    def enrol(self, name: str, url: URL) -> None:
        """One more outlet; its services are not started."""
        self.outlets[name] = Outlet(name, url)
        self._add_services(self.outlets[name])

    def _add_services(self, outlet: Outlet) -> None:
        url = outlet.url.render_as_string(hide_password=False)
        mine = {"SUBAK_OUTLET": outlet.name, "SUBAK_DATABASE_URL": url}
        for service in OUTLET_SERVICES:
            self._add(f"{service}.{outlet.name}", f"services.{service}", self._common | mine)

    def _add(self, name: str, module: str, environment: dict[str, str]) -> None:
        port = free_port()
        environment = environment | {"SUBAK_METRICS_LISTEN": f"127.0.0.1:{port}"}
        self.processes[name] = Process(name, module, environment, port, self.folder / f"{name}.log")

    def dial(self, outlet: str, port: int) -> None:
        """That outlet's services reach the hub through this port (a proxy's) from their next start on."""
        for service in OUTLET_SERVICES:
            self.processes[f"{service}.{outlet}"].environment["SUBAK_HUB"] = f"127.0.0.1:{port}"

    def secure(self, certificates: Callable[[str], Sequence[Path]], revoked: Path | None = None) -> None:
        """TLS from the next start on. `certificates` gives the files of `hub` or of an outlet: authority,
        certificate, key. `revoked`: the list that the hub follows."""
        names = ("SUBAK_TLS_CA", "SUBAK_TLS_CERT", "SUBAK_TLS_KEY")
        files = {name: list(map(str, certificates(name)[:3])) for name in ("hub", *self.outlets)}
        for name, process in self.processes.items():
            process.environment.pop("SUBAK_TLS", None)
            process.environment |= dict(zip(names, files[name.rpartition(".")[2]], strict=True))
        if revoked is not None:
            self.processes["hub"].environment["SUBAK_TLS_CRL"] = str(revoked)

    def beside(self, name: str, number: int) -> Process:
        """A second process that believes it is `name`; not started, and not one of `processes`."""
        first, port = self.processes[name], free_port()
        environment = first.environment | {"SUBAK_METRICS_LISTEN": f"127.0.0.1:{port}"}
        return Process(f"{name} beside", first.module, environment, port, self.folder / f"{name}.beside-{number}.log")

    @property
    def urls(self) -> dict[str, URL]:
        return {name: outlet.url for name, outlet in self.outlets.items()}

    @property
    def outlet_processes(self) -> list[str]:
        return [name for name in self.processes if name != "hub"]

    def start(self, *names: str, failpoint: str | None = None, wait: bool = True) -> None:
        """Starts the named processes (none named: all that do not run, the hub first); waits until they are ready."""
        chosen = list(names) or [name for name, process in self.processes.items() if not process.alive]
        if "hub" in chosen and len(chosen) > 1:
            self.start("hub", wait=True)
            chosen.remove("hub")
        extra = {"SUBAK_FAILPOINT": failpoint} if failpoint else {}
        for name in chosen:
            self.processes[name].start(extra)
        if wait:
            for name in chosen:
                self.wait_ready(name)

    def wait_ready(self, name: str, limit: float = READY_SECONDS) -> None:
        process = self.processes[name]
        end = time.monotonic() + limit
        while not process.ready():
            if not process.alive:
                code = process.running.returncode if process.running else None
                raise AssertionError(f"{name} ended with {code} before it was ready:\n{process.tail()}")
            if time.monotonic() > end:
                raise AssertionError(f"{name} was not ready within {limit:.0f} s:\n{process.tail()}")
            time.sleep(0.05)

    def kill(self, name: str) -> None:
        """kill -9: no handler runs."""
        process = self.processes[name]
        assert process.running is not None
        process.running.kill()
        process.running.wait()

    def stop(self, name: str) -> int:
        """SIGTERM; the exit code. Fails the test when the process needs longer than it may."""
        process = self.processes[name]
        assert process.running is not None
        process.running.terminate()
        try:
            return process.running.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill(name)
            raise AssertionError(f"{name} did not stop within {STOP_SECONDS} s:\n{process.tail()}") from None

    def restart(self, name: str, *, failpoint: str | None = None, wait: bool = True) -> None:
        if self.processes[name].alive:
            self.stop(name)
        self.start(name, failpoint=failpoint, wait=wait)

    def nudge(self) -> None:
        """SIGHUP to every outlet's service that is up but not linked: try the hub now."""
        for name in self.outlet_processes:
            process = self.processes[name]
            # One that has only just started does not listen to signals yet.
            if process.alive and process.running is not None and process.healthy() and not process.ready():
                process.running.send_signal(signal.SIGHUP)

    @contextmanager
    def apart(self, limit: float = 60.0) -> Iterator[None]:
        """Inside the block no outlet learns of another's changes: the appliers, at rest, are held by SIGSTOP."""
        self.settle(limit)
        held = []
        try:
            for name, outlet in self.outlets.items():
                applier = self.processes[f"applier.{name}"].running
                assert applier is not None
                held.append(applier)
                applier.send_signal(signal.SIGSTOP)
                while outlet.is_locked():  # it was in the middle of something: try again, ever so slightly later
                    applier.send_signal(signal.SIGCONT)
                    time.sleep(0.03)
                    applier.send_signal(signal.SIGSTOP)
            yield
        finally:
            for applier in held:
                applier.send_signal(signal.SIGCONT)

    def dead(self) -> list[str]:
        """Processes that were started and have ended by themselves or by a failpoint."""
        return [name for name, process in self.processes.items() if process.starts and not process.alive]

    def waiting(self) -> dict[str, int]:
        return still_waiting(self.hub_reader, self.outlets)

    def _last_sequence(self) -> int:
        with self.hub_reader.begin() as connection:
            return int(connection.scalar(text("SELECT MAX(Sequence) FROM subak_batch")) or 0)

    def _at_rest(self) -> bool:
        # Applying may make new changes, and exporting makes deliveries: nothing may have moved between the two looks.
        before = self._last_sequence()
        return not self.waiting() and not self.waiting() and self._last_sequence() == before

    def settle(self, limit: float = 60.0) -> None:
        """Waits until every change is exported and every delivery executed. The application must be quiet."""
        end = time.monotonic() + limit
        while True:
            try:
                if self._at_rest():
                    return
            except DBAPIError:  # a database that is just coming up, or a table not made yet
                if time.monotonic() > end:
                    raise
            if time.monotonic() > end:
                state = {name: "up" if p.alive else "down" for name, p in self.processes.items()}
                raise UnsettledError(f"not at rest after {limit:.0f} s: {self.waiting()}; processes: {state}")
            time.sleep(0.05)

    def logs(self) -> Iterator[tuple[str, str]]:
        for name, process in self.processes.items():
            if process.starts:
                yield name, process.tail()

    def books(self) -> Iterator[tuple[str, str]]:
        """What the hub and the outlets have on record last, for a failed test's report."""
        looks = [("hub", self.hub_reader, sql) for sql in _HUB_BOOKS]
        looks += [(name, outlet.reader, sql) for name, outlet in self.outlets.items() for sql in _OUTLET_BOOKS]
        for name, reader, sql in looks:
            try:
                with reader.begin() as connection:
                    rows = connection.execute(text(sql)).fetchmany(BOOK_ROWS)
            except DBAPIError as error:
                yield f"{name}: {sql}", str(error)
            else:
                yield f"{name}: {sql}", "\n".join(str(tuple(row))[:300] for row in rows)

    def close(self) -> None:
        for process in self.processes.values():
            if process.alive and process.running is not None:
                process.running.kill()
                process.running.wait()
        for outlet in self.outlets.values():
            outlet.close()
        self.hub_reader.dispose()
