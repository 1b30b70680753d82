"""`subak demo` ends with identical outlets: on files, on a server, and on both at once."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import FreshDatabase
from tests.stack.network import REPOSITORY
from tests.stack.servers import MysqlServer, Servers

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
    server = servers.server(engine_name)
    assert isinstance(server, MysqlServer)
    url = f"mysql+pymysql://owner:secret@127.0.0.1:{server.port}/"
    with server._administrator() as cursor:
        cursor.execute("CREATE USER IF NOT EXISTS 'owner'@'%' IDENTIFIED BY 'secret'")
        cursor.execute("GRANT ALL ON `subak\\_demo\\_%`.* TO 'owner'@'%'")
    urls = ["--database-url", url, "--database-url", url, "--database-url", "sqlite://"]
    assert verdicts(demo("--seconds", SECONDS, *urls)) == ["identical"] * 3
    with server._administrator() as cursor:
        cursor.execute("SHOW DATABASES LIKE 'subak\\_demo\\_%'")
        assert cursor.fetchall() == ()


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
