"""An outlet whose database was put back, or is a copy of another's: the hub owes it what that database lacks, in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.engine import URL

from services.hub import outlets
from services.hub.admission import admit
from services.hub.controls import Voice
from services.hub.delivering import pending
from services.hub.forking import Forks
from services.hub.limits import Backlog, Limits, drop, give_up
from services.hub.queue import Group, Queue, open_queue
from services.hub.returning import greet_applier, owes_own
from services.kernel.change import GENESIS
from services.kernel.control import HUB, Policy
from services.kernel.errors import PermanentError, SubakError
from services.kernel.schema import HUB_OUTLET
from services.kernel.wire.messages import Hello, Role
from tests.contract.queues import arrival, chain, execute, owed, store

LIMITS = Limits(seconds=1000.0, bytes=1_000_000)


@pytest.fixture
def queue(hub_url: URL) -> Iterator[Queue]:
    ticks = itertools.count(1_000_000, 1_000_000)
    queue = open_queue(hub_url, lambda: next(ticks))
    queue.prepare()
    for name in ("amed", "bedugul", "candi"):
        queue.write(outlets.add, name, "", "", queue.now)
    yield queue
    queue.close()


def enter(queue: Queue, outlet: str, position: int, epoch: str = "e1", stored: int = 0, source: str = "") -> str:
    """Its applier says hello; the code of the refusal, or nothing."""
    hello = Hello(1, Role.APPLIER, outlet, epoch, position, GENESIS, stored=stored, source=source)
    (result,) = queue.commit(Group(calls=[lambda connection: greet_applier(connection, hello, queue.now)])).returned
    return result.code if isinstance(result, SubakError) else ""


def sequences(queue: Queue, outlet: str) -> list[int]:
    """What waits, each following the one before."""
    waiting = owed(queue, outlet)
    for (before, _), (_, previous) in itertools.pairwise(waiting):
        assert before == previous
    return [sequence for sequence, _ in waiting]


def test_a_database_that_was_put_back_gets_its_own_batches_too(queue: Queue) -> None:
    amed, candi = chain("amed", 4), chain("candi", 3)
    store(queue, amed[0], candi[0], amed[1], candi[1], candi[2], amed[2])
    assert enter(queue, "candi", 0, stored=3) == ""
    execute(queue, "candi", 1, 3, 6)
    assert enter(queue, "candi", 1, stored=1) == ""
    assert sequences(queue, "candi") == [3, 4, 5, 6]
    assert owed(queue, "candi")[0] == (3, 1)
    assert queue.read(owes_own, "candi")
    store(queue, amed[3])
    assert sequences(queue, "candi") == [3, 4, 5, 6, 7]
    execute(queue, "candi", 3, 4)
    assert enter(queue, "candi", 4, stored=1) == "", "greeted twice, it is owed the same once"
    assert sequences(queue, "candi") == [5, 6, 7]
    execute(queue, "candi", 5)
    assert not queue.read(owes_own, "candi")
    assert sequences(queue, "bedugul") == [1, 2, 3, 4, 5, 6, 7], "it is nobody else's business"


def test_its_own_batches_come_last_or_are_all_there_is(queue: Queue) -> None:
    candi = chain("candi", 3)
    store(queue, *candi)
    assert enter(queue, "candi", 0, stored=1) == ""
    assert owed(queue, "candi") == [(2, 0), (3, 2)]
    store(queue, *chain("amed", 1))
    assert owed(queue, "candi") == [(2, 0), (3, 2), (4, 3)]
    execute(queue, "candi", 2, 3, 4)
    assert enter(queue, "candi", 4, stored=1) == ""
    assert owed(queue, "candi") == []
    store(queue, *candi, arrival("candi", 4, candi[-1].batch.digest))
    store(queue, *chain("amed", 2)[1:])
    assert owed(queue, "candi") == [(6, 4)], "a batch that is stored while it is connected has no delivery to itself"


def test_after_a_new_epoch_it_is_owed_what_the_old_one_sent(queue: Queue) -> None:
    store(queue, *chain("candi", 2, "e1"), *chain("candi", 2, "e2"))
    assert enter(queue, "candi", 0, epoch="e1", stored=1) == ""
    assert sequences(queue, "candi") == [2, 3, 4]
    assert enter(queue, "candi", 3, epoch="e3") == ""
    assert sequences(queue, "candi") == [4]


def test_a_name_that_is_removed_and_added_again_may_begin_with_a_database_that_knows_nothing(queue: Queue) -> None:
    """It has the rows of the others. Its former batches, applied to rows without versions, would overwrite what came later."""
    (rules,) = store(queue, Voice("h").say(Policy(1, "")))
    assert isinstance(rules, int)
    store(queue, *chain("candi", 3), *chain("amed", 1))
    queue.write(outlets.remove, "candi", queue.now)
    queue.write(outlets.add, "candi", "", "", queue.now)
    assert enter(queue, "candi", 0, epoch="new") == ""
    assert sequences(queue, "candi") == [rules]
    execute(queue, "candi", rules)
    assert enter(queue, "candi", rules, epoch="new") == ""
    assert sequences(queue, "candi") == []
    store(queue, *chain("candi", 2, "new"))
    assert enter(queue, "candi", rules, epoch="newer") == "", "this one was put back since it was added"
    assert len(sequences(queue, "candi")) == 2


def test_a_capture_waits_until_its_own_batches_are_executed(queue: Queue) -> None:
    forks = Forks()

    def hello(role: Role, epoch: str, position: int = 0) -> str:
        said = Hello(1, role, "candi", epoch, position, GENESIS, instance="p1")
        group = Group(calls=[lambda connection: admit(connection, said, False, forks, queue.now)])
        (result,) = queue.commit(group).returned
        if role is Role.APPLIER and not isinstance(result, SubakError):
            forks.greeted("candi", epoch)
        return result.code if isinstance(result, SubakError) else ""

    assert hello(Role.CAPTURE, "e1") == ""
    store(queue, *chain("candi", 2))
    assert hello(Role.CAPTURE, "e1") == "fork"
    assert hello(Role.APPLIER, "e1") == ""
    assert hello(Role.CAPTURE, "e2") == "catching_up", "its applier has not said that it knows of the new epoch"
    assert hello(Role.APPLIER, "e2") == ""
    assert hello(Role.CAPTURE, "e2") == "catching_up", "it has not executed all"
    execute(queue, "candi", 1, 2)
    assert hello(Role.CAPTURE, "e2") == ""
    assert store(queue, *chain("candi", 1, "e2")) == [3]
    assert hello(Role.CAPTURE, "e1") == "fork"


def test_an_epoch_that_ended_and_is_forgotten_does_not_go_on(queue: Queue) -> None:
    """A database put back so far that the hub no longer knows its epoch: its capture says that it has forgotten the first batches of it."""
    forks = Forks()
    store(queue, *chain("candi", 2, "e2"))
    old = Hello(1, Role.CAPTURE, "candi", "e1", 9, GENESIS, instance="p1", forgotten=7, forgotten_digest=b"7" * 32)
    group = Group(calls=[lambda connection: admit(connection, old, False, forks, queue.now)])
    (result,) = queue.commit(group).returned
    assert isinstance(result, SubakError) and result.code == "catching_up"
    assert store(queue, *chain("candi", 3, "e2")[2:]) == [3], "its present epoch is as it was"


def test_a_copy_is_owed_all_that_came_after_it(queue: Queue) -> None:
    store(queue, *chain("amed", 3), *chain("bedugul", 2), *chain("candi", 1))
    execute(queue, "candi", 1, 2)
    queue.write(outlets.add, "denpasar", "", "", queue.now)
    queue.write(outlets.ignore, "denpasar", "bedugul")
    assert enter(queue, "denpasar", 2, epoch="d1", source="candi") == ""
    assert owed(queue, "denpasar") == [(3, 2), (6, 3)], "its source's too, and nothing of whom it ignores"
    store(queue, *chain("denpasar", 1, "d1"), *chain("amed", 4)[3:])
    assert owed(queue, "denpasar") == [(3, 2), (6, 3), (8, 6)]
    execute(queue, "denpasar", 3)
    assert enter(queue, "denpasar", 3, epoch="d1", stored=1, source="candi") == ""
    assert owed(queue, "denpasar") == [(6, 3), (8, 6)]


def test_a_copy_under_a_name_that_was_known_gets_what_that_one_sent(queue: Queue) -> None:
    store(queue, *chain("amed", 1), *chain("candi", 2), *chain("amed", 2)[1:])
    assert enter(queue, "candi", 4, stored=2) == ""
    assert enter(queue, "candi", 1, epoch="c1", source="bedugul") == ""
    assert sequences(queue, "candi") == [2, 3, 4]


def test_who_was_given_up_comes_back_as_a_copy_or_anew(queue: Queue) -> None:
    store(queue, *chain("amed", 3))
    assert enter(queue, "candi", 1) == ""
    why = queue.write(give_up, "candi", LIMITS, Backlog(2, 7, 2000.0, 2000.0), queue.now)
    assert "days" in why
    while queue.write(drop):
        pass
    assert owed(queue, "candi") == []
    store(queue, *chain("amed", 4)[3:])
    assert owed(queue, "candi") == [], "nothing is kept for it any more"
    assert enter(queue, "candi", 1) == "resync"
    assert store(queue, *chain("candi", 1)) == [5], "what it has to send is taken all the same"
    assert enter(queue, "candi", 2, epoch="c1", source="amed") == ""
    assert owed(queue, "candi") == [(3, 2), (4, 3), (5, 4)]
    queue.write(give_up, "candi", LIMITS, Backlog(2, 2_000_000, 1.0), queue.now)
    assert enter(queue, "candi", 2, epoch="c1", source="amed") == "resync", "it is the same copy"
    queue.write(outlets.remove, "candi", queue.now)
    queue.write(outlets.add, "candi", "", "", queue.now)
    assert enter(queue, "candi", 0, epoch="c1", stored=1) == ""


def test_conflict_rules_are_owed_to_a_new_outlet_before_anything_else(queue: Queue) -> None:
    voice = Voice("h1")
    store(queue, *chain("amed", 1), voice.say(Policy(1, "a")))
    store(queue, *chain("amed", 2)[1:], voice.say(Policy(2, "b")))
    assert sequences(queue, "amed") == [2, 4]
    queue.write(outlets.add, "denpasar", "", "", queue.now)
    store(queue, *chain("amed", 3)[2:])
    assert owed(queue, "denpasar") == [(2, 0), (4, 2), (5, 4)]
    assert [it.origin for it in queue.read(pending, "denpasar", 0, 9)] == [HUB, HUB, "amed"]
    assert enter(queue, "denpasar", 0) == ""
    assert owed(queue, "denpasar") == [(2, 0), (4, 2), (5, 4)]
    queue.write(outlets.remove, "candi", queue.now)
    queue.write(outlets.add, "candi", "", "", queue.now)
    assert enter(queue, "candi", 3) == "", "it goes on after its ledger, with the rules that it lacks"
    assert owed(queue, "candi") == [(4, 3)]


def test_nobody_may_be_called_as_the_hub(queue: Queue) -> None:
    with pytest.raises(PermanentError):
        queue.write(outlets.add, HUB, "", "", queue.now)


def test_the_hub_restarted_says_more_under_a_new_epoch(queue: Queue) -> None:
    assert store(queue, Voice("h1").say(Policy(1, "a"))) == [1]
    assert store(queue, Voice("h2").say(Policy(2, "b"))) == [2]
    named = select(HUB_OUTLET.c.Name)
    assert set(queue.read(lambda connection: list(connection.scalars(named)))) == {"amed", "bedugul", "candi"}
