"""What must be true at the end, whatever happened. It shares no code with the product."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from sqlalchemy import text

from tests.chaos.company import ON_HAND, STOCK_ROWS, SYNCHRONISED
from tests.chaos.journal import Journal, Operation
from tests.chaos.watching import halves
from tests.stack.audit import audit
from tests.stack.network import Network, Outlet, UnsettledError

IDLE_SECONDS = 3.0
"""In which an idle network must carry nothing: what echoes does so within a poll, half a second at most."""

TOLD_SECONDS = 15.0
"""For a delivery of the hub's own, which it may send whenever it looks after its queue."""

SHOWN = 5


def examine(network: Network, journal: Journal) -> list[str]:
    """Everything that is wrong in a network at rest, in words."""
    committed = journal.committed + [one for one in journal.unknown if _is_there(network.outlets[one.outlet], one)]
    wrong = [*_differences(network), *_deltas(network, committed)]
    for outlet in network.outlets.values():
        wrong += halves(outlet)
        wrong += _operations(outlet, committed)
        wrong += _effects(outlet)
        wrong += _quarantined(outlet)
    return [*wrong, *_still_moving(network)]


def _is_there(outlet: Outlet, operation: Operation) -> bool:
    return outlet.count("SELECT COUNT(*) FROM operation WHERE id = :id", id=operation.id) == 1


def _differences(network: Network) -> Iterator[str]:
    found = audit(network.urls, tables=set(SYNCHRONISED))
    if not found.identical:
        yield str(found)


def _operations(outlet: Outlet, committed: list[Operation]) -> Iterator[str]:
    """Each committed one is here with as many rows as it wrote, and no other is."""
    with outlet.reader.begin() as connection:
        there = {name: count for name, count in connection.execute(text("SELECT id, row_count FROM operation"))}
    wanted = {operation.id: operation.lines for operation in committed}
    lost = sorted(wanted.keys() - there.keys())
    risen = sorted(there.keys() - wanted.keys())
    changed = sorted(name for name in wanted.keys() & there.keys() if wanted[name] != there[name])
    for what, names in (("lost", lost), ("never committed, and here", risen), ("not as written", changed)):
        if names:
            yield f"{outlet.name}: {len(names)} operations {what}: {names[:SHOWN]}"


def _effects(outlet: Outlet) -> Iterator[str]:
    """Every body that was written is another, and so is every effect."""
    with outlet.reader.begin() as connection:
        twice = connection.execute(
            text("SELECT kind, name, body, COUNT(*) FROM effect GROUP BY kind, name, body HAVING COUNT(*) > 1")
        ).all()
        lines = connection.scalar(text("SELECT COUNT(*) FROM operation_line"))
        noted = connection.scalar(text("SELECT COUNT(*) FROM effect WHERE kind = 'operation_line insert'"))
    if twice:
        yield f"{outlet.name}: {len(twice)} took effect more than once: {[tuple(row) for row in twice[:SHOWN]]}"
    if lines != noted:
        yield f"{outlet.name}: {lines} lines, and {noted} insertions of lines"


def _quarantined(outlet: Outlet) -> Iterator[str]:
    with outlet.reader.begin() as connection:
        query = "SELECT Id, Origin, Code, Reason FROM subak_quarantine WHERE State = 'waiting'"
        rows = connection.execute(text(query)).all()
    if rows:
        yield f"{outlet.name}: {len(rows)} transactions in quarantine: {[tuple(row) for row in rows[:SHOWN]]}"


def _deltas(network: Network, committed: list[Operation]) -> Iterator[str]:
    """Each row of stock: what it began with, and every change that any till has committed."""
    wanted = Counter({product: ON_HAND for product in range(1, STOCK_ROWS + 1)})
    for operation in committed:
        for product, amount in operation.deltas:
            wanted[product] += amount
    for outlet in network.outlets.values():
        with outlet.reader.begin() as connection:
            there = {product: count for product, count in connection.execute(text("SELECT id, on_hand FROM stock"))}
        wrong = {
            product: (there.get(product), wanted[product])
            for product in wanted
            if there.get(product) != wanted[product]
        }
        if wrong:
            yield f"{outlet.name}: stock is not the sum of what was sold and bought (is, should be): {wrong}"


def _still_moving(network: Network) -> Iterator[str]:
    before = _marks(network)
    time.sleep(IDLE_SECONDS)
    after = _marks(network)
    for what, mark in after.items():
        if mark > before[what]:
            yield f"an idle network carries rows: {what} went from {before[what]} to {mark}"
    try:
        network.settle(TOLD_SECONDS)  # what everybody may forget may be told just now
    except UnsettledError as error:
        yield f"something waits in a network at rest: {error}"


def _marks(network: Network) -> dict[str, int]:
    marks = {
        f"CloudQuery at {name}": outlet.count("SELECT MAX(Id) FROM CloudQuery")
        for name, outlet in network.outlets.items()
    }
    with network.hub_reader.begin() as connection:
        marks["the hub's sequence"] = int(
            connection.scalar(text("SELECT MAX(Sequence) FROM subak_batch WHERE Origin <> '_hub'")) or 0
        )
    return marks
