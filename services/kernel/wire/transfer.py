"""A batch or delivery under way: the parts that are owed, and the answers. Pure."""

from __future__ import annotations

from collections import deque

from services.kernel.errors import ProtocolError
from services.kernel.wire.messages import MAX_BATCH_BYTES, MAX_PART_BYTES, Batch, Delivery, Executed, Part, Stored

Announcement = Batch | Delivery
Answer = Stored | Executed


def check_announcement(announced: Announcement) -> None:
    """Raises ProtocolError `limit` when it is too large, `message` when its figures do not add up."""
    if announced.bytes > MAX_BATCH_BYTES:
        raise ProtocolError(
            "limit",
            f"A batch of {announced.bytes} bytes was announced; {MAX_BATCH_BYTES} are allowed.",
            "Split the source transaction into smaller ones.",
        )
    if not 0 < announced.parts <= announced.bytes <= announced.parts * MAX_PART_BYTES:
        raise ProtocolError("message", f"{announced.bytes} bytes do not fit {announced.parts} parts.")
    if not 0 < announced.transactions <= announced.changes:
        raise ProtocolError(
            "message", f"{announced.changes} changes do not make {announced.transactions} transactions."
        )


class Transfer:
    """The parts owed of one announcement: in order, none empty, together exactly as many bytes as announced."""

    def __init__(self, announced: Announcement) -> None:
        self.announced = announced
        self._index = 0
        self._left = announced.bytes

    @property
    def complete(self) -> bool:
        return self._index == self.announced.parts

    def check(self, part: Part) -> None:
        size = len(part.body)
        if part.index != self._index or self.complete:
            raise ProtocolError("state", f"Part {part.index} came where part {self._index} was due.")
        if size > MAX_PART_BYTES:
            raise ProtocolError("limit", f"A part of {size} bytes came; {MAX_PART_BYTES} are allowed.")
        after = self.announced.parts - self._index - 1
        if size == 0 or not after <= self._left - size <= after * MAX_PART_BYTES:
            raise ProtocolError(
                "message", f"Part {part.index} does not fit the {self.announced.bytes} bytes announced."
            )

    def count(self, part: Part) -> None:
        self._index += 1
        self._left -= len(part.body)


class Unanswered:
    """What was announced and sent whole, and not answered yet: answers come in the order of the announcements."""

    def __init__(self) -> None:
        self._names: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._names)

    def sent(self, announced: Announcement) -> None:
        self._names.append(_name(announced))

    def check(self, answer: Answer) -> None:
        """Raises ProtocolError `state` when it answers anything but the oldest."""
        due = self._names[0] if self._names else "nothing"
        if _name(answer) != due:
            raise ProtocolError("state", f"An answer for {_name(answer)} came where {due} was due.")

    def answered(self) -> None:
        if self._names:
            self._names.popleft()


def _name(message: Announcement | Answer) -> str:
    if isinstance(message, Batch | Stored):
        return f"batch {message.number} of epoch {message.epoch}"
    return f"delivery {message.sequence}"
