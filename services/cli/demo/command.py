"""The command: founds the company, lets it sell, cuts one outlet off and back on, and compares what is there at the end."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy.engine import URL

from services.capture import triggers
from services.cli.compare.command import render_tables
from services.cli.compare.comparing import Comparison, compare
from services.cli.console import console, counted, grid
from services.cli.databases import hub_to_change, hub_to_read, parsed
from services.cli.demo.company import Site, found, shop_names, write_ahead
from services.cli.demo.network import START_SECONDS, Network
from services.cli.demo.observing import Moment, Observer
from services.cli.demo.till import Quarrel, Till
from services.cli.demo.view import View
from services.hub import administration
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.errors import PermanentError

TILLS = 2
"""Per outlet."""

PAUSE_SECONDS = 0.12
"""The longest between two sales of a till: some hundred changes a second in the company, which any laptop carries."""

LOOK_SECONDS = 0.25
QUARREL_SECONDS = 1.5
"""Between two conflicts on purpose."""

CUT_AT, BACK_AT = 0.35, 0.7
"""When, as parts of the selling time, one outlet is cut off and back."""

TERMINATED = 128 + signal.SIGTERM
"""Exit code; what was started is stopped first."""

DRAIN_SECONDS = 120.0
"""More than a machine with one slow core needs; then something is stuck."""


def command(
    seconds: Annotated[float, typer.Option(min=1, help="How long the tills sell.")] = 20.0,
    outlets: Annotated[int, typer.Option(min=2, max=20, help="How many outlets.")] = 3,
    keep: Annotated[bool, typer.Option(help="Keep the databases and logs afterwards.")] = False,
    database_url: Annotated[
        list[str] | None,
        typer.Option(
            help="A SQL Server, MySQL or MariaDB server on which outlets get a new database each; may be repeated, the "
            "outlets take turns; sqlite:// stands for a file."
        ),
    ] = None,
) -> None:
    """A small retail company on this machine: tills sell at all outlets at once, one of them is cut off and comes back.

    Starts a hub and the services of every outlet as processes of their own. In the end every table of every outlet is
    compared. Exit code 0: all are identical, and nothing is quarantined.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    urls = [parsed(url) for url in database_url or ()]
    folder = Path(tempfile.mkdtemp(prefix="subak-demo-"))
    site = Site(folder, urls, f"subak_demo_{os.getpid()}")
    try:
        good = _Demo(folder, site, shop_names(outlets), seconds).run()
    finally:
        if keep:
            console.print(f"Kept: {folder}, and the outlets' databases.")
        else:
            site.drop()
            shutil.rmtree(folder, ignore_errors=True)
    if not good:
        raise typer.Exit(1)


class _Demo:
    def __init__(self, folder: Path, site: Site, shops: Sequence[str], seconds: float) -> None:
        self._seconds = seconds
        self._folder = folder
        self._shops = shops
        self._databases = {shop: site.create(index, shop) for index, shop in enumerate(shops)}
        self._urls = list(self._databases.values())
        hub_url = URL.create("sqlite", database=str(folder / "hub.db"))
        self._network = Network(folder, hub_url, self._databases)
        self._closing = threading.Event()
        self._tills = [
            Till(url, shop, 1 + index * TILLS + till, PAUSE_SECONDS, self._closing)
            for index, (shop, url) in enumerate(self._databases.items())
            for till in range(TILLS)
        ]
        self._quarrel = Quarrel(self._urls, QUARREL_SECONDS, self._closing)

    def run(self) -> bool:
        """Whether all went as promised."""
        with ExitStack() as stack:
            console.print(Text(f"{len(self._shops)} outlets of a retail company: {', '.join(self._shops)}"))
            self._found()
            stack.callback(self._network.stop)
            self._network.start()
            observer = Observer(stack.enter_context(hub_to_read(self._network.hub_url)), self._network.outlets)
            stack.callback(observer.close)
            stack.callback(self._close_tills)
            with View() as view:
                self._await_outlets(observer, view)
                for thread in (*self._tills, self._quarrel):
                    thread.start()
                view.say(f"{len(self._tills)} tills are selling for {self._seconds:.0f} s")
                self._sell(observer, view)
                self._close_tills()
                view.say("the tills are closed")
                moment = self._drain(observer, view)
            comparison = compare(self._urls)
            return self._report(moment, comparison)

    def _found(self) -> None:
        write_ahead(self._network.hub_url)
        with hub_to_change(self._network.hub_url) as hub:
            for shop in self._shops:
                administration.add(hub, shop, "Warung Subak", shop.capitalize())
        for shop, url in self._databases.items():
            found(url, self._shops)
            dialect = dialect_for(url)
            engine = dialect.engine(url, Purpose.WRITE)
            try:
                triggers.install(engine, dialect, ("*",), shop)
            finally:
                engine.dispose()

    def _await_outlets(self, observer: Observer, view: View) -> None:
        """Raises PermanentError `not_online`."""
        limit = time.monotonic() + START_SECONDS
        while not (moment := observer.look()).all_online:
            self._check()
            if time.monotonic() > limit:
                raise PermanentError("not_online", "An outlet does not come online.", f"Its log is in {self._folder}.")
            view.show(moment, "starting")
            time.sleep(LOOK_SECONDS)

    def _sell(self, observer: Observer, view: View) -> None:
        began = time.monotonic()
        victim = self._network.outlets[-1]
        cut = back = False
        while (elapsed := time.monotonic() - began) < self._seconds:
            if not cut and elapsed > CUT_AT * self._seconds:
                cut = True
                self._network.cut_off(victim)
                view.say(f"{victim.name} is cut off: its services were killed. Its tills sell on.")
            if cut and not back and elapsed > BACK_AT * self._seconds:
                back = True
                line = observer.look().lines[-1]
                self._network.connect(victim)
                view.say(f"{victim.name} is back: {line.waiting} changes to send, {line.owed} deliveries to receive")
            self._check()
            moment = observer.look()
            view.show(moment, "selling")
            time.sleep(LOOK_SECONDS)

    def _check(self) -> None:
        """Raises PermanentError `service_ended`."""
        if dead := self._network.dead():
            raise PermanentError(
                "service_ended", f"{', '.join(dead)} ended.", f"Its log is in {self._folder} (run with --keep)."
            )

    def _drain(self, observer: Observer, view: View) -> Moment:
        limit = time.monotonic() + DRAIN_SECONDS
        before: Moment | None = None
        while time.monotonic() < limit:
            moment = observer.look()
            view.show(moment, "catching up")
            # Twice the same: executing a change may have made one of the outlet's own (a parent put back).
            if before and before.at_rest and moment.at_rest and before.lines == moment.lines:
                return moment
            before = moment
            time.sleep(LOOK_SECONDS)
        raise PermanentError(
            "stuck",
            f"The queue has not drained in {DRAIN_SECONDS:.0f} s.",
            f"Look at the logs in {self._folder} (--keep).",
        )

    def _close_tills(self) -> None:
        self._closing.set()
        for thread in (*self._tills, self._quarrel):
            if thread.is_alive():
                thread.join()

    def _report(self, moment: Moment, comparison: Comparison) -> bool:
        errors = [error for till in self._tills for error in till.errors] + self._quarrel.errors
        quarantined = sum(line.quarantined for line in moment.lines)
        render_tables(comparison)
        columns = ["own changes", "applied", "conflicts", "quarantined", "slowest sale"]
        rows = []
        for index, line in enumerate(moment.lines):
            apart = comparison.apart(index)
            verdict = counted(apart, "difference") if apart else "identical" if comparison.complete else "not compared"
            slowest = max(till.slowest for till in self._tills if till.shop == line.name)
            numbers = [line.own, line.applied, line.conflicts, line.quarantined]
            rows.append(
                [line.name, comparison.databases[index].server, *map(str, numbers), f"{slowest:.2f} s", verdict]
            )
        console.print(grid(["outlet", "engine", *columns, ""], rows, right=columns))
        transactions = sum(till.transactions for till in self._tills)
        console.print(f"The tills made {transactions} transactions; {len(errors)} were refused.")
        if deadlocks := sum(till.deadlocks for till in self._tills) + self._quarrel.deadlocks:
            console.print(f"The tills made {counted(deadlocks, 'transaction')} again, which a deadlock had ended.")
        for error in errors[:5]:
            console.print(Text(f"  {error}"), style="red")
        return comparison.identical and not quarantined and not errors
