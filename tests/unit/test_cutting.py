"""Grouping, ordering and cutting, against thousands of histories of sessions that lock, write and commit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.capture.cutting import Read, Unit, Waiting, admitted, agreed, batches, consecutive, units
from services.kernel.change import Transaction


@dataclass
class Database:
    """What capture relies on: ids grow, locks are held to the commit, a snapshot shows whole transactions."""

    exact: bool
    next_id: int = 1
    transactions: int = 0
    open: dict[int, int] = field(default_factory=dict)
    """session -> its open transaction"""
    written: dict[int, list[int]] = field(default_factory=dict)
    """transaction -> its ids"""
    locks: dict[int, int] = field(default_factory=dict)
    """resource (a row, a unique value, a parent) -> the open transaction that holds it"""
    last_writer: dict[int, int] = field(default_factory=dict)
    depends: set[tuple[int, int]] = field(default_factory=set)
    """(a, b): b depends on a"""
    session_of: dict[int, int] = field(default_factory=dict)
    visible: list[int] = field(default_factory=list)
    """transactions, in the order of their commits"""

    def write(self, session: int, resource: int) -> None:
        transaction = self.open.get(session)
        if transaction is None:
            self.transactions += 1
            transaction = self.open[session] = self.transactions
            self.session_of[transaction] = session
            self.written[transaction] = []
        if self.locks.get(resource, transaction) != transaction:
            return  # it waits; the history goes on with somebody else
        self.locks[resource] = transaction
        earlier = self.last_writer.get(resource)
        if earlier is not None and earlier != transaction:
            self.depends.add((earlier, transaction))
        self.last_writer[resource] = transaction
        self.written[transaction].append(self.next_id)
        self.next_id += 1

    def commit(self, session: int) -> None:
        transaction = self.open.pop(session, None)
        if transaction is not None:
            self.visible.append(transaction)
            self._unlock(transaction)

    def roll_back(self, session: int) -> None:
        transaction = self.open.pop(session, None)
        if transaction is not None:
            del self.written[transaction]
            self._unlock(transaction)
            self.depends = {pair for pair in self.depends if transaction not in pair}
            self.last_writer = {key: value for key, value in self.last_writer.items() if value != transaction}

    def _unlock(self, transaction: int) -> None:
        self.locks = {resource: holder for resource, holder in self.locks.items() if holder != transaction}

    def waiting(self, cut: set[int]) -> list[Waiting]:
        rows = [
            Waiting(row_id, f"t{transaction}" if self.exact else None, self.session_of[transaction])
            for transaction in self.visible
            for row_id in self.written[transaction]
            if row_id not in cut
        ]
        return sorted(rows)


SESSION, RESOURCE = st.integers(0, 2), st.integers(0, 2)
STEP = st.one_of(
    st.tuples(st.just("write"), SESSION, RESOURCE),
    st.tuples(st.just("write_and_commit"), SESSION, RESOURCE),
    st.tuples(st.just("write_and_commit"), SESSION, RESOURCE),
    st.tuples(st.just("commit"), SESSION, st.just(0)),
    st.tuples(st.sampled_from(["poll", "roll_back"]), SESSION, st.just(0)),  # poll: units cut before capture is killed
)
"""Few sessions and resources, and few polls: so that most histories have dependencies within one slice."""


@settings(max_examples=3000, deadline=None)
@given(exact=st.booleans(), steps=st.lists(STEP, max_size=60))
def test_order_fits_every_dependency_and_no_transaction_is_torn(exact: bool, steps: list[tuple[str, int, int]]) -> None:
    database = Database(exact)
    cut: set[int] = set()
    order: list[Unit] = []

    def poll(limit: int | None) -> None:
        for unit in units(database.waiting(cut))[:limit]:
            order.append(unit)
            cut.update(unit.ids)

    for kind, number, resource in steps:
        if kind.startswith("write"):
            database.write(number, resource)
            if kind == "write_and_commit":
                database.commit(number)
        elif kind == "commit":
            database.commit(number)
        elif kind == "roll_back":
            database.roll_back(number)
        else:
            poll(number or None)
    for session in list(database.open):
        database.commit(session)
    poll(None)

    place = {row_id: position for position, unit in enumerate(order) for row_id in unit.ids}
    assert sum(len(unit.ids) for unit in order) == len(place), "a row was cut twice"
    assert set(place) == {row_id for transaction in database.visible for row_id in database.written[transaction]}
    where: dict[int, int] = {}
    for transaction in database.visible:
        places = {place[row_id] for row_id in database.written[transaction]}
        assert len(places) <= 1, "a transaction was torn"
        if places:
            where[transaction] = places.pop()
    for earlier, later in database.depends:
        assert where[earlier] <= where[later], "a dependent transaction came first"
        if exact:
            assert where[earlier] < where[later]
    for unit in order:
        assert list(unit.ids) == sorted(unit.ids)


@settings(max_examples=3000, deadline=None)
@given(
    exact=st.booleans(),
    steps=st.lists(STEP, max_size=60),
    fast=st.sets(st.integers(1, 40), max_size=6),
    right_at=st.integers(0, 60),
)
def test_nothing_that_is_held_is_overtaken_by_what_depends_on_it(
    exact: bool, steps: list[tuple[str, int, int]], fast: set[int], right_at: int
) -> None:
    """`fast`: the rows that a clock ahead has stamped, until step `right_at`, when that time has come."""
    database = Database(exact)
    cut: set[int] = set()
    place: dict[int, int] = {}

    def poll(ahead: frozenset[int]) -> None:
        found = units(database.waiting(cut))
        ready = admitted(found, ahead)
        assert all(ahead.isdisjoint(unit.ids) for unit in ready)
        assert ready == found[: len(ready)] and (
            len(ready) == len(found) or not ahead.isdisjoint(found[len(ready)].ids)
        )
        for unit in ready:
            place.update(dict.fromkeys(unit.ids, len(place)))
            cut.update(unit.ids)

    for step, (kind, number, resource) in enumerate(steps):
        if kind.startswith("write"):
            database.write(number, resource)
            if kind == "write_and_commit":
                database.commit(number)
        elif kind == "commit":
            database.commit(number)
        elif kind == "roll_back":
            database.roll_back(number)
        else:
            poll(frozenset(fast) if step < right_at else frozenset())
    for session in list(database.open):
        database.commit(session)
    poll(frozenset())

    assert set(place) == {row_id for transaction in database.visible for row_id in database.written[transaction]}
    for earlier, later in database.depends:
        rows = database.written[earlier], database.written[later]
        first, second = ({place[row_id] for row_id in ids} for ids in rows)
        assert len(first) == len(second) == 1, "a transaction was torn"
        assert first <= second or max(first) < min(second), "a held transaction was overtaken"


def test_a_slice_that_would_be_a_cycle_is_one_unit() -> None:
    rows = [Waiting(1, None, 1), Waiting(2, None, 2), Waiting(3, None, 1)]
    assert [list(unit.ids) for unit in units(rows)] == [[1, 2, 3]]


def test_a_slice_of_sessions_that_do_not_overlap_stays_apart() -> None:
    rows = [Waiting(1, None, 1), Waiting(2, None, 1), Waiting(3, None, 2), Waiting(4, None, 3)]
    assert [list(unit.ids) for unit in units(rows)] == [[1, 2], [3], [4]]


def test_exact_transactions_stay_apart_however_interleaved() -> None:
    rows = [Waiting(1, "a", 1), Waiting(2, "b", 2), Waiting(3, "a", 1), Waiting(4, "c", 1)]
    assert [(unit.label, list(unit.ids)) for unit in units(rows)] == [("b", [2]), ("a", [1, 3]), ("c", [4])]


def test_one_row_without_a_transaction_id_makes_the_whole_a_slice() -> None:
    rows = [Waiting(1, "a", 1), Waiting(2, None, 2), Waiting(3, "a", 1), Waiting(4, "c", 1)]
    assert [list(unit.ids) for unit in units(rows)] == [[1, 2, 3], [4]]


def read(rows: int, size: int) -> Read:
    return Read(Transaction("", ()), range(rows), size)


@settings(max_examples=1000)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 300)), max_size=40))
def test_batches_hold_whole_transactions_in_order_and_as_many_as_fit(shapes: list[tuple[int, int]]) -> None:
    transactions = [read(rows, size) for rows, size in shapes]
    cut = list(batches(iter(transactions), max_rows=20, max_bytes=200))
    assert [id(one) for batch in cut for one in batch] == [id(one) for one in transactions]
    for batch, following in zip(cut, [*cut[1:], None], strict=False):
        rows, size = sum(len(one.ids) for one in batch), sum(one.size for one in batch)
        assert len(batch) == 1 or (rows <= 20 and size <= 200)
        if following is not None:
            assert rows + len(following[0].ids) > 20 or size + following[0].size > 200 or rows >= 20 or size >= 200


def test_a_batch_is_given_out_before_more_is_read() -> None:
    taken: list[int] = []

    def source() -> object:
        for number in range(3):
            taken.append(number)
            yield read(20, 0)

    first = next(batches(source(), max_rows=20))  # type: ignore[arg-type]
    assert len(first) == 1 and taken == [0]


@pytest.mark.parametrize(("ids", "answer"), [([5], True), ([5, 6, 7], True), ([5, 7], False), ([1, 2, 4], False)])
def test_a_range_stands_only_for_ids_that_were_all_read(ids: list[int], answer: bool) -> None:
    assert consecutive(ids) is answer


class _Locked:
    """A table under READ COMMITTED with locks, read with READPAST: a scan visits the rows by id while others write and commit, and
    passes by what is not committed when it comes there."""

    def __init__(self, events: list[tuple[str, int]], pace: list[int]) -> None:
        """`events`: what transactions do, in time: ("write" or "commit", transaction). `pace`: how many happen between two rows."""
        self._events = iter(events)
        self._pace = itertools.cycle(pace)
        self.rows: list[int] = []
        self.committed: list[int] = []
        self.before_row: list[frozenset[int]] = []
        """By row: who had committed when it was written."""

    def scan(self) -> Iterator[Waiting]:
        position = 0
        while True:
            for kind, transaction in itertools.islice(self._events, next(self._pace)):
                if kind == "write":
                    self.rows.append(transaction)
                    self.before_row.append(frozenset(self.committed))
                elif transaction not in self.committed:
                    self.committed.append(transaction)
            if position == len(self.rows):
                return
            if self.rows[position] in self.committed:
                yield Waiting(position + 1, str(self.rows[position]), 0)
            position += 1


@settings(max_examples=3_000, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["write", "write", "commit"]), st.integers(0, 6)), max_size=40),
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
)
def test_scans_that_agree_have_whole_transactions_and_what_they_overwrote(
    wishes: list[tuple[str, int]], pace: list[int]
) -> None:
    events: list[tuple[str, int]] = []
    for kind, transaction in wishes:
        if ("commit", transaction) not in events:
            events.append((kind, transaction))
    table = _Locked(events, pace)
    found = agreed(table.scan)
    taken = {int(row.transaction or 0) for row in found}
    assert [row.id for row in found] == [n for n, one in enumerate(table.rows, start=1) if one in taken]
    assert taken <= set(table.committed)
    for row in found:
        assert table.before_row[row.id - 1] & set(table.rows) <= taken
