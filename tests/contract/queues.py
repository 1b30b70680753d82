"""What tests do to a hub's queue, and what they ask it."""

from __future__ import annotations

from sqlalchemy import func, select

from services.hub.delivering import Ack, pending
from services.hub.queue import Group, Queue
from services.hub.returning import greet_applier
from services.hub.storing import Arrival, Outcome
from services.kernel.change import GENESIS, BatchId, digest
from services.kernel.wire.messages import Batch, Executed, Hello, Role


def arrival(origin: str, number: int, previous: bytes = GENESIS, body: bytes = b"rows", epoch: str = "e1") -> Arrival:
    own = digest(BatchId(origin, epoch, number), previous, body)
    return Arrival(origin, Batch(epoch, number, previous, own, 1, 1, len(body), 1), body)


def chain(origin: str, count: int, epoch: str = "e1") -> list[Arrival]:
    result: list[Arrival] = []
    for number in range(1, count + 1):
        previous = result[-1].batch.digest if result else GENESIS
        result.append(arrival(origin, number, previous, f"{origin} {number}".encode(), epoch))
    return result


def store(queue: Queue, *arrivals: Arrival) -> list[Outcome]:
    return queue.commit(Group(arrivals=list(arrivals))).stored


def execute(queue: Queue, outlet: str, *sequences: int) -> None:
    queue.commit(Group(acks=[Ack(outlet, Executed(sequence)) for sequence in sequences]))


def greet(queue: Queue, outlet: str, position: int, own: bytes = GENESIS) -> None:
    """Its applier says hello; it knows all its own batches to be stored."""
    hello = Hello(1, Role.APPLIER, outlet, "e1", position, own, stored=1000)
    queue.write(greet_applier, hello, queue.now)


def owed(queue: Queue, outlet: str, after: int = 0) -> list[tuple[int, int]]:
    """(sequence, previous sequence) of what waits."""
    waiting = queue.read(pending, outlet, after, 1000)
    return [(delivery.sequence, delivery.previous_sequence) for delivery in waiting]


def codes(outcomes: list[Outcome]) -> list[int | str]:
    return [outcome if isinstance(outcome, int) else outcome.code for outcome in outcomes]


def count(queue: Queue, table: object) -> int:
    return queue.read(lambda connection: int(connection.scalar(select(func.count()).select_from(table)) or 0))  # type: ignore[arg-type]
