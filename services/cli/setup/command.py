"""The commands: what is made before the hub starts, before an outlet's database starts, and in that database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import inspect
from sqlalchemy.engine import URL

from services.cli import pki
from services.cli.console import console
from services.cli.databases import hub_to_change, hub_url, opened, plainly
from services.cli.demo.company import Application, found
from services.cli.setup.engines import DATABASE, FACTS, SUBAK, Product, address, grants, sample, statements
from services.cli.setup.secret_files import password, put
from services.hub import administration
from services.kernel.authority import AUTHORITY_DAYS, LEAF_DAYS
from services.kernel.errors import PermanentError
from services.kernel.schema import is_prepared
from services.kernel.wire.session import Side

app = typer.Typer(
    help="What the containers of docker-compose.yml do before the services start: certificates, passwords, the sample shop's "
    "tables. Safe to do again.",
    no_args_is_help=True,
)

AUTHORITY = "Subak"
HUB_DATABASE = "subak_hub"

SHOPS = ("denpasar", "jakarta", "surabaya", "makassar")
"""The sample's outlets, in every outlet's stock: each begins with the same rows."""

Name = Annotated[str, typer.Argument(metavar="NAME")]
Engine = Annotated[Product, typer.Option("--engine", help="Of the outlet's database.")]
Host = Annotated[str, typer.Option("--database-host", help="The name that its database is reached by.")]
Tls = Annotated[Path, typer.Option("--tls", help="The folder that the certificate goes to.")]
Secrets = Annotated[Path, typer.Option("--secrets", help="The folder of what the services must know.")]
Admin = Annotated[Path, typer.Option("--admin", help="The folder of the database's own passwords.")]


@app.command()
def hub(
    host: Annotated[list[str] | None, typer.Option(help="A name or address that outlets dial the hub by.")] = None,
    tls: Tls = Path("/tls"),
    secrets: Secrets = Path("/secrets"),
    admin: Admin = Path("/admin"),
) -> None:
    """Make the authority, the hub's certificate, and the passwords of its database."""
    authority = pki.authority_at(None)
    authority.init(AUTHORITY, timedelta(days=AUTHORITY_DAYS))
    authority.issue(str(Side.HUB), Side.HUB, tls, [one for one in host or () if one], timedelta(days=LEAF_DAYS))
    password(admin / "root")
    own = password(secrets / "password")
    url = URL.create("mysql+pymysql", SUBAK, own, "hub-db", 3306, HUB_DATABASE)
    put(secrets / "url", url.render_as_string(hide_password=False))
    console.print("The hub has its certificate, and its database a password.")


@app.command()
def outlet(
    name: Name,
    engine: Engine,
    database_host: Host,
    tls: Tls = Path("/tls"),
    secrets: Secrets = Path("/secrets"),
    admin: Admin = Path("/admin"),
    shop: Annotated[Path, typer.Option(help="The folder in which the sample's tills look for databases.")] = Path(
        "/shop"
    ),
    accept_eula: Annotated[
        str, typer.Option(envvar="ACCEPT_EULA", help="With mssql: Y accepts Microsoft's licences.")
    ] = "",
) -> None:
    """Make the outlet's certificate, and the passwords of its database. The database may start afterwards."""
    if engine is Product.MSSQL and accept_eula != "Y":
        raise PermanentError(
            "eula",
            f"{name} is on SQL Server, whose image starts only for who accepts Microsoft's licences.",
            "Set ACCEPT_EULA=Y, and have the images made with it: docker compose up -d --wait --build.",
        )
    pki.authority_at(None).issue(name, Side.OUTLET, tls, (), timedelta(days=LEAF_DAYS))
    password(admin / FACTS[engine].administrator)
    for user, folder, file in ((SUBAK, secrets, "url"), (DATABASE, shop, name)):
        url = address(engine, user, password(admin / user), database_host, DATABASE)
        put(folder / file, url.render_as_string(hide_password=False))
    console.print(f"{name} has its certificate, and its database passwords.", markup=False)


@app.command()
def database(name: Name, engine: Engine, database_host: Host, admin: Admin = Path("/admin")) -> None:
    """Make Subak's user in the outlet's database; and the sample shop's tables and rows, if nothing of Subak's is there yet."""
    root = FACTS[engine].administrator
    server = address(engine, root, password(admin / root), database_host, "master" if engine is Product.MSSQL else None)
    with plainly(server), closing(Application(server)) as application:
        application.script(statements(sample(engine, password(admin / DATABASE))))
        application.script(statements(grants(engine, DATABASE, password(admin / SUBAK))))
    url = address(engine, DATABASE, password(admin / DATABASE), database_host, DATABASE)
    with plainly(url), opened(url) as (engine_of_shop, _), engine_of_shop.connect() as connection:
        begun, tables = is_prepared(connection), inspect(connection).get_table_names()
    if not begun:
        found(url, SHOPS, tables)
    console.print(f"{name}'s database is ready.", markup=False)


@app.command(name="password")
def password_command(file: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Put a random password into the file, if there is none yet."""
    password(file)
    console.print(f"There is a password in {file}.", markup=False)


@app.command()
def outlets(names: Annotated[list[str], typer.Argument(metavar="NAME...")]) -> None:
    """Let the outlets in at the hub, so that each may start when it likes and gets what it missed; then say what comes next."""
    with hub_to_change(hub_url()) as engine:
        new = administration.introduce(engine, names)
    _greet(names, new)


def _greet(names: Sequence[str], new: Sequence[str]) -> None:
    if new:
        console.print(f"The hub knows {', '.join(new)} now; what is changed elsewhere waits for them.", markup=False)
    console.print(
        f"The hub is about to start. Switch outlets on by their profiles, {' '.join(names)}, for example:\n"
        "    COMPOSE_PROFILES=surabaya,makassar docker compose up -d --wait\n"
        "See them:\n"
        "    docker compose run --rm cli status\n"
        "An outlet of your own, here or far away:\n"
        "    docker compose run --rm cli outlet add NAME --engine mysql",
        markup=False,
    )
