"""`subak outlet`: the outlets that the hub knows; and what is done to one outlet's database when no service runs on it."""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer
from sqlalchemy import Engine

from services.capture import adopting, restamping
from services.capture.sending import EPOCH_BYTES
from services.cli.console import console, counted, errors, grid, instant, moment, print_json
from services.cli.databases import (
    hub_to_change,
    hub_to_read,
    hub_url,
    now,
    opened,
    outlet_settings,
    require_prepared,
)
from services.cli.joining import folder, rendering
from services.cli.setup.engines import DATABASE, Product
from services.hub import administration
from services.kernel.dialects import Dialect, Lease, Purpose
from services.kernel.errors import PermanentError
from services.kernel.settings import dialled

app = typer.Typer(
    help="The outlets that the hub knows (SUBAK_HUB_DATABASE_URL); adopt, restamp: an outlet's database (SUBAK_DATABASE_URL).",
    no_args_is_help=True,
)

KEEP_SECONDS = 5.0
"""A third of the time after which a server takes a silent session for dead."""

HUB = "hub.example.com:7707"
"""Stands for the hub's address until somebody puts the right one in."""

ROLES = ("capture", "applier")
"""Of the services whose leases say that they run."""

Name = Annotated[str, typer.Argument(metavar="NAME")]
Outlet = Annotated[str, typer.Argument(metavar="OUTLET")]
Origin = Annotated[str, typer.Argument(metavar="ORIGIN")]


@app.command()
def add(
    name: Name,
    company: Annotated[str, typer.Option(help="For people.")] = "",
    place: Annotated[str, typer.Option(help="For people.")] = "",
    engine: Annotated[Product | None, typer.Option(help="Of its database: say what goes where.")] = None,
    hub: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="With --engine: of the hub, as the outlet dials it. --write cannot do without."
        ),
    ] = None,
    database: Annotated[str, typer.Option(help="With --engine: its database's name.")] = DATABASE,
    write: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="With --engine: write the folder that its site needs, certificate included; -: a tar.",
        ),
    ] = None,
    compose: Annotated[
        bool, typer.Option("--compose", help="With --engine: only print it as one more outlet of docker-compose.yml.")
    ] = False,
) -> None:
    """Let an outlet in: from now on it is owed what the others change. Its rows must be the same as theirs."""
    if engine is None and (write is not None or compose):
        raise PermanentError("engine_missing", "Files can be made for an engine only.", "Say --engine mysql, or which.")
    if compose:
        rendering.check_name(name)
    if engine is not None:
        rendering.check_database(database)
    if hub is not None:
        dialled(hub)
    if write is not None and hub is None:
        raise PermanentError(
            "hub_missing",
            "The folder must say where its services find the hub.",
            "Say --hub HOST:PORT, as that site dials it.",
        )
    with hub_to_change(hub_url()) as queue:
        new = engine is None or name not in {it.name for it in administration.listed(queue)}
        if new:
            administration.add(queue, name, company, place)
        number = administration.number(queue, name)
    if engine is None:
        console.print(f"{name} is added. Start its services with SUBAK_OUTLET={name}.", markup=False)
        return
    errors.print(f"{name} is {'added' if new else 'known already'}.", markup=False)
    if write is not None:
        assert hub is not None
        folder.write(name, engine, hub, database, write)
    elif compose:
        rendering.check_keys(name, engine, number)
        sys.stdout.write(rendering.compose(name, engine, number))
    else:
        console.print(rendering.words(name, engine, hub or HUB, database), markup=False, soft_wrap=True)


@app.command()
def remove(name: Name) -> None:
    """Shut an outlet out: it is owed nothing any more, and what waited for it is dropped."""
    with hub_to_change(hub_url()) as engine:
        administration.remove(engine, name)
    console.print(f"{name} is removed.", markup=False)


@app.command(name="list")
def list_command(as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False) -> None:
    """The outlets, and who takes nothing from whom."""
    with hub_to_read(hub_url()) as engine:
        outlets, ignored = administration.listed(engine), administration.ignored(engine)
    documents = [
        {
            "outlet": it.name,
            "company": it.company,
            "place": it.place,
            "online": it.online,
            "seen": instant(it.seen_at),
            "ignores": [origin for outlet, origin in ignored if outlet == it.name],
        }
        for it in outlets
    ]
    if as_json:
        print_json(documents)
        return
    rows = [
        [
            it.name,
            it.company,
            it.place,
            "online" if it.online else "offline",
            moment(it.seen_at),
            ", ".join(origin for outlet, origin in ignored if outlet == it.name),
        ]
        for it in outlets
    ]
    columns = ["outlet", "company", "place", "", "last seen", "ignores"]
    console.print(grid(columns, rows) if rows else "No outlet yet: `subak outlet add NAME`.")


@app.command()
def ignore(outlet: Outlet, origin: Origin) -> None:
    """Let OUTLET take nothing from ORIGIN any more. The two will differ, by intent."""
    with hub_to_change(hub_url()) as engine:
        administration.ignore(engine, outlet, origin)
    console.print(f"{outlet} takes nothing from {origin} any more: their rows will differ.", markup=False)


@app.command()
def unignore(outlet: Outlet, origin: Origin) -> None:
    """Let OUTLET take from ORIGIN again, from now on; what it missed stays missed."""
    with hub_to_change(hub_url()) as engine:
        administration.unignore(engine, outlet, origin)
    console.print(f"{outlet} takes from {origin} again, from now on.", markup=False)


@app.command()
def adopt(
    name: Name,
    keys_from: Annotated[
        int | None, typer.Option(min=1, help="Let generated keys go on from this number: this outlet's own range.")
    ] = None,
) -> None:
    """Make SUBAK_DATABASE_URL, a copy of another outlet's database, the database of outlet NAME.

    Before anything writes to the copy. Afterwards start its services with SUBAK_OUTLET=NAME; the hub sends what came since.
    """
    settings = outlet_settings()
    with _at_rest() as (engine, dialect):
        adopted = adopting.adopt(engine, dialect, settings.tables, name, secrets.token_hex(EPOCH_BYTES), now())
        for refusal in adopted.triggers.refusals:
            console.print(f"refused: {refusal.table}: {refusal.what} {refusal.todo}", style="yellow", markup=False)
        if keys_from is not None:
            _set_keys(engine, dialect, settings.tables, keys_from)
    if adopted.waiting:
        console.print(
            f"{counted(adopted.waiting, 'change')} {adopted.source} has yet to send; it does so itself.", markup=False
        )
    console.print(f"This database, a copy of {adopted.source}'s, is {name}'s now.", markup=False)
    console.print(
        f"Let it in with `subak outlet add {name}` at the hub, and start its services with SUBAK_OUTLET={name}.",
        markup=False,
    )


def _set_keys(engine: Engine, dialect: Dialect, patterns: tuple[str, ...], first: int) -> None:
    with engine.connect() as connection:
        tables = dialect.catalogue(connection, patterns).tables
        connection.rollback()
        for table in tables:
            if not any(column.generated for column in table.columns):
                continue
            given = dialect.keys_from(connection, table, first)
            connection.commit()
            if given is None:
                told = f"{table.name}: its next key is the greatest there is plus one, whatever is asked for: declare it AUTOINCREMENT."
            elif given != first:
                told = f"{table.name}: keys go on from {given}, since greater ones than {first} are here."
            else:
                continue
            console.print(told, style="yellow", markup=False)


@app.command()
def restamp() -> None:
    """Take back the stamps that a clock ahead has given to changes at SUBAK_DATABASE_URL which nobody else has seen yet.

    After that clock has been set right: the database's clock counts.
    """
    settings = outlet_settings()
    with _at_rest() as (engine, dialect):
        with engine.connect() as connection:
            require_prepared(connection, settings.database_url)
        done = restamping.restamp(engine, dialect, int(settings.clock_limit * 1e6))
    console.print(f"{counted(done.changes, 'change')} stamped anew.")
    if done.left:
        console.print(
            f"{counted(done.left, 'change')} ahead still: a change of the same row that is out already has such a stamp.",
            style="yellow",
        )


@contextmanager
def _at_rest() -> Iterator[tuple[Engine, Dialect]]:
    """An outlet's database on which no service of Subak's runs, or begins to. Raises PermanentError `running`."""
    settings = outlet_settings()
    with opened(settings.database_url, Purpose.WRITE) as (engine, dialect), ExitStack() as ends:
        for role in ROLES:
            lease = dialect.lease(settings.database_url, role)
            if lease is None:
                raise PermanentError(
                    "running", f"This outlet's {role} is running.", "Stop its capture and its applier first."
                )
            ends.callback(lease.release)
            ends.callback(_kept(lease))
        yield engine, dialect


def _kept(lease: Lease) -> Callable[[], None]:
    """Has the lease looked after in a thread, since a server takes back that of a session that says nothing; ends that."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(KEEP_SECONDS):
            lease.holds()

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()

    def end() -> None:
        over.set()
        thread.join()

    return end
