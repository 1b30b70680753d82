"""What the hub has on record of certificates: until when its own is good, and the one that each outlet has shown last.

Every function works in the caller's transaction and commits nothing. Times are µs since 1970 UTC.
"""

from __future__ import annotations

from hashlib import sha256

from sqlalchemy import Connection, delete, select

from services.hub import state
from services.kernel.schema import HUB_STATE as STATE
from services.kernel.wire.messages import Role

OWN = "certificate"
SHOWN = "certificate."
DIGITS = 32
"""Of a name's hash: a name may be as long as the column that it would have to go into behind `SHOWN`."""


def keep_own(connection: Connection, ends: int | None) -> None:
    """None: it has none, TLS is off."""
    state.put(connection, OWN, str(ends or 0))


def own(connection: Connection) -> int | None:
    return int(state.get(connection, OWN) or 0) or None


def keep(connection: Connection, outlet: str, role: Role, ends: int | None) -> None:
    """None: it has shown none. An outlet's two services may run on two machines, each with its own."""
    forget(connection, outlet, role)
    if ends is not None:
        state.put(connection, _name(outlet, role), f"{ends} {outlet}")


def forget(connection: Connection, outlet: str, *roles: Role) -> None:
    """What those roles, or all, of it have shown."""
    names = [_name(outlet), *(_name(outlet, role) for role in roles or Role)]
    connection.execute(delete(STATE).where(STATE.c.Name.in_(names)))


def shown(connection: Connection) -> dict[str, int]:
    """By outlet, until when all certificates are good that it has shown last."""
    rows = connection.execute(select(STATE.c.Value).where(STATE.c.Name.like(f"{SHOWN}%")))
    found: dict[str, int] = {}
    for (value,) in rows:
        ends, outlet = value.split(" ", 1)
        found[outlet] = min(int(ends), found.get(outlet, int(ends)))
    return found


def _name(outlet: str, role: Role | None = None) -> str:
    """Without a role: as it was written before the two were kept apart."""
    return SHOWN + (f"{role.value}." if role else "") + sha256(outlet.encode()).hexdigest()[:DIGITS]
