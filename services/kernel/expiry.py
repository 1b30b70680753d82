"""Until when this service's own certificate is good, and whether its files can be used as they stand: figures, and warnings while there is time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.kernel.certificates import NEARLY, Certificate, issue_command, moment
from services.kernel.credentials import Credentials
from services.kernel.errors import TransientError
from services.kernel.telemetry import logger
from services.kernel.tls import TlsSettings
from services.kernel.wire.session import Side

WARNING_SECONDS = 86_400.0
"""How often the log says that the certificate will expire, or that its files cannot be used."""

LOOK_SECONDS = 5.0
"""How soon a renewed one is noticed here."""

log = logger("certificates")


class _Expiry(Collector):
    """Says nothing without TLS: 1970 would be an alarm."""

    ends: datetime | None = None
    usable = True

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "subak_certificate_expiry_timestamp_seconds",
            "End of this service's own certificate, in seconds since 1970 UTC.",
        )
        yield GaugeMetricFamily(
            "subak_certificate_files_usable",
            "1: the certificate, its key, the authority's and the list of revoked ones count as their files say now; 0: as they said before.",
        )

    def collect(self) -> Iterator[Metric]:
        if self.ends is not None:
            for family, value in zip(self.describe(), (self.ends.timestamp(), float(self.usable)), strict=True):
                family.add_sample(family.name, {}, value)
                yield family


EXPIRY = _Expiry()
REGISTRY.register(EXPIRY)


@asynccontextmanager
async def watched(tls: TlsSettings | None, side: Side) -> AsyncIterator[None]:
    """For as long as a service runs."""
    credentials = Credentials.of(tls, side)
    if credentials is None:
        yield
        return
    watching = asyncio.create_task(_watch(credentials))
    try:
        yield
    finally:
        watching.cancel()
        EXPIRY.ends = None
        with suppress(asyncio.CancelledError):
            await watching


async def _watch(credentials: Credentials) -> None:
    loop = asyncio.get_running_loop()
    warned: tuple[int, float] | None = None
    """Of which certificate, and when."""
    unusable = loop.time()
    """When that was told last; for the first time by whoever reads the files."""
    while True:
        with suppress(TransientError):  # told by whoever needs it for a connection
            credentials.load()
            found, now = credentials.own(), loop.time()
            EXPIRY.ends, EXPIRY.usable = found.ends, credentials.usable
            if EXPIRY.usable:
                unusable = now
            elif now - unusable >= WARNING_SECONDS:
                unusable = now
                log.error(
                    "certificate files cannot be used still; what they said before goes on counting",
                    why=credentials.why,
                )
            if warned is None or warned[0] != found.serial or now - warned[1] >= WARNING_SECONDS:
                warned = found.serial, now
                _warn(found, credentials.side)
        await asyncio.sleep(LOOK_SECONDS)


def _warn(own: Certificate, side: Side) -> None:
    now = datetime.now(UTC)
    if own.ends - now >= NEARLY:
        return
    ended = own.ends <= now
    log.warning(
        "this service's certificate has expired" if ended else "this service's certificate will expire soon",
        certificate=str(own),
        until=moment(own.ends),
        days_left=round(own.days_left(now), 1),
        todo=f"Have a new one made where the authority is (`{issue_command(own.name, side)} --renew`) and put it in place: it is taken up by itself.",
    )
