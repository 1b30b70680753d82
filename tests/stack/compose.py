"""The stack as docker-compose.yml describes it, under a project name and on loopback ports of its own; nothing of the product's code.

Service names are those of the compose file: `hub`, `hub-db`, and per outlet `X-db`, `X-capture`, `X-applier`.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tests.stack.application import reading_engine
from tests.stack.network import REPOSITORY, Outlet, UnsettledError, still_waiting, wait_for
from tests.stack.servers import free_port

OUTLETS = {"denpasar": "mssql", "jakarta": "mssql", "surabaya": "mysql", "makassar": "mariadb"}
"""By profile."""

DRIVERS: dict[str, tuple[str, dict[str, str]]] = {
    "mysql": ("mysql+pymysql", {}),
    "mariadb": ("mariadb+pymysql", {}),
    "mssql": ("mssql+pyodbc", {"TrustServerCertificate": "yes"}),
}
OUR_PORT, DATABASE_PORT = 9180, {"mysql": 3306, "mariadb": 3306, "mssql": 1433}
SERVICES = ("db", "capture", "applier")

VERSION = "test"
"""Of the images that are built here, so that nobody's own are replaced."""

HEALTHY_SECONDS = 120.0
"""From `up` on a machine that has the images, and for a container that was killed."""

COMMAND_SECONDS = 300.0
BUILD_SECONDS = 1200.0
LOG_LINES = "80"


def _variable(service: str) -> str:
    """What deploy/ports.yml calls the port of a service."""
    name = "hub-metrics" if service == "hub" else service
    return f"{name}-port".replace("-", "_").upper()


class Stack:
    """`profiles`: the outlets that run. Not started; `up` does that, `down` leaves nothing behind."""

    def __init__(self, profiles: Sequence[str]) -> None:
        self.project = f"subak-test-{secrets.token_hex(3)}"
        self.profiles = tuple(profiles)
        self.hub_port, self.prometheus_port = free_port(), free_port()
        self.ports = {"hub": {OUR_PORT: free_port()}, "hub-db": {3306: free_port()}}
        for name in self.profiles:
            self.ports[f"{name}-db"] = {DATABASE_PORT[OUTLETS[name]]: free_port()}
            self.ports |= {f"{name}-{service}": {OUR_PORT: free_port()} for service in SERVICES[1:]}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SUBAK_", "COMPOSE_"))},
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": "docker-compose.yml:deploy/ports.yml",
            "COMPOSE_PROFILES": ",".join(self.profiles),
            "COMPOSE_ANSI": "never",
            "COMPOSE_PROGRESS": "quiet",
            "BUILDKIT_PROGRESS": "plain",
            "SUBAK_VERSION": VERSION,
            "SUBAK_PORT": str(self.hub_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            # Chosen here: one that the engine chooses changes with every start.
            **{_variable(service): str(outside) for service, ports in self.ports.items() for outside in ports.values()},
        }
        self.outlets: dict[str, Outlet] = {}
        self._hub_reader: Engine | None = None
        self._containers: dict[str, str] = {}

    # ---- commands

    def run(self, *command: str, limit: float = COMMAND_SECONDS, code: int | None = 0, given: str | None = None) -> str:
        """Its standard output. `code`: the exit code that is expected; None: any. `given`: its standard input; nothing in a container
        may wait for its end, which engine 26 does not pass on to one `exec` in 1500 on a busy machine."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=limit,
            **({"input": given} if given is not None else {"stdin": subprocess.DEVNULL}),  # type: ignore[arg-type]
        )
        shown = f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        assert code is None or done.returncode == code, shown
        return done.stdout

    def docker(self, *arguments: str, limit: float = COMMAND_SECONDS, code: int | None = 0) -> str:
        return self.run("docker", *arguments, limit=limit, code=code)

    def compose(
        self, *arguments: str, limit: float = COMMAND_SECONDS, code: int | None = 0, given: str | None = None
    ) -> str:
        return self.run("docker", "compose", *arguments, limit=limit, code=code, given=given)

    def subak(self, *arguments: str, code: int | None = 0) -> str:
        """The command, as an operator of the stack runs it."""
        return self.compose("run", "--rm", "--no-TTY", "cli", *arguments, code=code)

    def configuration(self, *options: str) -> dict[str, Any]:
        """What the compose file comes to, with this stack's settings."""
        found: dict[str, Any] = json.loads(self.compose(*options, "config", "--format", "json"))
        return found

    # ---- its life

    def build(self) -> float:
        """The seconds that it took."""
        began = time.monotonic()
        # A profile on the command line takes the place of all that COMPOSE_PROFILES names.
        profiles = [option for name in (*self.profiles, "test") for option in ("--profile", name)]
        self.compose(*profiles, "build", limit=BUILD_SECONDS)
        return time.monotonic() - began

    def up(self) -> float:
        """The seconds until everything is healthy."""
        began = time.monotonic()
        self.compose("up", "--detach", "--wait", "--wait-timeout", str(int(HEALTHY_SECONDS)), "--no-build")
        took = time.monotonic() - began
        for name in self.profiles:
            self.outlets[name] = Outlet(name, self.url(name))
        self._hub_reader = reading_engine(self.hub_url())
        return took

    def down(self) -> None:
        for outlet in self.outlets.values():
            outlet.close()
        if self._hub_reader:
            self._hub_reader.dispose()
        self.environment["COMPOSE_PROFILES"] = "*"
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", code=None)

    # ---- its databases

    def url(self, outlet: str) -> URL:
        """As that outlet's application connects."""
        engine = OUTLETS[outlet]
        driver, query = DRIVERS[engine]
        password = self.compose("exec", "--no-TTY", f"{outlet}-db", "cat", "/admin/shop").strip()
        port = self.ports[f"{outlet}-db"][DATABASE_PORT[engine]]
        return URL.create(driver, "shop", password, "127.0.0.1", port, "shop", query)

    def hub_url(self) -> URL:
        password = self.compose("exec", "--no-TTY", "hub-db", "cat", "/secrets/password").strip()
        return URL.create("mysql+pymysql", "subak", password, "127.0.0.1", self.ports["hub-db"][3306], "subak_hub")

    @property
    def urls(self) -> dict[str, URL]:
        return {name: outlet.url for name, outlet in self.outlets.items()}

    def at_hub(self, sql: str) -> int:
        assert self._hub_reader
        with self._hub_reader.begin() as connection:
            return int(connection.scalar(text(sql)) or 0)

    def waiting(self) -> dict[str, int]:
        """As `still_waiting`. The hub knows outlets that do not run; what waits for them waits."""
        assert self._hub_reader
        found = still_waiting(self._hub_reader, self.outlets)
        return {what: count for what, count in found.items() if what.rpartition(" ")[2] in self.outlets}

    def settle(self, limit: float = HEALTHY_SECONDS) -> float:
        """Waits until nothing is under way; the seconds that it took. The application must be quiet. `limit`: of the seconds in which
        nothing gets less."""
        began = moved = time.monotonic()
        before, least = -1, math.inf
        while True:
            last, found = -1, {"no answer": 1}
            with suppress(DBAPIError):  # of a database that is just coming up
                last, found = self.at_hub("SELECT MAX(Sequence) FROM subak_batch"), self.waiting()
            # Applying may make new changes, and exporting makes deliveries: nothing may have moved since the last look.
            if not found and last == before:
                return time.monotonic() - began
            before = -1 if found else last
            if last >= 0 and sum(found.values()) < least:
                least, moved = sum(found.values()), time.monotonic()
            if time.monotonic() - moved > limit:
                raise UnsettledError(f"not at rest, and nothing got less for {limit:.0f} s: {found}; {self.states()}")
            time.sleep(0.2)

    # ---- its containers

    @property
    def services(self) -> list[str]:
        """Those that stay, not the jobs."""
        return ["hub", "hub-db", *(f"{name}-{service}" for name in self.profiles for service in SERVICES)]

    def container(self, service: str) -> str:
        """Its id, which it keeps until `down`."""
        if service not in self._containers:
            found = self.compose("ps", "--all", "--quiet", service).split()
            assert len(found) == 1, f"{service}: {found}"
            self._containers[service] = found[0]
        return self._containers[service]

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.docker("inspect", self.container(service)))[0]
        return found

    def states(self) -> str:
        """In a line: what the engine says of each container."""
        rows = self.compose("ps", "--all", "--format", "{{.Service}}: {{.Status}}", code=None).splitlines()
        return "; ".join(row for row in rows if "Exited (0)" not in row)

    def is_healthy(self, service: str) -> bool:
        state = self.inspect(service)["State"]
        return bool(state["Running"] and not state["Paused"] and state["Health"]["Status"] == "healthy")

    def wait_healthy(self, *services: str, limit: float = HEALTHY_SECONDS) -> None:
        for service in services or self.services:
            wait_for(f"{service} to be healthy", lambda service=service: self.is_healthy(service), limit, 0.3)  # type: ignore[misc]

    def answers(self, service: str, page: str = "readyz") -> str:
        """What it says at its port for health and metrics; raises OSError when it says so by an error, or nothing."""
        port = self.ports[service][OUR_PORT]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5) as answer:
            return str(answer.read().decode())

    def log(self, service: str) -> str:
        return self.log_of(self.container(service))

    def log_of(self, container: str, lines: str = "all") -> str:
        """What it wrote, to either of its outputs."""
        command = ("docker", "logs", "--tail", lines, container)
        return subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=True,
        ).stdout

    def logs(self) -> Iterator[tuple[str, str]]:
        for row in self.compose("ps", "--all", "--format", "{{.Service}} {{.ID}}", code=None).splitlines():
            service, container = row.split()
            yield service, self.log_of(container, LOG_LINES)
