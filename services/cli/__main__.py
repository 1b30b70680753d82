"""The command `subak`: every subcommand in one place."""

from __future__ import annotations

import sys

import typer

from services.cli import conflicts, outlets, pki, quarantine, running, shop, status, triggers
from services.cli.about import command as about
from services.cli.compare.command import command as compare
from services.cli.console import explain
from services.cli.demo.command import command as demo
from services.cli.doctor.command import command as doctor
from services.cli.querylog.command import command as log
from services.cli.setup import command as setup
from services.kernel.errors import PermanentError, SubakError

FAILED = 2
"""Exit code when a command could not do what it was asked to; the reason stands on standard error."""

FAULT_CHARACTERS = 300

app = typer.Typer(
    help="Keeps the databases of many outlets the same: every outlet may write, every outlet ends up with the same rows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command(name="demo")(demo)
app.add_typer(running.hub, name="hub")
app.command(name="capture")(running.capture)
app.command(name="applier")(running.applier)
app.add_typer(outlets.app, name="outlet")
app.add_typer(pki.app, name="pki")
app.command(name="doctor")(doctor)
app.add_typer(triggers.app, name="triggers")
app.command(name="status")(status.command)
app.command(name="log")(log)
app.command(name="conflicts")(conflicts.command)
app.add_typer(quarantine.app, name="quarantine")
app.command(name="compare")(compare)
app.add_typer(setup.app, name="setup")
app.command(name="shop")(shop.command)
app.command(name="about")(about)


def main() -> int:
    """Never returns normally for a command that ran: typer exits with its code."""
    try:
        app()
    except SubakError as error:
        explain(error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        said = f"{type(error).__name__}: {str(error)[:FAULT_CHARACTERS]}"
        explain(
            PermanentError(
                "fault",
                f"This command failed in a way that nobody thought of: {said}",
                "Check its arguments and settings; else report it.",
            )
        )
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
