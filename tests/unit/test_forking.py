"""A database that is put back, in every order of events: nothing that the hub has is cut a second time, and it goes on at last."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from services.hub.forking import Forks
from services.kernel.errors import ProtocolError


@dataclass
class Outlet:
    """One outlet and the hub's half of it. Its changes are numbers; `rows` are those that its database has."""

    forks: Forks = field(default_factory=Forks)
    hub: list[int] = field(default_factory=list)
    """The outlet's own changes that the hub has."""
    owed: set[int] = field(default_factory=set)
    """Those of them that its applier is owed again."""
    rows: set[int] = field(default_factory=set)
    uncut: set[int] = field(default_factory=set)
    epoch: int = 0
    lives: int = 0
    process: int = 0
    told: int = -1
    """The epoch of the applier's last hello while it is connected; -1: it is not."""
    welcome: int = 0
    """The epoch in which capture may send; -1: in none."""
    next: int = 0
    backup: tuple[set[int], set[int], int] | None = None

    def act(self, action: str) -> None:
        getattr(self, action)()

    def write(self) -> None:
        self.next += 1
        self.rows.add(self.next)
        self.uncut.add(self.next)

    def send(self) -> None:
        if self.welcome == self.epoch:
            doubled = self.uncut & set(self.hub)
            assert not doubled, f"{doubled} goes out twice"
            self.hub += sorted(self.uncut)
            self.uncut.clear()

    def save(self) -> None:
        self.backup = set(self.rows), set(self.uncut), self.epoch

    def put_back(self) -> None:
        """Services are stopped, the database is put back, they start: capture finds the fork when it says hello."""
        if self.backup is not None:
            rows, uncut, self.epoch = self.backup
            self.rows, self.uncut = set(rows), set(uncut)
            self.told = self.welcome = -1
            self.process += 1
            if set(self.hub) - (self.rows - self.uncut):
                self.lives += 1
                self.epoch = self.lives

    def restart_hub(self) -> None:
        self.forks = Forks()
        self.told = self.welcome = -1

    def capture_says_hello(self) -> None:
        self.welcome = -1
        try:
            if self.hub and self.epoch:
                self.forks.ask("ubud", str(self.epoch), str(self.process), bool(self.owed))
            self.welcome = self.epoch
        except ProtocolError as refused:
            assert refused.code == "catching_up"
            if self.forks.must_greet("ubud"):
                self.told = -1

    def applier_says_hello(self) -> None:
        self.told = self.epoch
        self.owed = set(self.hub) - (self.rows - self.uncut)
        self.forks.greeted("ubud", str(self.epoch))

    def apply(self) -> None:
        if self.told >= 0:
            self.rows |= self.owed
            self.uncut -= self.owed
            self.owed = set()


ACTIONS = ["write", "send", "save", "put_back", "restart_hub", "capture_says_hello", "applier_says_hello", "apply"]


@pytest.mark.parametrize("seed", range(100))
def test_nothing_goes_out_twice_or_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    outlet = Outlet()
    for _ in range(300):
        outlet.act(chance.choice(ACTIONS))
    for _ in range(3):  # everything runs again, and is left alone
        outlet.capture_says_hello()
        if outlet.told < 0:
            outlet.applier_says_hello()
        outlet.apply()
    outlet.send()
    assert outlet.welcome == outlet.epoch, "capture goes on"
    assert not outlet.uncut
    assert outlet.rows == set(outlet.hub), "both have all that the other has"


def test_a_capture_that_began_before_its_applier_was_told_must_wait() -> None:
    forks = Forks()
    forks.greeted("ubud", "e2")  # in an earlier life of the database
    for owes, word in ((False, "hello"), (False, "hello")):
        with pytest.raises(ProtocolError, match=word):
            forks.ask("ubud", "e2", "one", owes)
    assert forks.must_greet("ubud")
    forks.greeted("ubud", "e1")
    assert forks.must_greet("ubud")
    forks.greeted("ubud", "e2")
    assert not forks.must_greet("ubud")
    with pytest.raises(ProtocolError, match="executed"):
        forks.ask("ubud", "e2", "one", True)
    forks.ask("ubud", "e2", "one", False)
    with suppress(ProtocolError):
        forks.ask("ubud", "e2", "another", False)
    assert forks.must_greet("ubud"), "the database may have been put back once more"
