"""Everything that a fault may touch: the network's processes, the lines between them, the database servers below them."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from sqlalchemy import text
from sqlalchemy.engine import URL

from tests.chaos import company
from tests.chaos.gate import Gate
from tests.stack import backups
from tests.stack.backups import Backup
from tests.stack.network import Network, Process, wait_for
from tests.stack.proxy import Proxy
from tests.stack.schemas import load
from tests.stack.servers import HUB_ENGINES, MysqlServer, Servers
from tests.unit.certificates import Authority

OUTLETS = ("ubud", "kuta", "lovina")
NUDGE_SECONDS = 1.0
YOUNG_SECONDS = 2.0
"""A process that has just started does not listen to signals yet."""

EXCUSED_SECONDS = 10.0
"""After a second process has stood beside it, a service may end by itself for so long."""

READY_SECONDS = 120.0
POLICY_SECONDS = 30.0
LONG_SECONDS = 120.0
"""A run of this length has room for faults that take half a minute."""


class World:
    """Context manager. Engines are drawn from `engines` by the seed. The servers are this world's own, for it kills them."""

    def __init__(self, servers: Servers, folder: Path, seed: int, seconds: float, engines: Sequence[str]) -> None:
        draw = random.Random(f"{seed}-engines")
        hub = draw.choice([name for name in HUB_ENGINES if name in engines])
        mixed = draw.sample(list(engines), len(engines))
        self.engines = {"hub": hub} | {outlet: mixed[at % len(mixed)] for at, outlet in enumerate(OUTLETS)}
        self.servers = servers
        urls = {name: servers.fresh(engine, name) for name, engine in self.engines.items()}
        hub_url = urls.pop("hub")
        for url in urls.values():
            load(url, company.SCHEMA, list(company.rows(OUTLETS)))
        tables = ",".join(company.SYNCHRONISED)
        self.network = Network(folder, hub_url, urls, tables=tables, environment=company.settings(folder))
        for outlet in self.network.outlets.values():
            company.add_effects(outlet)
        authority = Authority(folder)
        self.network.secure(authority.issue)
        self.lines = {outlet: Proxy(self.network.hub_port, f"{seed}-{outlet}") for outlet in OUTLETS}
        for outlet, line in self.lines.items():
            self.network.dial(outlet, line.port)
        self.capabilities = {"long"} if seconds >= LONG_SECONDS else set()
        if self.killable_servers:
            self.capabilities.add("server")
        self.gates = {outlet: Gate() for outlet in OUTLETS}
        self.restoring = False
        """Only one database at a time is put back: what two have lost at once, nobody has any more."""
        self._folder = folder
        self.hits: Counter[str] = Counter()
        """Failpoints at which a process died."""
        self._stack = ExitStack()
        self._held: Counter[str] = Counter()
        self._frozen: Counter[str] = Counter()
        self._armed: dict[str, str] = {}
        """Why a process will not be asked for the reason of its death: the failpoint it has, or "" when it was killed."""
        self._buried: dict[str, int] = {}
        """The start whose end was looked at."""
        self._excused: dict[str, float] = {}
        self._beside: list[Process] = []
        self._started: dict[str, float] = {}
        self._nudged = 0.0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for line in self.lines.values():
                stack.enter_context(line)
            stack.callback(self.close)
            self.network.start()
            wait_for("the policy at every outlet", self._has_policy, POLICY_SECONDS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _has_policy(self) -> bool:
        """Before that an outlet's changes are made under other rules."""
        outlets = self.network.outlets.values()
        return all(outlet.count("SELECT COUNT(*) FROM subak_policy") for outlet in outlets)

    def close(self) -> None:
        for process in self._beside:
            _end(process)
        self.network.close()

    @property
    def killable_servers(self) -> list[str]:
        return sorted({name for name in self.engines.values() if name in ("mariadb", "mysql")})

    def alive(self, name: str) -> bool:
        return self.network.processes[name].alive

    # What faults do

    def kill(self, name: str) -> None:
        """kill -9, frozen or not; `tend` starts it again unless it is held."""
        if self.alive(name):
            self.network.kill(name)
            self._armed[name] = ""

    def hold(self, name: str) -> None:
        """A process that is down stays down until it is let go."""
        self._held[name] += 1

    def let_go(self, name: str) -> None:
        self._held[name] -= 1

    def arm(self, name: str, point: str, count: int) -> None:
        """Starts it anew, to kill itself the `count`-th time that it reaches the point; not while it is down or frozen."""
        if not self.alive(name) or self._frozen[name]:
            return
        self.kill(name)
        self._start(name, f"{point}:{count}")
        self._armed[name] = point

    def freeze(self, name: str) -> None:
        self._frozen[name] += 1
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._frozen[name] -= 1
        if not self._frozen[name]:
            self._signal(name, signal.SIGCONT)

    def restart(self, name: str) -> None:
        """SIGTERM and a new start, as an operator would; not while it is down or frozen."""
        if self.alive(name) and not self._frozen[name]:
            code = self.network.stop(name)
            assert code in (0, -signal.SIGTERM, -signal.SIGKILL), f"{name} was told to stop and ended with {code}"
            self._armed[name] = ""

    def kill_server(self, engine: str) -> None:
        server = self.servers.server(engine)
        assert isinstance(server, MysqlServer)
        server.kill_and_restart()

    def backup(self, name: str) -> Backup:
        """Of the hub's database, or an outlet's, at this moment."""
        return backups.take(self._url(name), self._folder, f"{name}-{time.monotonic_ns()}")

    def put_back(self, name: str, backup: Backup) -> None:
        """Nobody may use that database: a second process that somebody has left running there would make its tables anew meanwhile."""
        for process in self._beside:
            if process.name.partition(" ")[0].endswith(f".{name}"):
                _end(process)
        if name == "hub":
            self.network.hub_reader.dispose()
        else:
            self.network.outlets[name].close()
        backup.restore(self._url(name))

    def _url(self, name: str) -> URL:
        return self.network.hub_url if name == "hub" else self.network.outlets[name].url

    def is_stored(self, outlet: str) -> bool:
        """Whether the hub has everything that was committed at the outlet."""
        there = self.network.outlets[outlet]
        with self.network.hub_reader.begin() as connection:
            query = text("SELECT Epoch, Number FROM subak_outlet WHERE Name = :name")
            epoch, number = connection.execute(query, {"name": outlet}).one()
        state = "SELECT COUNT(*) FROM subak_state WHERE (Name = 'epoch' AND Value = :epoch)"
        return (
            there.count("SELECT COUNT(*) FROM CloudQuery WHERE ExportFlag = 0") == 0
            and there.count(f"{state} OR (Name = 'last_number' AND Value = :number)", epoch=epoch, number=str(number))
            == 2
            and there.count("SELECT COUNT(*) FROM subak_state WHERE Name = 'catching_up'") == 0
        )

    def double(self, name: str) -> Process:
        """A second process of the same name, started; either of the two may give up because of the other."""
        process = self.network.beside(name, len(self._beside) + 1)
        self._beside.append(process)
        process.start({})
        self._excused[name] = float("inf")
        return process

    def end_double(self, name: str, process: Process) -> None:
        _end(process)
        self._excused[name] = time.monotonic() + EXCUSED_SECONDS

    # What goes on meanwhile

    def tend(self) -> None:
        """Starts again what has died, as a service manager would, and nudges what waits for the hub.

        Raises AssertionError for a process that has ended by itself and had no reason to.
        """
        for name in self.network.dead():
            self._bury(name)
            if self._held[name] <= 0 and not self._frozen[name]:
                self._start(name)
        if time.monotonic() - self._nudged > NUDGE_SECONDS:
            self._nudged = time.monotonic()
            self._nudge()

    def all_well(self) -> None:
        """Every fault is over: nothing is held, frozen or armed, the lines are calm, and every process is ready."""
        for line in self.lines.values():
            line.calm()
            line.cut(reset=True)
        for name in list(self._frozen):
            self._frozen[name] = 0
            self._signal(name, signal.SIGCONT)
        self._held.clear()
        for name in [name for name, point in self._armed.items() if point]:
            self.kill(name)
        end = time.monotonic() + READY_SECONDS
        while not all(process.ready() for process in self.network.processes.values()):
            self.tend()
            assert time.monotonic() < end, f"not ready {READY_SECONDS:.0f} s after the last fault: {self.unready()}"
            time.sleep(0.2)

    def unready(self) -> list[str]:
        return [name for name, process in self.network.processes.items() if not process.ready()]

    def _start(self, name: str, failpoint: str | None = None) -> None:
        self.network.start(name, failpoint=failpoint, wait=False)
        self._started[name] = time.monotonic()

    def _bury(self, name: str) -> None:
        process = self.network.processes[name]
        assert process.running is not None
        if self._buried.get(name) == process.starts:
            return
        self._buried[name] = process.starts
        code = process.running.returncode
        point = self._armed.pop(name, None)
        if point and code == -signal.SIGKILL:
            self.hits[point] += 1
        if point is None and code != -signal.SIGHUP and time.monotonic() > self._excused.get(name, 0.0):
            raise AssertionError(f"{name} ended by itself with {code}:\n{process.tail()}")

    def _nudge(self) -> None:
        for name in self.network.outlet_processes:
            process = self.network.processes[name]
            young = time.monotonic() - self._started.get(name, 0.0) < YOUNG_SECONDS
            if young or self._frozen[name] or not process.alive:
                continue
            if process.healthy() and not process.ready():
                self._signal(name, signal.SIGHUP)

    def _signal(self, name: str, what: signal.Signals) -> None:
        process = self.network.processes[name].running
        if process is not None and process.poll() is None:
            process.send_signal(what)


def _end(process: Process) -> None:
    if process.alive and process.running is not None:
        process.running.kill()
        process.running.wait()
