"""A source transaction is visible whole or not at all: a reader at a target never sees money on its way."""

from __future__ import annotations

import random
import threading
import time
from decimal import Decimal

import pytest
from sqlalchemy import text

from tests.conftest import MakeNetwork
from tests.stack.audit import audit
from tests.stack.network import Outlet
from tests.stack.schemas import ACCOUNTS

ACCOUNT_COUNT = 50_000
BALANCE = 100
SIZES = (2, 10, 300, 4_000, 50_000)
"""Rows that one transaction changes; the largest is every account."""

TRANSFERS = 9
SETTLE_SECONDS = 300.0


class Reader(threading.Thread):
    """Reads the sum of all accounts again and again, each time in one snapshot, and keeps every sum that is off."""

    def __init__(self, outlet: Outlet, total: int) -> None:
        super().__init__(daemon=True)
        self.reads = 0
        self.off: list[object] = []
        self.error: BaseException | None = None
        self.stopping = threading.Event()
        self._outlet = outlet
        self._total = total

    def run(self) -> None:
        query = text("SELECT SUM(balance), COUNT(*) FROM account")
        try:
            while not self.stopping.wait(0.01):
                with self._outlet.reader.begin() as connection:
                    # Two statements: both must come from the same state.
                    first = connection.execute(query).one()
                    second = connection.execute(query).one()
                self.reads += 1
                if Decimal(str(first[0])) != self._total or tuple(first) != tuple(second):
                    self.off.append((first, second))
        except BaseException as error:
            self.error = error


def _transfer(outlet: Outlet, draw: random.Random, size: int) -> None:
    """`size` accounts in a row, half of them give what the other half gets; now and then statement by statement."""
    start = draw.randint(1, ACCOUNT_COUNT - size + 1)
    amount = draw.randint(1, 5)
    values = {"start": start, "end": start + size - 1, "amount": amount}
    with outlet.application.begin() as connection:
        if size <= 300:
            for sign, remainder in (("-", 0), ("+", 1)):
                connection.execute(
                    text(
                        f"UPDATE account SET balance = balance {sign} :amount"
                        f" WHERE id BETWEEN :start AND :end AND (id - :start) % 2 = {remainder}"
                    ),
                    values,
                )
                time.sleep(0.02)
        else:
            connection.execute(
                text(
                    "UPDATE account SET balance = balance +"
                    " CASE WHEN (id - :start) % 2 = 0 THEN -:amount ELSE :amount END"
                    " WHERE id BETWEEN :start AND :end"
                ),
                values,
            )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("source", "target"), [("sqlite", "mariadb"), ("mariadb", "mariadb"), ("mysql", "mariadb"), ("mssql", "mssql")]
)
def test_a_reader_never_sees_a_sum_that_is_off(make_network: MakeNetwork, source: str, target: str) -> None:
    step = 1000
    rows = [
        "INSERT INTO account (id, owner, balance) VALUES "
        + ", ".join(f"({n}, 'owner {n}', {BALANCE})" for n in range(first, first + step))
        for first in range(1, ACCOUNT_COUNT + 1, step)
    ]
    network = make_network({"ubud": source, "kuta": target, "lovina": "sqlite"}, ACCOUNTS, rows)
    readers = [Reader(network.outlets[name], ACCOUNT_COUNT * BALANCE) for name in ("kuta", "lovina")]
    for reader in readers:
        reader.start()
    draw = random.Random(11)
    sizes = [*SIZES, *(draw.choice(SIZES[:-1]) for _ in range(TRANSFERS - len(SIZES)))]
    draw.shuffle(sizes)
    for size in sizes:
        _transfer(network.outlets["ubud"], draw, size)
    network.settle(SETTLE_SECONDS)
    for reader in readers:
        reader.stopping.set()
        reader.join()
    assert [reader.error for reader in readers if reader.error] == []
    assert [reader.off[:3] for reader in readers if reader.off] == []
    assert all(reader.reads > 20 for reader in readers)
    found = audit(network.urls)
    assert found.identical, str(found)
    assert network.outlets["kuta"].count("SELECT COUNT(*) FROM subak_quarantine") == 0
