"""What the hub's database says of the hub itself: its id, paused or not, when the process was last seen; which number is whose.

Every function works in the caller's transaction and commits nothing.
"""

from __future__ import annotations

from sqlalchemy import Connection, insert, select, update

from services.kernel.schema import HUB_COUNTER as COUNTER
from services.kernel.schema import HUB_STATE as STATE

HUB = "hub"
PAUSED = "paused"
PAUSED_AT = "paused_at"
RESUMED_AT = "resumed_at"
"""µs since 1970 of the last `pause` and of the last `resume`."""

SEEN = "seen"
"""µs since 1970 of the running process's last sign of life; 0: it stopped in an orderly way."""

NUMBER = "number:"
"""With the number of an outlet behind it: its name."""


def get(connection: Connection, name: str) -> str | None:
    return connection.scalar(select(STATE.c.Value).where(STATE.c.Name == name))


def put(connection: Connection, name: str, value: str) -> None:
    if connection.execute(update(STATE).where(STATE.c.Name == name).values(Value=value)).rowcount == 0:
        connection.execute(insert(STATE).values(Name=name, Value=value))


def numbered(connection: Connection) -> dict[str, int]:
    """The outlets that have a number, by name; the removed ones too."""
    rows = connection.execute(select(STATE).where(STATE.c.Name.startswith(NUMBER, autoescape=True)))
    return {row.Value: int(row.Name.removeprefix(NUMBER)) for row in rows}


def ensure(connection: Connection, hub: str) -> None:
    """The rows that a new database lacks. `hub` is the id it gets if it has none."""
    for name, value in ((HUB, hub), (PAUSED, "0"), (SEEN, "0")):
        if get(connection, name) is None:
            put(connection, name, value)
    if connection.execute(select(COUNTER)).first() is None:
        connection.execute(insert(COUNTER).values(Id=1, Last=0))


def is_paused(connection: Connection) -> bool:
    return get(connection, PAUSED) == "1"


def set_paused(connection: Connection, paused: bool, now: int) -> None:
    if is_paused(connection) != paused:
        put(connection, PAUSED_AT if paused else RESUMED_AT, str(now))
    put(connection, PAUSED, str(int(paused)))


def paused_at(connection: Connection) -> int | None:
    """None: it is not."""
    return int(get(connection, PAUSED_AT) or 0) if is_paused(connection) else None


def resumed_at(connection: Connection) -> int:
    """0: it was never paused."""
    return int(get(connection, RESUMED_AT) or 0)
