"""What capture remembers in `subak_state`: whose database this is, its epoch, and the last batch that was cut."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from services.kernel.change import GENESIS
from services.kernel.errors import PermanentError
from services.kernel.schema import STATE

OUTLET = "outlet"
EPOCH = "epoch"
LAST_NUMBER = "last_number"
LAST_DIGEST = "last_digest"
CATCHING_UP = "catching_up"
"""There while a new epoch has begun and the hub has not said welcome to it yet: nothing is cut meanwhile."""
SOURCE = "source"
"""Of whose database this is an adopted copy, comma-separated; the last one last."""
SOURCE_ENDS = "source_ends"
"""The greatest Id in `CloudQuery` of each of these outlets, in the same order: greater ones are those of the next, or this database's own."""
CLOCK_SKEW = "clock_skew"
"""The hub's clock less the database's when they were compared last, in µs."""

ANOTHER_CAPTURE = "another_capture"


@dataclass(frozen=True)
class Position:
    """The last batch cut in this epoch: number 0 and the digest GENESIS when there is none."""

    epoch: str
    number: int
    digest: bytes


def read(connection: Connection) -> dict[str, str]:
    return {name: value for name, value in connection.execute(select(STATE.c.Name, STATE.c.Value))}


def put(connection: Connection, name: str, value: str) -> None:
    if not connection.execute(update(STATE).where(STATE.c.Name == name).values(Value=value)).rowcount:
        connection.execute(insert(STATE).values(Name=name, Value=value))


def drop(connection: Connection, name: str) -> None:
    connection.execute(delete(STATE).where(STATE.c.Name == name))


def claim(connection: Connection, outlet: str) -> None:
    """Records whose database this is. Raises PermanentError `other_outlet` when it is another's."""
    owner = read(connection).get(OUTLET)
    if owner is None:
        connection.execute(insert(STATE).values(Name=OUTLET, Value=outlet))
    elif owner != outlet:
        raise PermanentError(
            "other_outlet",
            f"This database belongs to outlet {owner}, whose name is in its stamps; SUBAK_OUTLET is {outlet}.",
            f"Set SUBAK_OUTLET={owner}, or point SUBAK_DATABASE_URL at the database of {outlet}.",
        )


def open_position(connection: Connection, new_epoch: str) -> Position:
    """The last batch that was cut; begins epoch `new_epoch` when none has begun. The caller commits."""
    position = position_of(read(connection))
    if position is None:
        position = Position(new_epoch, 0, GENESIS)
        _begin(connection, new_epoch)
    return position


def position_of(known: dict[str, str]) -> Position | None:
    """From what `read` gave; None before the first epoch."""
    if EPOCH not in known:
        return None
    return Position(known[EPOCH], int(known[LAST_NUMBER]), bytes.fromhex(known[LAST_DIGEST]))


def lock(connection: Connection) -> None:
    """Until the transaction ends, nobody else cuts a batch, nor takes up new conflict rules."""
    connection.execute(update(STATE).where(STATE.c.Name == LAST_NUMBER).values(Value=STATE.c.Value))


def begin_epoch(connection: Connection, epoch: str, instead_of: str | None = None) -> None:
    """A new life of this database, in which nothing is cut until the hub has said welcome. The caller commits.

    Does nothing when the epoch that is to end (`instead_of`; None: any) is over already.
    """
    lock(connection)
    if instead_of in (None, read(connection).get(EPOCH)):
        _begin(connection, epoch)
        put(connection, CATCHING_UP, "1")


def _begin(connection: Connection, epoch: str) -> None:
    for name, value in ((LAST_NUMBER, "0"), (LAST_DIGEST, GENESIS.hex()), (EPOCH, epoch)):
        put(connection, name, value)


def advance(connection: Connection, position: Position) -> None:
    """Takes `position.number` for a batch: the fence against a second capture, and against what a restored database forgot.

    Raises PermanentError `another_capture` when the last number is not the one before it, or the epoch is another.
    """
    taken = connection.execute(
        update(STATE)
        .where(STATE.c.Name == LAST_NUMBER, STATE.c.Value == str(position.number - 1))
        .values(Value=str(position.number))
    )
    epoch = connection.scalar(select(STATE.c.Value).where(STATE.c.Name == EPOCH))
    if taken.rowcount != 1 or epoch != position.epoch:
        raise another_capture()
    connection.execute(update(STATE).where(STATE.c.Name == LAST_DIGEST).values(Value=position.digest.hex()))


def another_capture() -> PermanentError:
    return PermanentError(
        ANOTHER_CAPTURE,
        "The last batch in this database is not the one that this capture has cut: another capture was at work here, or the"
        " database was put back to an older state.",
        "Nothing is lost: it is read again, and capture goes on from there.",
    )
