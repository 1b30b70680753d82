"""`subak shop`: the sample company's tills, for as long as it runs, at every outlet whose database answers; also one that comes later."""

from __future__ import annotations

import signal
import threading
import zlib
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.engine import URL

from services.cli.databases import parsed
from services.cli.demo.company import Application
from services.cli.demo.till import Till
from services.kernel.settings import ServingSettings, load_or_exit
from services.kernel.telemetry import Health, configure_logging, logger, serve_metrics

TILLS = 2
"""Per outlet."""

RANGES = 1000
"""As many as there are numbers for customers in an INT, a million for each till."""

AGAIN_SECONDS = 2.0
"""Between two attempts to reach a database that does not answer, and two looks for new outlets."""

log = logger("till")


class PatientTill(Till):
    """Waits for its database, sells, waits again when it is gone; goes on after the last receipt that is there."""

    def run(self) -> None:
        told = False
        while not self._closing.is_set():
            try:
                application = Application(self._url)
                self._go_on(application)
            except Exception:
                if not told:
                    log.info("the database does not answer; waiting for it", till=self.name, shop=self.shop)
                told = True
                self._closing.wait(AGAIN_SECONDS)
                continue
            told = False
            log.info("selling", till=self.name, shop=self.shop)
            self._serve(application)
            application.close()

    def _refused(self, error: Exception) -> None:
        log.warning("a transaction was refused", till=self.name, shop=self.shop, why=type(error).__name__)


def command(
    folder: Annotated[Path, typer.Argument(help="Holds, per outlet, a file of its name with its database's URL.")],
    pause: Annotated[float, typer.Option(min=0.01, help="The longest time between two sales of a till, in s.")] = 1.0,
) -> None:
    """Sell at every outlet of the sample company that runs, until told to stop. It is the application: it knows nothing of Subak."""
    configure_logging("shop")
    settings = load_or_exit(ServingSettings)
    closing = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: closing.set())
    health = Health()
    serve_metrics(settings.metrics_listen, health, "shop")
    tills: dict[str, list[PatientTill]] = {}
    while True:
        for shop, url in _shops(folder):
            if shop in tills:
                continue
            tills[shop] = [PatientTill(url, shop, number_of(shop) + till, pause, closing) for till in range(TILLS)]
            for one in tills[shop]:
                one.start()
        health.ready, health.detail = True, f"open: {', '.join(tills)}" if tills else "no outlet yet"
        if closing.wait(AGAIN_SECONDS):
            break
    for one in (till for each in tills.values() for till in each):
        one.join(AGAIN_SECONDS)


def number_of(shop: str) -> int:
    """Of its first till: the same whoever else is there, since a till's number says which customers' numbers it may give."""
    return 1 + TILLS * (zlib.crc32(shop.encode()) % RANGES)


def _shops(folder: Path) -> list[tuple[str, URL]]:
    """Of all outlets that have been switched on until now. Raises PermanentError `url`."""
    files = sorted(path for path in folder.glob("[!.]*") if path.is_file())
    return [(path.name, parsed(path.read_text("utf-8").strip())) for path in files]
