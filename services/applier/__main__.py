"""`python -m services.applier`: applies at this outlet what the others changed."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from sqlalchemy.exc import DBAPIError

from services.applier import standing
from services.applier.applying import Applier
from services.applier.receiving import Receiver
from services.applier.standing import Standing
from services.kernel import expiry, schema
from services.kernel.dialects import Purpose, dialect_for, require_file
from services.kernel.errors import PermanentError, TransientError
from services.kernel.lease import Again, Turns
from services.kernel.link import keep_linked
from services.kernel.settings import OutletSettings, load_or_exit
from services.kernel.tasks import until_one_ends
from services.kernel.telemetry import Health, logger, run_service, serve_metrics
from services.kernel.wire.session import Side

WATCH_SECONDS = 2.0
"""How often it is looked whether the database is still the one that was left."""

log = logger("applier")


def _now() -> int:
    return time.time_ns() // 1000


async def _serve(settings: OutletSettings, stop: asyncio.Event, nudge: asyncio.Event) -> None:
    health = Health(link="not linked with the hub yet")
    serve_metrics(settings.metrics_listen, health, "applier", settings.outlet)
    url = settings.database_url
    require_file(url, may_be_away=True)
    turn = partial(_turn, settings, secrets.token_hex(8), nudge, health)
    async with expiry.watched(settings.tls, Side.OUTLET):
        await Turns(dialect_for(url), url, "applier", turn, stop, health).run()


async def _turn(
    settings: OutletSettings, instance: str, nudge: asyncio.Event, health: Health, over: asyncio.Event
) -> None:
    """One turn, as long as this process has the lease."""
    dialect = dialect_for(settings.database_url)
    engine = dialect.engine(settings.database_url, Purpose.APPLY)
    looking = dialect.engine(settings.database_url, Purpose.READ)
    applier = Applier(engine, dialect, settings.outlet, settings.tables, _now)
    look = partial(standing.read, looking, dialect)
    receiver = Receiver(applier, settings.outlet, instance, look, health)

    async def stopping() -> None:
        await over.wait()
        receiver.stop()

    stopper = asyncio.create_task(stopping())
    try:
        await receiver.open(lambda: _prepare(settings))
        log.info("started", outlet=settings.outlet, engine=dialect.name, tables=len(applier.catalogue.tables))
        linked = keep_linked(settings, receiver.hello, receiver.run, over, nudge, health)
        await until_one_ends(linked, _watch(receiver, look, over))
    except TransientError:
        if not over.is_set():
            raise
    finally:
        stopper.cancel()
        engine.dispose()
        looking.dispose()


async def _watch(receiver: Receiver, look: Callable[[], Standing], over: asyncio.Event) -> None:
    """Until the turn is over. Raises Again when the database is not the one that was left: then the hub must be told where it stands."""
    while not over.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), WATCH_SECONDS)
        told, executed = receiver.told, receiver.executed
        try:
            found = await asyncio.to_thread(look)
        except TransientError:
            continue
        except PermanentError as error:  # our own tables are gone
            raise Again(error.what) from error
        if found.sequence < executed:
            raise Again(f"this database was put back: its ledger ends at {found.sequence}, not at {executed}")
        begun = told is not None and told is receiver.told and told.epoch not in ("", found.epoch)
        if begun:
            raise Again(f"epoch {found.epoch} has begun in this database")


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
