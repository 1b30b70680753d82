"""Up to which sequence everybody may forget. Pure.

A batch may be forgotten once every outlet has executed it, and all that any outlet captured before executing it has been
executed everywhere: then no change can come any more that was made without knowing it. Captures tell the second (`Progress`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Told:
    """All that was committed at an outlet before it had executed delivery `seen` is in its batches up to the one stored as
    `sequence` (0: it had none; None: that one has not come yet). Nothing it is owed lies after `seen` and up to `reach`:
    an outlet that is owed little, or nothing, has seen as much as the others."""

    seen: int
    reach: int
    sequence: int | None


@dataclass(frozen=True)
class Standing:
    """One outlet that counts: neither removed nor given up."""

    executed: int
    """It has executed all that it is owed up to here."""
    stable: int
    """All that it captured before it had executed up to here is executed everywhere."""
    told: Sequence[Told] = ()


def stable(name: str, standings: Mapping[str, Standing]) -> int:
    """Up to where outlet `name` is stable by now: as before, or as far as what it told reaches, if that holds already."""
    others = min((it.executed for other, it in standings.items() if other != name), default=None)
    own = standings[name]
    held = [it.reach for it in own.told if it.sequence is not None and (others is None or it.sequence <= others)]
    return max([own.stable, *held])


def horizon(standings: Mapping[str, Standing]) -> int:
    """The last sequence that may be forgotten; 0: none, also where there is no outlet."""
    return min((min(it.executed, stable(name, standings)) for name, it in standings.items()), default=0)


def kept(told: Sequence[Told], stable: int) -> list[Told]:
    """What must be remembered of what an outlet told: the oldest that does not hold yet, and the newest, which may come to reach further.

    Were only the newest kept, an outlet that never rests would never become stable.
    """
    ordered = sorted(told, key=lambda it: it.seen)
    waiting = [it for it in ordered[:-1] if it.reach > stable]
    return [*waiting[:1], *ordered[-1:]]
