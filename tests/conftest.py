"""Fixtures for every test that needs a real database. Tests in tests/unit use none of them and start no server.

    def test_x(fresh_database, engine_name):     # runs once per engine: sqlite, mariadb, mysql, mssql
        url = fresh_database(engine_name)        # sqlalchemy.engine.URL of a new empty database; dropped after the test

    def test_y(database_url):                    # the same in one word: one fresh database, once per engine
    def test_z(fresh_database):                  # chosen engines: fresh_database("sqlite", "hub")

- `engine_name`: parameter over `ENGINES`; parametrise it yourself to choose fewer:
  `@pytest.mark.parametrize("engine_name", ["mariadb"])`.
- `hub_url`, `hub_engine_name`: the same over the engines that the hub may use.
- `fresh_database(engine, label="db") -> URL`: an engine that is not here skips the test; MariaDB missing under CI=true
  fails it.
- `servers`: the session's `tests.stack.servers.Servers`, e.g. `servers.server("mariadb").kill_and_restart()`.
- `scratch_path`: a temporary folder in memory where there is room (`tmp_path` is on the disk).
- `make_network({"ubud": "sqlite", "kuta": "mariadb"}, SHOP, shop_rows(), hub="sqlite")`: a started
  `tests.stack.network.Network`: hub, capture and applier as real processes. When the test fails, the ends of their
  logs are in its report.

A URL's password is hidden by `str(url)`: for an environment variable use `url.render_as_string(hide_password=False)`.
The databases' user may do everything in its own database and nothing else, as an application's would.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy.engine import URL

try:
    import pyodbc  # noqa: F401
except ImportError as error:
    raise pytest.UsageError(
        f"pyodbc cannot be imported ({error}): install unixODBC. `bash tests/engines.sh` does so as root on Debian."
    ) from error

from tests.stack.network import Network
from tests.stack.schemas import load
from tests.stack.servers import ENGINES, HUB_ENGINES, REQUIRED_IN_CI, MissingEngineError, Servers


class FreshDatabase(Protocol):
    def __call__(self, engine: str, label: str = "db") -> URL: ...


class MakeNetwork(Protocol):
    def __call__(
        self,
        outlets: Mapping[str, str],
        schema: str,
        rows: Iterable[str] = (),
        *,
        hub: str = "sqlite",
        tables: str = "*",
        environment: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Network: ...


_networks = pytest.StashKey[list[Network]]()
_versions: dict[str, str] = {}
_missing: dict[str, str] = {}


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    _versions.update(servers.versions())
    _missing.update(servers.missing)
    servers.stop()


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fresh_database(servers: Servers, request: pytest.FixtureRequest) -> Iterator[FreshDatabase]:
    made: list[tuple[str, URL]] = []

    def fresh(engine: str, label: str = "db") -> URL:
        used = ("engine", engine)
        if used not in request.node.user_properties:
            request.node.user_properties.append(used)
        try:
            url = servers.fresh(engine, label)
        except MissingEngineError as error:
            if engine in REQUIRED_IN_CI and os.environ.get("CI") == "true":
                pytest.fail(f"{engine} must be exercised here: {error}")
            pytest.skip(f"{engine}: {error}")
        made.append((engine, url))
        return url

    yield fresh
    for engine, url in made:
        servers.drop(engine, url)


@pytest.fixture
def database_url(fresh_database: FreshDatabase, engine_name: str) -> URL:
    return fresh_database(engine_name)


@pytest.fixture(params=HUB_ENGINES)
def hub_engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hub_url(fresh_database: FreshDatabase, hub_engine_name: str) -> URL:
    return fresh_database(hub_engine_name)


@pytest.fixture
def scratch_path(servers: Servers) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=servers.folder))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_network(
    fresh_database: FreshDatabase, scratch_path: Path, request: pytest.FixtureRequest
) -> Iterator[MakeNetwork]:
    made = request.node.stash.setdefault(_networks, [])

    def make(
        outlets: Mapping[str, str],
        schema: str,
        rows: Iterable[str] = (),
        *,
        hub: str = "sqlite",
        tables: str = "*",
        environment: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Network:
        """`outlets`: name to engine. Each gets the schema and the rows before anything of Subak is started."""
        urls = {name: fresh_database(engine, name) for name, engine in outlets.items()}
        rows = list(rows)
        for url in urls.values():
            load(url, schema, rows)
        folder = scratch_path / f"network-{len(made)}"
        folder.mkdir()
        network = Network(folder, fresh_database(hub, "hub"), urls, tables=tables, environment=environment)
        made.append(network)
        if start:
            network.start()
        return network

    yield make
    for network in made:
        network.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        for network in item.stash.get(_networks, []):
            report.sections.extend((f"log of {name}", tail) for name, tail in network.logs())
            report.sections.extend(network.books())
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells the run's own process which engines it had."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["engines"] = (_versions, _missing)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    versions, missing = getattr(node, "workeroutput", {}).get("engines", ({}, {}))
    _versions.update(versions)
    _missing.update(missing)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line per engine: its version and what became of the tests that used it."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "engine":
                    outcomes[value][outcome] += 1
    if not outcomes:
        return
    terminalreporter.section("engines exercised")
    for engine in ENGINES:
        what = _versions.get(engine) or f"{engine} NOT EXERCISED: {_missing.get(engine, 'no test asked for it')}"
        counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes[engine].items())
        terminalreporter.write_line(f"engine {engine}: {what}" + (f": {counts}" if counts else ""))
