"""What the outlet's database says of itself: for hello, and to notice that it was put back while the applier runs."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError

from services.kernel.dialects import Dialect
from services.kernel.schema import BATCH, LEDGER, STATE


@dataclass(frozen=True)
class Standing:
    """`stored`: the greatest number of `epoch` that capture knows to be stored. `source`: of which outlet this database is an adopted
    copy. `time`: its clock, in µs since 1970 UTC."""

    epoch: str
    stored: int
    source: str
    sequence: int
    time: int


def read(engine: Engine, dialect: Dialect) -> Standing:
    """Raises TransientError or PermanentError."""
    try:
        with engine.connect() as connection:
            return _read(connection, dialect)
    except DBAPIError as error:
        raise dialect.classify(error) from error


def _read(connection: Connection, dialect: Dialect) -> Standing:
    known = {name: value for name, value in connection.execute(select(STATE.c.Name, STATE.c.Value))}
    epoch = known.get("epoch", "")
    stored = select(func.max(BATCH.c.Number)).where(BATCH.c.Epoch == epoch, BATCH.c.StoredAt.is_not(None))
    return Standing(
        epoch,
        connection.scalar(stored) or 0,
        known.get("source", "").rpartition(",")[2],
        connection.scalar(select(func.max(LEDGER.c.Sequence))) or 0,
        dialect.now(connection),
    )
