"""Until when this service's own certificate is good: a figure for Prometheus, and a warning while there is time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.kernel.certificates import NEARLY, Certificate, certificate_in, moment
from services.kernel.credentials import Followed
from services.kernel.errors import TransientError
from services.kernel.telemetry import logger
from services.kernel.tls import TlsSettings

WARNING_SECONDS = 86_400.0
"""How often the log says that the certificate will expire."""

LOOK_SECONDS = 5.0
"""How soon a renewed one is noticed here."""

log = logger("certificates")


class _Expiry(Collector):
    """Says nothing without TLS: 1970 would be an alarm."""

    ends: datetime | None = None

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "subak_certificate_expiry_timestamp_seconds",
            "End of this service's own certificate, in seconds since 1970 UTC.",
        )

    def collect(self) -> Iterator[Metric]:
        if self.ends is not None:
            for family in self.describe():
                family.add_sample(family.name, {}, self.ends.timestamp())
                yield family


EXPIRY = _Expiry()
REGISTRY.register(EXPIRY)


@asynccontextmanager
async def watched(tls: TlsSettings | None) -> AsyncIterator[None]:
    """For as long as a service runs."""
    if tls is None:
        yield
        return
    watching = asyncio.create_task(_watch(tls.cert))
    try:
        yield
    finally:
        watching.cancel()
        EXPIRY.ends = None
        with suppress(asyncio.CancelledError):
            await watching


async def _watch(path: Path) -> None:
    loop = asyncio.get_running_loop()
    own = Followed((path,), lambda: certificate_in(path))
    warned: tuple[int, float] | None = None
    """Of which certificate, and when."""
    while True:
        with suppress(TransientError):  # told by whoever needs it for a connection
            found = own.value()
            EXPIRY.ends = found.ends
            now = loop.time()
            if warned is None or warned[0] != found.serial or now - warned[1] >= WARNING_SECONDS:
                warned = found.serial, now
                _warn(found)
        await asyncio.sleep(LOOK_SECONDS)


def _warn(own: Certificate) -> None:
    now = datetime.now(UTC)
    if own.ends - now >= NEARLY:
        return
    ended = own.ends <= now
    log.warning(
        "this service's certificate has expired" if ended else "this service's certificate will expire soon",
        certificate=str(own),
        until=moment(own.ends),
        days_left=round(own.days_left(now), 1),
        todo="Have a new one made (`subak pki issue NAME --renew`) and put it in place: it is taken up by itself.",
    )
