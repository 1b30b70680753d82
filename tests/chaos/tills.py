"""The applications: several tills per outlet, each with its own seed, that write whatever happens around them."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from tests.chaos.company import CUSTOMER_COLUMNS, CUSTOMERS, HOT_ROWS, STOCK_ROWS, pairs_of
from tests.chaos.gate import Gate
from tests.chaos.journal import Journal, Operation
from tests.stack.network import Outlet

KEY_RANGE = 1_000_000
"""Each till's new keys and bodies are numbered from its own number times this."""

LONGEST_PAUSE = 0.25
AWAY_SECONDS = 0.3
"""Before the next try when the database has failed."""

ROLLED_BACK = 0.06
LARGE = 0.02
LARGE_LINES = 400
"""Lines of a large transaction, at most."""


class Till(threading.Thread):
    """Writes until `stopping` is set. `error`: a fault of the test's own."""

    def __init__(
        self, outlet: Outlet, gate: Gate, outlets: Sequence[str], number: int, seed: int, journal: Journal
    ) -> None:
        super().__init__(daemon=True, name=f"till-{number}-{outlet.name}")
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        self._outlet = outlet
        self._gate = gate
        self._number = number
        self._pairs = pairs_of(outlet.name, outlets)
        self._random = random.Random(f"{seed}-till-{number}")
        self._journal = journal
        self._count = number * KEY_RANGE
        self._after: list[Callable[[], None]] = []
        """What is known once the transaction is committed."""

    def run(self) -> None:
        try:
            while not self.stopping.wait(self._random.uniform(0.0, LONGEST_PAUSE)):
                with self._gate.open():
                    self._operate()
        except BaseException as error:
            self.error = error

    def _value(self) -> int:
        self._count += 1
        return self._count

    def _operate(self) -> None:
        draw = self._random
        lines = draw.randrange(LARGE_LINES) if draw.random() < LARGE else draw.randrange(5)
        steps = [draw.choices(list(_STEPS), list(_STEPS.values()))[0] for _ in range(draw.randint(1, 4))]
        sold = [(draw.randint(1, STOCK_ROWS), draw.choice([-7, -3, -2, -1, 1, 5])) for step in steps if step == "stock"]
        operation = Operation(f"{self._outlet.name}-{self._value()}", self._outlet.name, lines, tuple(sold))
        taken_back = draw.random() < ROLLED_BACK
        self._after.clear()
        try:
            with self._outlet.application.connect() as connection:
                transaction = connection.begin()
                self._write(connection, operation, steps)
                if taken_back:
                    transaction.rollback()
                else:
                    transaction.commit()
        except IntegrityError:  # such as the key of a note that another till has put back
            self._journal.undone.append(operation)
        except DBAPIError:
            self._journal.unknown.append(operation)
            self.stopping.wait(AWAY_SECONDS)
        else:
            (self._journal.undone if taken_back else self._journal.committed).append(operation)
            if not taken_back:
                for tell in self._after:
                    tell()

    def _write(self, connection: Connection, operation: Operation, steps: Sequence[str]) -> None:
        head = "INSERT INTO operation (id, outlet, row_count) VALUES (:id, :outlet, :lines)"
        connection.execute(text(head), {"id": operation.id, "outlet": operation.outlet, "lines": operation.lines})
        sold = iter(operation.deltas)
        early = self._random.randint(0, operation.lines)
        self._lines(connection, operation, range(early))
        for step in steps:
            if step == "stock":
                product, amount = next(sold)
                change = "UPDATE stock SET on_hand = on_hand + :amount WHERE id = :id"
                connection.execute(text(change), {"amount": amount, "id": product})
            else:
                getattr(self, f"_do_{step}")(connection)
        self._lines(connection, operation, range(early, operation.lines))

    def _lines(self, connection: Connection, operation: Operation, numbers: range) -> None:
        if numbers:
            line = "INSERT INTO operation_line (operation_id, n, body) VALUES (:operation, :n, :body)"
            values = [{"operation": operation.id, "n": n, "body": f"{operation.id}-{n}"} for n in numbers]
            connection.execute(text(line), values)

    def _do_transfer(self, connection: Connection) -> None:
        first, second = self._random.choice(self._pairs)
        amount = self._random.randint(-50, 50)
        for account, change in ((first, -amount), (second, amount)):
            move = "UPDATE account SET balance = balance + :change WHERE id = :id"
            connection.execute(text(move), {"change": change, "id": account})

    def _do_hot(self, connection: Connection) -> None:
        values = {"id": self._random.randint(1, HOT_ROWS), "body": self._body()}
        connection.execute(text("UPDATE hot SET body = :body WHERE id = :id"), values)

    def _do_customer(self, connection: Connection) -> None:
        column = self._random.choice(CUSTOMER_COLUMNS)
        values = {"id": self._random.randint(1, CUSTOMERS), "value": self._body()}
        connection.execute(text(f"UPDATE customer SET {column} = :value WHERE id = :id"), values)

    def _do_insert(self, connection: Connection) -> None:
        self._insert_note(connection, self._value())

    def _do_again(self, connection: Connection) -> None:
        """A key that somebody has deleted, here or elsewhere, comes back."""
        if gone := self._journal.gone:
            self._insert_note(connection, self._random.choice(gone))

    def _insert_note(self, connection: Connection, key: int) -> None:
        connection.execute(text("INSERT INTO note (id, body) VALUES (:id, :body)"), {"id": key, "body": self._body()})
        self._after.append(lambda: self._journal.note_written(key))

    def _do_update(self, connection: Connection) -> None:
        if keys := self._journal.keys:
            values = {"id": self._random.choice(keys), "body": self._body()}
            connection.execute(text("UPDATE note SET body = :body WHERE id = :id"), values)

    def _do_delete(self, connection: Connection) -> None:
        if keys := self._journal.keys:
            key = self._random.choice(keys)
            connection.execute(text("DELETE FROM note WHERE id = :id"), {"id": key})
            self._after.append(lambda: self._journal.note_gone(key))

    def _do_rekey(self, connection: Connection) -> None:
        if keys := self._journal.keys:
            values = {"id": self._random.choice(keys), "new": self._value(), "body": self._body()}
            connection.execute(text("UPDATE note SET id = :new, body = :body WHERE id = :id"), values)
            self._after.append(lambda: self._journal.note_written(values["new"]))

    def _body(self) -> str:
        return f"{self._outlet.name} {self._value()}"


_STEPS = {
    "transfer": 20,
    "stock": 20,
    "hot": 15,
    "customer": 10,
    "insert": 15,
    "update": 10,
    "delete": 7,
    "rekey": 5,
    "again": 5,
}
"""What a till does (`_do_` and the name; `stock` is done where the operation is written), and how often."""
