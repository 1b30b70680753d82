"""What the hub has on record of certificates: until when its own is good, and the one that each outlet has shown last.

Every function works in the caller's transaction and commits nothing. Times are µs since 1970 UTC.
"""

from __future__ import annotations

from hashlib import sha256

from sqlalchemy import Connection, delete, select

from services.hub import state
from services.kernel.schema import HUB_STATE as STATE

OWN = "certificate"
SHOWN = "certificate."
DIGITS = 32
"""Of a name's hash: a name may be as long as the column that it would have to go into behind `SHOWN`."""


def keep_own(connection: Connection, ends: int | None) -> None:
    """None: it has none, TLS is off."""
    state.put(connection, OWN, str(ends or 0))


def own(connection: Connection) -> int | None:
    return int(state.get(connection, OWN) or 0) or None


def keep(connection: Connection, outlet: str, ends: int | None) -> None:
    """None: it has shown none."""
    if ends is None:
        forget(connection, outlet)
    else:
        state.put(connection, _name(outlet), f"{ends} {outlet}")


def forget(connection: Connection, outlet: str) -> None:
    connection.execute(delete(STATE).where(STATE.c.Name == _name(outlet)))


def shown(connection: Connection) -> dict[str, int]:
    """By outlet, until when the certificate is good that it has shown last."""
    rows = connection.execute(select(STATE.c.Value).where(STATE.c.Name.like(f"{SHOWN}%")))
    told = (value.split(" ", 1) for (value,) in rows)
    return {outlet: int(ends) for ends, outlet in told}


def _name(outlet: str) -> str:
    return SHOWN + sha256(outlet.encode()).hexdigest()[:DIGITS]
