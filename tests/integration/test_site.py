"""A site of its own, beside a database that is there already, made by the page deploy/outlet/README.md: each of its commands is typed here."""

from __future__ import annotations

import re
import secrets
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url

from tests.integration.test_stack import whole
from tests.stack.compose import VERSION, Stack
from tests.stack.network import REPOSITORY, Outlet, wait_for
from tests.stack.servers import free_port

NAME, HUB = "kuta", "host.docker.internal"
"""The host by which a container finds the machine that it runs on: here that of the hub, too."""

BUILD, SAVE, LOAD = (
    "docker compose --profile surabaya build",
    "docker save subak/capture:dev subak/applier:dev | gzip > images.tgz",
    "docker load < images.tgz",
)
DOCTOR = "docker compose run --rm capture subak doctor"
ADOPT = "docker compose run --rm capture subak outlet adopt NAME"
UP = "docker compose up -d --wait"
STATUS, STOP = "docker compose exec capture subak status", "docker compose stop"
RESTAMP = "docker compose run --rm --no-deps capture subak outlet restamp"
RENEW, PUT = "docker compose run --rm -T cli pki issue NAME --out - > tls.tar", "tar -xf tls.tar -C tls"

PAGE = (REPOSITORY / "deploy" / "outlet" / "README.md").read_text("utf-8")
LIMIT = 60.0

Note = Callable[[str], None]


class Site:
    """Another compose project, in the folder that `outlet add --write` makes, and a MySQL that knows nothing of Subak."""

    def __init__(self, head_office: Stack, folder: Path, gateway: str) -> None:
        self.stack, self.folder, self.gateway = head_office, folder / NAME, gateway
        self.database, self.port = f"{head_office.project}-{NAME}-mysql", free_port()
        self.root, self.tills = (secrets.token_hex(16) for _ in range(2))
        self.settings = {
            "COMPOSE_PROJECT_NAME": f"{head_office.project}-{NAME}",
            "COMPOSE_FILE": "compose.yml",
            "COMPOSE_PROFILES": "",
            "CAPTURE_METRICS_PORT": str(free_port()),
            "APPLIER_METRICS_PORT": str(free_port()),
        }

    def types(self, line: str) -> str:
        exports = "".join(f"export {name}='{value}'\n" for name, value in self.settings.items())
        script = f"{exports}cd {self.folder}\n{line.replace('NAME', NAME).replace(':dev', f':{VERSION}')}"
        return self.stack.run("bash", "-o", "pipefail", "-ec", script)

    def beside(self, *command: str) -> None:
        """As the administrator of the database, in its container."""
        self.stack.docker("exec", "--env", f"MYSQL_PWD={self.root}", self.database, *command)

    def administrator(self, sql: str) -> None:
        self.beside("mysql", "-uroot", "--execute", sql)

    def copy(self, outlet: str) -> None:
        """Of that outlet's whole database; as a file, since a dump is not text."""
        dump = "mysqldump -uroot --set-gtid-purged=OFF --single-transaction --databases shop"
        there = f"docker compose exec -T {outlet}-db sh -c 'MYSQL_PWD=\"$(cat /admin/root)\" {dump}'"
        file, copy = self.folder.parent / "dump.sql", "/tmp/dump.sql"
        self.stack.run("bash", "-c", f"{there} > {file}")
        self.stack.docker("cp", str(file), f"{self.database}:{copy}")
        self.beside("sh", "-c", f"mysql -uroot < {copy}")

    def has_server(self) -> bool:
        """By TCP: while it makes its folder it listens on a socket only."""
        ping = f"docker exec {self.database} mysqladmin ping --host=127.0.0.1 --silent && echo yes || true"
        return "yes" in self.stack.run("bash", "-c", ping)

    def install_server(self) -> None:
        published = ("--publish", f"{self.gateway}:{self.port}:3306", "--env", f"MYSQL_ROOT_PASSWORD={self.root}")
        image = self.stack.configuration()["services"]["surabaya-db"]["image"]
        keys = ("--auto-increment-increment=100", "--auto-increment-offset=5")
        self.stack.docker("run", "--detach", "--name", self.database, *published, image, *keys)
        wait_for("the site's own MySQL", self.has_server, LIMIT, 0.3)

    def leave(self) -> None:
        if self.folder.exists():
            self.types("docker compose down --volumes --timeout 5")

    def certificate_ends(self) -> float:
        """As its applier tells it, in seconds since 1970."""
        name = "subak_certificate_expiry_timestamp_seconds"
        page = f"http://127.0.0.1:{self.settings['APPLIER_METRICS_PORT']}/metrics"
        with urllib.request.urlopen(page, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name)))

    @property
    def url(self) -> URL:
        """As its application connects."""
        return URL.create("mysql+pymysql", "till", self.tills, self.gateway, self.port, "shop")


@pytest.fixture
def site(stack: Stack, tmp_path: Path) -> Iterator[Site]:
    """Head office has surabaya, and publishes its hub at the address that containers know this machine by."""
    gateway = stack.docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    head_office = Stack(["surabaya"])
    head_office.environment |= {"SUBAK_BIND": gateway, "SUBAK_HOST": HUB}
    site = Site(head_office, tmp_path, gateway)
    with ExitStack() as last:  # each, though another fail
        last.callback(stack.wait_healthy)
        last.callback(stack.compose, "start")
        stack.compose("stop")
        last.callback(head_office.down)
        head_office.up()
        last.callback(stack.docker, "rm", "--force", "--volumes", site.database, code=None)
        site.install_server()
        last.callback(site.leave)
        yield site


def test_every_command_of_the_page_is_typed_here() -> None:
    typed = re.findall(r"`((?:docker|tar) [^`]+)`", PAGE)
    assert typed == [BUILD, SAVE, LOAD, DOCTOR, ADOPT, UP, STATUS, STOP, RESTAMP, UP, RENEW, PUT]


def test_a_site_far_away_joins_with_a_copy_of_another_outlets_database(site: Site, note: Note) -> None:
    stack, surabaya = site.stack, site.stack.outlets["surabaya"]
    surabaya.execute("INSERT INTO customers (id, name, points) VALUES (940000001, 'Wayan', 0)")
    add = ("outlet", "add", NAME, "--engine", "mysql", "--hub", f"{HUB}:{stack.hub_port}", "--write", "-")
    packed = f"docker compose run --rm -T cli {' '.join(add)} | tar -x -C {site.folder.parent}"
    stack.run("bash", "-o", "pipefail", "-c", packed)
    assert sorted(path.name for path in (site.folder / "tls").iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    password = make_url((site.folder / "database-url").read_text("utf-8").strip()).password
    assert password

    # 1. and 2.: a copy, Subak's tables included; where the server is; the grants.
    url = site.folder / "database-url"
    url.write_text(url.read_text("utf-8").replace(":3306/", f":{site.port}/"), "utf-8")
    site.administrator(f"CREATE USER till IDENTIFIED BY '{site.tills}'; GRANT ALL ON shop.* TO till;")
    site.administrator((site.folder / "grants.sql").read_text("utf-8"))
    site.copy("surabaya")
    # What is changed after the copy was made is sent to it.
    surabaya.execute("INSERT INTO customers (id, name, points) VALUES (940000002, 'Kadek', 0)")

    stack.run("bash", "-c", BUILD)  # in a clone of the project, which this is
    for command in (SAVE, LOAD, DOCTOR, ADOPT):
        print(site.types(command))
    site.types(UP)
    stack.outlets[NAME] = Outlet(NAME, site.url)
    stack.outlets[NAME].execute("INSERT INTO customers (id, name, points) VALUES (940000003, 'Komang', 0)")
    wanted = "SELECT COUNT(*) FROM customers WHERE id BETWEEN 940000001 AND 940000003"
    for outlet in stack.outlets.values():
        wait_for(f"all three rows to be at {outlet.name}", lambda outlet=outlet: outlet.count(wanted) == 3, LIMIT)  # type: ignore[misc]
    whole(stack)
    assert NAME in stack.subak("status")
    told = site.types("docker compose config; docker inspect $(docker compose ps --quiet); docker compose logs")
    assert password not in told

    # Later.
    assert NAME in site.types(STATUS.replace("exec", "exec -T"))
    for command in (STOP, RESTAMP, UP):
        site.types(command)
    expires = site.certificate_ends()
    stack.run("bash", "-ec", RENEW.replace("NAME", NAME).replace("tls.tar", str(site.folder / "tls.tar")))
    site.types(PUT)
    wait_for("the new certificate to be taken up", lambda: site.certificate_ends() > expires, LIMIT, 1.0)
    whole(stack)
    note(f"a site of its own joined by the page deploy/outlet/README.md, through {HUB}")
