"""What the applier does within one database transaction: plans, writes, and leaves its traces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from services.applier import quarantine, resolving, superseding
from services.applier.deciding import GENERATED_KEY
from services.applier.judging import Situation
from services.applier.parsing import Parsed, parse
from services.applier.planning import Plan, plan
from services.applier.recording import Incoming, Outcome, note, record
from services.applier.resolving import Resolution
from services.applier.store import Store
from services.applier.view import Overlay
from services.kernel.change import NEVER, Op, Stamp, Transaction
from services.kernel.dialects import Dialect
from services.kernel.errors import PermanentError, SubakError, TransientError
from services.kernel.telemetry import logger
from services.kernel.wire.messages import QuarantineReport

log = logger("applier")


class EndedError(Exception):
    """The source transaction at `position` has ended the database transaction, and all that was done in it (a trigger may do that on SQL
    Server): to be done again from the beginning, with that one put aside for `reason`."""

    def __init__(self, position: int, reason: PermanentError) -> None:
        super().__init__(reason.what)
        self.position = position
        self.reason = reason


@contextmanager
def _faults() -> Iterator[None]:
    """A fault of this program that one transaction brings to light must not stop all others: it goes to quarantine."""
    try:
        yield
    except (SubakError, SQLAlchemyError, MemoryError):
        raise
    except Exception as error:
        log.exception("a fault of this program")
        raise PermanentError(
            "fault", f"Subak failed on this transaction: {type(error).__name__}.", "Report it; then retry."
        ) from error


class Work:
    """One transaction. `patient`: waits for locks. `besides`: the quarantine entry that is being tried again."""

    def __init__(
        self, connection: Connection, dialect: Dialect, situation: Situation, *, patient: bool, besides: int | None
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._situation = situation
        self._store = Store(connection, dialect, situation, patient=patient, besides=besides)
        self._overlay = Overlay(self._store)

    def all_at_once(self, incoming: Sequence[Incoming]) -> dict[int, Outcome]:
        """The outcomes by sequence. Raises PermanentError when anything in it cannot be applied, DBAPIError."""
        for one in incoming:
            if one.unreadable:
                raise one.unreadable
        parsed = [[self._parse(transaction, one.delivery.origin) for transaction in one.wanted] for one in incoming]
        settled = self._prepare([change for batch in parsed for changes in batch for change in changes])
        whole = Plan()
        outcomes: dict[int, Outcome] = {}
        for one, batch in zip(incoming, parsed, strict=True):
            outcome = outcomes[one.delivery.sequence] = Outcome()
            for position, changes in enumerate(batch):
                with _faults():
                    self._refuse_another_life(changes)
                    part, overlay = plan(changes, self._overlay, self._situation)
                _forget(part, settled)
                self._overlay.merge(overlay)
                whole.writes += part.writes
                whole.versions |= part.versions
                record(self._connection, part, one.delivery.sequence, position, self._situation.now)
                outcome.add(part, changes)
        with _faults():
            self._store.execute(whole)
        for one in incoming:
            self._note(one, outcomes[one.delivery.sequence])
        return outcomes

    def one_by_one(self, incoming: Incoming, ended: Mapping[int, PermanentError]) -> Outcome:
        """Each transaction under a savepoint, in source order; what fails goes to quarantine, whole, and so do the positions of `ended`.

        Raises EndedError for another one like those.
        """
        outcome = Outcome()
        delivery = incoming.delivery
        if incoming.unreadable:
            self._put_aside(incoming, 0, incoming.unreadable, outcome)
        for position, transaction in enumerate(incoming.wanted):
            try:
                if position in ended:
                    raise ended[position]
                changes = self._parse(transaction, delivery.origin)
                part = self._under_savepoint(changes, delivery.sequence, position)
                outcome.add(part, changes)
            except PermanentError as error:
                self._put_aside(incoming, position, error, outcome)
        self._note(incoming, outcome)
        return outcome

    def retry(self, transaction: Transaction, sequence: int, origin: str) -> Outcome:
        """A transaction from quarantine. Raises as `all_at_once`."""
        changes = self._parse(transaction, origin)
        self._prepare(changes)
        with _faults():
            self._refuse_another_life(changes)
            part, _ = plan(changes, self._overlay, self._situation, again=True)
            self._store.execute(part)
        record(self._connection, part, sequence, 0, self._situation.now)
        outcome = Outcome()
        outcome.add(part, changes)
        return outcome

    def resolve(self, resolved: Resolution, entry: quarantine.Quarantined) -> Outcome:
        """Raises as `all_at_once`; PermanentError `resolve` when it cannot be done; TransientError `raced`."""
        own = self._parse(Transaction("", tuple(resolved.own)), self._situation.outlet)
        changes = own + self._parse(Transaction("", tuple(resolved.left)), entry.origin)
        with _faults():
            self._store.prepare(changes)
            if any(self._store.version(row) != version for row, version in resolved.seen.items()):
                raise TransientError("raced", "A row that the clash is about was written at the same moment.")
            part, _ = plan(changes, self._overlay, self._situation, again=True)
            resolving.verify(resolved, part)
            _forget(part, {one.change.stamp for one in own})
            self._store.execute(part)
        part.changes[:0] = resolved.own
        record(self._connection, part, entry.sequence, entry.position, self._situation.now)
        outcome = Outcome()
        outcome.add(part, changes)
        return outcome

    def _prepare(self, changes: list[Parsed]) -> set[Stamp]:
        """Locks and reads what the changes are about. The stamps of those that took something off the quarantine list."""
        with _faults():
            settled = superseding.take_off(self._connection, self._dialect, changes)
            self._store.prepare(changes)
        return settled

    def _parse(self, transaction: Transaction, origin: str) -> list[Parsed]:
        with _faults():
            return parse(transaction, self._situation.catalogue, origin)

    def _under_savepoint(self, changes: list[Parsed], sequence: int, position: int) -> Plan:
        savepoint = self._connection.begin_nested()
        try:
            settled = self._prepare(changes)
            with _faults():
                self._refuse_another_life(changes)
                part, overlay = plan(changes, self._overlay, self._situation)
                _forget(part, settled)
                self._store.execute(part)
            savepoint.commit()
        except PermanentError as error:
            self._take_back(savepoint, position, error)
            raise
        except DBAPIError as error:
            ours = self._dialect.classify(error)
            if isinstance(ours, TransientError) and ours.code != "duplicate_key":
                raise
            if isinstance(ours, TransientError):
                refused = PermanentError(
                    ours.code,
                    f"Another row here has that primary key, as this database compares keys. ({ours.what})",
                    "Keys that differ in case, accents or blanks only are one key to some collations: give one of the rows another key,"
                    " or the column a collation that tells them apart; then retry.",
                )
            else:
                refused = PermanentError(ours.code, ours.what, ours.todo)
            self._take_back(savepoint, position, refused)
            raise refused from error
        record(self._connection, part, sequence, position, self._situation.now)
        self._overlay.merge(overlay)
        return part

    def _refuse_another_life(self, changes: list[Parsed]) -> None:
        """Two rows of one outlet under one generated key: its database was put back, and its generator with it.

        That outlet knows its former life by what comes back from the hub; the others by an insert that is later than what its author should
        have found there. Raises PermanentError `generated_key`.
        """
        for one in changes:
            change = one.change
            if not one.table.generated_key or change.op is not Op.INSERT or change.base != NEVER:
                continue
            version = self._overlay.version(one.row) if self._overlay.exists(one.row) else None
            if version is None or version.stamp.origin != change.stamp.origin or version.stamp == change.stamp:
                continue
            if change.stamp > version.stamp or change.stamp.origin in self._situation.origins:
                raise PermanentError(
                    GENERATED_KEY,
                    f"{change.table} {change.key}: {change.stamp.origin}, whose database was put back, has given this key to two rows.",
                    "Give the incoming one another key: `subak quarantine resolve` with --new-key.",
                )

    def _take_back(self, savepoint: NestedTransaction, position: int, reason: PermanentError) -> None:
        try:
            savepoint.rollback()
        except DBAPIError as error:
            if isinstance(self._dialect.classify(error), TransientError):
                raise
            raise EndedError(position, reason) from error

    def _put_aside(self, incoming: Incoming, position: int, error: PermanentError, outcome: Outcome) -> None:
        delivery = incoming.delivery
        outcome.quarantined.append(QuarantineReport(position, error.code, error.what))
        quarantine.put(
            self._connection,
            self._dialect,
            self._situation.catalogue,
            Transaction("", ()) if incoming.unreadable else incoming.transactions[position],
            sequence=delivery.sequence,
            position=position,
            origin=delivery.origin,
            error=error,
            now=self._situation.now,
            left=None if incoming.left is None else incoming.left[position],
        )

    def _note(self, incoming: Incoming, outcome: Outcome) -> None:
        note(self._connection, incoming.delivery, incoming.body, len(outcome.quarantined), self._situation.now)


def _forget(part: Plan, settled: set[Stamp]) -> None:
    """What replaces a quarantined change, by whoever knew both sides, is no conflict."""
    part.conflicts[:] = [conflict for conflict in part.conflicts if conflict.change.stamp not in settled]
