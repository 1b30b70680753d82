"""The hub's durable queue, on every engine: each batch once, one delivery per other outlet, in the order of the commits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

from services.hub import outlets, state
from services.hub.admission import Admission, admit
from services.hub.chain import Head
from services.hub.delivering import Ack, part, pending
from services.hub.forking import Forks
from services.hub.queue import Group, Queue, open_queue
from services.hub.reporting import report
from services.hub.status import status
from services.hub.storing import Arrival, greet_capture, store_part
from services.kernel.change import GENESIS, BatchId, digest
from services.kernel.errors import PermanentError, ProtocolError, SubakError
from services.kernel.schema import HUB_BATCH, HUB_BATCH_PART, HUB_DELIVERY, HUB_QUARANTINED
from services.kernel.wire.messages import Batch, Executed, Hello, QuarantineReport, Report, Role
from tests.conftest import FreshDatabase
from tests.contract.queues import arrival, chain, codes, count, execute, greet, owed, store

OUTLETS = ("amed", "bedugul", "candi")
Open = Callable[[], Queue]


@pytest.fixture
def open_another(fresh_database: FreshDatabase, hub_engine_name: str) -> Iterator[Open]:
    """Opens the same database again, as another process would."""
    url = fresh_database(hub_engine_name, "hub")
    ticks = itertools.count(1_000_000, 1_000_000)
    opened: list[Queue] = []

    def open_it() -> Queue:
        opened.append(open_queue(url, lambda: next(ticks)))
        return opened[-1]

    yield open_it
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(open_another: Open) -> Queue:
    queue = open_another()
    queue.prepare()
    for name in OUTLETS:
        queue.write(outlets.add, name, "Sawah", "Bali", queue.now)
    return queue


def test_prepared_twice_keeps_everything(queue: Queue) -> None:
    hub = queue.read(state.get, state.HUB)
    store(queue, *chain("amed", 2))
    queue.prepare()
    assert queue.read(state.get, state.HUB) == hub
    assert store(queue, *chain("amed", 3))[-1] == 3


def test_a_batch_is_owed_to_every_other_outlet_once(queue: Queue) -> None:
    (first,) = chain("amed", 1)
    assert store(queue, first) == [1]
    assert owed(queue, "amed") == []
    assert owed(queue, "bedugul") == owed(queue, "candi") == [(1, 0)]
    assert store(queue, first) == [1], "sent again, it is stored already"
    assert store(queue, first, first) == [1, 1]
    assert count(queue, HUB_BATCH) == 1
    assert count(queue, HUB_DELIVERY) == 2
    assert queue.read(part, first.id, 0) == first.body
    (delivery,) = queue.read(pending, "candi", 0, 10)
    assert (delivery.origin, delivery.digest, delivery.previous, delivery.bytes) == (
        "amed",
        first.batch.digest,
        GENESIS,
        len(first.body or b""),
    )


def test_a_group_numbers_in_order_and_names_predecessors_per_outlet(queue: Queue) -> None:
    a, b = chain("amed", 2), chain("bedugul", 1)
    assert store(queue, a[0], b[0], a[1]) == [1, 2, 3]
    assert owed(queue, "amed") == [(2, 0)]
    assert owed(queue, "bedugul") == [(1, 0), (3, 1)]
    assert owed(queue, "candi") == [(1, 0), (2, 1), (3, 2)]
    (c,) = chain("candi", 1)
    assert store(queue, c) == [4]
    assert owed(queue, "amed") == [(2, 0), (4, 2)]
    assert owed(queue, "bedugul", after=1) == [(3, 1), (4, 3)]


def test_a_bad_batch_fails_none_of_its_group(queue: Queue) -> None:
    a, b = chain("amed", 3), chain("bedugul", 2)
    outcomes = store(
        queue,
        a[0],
        a[2],  # one is missing
        arrival("bedugul", 1, b"x" * 32),  # not the first of an epoch
        b[0],
        arrival("amed", 1, GENESIS, b"another"),  # another batch of that number
        arrival("amed", 2, b"y" * 32),  # follows something else
        arrival("nobody", 1),
        arrival("amed", 2, GENESIS, b"new epoch", "e2"),  # begins with its second batch
        arrival("bedugul", 0),
        b[1],
        a[1],
    )
    assert codes(outcomes) == [1, "gap", "fork", 2, "fork", "fork", "removed", "gap", "gap", 3, 4]
    assert count(queue, HUB_BATCH) == 4
    assert store(queue, a[2]) == [5]


def test_another_batch_of_an_older_number_is_a_fork(queue: Queue) -> None:
    store(queue, *chain("amed", 3))
    assert codes(store(queue, arrival("amed", 1, GENESIS, b"other"))) == ["fork"]


def test_a_new_epoch_begins_at_one_and_the_old_one_never_comes_back(queue: Queue) -> None:
    old, new = chain("amed", 2, "e1"), chain("amed", 2, "e2")
    assert store(queue, *old, *new) == [1, 2, 3, 4]
    assert codes(store(queue, old[0])) == ["fork"]
    assert codes(store(queue, *chain("amed", 3, "e1")[2:])) == ["gap"]
    with pytest.raises(ProtocolError, match="ended"):
        queue.write(greet_capture, "amed", "e1", 2, old[1].batch.digest)


def test_a_capture_resumes_after_what_is_stored(queue: Queue) -> None:
    cut = chain("amed", 3)
    assert queue.write(greet_capture, "amed", "e1", 3, cut[2].batch.digest) == Head("e1", 0, GENESIS)
    store(queue, *cut[:2])
    assert queue.write(greet_capture, "amed", "e1", 3, cut[2].batch.digest) == Head("e1", 2, cut[1].batch.digest)
    assert queue.write(greet_capture, "amed", "e1", 2, cut[1].batch.digest).number == 2
    assert queue.write(greet_capture, "amed", "e2", 0, GENESIS) == Head("e2", 0, GENESIS)
    for number, own in ((1, cut[0].batch.digest), (2, b"z" * 32), (0, GENESIS)):
        with pytest.raises(ProtocolError) as refused:
            queue.write(greet_capture, "amed", "e1", number, own)
        assert refused.value.code == "fork"


def test_parts_count_once_their_batch_is_stored(queue: Queue) -> None:
    name = BatchId("amed", "e1", 1)
    pieces = [b"one", b"two", b"three"]
    queue.write(store_part, name, 0, b"from an attempt that broke off")
    queue.write(store_part, name, 7, b"as well")
    assert queue.write(greet_capture, "amed", "e1", 1, b"d" * 32).number == 0
    assert count(queue, HUB_BATCH_PART) == 0, "what is left of an unfinished batch is removed"
    for index, piece in enumerate(pieces):
        queue.write(store_part, name, index, b"will be sent again")
        queue.write(store_part, name, index, piece)
    assert owed(queue, "candi") == []
    own = digest(name, GENESIS, b"".join(pieces))
    large = Arrival("amed", Batch("e1", 1, GENESIS, own, 3, 1, 11, 3), None)
    assert store(queue, large) == [1]
    assert [queue.read(part, name, index) for index in range(3)] == pieces
    with pytest.raises(ProtocolError):
        queue.write(store_part, name, 0, b"written over")
    queue.write(greet_capture, "amed", "e1", 1, own)
    assert queue.read(part, name, 0) == b"one"


def test_executed_is_marked_and_reported_once(queue: Queue) -> None:
    store(queue, *chain("amed", 3))
    answer = Executed(
        2, conflicts=3, quarantined=[QuarantineReport(0, "check", "price > 0"), QuarantineReport(0, "c", "")]
    )
    for _ in range(2):
        queue.commit(Group(acks=[Ack("candi", Executed(1)), Ack("candi", answer), Ack("bedugul", Executed(1))]))
    assert owed(queue, "candi") == [(3, 2)]
    assert owed(queue, "bedugul") == [(2, 1), (3, 2)]
    (candi,) = [line for line in queue.read(status, queue.now) if line.name == "candi"]
    assert (candi.waiting, candi.conflicts, candi.quarantined) == (1, 3, 1)
    assert 0 < candi.oldest_waiting_seconds < 100
    queue.write(report, "candi", Report(1, 0))
    (candi,) = [line for line in queue.read(status, queue.now) if line.name == "candi"]
    assert (candi.conflicts, candi.quarantined) == (1, 0)
    execute(queue, "candi", 99)
    execute(queue, "nobody", 1)


def test_the_ledger_decides_what_is_executed(queue: Queue) -> None:
    store(queue, *chain("amed", 4))
    greet(queue, "candi", 3, GENESIS)
    assert owed(queue, "candi") == [(4, 3)], "it had executed more than it could say"
    answer = Executed(4, quarantined=[QuarantineReport(0, "check", "")])
    queue.commit(Group(acks=[Ack("candi", answer)]))
    greet(queue, "candi", 1, GENESIS)
    assert owed(queue, "candi") == [(2, 1), (3, 2), (4, 3)], "its database was put back"
    assert count(queue, HUB_QUARANTINED) == 0, "it will report again"
    queue.commit(Group(acks=[Ack("candi", answer)]))
    greet(queue, "candi", 0, GENESIS)
    assert owed(queue, "candi")[0] == (1, 0)
    for unknown in (5, 2**60):
        with pytest.raises(ProtocolError) as refused:
            greet(queue, "candi", unknown, GENESIS)
        assert refused.value.code == "gap"


def test_a_ledger_that_is_another_hubs_is_refused(queue: Queue) -> None:
    a = chain("amed", 2)
    store(queue, *a, *chain("candi", 1))
    greet(queue, "candi", 2, a[1].batch.digest)
    for position, own in ((2, a[0].batch.digest), (3, GENESIS), (4, GENESIS)):
        with pytest.raises(ProtocolError) as refused:
            greet(queue, "candi", position, own)
        assert refused.value.code == "gap"


def test_a_hub_put_back_to_a_backup_is_filled_again(queue: Queue) -> None:
    """Its database knows two batches; the outlets have seen four. Those it has forgotten come again under new numbers."""
    a, b = chain("amed", 3), chain("bedugul", 2)
    queue.start()
    kept = [outcome for outcome in store(queue, *a[:2]) if isinstance(outcome, int)]
    lost = max(kept) + 5
    queue.start()
    assert queue.write(greet_capture, "amed", "e1", 3, a[2].batch.digest).number == 2
    greet(queue, "candi", lost, b[1].batch.digest)
    assert owed(queue, "candi") == []
    anew = store(queue, *b, a[2])
    assert all(isinstance(outcome, int) and outcome > lost for outcome in anew)
    greet(queue, "candi", lost, b[1].batch.digest)
    assert owed(queue, "candi") == list(zip(anew, [lost, *anew], strict=False))
    greet(queue, "bedugul", kept[0], a[0].batch.digest)
    assert owed(queue, "bedugul") == [(kept[1], kept[0]), (anew[2], kept[1])]


def test_a_new_outlet_is_owed_what_is_stored_from_then_on(queue: Queue) -> None:
    a = chain("amed", 3)
    store(queue, *a[:2])
    queue.write(outlets.add, "denpasar", "", "", queue.now)
    store(queue, a[2])
    assert owed(queue, "denpasar") == [(3, 0)]
    queue.write(outlets.remove, "candi", queue.now)
    store(queue, *chain("bedugul", 1))
    assert owed(queue, "denpasar") == [(3, 0), (4, 3)]
    assert owed(queue, "candi") == []
    with pytest.raises(PermanentError):
        queue.write(outlets.remove, "candi", queue.now)


def test_an_outlet_that_comes_back_goes_on_after_its_ledger(queue: Queue) -> None:
    a = chain("amed", 4)
    store(queue, *a[:2], *chain("candi", 1))
    greet(queue, "candi", 2, GENESIS)
    queue.write(outlets.remove, "candi", queue.now)
    assert codes(store(queue, *chain("candi", 2)[1:])) == ["removed"]
    store(queue, a[2])
    queue.write(outlets.add, "candi", "Sawah", "Bali", queue.now)
    greet(queue, "candi", 2, GENESIS)
    store(queue, a[3])
    assert owed(queue, "candi") == [(5, 2)], "and what was stored in between is not owed"
    greet(queue, "candi", 0, GENESIS)
    assert owed(queue, "candi") == [(5, 0)]
    assert store(queue, *chain("candi", 2)[1:]) == [6], "its own numbers go on"


def test_an_outlet_that_ignores_another_gets_nothing_from_it(queue: Queue) -> None:
    queue.write(outlets.ignore, "candi", "amed")
    queue.write(outlets.ignore, "candi", "amed")
    assert queue.read(outlets.ignored) == [("candi", "amed")]
    store(queue, *chain("amed", 1), *chain("bedugul", 1))
    assert owed(queue, "candi") == [(2, 0)]
    queue.write(outlets.unignore, "candi", "amed")
    store(queue, *chain("amed", 2)[1:])
    assert owed(queue, "candi") == [(2, 0), (3, 2)]
    for pair in (("candi", "candi"), ("candi", "nobody"), ("nobody", "candi")):
        with pytest.raises(PermanentError):
            queue.write(outlets.ignore, *pair)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "amed", "a\n", "ä"])
def test_a_name_that_cannot_be_an_outlets(queue: Queue, name: str) -> None:
    with pytest.raises(PermanentError):
        queue.write(outlets.add, name, "", "", queue.now)


def hello(outlet: str, role: Role = Role.APPLIER, position: int = 0) -> Hello:
    return Hello(1, role, outlet, "e1", position, GENESIS)


def test_who_is_admitted(queue: Queue) -> None:
    def enter(hello: Hello, enrol: bool = False) -> Admission | str:
        (result,) = queue.commit(
            Group(calls=[lambda connection: admit(connection, hello, enrol, Forks(), queue.now)])
        ).returned
        return result.code if isinstance(result, SubakError) else result  # type: ignore[return-value]

    admission = enter(hello("amed"))
    assert isinstance(admission, Admission)
    assert [(outlet.name, outlet.online) for outlet in admission.outlets] == [
        ("amed", True),
        ("bedugul", False),
        ("candi", False),
    ]
    assert enter(hello("denpasar")) == "unknown"
    assert enter(hello("denpasar", position=5), enrol=True) == "gap"
    assert len(queue.read(outlets.known)) == 3, "a refused hello leaves nothing behind"
    assert isinstance(enter(hello("denpasar"), enrol=True), Admission)
    store(queue, *chain("amed", 1))
    assert owed(queue, "denpasar") == [(1, 0)]
    queue.write(outlets.remove, "denpasar", queue.now)
    assert enter(hello("denpasar"), enrol=True) == "removed"
    assert enter(hello("amed", Role.CAPTURE)) == "fork"


def test_a_second_hub_on_the_database_stores_nothing(queue: Queue, open_another: Open) -> None:
    a = chain("amed", 4)
    other = open_another()
    assert store(queue, a[0]) == [1]
    assert store(other, a[1]) == [2]
    with pytest.raises(PermanentError) as refused:
        store(queue, a[2])
    assert refused.value.code == "another_hub"
    assert count(queue, HUB_BATCH) == 2


def test_pausing_is_seen_by_another_process(queue: Queue, open_another: Open) -> None:
    assert not queue.read(state.is_paused)
    open_another().write(state.set_paused, True, 1)
    assert queue.read(state.is_paused)


def test_a_waiting_backlog_is_read_by_index(queue: Queue, hub_engine_name: str) -> None:
    """However much has been executed, finding what waits does not go through it."""
    explain = "EXPLAIN QUERY PLAN " if hub_engine_name == "sqlite" else "EXPLAIN "
    sql = "SELECT Sequence FROM subak_delivery WHERE Outlet = 'candi' AND ExportFlag = 0 AND Sequence > 5 ORDER BY Sequence"
    plan = queue.read(lambda connection: [str(row) for row in connection.execute(text(explain + sql))])
    assert any("DeliveryWaiting" in line for line in plan), plan
