"""A disk that is full, at the hub or at an outlet: nothing is acknowledged, the state is told, nobody else is held up, and it goes on by itself.

The disk is a small tmpfs of the test's own, which only root may mount; for MariaDB a tablespace that may not grow.
"""

from __future__ import annotations

import itertools
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from tests.stack.application import application_engine
from tests.stack.audit import audit
from tests.stack.network import Network, wait_for
from tests.stack.schemas import load
from tests.stack.servers import SqliteFiles, start_mariadb

SCHEMA = "CREATE TABLE note (id INT NOT NULL PRIMARY KEY, body VARCHAR(2000) NOT NULL);\n"
BODY = "x" * 1500
DISK_MIB = 8
SPACE_MIB = 32
LEFT_BYTES = 64 * 1024
LIMIT = 60.0

_ids = itertools.count(1)


class SmallDisk:
    """A file system of a few MiB, for SQLite."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        self.url = SqliteFiles(folder).create("full")

    def fill(self) -> None:
        """But for LEFT_BYTES, in which a database can still roll back."""
        with (self._folder / "ballast").open("ab", buffering=0) as ballast:
            for size in (1024 * 1024, 4096):
                with suppress(OSError):
                    while True:
                        ballast.write(b"\0" * size)
            ballast.truncate(ballast.seek(0, 2) - LEFT_BYTES)

    def free(self) -> None:
        (self._folder / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


class SmallServer:
    """A MariaDB whose one tablespace may not grow: it says what it would say on a full disk, of which the real one makes it end."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        space = f"{_SPACE}:max:{SPACE_MIB}M"
        self._server = start_mariadb(folder, "--innodb-file-per-table=0", space)
        self.url = self._server.create("full_db")
        self._engine = application_engine(self.url)

    def fill(self) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE subak_ballast (id INT AUTO_INCREMENT PRIMARY KEY, body LONGTEXT)")
        for size in (1024 * 1024, 64 * 1024, 8 * 1024):
            with suppress(DBAPIError):
                while True:
                    with self._engine.begin() as connection:
                        connection.exec_driver_sql(f"INSERT INTO subak_ballast (body) VALUES (REPEAT('x', {size}))")

    def free(self) -> None:
        self._server.kill_and_restart(_SPACE)

    def close(self) -> None:
        self._engine.dispose()
        self._server.stop()


_SPACE = "--innodb-data-file-path=ibdata1:12M:autoextend"

Small = SmallDisk | SmallServer
FULL = {"sqlite": "The disk is full", "mariadb": "The server has no room left"}

Make = Callable[[str, str], tuple[Network, Small]]


@pytest.fixture
def make(scratch_path: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    networks: list[Network] = []
    smalls: list[Small] = []

    def made(engine: str, full: str) -> tuple[Network, Small]:
        """Outlets ubud and kuta and the hub, on SQLite; but what is called `full` is on that engine, where there is little room."""
        request.node.user_properties.append(("engine", engine))
        small = (SmallDisk if engine == "sqlite" else SmallServer)(scratch_path / "small")
        smalls.append(small)
        plain = SqliteFiles(scratch_path)
        urls = {name: plain.create(name) for name in ("hub", "ubud", "kuta")} | {full: small.url}
        hub = urls.pop("hub")
        for url in urls.values():
            load(url, SCHEMA)
        (scratch_path / "logs").mkdir()
        network = Network(scratch_path / "logs", hub, urls)
        networks.append(network)
        network.start()
        _write(network, "ubud", 3)
        network.settle()
        return network, small

    yield made
    for network in networks:
        network.close()
    for small in smalls:
        small.close()


def _write(network: Network, outlet: str, rows: int) -> None:
    network.outlets[outlet].execute(*(f"INSERT INTO note VALUES ({next(_ids)}, '{BODY}')" for _ in range(rows)))


def _write_until(network: Network, outlet: str, process: str, word: str) -> None:
    """Writes on until that process says on /readyz why it is not ready."""
    end = time.monotonic() + LIMIT
    while word not in (said := _said(network, process)):
        assert time.monotonic() < end, f"{process} says {said!r}"
        _write(network, outlet, 50)
        time.sleep(0.05)


def _said(network: Network, process: str) -> str:
    """The detail of /readyz; empty when it is ready."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{network.processes[process].metrics_port}/readyz", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    return ""


def _rows(network: Network, outlet: str) -> int:
    return network.outlets[outlet].count("SELECT COUNT(*) FROM note")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("engine", ["sqlite", "mariadb"])
def test_a_hub_whose_disk_is_full_acknowledges_nothing_and_goes_on_when_there_is_room(make: Make, engine: str) -> None:
    network, small = make(engine, "hub")
    small.fill()
    _write_until(network, "ubud", "hub", FULL[engine])
    unconfirmed = network.outlets["ubud"].count("SELECT COUNT(*) FROM CloudQuery WHERE ExportFlag = 0")
    assert unconfirmed > 0
    assert all(process.alive for process in network.processes.values())
    small.free()
    network.settle(LIMIT)
    network.wait_ready("hub")
    found = audit(network.urls)
    assert found.identical, str(found)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("engine", ["sqlite", "mariadb"])
def test_an_outlet_whose_disk_is_full_executes_nothing_and_holds_up_nobody(make: Make, engine: str) -> None:
    network, small = make(engine, "kuta")
    small.fill()
    _write_until(network, "ubud", "applier.kuta", FULL[engine])
    # The application there is told by its own database, as it would be without Subak.
    if engine == "sqlite":
        with pytest.raises(DBAPIError):
            _write(network, "kuta", 200)
    wait_for("the hub to have it all", lambda: not any("CloudQuery at ubud" in it for it in network.waiting()), LIMIT)
    assert network.waiting()["deliveries to kuta"] > 0
    behind = _rows(network, "kuta")
    assert behind < _rows(network, "ubud")
    assert all(process.alive for process in network.processes.values())
    small.free()
    network.settle(LIMIT)
    network.wait_ready("applier.kuta")
    found = audit(network.urls)
    assert found.identical, str(found)
