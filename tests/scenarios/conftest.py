"""One network per mix of engines for a whole module of scenarios; each scenario uses rows of its own."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.network import Network
from tests.stack.schemas import load
from tests.stack.servers import MissingEngineError, Servers

MIXES = {
    "sqlite": ("sqlite", "sqlite", "sqlite"),
    "mariadb": ("mariadb", "mariadb", "mariadb"),
    "all": ("sqlite", "mariadb", "mysql"),
    "mssql": ("mssql", "mssql", "mssql"),
    "mssql-others": ("sqlite", "mssql", "mysql"),
}
OUTLETS = ("ubud", "kuta", "lovina")

SCHEMA = """\
CREATE TABLE member (
    id INT NOT NULL PRIMARY KEY,
    email VARCHAR(60) NULL UNIQUE,
    name VARCHAR(60) NOT NULL,
    points INT NOT NULL DEFAULT 0
);
CREATE TABLE visit (
    id INT NOT NULL PRIMARY KEY,
    member_id INT NOT NULL,
    note VARCHAR(60) NULL,
    FOREIGN KEY (member_id) REFERENCES member (id)
);
CREATE TABLE ticket (
    id {generated},
    body VARCHAR(60) NOT NULL
);
CREATE TABLE node (
    id INT NOT NULL PRIMARY KEY,
    parent_id INT NULL,
    title VARCHAR(60) NOT NULL,
    FOREIGN KEY (parent_id) REFERENCES node (id)
);
CREATE TABLE team (
    id INT NOT NULL PRIMARY KEY,
    captain_id INT NULL,
    title VARCHAR(60) NOT NULL
);
CREATE TABLE player (
    id INT NOT NULL PRIMARY KEY,
    team_id INT NULL,
    title VARCHAR(60) NOT NULL,
    FOREIGN KEY (team_id) REFERENCES team (id)
);
"""


@pytest.fixture(scope="module", params=MIXES)
def shared_network(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Network]:
    """Outlets ubud, kuta and lovina with `SCHEMA`, started, no rows."""
    engines = MIXES[request.param]
    try:
        urls = {outlet: servers.fresh(engine, outlet) for outlet, engine in zip(OUTLETS, engines, strict=True)}
    except MissingEngineError as error:
        pytest.skip(str(error))
    for url in urls.values():
        load(url, SCHEMA)
    folder = Path(tempfile.mkdtemp(dir=servers.folder))
    # Some write with a clock that is far ahead, to see who wins: nobody holds that back here.
    network = Network(folder, servers.fresh("sqlite", "hub"), urls, environment={"SUBAK_CLOCK_LIMIT": "3600"})
    network.start()
    yield network
    network.close()


@pytest.fixture
def network(shared_network: Network, request: pytest.FixtureRequest) -> Network:
    for engine in sorted({outlet.url.get_backend_name() for outlet in shared_network.outlets.values()}):
        request.node.user_properties.append(("engine", engine))
    return shared_network


_ids = itertools.count(1000, 10)


@pytest.fixture
def start() -> int:
    """The first of ten ids that belong to this test alone."""
    return next(_ids)
