"""What the hub itself says to all outlets, and of which outlets this database is a copy."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from services.applier.lives import Lives
from services.kernel.change import BatchId, digest
from services.kernel.control import Control, decode_control
from services.kernel.errors import PermanentError, ProtocolError
from services.kernel.schema import STATE
from services.kernel.wire.messages import Delivery

SOURCE = "source"
"""The row of `subak_state` with the outlets of which this database is an adopted copy, separated by commas."""

SOURCE_ENDS = "source_ends"
"""The row with the greatest Id in `CloudQuery` of each of them, likewise."""


def control_of(delivery: Delivery, body: bytes) -> Control:
    """Raises ProtocolError `digest`; PermanentError `unreadable`: nothing that follows may be applied without it."""
    batch = BatchId(delivery.origin, delivery.epoch, delivery.number)
    if digest(batch, delivery.previous, body) != delivery.digest:
        raise ProtocolError("digest", f"Batch {batch} arrived damaged.", "It is fetched again.")
    try:
        return decode_control(body)
    except msgspec.DecodeError as error:
        raise PermanentError(
            "unreadable",
            f"The hub says something that this program does not know: {error}.",
            "Run the hub's version of Subak here; nothing is applied until then.",
        ) from error


def lives(connection: Connection, outlet: str) -> Lives:
    """Of which outlets this database, which is `outlet`'s, is an adopted copy."""
    known = {name: value for name, value in connection.execute(sa.select(STATE.c.Name, STATE.c.Value))}
    sources, ends = ([one for one in known.get(name, "").split(",") if one] for name in (SOURCE, SOURCE_ENDS))
    return Lives(outlet, tuple(sources), tuple(int(end) for end in ends))
