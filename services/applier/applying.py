"""Applies one batch in one database transaction: rows, versions, conflicts, quarantine and ledger commit together.

First the whole batch at once. If the engine refuses that, it is replayed transaction by transaction, each under a
savepoint, in source order, to find the culprit: it goes to quarantine, whole, and the others stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from services.applier import quarantine
from services.applier.planning import Parsed, Plan, Situation, parse, plan
from services.applier.store import Store
from services.applier.view import Overlay
from services.kernel.catalogue import Catalogue
from services.kernel.change import BatchId, Transaction, decode_body, digest
from services.kernel.dialects import Dialect
from services.kernel.errors import PermanentError, ProtocolError, SubakError, TransientError
from services.kernel.failpoint import reach
from services.kernel.schema import CLOUD_QUERY, CONFLICT, LEDGER, LEDGER_PART
from services.kernel.wire.messages import MAX_PART_BYTES, Delivery, QuarantineReport

PATIENCE = 20
"""Attempts without waiting for any lock; after that locks are waited for (a second each), lest a busy row starve us."""

RACES = 5
"""How often a duplicate primary key is taken for a race with the application; after that it is a clash."""


@dataclass(frozen=True)
class Outcome:
    """What a batch came to at this outlet. `tables`: what was written. `duplicate`: it had been applied before."""

    conflicts: int
    quarantined: list[QuarantineReport]
    tables: frozenset[str]
    changes: int
    duplicate: bool = False


class Applier:
    """Applies batches and retries what is quarantined, over one outlet's database. Blocking; one call at a time.

    `clock` gives microseconds since 1970 UTC. `engine` is one of Purpose.APPLY. `refresh` reads the schema: call it first.
    """

    def __init__(
        self, engine: Engine, dialect: Dialect, outlet: str, patterns: Sequence[str], clock: Callable[[], int]
    ) -> None:
        self._engine = engine
        self._dialect = dialect
        self._outlet = outlet
        self._patterns = patterns
        self._clock = clock
        self.catalogue = Catalogue(())

    def refresh(self) -> None:
        """Reads the schema, again: tables may have been added or changed."""
        with self._transaction() as connection:
            self.catalogue = self._dialect.catalogue(connection, self._patterns)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """One transaction, the session marked. Driver errors come out as ours."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise self._dialect.classify(error) from error

    @property
    def one_writer(self) -> bool:
        """Whether the application cannot write while we do."""
        return self._dialect.one_writer

    def position(self) -> tuple[int, bytes]:
        """The greatest sequence in the ledger and that batch's digest; (0, b"") when there is none."""
        with self._transaction() as connection:
            query = sa.select(LEDGER.c.Sequence, LEDGER.c.Digest).order_by(LEDGER.c.Sequence.desc()).limit(1)
            last = connection.execute(query).first()
        return (last.Sequence, bytes(last.Digest)) if last else (0, b"")

    def totals(self) -> tuple[int, int]:
        """Conflicts ever, and transactions waiting in quarantine."""
        with self._transaction() as connection:
            conflicts = connection.scalar(sa.select(sa.func.count()).select_from(CONFLICT)) or 0
            return conflicts, quarantine.count(connection)

    # A batch

    def apply(self, delivery: Delivery, body: bytes, attempt: int = 1) -> Outcome:
        """One attempt. Raises TransientError (try again, with `attempt` one higher), ProtocolError (`gap`, `digest`)."""
        batch = BatchId(delivery.origin, delivery.epoch, delivery.number)
        if digest(batch, delivery.previous, body) != delivery.digest:
            raise ProtocolError("digest", f"Batch {batch} arrived damaged.", "It is fetched again.")
        transactions = decode_body(body)
        try:
            return self._run(delivery, body, transactions, attempt, singly=False)
        except PermanentError as error:
            if error.code in ("missing_table", "missing_column"):
                self.refresh()
        except TransientError as error:
            if error.code != "duplicate_key" or attempt < RACES:
                raise
        return self._run(delivery, body, transactions, attempt, singly=True)

    def _run(
        self, delivery: Delivery, body: bytes, transactions: Sequence[Transaction], attempt: int, *, singly: bool
    ) -> Outcome:
        with self._transaction() as connection:
            if self._seen(connection, delivery):
                return Outcome(0, [], frozenset(), 0, duplicate=True)
            work = _Work(connection, self._dialect, self.catalogue, self._situation(), delivery, attempt)
            if singly:
                work.one_by_one(transactions)
            else:
                work.all_at_once(transactions)
            work.note(body)
            reach("applier.before_commit")
        reach("applier.after_commit")
        return work.outcome()

    def _situation(self) -> Situation:
        return Situation(self.catalogue, self._outlet, self._clock())

    def _seen(self, connection: Connection, delivery: Delivery) -> bool:
        """Whether the ledger has this batch. Raises ProtocolError `gap` when a delivery is missing before it."""
        named = (
            (LEDGER.c.Origin == delivery.origin)
            & (LEDGER.c.Epoch == delivery.epoch)
            & (LEDGER.c.Number == delivery.number)
        )
        sequence = connection.scalar(sa.select(LEDGER.c.Sequence).where(named))
        if sequence == delivery.sequence:
            return True
        last = connection.scalar(sa.select(sa.func.max(LEDGER.c.Sequence))) or 0
        if last != delivery.previous_sequence:
            raise ProtocolError(
                "gap",
                f"Delivery {delivery.sequence} follows {delivery.previous_sequence}, but the last one here is {last}.",
                "Nothing was applied; the hub delivers again from where this outlet stands.",
            )
        if sequence is None:
            return False
        # The hub has numbered its batches anew: the batch keeps its effects and takes its new place.
        connection.execute(sa.update(LEDGER).where(named).values(Sequence=delivery.sequence))
        connection.execute(
            sa.update(LEDGER_PART).where(LEDGER_PART.c.Sequence == sequence).values(Sequence=delivery.sequence)
        )
        return True

    # Quarantine

    def waiting(self) -> list[quarantine.Quarantined]:
        with self._transaction() as connection:
            return quarantine.waiting(connection)

    def retry(self, identity: int, attempt: int = 1) -> Outcome:
        """Tries a quarantined transaction again. Raises PermanentError with the reason when it still cannot be applied."""
        try:
            with self._transaction() as connection:
                entry = quarantine.find(connection, identity)
                transaction = quarantine.transaction_of(connection, entry)
                delivery = _delivery_of(entry)
                work = _Work(connection, self._dialect, self.catalogue, self._situation(), delivery, attempt, entry.id)
                work.retry(transaction)
                quarantine.settle(connection, identity, quarantine.APPLIED, self._clock())
            return work.outcome()
        except TransientError as error:
            if error.code != "duplicate_key" or attempt < RACES:
                raise
            final: SubakError = error
        except PermanentError as error:
            final = error
        with self._transaction() as connection:
            quarantine.failed_again(connection, identity, final)
        raise PermanentError(final.code, final.what, final.todo)

    def discard(self, identity: int) -> None:
        with self._transaction() as connection:
            quarantine.discard(connection, identity, self._clock())


def _delivery_of(entry: quarantine.Quarantined) -> Delivery:
    return Delivery(entry.sequence, 0, entry.origin, "", 0, b"", b"", 0, 0, 0, 0)


class _Work:
    """What is done within one database transaction."""

    def __init__(
        self,
        connection: Connection,
        dialect: Dialect,
        catalogue: Catalogue,
        situation: Situation,
        delivery: Delivery,
        attempt: int,
        besides: int | None = None,
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._catalogue = catalogue
        self._situation = situation
        self._delivery = delivery
        self._store = Store(connection, dialect, catalogue, patient=attempt > PATIENCE, besides=besides)
        self._overlay = Overlay(self._store)
        self._conflicts = 0
        self._changes = 0
        self._tables: set[str] = set()
        self._reports: list[QuarantineReport] = []

    def all_at_once(self, transactions: Sequence[Transaction]) -> None:
        parsed = [parse(transaction, self._catalogue) for transaction in transactions]
        self._store.prepare([change for changes in parsed for change in changes])
        whole = Plan()
        for position, changes in enumerate(parsed):
            part, overlay = plan(changes, self._overlay, self._situation)
            self._overlay.merge(overlay)
            whole.writes += part.writes
            whole.versions |= part.versions
            self._record(part, position)
        self._store.execute(whole)
        self._changes = sum(len(changes) for changes in parsed)
        self._tables.update(write.table.name for write in whole.writes)

    def one_by_one(self, transactions: Sequence[Transaction]) -> None:
        parsed: list[list[Parsed] | PermanentError] = []
        for transaction in transactions:
            try:
                parsed.append(parse(transaction, self._catalogue))
            except PermanentError as error:
                parsed.append(error)
        self._store.prepare([change for changes in parsed if isinstance(changes, list) for change in changes])
        for position, (transaction, changes) in enumerate(zip(transactions, parsed, strict=True)):
            try:
                if isinstance(changes, PermanentError):
                    raise changes
                self._under_savepoint(changes, position)
            except PermanentError as error:
                self._put_aside(transaction, position, error)

    def retry(self, transaction: Transaction) -> None:
        changes = parse(transaction, self._catalogue)
        self._store.prepare(changes)
        part, _ = plan(changes, self._overlay, self._situation, again=True)
        self._store.execute(part)
        self._record(part, 0)
        self._changes = len(changes)
        self._tables.update(write.table.name for write in part.writes)

    def _under_savepoint(self, changes: list[Parsed], position: int) -> None:
        part, overlay = plan(changes, self._overlay, self._situation)
        savepoint = self._connection.begin_nested()
        try:
            self._store.execute(part)
            savepoint.commit()
        except DBAPIError as error:
            ours = self._dialect.classify(error)
            if isinstance(ours, TransientError) and ours.code != "duplicate_key":
                raise
            savepoint.rollback()
            raise PermanentError(ours.code, ours.what, ours.todo) from error
        self._record(part, position)
        self._overlay.merge(overlay)
        self._changes += len(changes)
        self._tables.update(write.table.name for write in part.writes)

    def _put_aside(self, transaction: Transaction, position: int, error: PermanentError) -> None:
        quarantine.put(
            self._connection,
            self._dialect,
            self._catalogue,
            transaction,
            sequence=self._delivery.sequence,
            position=position,
            origin=self._delivery.origin,
            error=error,
            now=self._situation.now,
        )
        self._reports.append(QuarantineReport(position, error.code, error.what))

    def _record(self, part: Plan, position: int) -> None:
        """The traces of decisions, and the changes that they brought forth here."""
        if part.conflicts:
            self._conflicts += len(part.conflicts)
            self._connection.execute(
                sa.insert(CONFLICT),
                [
                    {
                        "Sequence": self._delivery.sequence,
                        "TableName": conflict.change.table,
                        "RowKey": conflict.row.key,
                        "Rule": conflict.rule,
                        "Winner": conflict.winner,
                        "LocalStamp": conflict.local.time,
                        "LocalOrigin": conflict.local.origin,
                        "LocalImage": conflict.local_image,
                        "IncomingStamp": conflict.change.stamp.time,
                        "IncomingOrigin": conflict.change.stamp.origin,
                        "IncomingImage": conflict.change.after,
                        "DecidedAt": self._situation.now,
                    }
                    for conflict in part.conflicts
                ],
            )
        if part.changes:
            self._connection.execute(
                sa.insert(CLOUD_QUERY),
                [
                    {
                        "TransactionId": f"applier-{self._delivery.sequence}-{position}",
                        "SessionId": 0,
                        "TableName": change.table,
                        "Operation": change.op.value,
                        "RowKey": change.key,
                        "BeforeImage": change.before,
                        "AfterImage": change.after,
                        "Stamp": change.stamp.time,
                        "BaseStamp": change.base.time,
                        "BaseOrigin": change.base.origin,
                    }
                    for change in part.changes
                ],
            )

    def note(self, body: bytes) -> None:
        """The ledger: in the same transaction as what it says was done."""
        delivery = self._delivery
        self._connection.execute(
            sa.insert(LEDGER).values(
                Sequence=delivery.sequence,
                Origin=delivery.origin,
                Epoch=delivery.epoch,
                Number=delivery.number,
                Digest=delivery.digest,
                Changes=delivery.changes,
                Quarantined=len(self._reports),
                AppliedAt=self._situation.now,
            )
        )
        for part, start in enumerate(range(0, len(body), MAX_PART_BYTES)):
            piece = body[start : start + MAX_PART_BYTES]
            self._connection.execute(sa.insert(LEDGER_PART).values(Sequence=delivery.sequence, Part=part, Body=piece))

    def outcome(self) -> Outcome:
        return Outcome(self._conflicts, self._reports, frozenset(self._tables), self._changes)
