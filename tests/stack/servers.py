"""Throw-away database servers for one test session: own data directory, own free port, stopped by their process id.

Nothing here is shared with a server that the machine may already run. A server is started when the first test asks for
it. The settings are fast but not careless: an InnoDB commit survives the death of any process, only not that of the
machine.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import pymysql
from sqlalchemy.engine import URL

from tests.stack.sql_server import MSSQL_URL, SqlServer

ENGINES = ("sqlite", "mariadb", "mysql", "mssql")
"""Every engine that a test may be parametrised over."""

HUB_ENGINES = ("sqlite", "mariadb", "mysql")
"""Those that the hub keeps its queue in."""

REQUIRED_IN_CI = ("sqlite", "mariadb")

START_SECONDS = 90.0
ROOM_BYTES = 3 * 1024**3
"""Memory-backed storage is used when it has this much room; a whole run needs about a third of it."""

_USER, _PASSWORD, _ROOT_PASSWORD = "app", "secret", "root"


class MissingEngineError(Exception):
    """The engine is not on this machine; the text says what was looked for and how it is had."""


def scratch() -> Path:
    """The folder for throw-away data: in memory when there is room: a disk's fsync proves nothing about our code."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM_BYTES:
        return memory
    return Path(tempfile.gettempdir())


FIRST_PORT, PORTS_EACH, WORKERS = 15_000, 2_000, 8
"""Each of the processes that share one test run (pytest-xdist names them gw0, gw1, ...) draws from its own range of ports; all lie below
those that the system gives to outgoing connections."""

_given: set[int] = set()


def free_port() -> int:
    """Never the same twice in one run."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    first = FIRST_PORT + worker * PORTS_EACH
    while True:
        port = random.SystemRandom().randrange(first, first + PORTS_EACH)
        with socket.socket() as probe, suppress(OSError):
            if port not in _given:
                probe.bind(("127.0.0.1", port))
                _given.add(port)
                return port


def die_with_parent() -> None:
    """For `preexec_fn`: the child gets SIGTERM when the test run dies without cleaning up (Linux: prctl(2))."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


class Server(Protocol):
    name: str

    def version(self) -> str: ...

    def create(self, database: str) -> URL:
        """A new empty database."""

    def drop(self, url: URL) -> None: ...

    def stop(self) -> None: ...


class SqliteFiles:
    """SQLite needs no server: a database is a file."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def create(self, database: str) -> URL:
        return URL.create("sqlite", database=str(self._folder / f"{database}.db"))

    def drop(self, url: URL) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{url.database}{suffix}").unlink(missing_ok=True)

    def stop(self) -> None:
        pass


class MysqlServer:
    """A MySQL or MariaDB server process. `command` starts it in the foreground, given the port and socket."""

    def __init__(self, name: str, drivername: str, command: list[str], folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self._drivername = drivername
        self._folder = folder
        # A server that starts clears its folder for temporary files: it must be nobody else's.
        (folder / "tmp").mkdir()
        place = [f"--socket={folder}/s.sock", f"--pid-file={folder}/pid", f"--tmpdir={folder}/tmp"]
        self._command = [*command, f"--port={self.port}", *place]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
            )
        limit = time.monotonic() + START_SECONDS
        while True:
            try:
                with self.administrator():
                    return process
            except pymysql.err.OperationalError:
                if process.poll() is not None or time.monotonic() > limit:
                    tail = (self._folder / "server.log").read_text("utf-8", "replace")[-3000:]
                    raise RuntimeError(f"The {self.name} server did not start:\n{tail}") from None
                time.sleep(0.05)

    @contextmanager
    def administrator(self) -> Iterator[pymysql.cursors.Cursor]:
        connection = pymysql.connect(
            unix_socket=f"{self._folder}/s.sock", user="root", password=_ROOT_PASSWORD, autocommit=True
        )
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def version(self) -> str:
        with self.administrator() as cursor:
            cursor.execute("SELECT VERSION()")
            (version,) = cursor.fetchone() or ("?",)
        return f"{'MariaDB' if self.name == 'mariadb' else 'MySQL'} {str(version).partition('-')[0]}"

    def create(self, database: str) -> URL:
        with self.administrator() as cursor:
            cursor.execute(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")
            cursor.execute(f"GRANT ALL ON `{database.replace('_', chr(92) + '_')}`.* TO '{_USER}'@'%'")
            if self.name == "mysql":  # as the README advises: each transaction then travels by itself
                cursor.execute(f"GRANT SELECT ON performance_schema.events_transactions_current TO '{_USER}'@'%'")
        return URL.create(
            self._drivername,
            username=_USER,
            password=_PASSWORD,
            host="127.0.0.1",
            port=self.port,
            database=database,
            query={"charset": "utf8mb4"},
        )

    def drop(self, url: URL) -> None:
        with self.administrator() as cursor:
            cursor.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE DB = %s", (url.database,))
            for (connection,) in cursor.fetchall():
                with suppress(pymysql.err.MySQLError):  # it went by itself
                    cursor.execute(f"KILL {int(connection)}")
            cursor.execute(f"DROP DATABASE IF EXISTS `{url.database}`")

    def latest_deadlock(self) -> str:
        """What InnoDB tells of the last deadlock since the server started."""
        with self.administrator() as cursor:
            cursor.execute("SHOW ENGINE INNODB STATUS")
            status = str((cursor.fetchone() or ("", "", ""))[2])
        _, _, deadlock = status.partition("LATEST DETECTED DEADLOCK")
        return deadlock.partition("\nTRANSACTIONS\n")[0]

    def kill_and_restart(self, *more: str) -> None:
        """As a crash of the server would do; committed transactions are there again afterwards. `more`: options that it gets besides."""
        self._command += more
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_INIT_SQL = f"""\
CREATE USER '{_USER}'@'%' IDENTIFIED BY '{_PASSWORD}';
ALTER USER 'root'@'localhost' IDENTIFIED BY '{_ROOT_PASSWORD}';
"""

_SERVER_OPTIONS = [
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--max-connections=400",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-use-native-aio=0",
    "--innodb-buffer-pool-size=256M",
    "--skip-log-bin",
]


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _run(command: list[str], log: Path) -> None:
    with log.open("ab") as output:
        result = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, check=False)
    if result.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{log.read_text('utf-8', 'replace')[-3000:]}")


def start_mariadb(folder: Path, *options: str) -> MysqlServer:
    mariadbd, install = _find("mariadbd"), _find("mariadb-install-db")
    if not mariadbd or not install:
        raise MissingEngineError("no mariadbd here: `bash tests/engines.sh` as root installs one")
    data = folder / "data"
    method = "--auth-root-authentication-method=normal"
    _run([install, "--no-defaults", *_as_root(), f"--datadir={data}", method, "--skip-test-db"], folder / "install.log")
    (folder / "init.sql").write_text(_INIT_SQL, "utf-8")
    command = [mariadbd, "--no-defaults", *_as_root(), f"--datadir={data}", f"--init-file={folder}/init.sql"]
    return MysqlServer("mariadb", "mariadb+pymysql", [*command, *_SERVER_OPTIONS, *options], folder)


def _mysql_roots() -> Iterator[Path]:
    if named := os.environ.get("SUBAK_TEST_MYSQL_ROOT"):
        yield Path(named)
    yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "subak-test" / "mysql"


def _mysql_command() -> list[str]:
    """How mysqld is called: unpacked Debian packages with their own loader and libraries, or the machine's own."""
    for root in _mysql_roots():
        if (root / "usr/sbin/mysqld").is_file():
            return [
                str(root / "usr/lib64/ld-linux-x86-64.so.2"),
                "--library-path",
                str(root / "usr/lib/x86_64-linux-gnu"),
                str(root / "usr/sbin/mysqld"),
                "--no-defaults",
                f"--basedir={root}/usr",
                f"--lc-messages-dir={root}/usr/share/mysql",
                f"--plugin-dir={root}/usr/lib/mysql/plugin",
                f"--character-sets-dir={root}/usr/share/mysql/charsets",
            ]
    mysqld = _find("mysqld")
    if mysqld and "MariaDB" not in subprocess.run([mysqld, "--version"], capture_output=True, text=True).stdout:
        return [mysqld, "--no-defaults"]
    raise MissingEngineError("no MySQL server here: `bash tests/engines.sh`, or set SUBAK_TEST_MYSQL_ROOT")


def start_mysql(folder: Path) -> Server:
    command = [*_mysql_command(), *_as_root(), f"--datadir={folder}/data"]
    (folder / "init.sql").write_text(_INIT_SQL, "utf-8")
    common = ["--innodb-use-native-aio=0", "--innodb-redo-log-capacity=256M"]
    _run(
        [*command, *common, "--initialize-insecure", f"--init-file={folder}/init.sql"],
        folder / "install.log",
    )
    return MysqlServer(
        "mysql",
        "mysql+pymysql",
        [*command, *common, *_SERVER_OPTIONS, "--mysqlx=OFF", "--secure-file-priv=NULL"],
        folder,
    )


def find_mssql(_folder: Path) -> Server:
    given = os.environ.get(MSSQL_URL)
    if not given:
        raise MissingEngineError(
            f"{MSSQL_URL} names no SQL Server: set it to mssql+pyodbc://user:password@host:port/master"
        )
    return SqlServer(given)


_STARTERS: dict[str, Callable[[Path], Server]] = {
    "sqlite": SqliteFiles,
    "mariadb": start_mariadb,
    "mysql": start_mysql,
    "mssql": find_mssql,
}


class Servers:
    """All engines of one session, each started when first asked for."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="subak-test-", dir=scratch()))
        self._started: dict[str, Server] = {}
        self.missing: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def server(self, name: str) -> Server:
        """Raises MissingEngineError when this machine has no such engine."""
        if name in self.missing:
            raise MissingEngineError(self.missing[name])
        if name not in self._started:
            try:
                self._started[name] = self._start(name)
            except MissingEngineError as error:
                self.missing[name] = str(error)
                raise
        return self._started[name]

    def _start(self, name: str) -> Server:
        """In a new folder; a second time when it did not come up: MariaDB's installation was seen to crash on a busy machine."""
        for last in (False, True):
            folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
            try:
                return _STARTERS[name](folder)
            except RuntimeError as error:
                if last:
                    raise
                print(f"{name}: tried again after {str(error)[:2000]}")
        raise AssertionError("unreachable")

    def versions(self) -> dict[str, str]:
        """Of the engines that were started."""
        return {name: server.version() for name, server in self._started.items()}

    def fresh(self, name: str, label: str = "db") -> URL:
        """A new empty database on that engine."""
        return self.server(name).create(f"subak_{next(self._numbers)}_{label}")

    def drop(self, name: str, url: URL) -> None:
        self._started[name].drop(url)

    def stop(self) -> None:
        for server in self._started.values():
            server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
