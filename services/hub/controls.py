"""The hub's own batches: conflict rules and purges, stored and owed like any other. See wire/PROTOCOL.md, 'The hub's own batches'.

Every function works in the caller's transaction and commits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from services.hub.storing import Arrival
from services.kernel.change import GENESIS, BatchId, digest
from services.kernel.control import HUB, Control, Policy, decode_control, encode_control
from services.kernel.errors import PermanentError
from services.kernel.policy import parse
from services.kernel.schema import HUB_BATCH as BATCH
from services.kernel.schema import HUB_BATCH_PART as PART
from services.kernel.wire.messages import MAX_PART_BYTES, Batch

CHANGES = 1
"""What a batch of the hub's own is said to hold: none that changes nothing can be announced."""


@dataclass(frozen=True)
class Spoken:
    """One of the hub's own batches, as stored."""

    sequence: int
    control: Control


class Voice:
    """Makes the hub's own batches: their epoch is new with each start, so that no name is ever given twice."""

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch
        self._number = 0
        self._digest = GENESIS

    def say(self, control: Control) -> Arrival:
        """To be stored before the next is made. Raises PermanentError `policy` when it does not go into one part."""
        body = encode_control(control)
        if len(body) > MAX_PART_BYTES:
            raise PermanentError(
                "policy",
                f"The policy file has more than {MAX_PART_BYTES:,} bytes.",
                "Name only tables with rules of their own.",
            )
        number, previous = self._number + 1, self._digest
        own = digest(BatchId(HUB, self._epoch, number), previous, body)
        self._number, self._digest = number, own
        return Arrival(HUB, Batch(self._epoch, number, previous, own, CHANGES, 1, len(body), 1), body)


def spoken(connection: Connection) -> list[Spoken]:
    """All that are there, oldest first: the rules ever given out, and purges that were not purged themselves."""
    query = (
        select(BATCH.c.Sequence, PART.c.Body)
        .join(
            PART,
            (PART.c.Origin == BATCH.c.Origin) & (PART.c.Epoch == BATCH.c.Epoch) & (PART.c.Number == BATCH.c.Number),
        )
        .where(BATCH.c.Origin == HUB)
        .order_by(BATCH.c.Sequence)
    )
    return [Spoken(row.Sequence, decode_control(bytes(row.Body))) for row in connection.execute(query)]


def policies(connection: Connection) -> list[Spoken]:
    """The conflict rules given out, oldest first. They are kept for ever: each new outlet is owed them."""
    return [one for one in spoken(connection) if isinstance(one.control, Policy)]


def new_policy(connection: Connection, text: str, now: int) -> Policy | None:
    """What is to be told to the outlets when the policy file says `text`; None: they know its rules. `now`: µs since 1970 UTC."""
    known = policies(connection)
    last = known[-1].control if known else Policy(0, "")
    assert isinstance(last, Policy)
    return None if parse(last.rules) == parse(text) else Policy(max(now, last.generation + 1), text)
