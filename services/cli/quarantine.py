"""`subak quarantine`: what an outlet could not apply."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal, cast

import typer
from rich.text import Text
from sqlalchemy import Connection, Row, select

from services.applier.applying import Applier
from services.applier.clashes import Clash
from services.applier.quarantine import UNREADABLE, body, differing
from services.applier.resolving import Choice
from services.cli.console import console, grid, instant, moment, print_json
from services.cli.databases import connected, opened, outlet_name, outlet_settings, require_prepared
from services.cli.querylog.statement import statements
from services.kernel.catalogue import folded
from services.kernel.change import decode_body
from services.kernel.dialects import Purpose
from services.kernel.errors import PermanentError, TransientError
from services.kernel.schema import QUARANTINE, QUARANTINE_ROW

app = typer.Typer(
    help="Transactions that this outlet cannot apply (SUBAK_DATABASE_URL): why, and what to do.", no_args_is_help=True
)

Identifier = Annotated[
    int, typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="As `subak quarantine list` shows it.")
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]

CLASHES = {"unique": "--keep local, --keep incoming or --set COLUMN=VALUE", "generated_key": "--new-key KEY"}
"""What ends it, by the code of a quarantine where another row stands in the way."""

ATTEMPTS = 100
"""At rows that the application holds just now; then the command says so."""

ATTEMPT_SECONDS = 0.05

ROWS_SHOWN = 3
"""Rows of a transaction that `list` names."""


@app.command(name="list")
def list_command(
    as_json: Json = False, every: Annotated[bool, typer.Option("--all", help="Also what is decided.")] = False
) -> None:
    """What waits in quarantine: since when, from whom, why."""
    url = outlet_settings().database_url
    with connected(url) as (connection, _):
        require_prepared(connection, url)
        query = select(QUARANTINE).order_by(QUARANTINE.c.Id)
        held = connection.execute(query if every else query.where(QUARANTINE.c.State == "waiting")).all()
        documents = [_document(connection, row) for row in held]
    if as_json:
        print_json(documents)
        return
    rows = [
        [
            str(it["id"]),
            moment(row.QuarantinedAt),
            it["origin"],
            it["state"] + (", different" if it["different"] else ""),
            it["code"],
            ", ".join(it["rows"][:ROWS_SHOWN]) + (" …" if len(it["rows"]) > ROWS_SHOWN else ""),
            it["reason"],
        ]
        for it, row in zip(documents, held, strict=True)
    ]
    console.print(
        grid(["id", "since", "origin", "state", "code", "rows", "reason"], rows) if rows else "Nothing waits."
    )


@app.command()
def show(identifier: Identifier) -> None:
    """One quarantined transaction: its reason, and the statements it consists of."""
    settings = outlet_settings()
    with connected(settings.database_url) as (connection, dialect):
        require_prepared(connection, settings.database_url)
        row = _one(connection, identifier)
        document = _document(connection, row)
        catalogue = dialect.catalogue(connection, settings.tables)
        sql = []
        if row.Code != UNREADABLE:
            transaction = decode_body(body(connection, row.Sequence))[row.Position]
            sql = [text for _, text in statements(transaction, catalogue, dialect)]
    facts = ["id", "origin", "state", "code", "reason", "attempts", "quarantined_at"]
    console.print(grid(["", ""], [[name, str(document[name])] for name in facts]))
    for text in sql:
        console.print(Text(text), soft_wrap=True)
    if row.State == "waiting" and row.Code in CLASHES:
        with _applier() as applier:
            _show_clashes(applier.clashes(identifier), row.Code)


def _show_clashes(clashes: list[Clash], code: str) -> None:
    """Both rows, and what the operator may say."""
    for clash in clashes:
        table, incoming = clash.incoming.table, clash.incoming
        console.print(Text(f"\n{table.name}: one {', '.join(clash.columns)} for two rows"), style="bold")
        columns = [folded(column.name) for column in table.columns]
        images = {"here": clash.holder_image, f"of {incoming.change.stamp.origin}": incoming.image or {}}
        rows = [[who, *(str(image.get(name, "")) for name in columns)] for who, image in images.items()]
        console.print(grid(["", *(column.name for column in table.columns)], rows))
    if clashes:
        console.print(f"`subak quarantine resolve ID` with {CLASHES[code]} ends this at every outlet.")


@app.command()
def retry(
    identifier: Annotated[
        int | None, typer.Argument(metavar="[ID]", min=1, max=2**63 - 1, help="One; all that wait when not given.")
    ] = None,
) -> None:
    """Try again, now that the cause is removed. Exit code 1: something still waits."""
    with _applier() as applier:
        chosen = [entry.id for entry in applier.waiting()] if identifier is None else [identifier]
        left = _retry(applier, chosen)
    console.print(f"{len(chosen) - len(left)} executed, {len(left)} still waiting.")
    for number, error in left.items():
        console.print(Text(f"{number}: {error.what} {error.todo}"), style="yellow")
    if left:
        raise typer.Exit(1)


def _retry(applier: Applier, chosen: list[int]) -> dict[int, PermanentError]:
    """Those that still fail. One that is executed may let another go, so all are tried until none is."""
    left: dict[int, PermanentError] = {}
    for number in chosen:
        try:
            _insist(partial(applier.retry, number))
        except PermanentError as error:
            left[number] = error
    return _retry(applier, list(left)) if 0 < len(left) < len(chosen) else left


@app.command()
def resolve(
    identifier: Identifier,
    keep: Annotated[
        str | None,
        typer.Option(help="Of two rows with one unique value: `local` or `incoming`; the other is deleted everywhere."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="COLUMN=VALUE", help="Give the incoming row another value, everywhere."),
    ] = None,
    new_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--new-key",
            metavar="KEY",
            help="Of two rows under one generated key: the incoming one's new key, everywhere. Where several rows clash: TABLE:OLD=NEW for each.",
        ),
    ] = None,
) -> None:
    """End a clash of two rows at every outlet, by one decision here: which row stays, or what the incoming one is to be."""
    choice = Choice(_side(keep), dict(_assigned(text) for text in assignments or ()), new_keys or ())
    with _applier() as applier:
        _insist(partial(applier.resolve, identifier, choice))
    console.print(f"{identifier} is resolved; the other outlets follow as soon as they hear of it.")


def _side(keep: str | None) -> Literal["local", "incoming"] | None:
    if keep not in (None, "local", "incoming"):
        raise typer.BadParameter("say local or incoming", param_hint="--keep")
    return cast(Literal["local", "incoming"] | None, keep)


def _assigned(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text} is not COLUMN=VALUE", param_hint="--set")
    return column, value


@app.command()
def discard(identifier: Identifier) -> None:
    """Give it up: this outlet stays without it, and differs from the others in its rows until they change again."""
    with _applier() as applier:
        _insist(lambda _: applier.discard(identifier))
    console.print(f"{identifier} is discarded.")


def _insist(attempt: Callable[[int], object]) -> None:
    """Again and again where the application, or the applier itself, is at the same rows just now."""
    for count in range(1, ATTEMPTS):
        try:
            attempt(count)
            return
        except TransientError:
            time.sleep(ATTEMPT_SECONDS)
    attempt(ATTEMPTS)


@contextmanager
def _applier() -> Iterator[Applier]:
    settings = outlet_settings()
    with opened(settings.database_url, Purpose.APPLY) as (engine, dialect):
        with engine.connect() as connection:
            require_prepared(connection, settings.database_url)
        outlet = outlet_name(engine, settings)
        applier = Applier(engine, dialect, outlet, settings.tables, lambda: time.time_ns() // 1000)
        applier.refresh()
        yield applier


def _one(connection: Connection, identifier: int) -> Row[Any]:
    row = connection.execute(select(QUARANTINE).where(QUARANTINE.c.Id == identifier)).one_or_none()
    if row is None:
        raise PermanentError(
            "no_quarantine",
            f"There is no {identifier} in quarantine.",
            "`subak quarantine list` shows those there are.",
        )
    return row


def _document(connection: Connection, row: Row[Any]) -> dict[str, Any]:
    rows = connection.execute(
        select(QUARANTINE_ROW).where(QUARANTINE_ROW.c.QuarantineId == row.Id).order_by(QUARANTINE_ROW.c.Position)
    )
    return {
        "id": row.Id,
        "origin": row.Origin,
        "state": row.State,
        "code": row.Code,
        "reason": row.Reason,
        "attempts": row.Attempts,
        "quarantined_at": instant(row.QuarantinedAt),
        "rows": [f"{it.TableName} {it.RowKey}" for it in rows],
        "different": [
            f"{it.TableName} {it.RowKey}"
            for it in connection.execute(differing().where(QUARANTINE_ROW.c.QuarantineId == row.Id))
        ],
    }
