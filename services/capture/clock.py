"""The hub's clock, as an outlet knows it: all outlets are held to the same one, whatever their databases' clocks say."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, and nobody sets it."""


STALE_SECONDS = 60
"""Two quartz clocks drift apart by some 10 ms in this time; in a month by minutes."""


def elapsed() -> int:
    """µs of this machine's uptime."""
    return time.clock_gettime_ns(_CLOCK) // 1000


class HubClock:
    """Told once per link; in between it goes by this machine's uptime, so that nothing is amiss when a clock is set."""

    def __init__(self) -> None:
        self._offset: int | None = None
        self._told_at = 0
        self.told = False
        """Whether it comes from the hub, and is no guess."""

    @property
    def known(self) -> bool:
        return self._offset is not None

    def tell(self, now: int) -> None:
        """`now` is the hub's time, in µs since 1970 UTC."""
        self.guess(now)
        self.told = True

    def guess(self, now: int) -> None:
        """As the database's clock has it, and the difference that was found last."""
        self._told_at = elapsed()
        self._offset = now - self._told_at

    @property
    def is_old(self) -> bool:
        """Whether it was told so long ago that machines' clocks may have drifted apart noticeably."""
        return elapsed() > self._told_at + STALE_SECONDS * 1_000_000

    def now(self) -> int:
        """In µs since 1970 UTC. To be asked only when it is known."""
        assert self._offset is not None
        return self._offset + elapsed()
