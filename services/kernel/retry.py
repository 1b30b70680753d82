"""The pauses between tries to reach the hub. Pure: the caller waits, and passes the randomness in."""

from __future__ import annotations

from collections.abc import Callable

FIRST_TRIES = 3
FIRST_PAUSE_SECONDS = 10.0
"""The first connection: three tries, ten seconds apart, before anybody is told to look."""

LONGEST_PAUSE_SECONDS = 60.0
"""Then the pause doubles up to this: a hub that comes up is found within a minute, or at once on SIGHUP."""

RECONNECT_SECONDS = 5.0
"""A connection that was up and broke is tried again at once and then within this, shortened by chance: after a hub's
restart its outlets do not all come in the same instant."""

STABLE_SECONDS = 5.0
"""A connection that lasted less does not start the count anew: a peer that hangs up at once is not called in a loop."""


class Pauses:
    """Counts the tries since the hub was last linked for a while. `chance` gives a number from 0 to 1."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._been_up = False
        self.failures = 0

    def linked_for(self, seconds: float) -> None:
        """A link that has now ended."""
        self._been_up = True
        if seconds >= STABLE_SECONDS:
            self.failures = 0

    def after_failure(self) -> float:
        """Seconds until the next try, after a try that failed or a link that broke."""
        self.failures += 1
        if not self._been_up:
            return self._growing(self.failures - FIRST_TRIES + 1)
        if self.failures == 1:
            return 0.0
        return min(RECONNECT_SECONDS, 2.0 ** min(self.failures - 2, 10)) * (0.5 + self._chance() / 2)

    def after_refusal(self) -> float:
        """The same after the hub has said no: somebody must act first, so it is asked ever less often."""
        self.failures += 1
        return self._growing(self.failures - 1)

    def _growing(self, step: int) -> float:
        return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** max(0, min(step, 10)))
