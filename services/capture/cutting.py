"""Which waiting rows are one transaction, in which order transactions go, where a batch ends. Pure.

DESIGN.md has the proof.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from services.kernel.change import Transaction

MAX_ROWS = 1_000
"""Changes in a batch, unless one transaction has more: an applier holds the locks of a batch for some 50 ms, and the
commits at outlet, hub and target are shared by enough changes to cost next to nothing."""

MAX_BYTES = 1024 * 1024
"""Characters of images in a batch, unless one transaction has more: one part or so on the wire."""


class Waiting(NamedTuple):
    """A row of `CloudQuery` that is in no batch yet, without its images."""

    id: int
    transaction: str | None
    session: int


class Unit(NamedTuple):
    """Waiting rows that travel together: one source transaction, or a union of several. `ids` ascend."""

    label: str
    ids: Sequence[int]

    @property
    def first(self) -> int:
        return self.ids[0]

    @property
    def last(self) -> int:
        return self.ids[-1]


class Read(NamedTuple):
    """A unit with its images: the transaction, the ids of its changes in their order, and its size in characters."""

    transaction: Transaction
    ids: Sequence[int]
    size: int


def agreed(scan: Callable[[], Iterable[Waiting]]) -> list[Waiting]:
    """What waits, by scans each of which may see half of a transaction that commits while it runs. Rows of whole transactions only.

    Of a transaction that one scan saw in part, the next one, which begins after that commit, sees all. So when two scans one after
    the other agree about the transactions that end by the first scan's last row, all of them are whole; and what one of them
    overwrote, having been committed before, is among them. The others wait for the next call.
    """
    first = list(scan())
    bound = max((row.id for row in first), default=0)
    before = _ending_by(bound, first)
    while before:
        again = _ending_by(bound, scan())
        if again == before:
            break
        before = again
    return before


def _ending_by(bound: int, rows: Iterable[Waiting]) -> list[Waiting]:
    """The rows, by id, of those transactions that have none after `bound`."""
    rows = sorted(rows)
    last = {_group(row): row.id for row in rows}
    return [row for row in rows if last[_group(row)] <= bound]


def _group(row: Waiting) -> str | int:
    return row.session if row.transaction is None else row.transaction


def units(waiting: Iterable[Waiting]) -> list[Unit]:
    """The units of what one snapshot shows newly, in an order that fits every row and foreign-key dependency.

    When each row has a transaction id, a unit is a transaction, and the greatest id decides. When any has none, rows
    are grouped by session, and units with overlapping ranges of ids are joined.
    """
    groups: dict[str | int, array[int]] = {}
    exact = True
    for row in waiting:
        if row.transaction is None:
            exact = False
        key = _group(row)
        ids = groups.get(key)
        if ids is None:
            ids = groups[key] = array("q")
        ids.append(row.id)
    found = [Unit(key if isinstance(key, str) else "", array("q", sorted(ids))) for key, ids in groups.items()]
    return sorted(found, key=lambda unit: unit.last) if exact else _disjoint(found)


def _disjoint(found: list[Unit]) -> list[Unit]:
    """Units whose ranges of ids overlap become one, until no two overlap; in the order of the ranges."""
    overlapping: list[list[Unit]] = []
    reach = -1
    for unit in sorted(found, key=lambda unit: unit.first):
        if unit.first < reach:
            overlapping[-1].append(unit)
        else:
            overlapping.append([unit])
        reach = max(reach, unit.last)
    return [parts[0] if len(parts) == 1 else _joined(parts) for parts in overlapping]


def _joined(parts: list[Unit]) -> Unit:
    return Unit("", array("q", sorted(chain.from_iterable(unit.ids for unit in parts))))


def admitted(found: Sequence[Unit], ahead: frozenset[int]) -> Sequence[Unit]:
    """The units before the first one with a row that is `ahead` (of the time): that one and all after it are held, since any of
    them may depend on it."""
    if not ahead:
        return found
    first = next((place for place, unit in enumerate(found) if not ahead.isdisjoint(unit.ids)), len(found))
    return found[:first]


def batches(
    transactions: Iterable[Read], max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES
) -> Iterator[tuple[Read, ...]]:
    """Whole transactions, in their order, as many to a batch as fit; one that does not fit makes a batch of its own."""
    open_batch: list[Read] = []
    rows = size = 0
    for read in transactions:
        if open_batch and (rows + len(read.ids) > max_rows or size + read.size > max_bytes):
            yield tuple(open_batch)
            open_batch, rows, size = [], 0, 0
        open_batch.append(read)
        rows += len(read.ids)
        size += read.size
        if rows >= max_rows or size >= max_bytes:
            yield tuple(open_batch)
            open_batch, rows, size = [], 0, 0
    if open_batch:
        yield tuple(open_batch)


def consecutive(ids: Sequence[int]) -> bool:
    """Whether every id from first to last is among these (ascending) ids: only then may a range stand for them."""
    return ids[-1] - ids[0] + 1 == len(ids)
