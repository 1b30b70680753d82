"""The README's steps for one's own databases, typed as they stand there, at a server that grants no more than it says."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import FreshDatabase
from tests.stack.network import REPOSITORY, wait_for
from tests.stack.servers import MysqlServer, Servers, free_port

README = (REPOSITORY / "README.md").read_text("utf-8")
TABLE = "CREATE TABLE product (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL)"
LIMIT = 60.0


def blocks(heading: str, language: str = "") -> list[str]:
    """The fenced blocks under a heading, up to the next one of any level."""
    part = re.split(rf"^#+ {re.escape(heading)}$", README, maxsplit=1, flags=re.MULTILINE)[1]
    part = re.split(r"^#{2,} ", part, maxsplit=1, flags=re.MULTILINE)[0]
    return [
        found for kind, found in re.findall(r"^```(\w*)\n(.*?)^```", part, re.MULTILINE | re.DOTALL) if kind == language
    ]


@dataclass
class Operator:
    """Types into terminals. `places`: what the README's addresses and paths are here."""

    folder: Path
    places: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def here(self, text: str) -> str:
        for place, ours in self.places.items():
            text = text.replace(place, ours)
        return text

    def _command(self, lines: str) -> tuple[list[str], dict[str, str]]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUBAK_")}
        path = f"{Path(sys.executable).parent}:{inherited['PATH']}"  # source .venv/bin/activate
        return ["bash", "-euc", self.here(lines)], {**inherited, "PATH": path, "COLUMNS": "200"}

    def types(self, lines: str) -> str:
        """To the end; what is printed."""
        command, environment = self._command(lines)
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def leaves_running(self, lines: str) -> Path:
        """The file with what it prints."""
        log = self.folder / f"terminal-{len(self.started)}.log"
        command, environment = self._command(lines)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=output, stderr=output, start_new_session=True
            )
        self.started.append(process)
        return log

    def leaves(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.started:
            process.wait(LIMIT)


@pytest.fixture(params=["mysql", "mariadb"])
def server(request: pytest.FixtureRequest, servers: Servers, fresh_database: FreshDatabase) -> Iterator[MysqlServer]:
    """With a database `shop`, and the user that the README makes for it."""
    fresh_database(request.param)  # or the test is skipped here
    server = servers.server(request.param)
    assert isinstance(server, MysqlServer)
    grants, on_mysql = blocks("The database user", "sql")
    # A client on this machine is 'localhost' to a server that looks names up; the tests' servers do not.
    grants = (grants + (on_mysql if request.param == "mysql" else "")).replace("'localhost'", "'127.0.0.1'")
    with server.administrator() as cursor:
        for statement in ("CREATE DATABASE shop", *_statements(grants), f"CREATE TABLE shop.{TABLE[13:]}"):
            cursor.execute(statement)
    yield server
    with server.administrator() as cursor:
        cursor.execute("DROP DATABASE shop")
        cursor.execute("DROP USER 'subak'@'127.0.0.1'")


def _statements(sql: str) -> list[str]:
    lines = "\n".join(line.partition("--")[0] for line in sql.splitlines())
    return [one.strip() for one in lines.split(";") if one.strip()]


@pytest.fixture
def operator(server: MysqlServer, scratch_path: Path) -> Iterator[Operator]:
    places = {
        "127.0.0.1:3306": f"127.0.0.1:{server.port}",
        "127.0.0.1:7707": f"127.0.0.1:{free_port()}",
        "/srv/kuta/": f"{scratch_path}/",
    }
    operator = Operator(scratch_path, places)
    yield operator
    operator.leaves()


def test_put_it_on_your_own_databases(server: MysqlServer, operator: Operator) -> None:
    doctor, hub, install, services, compare = blocks("Put it on your own databases")
    with sqlite3.connect(operator.folder / "shop.db") as kuta:
        kuta.execute(TABLE)
        kuta.execute("PRAGMA journal_mode = WAL")
    url_of_ubud = re.search(r"'(mysql\+pymysql://\S+)'", doctor)
    assert url_of_ubud
    environment, _, command = doctor.partition("subak doctor")
    assert not command.strip()
    outlets = [
        environment,
        environment.replace("=ubud", "=kuta").replace(url_of_ubud[1], "sqlite:////srv/kuta/shop.db"),
    ]
    for outlet in outlets:
        operator.types(f"{outlet}\nsubak doctor")
    log = operator.leaves_running(hub)
    wait_for("the hub to listen", lambda: "hub is listening" in log.read_text("utf-8"), LIMIT)
    for outlet in outlets:
        operator.types(f"{outlet}\n{install}")
        for service in services.split("\n"):
            if service:
                operator.leaves_running(f"{outlet}\n{service}")
    with server.administrator() as cursor:
        cursor.execute("INSERT INTO shop.product VALUES (1, 'Nasi')")
    wait_for("the row to be at kuta", lambda: _names(kuta) == ["Nasi"], LIMIT)
    with kuta:
        kuta.execute("INSERT INTO product VALUES (2, 'Bakmi')")

    def at_ubud() -> list[str]:
        with server.administrator() as cursor:
            cursor.execute("SELECT name FROM shop.product ORDER BY id")
            return [str(name) for (name,) in cursor.fetchall()]

    wait_for("the row to be at ubud", lambda: at_ubud() == ["Nasi", "Bakmi"], LIMIT)
    told = operator.types(f"{hub.partition('subak outlet')[0]}\nsubak status\nsubak log\nsubak outlet list")
    assert "ubud" in told and "Warung Subak" in told
    for outlet in outlets:
        operator.types(
            f"{outlet}\nsubak status\nsubak log\nsubak quarantine list\nsubak conflicts\nsubak triggers check"
        )
    assert "identical" in operator.types(compare)
    operator.leaves()
    assert [process.returncode for process in operator.started] == [0] * len(operator.started)
    operator.started.clear()
    for outlet in outlets:
        operator.types(f"{outlet}\nsubak triggers remove")


def _names(kuta: sqlite3.Connection) -> list[str]:
    return [str(name) for (name,) in kuta.execute("SELECT name FROM product ORDER BY id")]


def test_the_hubs_user_needs_no_more_than_the_readme_says(server: MysqlServer, operator: Operator) -> None:
    found = re.search(r"The hub's user, on its own database: `(GRANT .*? ON subak_hub\.\*) \.\.\.`", README)
    assert found
    with server.administrator() as cursor:
        cursor.execute("CREATE DATABASE subak_hub")
        cursor.execute("CREATE USER 'hub'@'127.0.0.1' IDENTIFIED BY 'secret'")
        cursor.execute(f"{found[1]} TO 'hub'@'127.0.0.1'")
    try:
        log = operator.leaves_running(
            "export SUBAK_HUB_LISTEN=127.0.0.1:7707 SUBAK_TLS=off"
            " SUBAK_HUB_DATABASE_URL=mysql+pymysql://hub:secret@127.0.0.1:3306/subak_hub\n"
            "subak outlet add ubud\nsubak hub"
        )
        wait_for("the hub to listen", lambda: "hub is listening" in log.read_text("utf-8"), LIMIT)
        operator.leaves()
        assert operator.started[0].returncode == 0, log.read_text("utf-8")
    finally:
        operator.leaves()
        with server.administrator() as cursor:
            cursor.execute("DROP DATABASE subak_hub")
            cursor.execute("DROP USER 'hub'@'127.0.0.1'")


def test_certificates(tmp_path: Path) -> None:
    """The section's four lines, and the settings that it names: the outlet is let in, and after the last line it is not."""
    (block,) = blocks("Certificates")
    *makes, revokes = [line.partition("  #")[0].strip() for line in block.splitlines()]
    port = free_port()
    operator = Operator(tmp_path, {"--host hub.example.com": "--host hub.example.com --host 127.0.0.1"})
    for line in makes:
        operator.types(line)
    files = "export SUBAK_TLS_CA={0}/ca.pem SUBAK_TLS_CERT={0}/cert.pem SUBAK_TLS_KEY={0}/key.pem"
    hub = (
        f"{files.format('pki/private/hub')} SUBAK_TLS_CRL=pki/crl.pem\n"
        f"export SUBAK_HUB_LISTEN=127.0.0.1:{port} SUBAK_HUB_DATABASE_URL=sqlite:///hub.db\n"
    )
    with sqlite3.connect(tmp_path / "ubud.db") as database:
        database.execute(TABLE)
        database.execute("PRAGMA journal_mode = WAL")
    try:
        operator.types(f"{hub}subak outlet add ubud")
        log = operator.leaves_running(f"{hub}subak hub")
        wait_for("the hub to listen", lambda: "hub is listening" in log.read_text("utf-8"), LIMIT)
        capture = operator.leaves_running(
            f"{files.format('ubud-tls')}\nexport SUBAK_OUTLET=ubud SUBAK_HUB=127.0.0.1:{port}"
            " SUBAK_DATABASE_URL=sqlite:///ubud.db\nsubak capture"
        )
        wait_for("ubud to be let in", lambda: '"linked' in capture.read_text("utf-8"), LIMIT)
        assert "revoked" in operator.types(revokes)
        for name, file in (("the hub", log), ("ubud", capture)):
            wait_for(
                f"{name} to say that ubud is revoked", lambda file=file: "revoked" in file.read_text("utf-8"), LIMIT
            )  # type: ignore[misc]
    finally:
        operator.leaves()
