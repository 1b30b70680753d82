"""What can go wrong, one function each. To add one: write it, and enter it in FAULTS.

A fault does something to the world, yields the seconds that this is to last, and undoes it; it may do so several times. It
draws every choice from the random that it is given, which comes of the run's seed and the fault's place in the schedule
alone. Faults overlap: a process that one has killed may be frozen by another. `needs` names capabilities of the World.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from sqlalchemy.exc import DBAPIError

from tests.chaos.world import OUTLETS, World
from tests.stack.network import FAILPOINTS, OUTLET_SERVICES
from tests.stack.proxy import Proxy, Way

TRIES, TRY_SECONDS = 80, 0.25
DEAD_LINK_SECONDS = 35.0
"""Longer than either end waits for a peer that says nothing."""


@dataclass(frozen=True)
class Fault:
    name: str
    weight: int
    act: Callable[[World, Random], Iterator[float]]
    needs: frozenset[str] = frozenset()


def _process(world: World, draw: Random) -> str:
    """The hub as often as all captures together."""
    service = draw.choice(["hub", *OUTLET_SERVICES])
    outlet = draw.choice(OUTLETS)
    return service if service == "hub" else f"{service}.{outlet}"


def _line(world: World, draw: Random) -> Proxy:
    return world.lines[draw.choice(OUTLETS)]


def _ways(draw: Random) -> tuple[Way, ...]:
    return draw.choice([(Way.UP,), (Way.DOWN,), (Way.UP, Way.DOWN)])


# ---- processes


def killed(world: World, draw: Random) -> Iterator[float]:
    name = _process(world, draw)
    world.hold(name)
    world.kill(name)
    yield draw.choice([0.0, 0.0, draw.uniform(0.5, 4.0)])
    world.let_go(name)


def killed_at_a_point(world: World, draw: Random) -> Iterator[float]:
    name = _process(world, draw)
    service = name.partition(".")[0]
    world.arm(name, f"{service}.{draw.choice(FAILPOINTS[service])}", draw.choice([1, 1, 2, 5]))
    yield 0.0


def outlet_loses_power(world: World, draw: Random) -> Iterator[float]:
    """Both services at once, and the database server too where it can be killed (and then everybody else's on it)."""
    outlet = draw.choice(OUTLETS)
    names = [f"{service}.{outlet}" for service in OUTLET_SERVICES]
    for name in names:
        world.hold(name)
        world.kill(name)
    if world.engines[outlet] in world.killable_servers:
        world.kill_server(world.engines[outlet])
    yield draw.uniform(0.0, 5.0)
    for name in names:
        world.let_go(name)


def everything_killed(world: World, draw: Random) -> Iterator[float]:
    for name in world.network.processes:
        world.kill(name)
    yield 0.0


def hub_restarted(world: World, draw: Random) -> Iterator[float]:
    world.restart("hub")
    yield 0.0


def service_restarted(world: World, draw: Random) -> Iterator[float]:
    world.restart(f"{draw.choice(OUTLET_SERVICES)}.{draw.choice(OUTLETS)}")
    yield 0.0


def frozen(world: World, draw: Random) -> Iterator[float]:
    """A process that is there and does nothing: a slow outlet, a hub that is half dead."""
    name = _process(world, draw)
    world.freeze(name)
    yield draw.uniform(0.2, 5.0)
    world.thaw(name)


def frozen_until_given_up(world: World, draw: Random) -> Iterator[float]:
    name = _process(world, draw)
    world.freeze(name)
    yield DEAD_LINK_SECONDS
    world.thaw(name)


def doubled(world: World, draw: Random) -> Iterator[float]:
    """A second capture or applier beside the first: an operator's mistake."""
    name = f"{draw.choice(OUTLET_SERVICES)}.{draw.choice(OUTLETS)}"
    process = world.double(name)
    yield draw.uniform(3.0, 8.0)
    world.end_double(name, process)


# ---- database servers


def server_killed(world: World, draw: Random) -> Iterator[float]:
    """kill -9 of a database server, with every database on it: outlets', and perhaps the hub's."""
    world.kill_server(draw.choice(world.killable_servers))
    yield 0.0


# ---- databases put back to a backup


def hub_put_back(world: World, draw: Random) -> Iterator[float]:
    """The next such fault waits until everybody has sent again what this one lost."""
    if world.restoring:
        return
    world.restoring = True
    backup = world.backup("hub")
    yield draw.uniform(0.5, 8.0)
    world.hold("hub")
    world.kill("hub")
    world.put_back("hub", backup)
    world.let_go("hub")
    yield from _until(lambda: all(world.is_stored(outlet) for outlet in OUTLETS))
    world.restoring = False


def outlet_put_back(world: World, draw: Random) -> Iterator[float]:
    """To a moment when it was writing. What never left the outlet would be lost with it: so it is waited for, while nobody writes there."""
    if world.restoring:
        return
    world.restoring = True
    outlet = draw.choice([name for name in OUTLETS if world.engines[name] != "mssql"])
    names = [f"{service}.{outlet}" for service in OUTLET_SERVICES]
    backup = world.backup(outlet)
    yield draw.uniform(0.5, 8.0)
    world.gates[outlet].close()
    try:
        yield from _until(lambda: world.is_stored(outlet))
        if world.is_stored(outlet):
            for name in names:
                world.hold(name)
                world.kill(name)
            world.put_back(outlet, backup)
            for name in names:
                world.let_go(name)
    finally:
        world.gates[outlet].reopen()
    yield from _until(lambda: world.is_stored(outlet))
    world.restoring = False


def _until(met: Callable[[], bool]) -> Iterator[float]:
    """For a while: other faults may keep it from ever being so."""
    for _ in range(TRIES):
        with suppress(DBAPIError):
            if met():
                return
        yield TRY_SECONDS


# ---- lines


def cut(world: World, draw: Random) -> Iterator[float]:
    _line(world, draw).cut(reset=draw.random() < 0.5)
    yield 0.0


def flapping(world: World, draw: Random) -> Iterator[float]:
    line = _line(world, draw)
    for _ in range(draw.randint(3, 8)):
        line.cut(reset=draw.random() < 0.5)
        yield draw.uniform(0.05, 0.8)


def unreachable(world: World, draw: Random) -> Iterator[float]:
    line = _line(world, draw)
    line.refuse()
    line.cut(reset=True)
    yield draw.uniform(0.5, 6.0)
    line.admit()


def half_open(world: World, draw: Random) -> Iterator[float]:
    """Nothing goes through and nothing ends; then what was held goes on, or is lost with the connection."""
    line = _line(world, draw)
    line.stall(*_ways(draw))
    yield draw.uniform(0.5, 6.0)
    if draw.random() < 0.5:
        line.cut(reset=True)
    line.flow()


def half_open_until_given_up(world: World, draw: Random) -> Iterator[float]:
    line = _line(world, draw)
    line.stall(*_ways(draw))
    yield DEAD_LINK_SECONDS
    line.flow()


def slow(world: World, draw: Random) -> Iterator[float]:
    line = _line(world, draw)
    line.weather(*_ways(draw), delay=draw.uniform(0.0, 0.3), rate=draw.choice([0.0, 5_000.0, 50_000.0]))
    yield draw.uniform(1.0, 6.0)
    line.weather()


def damaged(world: World, draw: Random) -> Iterator[float]:
    """Over TLS: every damage must be found, and cost no more than a connection."""
    line = _line(world, draw)
    kind = draw.choice(["corrupt", "duplicate", "reorder"])
    line.weather(*_ways(draw), **{kind: draw.uniform(0.05, 0.5)})
    yield draw.uniform(1.0, 4.0)
    line.weather()


FAULTS = (
    Fault("killed", 12, killed),
    Fault("killed at a point", 20, killed_at_a_point),
    Fault("outlet loses power", 3, outlet_loses_power),
    Fault("everything killed", 1, everything_killed),
    Fault("hub restarted", 3, hub_restarted),
    Fault("service restarted", 3, service_restarted),
    Fault("frozen", 8, frozen),
    Fault("frozen until given up", 1, frozen_until_given_up, frozenset({"long"})),
    Fault("doubled", 4, doubled),
    Fault("server killed", 5, server_killed, frozenset({"server"})),
    Fault("hub put back", 3, hub_put_back),
    Fault("outlet put back", 4, outlet_put_back),
    Fault("cut", 8, cut),
    Fault("flapping", 4, flapping),
    Fault("unreachable", 6, unreachable),
    Fault("half-open", 8, half_open),
    Fault("half-open until given up", 1, half_open_until_given_up, frozenset({"long"})),
    Fault("slow", 6, slow),
    Fault("damaged", 10, damaged),
)
