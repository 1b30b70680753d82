"""The README's section "With Docker", typed as it stands there by somebody who has just got the project: from nothing, to the end.

Each command of the section is in `TYPED`, with what it must print; one that is not there fails the test, and so does one too many.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.stack.compose import HEALTHY_SECONDS, Stack
from tests.stack.network import REPOSITORY, wait_for
from tests.system.test_readme import README

START = "COMPOSE_PROFILES=surabaya,makassar docker compose up -d --wait"
UPGRADE = "docker compose up -d --wait --build"
SHOP = "docker compose --profile shop up -d --wait"
OBSERVE = "docker compose --profile observability up -d --wait"
GRAFANAS_PASSWORD = "docker compose exec grafana cat /admin/grafana"
BEGIN_ANEW = "docker compose rm --stop --force hub-db"
REMOVE_VOLUME = "docker volume rm subak_hub-db-data"
RESTART_HUB = "docker compose restart hub"
FOLDER = "docker compose run --rm -T cli outlet add kuta --engine mysql --hub hub.example.com:7707 --write - | tar -x"
DOWN = "docker compose --profile '*' down"
CLIENT = "docker compose exec surabaya-db sh -c 'MYSQL_PWD=\"$(cat /admin/shop)\" mysql -ushop shop'"
PORT = "docker compose port surabaya-db 3306"
REMOVE = "docker compose run --rm cli outlet remove NAME"

TYPED = {
    BEGIN_ANEW: "",
    REMOVE_VOLUME: "_hub-db-data",
    START: "",
    UPGRADE: "",
    RESTART_HUB: "",
    "docker compose run --rm cli status": "surabaya",
    "docker compose --profile test run --rm --build test": " passed",
    "docker compose run --rm cli outlet add kuta --engine mysql": "--write FOLDER",
    "docker compose run --rm cli pki list": "makassar",
    FOLDER: "",
    SHOP: "",
    OBSERVE: "",
    "docker compose restart prometheus": "",
    GRAFANAS_PASSWORD: "",
    "docker compose exec surabaya-capture subak status": "surabaya",
    CLIENT: "customers",
    PORT: "127.0.0.1:",
    REMOVE: "removed",
    DOWN: "",
}
"""In the order in which they are typed here: what each must print."""

THEN = {CLIENT: "SHOW TABLES;\nexit\n"}
"""What is typed then, at a terminal, to those that ask for more."""

PARTS = ("docker-compose.yml", "README.md", "LICENSE", "pyproject.toml", "deploy", "services", "sql", "tests")
LIMIT = 60.0

Note = Callable[[str], None]


def commands() -> list[str]:
    """Those of the section, in its blocks and in its sentences, without their remarks."""
    section = re.split(r"^## With Docker$", README, maxsplit=1, flags=re.MULTILINE)[1]
    section = re.split(r"^## ", section, maxsplit=1, flags=re.MULTILINE)[0]
    block = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    typed = [re.split(r"\s{2,}#", line)[0].strip() for lines in block.findall(section) for line in lines.splitlines()]
    return [*filter(None, typed), *re.findall(r"`(docker [^`]+)`", block.sub("", section))]


def test_every_command_of_the_section_is_typed_here() -> None:
    found = commands()
    assert sorted(found) == sorted(TYPED), {*found} ^ {*TYPED}


class Newcomer:
    """Has the project in a folder, as `git clone` gives it, and types there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in PARTS:
            source = REPOSITORY / part
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, folder / part)
        self.stack = Stack([])
        for name in ("COMPOSE_FILE", "COMPOSE_PROFILES"):
            del self.stack.environment[name]

    def types(self, line: str, limit: float = 300.0, then: str | None = None) -> str:
        shell = ("bash", "-o", "pipefail", "-c", f"cd {self.folder}\n{line}")
        if then is None:
            return self.stack.run(*shell, limit=limit)
        return self.stack.run(
            "script", "--quiet", "--return", "--command", shlex.join(shell), "/dev/null", limit=limit, given=then
        )

    def kills_the_hubs_database_while_it_makes_its_folder(self) -> None:
        self.types("docker compose up -d hub-db", limit=HEALTHY_SECONDS)
        self.types("docker compose kill hub-db")

    def has_rules(self, table: str) -> None:
        (self.folder / "policy.toml").write_text(f'[tables.{table}]\nrule = "column"\n')

    def rules_given_out(self) -> int:
        return self.types("docker compose logs hub").count("conflict rules are given out")

    def is_selling(self) -> bool:
        """Two tills at each of two outlets."""
        return self.types("docker compose logs shop").count('"selling"') >= 4


@pytest.fixture
def newcomer(stack: Stack, tmp_path: Path) -> Iterator[Newcomer]:
    """After the stack itself, so that the images are made; it is stopped meanwhile, a small machine has not room for two."""
    folder = tmp_path / "subak"
    folder.mkdir()
    newcomer = Newcomer(folder)
    with ExitStack() as last:  # each, though another fail
        last.callback(stack.wait_healthy)
        last.callback(stack.compose, "start")
        stack.compose("stop")
        last.callback(newcomer.types, "docker compose --profile '*' down --volumes --remove-orphans --timeout 5")
        yield newcomer


def is_local(stack: Stack, image: str) -> bool:
    return bool(stack.docker("image", "ls", "--quiet", image))


def test_a_newcomer_types_it_from_top_to_bottom(newcomer: Newcomer, note: Note) -> None:
    stack = newcomer.stack
    newcomer.kills_the_hubs_database_while_it_makes_its_folder()
    grafana = is_local(stack, stack.configuration("--profile", "observability")["services"]["grafana"]["image"])
    if not grafana:
        note("Grafana: NOT EXERCISED, its image is not local; of its profile only Prometheus was started")
    for command, answer in TYPED.items():
        line = command
        if not grafana:
            line = {OBSERVE: f"{OBSERVE} prometheus", GRAFANAS_PASSWORD: "true"}.get(command, command)
        if command == PORT:
            files = "-f docker-compose.yml -f deploy/ports.yml"
            newcomer.types(f"{START.replace('compose', f'compose {files}')} surabaya-db")
            line = command.replace("compose", f"compose {files}")
        if command == REMOVE_VOLUME:
            line = command.replace("subak_", f"{stack.project}_")
        if command == START:
            newcomer.types("docker compose up -d --wait", limit=HEALTHY_SECONDS)
            assert newcomer.types("docker compose ps hub --format '{{.Health}}'").strip() == "healthy"
            greeting = newcomer.types("docker compose logs hub-outlets")
            assert START in greeting and "outlet add NAME --engine mysql" in greeting
        if command == UPGRADE:
            (newcomer.folder / ".env").write_text(
                "COMPOSE_PROFILES=surabaya,makassar\nSUBAK_POLICY_FILE=./policy.toml\nSUBAK_KEEP_DAYS=3\n"
            )
            newcomer.has_rules("customers")
        if command == RESTART_HUB:
            assert newcomer.types("docker compose exec -T hub printenv SUBAK_KEEP_DAYS").strip() == "3"
            given_out = newcomer.rules_given_out()
            assert given_out
            newcomer.has_rules("products")
        printed = newcomer.types(line.replace("NAME", "denpasar"), then=THEN.get(command))
        assert answer in printed, f"{line}\n{printed}"
        if command == RESTART_HUB:
            wait_for("new rules", lambda before=given_out: newcomer.rules_given_out() > before, LIMIT, pause=0.5)  # type: ignore[misc]
        if command == SHOP:
            wait_for("tills to sell", newcomer.is_selling, LIMIT, pause=0.5)
        if command == FOLDER:
            assert {"compose.yml", "outlet.env", "database-url", "grants.sql", "README.md", "tls"} == {
                path.name for path in (newcomer.folder / "kuta").iterdir()
            }
            newcomer.types("docker compose --project-directory kuta -f kuta/compose.yml config --quiet")
    assert newcomer.types("docker compose ps --all --quiet") == ""


def test_a_new_outlet_joins_by_what_the_command_prints(newcomer: Newcomer, note: Note) -> None:
    """In a container of its own, as `--compose` prints it; begun before anybody has changed a row."""
    newcomer.types("docker compose up -d --wait", limit=HEALTHY_SECONDS)
    newcomer.types("docker compose run --rm -T cli outlet add lovina --engine mysql --compose > lovina.yml")
    settings = ("COMPOSE_FILE=docker-compose.yml:lovina.yml", "COMPOSE_PROFILES=surabaya,makassar,lovina")
    head = (newcomer.folder / "lovina.yml").read_text()
    assert all(f"#   {line}\n" in head for line in (*settings, "docker compose up -d --wait"))
    (newcomer.folder / ".env").write_text("\n".join(settings).replace("makassar,", ""))  # one is enough to see it
    newcomer.types("docker compose up -d --wait", limit=2 * HEALTHY_SECONDS)
    rows = {"surabaya": 920_000_001, "lovina": 920_000_002}
    for outlet, number in rows.items():
        insert = f"INSERT INTO customers (id, name, points) VALUES ({number}, 'Gede', 0)"
        shell = f'MYSQL_PWD="$(cat /admin/shop)" mysql -ushop shop -e "{insert}"'
        quoted = shell.replace("'", "'\\''")
        newcomer.types(f"docker compose exec -T {outlet}-db sh -c '{quoted}'")
    for outlet in rows:
        shell = 'MYSQL_PWD="$(cat /admin/shop)" mysql -ushop shop -N -e "SELECT COUNT(*) FROM customers WHERE id > 920000000"'
        count = f"docker compose exec -T {outlet}-db sh -c '{shell}'"
        wait_for(f"both rows to be at {outlet}", lambda count=count: int(newcomer.types(count)) == 2, LIMIT, pause=0.3)  # type: ignore[misc]
    status = newcomer.types("docker compose run --rm -T cli status")
    assert "lovina" in status
    note("a new outlet joined by `outlet add lovina --engine mysql --compose`")
