"""The stack of docker-compose.yml, brought up once for all tests here: `make stack-test`.

- `stack`: a `tests.stack.compose.Stack` that is up, with the outlets surabaya and makassar, and those on SQL Server where its image is
  local and ACCEPT_EULA=Y. Each test leaves it at rest. When one fails, what the containers said last is in its report.
- `note("...")`: a figure that is told at the end of the run, also when all is well.

Where no Docker engine answers, everything here is skipped; under CI=true it fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pyodbc
import pytest

from services.kernel.dialects.mssql.driver import installed
from tests.stack.compose import Stack

TEST_SECONDS = 1500
"""For any test here: the first one has the images built, on a machine that may be slow; what each waits for has a limit of its own."""

HERE = Path(__file__).parent

_notes: list[str] = []
_stack = pytest.StashKey[Stack]()


@pytest.fixture(scope="session")
def note() -> Callable[[str], None]:
    return _notes.append


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.fixture(scope="session")
def engine() -> str:
    """The version of the Docker engine that answers."""
    version = _said("docker", "version", "--format", "{{.Server.Version}}") if shutil.which("docker") else ""
    if not version or not _said("docker", "compose", "version", "--short"):
        reason = "no Docker engine answers (or it has no compose): make stack-test starts one as root on Debian"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return version


@pytest.fixture(scope="session")
def stack(
    engine: str,
    note: Callable[[str], None],
    pytestconfig: pytest.Config,
) -> Iterator[Stack]:
    profiles = ["surabaya", "makassar"]
    configuration = Stack(["jakarta"]).configuration()
    sql_server = configuration["services"]["jakarta-db"]["image"]
    if os.environ.get("ACCEPT_EULA") != "Y":
        note("SQL Server: NOT EXERCISED, ACCEPT_EULA=Y does not accept its licence")
    elif not _said("docker", "image", "inspect", "--format", "{{.Id}}", sql_server):
        note(f"SQL Server: NOT EXERCISED, its image {sql_server} is not local")
    else:
        if installed() not in pyodbc.drivers() and not Path(installed()).exists():
            pytest.fail(
                "this machine has no ODBC driver for SQL Server: ACCEPT_EULA=Y make stack-test installs Microsoft's"
            )
        profiles += ["jakarta", "denpasar"]
    stack = Stack(profiles)
    pytestconfig.stash[_stack] = stack
    note(f"Docker engine {engine}, project {stack.project}, outlets {', '.join(profiles)}")
    try:
        note(f"images built in {stack.build():.0f} s")
        note(f"everything healthy {stack.up():.0f} s after `docker compose up`")
        yield stack
    except BaseException:
        _notes.extend(f"---- log of {name}\n{tail}" for name, tail in stack.logs())
        raise
    finally:
        stack.down()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    stack = item.config.stash.get(_stack, None)
    if report.when == "call" and report.failed and stack:
        report.sections.append(("containers", stack.states()))
        report.sections.extend((f"log of {name}", tail) for name, tail in stack.logs())
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _notes:
        terminalreporter.section("the stack")
        for line in _notes:
            terminalreporter.write_line(line)
