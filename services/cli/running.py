"""`subak hub`, `subak capture`, `subak applier`: the services themselves, and broadcasting on and off."""

from __future__ import annotations

import typer

from services.cli.console import console
from services.cli.databases import hub_to_change, hub_url
from services.hub import administration

hub = typer.Typer(help="Run the hub; or stop and start its broadcasting.", invoke_without_command=True)


@hub.callback()
def run_hub(context: typer.Context) -> None:
    """Run the hub; or stop and start its broadcasting (pause, resume)."""
    if context.invoked_subcommand is None:
        from services.hub.__main__ import main

        raise typer.Exit(main())


@hub.command()
def pause() -> None:
    """Stop broadcasting: the hub takes what outlets send, and delivers nothing until it is resumed."""
    with hub_to_change(hub_url()) as engine:
        administration.pause(engine)
    console.print("Broadcasting is paused. What outlets send is stored; `subak hub resume` delivers it.")


@hub.command()
def resume() -> None:
    """Start broadcasting again."""
    with hub_to_change(hub_url()) as engine:
        administration.resume(engine)
    console.print("Broadcasting is resumed.")


def capture() -> None:
    """Run an outlet's capture: installs the triggers, sends what they catch to the hub."""
    from services.capture.__main__ import main

    raise typer.Exit(main())


def applier() -> None:
    """Run an outlet's applier: executes here what other outlets changed."""
    from services.applier.__main__ import main

    raise typer.Exit(main())
