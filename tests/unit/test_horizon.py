"""What may be forgotten: never a batch that some outlet lacks, or without knowing which something is still on its way."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from services.hub.horizon import Standing, Told, horizon, kept, stable

NAMES = ("amed", "bedugul", "candi", "denpasar")


@dataclass
class Change:
    """Committed at an outlet that had executed all it was owed up to `known`."""

    known: int
    number: int = 0
    """Of the batch it was cut into; 0: not yet."""


@dataclass
class Outlet:
    ledger: int = 0
    """The last delivery it has executed."""
    changes: list[Change] = field(default_factory=list)
    cut: int = 0
    stored: dict[int, int] = field(default_factory=dict)
    """Batch number to sequence."""
    owed: list[int] = field(default_factory=list)
    said: deque[tuple[int, int]] = field(default_factory=deque)
    """Progress (number, seen) on its way to the hub."""
    heard: list[tuple[int, int]] = field(default_factory=list)
    """The same as the hub remembers it."""
    stable: int = 0


class Network:
    def __init__(self, names: tuple[str, ...], ignored: set[tuple[str, str]]) -> None:
        self.outlets = {name: Outlet() for name in names}
        self.ignored = ignored
        self.last = 0
        self.horizon = 0

    def act(self, name: str, action: str) -> None:
        outlet = self.outlets[name]
        if action == "commit":
            outlet.changes.append(Change(self._known(outlet)))
        elif action == "cut":
            waiting = [change for change in outlet.changes if change.number == 0]
            outlet.cut += bool(waiting)
            for change in waiting:
                change.number = outlet.cut
            outlet.said.append((outlet.cut, outlet.ledger))
        elif action == "store" and len(outlet.stored) < outlet.cut:
            self.last += 3  # sequences have holes
            outlet.stored[len(outlet.stored) + 1] = self.last
            for other, it in self.outlets.items():
                if other != name and (other, name) not in self.ignored:
                    it.owed.append(self.last)
        elif action == "execute" and (waits := [one for one in outlet.owed if one > outlet.ledger]):
            outlet.ledger = waits[0]
        elif action == "tell" and outlet.said:
            number, seen = outlet.said.popleft()
            if seen not in [earlier for _, earlier in outlet.heard]:
                outlet.heard.append((number, seen))
        self._note()

    def _note(self) -> None:
        """As the hub does it (`purging.note`)."""
        standings = {name: self._standing(it) for name, it in self.outlets.items()}
        for name, outlet in self.outlets.items():
            outlet.stable = stable(name, standings)
            seen = {it.seen for it in kept(standings[name].told, outlet.stable)}
            outlet.heard = [it for it in outlet.heard if it[1] in seen]
            assert len(outlet.heard) <= 2
        self.horizon = max(self.horizon, horizon({name: self._standing(it) for name, it in self.outlets.items()}))

    def _standing(self, outlet: Outlet) -> Standing:
        told = [
            Told(seen, self._reach(outlet, seen), outlet.stored.get(number) if number else 0)
            for number, seen in outlet.heard
        ]
        return Standing(self._known(outlet), outlet.stable, told)

    def _known(self, outlet: Outlet) -> int:
        return self._reach(outlet, outlet.ledger)

    def _reach(self, outlet: Outlet, position: int) -> int:
        return min((one - 1 for one in outlet.owed if one > position), default=self.last)

    def check(self) -> None:
        for name, outlet in self.outlets.items():
            assert self._known(outlet) >= self.horizon, f"{name} lacks something"
            for change in outlet.changes:
                if self._reach(outlet, change.known) < self.horizon:
                    sequence = outlet.stored.get(change.number)
                    assert sequence is not None, f"a change of {name} is still to come"
                    for other, it in self.outlets.items():
                        if other != name:
                            assert self._known(it) >= sequence, f"{other} has not executed a change of {name}"


ACTIONS = ("commit", "cut", "store", "execute", "execute", "tell")


def a_network(chance: random.Random) -> Network:
    """One to four outlets, some of which take nothing from some others."""
    names = NAMES[: chance.randint(1, 4)]
    pairs = [pair for pair in itertools.permutations(names, 2) if chance.random() < 0.15]
    return Network(names, set(pairs))


@pytest.mark.parametrize("seed", range(100))
def test_nothing_is_forgotten_too_early_and_all_when_it_is_quiet(seed: int) -> None:
    """The latter also where an outlet is owed nothing by anybody."""
    chance = random.Random(seed)
    network = a_network(chance)
    for _ in range(250):
        network.act(chance.choice(list(network.outlets)), chance.choice(ACTIONS))
        network.check()
    for _ in range(250):
        for name in network.outlets:
            for action in ("cut", "store", "execute", "tell"):
                network.act(name, action)
    network.check()
    assert network.horizon == network.last


def test_an_outlet_that_never_rests_becomes_stable() -> None:
    told: list[Told] = []
    for seen in range(1, 50):
        told = kept([*told, Told(seen, seen, 100 + seen)], stable=0)
    assert [it.seen for it in told] == [1, 49]
    standings = {"amed": Standing(1000, 0, told), "bedugul": Standing(101, 1000)}
    assert stable("amed", standings) == 1
    assert horizon(standings) == 1


def test_without_outlets_nothing_is_forgotten() -> None:
    assert horizon({}) == 0


def test_what_was_said_of_a_batch_that_has_not_come_yet_waits() -> None:
    standings = {"amed": Standing(9, 0, [Told(5, 7, None)]), "bedugul": Standing(9, 9)}
    assert horizon(standings) == 0
