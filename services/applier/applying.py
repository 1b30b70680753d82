"""Applies batches: a batch's rows, versions, conflicts, quarantine and ledger are one database transaction.

First the whole batch at once, or several that came together. If the engine refuses that, a batch is replayed transaction
by transaction to find the culprit: it goes to quarantine, whole, and the others stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from services.applier import containing, control, quarantine, rules
from services.applier.clashes import Clash, Looking
from services.applier.judging import Situation
from services.applier.lives import Lives
from services.applier.purging import Purging, conflicts_forgotten
from services.applier.recording import DUPLICATE, Incoming, Outcome, note
from services.applier.resolving import Choice, resolution
from services.applier.work import EndedError, Work
from services.kernel.catalogue import Catalogue
from services.kernel.change import BatchId, Transaction, decode_body, digest
from services.kernel.control import Policy, Purge
from services.kernel.dialects import Dialect
from services.kernel.errors import PermanentError, ProtocolError, SubakError, TransientError
from services.kernel.failpoint import reach
from services.kernel.policy import Policies, misfits
from services.kernel.schema import CONFLICT, LEDGER, LEDGER_PART, QUARANTINE
from services.kernel.wire.messages import HUB, Delivery

PATIENCE = 20
"""Attempts without waiting for any lock; after that locks are waited for (a second each), lest a busy row starve us."""

RACES = 5
"""How often a duplicate primary key is taken for a race with the application; after that it is a clash."""


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
        self.policies = Policies()
        self.misfits: dict[str, str] = {}
        """Folded names of the tables that the conflict rules do not fit, and why."""
        self._lives = Lives(outlet)

    def refresh(self) -> None:
        """Reads the schema, again: tables may have been added or changed; and the conflict rules."""
        with self._transaction() as connection:
            self.catalogue = self._dialect.catalogue(connection, self._patterns)
            self.policies = rules.read(connection)
            self._lives = control.lives(connection, self._outlet)
        self.misfits = misfits(self.policies.rules, self.catalogue)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """One transaction, the session marked. Driver errors come out as ours."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise self._dialect.classify(error) from error

    @property
    def now(self) -> int:
        """µs since 1970 UTC."""
        return self._clock()

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
            return conflicts + conflicts_forgotten(connection), quarantine.count(connection)

    # A batch

    def apply(self, delivery: Delivery, body: bytes, attempt: int = 1) -> Outcome:
        """One attempt. Raises TransientError (try again, with `attempt` one higher), ProtocolError (`gap`, `digest`), and PermanentError for
        what the hub itself says, and this program does not understand."""
        if delivery.origin == HUB:
            return self._take_up(delivery, body)
        incoming = _incoming(delivery, body)
        try:
            return self._all_at_once([incoming], attempt)[0]
        except PermanentError as error:
            if error.code in ("missing_table", "missing_column"):
                self.refresh()
        except TransientError as error:
            if error.code != "duplicate_key" or attempt < RACES:
                raise
        ended: dict[int, PermanentError] = {}
        while True:
            try:
                return self._one_by_one(incoming, attempt, ended)
            except EndedError as error:
                ended[error.position] = error.reason

    def _one_by_one(self, incoming: Incoming, attempt: int, ended: Mapping[int, PermanentError]) -> Outcome:
        with self._transaction() as connection:
            if self._seen(connection, incoming.delivery, incoming.body, _last(connection)):
                return DUPLICATE
            outcome = self._work(connection, attempt).one_by_one(self._missing_here(connection, incoming), ended)
            reach("applier.before_commit")
        reach("applier.after_commit")
        return outcome

    def apply_together(self, deliveries: Sequence[tuple[Delivery, bytes]], attempt: int = 1) -> list[Outcome]:
        """Several deliveries in one transaction: all of them, or none. Raises as `apply` does, and PermanentError when
        something in them needs looking into: then they are to be applied one after the other."""
        try:
            return self._all_at_once([_incoming(delivery, body) for delivery, body in deliveries], attempt)
        except TransientError as error:
            if error.code != "duplicate_key" or attempt < RACES:
                raise
            raise PermanentError(error.code, error.what, error.todo) from error

    def _all_at_once(self, incoming: Sequence[Incoming], attempt: int) -> list[Outcome]:
        with self._transaction() as connection:
            last = _last(connection)
            new = []
            for one in incoming:
                if not self._seen(connection, one.delivery, one.body, last):
                    new.append(self._missing_here(connection, one))
                last = one.delivery.sequence
            outcomes = self._work(connection, attempt).all_at_once(new) if new else {}
            reach("applier.before_commit")
        reach("applier.after_commit")
        return [outcomes.get(one.delivery.sequence, DUPLICATE) for one in incoming]

    def _missing_here(self, connection: Connection, incoming: Incoming) -> Incoming:
        """What came back of this database's own, without what it has."""
        if incoming.unreadable or incoming.delivery.origin not in self._situation().origins:
            return incoming
        return replace(incoming, left=containing.without_what_is_here(connection, incoming.transactions, self._lives))

    def _situation(self) -> Situation:
        return Situation(self.catalogue, self._outlet, self._clock(), self.policies, self.misfits, self._lives)

    def _work(self, connection: Connection, attempt: int, besides: int | None = None) -> Work:
        return Work(connection, self._dialect, self._situation(), patient=attempt > PATIENCE, besides=besides)

    # What the hub says

    def _take_up(self, delivery: Delivery, body: bytes) -> Outcome:
        said = control.control_of(delivery, body)
        if isinstance(said, Purge):
            for _ in self.forgetting(delivery, body):
                pass
        with self._transaction() as connection:
            seen = self._seen(connection, delivery, body, _last(connection))
            if not seen:
                if isinstance(said, Policy):
                    rules.take_up(connection, said, self._clock())
                note(connection, delivery, body, 0, self._clock())
            reach("applier.before_commit")
        reach("applier.after_commit")
        if isinstance(said, Policy):
            self.refresh()  # also when it is seen: the attempt that took it up may have failed right behind its commit
        return DUPLICATE if seen else Outcome()

    def forgetting(self, delivery: Delivery, body: bytes) -> Iterator[None]:
        """What is to be done before a purge is noted in the ledger, in small transactions. Raises as `apply`; to be begun again then."""
        said = control.control_of(delivery, body)
        with self._transaction() as connection:
            seen = self._seen(connection, delivery, body, _last(connection))
        if isinstance(said, Purge) and not seen:
            yield from Purging(self._transaction, self._dialect, self._situation(), said).steps()

    def _seen(self, connection: Connection, delivery: Delivery, body: bytes, last: int) -> bool:
        """Whether this batch has had its effects here: the ledger has it, or it was cut here. Raises ProtocolError `gap` when a delivery is missing before it."""
        named = (
            (LEDGER.c.Origin == delivery.origin)
            & (LEDGER.c.Epoch == delivery.epoch)
            & (LEDGER.c.Number == delivery.number)
        )
        sequence = connection.scalar(sa.select(LEDGER.c.Sequence).where(named))
        if sequence == delivery.sequence:
            return True
        if last != delivery.previous_sequence:
            raise ProtocolError(
                "gap",
                f"Delivery {delivery.sequence} follows {delivery.previous_sequence}, but the last one here is {last}.",
                "Nothing was applied; the hub delivers again from where this outlet stands.",
            )
        if sequence is None:
            return self._forgotten(connection, delivery, body) or self._own(connection, delivery, body)
        # The hub has numbered its batches anew: the batch keeps its effects and takes its new place.
        connection.execute(sa.update(LEDGER).where(named).values(Sequence=delivery.sequence))
        for table in (LEDGER_PART, CONFLICT, QUARANTINE):
            connection.execute(sa.update(table).where(table.c.Sequence == sequence).values(Sequence=delivery.sequence))
        return True

    def _forgotten(self, connection: Connection, delivery: Delivery, body: bytes) -> bool:
        """Whether the ledger has had this batch, and was purged of it: an outlet's batches come in the order of their numbers."""
        later = sa.select(LEDGER.c.Sequence).where(
            LEDGER.c.Origin == delivery.origin, LEDGER.c.Epoch == delivery.epoch, LEDGER.c.Number > delivery.number
        )
        if delivery.origin == HUB or connection.scalar(later.limit(1)) is None:
            return False
        note(connection, delivery, body, 0, self._clock())
        return True

    def _own(self, connection: Connection, delivery: Delivery, body: bytes) -> bool:
        """Whether it is a batch that was cut in this very database. Then the hub has it, whatever capture has heard."""
        if delivery.origin not in self._situation().origins or not containing.is_here(connection, delivery):
            return False
        now = self._clock()
        containing.is_stored(connection, delivery, now)
        containing.without_what_is_here(connection, decode_body(body), self._lives)
        note(connection, delivery, body, 0, now)
        return True

    # Quarantine

    def waiting(self) -> list[quarantine.Quarantined]:
        with self._transaction() as connection:
            return quarantine.waiting(connection)

    def retry(self, identity: int, attempt: int = 1) -> Outcome:
        """Tries a quarantined transaction again. Raises PermanentError with the reason when it still cannot be applied."""
        try:
            with self._transaction() as connection:
                quarantine.hold(connection, [identity])
                entry = quarantine.find(connection, identity)
                transaction = self._of(connection, entry)
                outcome = self._work(connection, attempt, entry.id).retry(transaction, entry.sequence, entry.origin)
                quarantine.settle(connection, identity, quarantine.APPLIED, self._clock())
            return outcome
        except TransientError as error:
            if error.code != "duplicate_key" or attempt < RACES:
                raise
            final: SubakError = error
        except PermanentError as error:
            final = error
        with self._transaction() as connection:
            quarantine.failed_again(
                connection, self._dialect, self.catalogue, quarantine.find(connection, identity), final
            )
        raise PermanentError(final.code, final.what, final.todo)

    def clashes(self, identity: int) -> list[Clash]:
        """What stands in the way of a quarantined transaction: nothing but for `unique` and `generated_key`."""
        with self._transaction() as connection:
            entry = quarantine.find(connection, identity)
            return Looking(connection, self._dialect, self._situation()).clashes(entry)

    def resolve(self, identity: int, choice: Choice, attempt: int = 1) -> Outcome:
        """Ends a clash for all outlets. Raises PermanentError when it cannot be done that way, and nothing was."""
        try:
            with self._transaction() as connection:
                quarantine.hold(connection, [identity])
                entry = quarantine.find(connection, identity)
                situation = self._situation()
                looking = Looking(connection, self._dialect, situation)
                quarantine.hold(connection, [one.id for one in looking.together(entry)])
                resolved = resolution(looking, situation, entry, choice)
                first = min(one.id for one in resolved.entries)
                outcome = self._work(connection, attempt, first).resolve(resolved, entry)
                for one in resolved.entries:
                    quarantine.settle(connection, one.id, quarantine.APPLIED, situation.now)
            return outcome
        except TransientError as error:
            if error.code != "duplicate_key" or attempt < RACES:
                raise
            raise PermanentError(error.code, error.what, error.todo) from error

    def _of(self, connection: Connection, entry: quarantine.Quarantined) -> Transaction:
        transaction = quarantine.transaction_of(connection, entry)
        if entry.origin not in self._situation().origins:
            return transaction
        return containing.without_what_is_here(connection, [transaction], self._lives)[0]

    def discard(self, identity: int) -> None:
        with self._transaction() as connection:
            quarantine.hold(connection, [identity])
            quarantine.discard(connection, identity, self._clock())


def _incoming(delivery: Delivery, body: bytes) -> Incoming:
    batch = BatchId(delivery.origin, delivery.epoch, delivery.number)
    if digest(batch, delivery.previous, body) != delivery.digest:
        raise ProtocolError("digest", f"Batch {batch} arrived damaged.", "It is fetched again.")
    try:
        return Incoming(delivery, body, decode_body(body))
    except msgspec.DecodeError as error:
        what = f"Batch {delivery.number} of {delivery.origin} cannot be read: {error}."
        todo = "Run the same version of Subak there and here; then retry."
        return Incoming(delivery, body, (), unreadable=PermanentError("unreadable", what, todo))


def _last(connection: Connection) -> int:
    """The greatest sequence in the ledger, 0 when there is none."""
    return connection.scalar(sa.select(sa.func.max(LEDGER.c.Sequence))) or 0
