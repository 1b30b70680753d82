"""The service: what one process of capture has for as long as it lives, whoever's turn it is."""

from __future__ import annotations

import asyncio
import secrets
from importlib.metadata import version

from services.capture.clock import HubClock
from services.capture.turn import Turn
from services.kernel import expiry
from services.kernel.change import GENESIS
from services.kernel.dialects import dialect_for, require_file
from services.kernel.lease import Turns
from services.kernel.settings import OutletSettings
from services.kernel.telemetry import Health, serve_metrics
from services.kernel.wire.messages import PROTOCOL_VERSION, Hello, Role
from services.kernel.wire.session import Side


class Service:
    def __init__(self, settings: OutletSettings, stop: asyncio.Event, nudge: asyncio.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._nudge = nudge
        self._hub_clock = HubClock()
        self._me = Hello(
            protocol=PROTOCOL_VERSION,
            role=Role.CAPTURE,
            outlet=settings.outlet,
            epoch="",
            position=0,
            digest=GENESIS,
            software=f"subak {version('subak')}",
            instance=secrets.token_hex(8),
        )
        self.health = Health(link="not linked with the hub yet")

    async def run(self) -> None:
        """Until the service is told to stop. Raises PermanentError when somebody must act first."""
        url = self._settings.database_url
        require_file(url, may_be_away=True)
        serve_metrics(self._settings.metrics_listen, self.health, "capture", self._settings.outlet)
        async with expiry.watched(self._settings.tls, Side.OUTLET):
            await Turns(dialect_for(url), url, "capture", self._turn, self._stop, self.health).run()

    async def _turn(self, over: asyncio.Event) -> None:
        await Turn(self._settings, self._me, self._hub_clock, over, self._nudge, self.health).run()
