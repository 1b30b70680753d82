"""Under whose name each change in this database's `CloudQuery` was made: an adopted copy holds those of the outlets it was copied from.

Two outlets may give one row the same time (both write on a version that is ahead of their clocks), so a change is known by its origin, too.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True)
class Lives:
    """`sources`: whose database this was a copy of, the oldest first. `ends`: the greatest Id of each one's changes, the same number of
    them; fewer, where the copy was adopted before that was written down. `outlet`: whose it is now."""

    outlet: str
    sources: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()

    @property
    def origins(self) -> frozenset[str]:
        return frozenset(self.sources) | {self.outlet}

    def may_be(self, change_id: int, origin: str) -> bool:
        """Whether the change of that Id in CloudQuery may be one of that origin's."""
        if len(self.ends) != len(self.sources):
            return True
        return (*self.sources, self.outlet)[bisect_left(self.ends, change_id)] == origin
