"""`subak demo` ends with identical outlets: on files, on a server, and on several kinds at once."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests.conftest import FreshDatabase
from tests.stack.network import REPOSITORY
from tests.stack.servers import MysqlServer, Servers
from tests.stack.sql_server import SqlServer

SECONDS = "6"
LIMIT_SECONDS = 150


def demo(*arguments: str, code: int = 0, temporary: Path | None = None) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "services.cli", "demo", *arguments],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", **({"TMPDIR": str(temporary)} if temporary else {})},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert result.returncode == code, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout if code == 0 else result.stdout + result.stderr


def owned(servers: Servers, engine_name: str) -> str:
    """The URL of a server for one who may have the demo's databases there, and no others."""
    server = servers.server(engine_name)
    assert isinstance(server, MysqlServer)
    with server.administrator() as cursor:
        cursor.execute("CREATE USER IF NOT EXISTS 'owner'@'%' IDENTIFIED BY 'secret'")
        cursor.execute("GRANT ALL ON `subak\\_demo\\_%`.* TO 'owner'@'%'")
    return f"mysql+pymysql://owner:secret@127.0.0.1:{server.port}/"


def left_on(servers: Servers, engine_name: str) -> list[str]:
    """The demo's databases that are still there."""
    server = servers.server(engine_name)
    if isinstance(server, SqlServer):
        with server._engine.connect() as connection:
            query = "SELECT name FROM sys.databases WHERE name LIKE 'subak[_]demo[_]%'"
            return [str(name) for name in connection.exec_driver_sql(query).scalars()]
    assert isinstance(server, MysqlServer)
    with server.administrator() as cursor:
        cursor.execute("SHOW DATABASES LIKE 'subak\\_demo\\_%'")
        return [str(name) for (name,) in cursor.fetchall()]


def verdicts(output: str) -> list[str]:
    """What it says of each outlet, in the last table."""
    lines = output.splitlines()
    start = max(index for index, line in enumerate(lines) if line.startswith("outlet "))
    return [line.split()[-1] for line in lines[start + 1 :] if line and not line.startswith("The tills")]


def test_three_outlets_on_files(scratch_path: Path) -> None:
    output = demo("--seconds", SECONDS, temporary=scratch_path)
    assert verdicts(output) == ["identical"] * 3
    assert "is cut off" in output
    assert "is back" in output
    assert list(scratch_path.iterdir()) == [], "the demo has left something behind"


def test_five_outlets(scratch_path: Path) -> None:
    assert verdicts(demo("--seconds", SECONDS, "--outlets", "5", temporary=scratch_path)) == ["identical"] * 5


def test_a_server_that_is_not_there_is_said(scratch_path: Path) -> None:
    url = "mysql+pymysql://owner:secret@127.0.0.1:1/"
    errors = demo("--database-url", url, code=2, temporary=scratch_path)
    assert "127.0.0.1:1" in errors and "--database-url" in errors and "secret" not in errors
    assert list(scratch_path.iterdir()) == [], "the demo has left something behind"


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_outlets_on_a_server_and_on_a_file(engine_name: str, fresh_database: FreshDatabase, servers: Servers) -> None:
    fresh_database(engine_name)
    url = owned(servers, engine_name)
    urls = ["--database-url", url, "--database-url", url, "--database-url", "sqlite://"]
    assert verdicts(demo("--seconds", SECONDS, *urls)) == ["identical"] * 3
    assert left_on(servers, engine_name) == []


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_an_outlet_on_each_engine(engine_name: str, fresh_database: FreshDatabase, servers: Servers) -> None:
    fresh_database(engine_name)
    there = fresh_database("mssql")
    before = left_on(servers, "mssql")  # of somebody else's, if the server is shared
    urls = [text_of(there.set(database="")), owned(servers, engine_name), "sqlite://"]
    output = demo("--seconds", SECONDS, *(part for url in urls for part in ("--database-url", url)))
    assert verdicts(output) == ["identical"] * 3
    assert left_on(servers, engine_name) == []
    assert set(left_on(servers, "mssql")) <= set(before)


def test_a_sql_server_that_refuses_is_said(fresh_database: FreshDatabase, servers: Servers, scratch_path: Path) -> None:
    """It is not there; it does not know the login; the login may not create databases."""
    there = fresh_database("mssql").set(database="")
    stranger = there.set(username="subak_demo_nobody", password="Nothing_1_is_secret")
    away = there.set(host="127.0.0.1", port=1, password="Nothing_1_is_secret")
    refused(away, "127.0.0.1:1", scratch_path)
    refused(stranger, "subak_demo_nobody", scratch_path)
    server = servers.server("mssql")
    assert isinstance(server, SqlServer)
    with server._engine.connect() as connection:
        connection.exec_driver_sql("CREATE LOGIN subak_demo_nobody WITH PASSWORD = 'Nothing_1_is_secret'")
    try:
        refused(stranger, "subak_demo_nobody", scratch_path)
    finally:
        with server._engine.connect() as connection:
            connection.exec_driver_sql("DROP LOGIN subak_demo_nobody")


def refused(url: URL, said: str, temporary: Path) -> None:
    errors = demo("--database-url", text_of(url), code=2, temporary=temporary)
    assert said in errors and "--database-url" in errors
    assert "Nothing_1_is_secret" not in errors and "Traceback" not in errors
    assert list(temporary.iterdir()) == [], "the demo has left something behind"


def text_of(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def test_what_is_kept(scratch_path: Path) -> None:
    demo("--seconds", "2", "--outlets", "2", "--keep", temporary=scratch_path)
    (folder,) = scratch_path.iterdir()
    assert {path.name for path in folder.iterdir()} >= {"hub.db", "hub.log", "ubud.db", "sanur.db"}


def test_an_interrupted_demo_stops_what_it_started(scratch_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "demo", "--seconds", "60"],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(scratch_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    while "are selling" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(2)
    children = _children(process.pid)
    assert len(children) == 7
    process.terminate()
    process.wait(30)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert list(scratch_path.iterdir()) == []


def _children(parent: int) -> list[int]:
    """The processes whose parent it is, from the fourth field of /proc/*/stat."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found
