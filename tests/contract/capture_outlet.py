"""An outlet's database with Subak's triggers, cut by capture's own cutter in this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.engine import URL

from services.capture import storing, triggers
from services.capture.database import Database
from services.capture.polling import Cut, Cutter
from services.capture.triggers import Report
from services.kernel.change import BatchId, Transaction, decode_body, digest
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.schema import BATCH, BATCH_PART, CLOUD_QUERY
from tests.stack.application import application_engine

LIMIT_SECONDS = 20.0


def now() -> int:
    return time.time_ns() // 1000


class Outlet:
    def __init__(self, url: URL, *schema: str, name: str = "jakarta") -> None:
        """`schema`: statements that make the application's tables."""
        self.url = url
        self.name = name
        self.dialect = dialect_for(url)
        self.application: Engine = application_engine(url)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self.execute(*schema)
        self.stop = asyncio.Event()
        self.database = Database(self.dialect, url, self.stop, lambda wrong: None)

    def close(self) -> None:
        self.database.close()
        self.application.dispose()

    def execute(self, *statements: str) -> None:
        """One transaction of the application's."""
        with self.application.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def install(self, *patterns: str) -> Report:
        return triggers.install(self.database.writing, self.dialect, patterns or ("*",), self.name)

    def check(self) -> Report:
        return triggers.check(self.database.reading, self.dialect, ("*",), self.name)

    def has_triggers(self) -> bool:
        """All of them: they are created one by one."""
        found = self.check()
        return not found.changed and bool(found.unchanged)

    def cutter(self, done: Callable[[Cut], None] = lambda cut: None) -> Cutter:
        cutter = Cutter(self.database, self.name, "0123456789abcdef", now, done, lambda: False)
        cutter.open()
        return cutter

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.database.snapshot() as connection:
            yield connection

    def batches(self) -> list[tuple[Transaction, ...]]:
        """What has been cut, decoded; each digest is checked against its body and predecessor."""
        found = []
        with self.reading() as connection:
            for row in connection.execute(select(BATCH).order_by(BATCH.c.Number)).all():
                parts = connection.scalars(
                    select(BATCH_PART.c.Body).where(BATCH_PART.c.Number == row.Number).order_by(BATCH_PART.c.Part)
                )
                body = b"".join(parts)
                assert len(body) == row.Bytes
                assert digest(BatchId(self.name, row.Epoch, row.Number), row.Previous, body) == row.Digest
                transactions = decode_body(body)
                assert (len(transactions), sum(len(one.changes) for one in transactions)) == (
                    row.Transactions,
                    row.Changes,
                )
                found.append(transactions)
        return found

    def row_keys(self) -> list[list[list[str]]]:
        """The row keys: by batch, by transaction."""
        return [[[change.key for change in one.changes] for one in batch] for batch in self.batches()]

    def waiting(self) -> int:
        with self.reading() as connection:
            rows = connection.execute(
                select(CLOUD_QUERY.c.Id).where(CLOUD_QUERY.c.ExportFlag == 0, CLOUD_QUERY.c.BatchNumber.is_(None))
            )
            return len(rows.all())

    def flags(self) -> dict[tuple[int | None, int], int]:
        """Rows by (BatchNumber, ExportFlag)."""
        counts: dict[tuple[int | None, int], int] = {}
        with self.reading() as connection:
            for number, flag in connection.execute(select(CLOUD_QUERY.c.BatchNumber, CLOUD_QUERY.c.ExportFlag)):
                counts[(number, flag)] = counts.get((number, flag), 0) + 1
        return counts

    def mark_stored(self, epoch: str, *numbers: int) -> None:
        with self.database.transaction() as connection:
            storing.mark_stored(connection, epoch, numbers, now())

    def engine(self, purpose: Purpose) -> Engine:
        return self.dialect.engine(self.url, purpose)


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(holds: Callable[[], bool], what: str, limit: float = LIMIT_SECONDS) -> None:
    """Waits for a state, and fails when it does not come."""
    deadline = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < deadline, f"waited {limit} s for: {what}"
        time.sleep(0.01)
