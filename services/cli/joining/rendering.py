"""The files for a new outlet, rendered from those that this program carries."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from services.cli.setup.engines import FACTS, SUBAK, Product, address, grants
from services.cli.setup.secret_files import new_password
from services.kernel.errors import PermanentError

HERE = Path(__file__).parent
OUTLET = Path(__file__).resolve().parents[3] / "deploy" / "outlet"
"""The folder that a remote site gets."""

STEP = 100
"""Generated keys on MySQL and MariaDB go up by this, each outlet at an offset of its own: as many outlets as fit."""

OURS = frozenset(
    [
        "hub",
        "grafana",
        "prometheus",
        "hub-db",
        "wan",
        "watching",
        "observability",
        "shop",
        "test",
        "cli",
        "denpasar",
        "jakarta",
        "surabaya",
        "makassar",
    ]
)
"""What docker-compose.yml has already by these names, or beginning with them: services, networks, profiles."""

HOST = "host.docker.internal"
"""The machine that the site's containers run on, where its database may be."""

QUOTES = frozenset("`'\"[]{};\\")
"""What would end a name where it stands in SQL between quotes."""

DATA = {
    Product.MYSQL: "/var/lib/mysql",
    Product.MARIADB: "/var/lib/mysql",
    Product.MSSQL: "/var/opt/mssql",
}

_DUMPED = """\
#   docker compose exec {source}-db sh -c 'MYSQL_PWD="$(cat /admin/root)" {dump} --single-transaction --databases shop' |
#       docker compose exec -T {name}-db sh -c 'MYSQL_PWD="$(cat /admin/root)" {client}'
"""
_RESTORED = """\
#   BACKUP DATABASE shop at jakarta-db, RESTORE DATABASE shop ... WITH REPLACE at {name}-db, both as sa (its password: /admin/sa)
"""
COPY: Mapping[Product, Callable[..., str]] = {
    Product.MYSQL: partial(_DUMPED.format, source="surabaya", dump="mysqldump --set-gtid-purged=OFF", client="mysql"),
    Product.MARIADB: partial(_DUMPED.format, source="makassar", dump="mariadb-dump", client="mariadb"),
    Product.MSSQL: _RESTORED.format,
}
"""How one outlet's database is copied to another's, as comment lines."""

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def check_database(name: str) -> None:
    """Raises PermanentError `database_name`."""
    if not name or QUOTES & {*name}:
        raise PermanentError(
            "database_name", f"{name!r} cannot be written into SQL as a database's name.", "Correct --database."
        )


def site(name: str, engine: Product, hub: str, database: str) -> dict[str, str]:
    """What the folder of a remote outlet holds, but for its certificate: by path, the text. A password is made for it.

    Raises PermanentError `database_name`.
    """
    check_database(database)
    password = new_password()
    url = address(engine, SUBAK, password, HOST, database).render_as_string(hide_password=False)
    return {
        "compose.yml": (OUTLET / "compose.yml").read_text("utf-8"),
        "README.md": (OUTLET / "README.md").read_text("utf-8"),
        "outlet.env": _filled(OUTLET / "outlet.env.example", {"name": name, "hub": hub}),
        "database-url": f"{url}\n",
        "grants.sql": grants(engine, database, password),
    }


def check_name(name: str) -> None:
    """Raises PermanentError `outlet_taken`."""
    if name in OURS:
        raise PermanentError(
            "outlet_taken", f"docker-compose.yml has something by the name of {name}.", "Choose another name."
        )


def check_keys(name: str, engine: Product, number: int) -> None:
    """Raises PermanentError `keys_full`."""
    if engine is not Product.MSSQL and number > STEP:
        raise PermanentError(
            "keys_full",
            f"{name} is outlet number {number}: with {STEP} outlets every generated key is spoken for.",
            "Leave out --auto-increment-* and give each outlet a range of keys of its own, or let the application make its keys.",
        )


def compose(name: str, engine: Product, number: int) -> str:
    """A file for `docker compose -f docker-compose.yml -f`: the outlet with a database of its own. `number`: of its generated keys."""
    keys = f"[--auto-increment-increment={STEP}, --auto-increment-offset={number}]"
    command = "" if engine is Product.MSSQL else f"    command: {keys}\n"
    values = {"name": name, "engine": engine.value, "data": DATA[engine], "command": command}
    values["copy"] = COPY[engine](name=name)
    return _filled(HERE / "services.yml", values)


def words(name: str, engine: Product, hub: str, database: str) -> str:
    """What goes where, for a person."""
    files = site(name, engine, hub, database)
    return f"""
For a site of its own, beside a {FACTS[engine].name} database `{database}` that is there, a folder with all of this in it:

  subak outlet add {name} --engine {engine} --database {database} --hub {hub} --write FOLDER
  docker compose run --rm -T cli outlet add {name} --engine {engine} --database {database} --hub {hub} --write - | tar -x

  README.md, compose.yml         what to do there, and what runs there: deploy/outlet/
  tls/                           its certificate (by itself: subak pki issue {name} --out tls)
  outlet.env:

{_indented(files["outlet.env"])}
  database-url, with a password that is made for it:

{_indented(files["database-url"])}
  grants.sql, which the database's administrator runs once:

{_indented(files["grants.sql"])}
For one more outlet of docker-compose.yml, with a database of its own in a container:

  subak outlet add {name} --engine {engine} --compose > {name}.yml
  docker compose run --rm -T cli outlet add {name} --engine {engine} --compose > {name}.yml
"""


def _filled(file: Path, values: Mapping[str, str]) -> str:
    """Raises KeyError for a placeholder that has no value."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], file.read_text("utf-8"))


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
