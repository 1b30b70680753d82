"""The query log of an outlet: what was executed here of others' changes, and what left of its own."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Engine, Row, Select, select

from services.applier.quarantine import body
from services.cli.console import instant
from services.cli.querylog.entry import Entry
from services.cli.querylog.statement import statements
from services.kernel.catalogue import Catalogue
from services.kernel.change import Change, Op, Stamp, Transaction, decode_body
from services.kernel.control import Control, Policy, decode_control
from services.kernel.dialects import Dialect
from services.kernel.schema import CLOUD_QUERY, CONFLICT, LEDGER, QUARANTINE
from services.kernel.wire.messages import HUB

LATE_ROWS = 2000
"""`CloudQuery.Id` is not the order of commits: when following, this many ids below the greatest are looked at again."""

Conflicts = dict[tuple[str, str, Stamp], tuple[str, str]]
"""(table, key, incoming stamp) to (winner, rule) of one batch."""


class OutletLog:
    """Remembers how far it has read, so that `following` gives each entry once."""

    def __init__(self, engine: Engine, dialect: Dialect, catalogue: Catalogue, outlet: str) -> None:
        self._engine = engine
        self._dialect = dialect
        self._catalogue = catalogue
        self._outlet = outlet
        self._sequence = 0
        self._seen: set[int] = set()

    def latest(self, limit: int) -> list[Entry]:
        """The newest entries, the newest last."""
        applied: list[Entry] = []
        with self._engine.connect() as connection:
            for row in connection.execute(select(LEDGER).order_by(LEDGER.c.Sequence.desc()).limit(limit)).all():
                self._sequence = max(self._sequence, row.Sequence)
                applied[:0] = self._applied(connection, row)
                if len(applied) >= limit:
                    break
            own = self._own(connection, select(CLOUD_QUERY).order_by(CLOUD_QUERY.c.Id.desc()).limit(limit))
        return sorted(applied + own, key=lambda entry: entry.at)[-limit:]

    def following(self) -> list[Entry]:
        """What came since the last call."""
        applied: list[Entry] = []
        newer = select(LEDGER).where(LEDGER.c.Sequence > self._sequence).order_by(LEDGER.c.Sequence)
        floor = max(self._seen, default=0) - LATE_ROWS
        self._seen = {number for number in self._seen if number > floor}
        with self._engine.connect() as connection:
            for row in connection.execute(newer).all():
                self._sequence = row.Sequence
                applied += self._applied(connection, row)
            own = self._own(connection, select(CLOUD_QUERY).where(CLOUD_QUERY.c.Id > floor))
        return sorted(applied + own, key=lambda entry: entry.at)

    def _applied(self, connection: Connection, row: Row[tuple[object, ...]]) -> Iterator[Entry]:
        if row.Origin == HUB:
            yield Entry(row.AppliedAt, _said(decode_control(body(connection, row.Sequence))), "executed", row.Origin)
            return
        transactions = decode_body(body(connection, row.Sequence))
        conflicts = _conflicts(connection, row.Sequence)
        quarantined = {
            found.Position: found
            for found in connection.execute(select(QUARANTINE).where(QUARANTINE.c.Sequence == row.Sequence))
        }
        for position, transaction in enumerate(transactions):
            held = quarantined.get(position)
            for change, sql in statements(transaction, self._catalogue, self._dialect):
                status = _held(held.State, held.Code) if held else _decided(change, conflicts)
                yield Entry(row.AppliedAt, sql, status, row.Origin)

    def _own(self, connection: Connection, query: Select[tuple[object, ...]]) -> list[Entry]:
        rows = [row for row in connection.execute(query) if row.Id not in self._seen]
        self._seen.update(row.Id for row in rows)
        rows.sort(key=lambda row: int(row.Id))
        transaction = Transaction("", tuple(self._change(row) for row in rows))
        status = {change: _sent(row) for change, row in zip(transaction.changes, rows, strict=True)}
        return [
            Entry(change.stamp.time, sql, status[change], self._outlet)
            for change, sql in statements(transaction, self._catalogue, self._dialect)
        ]

    def _change(self, row: Row[tuple[object, ...]]) -> Change:
        table = self._catalogue.table(row.TableName)
        before, after = (
            None if image is None else self._dialect.wire_image(image, table)
            for image in (row.BeforeImage, row.AfterImage)
        )
        return Change(
            row.TableName,
            Op(row.Operation),
            row.RowKey,
            before,
            after,
            Stamp(row.Stamp, self._outlet),
            Stamp(row.BaseStamp, row.BaseOrigin),
            bool(row.Paired),
        )


def _said(control: Control) -> str:
    """What the hub itself has said."""
    if isinstance(control, Policy):
        return f"-- conflict rules of {instant(control.generation)}"
    return f"-- forget deliveries up to {control.sequence}"


def _conflicts(connection: Connection, sequence: int) -> Conflicts:
    return {
        (row.TableName.casefold(), row.RowKey, Stamp(row.IncomingStamp, row.IncomingOrigin)): (row.Winner, row.Rule)
        for row in connection.execute(select(CONFLICT).where(CONFLICT.c.Sequence == sequence))
    }


def _held(state: str, code: str) -> str:
    return {"waiting": f"quarantined: {code}", "discarded": f"discarded: {code}"}.get(state, "executed on retry")


def _decided(change: Change, conflicts: Conflicts) -> str:
    decision = conflicts.get((change.table.casefold(), change.key, change.stamp))
    return "executed" if decision is None else f"conflict: {decision[0]} won ({decision[1]})"


def _sent(row: Row[tuple[object, ...]]) -> str:
    if row.ExportFlag:
        return "sent"
    return "waiting" if row.BatchNumber is None else "sending"
