"""`python -m services.hub`: the broker between the outlets. DESIGN.md tells how it keeps its promise."""

from __future__ import annotations

import asyncio
import time
import uuid

from sqlalchemy import Connection

from services.hub import state
from services.hub.broker import Broker
from services.hub.controls import Voice
from services.hub.database import Database
from services.hub.housekeeping import Terms
from services.hub.limits import Limits
from services.hub.outlets import nobody_online
from services.hub.queue import open_queue
from services.kernel import expiry
from services.kernel.credentials import Credentials
from services.kernel.entrance import serve
from services.kernel.settings import HubSettings, load_or_exit
from services.kernel.tasks import until_one_ends
from services.kernel.telemetry import Health, logger, run_service, serve_metrics
from services.kernel.wire.session import Side

LAST_COMMIT_SECONDS = 1.5
"""For the commit that runs when everybody has said bye."""

DAY_SECONDS = 86_400.0

log = logger("main")


def clock() -> int:
    return time.time_ns() // 1000


def terms(settings: HubSettings) -> Terms:
    """What the settings say of how long things are kept, and the conflict rules. The file was read once when they were checked."""
    rules = settings.policy_file.read_text("utf-8-sig") if settings.policy_file else ""
    limits = Limits(settings.offline_days * DAY_SECONDS, settings.offline_bytes)
    return Terms(settings.keep_days * DAY_SECONDS, limits, rules)


async def run(settings: HubSettings, stop: asyncio.Event) -> None:
    """Until `stop` is set. Raises PermanentError when this hub must not go on."""
    health = Health()
    if settings.tls is not None and settings.tls.crl is None:
        log.warning("SUBAK_TLS_CRL is not set: who is revoked is let in all the same")
    serve_metrics(settings.metrics_listen, health, "hub")
    database = Database(open_queue(settings.database_url, clock), health)
    try:
        async with expiry.watched(settings.tls, Side.HUB):
            await until_one_ends(database.start(), _set(stop))
            if not stop.is_set():
                await _serve(settings, database, health, stop)
    finally:
        database.close()


async def _serve(settings: HubSettings, database: Database, health: Health, stop: asyncio.Event) -> None:
    voice = Voice(uuid.uuid4().hex)
    credentials = Credentials.of(settings.tls, Side.HUB)
    broker = Broker(database, settings.enrol, credentials, terms(settings), voice)
    writing = asyncio.create_task(broker.writer.run())
    await until_one_ends(broker.housekeeping.begin(), _result(writing), _set(stop))
    server = await serve(settings.listen, credentials, broker.handle)
    log.info("hub is listening", host=settings.listen.host, port=settings.listen.port)
    health.ready, health.detail = True, "listening"
    try:
        await until_one_ends(
            _result(writing), broker.watch(), broker.watch_certificates(), broker.housekeeping.run(), _set(stop)
        )
    finally:
        health.ready, health.detail = False, "stopping"
        server.close()
        await broker.stop()
        goodbye = broker.writer.call(_say_goodbye)
        broker.writer.stop()
        await asyncio.wait({writing}, timeout=LAST_COMMIT_SECONDS)
        writing.cancel()
        goodbye.cancel()


def _say_goodbye(connection: Connection) -> None:
    nobody_online(connection)
    state.put(connection, state.SEEN, "0")


async def _result(task: asyncio.Task[None]) -> None:
    """As the task, which goes on when this is cancelled."""
    await asyncio.wait({task})
    task.result()


async def _set(event: asyncio.Event) -> None:
    await event.wait()


def main() -> int:
    settings = load_or_exit(HubSettings)
    return run_service("hub", lambda stop, nudge: run(settings, stop))


if __name__ == "__main__":
    raise SystemExit(main())
