"""Whether an announced batch continues what the hub has stored of its origin. Pure: the numbers and digests decide."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.kernel.change import GENESIS
from services.kernel.errors import ProtocolError
from services.kernel.wire.messages import Batch


@dataclass(frozen=True)
class Head:
    """The last batch stored of an outlet: `number` 0 stands for none of this epoch."""

    epoch: str
    number: int
    digest: bytes


NO_HEAD = Head("", 0, GENESIS)


class Verdict(StrEnum):
    NEXT = "next"
    """Not stored yet, and the one that is due."""
    AGAIN = "again"
    """Stored already, if the digest stored under that number is the announced one."""


def judge(head: Head, batch: Batch) -> Verdict:
    """Raises ProtocolError `gap` or `fork`. An epoch other than the head's is taken for a new one."""
    if batch.epoch != head.epoch:
        head = Head(batch.epoch, 0, GENESIS)
    if batch.number < 1 or batch.number > head.number + 1:
        raise ProtocolError(
            "gap",
            f"Batch {batch.number} of epoch {batch.epoch} came where {head.number + 1} was due.",
            "The capture service must connect again and send on from the number it is told.",
        )
    if batch.number == head.number + 1:
        if batch.previous != head.digest:
            raise fork(f"Batch {batch.number} of epoch {batch.epoch} follows a batch that the hub does not have.")
        return Verdict.NEXT
    if batch.number == head.number and batch.digest != head.digest:
        raise fork(f"The hub has another batch {batch.number} of epoch {batch.epoch}.")
    return Verdict.AGAIN


def resume(head: Head, epoch: str, number: int, digest: bytes, forgotten: Head = NO_HEAD) -> Head:
    """What the hub has of `epoch`, when a capture says hello and has cut batches up to `number`, with `digest`, in it.

    `forgotten` is the last one that capture no longer has, since every outlet had executed it: a hub that was put back to a backup
    older than that needs none up to it. Raises ProtocolError `fork`.
    """
    if epoch != head.epoch:
        head = Head(epoch, 0, GENESIS)
    if forgotten.number > head.number:
        return Head(epoch, forgotten.number, forgotten.digest)
    if head.number > number:
        raise fork(f"The hub has {head.number} batches of epoch {epoch}, the outlet's database only {number}.")
    if head.number == number and number > 0 and head.digest != digest:
        raise fork(f"The hub has another batch {number} of epoch {epoch}.")
    return head


def fork(what: str) -> ProtocolError:
    return ProtocolError(
        "fork",
        what,
        "The outlet's database was put back to an older state, or copied: a new epoch must begin there.",
    )
