"""`python -m services.applier`: applies at this outlet what the others changed."""

from __future__ import annotations

import asyncio
import sys
import time

from sqlalchemy.exc import DBAPIError

from services.applier.applying import Applier
from services.applier.receiving import Receiver
from services.kernel import schema
from services.kernel.dialects import Purpose, dialect_for, require_file
from services.kernel.errors import TransientError
from services.kernel.link import keep_linked
from services.kernel.settings import OutletSettings, load_or_exit
from services.kernel.telemetry import Health, logger, run_service, serve_metrics

log = logger("applier")


def _now() -> int:
    return time.time_ns() // 1000


async def _serve(settings: OutletSettings, stop: asyncio.Event, nudge: asyncio.Event) -> None:
    health = Health(link="not linked with the hub yet")
    serve_metrics(settings.metrics_listen, health)
    dialect = dialect_for(settings.database_url)
    require_file(settings.database_url, may_be_away=True)
    engine = dialect.engine(settings.database_url, Purpose.APPLY)
    applier = Applier(engine, dialect, settings.outlet, settings.tables, _now)
    receiver = Receiver(applier, settings.outlet, health)

    async def stopping() -> None:
        await stop.wait()
        receiver.stop()

    watcher = asyncio.create_task(stopping())
    try:
        await receiver.open(lambda: _prepare(settings))
        log.info("started", outlet=settings.outlet, engine=dialect.name, tables=len(applier.catalogue.tables))
        await keep_linked(settings, receiver.hello, receiver.run, stop, nudge, health)
    except TransientError:
        if not stop.is_set():
            raise
    finally:
        watcher.cancel()
        engine.dispose()


def _prepare(settings: OutletSettings) -> None:
    """Subak's own tables are there afterwards, in the version that this program knows."""
    dialect = dialect_for(settings.database_url)
    engine = dialect.engine(settings.database_url, Purpose.WRITE, lock_seconds=10.0)
    try:
        with engine.connect() as connection:
            schema.prepare(connection, dialect, schema.Side.OUTLET)
    except DBAPIError as error:
        raise dialect.classify(error) from error
    finally:
        engine.dispose()


def main() -> int:
    settings = load_or_exit(OutletSettings)
    return run_service("applier", lambda stop, nudge: _serve(settings, stop, nudge))


if __name__ == "__main__":
    sys.exit(main())
