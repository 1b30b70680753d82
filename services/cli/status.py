"""`subak status`: is everyone up to date, and what is stuck, since when."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy import Connection, Engine, and_, func, select

from services.applier.purging import conflicts_forgotten
from services.applier.quarantine import differing
from services.capture.reading import ahead
from services.capture.state import CLOCK_SKEW
from services.cli.console import console, grid, instant, print_json
from services.cli.databases import (
    concerns_hub,
    connected,
    hub_to_read,
    hub_url,
    now,
    outlet_settings,
    require_prepared,
    state,
)
from services.cli.expiring import day, own_ends, print_warning
from services.hub import administration
from services.hub.administration import HubState
from services.hub.limits import WARNING_RATIO
from services.kernel.dialects import dialect_for
from services.kernel.schema import BATCH, CLOUD_QUERY, CONFLICT, LEDGER, QUARANTINE
from services.kernel.settings import CLOCK_LIMIT_SECONDS

ANSWER_SECONDS = 2.0
"""A hub that does not take a connection by then has failed."""

SKEW_SECONDS = 1.0
"""A clock that is off by more decides conflicts in favour of one outlet more often than chance."""

_STYLES = {"running": "bold green", "paused": "bold yellow", "stopped": "bold red", "failed": "bold red"}


def command(as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False) -> None:
    """What waits, since when, and what is quarantined.

    The hub's view with SUBAK_HUB_DATABASE_URL (and SUBAK_HUB_LISTEN, to see whether it answers); an outlet's own view
    with SUBAK_DATABASE_URL.
    """
    if concerns_hub():
        with hub_to_read(hub_url()) as engine:
            document = hub_status(engine, _answers(os.environ.get("SUBAK_HUB_LISTEN", "")))
        print_json(document) if as_json else _render_hub(document)
    else:
        settings = outlet_settings()
        with connected(settings.database_url) as (connection, _):
            require_prepared(connection, settings.database_url)
            document = outlet_status(connection, now(), settings.clock_limit)
        document["certificate_expires"] = instant(own_ends())
        print_json(document) if as_json else _render_outlet(document)


def _answers(listen: str) -> bool | None:
    """Whether somebody takes a connection at that address; None when it is not set."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    try:
        with socket.create_connection((_reachable(host.strip("[]")), int(port)), ANSWER_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _reachable(host: str) -> str:
    """A hub that listens on all addresses is asked on this machine's own."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def hub_status(engine: Engine, answers: bool | None) -> dict[str, Any]:
    """The hub's view: `hub` is running, paused, stopped or failed; one entry per outlet. Ages in seconds."""
    state = administration.hub_state(engine)
    if answers is False and state is not HubState.STOPPED:
        state = HubState.FAILED
    outlets = [
        {
            "outlet": it.name,
            "company": it.company,
            "place": it.place,
            "online": it.online and state in (HubState.RUNNING, HubState.PAUSED),
            "seen": instant(it.seen_at),
            "waiting": it.waiting,
            "waiting_bytes": it.waiting_bytes,
            "oldest_seconds": round(it.oldest_waiting_seconds, 1),
            "quarantined": it.quarantined,
            "conflicts": it.conflicts,
            "limit_ratio": round(it.limit_ratio, 3),
            "given_up": {"since": instant(it.resync_at), "why": it.resync_reason} if it.resync_at else None,
            "clock_skew_seconds": None if it.skew_seconds is None else round(it.skew_seconds, 3),
            "certificate_expires": instant(it.certificate_ends),
            "misfits": list(it.misfits),
        }
        for it in administration.status(engine)
    ]
    tables = [
        {"table": it.table, "kinds": [list(kind) for kind in it.kinds], "missing": list(it.missing)}
        for it in administration.differences(engine)
    ]
    expires = instant(administration.certificate_ends(engine))
    return {"hub": state.value, "certificate_expires": expires, "outlets": outlets, "tables_that_differ": tables}


def outlet_status(connection: Connection, now: int, clock_limit: float = CLOCK_LIMIT_SECONDS) -> dict[str, Any]:
    """An outlet's own view. Ages in seconds; `now` in µs. `clock_skew_seconds`: the hub's clock less the database's, as capture found
    it last; `changes_ahead`: what waits because it is stamped more than `clock_limit` seconds ahead of the hub's clock."""
    dialect = dialect_for(connection.engine.url)
    limit = dialect.now(connection) + int(clock_limit * 1e6)
    skew = int(state(connection, CLOCK_SKEW) or 0)
    own = connection.execute(
        select(func.count().label("Waiting"), func.min(CLOUD_QUERY.c.Stamp).label("Oldest")).where(
            CLOUD_QUERY.c.ExportFlag == 0
        )
    ).one()
    last = connection.execute(select(LEDGER).order_by(LEDGER.c.Sequence.desc()).limit(1)).first()
    epoch = state(connection, "epoch")
    return {
        "outlet": state(connection, "outlet"),
        "changes_waiting": own.Waiting,
        "oldest_seconds": round(max(0, now - own.Oldest) / 1e6, 1) if own.Waiting else 0.0,
        "changes_ahead": len(ahead(connection, dialect, limit + skew)),
        "clock_skew_seconds": round(skew / 1e6, 3),
        "batches_unconfirmed": connection.scalar(
            select(func.count()).select_from(BATCH).where(and_(BATCH.c.StoredAt.is_(None), BATCH.c.Epoch == epoch))
        ),
        "last_applied": None
        if last is None
        else {"at": instant(last.AppliedAt), "origin": last.Origin, "sequence": last.Sequence, "changes": last.Changes},
        "quarantined": connection.scalar(
            select(func.count()).select_from(QUARANTINE).where(QUARANTINE.c.State == "waiting")
        ),
        "different": connection.scalar(select(func.count()).select_from(differing().subquery())),
        "conflicts": (connection.scalar(select(func.count()).select_from(CONFLICT)) or 0)
        + conflicts_forgotten(connection),
    }


def _render_hub(document: dict[str, Any]) -> None:
    hub = document["hub"]
    console.print(Text.assemble("hub: ", (hub, _STYLES[hub])))
    print_warning("The hub's", document["certificate_expires"], "hub --hub")
    numbers = ["deliveries waiting", "oldest", "quarantined", "conflicts"]
    rows = [
        [
            it["outlet"],
            it["company"],
            it["place"],
            "online" if it["online"] else "offline",
            str(it["waiting"]),
            f"{it['oldest_seconds']} s" if it["waiting"] else "-",
            str(it["quarantined"]),
            str(it["conflicts"]),
            day(it["certificate_expires"]),
        ]
        for it in document["outlets"]
    ]
    console.print(grid(["outlet", "company", "place", "", *numbers, "certificate until"], rows, right=numbers))
    if not rows:
        console.print("No outlet yet: `subak outlet add NAME`, or start the hub with SUBAK_HUB_ENROL=open.")
    if any(it["quarantined"] for it in document["outlets"]):
        console.print("Quarantined: run `subak quarantine list` at that outlet.", style="yellow")
    for it in document["outlets"]:
        print_warning(f"{it['outlet']}'s", it["certificate_expires"], it["outlet"])
    for sentence in warnings(document):
        console.print(Text(sentence, style="yellow"), soft_wrap=True)


def warnings(document: dict[str, Any]) -> Iterator[str]:
    """What somebody must act on, from `hub_status`, in sentences."""
    for it in document["outlets"]:
        name, skew = it["outlet"], it["clock_skew_seconds"]
        if it["given_up"]:
            yield (
                f"{name} was given up on {it['given_up']['since']}: {it['given_up']['why']} "
                "Replace its database by a newer copy of another outlet's, and run `subak outlet adopt` there."
            )
        elif it["limit_ratio"] >= WARNING_RATIO:
            yield (
                f"{name} takes nothing: {it['limit_ratio']:.0%} of what the hub keeps for an outlet is used up. "
                "At 100% it is given up, and needs a new database. Start its applier, or remove it."
            )
        if skew is not None and abs(skew) > SKEW_SECONDS:
            yield f"{name}: its database's clock is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead'}. Set it by NTP."
        yield from (f"{name}: {misfit}" for misfit in it["misfits"])
    yield from _differences(document["tables_that_differ"])


def _differences(tables: list[dict[str, Any]]) -> Iterator[str]:
    for it in tables:
        if len(it["kinds"]) > 1:
            kinds = " and ".join(", ".join(kind) for kind in it["kinds"])
            yield f"{it['table']} does not have the same columns at {kinds}."
        if it["missing"]:
            yield f"{it['table']} is not synchronised at {', '.join(it['missing'])}: what comes for it is held there."


def _render_outlet(document: dict[str, Any]) -> None:
    last = document["last_applied"]
    rows = [
        ["outlet", document["outlet"] or "-"],
        ["own changes waiting", str(document["changes_waiting"])],
        ["oldest of them", f"{document['oldest_seconds']} s" if document["changes_waiting"] else "-"],
        ["ahead of the hub's clock", str(document["changes_ahead"])],
        ["batches not yet confirmed", str(document["batches_unconfirmed"])],
        ["last applied", f"{last['changes']} changes of {last['origin']}, {last['at']}" if last else "-"],
        ["quarantined", str(document["quarantined"])],
        ["discarded rows, still different", str(document["different"])],
        ["conflicts", str(document["conflicts"])],
        ["certificate until", day(document["certificate_expires"])],
    ]
    console.print(grid(["", ""], rows))
    print_warning("This outlet's", document["certificate_expires"], document["outlet"] or "NAME")
    if document["quarantined"]:
        console.print("Quarantined: run `subak quarantine list`.", style="yellow")
    if document["changes_ahead"]:
        console.print(
            "Changes are held: stamped too far ahead of the hub's clock. Set the database's clock right, stop both services, run"
            " `subak outlet restamp`.",
            style="yellow",
        )
