"""`subak outlet`: the outlets that the hub knows."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.console import console, grid, instant, moment, print_json
from services.cli.databases import hub_to_change, hub_to_read, hub_url
from services.hub import administration

app = typer.Typer(help="The outlets that the hub knows (SUBAK_HUB_DATABASE_URL).", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]
Outlet = Annotated[str, typer.Argument(metavar="OUTLET")]
Origin = Annotated[str, typer.Argument(metavar="ORIGIN")]


@app.command()
def add(
    name: Name,
    company: Annotated[str, typer.Option(help="For people.")] = "",
    place: Annotated[str, typer.Option(help="For people.")] = "",
) -> None:
    """Let an outlet in: from now on it is owed what the others change. Its rows must be the same as theirs."""
    with hub_to_change(hub_url()) as engine:
        administration.add(engine, name, company, place)
    console.print(f"{name} is added. Start its services with SUBAK_OUTLET={name}.", markup=False)


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
