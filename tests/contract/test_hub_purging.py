"""The hub tells everybody when to forget, and forgets itself: what all have, and nothing that anybody may still need."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import select
from sqlalchemy.engine import URL

from services.hub import outlets, purging, state
from services.hub.controls import Voice, new_policy
from services.hub.limits import Backlog, Limits, backlogs, give_up
from services.hub.queue import Group, Queue, open_queue
from services.hub.returning import greet_applier
from services.hub.storing import greet_capture
from services.kernel.change import GENESIS
from services.kernel.control import Own, Policy, Purge
from services.kernel.errors import ProtocolError, SubakError
from services.kernel.schema import HUB_BATCH, HUB_BATCH_PART, HUB_DELIVERY, HUB_OUTLET
from services.kernel.wire.messages import Hello, Progress, Role
from tests.contract.queues import arrival, chain, codes, count, execute, owed, store

DAY = 86_400.0
NAMES = ("amed", "bedugul", "candi")


@dataclass
class Clock:
    now: int = 1_000_000_000_000

    def __call__(self) -> int:
        self.now += 1
        return self.now


RULES = '[tables.stock]\nrule = "column"\n'


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(hub_url: URL, clock: Clock) -> Iterator[Queue]:
    queue = open_queue(hub_url, clock)
    queue.prepare()
    for name in NAMES:
        queue.write(outlets.add, name, "", "", queue.now)
    yield queue
    queue.close()


@pytest.fixture
def voice() -> Voice:
    return Voice("h1")


def tell(queue: Queue, **told: tuple[int, int]) -> None:
    """What each outlet's capture says: (number, seen), in epoch e1."""
    queue.write(purging.note, {name: Progress("e1", number, seen) for name, (number, seen) in told.items()})


def due(queue: Queue, keep: float = 0.0) -> Purge | None:
    return queue.write(purging.due, keep, queue.now)


def sweep(queue: Queue) -> None:
    while queue.write(purging.sweep):
        pass


def enter(queue: Queue, outlet: str, position: int, stored: int = 1000, source: str = "") -> str:
    hello = Hello(1, Role.APPLIER, outlet, "e1", position, GENESIS, stored=stored, source=source)
    (result,) = queue.commit(Group(calls=[lambda connection: greet_applier(connection, hello, queue.now)])).returned
    return result.code if isinstance(result, SubakError) else ""


def sequences(queue: Queue) -> list[int]:
    return queue.read(
        lambda connection: list(connection.scalars(select(HUB_BATCH.c.Sequence).order_by(HUB_BATCH.c.Sequence)))
    )


def purged(queue: Queue, outlet: str) -> int:
    query = select(HUB_OUTLET.c.PurgedSequence).where(HUB_OUTLET.c.Name == outlet)
    return queue.read(lambda connection: connection.execute(query).scalar_one())


def execute_all(queue: Queue) -> None:
    for name in NAMES:
        execute(queue, name, *(sequence for sequence, _ in owed(queue, name)))


def test_what_all_have_is_purged_once_all_were_told(queue: Queue, voice: Voice) -> None:
    amed, bedugul = chain("amed", 3), chain("bedugul", 1)
    assert store(queue, voice.say(Policy(1, "rules")), amed[0], bedugul[0], amed[1]) == [1, 2, 3, 4]
    tell(queue, amed=(2, 0), bedugul=(1, 0), candi=(0, 0))
    assert due(queue) is None, "nobody has executed anything"
    execute_all(queue)
    tell(queue, amed=(2, 3), bedugul=(1, 4))
    assert due(queue) is None, "who knows what candi changed before it executed all that?"
    tell(queue, candi=(0, 4))
    purge = due(queue)
    assert purge == Purge(4, {"amed": Own("e1", 2), "bedugul": Own("e1", 1)})
    assert store(queue, voice.say(purge), amed[2]) == [5, 6]
    assert due(queue) is None, "one after the other"
    execute(queue, "amed", 5)
    execute(queue, "bedugul", 5)
    sweep(queue)
    assert sequences(queue) == [1, 2, 3, 4, 5, 6], "candi has not forgotten yet, and may be put back"
    execute(queue, "candi", 5)
    sweep(queue)
    assert sequences(queue) == [1, 5, 6], "the rules are kept for those who come later"
    assert count(queue, HUB_BATCH_PART) == 3
    assert count(queue, HUB_DELIVERY) == 8
    assert owed(queue, "bedugul") == owed(queue, "candi") == [(6, 5)]
    tell(queue, amed=(3, 5), bedugul=(1, 5), candi=(0, 5))
    assert due(queue) is None, "a purge is not told for the sake of the one before"


def test_who_was_put_back_before_what_is_purged_is_refused(queue: Queue, voice: Voice) -> None:
    amed = chain("amed", 4)
    store(queue, *amed[:2], *chain("bedugul", 1), amed[2])
    execute_all(queue)
    tell(queue, amed=(2, 3), bedugul=(1, 2), candi=(0, 3))
    purge = due(queue)
    assert purge is not None and purge.sequence == 3
    store(queue, voice.say(purge), amed[3])
    execute_all(queue)
    sweep(queue)
    assert sequences(queue) == [4, 5, 6]
    assert enter(queue, "candi", 3) == "", "what it lacks is still here"
    assert owed(queue, "candi") == [(4, 3), (5, 4), (6, 5)]
    assert enter(queue, "candi", 2) == "resync"
    assert enter(queue, "bedugul", 2) == "resync", "its own batch is gone"
    assert enter(queue, "amed", 0) == "resync"
    assert owed(queue, "candi") == [(4, 3), (5, 4), (6, 5)], "a refused hello leaves nothing behind"
    queue.write(outlets.add, "denpasar", "", "", queue.now)
    assert enter(queue, "denpasar", 2, source="candi") == "resync"
    assert enter(queue, "denpasar", 3, source="candi") == ""
    assert owed(queue, "denpasar") == [(4, 3), (5, 4), (6, 5)]


def test_who_is_put_back_while_it_is_purged_is_served_first(queue: Queue, voice: Voice) -> None:
    store(queue, *chain("amed", 2))
    execute_all(queue)
    tell(queue, amed=(2, 0), bedugul=(0, 2), candi=(0, 2))
    purge = due(queue)
    assert purge is not None and purge.sequence == 2
    store(queue, voice.say(purge))
    execute_all(queue)
    assert enter(queue, "candi", 0) == ""
    sweep(queue)
    assert sequences(queue) == [1, 2, 3]
    execute_all(queue)
    sweep(queue)
    assert sequences(queue) == [3]


def test_an_outlet_that_was_put_back_must_say_anew_what_it_has_seen(queue: Queue) -> None:
    store(queue, *chain("amed", 3))
    execute_all(queue)
    tell(queue, amed=(3, 0), bedugul=(0, 3), candi=(0, 3))
    assert enter(queue, "candi", 1) == ""
    execute_all(queue)
    tell(queue)
    purge = due(queue)
    assert purge is not None and purge.sequence == 1, "what it changed meanwhile may still be on its way"
    tell(queue, candi=(0, 3))
    purge = due(queue)
    assert purge is not None and purge.sequence == 3


def test_what_was_purged_of_an_epoch_is_not_taken_for_new(queue: Queue, voice: Voice) -> None:
    amed = chain("amed", 2)
    store(queue, *amed)
    execute_all(queue)
    tell(queue, amed=(2, 0), bedugul=(0, 2), candi=(0, 2))
    purge = due(queue)
    assert purge is not None
    store(queue, voice.say(purge))
    execute_all(queue)
    sweep(queue)
    assert queue.write(greet_capture, "amed", "e1", 2, amed[1].batch.digest).number == 2
    assert codes(store(queue, amed[0], amed[1])) == ["gap", "gap"]
    assert store(queue, arrival("amed", 3, amed[1].batch.digest)) == [4]
    assert store(queue, *chain("amed", 1, "e2")) == [5]
    queue.write(lambda connection: connection.execute(HUB_BATCH.delete().where(HUB_BATCH.c.Epoch == "e1")))
    with pytest.raises(ProtocolError, match="ended"):
        queue.write(greet_capture, "amed", "e1", 3, GENESIS)


def test_it_is_kept_for_the_time_set(queue: Queue, voice: Voice, clock: Clock) -> None:
    store(queue, *chain("amed", 1))
    clock.now += int(6 * DAY * 1e6)
    store(queue, *chain("amed", 2)[1:])
    execute_all(queue)
    tell(queue, amed=(2, 0), bedugul=(0, 2), candi=(0, 2))
    assert due(queue, 7 * DAY) is None
    clock.now += int(2 * DAY * 1e6)
    purge = due(queue, 7 * DAY)
    assert purge is not None and purge.sequence == 1
    store(queue, voice.say(purge))
    execute_all(queue)
    sweep(queue)
    store(queue, *chain("amed", 3)[2:])
    execute_all(queue)
    tell(queue, amed=(3, 3), bedugul=(0, 4), candi=(0, 4))
    assert due(queue, 60.0) is None, "not so soon again"
    clock.now += int(61 * 1e6)
    purge = due(queue, 60.0)
    assert purge is not None and purge.sequence == 4


def test_who_ignores_everybody_or_is_away_for_too_long_holds_up_nobody(queue: Queue) -> None:
    queue.write(outlets.ignore, "candi", "amed")
    queue.write(outlets.ignore, "candi", "bedugul")
    store(queue, *chain("amed", 2))
    execute(queue, "bedugul", 1, 2)
    tell(queue, amed=(2, 0), bedugul=(0, 2), candi=(0, 0))
    purge = due(queue)
    assert purge is not None and purge.sequence == 2
    store(queue, *chain("amed", 3)[2:])
    purge = due(queue)
    assert purge is not None and purge.sequence == 2, "bedugul has not executed the third"
    limits = Limits(100.0, 1)
    waiting = queue.read(backlogs, queue.now)
    assert set(waiting) == {"bedugul"}
    assert waiting["bedugul"].ratio(limits) == waiting["bedugul"].bytes == len("amed 3")
    assert waiting["bedugul"].ratio(None) == 0
    queue.write(give_up, "bedugul", limits, waiting["bedugul"], queue.now)
    tell(queue)
    purge = due(queue)
    assert purge is not None and purge.sequence == 3
    assert Backlog(absent=50.0).ratio(limits) == 0.5


def test_conflict_rules_are_given_out_when_they_are_new(queue: Queue, voice: Voice) -> None:
    assert queue.write(new_policy, "", queue.now) is None
    assert queue.write(new_policy, "# no rule yet", queue.now) is None
    first = queue.write(new_policy, RULES, queue.now)
    assert first is not None and first.generation > 0
    store(queue, voice.say(first))
    assert queue.write(new_policy, RULES, queue.now) is None
    assert queue.write(new_policy, f"# the same in other words\n{RULES}", queue.now) is None
    second = queue.write(new_policy, "", 5)
    assert second == Policy(first.generation + 1, ""), "also where the clock was put back"


def test_a_new_outlet_is_not_late_with_rules_that_are_older_than_itself(
    queue: Queue, voice: Voice, clock: Clock
) -> None:
    rules = queue.write(new_policy, RULES, queue.now)
    assert rules is not None
    store(queue, voice.say(rules))
    clock.now += int(40 * DAY * 1e6)
    queue.write(outlets.add, "lovina", "", "", queue.now)
    waiting = queue.read(backlogs, queue.now)
    assert waiting["lovina"].seconds < 1
    assert waiting["amed"].seconds > 39 * DAY


def test_a_pause_counts_as_nobodys_absence_and_its_end_gives_everybody_up_as_little(queue: Queue, clock: Clock) -> None:
    def absent() -> float:
        return round(queue.read(backlogs, queue.now)["bedugul"].absent / DAY)

    def pass_days(days: int) -> None:
        clock.now += int(days * DAY * 1e6)

    store(queue, *chain("amed", 1))
    pass_days(20)
    assert absent() == 20
    queue.write(state.set_paused, True, queue.now)
    pass_days(40)
    queue.write(state.set_paused, True, queue.now)  # said twice, it began when it began
    assert absent() == 20
    assert round(queue.read(backlogs, queue.now)["bedugul"].seconds / DAY) == 60, "how old it is, is told as it is"
    store(queue, *chain("candi", 1))
    execute(queue, "bedugul", 1)
    assert absent() == 0, "what came during the pause waits for no fault of its own"
    queue.write(state.set_paused, False, queue.now)
    assert absent() == 0
    pass_days(3)
    queue.write(state.set_paused, False, queue.now)
    assert absent() == 3


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_nothing_that_is_needed_goes(queue: Queue, voice: Voice, seed: int) -> None:
    chance = random.Random(seed)
    ledgers: dict[str, list[int]] = {name: [0] for name in NAMES}
    heads = {name: (0, GENESIS) for name in NAMES}
    for _ in range(150):
        name = chance.choice(NAMES)
        action = chance.choice(["store", "execute", "execute", "tell", "tell", "purge", "sweep", "put back"])
        if action == "store":
            number, digest = heads[name]
            one = arrival(name, number + 1, digest, b"%d" % number)
            store(queue, one)
            heads[name] = number + 1, one.batch.digest
        elif action == "execute":
            for sequence, previous in owed(queue, name)[:3]:
                assert previous == ledgers[name][-1], "no gap"
                execute(queue, name, sequence)
                ledgers[name].append(sequence)
        elif action == "tell":
            queue.write(purging.note, {name: Progress("e1", heads[name][0], ledgers[name][-1])})
        elif action == "purge":
            if (purge := due(queue)) is not None:
                store(queue, voice.say(purge))
        elif action == "sweep":
            queue.write(purging.sweep)
        elif (back := chance.randrange(4)) and len(ledgers[name]) > back:
            gone = purged(queue, name)
            position = ledgers[name][-1 - back]
            assert enter(queue, name, position) == ("resync" if position < gone else "")
            if position >= gone:
                del ledgers[name][-back:]
        for other in NAMES:
            standing = ledgers[other][-1]
            assert all(sequence > standing for sequence, _ in owed(queue, other))
    for _ in range(4):
        for name in NAMES:
            waiting = [sequence for sequence, _ in owed(queue, name)]
            execute(queue, name, *waiting)
            ledgers[name] += waiting
            queue.write(purging.note, {name: Progress("e1", heads[name][0], ledgers[name][-1])})
        if (purge := due(queue)) is not None:
            store(queue, voice.say(purge))
        sweep(queue)
    assert len(sequences(queue)) <= 1, "all is executed everywhere: the last purge is what is left"
