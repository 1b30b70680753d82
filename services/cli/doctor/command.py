"""The command: examines an outlet's database, prints what was found, and says by its exit code whether to act."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy import Connection
from sqlalchemy.engine import URL

from services.cli.console import console, counted, print_json
from services.cli.databases import connected, outlet_settings, shown
from services.cli.doctor import mysql, sqlite
from services.cli.doctor.checks import policy, refused, strangers
from services.cli.doctor.finding import Finding, Urgency
from services.kernel.catalogue import Catalogue
from services.kernel.dialects import Dialect, Purpose

_ORDER = list(Urgency)
_STYLES = {Urgency.MUST: "bold red", Urgency.CHECK: "yellow", Urgency.NOTE: "dim"}


def command(as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False) -> None:
    """Examine an outlet's database (SUBAK_DATABASE_URL): what stands in the way of synchronising it, and what to do.

    Nothing of the application is changed. Exit code 1: something must be done. 2: the database cannot be opened.
    """
    settings = outlet_settings()
    server, tables, findings = examine(settings.database_url, settings.tables)
    if as_json:
        print_json(
            {
                "database": shown(settings.database_url),
                "server": server,
                "tables": tables,
                "findings": [
                    {"urgency": it.urgency, "code": it.code, "subject": it.subject, "what": it.what, "todo": it.todo}
                    for it in findings
                ],
            }
        )
    else:
        console.print(Text(f"{shown(settings.database_url)}: {server}"))
        console.print(Text(f"can be synchronised: {', '.join(tables) or 'no table'}"))
        _render(findings)
    if any(finding.urgency is Urgency.MUST for finding in findings):
        raise typer.Exit(1)


def examine(url: URL, patterns: Sequence[str]) -> tuple[str, list[str], list[Finding]]:
    """(server, tables that can be synchronised, findings by urgency). Raises SubakError when it cannot connect."""
    with connected(url, Purpose.WRITE) as (connection, dialect):
        catalogue = dialect.catalogue(connection, patterns)
        server = dialect.server(connection)
        connection.rollback()
        findings = [
            *refused(catalogue),
            *strangers(catalogue),
            *policy(connection, catalogue),
            *_examine(dialect.name)(connection, dialect, catalogue),
        ]
    findings.sort(key=lambda finding: _ORDER.index(finding.urgency))
    return server, [table.name for table in catalogue.tables], findings


def _examine(engine: str) -> Callable[[Connection, Dialect, Catalogue], Iterable[Finding]]:
    if engine == "mssql":
        from services.cli.doctor import mssql  # its driver is not everywhere

        return mssql.examine
    return {"mysql": mysql.examine, "sqlite": sqlite.examine}[engine]


def _render(findings: Sequence[Finding]) -> None:
    for finding in findings:
        style = _STYLES[finding.urgency]
        console.print(Text.assemble((f"{finding.urgency:<6}", style), (finding.subject, "bold"), f": {finding.what}"))
        if finding.todo:
            console.print(Text(f"      → {finding.todo}"))
    must = sum(finding.urgency is Urgency.MUST for finding in findings)
    if must:
        console.print(f"{counted(must, 'thing')} must be done.", style="bold red")
    else:
        console.print("Nothing must be done.", style="bold green")
