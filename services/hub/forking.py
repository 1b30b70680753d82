"""When a capture may begin a new epoch: once its outlet's applier has been told, and has executed, what the hub has of the old one.

Until then capture could cut changes that the hub has already, and they would go out twice. Pure. Nothing of this is kept over a
restart of the hub: forgetting costs one more greeting of the applier, never a change.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.kernel.errors import ProtocolError


@dataclass(frozen=True)
class Fork:
    """A capture that asks to begin an epoch."""

    epoch: str
    instance: str
    greeted: bool = False
    """Whether the applier has said hello, in that epoch, since this process first asked: so its database is the one that forked."""


class Forks:
    """Of all outlets."""

    def __init__(self) -> None:
        self._asked: dict[str, Fork] = {}

    def ask(self, outlet: str, epoch: str, instance: str, owes_own: bool) -> None:
        """A capture says hello in an epoch of which the hub has nothing, while it has batches of another one of that outlet.

        Raises ProtocolError `catching_up` when it must not begin yet.
        """
        asked = self._asked.get(outlet)
        if asked is None or (asked.epoch, asked.instance) != (epoch, instance):
            asked = self._asked[outlet] = Fork(epoch, instance)
        if not asked.greeted:
            raise _catching_up(f"The applier of {outlet} has not said hello since its database began epoch {epoch}.")
        if owes_own:
            raise _catching_up(f"{outlet} has not executed yet all that it sent before its database was put back.")

    def greeted(self, outlet: str, epoch: str) -> None:
        """An applier was admitted, and what its database lacks is owed to it."""
        asked = self._asked.get(outlet)
        if asked is not None and asked.epoch == epoch:
            self._asked[outlet] = Fork(epoch, asked.instance, greeted=True)

    def must_greet(self, outlet: str) -> bool:
        """Whether the applier must connect anew, for the capture to go on."""
        asked = self._asked.get(outlet)
        return asked is not None and not asked.greeted


def _catching_up(what: str) -> ProtocolError:
    return ProtocolError("catching_up", what, "It goes on by itself; the outlet's applier must run.")
