"""`subak triggers`: Subak's triggers in an outlet's database."""

from __future__ import annotations

import typer

from services.capture.triggers import Report
from services.capture.triggers import check as check_triggers
from services.capture.triggers import install as install_triggers
from services.capture.triggers import remove as remove_triggers
from services.cli.console import console, grid
from services.cli.databases import opened, outlet_name, outlet_settings, require_prepared
from services.kernel.dialects import Purpose

app = typer.Typer(help="Subak's triggers in an outlet's database (SUBAK_DATABASE_URL).", no_args_is_help=True)

REFUSED, STALE = 1, 1
"""Exit codes."""


@app.command()
def install() -> None:
    """Create Subak's tables and triggers where missing, rebuild those of tables that changed.

    SUBAK_OUTLET names the outlet. Exit code 1: some tables were refused.
    """
    settings = outlet_settings()
    with opened(settings.database_url, Purpose.WRITE) as (engine, dialect):
        report = install_triggers(engine, dialect, settings.tables, outlet_name(engine, settings))
    _render(report, ("installed", "rebuilt", "removed", "as they should be"))
    if report.refusals:
        raise typer.Exit(REFUSED)


@app.command()
def check() -> None:
    """Say what `install` would do, and change nothing. Exit code 1: there is something to do."""
    settings = outlet_settings()
    with opened(settings.database_url, Purpose.WRITE) as (engine, dialect):
        with engine.connect() as connection:
            require_prepared(connection, settings.database_url)
        report = check_triggers(engine, dialect, settings.tables, outlet_name(engine, settings))
    _render(report, ("missing", "out of date", "needless", "as they should be"))
    if report.changed or report.refusals:
        raise typer.Exit(STALE)


@app.command()
def remove() -> None:
    """Drop every trigger of Subak's. Its tables, and the changes that wait in them, stay."""
    settings = outlet_settings()
    with opened(settings.database_url, Purpose.WRITE) as (engine, dialect):
        report = remove_triggers(engine, dialect)
    _render(report, ("installed", "rebuilt", "removed", "as they should be"))


def _render(report: Report, words: tuple[str, str, str, str]) -> None:
    groups = (report.installed, report.rebuilt, report.removed, report.unchanged)
    rows = [[word, str(len(names)), ", ".join(names)] for word, names in zip(words, groups, strict=True) if names]
    console.print(grid(["triggers", "", ""], rows) if rows else "There are no triggers of Subak's here.")
    for refusal in report.refusals:
        subject = refusal.table if refusal.column is None else f"{refusal.table}.{refusal.column}"
        console.print(f"refused: {subject}: {refusal.what} {refusal.todo}", style="yellow", markup=False)
