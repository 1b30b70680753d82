"""Every message of the protocol. `PROTOCOL.md` tells who may send which, when, and what is answered."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from services.kernel.change import GENESIS

PROTOCOL_VERSION = 1

MAX_PART_BYTES = 1024 * 1024
"""A batch body travels in parts of at most this: small beside any engine's packet limit (MariaDB's default is 16 MiB), and
small enough that a slow link shows a sign of life every few seconds."""

MAX_FRAME_BYTES = MAX_PART_BYTES + 64 * 1024
"""A part and its envelope. A longer frame is refused before it is read."""

MAX_HELLO_BYTES = 64 * 1024
"""The first frame comes from somebody unknown: it may not make us hold more than this."""

MAX_BATCH_BYTES = 1024 * 1024 * 1024
"""The largest batch body, thus the largest source transaction (about two million rows): an applier holds one in memory, at about 20 times its bytes."""

WINDOW_BATCHES = 16
"""Batches in flight one way, not yet answered: enough to fill a link of 100 ms at a commit of 5 ms."""

WINDOW_BYTES = 8 * 1024 * 1024
"""A batch is sent while those in flight are smaller than this together, so that memory stays bounded at any backlog."""

OUTLET_NAME = r"\A[A-Za-z0-9_.-]{1,64}\Z"
"""What an outlet may be called: the same text in every database, file name, certificate and URL."""

Name = Annotated[str, msgspec.Meta(pattern=OUTLET_NAME)]
Epoch = Annotated[str, msgspec.Meta(max_length=32)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What a BIGINT column holds."""
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""What an INTEGER column holds."""
Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


HUB = "_hub"
"""The origin of batches that the hub itself makes (`control.py`); no outlet may be called so."""

MAX_CONFLICTS_TOLD = 100
"""Conflicts of one batch that an applier tells the hub with both rows; of the others only the number."""

MAX_IMAGE_TOLD = 2_000
"""Characters of a row that a conflict's report holds: a hundred reports stay far below a frame's limit. The outlet keeps it whole."""


class Role(StrEnum):
    CAPTURE = "capture"
    APPLIER = "applier"


class Message(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower, forbid_unknown_fields=False):
    """Base of all messages, for typing only. Unknown fields are passed over, so that a newer peer may say more.

    What a field may hold is checked when a message is decoded, not when it is made.
    """


class OutletInfo(msgspec.Struct, frozen=True):
    """One line of the roster."""

    name: Name
    company: str
    place: str
    online: bool


class Hello(Message, frozen=True):
    """Outlet to hub, first frame. `position` and `digest`: see PROTOCOL.md, 'Resuming'."""

    protocol: int
    role: Role
    outlet: Name
    epoch: Epoch
    position: Natural
    digest: Digest
    software: str = ""
    instance: str = ""
    """Made up by each process at its start: the same one may replace its own older connection, another one stands by."""
    time: Natural = 0
    """The clock of the outlet's database, µs since 1970 UTC; 0: not told."""
    stored: Natural = 0
    """From an applier: the greatest number of `epoch` that the outlet's capture knows to be stored. See 'An outlet that was put back'."""
    forgotten: Natural = 0
    forgotten_digest: Digest = GENESIS
    """From a capture: the last batch of `epoch` that it no longer has, because every outlet had executed it; 0: it has them all."""
    source: str = ""
    """From an applier: the outlet of which this database is an adopted copy."""
    tables: dict[str, str] = {}
    """From an applier: each synchronised table (folded name) and its fingerprint."""


class Welcome(Message, frozen=True):
    """Hub to outlet: hello accepted. `position` and `digest`: the last batch stored of this outlet's epoch, for a capture."""

    hub: str
    position: Natural
    digest: Digest
    roster: list[OutletInfo]
    paused: bool = False
    time: int = 0
    """The hub's clock, µs since 1970 UTC."""


class Refused(Message, frozen=True):
    """Hub to outlet: hello not accepted, or the connection ends for a reason the outlet can act on. The hub closes after it."""

    code: str
    what: str
    todo: str = ""


class Batch(Message, frozen=True):
    """Capture to hub: announces a batch; `parts` Part messages follow at once."""

    epoch: Epoch
    number: Positive
    previous: Digest
    digest: Digest
    changes: Count
    transactions: Count
    bytes: Natural
    parts: Count


class Part(Message, frozen=True):
    """A piece of the body of the batch or delivery announced last; `index` counts from 0."""

    index: Count
    body: bytes


class Stored(Message, frozen=True):
    """Hub to capture: the batch is durable at the hub, and owed to every other outlet."""

    epoch: Epoch
    number: Positive


class Delivery(Message, frozen=True):
    """Hub to applier: a batch; `parts` Part messages follow at once. `previous_sequence` names the delivery before it (0: none)."""

    sequence: Positive
    previous_sequence: Natural
    origin: Name
    epoch: Epoch
    number: Positive
    previous: Digest
    digest: Digest
    changes: Count
    transactions: Count
    bytes: Natural
    parts: Count


class QuarantineReport(msgspec.Struct, frozen=True):
    """A transaction (by its position in the batch) that an outlet could not apply."""

    position: Count
    code: str
    reason: str


class ConflictReport(msgspec.Struct, frozen=True):
    """Two changes of a row, neither of which knew the other, as `subak_conflict` holds them; images are cut off at MAX_IMAGE_TOLD."""

    table: str
    key: str
    rule: str
    winner: str
    local_stamp: Natural
    local_origin: str
    local_image: str | None
    incoming_stamp: Natural
    incoming_origin: str
    incoming_image: str | None


class Executed(Message, frozen=True):
    """Applier to hub: the delivery's effects are durable at the outlet, but for what is quarantined."""

    sequence: Positive
    conflicts: Count = 0
    quarantined: list[QuarantineReport] = []
    details: list[ConflictReport] = []
    """The first MAX_CONFLICTS_TOLD of the conflicts."""


class Report(Message, frozen=True):
    """Applier to hub: what stands at the outlet now. Sent after welcome and whenever a number changes by other means."""

    conflicts: Count
    quarantined: Count
    misfits: list[str] = []
    """Why the conflict rules do not fit this outlet's tables, one sentence each; such tables are held."""
    tables: dict[str, str] = {}
    """As in hello, when it has changed since; empty: it has not."""


class Progress(Message, frozen=True):
    """Capture to hub: all that was committed at the outlet before its applier had executed delivery `seen` is in the batches of
    `epoch` up to `number`. No answer."""

    epoch: Epoch
    number: Natural
    seen: Natural


class Roster(Message, frozen=True):
    """Hub to outlet, whenever an outlet comes, goes, is added or removed, or broadcasting is paused or resumed."""

    outlets: list[OutletInfo]
    paused: bool = False


class Ping(Message, frozen=True):
    """Either side, when it has sent nothing for a heartbeat."""

    time: int


class Pong(Message, frozen=True):
    """The answer to a ping; `time` is the ping's."""

    time: int


class Bye(Message, frozen=True):
    """Either side: an orderly end. Nothing is sent after it."""


AnyMessage = (
    Hello
    | Welcome
    | Refused
    | Batch
    | Part
    | Stored
    | Delivery
    | Executed
    | Report
    | Progress
    | Roster
    | Ping
    | Pong
    | Bye
)
