"""Images come in pieces of any size, and make whole transactions in the order of the units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.capture.cutting import Waiting, units
from services.capture.polling import LONGEST_PAUSE_SECONDS, SHORTEST_PAUSE_SECONDS, pause
from services.capture.reading import READ_ROWS, transactions
from services.kernel.change import Op, Stamp


def row(row_id: int) -> tuple[Any, ...]:
    return (row_id, "product", "I", f"key {row_id}", None, f"image {row_id}", 1_000 + row_id, 7, "bandung", 0, 1)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_images_in_pieces_make_the_units_in_their_order(owners: list[int], random: Any) -> None:
    found = units(Waiting(row_id, f"t{owner}", owner) for row_id, owner in enumerate(owners, start=1))

    def some(ids: Sequence[int]) -> list[Any]:
        assert list(ids) == sorted(ids)
        return [row(row_id) for row_id in ids[: random.randint(1, len(ids))]]

    reads = list(transactions(found, some, "jakarta", lambda _table, image: image.upper()))
    assert [(read.transaction.label, list(read.ids)) for read in reads] == [
        (unit.label, list(unit.ids)) for unit in found
    ]
    for read in reads:
        assert [change.key for change in read.transaction.changes] == [f"key {row_id}" for row_id in read.ids]


def test_a_row_becomes_a_change() -> None:
    read = next(
        transactions(units([Waiting(5, None, 1)]), lambda ids: [row(5)], "jakarta", lambda _table, image: image.upper())
    )
    (change,) = read.transaction.changes
    assert (change.table, change.op, change.before, change.after) == ("product", Op.INSERT, None, "IMAGE 5")
    assert (change.stamp, change.base, change.paired) == (Stamp(1_005, "jakarta"), Stamp(7, "bandung"), False)


def test_a_changed_key_stays_a_pair_though_sessions_interleave() -> None:
    """An auto-increment gives ids as they are asked for: another session's may come between the two of a pair."""
    first, second = 11, 12
    rows = {
        1: (1, "note", "D", "a", "{}", None, 1, 0, "", 1, first),
        2: (2, "line", "I", "x", None, "{}", 2, 0, "", 0, second),
        3: (3, "note", "D", "c", "{}", None, 3, 0, "", 1, second),
        4: (4, "note", "I", "b", None, "{}", 4, 0, "", 0, first),
        5: (5, "note", "I", "d", None, "{}", 5, 0, "", 0, second),
    }
    found = units(Waiting(row_id, None, rows[row_id][-1]) for row_id in rows)
    (read,) = transactions(found, lambda ids: [rows[row_id] for row_id in ids], "jakarta", lambda _table, image: image)
    assert [change.key for change in read.transaction.changes] == ["x", "a", "b", "c", "d"]
    assert list(read.ids) == [2, 1, 4, 3, 5]


def test_a_large_unit_is_asked_for_in_pieces() -> None:
    asked: list[int] = []

    def images(ids: Sequence[int]) -> list[Any]:
        asked.append(len(ids))
        return [row(row_id) for row_id in ids]

    found = units(Waiting(row_id, "one", 1) for row_id in range(1, 2 * READ_ROWS + 2))
    (read,) = transactions(found, images, "jakarta", lambda _table, image: image)
    assert len(read.transaction.changes) == 2 * READ_ROWS + 1
    assert asked == [READ_ROWS, READ_ROWS, 1]


def test_the_pause_is_short_while_there_is_work_for_the_hub_and_long_otherwise() -> None:
    assert pause(quiet=0.0, poll=0.0, behind=0) == SHORTEST_PAUSE_SECONDS
    assert pause(quiet=12.0, poll=0.001, behind=2) == SHORTEST_PAUSE_SECONDS
    assert pause(quiet=0.0, poll=0.01, behind=0) == 0.1
    assert pause(quiet=0.0, poll=0.0, behind=16) == 0.08
    assert pause(quiet=0.0, poll=0.0, behind=5_000) == LONGEST_PAUSE_SECONDS
    assert pause(quiet=3600.0, poll=0.0, behind=0) == LONGEST_PAUSE_SECONDS
