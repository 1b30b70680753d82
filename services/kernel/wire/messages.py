"""Every message of the protocol. `PROTOCOL.md` tells who may send which, when, and what is answered."""

from __future__ import annotations

from enum import StrEnum

import msgspec

PROTOCOL_VERSION = 1

MAX_PART_BYTES = 1024 * 1024
"""A batch body travels in parts of at most this: small beside any engine's packet limit (MariaDB's default is 16 MiB), and
small enough that a slow link shows a sign of life every few seconds."""

MAX_FRAME_BYTES = MAX_PART_BYTES + 64 * 1024
"""A part and its envelope. A longer frame is refused before it is read."""

MAX_HELLO_BYTES = 64 * 1024
"""The first frame comes from somebody unknown: it may not make us hold more than this."""

MAX_BATCH_BYTES = 1024 * 1024 * 1024
"""The largest batch body, thus the largest source transaction (about two million rows): an applier holds one in memory."""

WINDOW_BATCHES = 16
"""Batches in flight one way, not yet answered: enough to fill a link of 100 ms at a commit of 5 ms."""

WINDOW_BYTES = 8 * 1024 * 1024
"""A batch is sent while those in flight are smaller than this together, so that memory stays bounded at any backlog."""


class Role(StrEnum):
    CAPTURE = "capture"
    APPLIER = "applier"


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower, forbid_unknown_fields=False):
    """Base of all messages, for typing only. Unknown fields are passed over, so that a newer peer may say more."""


class OutletInfo(msgspec.Struct, frozen=True):
    """One line of the roster."""

    name: str
    company: str
    place: str
    online: bool


class Hello(Message):
    """Outlet to hub, first frame. `position` and `digest`: see PROTOCOL.md, 'Resuming'."""

    protocol: int
    role: Role
    outlet: str
    epoch: str
    position: int
    digest: bytes
    software: str = ""


class Welcome(Message):
    """Hub to outlet: hello accepted. `position` and `digest`: the last batch stored of this outlet's epoch, for a capture."""

    hub: str
    position: int
    digest: bytes
    roster: list[OutletInfo]
    paused: bool = False
    time: int = 0
    """The hub's clock, µs since 1970 UTC."""


class Refused(Message):
    """Hub to outlet: hello not accepted, or the connection ends for a reason the outlet can act on. The hub closes after it."""

    code: str
    what: str
    todo: str = ""


class Batch(Message):
    """Capture to hub: announces a batch; `parts` Part messages follow at once."""

    epoch: str
    number: int
    previous: bytes
    digest: bytes
    changes: int
    transactions: int
    bytes: int
    parts: int


class Part(Message):
    """A piece of the body of the batch or delivery announced last; `index` counts from 0."""

    index: int
    body: bytes


class Stored(Message):
    """Hub to capture: the batch is durable at the hub, and owed to every other outlet."""

    epoch: str
    number: int


class Delivery(Message):
    """Hub to applier: a batch; `parts` Part messages follow at once. `previous_sequence` names the delivery before it (0: none)."""

    sequence: int
    previous_sequence: int
    origin: str
    epoch: str
    number: int
    previous: bytes
    digest: bytes
    changes: int
    transactions: int
    bytes: int
    parts: int


class QuarantineReport(msgspec.Struct, frozen=True):
    """A transaction (by its position in the batch) that an outlet could not apply."""

    position: int
    code: str
    reason: str


class Executed(Message):
    """Applier to hub: the delivery's effects are durable at the outlet, but for what is quarantined."""

    sequence: int
    conflicts: int = 0
    quarantined: list[QuarantineReport] = []


class Report(Message):
    """Applier to hub: what stands at the outlet now. Sent after welcome and whenever a number changes by other means."""

    conflicts: int
    quarantined: int


class Roster(Message):
    """Hub to outlet, whenever an outlet comes, goes, is added or removed, or broadcasting is paused or resumed."""

    outlets: list[OutletInfo]
    paused: bool = False


class Ping(Message):
    """Either side, when it has sent nothing for a heartbeat."""

    time: int


class Pong(Message):
    """The answer to a ping; `time` is the ping's."""

    time: int


class Bye(Message):
    """Either side: an orderly end. Nothing is sent after it."""


AnyMessage = (
    Hello | Welcome | Refused | Batch | Part | Stored | Delivery | Executed | Report | Roster | Ping | Pong | Bye
)
