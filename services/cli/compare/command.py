"""The command: what `compare` found, for people and as JSON."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from services.cli.compare.comparing import Comparison, RowDifference, TableResult, compare, differing_columns
from services.cli.console import console, counted, grid, print_json
from services.cli.databases import parsed
from services.kernel.catalogue import folded
from services.kernel.errors import PermanentError
from services.kernel.values import Image, Value

IDENTICAL, DIFFERS, CANNOT = 0, 1, 2
"""Exit codes."""

VALUE_CHARACTERS = 60
"""Of a value in the output for people."""


def command(
    urls: Annotated[list[str], typer.Argument(metavar="URL URL...", help="The databases to compare.")],
    tables: Annotated[list[str] | None, typer.Option(help="Only tables that match this glob; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Compare every synchronised table of several databases, row by row.

    Exit code 0: identical. 1: something differs. 2: something could not be compared.
    """
    if len(urls) < 2:
        raise PermanentError("usage", "One database alone is always identical.", "Name two URLs or more.")
    comparison = compare([parsed(url) for url in urls], tuple(tables or ("*",)))
    if as_json:
        print_json(as_document(comparison))
    else:
        render(comparison)
    raise typer.Exit(exit_code(comparison))


def exit_code(comparison: Comparison) -> int:
    if comparison.differs:
        return DIFFERS
    return IDENTICAL if comparison.complete else CANNOT


def render(comparison: Comparison) -> None:
    for database in comparison.databases:
        waiting = f", {counted(database.waiting, 'change')} not yet sent" if database.waiting else ""
        console.print(escape(f"{database.name}: {database.server}, {database.url}{waiting}"))
    render_tables(comparison)


def render_tables(comparison: Comparison) -> None:
    names = [database.name for database in comparison.databases]
    if comparison.tables:
        rows = [[table.name, *_counts(table, len(names)), _finding(table)] for table in comparison.tables]
        console.print(grid(["table", *names, ""], rows, right=names))
    else:
        console.print("There is no table to compare.")
    for table in comparison.tables:
        for difference in table.differences:
            _render_difference(table, difference, names)
        if table.differing > len(table.differences):
            console.print(f"  {escape(table.name)}: {counted(table.differing - len(table.differences), 'row')} more")
    for refused in comparison.refused:
        console.print(escape(f"not synchronised: {refused}"), style="dim")
    console.print(verdict(comparison), style="bold green" if comparison.identical else "bold red")


def verdict(comparison: Comparison) -> str:
    if comparison.identical:
        rows = sum(table.rows[0] for table in comparison.tables)
        return f"identical: {counted(len(comparison.tables), 'table')}, {counted(rows, 'row')} in each database"
    differing = sum(table.differing for table in comparison.tables)
    explained = sum(table.explained for table in comparison.tables)
    parts = []
    if differing:
        parts.append(f"different: {counted(differing, 'row')}, {explained} of them explained by quarantine")
    problems = [table.name for table in comparison.tables if table.problem]
    if problems or not comparison.tables:
        parts.append(f"not compared: {', '.join(problems) or 'anything'}")
    return "; ".join(parts)


def _counts(table: TableResult, databases: int) -> list[str]:
    return [str(rows) for rows in table.rows] or ["-"] * databases


def _finding(table: TableResult) -> str:
    if table.problem:
        return f"not compared: {table.problem.what} {table.problem.todo}"
    return f"{counted(table.differing, 'difference')}" if table.differing else "identical"


def _render_difference(table: TableResult, difference: RowDifference, names: list[str]) -> None:
    why = f"  (quarantined at {', '.join(difference.explained)})" if difference.explained else ""
    why += f"  (discarded at {', '.join(difference.given_up)})" if difference.given_up else ""
    console.print(escape(f"{table.name} {difference.key}{why}"), style="yellow")
    for name, image in zip(names, difference.images, strict=True):
        console.print(escape(f"    {name}: {_row(image, differing_columns(difference))}"))


def _row(image: Image | None, columns: tuple[str, ...]) -> str:
    if image is None:
        return "no such row"
    return ", ".join(f"{column} = {_short(image[folded(column)])}" for column in columns)


def _short(value: Value) -> str:
    if isinstance(value, bytes):
        text = f"{len(value)} bytes {value[:8].hex()}"
    else:
        text = "NULL" if value is None else repr(value)
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"


def as_document(comparison: Comparison) -> dict[str, Any]:
    names = [database.name for database in comparison.databases]
    return {
        "identical": comparison.identical,
        "databases": [
            {"name": it.name, "url": it.url, "server": it.server, "waiting": it.waiting} for it in comparison.databases
        ],
        "tables": [
            {
                "table": table.name,
                "rows": dict(zip(names, table.rows, strict=False)),
                "differing": table.differing,
                "explained": table.explained,
                "problem": table.problem.what if table.problem else None,
                "differences": [
                    {
                        "key": it.key,
                        "columns": list(differing_columns(it)),
                        "quarantined_at": list(it.explained),
                        "discarded_at": list(it.given_up),
                        "rows": [
                            None if image is None else {name: _json_value(value) for name, value in image.items()}
                            for image in it.images
                        ],
                    }
                    for it in table.differences
                ],
            }
            for table in comparison.tables
        ],
        "not_synchronised": list(comparison.refused),
    }


def _json_value(value: Value) -> Any:
    return value.hex() if isinstance(value, bytes) else value
