"""The command: prints the query log, and goes on printing when asked to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.text import Text

from services.cli.console import console, moment, print_json, print_json_line
from services.cli.databases import (
    concerns_hub,
    hub_to_read,
    hub_url,
    opened,
    outlet_name,
    outlet_settings,
    require_prepared,
)
from services.cli.querylog.entry import Entry
from services.cli.querylog.hub import HubLog
from services.cli.querylog.outlet import OutletLog

FOLLOW_SECONDS = 0.5
WAY_WIDTH = 12

_STYLES = {"executed": "green", "sent": "green", "stored": "green", "waiting": "yellow", "sending": "yellow"}


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON; with --follow, one object per line.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Entries to start with, the newest.")] = 50,
) -> None:
    """The query log: date, message, status, sender.

    At an outlet (SUBAK_DATABASE_URL) with each statement as it ran there; at the hub (SUBAK_HUB_DATABASE_URL) with the
    outlet it went to and the change in words.
    """
    with _hub_log() if concerns_hub() else _outlet_log() as log:
        entries = log.latest(limit)
        if as_json and not follow:
            print_json([entry.document() for entry in entries])
            return
        _print(entries, as_json)
        while follow:
            time.sleep(FOLLOW_SECONDS)
            _print(log.following(), as_json)


@contextmanager
def _hub_log() -> Iterator[HubLog]:
    with hub_to_read(hub_url()) as engine:
        yield HubLog(engine)


@contextmanager
def _outlet_log() -> Iterator[OutletLog]:
    settings = outlet_settings()
    with opened(settings.database_url) as (engine, dialect):
        with engine.connect() as connection:
            require_prepared(connection, settings.database_url)
            catalogue = dialect.catalogue(connection, settings.tables)
        yield OutletLog(engine, dialect, catalogue, outlet_name(engine, settings))


def _print(entries: Sequence[Entry], as_json: bool) -> None:
    for entry in entries:
        if as_json:
            print_json_line(entry.document())
            continue
        way = f"{entry.sender} → {entry.outlet}" if entry.outlet else entry.sender
        line = Text.assemble(
            (moment(entry.at), "dim"),
            "  ",
            (f"{way:<{WAY_WIDTH}}", "cyan"),
            "  ",
            (entry.status, _STYLES.get(entry.status, "red")),
            "  ",
            entry.message,
        )
        console.print(line, soft_wrap=True)
