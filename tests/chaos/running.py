"""One run: tills write, watchers look on, faults come by a schedule drawn from the seed; then rest, and the audit.

The seed gives the engines, the schedule of faults and what each till writes. It does not give the timing: two runs of one
seed meet the same faults in the same order, but at other instructions.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.auditing import examine
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.journal import Journal
from tests.chaos.tills import Till
from tests.chaos.watching import Watcher
from tests.chaos.world import OUTLETS, World
from tests.stack.servers import Servers

TILLS_PER_OUTLET = 2
GAP_SECONDS = (0.2, 2.0)
"""Between two faults."""

TICK_SECONDS = 0.05
PROGRESS_SECONDS = 5.0
SETTLE_SECONDS = 180.0
"""For what has gathered during all the faults to arrive everywhere, on a machine that does other things too."""

Tell = Callable[[str], None]


class ChaosError(AssertionError):
    """What the run has found wrong, and how to have it again."""


@dataclass(frozen=True)
class Result:
    faults: Counter[str]
    hits: Counter[str]
    """Failpoints at which a process died."""
    journal: Journal
    looks: int
    """Of the watchers, at all outlets."""
    damaged: int
    """Chunks of bytes that a line changed on their way."""


class Schedule:
    """Which fault comes when. `step` begins and ends what is due."""

    def __init__(self, world: World, seed: int, tell: Tell, faults: Sequence[Fault] = FAULTS) -> None:
        self.counts: Counter[str] = Counter()
        self._world = world
        self._seed = seed
        self._tell = tell
        self._random = random.Random(f"{seed}-schedule")
        self._faults = [fault for fault in faults if fault.needs <= world.capabilities]
        self._due = time.monotonic()
        self._running: list[tuple[float, Iterator[float]]] = []

    def step(self, *, begin: bool = True) -> None:
        now = time.monotonic()
        for entry in [entry for entry in self._running if entry[0] <= now]:
            self._running.remove(entry)
            self._go_on(entry[1])
        if begin and now >= self._due:
            self._due = now + self._random.uniform(*GAP_SECONDS)
            (fault,) = self._random.choices(self._faults, [fault.weight for fault in self._faults])
            self._tell(f"fault {self.counts.total() + 1}: {fault.name}")
            own = random.Random(f"{self._seed}-fault-{self.counts.total()}")
            self.counts[fault.name] += 1
            self._go_on(fault.act(self._world, own))

    def end(self) -> None:
        """Everything that was done is undone, now."""
        for _, acting in self._running:
            for _ in acting:
                pass
        self._running.clear()

    def _go_on(self, acting: Iterator[float]) -> None:
        for seconds in acting:
            self._running.append((time.monotonic() + seconds, acting))
            return


def run(servers: Servers, folder: Path, seed: int, seconds: float, engines: Sequence[str], tell: Tell) -> Result:
    """Raises ChaosError."""
    world = World(servers, folder, seed, seconds, engines)
    tell("engines: " + ", ".join(f"{name} on {engine}" for name, engine in world.engines.items()))
    try:
        with world:
            return _run(world, seed, seconds, tell)
    except AssertionError as error:
        _keep(world, folder, tell)
        raise ChaosError(f"{error}\n\nTo have it again: {replay(seed, seconds, engines)}") from error


def replay(seed: int, seconds: float, engines: Sequence[str]) -> str:
    return f"make chaos SECONDS={seconds:.0f} SEED={seed} ENGINES={','.join(engines)}"


def _run(world: World, seed: int, seconds: float, tell: Tell) -> Result:
    journal = Journal()
    outlets = list(world.network.outlets.values())
    tills = [
        Till(outlet, world.gates[outlet.name], OUTLETS, number * TILLS_PER_OUTLET + till + 1, seed, journal)
        for number, outlet in enumerate(outlets)
        for till in range(TILLS_PER_OUTLET)
    ]
    watchers = [Watcher(outlet, world.gates[outlet.name]) for outlet in outlets]
    schedule = Schedule(world, seed, tell)
    threads: list[Till | Watcher] = [*tills, *watchers]
    for thread in threads:
        thread.start()
    try:
        _disturb(world, schedule, threads, journal, seconds, tell)
        schedule.end()
    finally:
        for thread in threads:
            thread.stopping.set()
    for thread in tills:
        thread.join()
    tell(f"the last fault is over: {journal}")
    world.all_well()
    tell("every process is ready")
    world.network.settle(SETTLE_SECONDS)
    for watcher in watchers:
        watcher.join()
    tell("at rest")
    errors = [f"{thread.name}: {thread.error!r}" for thread in threads if thread.error]
    wrong = errors + [seen for watcher in watchers for seen in watcher.seen] + examine(world.network, journal)
    if wrong:
        raise AssertionError("\n".join(wrong[:40]))
    looks = sum(watcher.looks for watcher in watchers)
    damaged = sum(line.counts.damaged for line in world.lines.values())
    return Result(schedule.counts, world.hits, journal, looks, damaged)


def _disturb(
    world: World, schedule: Schedule, threads: Sequence[Till | Watcher], journal: Journal, seconds: float, tell: Tell
) -> None:
    begun = told = time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        schedule.step()
        world.tend()
        if broken := [thread for thread in threads if thread.error]:
            raise AssertionError(f"{broken[0].name} failed: {broken[0].error!r}")
        if now - told > PROGRESS_SECONDS:
            told = now
            up = sum(process.alive for process in world.network.processes.values())
            tell(
                f"{now - begun:.0f} of {seconds:.0f} s: {journal}; {schedule.counts.total()} faults,"
                f" {up} of {len(world.network.processes)} processes up"
            )
        time.sleep(TICK_SECONDS)


def _keep(world: World, folder: Path, tell: Tell) -> None:
    """The logs stay where they are; the books are written beside them, before the databases go."""
    text = "\n\n".join(f"{what}\n{rows}" for what, rows in world.network.books())
    (folder / "books.txt").write_text(text, "utf-8")
    tell(f"logs and books: {folder}")
