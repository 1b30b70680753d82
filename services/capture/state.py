"""What capture remembers in `subak_state`: whose database this is, its epoch, and the last batch that was cut."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from services.kernel.change import GENESIS
from services.kernel.errors import PermanentError
from services.kernel.schema import STATE

OUTLET = "outlet"
EPOCH = "epoch"
LAST_NUMBER = "last_number"
LAST_DIGEST = "last_digest"


@dataclass(frozen=True)
class Position:
    """The last batch cut in this epoch: number 0 and the digest GENESIS when there is none."""

    epoch: str
    number: int
    digest: bytes


def read(connection: Connection) -> dict[str, str]:
    return {name: value for name, value in connection.execute(select(STATE.c.Name, STATE.c.Value))}


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
    known = read(connection)
    if EPOCH not in known:
        begun = {EPOCH: new_epoch, LAST_NUMBER: "0", LAST_DIGEST: GENESIS.hex()}
        connection.execute(insert(STATE), [{"Name": name, "Value": value} for name, value in begun.items()])
        known |= begun
    return Position(known[EPOCH], int(known[LAST_NUMBER]), bytes.fromhex(known[LAST_DIGEST]))


def lock(connection: Connection) -> None:
    """Until the transaction ends, nobody else cuts a batch, nor takes up new conflict rules."""
    connection.execute(update(STATE).where(STATE.c.Name == LAST_NUMBER).values(Value=STATE.c.Value))


def advance(connection: Connection, position: Position) -> None:
    """Takes `position.number` for a batch: the fence against a second capture.

    Raises PermanentError `another_capture` when the last number is not the one before it.
    """
    taken = connection.execute(
        update(STATE)
        .where(STATE.c.Name == LAST_NUMBER, STATE.c.Value == str(position.number - 1))
        .values(Value=str(position.number))
    )
    if taken.rowcount != 1:
        raise another_capture()
    connection.execute(update(STATE).where(STATE.c.Name == LAST_DIGEST).values(Value=position.digest.hex()))


def another_capture() -> PermanentError:
    return PermanentError(
        "another_capture",
        "Another capture is cutting batches in this database.",
        "Let one capture run for each outlet; stop the other one, then start this one again.",
    )
